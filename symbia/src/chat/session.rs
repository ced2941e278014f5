//! Signing in, and the token that is kept for the next time: `~/.symbia/credentials.json`, for its owner only.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{IsTerminal, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::api::checked;
use crate::config::secret_file;

/// Tokens by address of the identity service.
#[derive(Default, Serialize, Deserialize)]
struct Credentials(BTreeMap<String, Kept>);

#[derive(Serialize, Deserialize)]
struct Kept {
    email: String,
    token: Zeroizing<String>,
}

/// A token: of this person, signed in now; else the one that is kept, while it is good; else whoever sits at the terminal
/// is asked.
pub async fn token(
    identity: &str,
    email: Option<&str>,
    password_file: Option<&Path>,
) -> anyhow::Result<Zeroizing<String>> {
    let http = reqwest::Client::new();
    let file = file()?;
    let mut credentials = read(&file);
    if email.is_none()
        && let Some(kept) = credentials.0.get(identity)
    {
        let asked = http.get(format!("{identity}/api/users/me")).bearer_auth(&*kept.token).send().await;
        match asked.with_context(|| format!("the identity service at {identity} does not answer"))?.status() {
            status if status.is_success() => return Ok(kept.token.clone()),
            StatusCode::UNAUTHORIZED => eprintln!("The session of {} has ended; sign in again.", kept.email),
            status => bail!("the identity service at {identity} cannot tell who is signed in ({status})"),
        }
    }
    let terminal = std::io::stdin().is_terminal();
    let email = match email {
        Some(email) => email.to_owned(),
        None if terminal => ask("E-mail: ")?,
        None => bail!("nobody is signed in: give --email and --password-file"),
    };
    let password = match password_file {
        Some(file) => secret_file(file)?,
        None if terminal => Zeroizing::new(rpassword::prompt_password("Password: ")?),
        None => bail!("give --password-file: there is no terminal to ask for the password"),
    };
    let body = json!({ "email": email, "password": *password });
    let answer = http.post(format!("{identity}/api/auth/login")).json(&body).send().await;
    let answer = answer.with_context(|| format!("the identity service at {identity} does not answer"))?;
    let answer: Value = checked(answer).await.context("not signed in")?.json().await?;
    let token = answer["token"].as_str().context("the identity service answered without a token")?;
    let token = Zeroizing::new(token.to_owned());
    credentials.0.insert(identity.to_owned(), Kept { email, token: token.clone() });
    write(&file, &credentials)?;
    Ok(token)
}

fn file() -> anyhow::Result<PathBuf> {
    let home = env::home_dir().context("there is no home directory to keep the session in: set HOME")?;
    Ok(home.join(".symbia/credentials.json"))
}

// A file that cannot be read is as good as none: it is written anew.
fn read(file: &Path) -> Credentials {
    fs::read(file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

fn write(file: &Path, credentials: &Credentials) -> anyhow::Result<()> {
    let new = file.with_extension("new");
    let write = || {
        if let Some(dir) = file.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        // Made anew, so that it never has the rights of a file that was there.
        let _ = fs::remove_file(&new);
        let mut out = fs::File::options().create_new(true).write(true).mode(0o600).open(&new)?;
        out.write_all(&serde_json::to_vec_pretty(credentials)?)?;
        fs::rename(&new, file)
    };
    write().with_context(|| format!("the session cannot be kept in {}", file.display()))
}

fn ask(prompt: &str) -> anyhow::Result<String> {
    eprint!("{prompt}");
    std::io::stderr().flush()?;
    let mut text = String::new();
    std::io::stdin().read_line(&mut text)?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_session_is_kept_for_its_owner_only() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join(".symbia/credentials.json");
        let mut credentials = read(&file);
        let kept = Kept { email: "ada@example.test".to_owned(), token: Zeroizing::new("t".to_owned()) };
        credentials.0.insert("http://here".to_owned(), kept);
        write(&file, &credentials)?;
        write(&file, &credentials)?;
        assert_eq!(fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&file).0.get("http://here").map(|k| k.token.as_str()), Some("t"));
        Ok(())
    }
}
