//! `symbia keys`.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::json;

use super::Place;
use crate::config::Config;

const COLUMNS: [(&str, &str); 6] = [
    ("ID", "/id"),
    ("KEY", "/keyPrefix"),
    ("NAME", "/name"),
    ("ORGANIZATION", "/orgId"),
    ("SCOPES", "/scopes"),
    ("EXPIRES", "/expiresAt"),
];
const MINTED: [(&str, &str); 3] = [("ID", "/id"), ("NAME", "/name"), ("KEY (not shown again)", "/key")];

#[derive(Debug, Args)]
pub struct ApiKeys {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show yours
    List,
    /// Make one, for --org alone when that is given; it is shown this once
    Create {
        /// What it is for
        name: String,
        /// What it is limited to [default: your rights, except an operator's]
        #[arg(long, short, value_delimiter = ',')]
        scopes: Vec<String>,
        /// Days until it expires
        #[arg(long, short, default_value_t = 365)]
        expires: u32,
    },
    /// Make another one in its place
    Rotate {
        /// Id
        id: String,
    },
    /// End it, at once
    Revoke {
        /// Id
        id: String,
    },
}

impl ApiKeys {
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        let client = self.place.client(config).await?;
        match self.command {
            Command::List => {
                let answer = client.call(Method::GET, &["api-keys"], None).await?;
                client.show(&answer, "", &COLUMNS);
            }
            Command::Create { name, scopes, expires } => {
                let body = json!({ "name": name, "scopes": scopes, "expiresInDays": expires, "orgId": client.org() });
                let answer = client.call(Method::POST, &["api-keys"], Some(&body)).await?;
                client.show(&answer, "", &MINTED);
            }
            Command::Rotate { id } => {
                let answer = client.call(Method::POST, &["api-keys", &id, "rotate"], Some(&json!({}))).await?;
                client.show(&answer, "", &MINTED);
            }
            Command::Revoke { id } => {
                let answer = client.call(Method::POST, &["api-keys", &id, "revoke"], Some(&json!({}))).await?;
                client.done(&answer, "Ended.");
            }
        }
        Ok(())
    }
}
