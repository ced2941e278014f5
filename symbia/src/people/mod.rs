//! What people do at the terminal, over the public API like any other client: sign in, organizations, users, agents, API keys,
//! vault.

mod account;
mod agents;
mod api_keys;
mod client;
mod orgs;
mod users;
mod vault;

use std::path::Path;

use clap::{Args, Subcommand};
use symbia_events::Service;
use zeroize::Zeroizing;

use crate::{
    Ended,
    config::{Config, secret_file},
    session::{Refused, Sessions, told},
};
use client::Client;

/// Where, and in which organization.
#[derive(Debug, Args)]
pub struct Place {
    /// Address of the identity service [default: this machine]
    #[arg(long, global = true)]
    identity_url: Option<String>,
    /// Organization, for those who have several
    #[arg(long, global = true)]
    org: Option<String>,
    /// Why, for an operator in an organization that is not theirs; it is recorded
    #[arg(long, global = true)]
    access_reason: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum PeopleCommand {
    /// Sign in, and stay so for the commands that follow
    Login(account::Login),
    /// Show who is signed in
    Whoami(Place),
    /// End the session and forget it
    Logout(Place),
    /// Organizations and their members
    Orgs(orgs::Orgs),
    /// Users: of an organization (its admins), or all (super admins)
    Users(users::Users),
    /// Agents of an organization (its admins)
    Agents(agents::Agents),
    /// Your API keys
    Keys(api_keys::ApiKeys),
    /// Secrets of other systems that the platform keeps for you
    Vault(vault::Vault),
}

/// Runs the subcommand.
pub async fn run(config: &Config, command: PeopleCommand) -> Ended {
    let ended = match command {
        PeopleCommand::Login(login) => login.run(config).await,
        PeopleCommand::Whoami(place) => account::whoami(config, &place).await,
        PeopleCommand::Logout(place) => account::logout(config, &place).await,
        PeopleCommand::Orgs(orgs) => orgs.run(config).await,
        PeopleCommand::Users(users) => users.run(config).await,
        PeopleCommand::Agents(agents) => agents.run(config).await,
        PeopleCommand::Keys(keys) => keys.run(config).await,
        PeopleCommand::Vault(vault) => vault.run(config).await,
    };
    told(ended)
}

impl Place {
    fn identity(&self, config: &Config) -> String {
        let here = || format!("http://127.0.0.1:{}", config.port(Service::Identity));
        self.identity_url.as_deref().map_or_else(here, |url| url.trim_end_matches('/').to_owned())
    }

    fn sessions(&self, config: &Config) -> anyhow::Result<Sessions> {
        Sessions::at(&self.identity(config))
    }

    /// The platform, as whoever is signed in.
    async fn client(&self, config: &Config) -> anyhow::Result<Client> {
        let kept = self.sessions(config)?.kept().await?;
        let credential = kept.ok_or_else(|| Refused("nobody is signed in: `symbia login` first".to_owned()))?;
        let (org, reason) = (self.org.clone(), self.access_reason.clone());
        Ok(Client::new(self.identity(config), credential, org, reason, config.json))
    }
}

/// A secret from a file, or from standard input when that is `-`.
fn secret_of(file: &Path) -> anyhow::Result<Zeroizing<String>> {
    if file != Path::new("-") {
        return secret_file(file);
    }
    let text = Zeroizing::new(std::io::read_to_string(std::io::stdin())?);
    Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}
