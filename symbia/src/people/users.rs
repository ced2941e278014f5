//! `symbia users`.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::json;

use super::Place;
use crate::config::Config;

const COLUMNS: [(&str, &str); 5] =
    [("ID", "/id"), ("E-MAIL", "/email"), ("NAME", "/name"), ("ROLE", "/role"), ("SUPER ADMIN", "/isSuperAdmin")];

#[derive(Debug, Args)]
pub struct Users {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show those of --org, or all
    List {
        /// Where the page before ended
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Keep somebody from signing in (super admins)
    Lock {
        /// Id
        id: String,
        /// Why
        #[arg(long, default_value = "by an operator")]
        reason: String,
    },
    /// Let them sign in again (super admins)
    Unlock {
        /// Id
        id: String,
        /// Why
        #[arg(long, default_value = "by an operator")]
        reason: String,
    },
    /// Close an account and erase its personal data (super admins)
    Delete {
        /// Id
        id: String,
        /// Do it
        #[arg(long, short, required = true)]
        force: bool,
    },
}

impl Users {
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        let client = self.place.client(config).await?;
        match self.command {
            Command::List { cursor } => {
                let query: Vec<(&str, &str)> =
                    [client.org().map(|org| ("orgId", org)), cursor.as_deref().map(|cursor| ("cursor", cursor))]
                        .into_iter()
                        .flatten()
                        .collect();
                let answer = client.call_with(Method::GET, &["users"], &query, None).await?;
                client.show(&answer, "/users", &COLUMNS);
                if let (false, Some(next)) = (config.json, answer["nextCursor"].as_str()) {
                    eprintln!("There are more: --cursor {next}");
                }
            }
            Command::Lock { id, reason } => {
                let body = json!({ "reason": reason });
                let answer = client.call(Method::POST, &["admin", "users", &id, "lock"], Some(&body)).await?;
                client.done(&answer, "Locked.");
            }
            Command::Unlock { id, reason } => {
                let body = json!({ "reason": reason });
                let answer = client.call(Method::POST, &["admin", "users", &id, "unlock"], Some(&body)).await?;
                client.done(&answer, "Unlocked.");
            }
            Command::Delete { id, .. } => {
                let answer = client.call(Method::DELETE, &["admin", "users", &id], None).await?;
                client.done(&answer, "Closed.");
            }
        }
        Ok(())
    }
}
