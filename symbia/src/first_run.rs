//! The first super admin: asked for at the terminal, or taken from flags, and claimed with the setup token.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::{Context, bail};
use serde_json::json;
use zeroize::Zeroizing;

use crate::{cli::AdminOptions, config::secret_file};

/// What is asked for (platform.md §21.1).
pub struct Admin {
    name: String,
    email: String,
    password: Zeroizing<String>,
    organization: String,
}

impl Admin {
    /// From flags when all are given; asked for when there is a terminal; else none.
    pub fn find(options: &AdminOptions) -> anyhow::Result<Option<Self>> {
        let AdminOptions { admin_name, admin_email, admin_password_file, admin_org } = options.clone();
        if let (Some(name), Some(email), Some(file), Some(organization)) =
            (admin_name.clone(), admin_email.clone(), admin_password_file.clone(), admin_org.clone())
        {
            return Ok(Some(Admin { name, email, password: secret_file(&file)?, organization }));
        }
        let given = [admin_name.is_some(), admin_email.is_some(), admin_password_file.is_some(), admin_org.is_some()];
        if given.contains(&true) {
            bail!("--admin-name, --admin-email, --admin-password-file and --admin-org go together");
        }
        if std::io::stdin().is_terminal() { Self::ask().map(Some) } else { Ok(None) }
    }

    fn ask() -> anyhow::Result<Self> {
        println!("\nThe first super admin of this platform:");
        let name = line("  Name: ", |t| (!t.is_empty()).then_some(()).ok_or("a name is needed"))?;
        let email = line("  E-mail: ", |t| {
            let fits = t.split_once('@').is_some_and(|(user, host)| !user.is_empty() && host.contains('.'));
            fits.then_some(()).ok_or("write it as name@example.com")
        })?;
        let password = loop {
            let first = Zeroizing::new(rpassword::prompt_password("  Password (8 characters at least): ")?);
            if first.chars().count() < 8 {
                println!("  at least 8 characters");
                continue;
            }
            if *Zeroizing::new(rpassword::prompt_password("  Once more: ")?) == *first {
                break first;
            }
            println!("  they differ");
        };
        let organization = line("  Organization: ", |t| (!t.is_empty()).then_some(()).ok_or("a name is needed"))?;
        Ok(Admin { name, email, password, organization })
    }

    /// Creates the super admin and the organization over the API.
    pub async fn claim(&self, identity: &str, setup_token: &str) -> anyhow::Result<()> {
        let body = json!({
            "token": setup_token,
            "name": self.name,
            "email": self.email,
            "password": *self.password,
            "orgName": self.organization,
        });
        let answer = reqwest::Client::new()
            .post(format!("{identity}/api/bootstrap/claim"))
            .json(&body)
            .send()
            .await
            .context("the identity service does not answer")?;
        if answer.status().is_success() {
            return Ok(());
        }
        let status = answer.status();
        let error: serde_json::Value = answer.json().await.unwrap_or_default();
        bail!(
            "the first super admin was not created: {} ({status})",
            error["message"].as_str().unwrap_or("no reason given")
        )
    }
}

fn line(prompt: &str, check: impl Fn(&str) -> Result<(), &'static str>) -> anyhow::Result<String> {
    loop {
        print!("{prompt}");
        std::io::stdout().flush()?;
        let mut text = String::new();
        if std::io::stdin().lock().read_line(&mut text)? == 0 {
            bail!("the terminal was closed");
        }
        match check(text.trim()) {
            Ok(()) => return Ok(text.trim().to_owned()),
            Err(hint) => println!("  {hint}"),
        }
    }
}
