//! `symbia agents`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::json;
use zeroize::Zeroizing;

use super::{Place, client::Client, secret_of};
use crate::{config::Config, home::random_key};

const COLUMNS: [(&str, &str); 5] = [
    ("ID", "/id"),
    ("HANDLE", "/agentId"),
    ("NAME", "/name"),
    ("ACTIVE", "/isActive"),
    ("CAPABILITIES", "/capabilities"),
];

#[derive(Debug, Args)]
pub struct Agents {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show those of --org
    List,
    /// Show one
    Show {
        /// Id
        id: String,
    },
    /// Let one in to --org
    Create {
        /// Its handle, of a-z, 0-9, ':', '_' and '-'
        handle: String,
        /// Display name [default: the handle]
        #[arg(long)]
        name: Option<String>,
        /// What it may do, e.g. cap:messaging.send
        #[arg(long, value_delimiter = ',')]
        capabilities: Vec<String>,
        /// File that holds its credential; `-` is standard input [default: make one, and show it this once]
        #[arg(long)]
        credential_file: Option<PathBuf>,
    },
    /// Give it another credential, which is shown this once
    Rotate {
        /// Id
        id: String,
        /// For so many seconds the one before is still good
        #[arg(long, default_value_t = 0)]
        grace_seconds: u32,
    },
    /// Keep it out, at once
    Deactivate {
        /// Id
        id: String,
    },
    /// Let it in again
    Activate {
        /// Id
        id: String,
    },
    /// Remove it
    Delete {
        /// Id
        id: String,
        /// Do it
        #[arg(long, short, required = true)]
        force: bool,
    },
}

impl Agents {
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        let client = self.place.client(config).await?;
        match self.command {
            Command::List => {
                let query: Vec<(&str, &str)> = client.org().map(|org| ("orgId", org)).into_iter().collect();
                let answer = client.call_with(Method::GET, &["agents"], &query, None).await?;
                client.show(&answer, "/agents", &COLUMNS);
            }
            Command::Show { id } => {
                let answer = client.call(Method::GET, &["agents", &id], None).await?;
                client.show(&answer, "", &COLUMNS);
            }
            Command::Create { handle, name, capabilities, credential_file } => {
                let given = credential_file.as_deref().map(secret_of).transpose()?;
                create(config, &client, &handle, name, capabilities, given).await?;
            }
            Command::Rotate { id, grace_seconds } => {
                let body = json!({ "graceSeconds": grace_seconds });
                let answer = client.call(Method::POST, &["agents", &id, "rotate"], Some(&body)).await?;
                client.show(&answer, "", &[("CREDENTIAL", "/credential")]);
            }
            Command::Deactivate { id } => {
                let answer = client.call(Method::POST, &["agents", &id, "deactivate"], Some(&json!({}))).await?;
                client.done(&answer, "Kept out.");
            }
            Command::Activate { id } => {
                let answer = client.call(Method::POST, &["agents", &id, "activate"], Some(&json!({}))).await?;
                client.done(&answer, "Let in.");
            }
            Command::Delete { id, .. } => {
                let answer = client.call(Method::DELETE, &["agents", &id], None).await?;
                client.done(&answer, "Removed.");
            }
        }
        Ok(())
    }
}

// The platform is given the credential and never shows it: one that is made here is shown here.
async fn create(
    config: &Config,
    client: &Client,
    handle: &str,
    name: Option<String>,
    capabilities: Vec<String>,
    given: Option<Zeroizing<String>>,
) -> anyhow::Result<()> {
    let made = if given.is_none() { Some(random_key()) } else { None };
    let credential = given.as_ref().or(made.as_ref()).map(|credential| credential.as_str());
    let body = json!({
        "agentId": handle, "name": name.as_deref().unwrap_or(handle), "orgId": client.org(),
        "capabilities": capabilities, "credential": credential,
    });
    let mut answer = client.call(Method::POST, &["agents"], Some(&body)).await?;
    if let Some(made) = &made {
        answer["credential"] = json!(**made);
    }
    client.show(&answer, "", &COLUMNS);
    if let (Some(made), false) = (&made, config.json) {
        println!("\nIts credential, which is not shown again:\n{}", **made);
    }
    Ok(())
}
