//! Who is signed in at which platform: `~/.symbia/credentials.json`, for its owner only. `symbia chat` and the commands for
//! people share it.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{IsTerminal, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::{Ended, config::secret_file, exit};

/// A token with less time left is exchanged for another one.
const RENEW_BEFORE_MS: i64 = 5 * 60 * 1000;

/// What a request is made with.
#[derive(Clone)]
pub enum Credential {
    /// An access token.
    Token(Zeroizing<String>),
    /// An API key.
    Key(Zeroizing<String>),
}

impl Credential {
    /// A request that shows it.
    pub fn on(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Credential::Token(token) => request.bearer_auth(&**token),
            Credential::Key(key) => request.header("x-api-key", &**key),
        }
    }
}

/// Tokens by address of the identity service.
#[derive(Default, Serialize, Deserialize)]
struct Credentials(BTreeMap<String, Kept>);

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    /// Who it is, for people to read.
    email: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<Zeroizing<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_token: Option<Zeroizing<String>>,
    /// When the token expires, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    api_key: Option<Zeroizing<String>>,
}

impl Kept {
    fn of_answer(email: String, answer: &Value) -> anyhow::Result<Self> {
        let text = |name: &str| answer[name].as_str().map(|text| Zeroizing::new(text.to_owned()));
        let token = text("token").context("the identity service answered without a token")?;
        Ok(Kept {
            email,
            token: Some(token),
            refresh_token: text("refreshToken"),
            expires_at: answer["expiresAt"].as_i64(),
            api_key: None,
        })
    }

    fn credential(&self) -> Option<Credential> {
        let key = self.api_key.clone().map(Credential::Key);
        key.or_else(|| self.token.clone().map(Credential::Token))
    }

    fn ends_soon(&self) -> bool {
        let now = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
        self.expires_at.is_some_and(|end| i128::from(end - RENEW_BEFORE_MS) < now)
    }
}

/// How somebody signs in.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct SignIn {
    /// Sign in as
    #[arg(long, short)]
    pub email: Option<String>,
    /// File that holds the password [default: ask]
    #[arg(long, requires = "email")]
    pub password_file: Option<PathBuf>,
}

/// The sessions at one platform.
pub struct Sessions {
    identity: String,
    http: reqwest::Client,
    file: PathBuf,
}

impl Sessions {
    /// Those at an identity service.
    pub fn at(identity: &str) -> anyhow::Result<Self> {
        let home = env::home_dir().context("there is no home directory to keep the session in: set HOME")?;
        let (identity, file) = (identity.to_owned(), home.join(".symbia/credentials.json"));
        Ok(Sessions { identity, http: reqwest::Client::new(), file })
    }

    /// Of this person, signed in now; else the credential that is kept, while it is good; else whoever sits at the terminal
    /// is asked.
    pub async fn credential(&self, sign_in: &SignIn) -> anyhow::Result<Credential> {
        if sign_in.email.is_none()
            && let Some(credential) = self.kept().await?
        {
            let asked = self.send(credential.on(self.http.get(self.url("/api/users/me")))).await?;
            match asked.status() {
                status if status.is_success() => return Ok(credential),
                StatusCode::UNAUTHORIZED => eprintln!("The session has ended; sign in again."),
                status => bail!("the identity service at {} cannot tell who is signed in ({status})", self.identity),
            }
        }
        self.sign_in(sign_in, None).await
    }

    /// What is kept, renewed when it is about to expire. Whether it is still good only a request tells.
    pub async fn kept(&self) -> anyhow::Result<Option<Credential>> {
        let Some(kept) = read(&self.file).0.remove(&self.identity) else { return Ok(None) };
        let renewed = match &kept.refresh_token {
            Some(token) if kept.ends_soon() => self.renewed(kept.email.clone(), token).await?,
            _ => None,
        };
        Ok(renewed.unwrap_or(kept).credential())
    }

    // None: it is no longer exchanged, which the next request will say.
    async fn renewed(&self, email: String, token: &Zeroizing<String>) -> anyhow::Result<Option<Kept>> {
        let body = json!({ "refreshToken": **token });
        let answer = self.send(self.http.post(self.url("/api/auth/refresh")).json(&body)).await?;
        if !answer.status().is_success() {
            return Ok(None);
        }
        let kept = Kept::of_answer(email, &answer.json().await?)?;
        self.keep(Some(kept.clone()))?;
        Ok(Some(kept))
    }

    /// Signs in with a password, and with a code of the second factor where the account has one.
    pub async fn sign_in(&self, how: &SignIn, code: Option<&str>) -> anyhow::Result<Credential> {
        let terminal = std::io::stdin().is_terminal();
        let email = match &how.email {
            Some(email) => email.clone(),
            None if terminal => ask("E-mail: ")?,
            None => bail!("nobody is signed in: give --email and --password-file"),
        };
        let password = match &how.password_file {
            Some(file) => secret_file(file)?,
            None if terminal => Zeroizing::new(rpassword::prompt_password("Password: ")?),
            None => bail!("give --password-file: there is no terminal to ask for the password"),
        };
        let attempt = async |code: Option<&str>| {
            let body = json!({ "email": email, "password": *password, "otp": code });
            self.send(self.http.post(self.url("/api/auth/login")).json(&body)).await
        };
        let mut answer = attempt(code).await?;
        if answer.status() == StatusCode::UNAUTHORIZED && code.is_none() && terminal {
            let said: Value = answer.json().await.unwrap_or_default();
            if said["code"] != "MFA_REQUIRED" {
                bail!("not signed in: {}", said["message"].as_str().unwrap_or("no reason given"));
            }
            answer = attempt(Some(&ask("Code of the second factor: ")?)).await?;
        }
        let answer = checked(answer).await.context("not signed in")?;
        let kept = Kept::of_answer(email, &answer.json().await?)?;
        let credential = kept.credential();
        self.keep(Some(kept))?;
        credential.context("the identity service answered without a token")
    }

    /// Keeps an API key, once the platform knows it.
    pub async fn keep_key(&self, key: Zeroizing<String>) -> anyhow::Result<()> {
        let body = json!({ "apiKey": *key });
        let answer = self.send(self.http.post(self.url("/api/auth/verify-api-key")).json(&body)).await?;
        let said: Value = checked(answer).await?.json().await?;
        if said["valid"] != true {
            return Err(Refused("the API key is not valid, or no longer".to_owned()).into());
        }
        let email = format!("API key {}…", key.chars().take(11).collect::<String>());
        self.keep(Some(Kept { email, token: None, refresh_token: None, expires_at: None, api_key: Some(key) }))
    }

    /// Forgets what is kept; a session is ended at the platform too. False: there was nothing.
    pub async fn forget(&self) -> anyhow::Result<bool> {
        let Some(kept) = read(&self.file).0.remove(&self.identity) else { return Ok(false) };
        if let Some(token) = kept.token {
            let ended = self.send(self.http.post(self.url("/api/auth/logout")).bearer_auth(&*token)).await?;
            if !ended.status().is_success() && ended.status() != StatusCode::UNAUTHORIZED {
                checked(ended).await.context("the session is not ended")?;
            }
        }
        self.keep(None)?;
        Ok(true)
    }

    fn keep(&self, kept: Option<Kept>) -> anyhow::Result<()> {
        let mut credentials = read(&self.file);
        match kept {
            Some(kept) => _ = credentials.0.insert(self.identity.clone(), kept),
            None => _ = credentials.0.remove(&self.identity),
        }
        write(&self.file, &credentials)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.identity)
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let answer = request.send().await;
        answer.with_context(|| format!("the identity service at {} does not answer", self.identity))
    }
}

/// The platform said no.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// What a subcommand ends with that the platform may have refused.
pub fn told(ended: anyhow::Result<()>) -> Ended {
    match ended {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if error.is::<Refused>() => {
            eprintln!("symbia: {error:#}");
            Ok(ExitCode::from(exit::REFUSED))
        }
        Err(error) => Err(error),
    }
}

/// A success, or what the service says went wrong: [`Refused`] where it is the request's fault.
pub async fn checked(answer: Response) -> anyhow::Result<Response> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let body: Value = answer.json().await.unwrap_or_default();
    let message = body["message"].as_str().unwrap_or("no reason given");
    let said = match body["hint"].as_str() {
        Some(hint) => format!("{message} ({status}). {hint}"),
        None => format!("{message} ({status})"),
    };
    if status.is_client_error() { Err(Refused(said).into()) } else { bail!(said) }
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
        let kept = Kept::of_answer("ada@example.test".to_owned(), &json!({ "token": "t", "expiresAt": 1 }))?;
        credentials.0.insert("http://here".to_owned(), kept);
        write(&file, &credentials)?;
        write(&file, &credentials)?;
        assert_eq!(fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
        let kept = read(&file).0.remove("http://here").context("it is gone")?;
        assert!(kept.ends_soon() && matches!(kept.credential(), Some(Credential::Token(token)) if *token == "t"));
        Ok(())
    }
}
