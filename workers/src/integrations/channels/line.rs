//! The line to the other side: whose it is, and what proves it.

use reqwest::Url;
use symbia_commands::integrations::{DISCORD, EMAIL, SLACK, TELEGRAM, WEBHOOK, WHATSAPP};
use symbia_events::integrations::{ChannelConnectRequested, ChannelDisconnected};
use symbia_projections::integrations::ChannelConnection;

use super::{
    super::{Asker, provider::ApiKey},
    Channels,
    discord::DiscordBot,
    email::{self, MailBox},
    messenger::{Messenger, Refused},
    program::Program,
    slack::SlackBot,
    telegram::TelegramBot,
    whatsapp::WhatsAppNumber,
};

/// What a token is released for.
const PURPOSE: &str = "channel";

/// Whose line it is.
#[derive(Clone, Copy)]
pub(super) struct Account<'a> {
    pub org: &'a str,
    pub channel_type: &'a str,
    pub owner: &'a str,
    pub credential: Option<&'a str>,
    pub secret_ref: &'a str,
    pub target_url: Option<&'a str>,
    pub account: Option<&'a str>,
    pub login: Option<&'a str>,
}

impl<'a> From<&'a ChannelConnection> for Account<'a> {
    fn from(row: &'a ChannelConnection) -> Self {
        Account {
            org: &row.org_id,
            channel_type: &row.channel_type,
            owner: &row.owner_id,
            credential: row.credential_id.as_deref(),
            secret_ref: &row.secret_ref,
            target_url: row.target_url.as_deref(),
            account: row.account.as_deref(),
            login: row.login.as_deref(),
        }
    }
}

impl<'a> From<&'a ChannelConnectRequested> for Account<'a> {
    fn from(e: &'a ChannelConnectRequested) -> Self {
        Account {
            org: &e.org_id,
            channel_type: &e.channel_type,
            owner: &e.owner_id,
            credential: e.credential_id.as_deref(),
            secret_ref: &e.secret_ref,
            target_url: e.target_url.as_deref(),
            account: e.account.as_deref(),
            login: e.login.as_deref(),
        }
    }
}

impl<'a> Account<'a> {
    pub fn ended(org: &'a str, e: &'a ChannelDisconnected) -> Self {
        Account {
            org,
            channel_type: &e.channel_type,
            owner: &e.owner_id,
            credential: e.credential_id.as_deref(),
            secret_ref: &e.secret_ref,
            target_url: None,
            account: None,
            login: None,
        }
    }
}

/// A line.
pub(super) type Line = Box<dyn Messenger>;

impl Channels {
    /// The line of an account; the token is lent on record.
    pub(super) async fn line(&self, of: Account<'_>) -> anyhow::Result<Result<Line, Refused>> {
        let parts = &self.0;
        let policy = parts.egress.policy(of.org).await?;
        Ok(match of.channel_type {
            TELEGRAM => self.token(&of).await?.map(|key| TelegramBot::line(&parts.telegram.within(policy), key)),
            SLACK => self.token(&of).await?.map(|key| SlackBot::line(&parts.slack.within(policy), key)),
            DISCORD => self.token(&of).await?.map(|key| DiscordBot::line(&parts.discord.within(policy), key)),
            EMAIL => match (of.target_url.and_then(|url| Url::parse(url).ok()), of.account) {
                (Some(server), Some(address)) => {
                    let account = email::Account { server, address, login: of.login };
                    let egress = parts.egress.of(of.org).await?;
                    self.token(&of).await?.and_then(|password| MailBox::line(&egress, account, password))
                }
                _ => Err(Refused::fatal("bad_url")),
            },
            WHATSAPP => {
                let number = of.account.unwrap_or_default();
                self.token(&of).await?.map(|key| WhatsAppNumber::line(&parts.whatsapp.within(policy), number, key))
            }
            WEBHOOK => {
                let secret = parts.secrets.secret(of.secret_ref).await?;
                let url = of.target_url.and_then(|url| Url::parse(url).ok());
                match (url, secret) {
                    (Some(url), Some(secret)) => Ok(Program::line(&parts.egress.of(of.org).await?, url, secret)),
                    (None, _) => Err(Refused::fatal("bad_url")),
                    (_, None) => Err(Refused::fatal("no_secret")),
                }
            }
            _ => Err(Refused::fatal("unknown_channel")),
        })
    }

    pub(super) async fn token(&self, of: &Account<'_>) -> anyhow::Result<Result<ApiKey, Refused>> {
        let asker = Asker { org: of.org, principal: of.owner, assistant: None, key: None };
        let lease = self.0.books.lease_for(&asker, of.channel_type, of.credential, PURPOSE).await?;
        Ok(lease.map(|lease| lease.key).ok_or_else(|| Refused::fatal("no_credential")))
    }
}
