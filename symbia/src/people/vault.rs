//! `symbia vault`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::json;

use super::{Place, secret_of};
use crate::config::Config;

const COLUMNS: [(&str, &str); 6] = [
    ("ID", "/id"),
    ("PROVIDER", "/provider"),
    ("NAME", "/name"),
    ("SECRET", "/credentialPrefix"),
    ("ORGANIZATION", "/orgId"),
    ("SHARED", "/isOrgWide"),
];

#[derive(Debug, Args)]
pub struct Vault {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what is kept for you; never the secrets themselves
    List,
    /// Keep a secret
    Store {
        /// Whom it is for, e.g. openai
        provider: String,
        /// A name of yours for it
        name: String,
        /// File that holds the secret; `-` is standard input
        #[arg(long)]
        secret_file: PathBuf,
        /// Share it with the organization (its admins)
        #[arg(long)]
        org_wide: bool,
    },
    /// Destroy a secret
    Delete {
        /// Id
        id: String,
    },
}

impl Vault {
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        let client = self.place.client(config).await?;
        match self.command {
            Command::List => {
                let answer = client.call(Method::GET, &["credentials"], None).await?;
                client.show(&answer, "", &COLUMNS);
            }
            Command::Store { provider, name, secret_file, org_wide } => {
                let secret = secret_of(&secret_file)?;
                let body = json!({ "provider": provider, "name": name, "apiKey": *secret, "isOrgWide": org_wide });
                let answer = client.call(Method::POST, &["credentials"], Some(&body)).await?;
                client.show(&answer, "", &COLUMNS);
            }
            Command::Delete { id } => {
                let answer = client.call(Method::DELETE, &["credentials", &id], None).await?;
                client.done(&answer, "Destroyed.");
            }
        }
        Ok(())
    }
}
