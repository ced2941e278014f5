//! `symbia login`, `whoami`, `logout`.

use std::path::PathBuf;

use clap::Args;
use reqwest::Method;
use serde_json::json;

use super::{Place, secret_of};
use crate::{config::Config, session::SignIn, table};

#[derive(Debug, Args)]
pub struct Login {
    #[command(flatten)]
    sign_in: SignIn,
    /// Code of the second factor, or a recovery code [default: ask when it is needed]
    #[arg(long)]
    otp: Option<String>,
    /// File that holds an API key, instead of a person; `-` is standard input
    #[arg(long, short = 'k', conflicts_with_all = ["email", "otp"])]
    api_key_file: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

impl Login {
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        let sessions = self.place.sessions(config)?;
        match &self.api_key_file {
            Some(file) => sessions.keep_key(secret_of(file)?).await?,
            None => _ = sessions.sign_in(&self.sign_in, self.otp.as_deref()).await?,
        }
        whoami(config, &self.place).await
    }
}

pub async fn whoami(config: &Config, place: &Place) -> anyhow::Result<()> {
    let me = place.client(config).await?.call(Method::GET, &["auth", "me"], None).await?;
    let columns: &[(&str, &str)] = if me["type"] == "agent" {
        &[("AGENT", "/agent/agentId"), ("NAME", "/agent/name"), ("ORGANIZATION", "/agent/orgId")]
    } else {
        &[("ID", "/user/id"), ("E-MAIL", "/user/email"), ("NAME", "/user/name"), ("SUPER ADMIN", "/user/isSuperAdmin")]
    };
    table::show(config.json, &me, &me, columns);
    Ok(())
}

pub async fn logout(config: &Config, place: &Place) -> anyhow::Result<()> {
    let ended = place.sessions(config)?.forget().await?;
    if config.json {
        println!("{}", json!({ "ended": ended }));
    } else {
        println!("{}", if ended { "Signed out." } else { "Nobody was signed in." });
    }
    Ok(())
}
