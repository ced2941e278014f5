//! `symbia orgs`.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::json;

use super::Place;
use crate::config::Config;

const COLUMNS: [(&str, &str); 4] = [("ID", "/id"), ("SLUG", "/slug"), ("NAME", "/name"), ("ROLE", "/role")];
const MEMBERS: [(&str, &str); 5] =
    [("MEMBERSHIP", "/id"), ("USER", "/userId"), ("E-MAIL", "/user/email"), ("NAME", "/user/name"), ("ROLE", "/role")];

#[derive(Debug, Args)]
pub struct Orgs {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show yours
    List,
    /// Found one; you become its first admin
    Create {
        /// Its name
        name: String,
        /// Unique short name [default: from the name]
        #[arg(long)]
        slug: Option<String>,
    },
    /// Give it another name
    Rename {
        /// Id
        id: String,
        /// The new name
        name: String,
    },
    /// Show its members
    Members {
        /// Id
        id: String,
    },
    /// Add a registered user
    Add {
        /// Id of the organization
        id: String,
        /// Address of the user
        email: String,
        /// `admin`, `member` or `viewer`
        #[arg(long, default_value = "member")]
        role: String,
    },
    /// Take a member out
    Remove {
        /// Id of the organization
        id: String,
        /// Id of the membership, as `members` shows it
        membership: String,
    },
    /// Leave one
    Leave {
        /// Id
        id: String,
    },
    /// Remove it with all that it owns
    Delete {
        /// Id
        id: String,
        /// Do it
        #[arg(long, short, required = true)]
        force: bool,
    },
}

impl Orgs {
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        let client = self.place.client(config).await?;
        match self.command {
            Command::List => {
                let answer = client.call(Method::GET, &["orgs"], None).await?;
                client.show(&answer, "/organizations", &COLUMNS);
            }
            Command::Create { name, slug } => {
                let body = json!({ "name": name, "slug": slug });
                let answer = client.call(Method::POST, &["orgs"], Some(&body)).await?;
                client.show(&answer, "", &COLUMNS[..3]);
            }
            Command::Rename { id, name } => {
                let answer = client.call(Method::PATCH, &["orgs", &id], Some(&json!({ "name": name }))).await?;
                client.show(&answer, "", &COLUMNS[..3]);
            }
            Command::Members { id } => {
                let answer = client.call(Method::GET, &["orgs", &id], None).await?;
                client.show(&answer, "/members", &MEMBERS);
            }
            Command::Add { id, email, role } => {
                let body = json!({ "email": email, "role": role });
                let answer = client.call(Method::POST, &["orgs", &id, "members", "invite"], Some(&body)).await?;
                client.done(&answer, "Added.");
            }
            Command::Remove { id, membership } => {
                let answer = client.call(Method::DELETE, &["orgs", &id, "members", &membership], None).await?;
                client.done(&answer, "Taken out.");
            }
            Command::Leave { id } => {
                let answer = client.call(Method::DELETE, &["orgs", &id, "members", "me"], None).await?;
                client.done(&answer, "Left.");
            }
            Command::Delete { id, .. } => {
                let answer = client.call(Method::DELETE, &["orgs", &id], None).await?;
                client.done(&answer, "Removed.");
            }
        }
        Ok(())
    }
}
