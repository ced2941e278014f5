//! A connection to a messenger: whose it is, how it is made, and whether it may be used.

use serde::{Deserialize, Serialize};
use symbia_events::integrations::{
    ChannelConnectFailed, ChannelConnectRequested, ChannelConnected, ChannelConnectionEvent, ChannelDisconnected,
    ChannelErrorRecorded, ChannelFilesRefused, ChannelFloodRefused, ChannelMode, ChannelRecovered, ChannelRemoved,
    ChannelStatus, ChannelStatusChanged,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{super::registry::configures, channel_secret_prefix, platforms};
use crate::{Actor, Aggregate, Claim, Decision, Rejection, domain_commands, identity::is_address};

/// Errors in a row after which a connection is used no more.
pub const MOST_ERRORS: u32 = 10;
/// Most assistants of a conversation that begins in a chat.
const MOST_ASSISTANTS: usize = 8;
const MAX_LABEL: usize = 255;

/// A messenger that Telegram is.
pub const TELEGRAM: &str = "telegram";
/// A workspace of Slack's.
pub const SLACK: &str = "slack";
/// A telephone number at WhatsApp's Cloud API.
pub const WHATSAPP: &str = "whatsapp";
/// A bot of Discord's.
pub const DISCORD: &str = "discord";
/// A mailbox.
pub const EMAIL: &str = "email";
/// Any program that speaks Standard Webhooks.
pub const WEBHOOK: &str = "webhook";

domain_commands! {
    /// What can be done about a connection. To make and end one is for who configures the organization's integrations; what
    /// comes of it, the platform records.
    ChannelConnectionCommand: Integrations / "channel-connection" {
        /// Has it made, or made anew.
        ConnectChannel = "symbia.cmd.integrations.connect-channel.v1" {
            connection_id: String,
            org_id: String,
            channel_type: String,
            #[serde(default)]
            credential_id: Option<String>,
            #[serde(default)]
            mode: ChannelMode,
            webhook_url: String,
            #[serde(default)]
            target_url: Option<String>,
            /// A reference of this connection's own.
            secret_ref: String,
            /// SHA-256, in hexadecimal digits.
            secret_hash: String,
            #[serde(default)]
            drop_pending_updates: bool,
            #[serde(default)]
            assistants: Vec<String>,
            /// The account there, where the token alone does not say: a number's id, or a mailbox' address.
            #[serde(default)]
            account: Option<String>,
            /// As whom it is signed in there, where that is not the account.
            #[serde(default)]
            login: Option<String>,
        }
        /// It stands.
        RecordChannelConnected = "symbia.cmd.integrations.record-channel-connected.v1" {
            connection_id: String,
            attempt: u32,
            account_id: String,
            account_name: String,
        }
        /// It could not be made.
        FailChannelConnect = "symbia.cmd.integrations.fail-channel-connect.v1" {
            connection_id: String,
            attempt: u32,
            code: String,
        }
        /// What the other side says of it.
        RecordChannelStatus = "symbia.cmd.integrations.record-channel-status.v1" {
            connection_id: String,
            /// Absent: all is well.
            #[serde(default)]
            error: Option<String>,
        }
        /// It failed at something.
        RecordChannelError = "symbia.cmd.integrations.record-channel-error.v1" {
            connection_id: String,
            code: String,
            /// Trying again would change nothing.
            #[serde(default)]
            fatal: bool,
        }
        /// So much was told that some of it was not taken in.
        NoteChannelFlood = "symbia.cmd.integrations.note-channel-flood.v1" {
            connection_id: String,
            count: u32,
            /// RFC 3339.
            first_at: String,
            last_at: String,
        }
        /// So many files came along that some of them are not kept.
        NoteChannelFiles = "symbia.cmd.integrations.note-channel-files.v1" {
            connection_id: String,
            count: u32,
            /// RFC 3339.
            first_at: String,
            last_at: String,
        }
        /// It does again what it failed at.
        RecordChannelRecovery = "symbia.cmd.integrations.record-channel-recovery.v1" { connection_id: String }
        /// Ends it.
        DisconnectChannel = "symbia.cmd.integrations.disconnect-channel.v1" { connection_id: String, org_id: String }
        /// Ends it, and forgets it.
        RemoveChannel = "symbia.cmd.integrations.remove-channel.v1" { connection_id: String, org_id: String }
    }
}

/// A connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelConnection {
    org_id: String,
    channel_type: String,
    owner_id: String,
    credential_id: Option<String>,
    account: Option<String>,
    secret_ref: String,
    status: ChannelStatus,
    attempt: u32,
    consecutive: u32,
    disabled: bool,
    removed: bool,
}

impl ChannelConnection {
    /// Whether it was ended, and not made anew.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.removed || self.status == ChannelStatus::Disconnected
    }

    fn exists(&self) -> Result<(), Rejection> {
        if self.attempt == 0 || self.removed { Err(Rejection::not_found("connection")) } else { Ok(()) }
    }

    fn is_used(&self) -> bool {
        !self.disabled && matches!(self.status, ChannelStatus::Connected | ChannelStatus::Error)
    }

    // What this connection has for itself, as long as it is there.
    fn place(&self) -> Option<String> {
        place(&self.channel_type, self.credential_id.as_deref(), self.account.as_deref())
    }

    fn connect(&self, c: ConnectChannel, by: &Actor) -> Result<Decision<ChannelConnectionEvent>, Rejection> {
        configures(by, &c.org_id)?;
        if self.removed || (self.attempt > 0 && self.channel_type != c.channel_type) {
            return Err(Rejection::not_found("connection"));
        }
        if matches!(self.status, ChannelStatus::Connecting | ChannelStatus::Connected) {
            let text = "the channel is connected: disconnect it first";
            return Err(Rejection::new("CHANNEL_CONNECTED", text));
        }
        check(&c)?;
        let place = place(&c.channel_type, c.credential_id.as_deref(), c.account.as_deref());
        let former = self.place().filter(|former| Some(former) != place.as_ref());
        let taken = place.map(|place| claim(&c.org_id, &c.connection_id, place)).transpose()?;
        let released = former.map(|place| claim(&c.org_id, &c.connection_id, place)).transpose()?;
        let decision = Decision::one(ChannelConnectRequested {
            connection_id: c.connection_id,
            org_id: c.org_id,
            channel_type: c.channel_type,
            owner_id: by.subject().to_owned(),
            credential_id: c.credential_id,
            mode: c.mode,
            webhook_url: c.webhook_url,
            target_url: c.target_url,
            secret_ref: c.secret_ref,
            secret_hash: c.secret_hash,
            drop_pending_updates: c.drop_pending_updates,
            assistants: c.assistants,
            attempt: self.attempt + 1,
            account: c.account,
            login: c.login,
        });
        let decision = released.into_iter().fold(decision, Decision::releasing);
        Ok(taken.into_iter().fold(decision, Decision::claiming))
    }

    fn failed(&self, c: RecordChannelError) -> Decision<ChannelConnectionEvent> {
        if !self.is_used() {
            return Decision::nothing();
        }
        let (connection_id, consecutive) = (c.connection_id, self.consecutive + 1);
        let recorded = ChannelErrorRecorded { connection_id: connection_id.clone(), code: c.code.clone(), consecutive };
        if !c.fatal && consecutive < MOST_ERRORS {
            return Decision::one(recorded);
        }
        let reason = if c.fatal { "cannot be used" } else { "too many errors in a row" };
        Decision::one(recorded).and(ChannelStatusChanged {
            connection_id,
            previous_status: self.status,
            new_status: ChannelStatus::Error,
            reason: Some(reason.to_owned()),
            error: Some(c.code),
            disabled: true,
        })
    }

    fn told(&self, c: RecordChannelStatus) -> Decision<ChannelConnectionEvent> {
        let new_status = if c.error.is_some() { ChannelStatus::Error } else { ChannelStatus::Connected };
        if !self.is_used() || new_status == self.status {
            return Decision::nothing();
        }
        Decision::one(ChannelStatusChanged {
            connection_id: c.connection_id,
            previous_status: self.status,
            new_status,
            reason: Some("as the other side says".to_owned()),
            error: c.error,
            disabled: false,
        })
    }

    fn disconnect(&self, c: DisconnectChannel, by: &Actor) -> Result<Decision<ChannelConnectionEvent>, Rejection> {
        configures(by, &self.org_id)?;
        if self.status == ChannelStatus::Disconnected {
            return Ok(Decision::nothing());
        }
        Ok(Decision::one(ChannelDisconnected {
            connection_id: c.connection_id,
            channel_type: self.channel_type.clone(),
            owner_id: self.owner_id.clone(),
            credential_id: self.credential_id.clone(),
            secret_ref: self.secret_ref.clone(),
            by: by.subject().to_owned(),
        }))
    }

    fn remove(&self, c: RemoveChannel, by: &Actor) -> Result<Decision<ChannelConnectionEvent>, Rejection> {
        let (connection_id, by_whom) = (c.connection_id, by.subject().to_owned());
        let disconnect = DisconnectChannel { connection_id: connection_id.clone(), org_id: c.org_id };
        let claim = self.place().map(|place| claim(&self.org_id, &connection_id, place)).transpose()?;
        let removed = ChannelRemoved { connection_id, by: by_whom };
        let decision = self.disconnect(disconnect, by)?.and(removed);
        Ok(claim.into_iter().fold(decision, Decision::releasing))
    }
}

// One connection for an account, or else for a token: the other side knows one place to call.
fn place(channel_type: &str, credential: Option<&str>, account: Option<&str>) -> Option<String> {
    // Not every address is a name that can be claimed.
    let id = |account: &str| Uuid::new_v5(&Uuid::NAMESPACE_OID, account.as_bytes());
    let of_account = account.map(|account| format!("channel:{channel_type}:{}", id(account)));
    of_account.or_else(|| credential.map(|credential| format!("channel:{credential}")))
}

fn claim(org: &str, connection_id: &str, name: String) -> Result<Claim, Rejection> {
    let tenant = org.parse().map_err(|_| Rejection::invalid("orgId: no organization"))?;
    Ok(Claim { tenant, name, holder: connection_id.to_owned(), taken: "CHANNEL_CONNECTED" })
}

// What each messenger needs to be known of it.
fn check_kind(c: &ConnectChannel) -> Result<(), Rejection> {
    let needs = |what: &str| Err(Rejection::invalid(what));
    let short = |text: &&String| !text.is_empty() && text.len() <= MAX_LABEL;
    let plain = |text: &String| short(&text) && !text.chars().any(|c| c.is_whitespace() || c.is_control());
    let is_mailbox = |address: &String| {
        plain(address) && address.split_once('@').is_some_and(|(name, host)| !name.is_empty() && host.contains('.'))
    };
    let is_mail_server = |url: &str| ["smtp://", "smtps://"].iter().any(|scheme| url.starts_with(scheme));
    let of_number = |id: &String| short(&id) && id.bytes().all(|b| b.is_ascii_digit());
    match c.channel_type.as_str() {
        TELEGRAM | SLACK | WHATSAPP | DISCORD | EMAIL if c.credential_id.as_ref().filter(short).is_none() => {
            needs("credentialId: the bot's token, or the mailbox' password, in the vault")
        }
        WEBHOOK if c.credential_id.is_some() => needs("credentialId: a program has a secret instead"),
        WHATSAPP if !c.account.as_ref().is_some_and(of_number) => needs("account: the number's id, in digits"),
        EMAIL if !c.account.as_ref().is_some_and(is_mailbox) => needs("account: the mailbox' address"),
        EMAIL if !c.login.as_ref().is_none_or(plain) => needs("login: 1 to 255 characters without spaces"),
        EMAIL if !c.target_url.as_ref().is_some_and(|url| is_address(url) && is_mail_server(url)) => {
            needs("targetUrl: smtp:// or smtps://, without user and password")
        }
        WEBHOOK if !c.target_url.as_ref().is_some_and(|url| is_address(url)) => {
            needs("targetUrl: a URL without user and password")
        }
        TELEGRAM | SLACK | WHATSAPP | DISCORD if c.target_url.is_some() => needs("targetUrl: is known already"),
        TELEGRAM | SLACK | DISCORD | WEBHOOK if c.account.is_some() => needs("account: is known by itself"),
        TELEGRAM | SLACK | WHATSAPP | DISCORD | WEBHOOK if c.login.is_some() => needs("login: of mailboxes alone"),
        TELEGRAM | SLACK | WHATSAPP | DISCORD | EMAIL | WEBHOOK => Ok(()),
        _ => needs("channelType: telegram, slack, whatsapp, discord, email or webhook"),
    }
}

fn check(c: &ConnectChannel) -> Result<(), Rejection> {
    check_kind(c)?;
    if !is_address(&c.webhook_url) {
        return Err(Rejection::invalid("webhookUrl: a URL without user and password"));
    }
    if !c.secret_ref.starts_with(&channel_secret_prefix(&c.org_id, &c.connection_id)) {
        return Err(Rejection::invalid("secretRef: names a secret of another connection"));
    }
    if c.secret_hash.len() != 64 || !c.secret_hash.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Rejection::invalid("secretHash: 64 hexadecimal digits"));
    }
    let fits = |key: &String| !key.is_empty() && key.len() <= MAX_LABEL && !key.contains(char::is_whitespace);
    if c.assistants.len() > MOST_ASSISTANTS || !c.assistants.iter().all(fits) {
        return Err(Rejection::invalid(format!("assistants: at most {MOST_ASSISTANTS} keys of assistants")));
    }
    Ok(())
}

impl Aggregate for ChannelConnection {
    const STATE_VERSION: u32 = 2;
    const ID_FIELD: Option<&'static str> = Some("connectionId");
    type Command = ChannelConnectionCommand;
    type Event = ChannelConnectionEvent;

    fn apply(&mut self, event: &ChannelConnectionEvent) {
        match event {
            ChannelConnectionEvent::ChannelConnectRequested(e) => {
                self.org_id.clone_from(&e.org_id);
                self.channel_type.clone_from(&e.channel_type);
                self.owner_id.clone_from(&e.owner_id);
                self.credential_id.clone_from(&e.credential_id);
                self.account.clone_from(&e.account);
                self.secret_ref.clone_from(&e.secret_ref);
                (self.status, self.attempt, self.disabled) = (ChannelStatus::Connecting, e.attempt, false);
            }
            ChannelConnectionEvent::ChannelConnected(_) => {
                (self.status, self.consecutive) = (ChannelStatus::Connected, 0);
            }
            ChannelConnectionEvent::ChannelConnectFailed(_) => {
                (self.status, self.disabled) = (ChannelStatus::Error, true);
            }
            ChannelConnectionEvent::ChannelStatusChanged(e) => {
                (self.status, self.disabled) = (e.new_status, e.disabled);
            }
            ChannelConnectionEvent::ChannelErrorRecorded(e) => self.consecutive = e.consecutive,
            ChannelConnectionEvent::ChannelRecovered(_) => self.consecutive = 0,
            ChannelConnectionEvent::ChannelFloodRefused(_) | ChannelConnectionEvent::ChannelFilesRefused(_) => {}
            ChannelConnectionEvent::ChannelDisconnected(_) => self.status = ChannelStatus::Disconnected,
            ChannelConnectionEvent::ChannelRemoved(_) => self.removed = true,
        }
    }

    fn decide(
        &self,
        command: ChannelConnectionCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<ChannelConnectionEvent>, Rejection> {
        let command = match command {
            ChannelConnectionCommand::ConnectChannel(c) => return self.connect(c, by),
            command => command,
        };
        self.exists()?;
        let command = match command {
            ChannelConnectionCommand::DisconnectChannel(c) => return self.disconnect(c, by),
            ChannelConnectionCommand::RemoveChannel(c) => return self.remove(c, by),
            command => command,
        };
        platforms(by)?;
        let awaited = |attempt: u32| self.status == ChannelStatus::Connecting && self.attempt == attempt;
        Ok(match command {
            ChannelConnectionCommand::RecordChannelConnected(c) if awaited(c.attempt) => {
                Decision::one(ChannelConnected {
                    connection_id: c.connection_id,
                    attempt: c.attempt,
                    account_id: c.account_id,
                    account_name: c.account_name,
                })
            }
            ChannelConnectionCommand::FailChannelConnect(c) if awaited(c.attempt) => {
                let (connection_id, attempt, code) = (c.connection_id, c.attempt, c.code);
                Decision::one(ChannelConnectFailed { connection_id, attempt, code })
            }
            ChannelConnectionCommand::RecordChannelStatus(c) => self.told(c),
            ChannelConnectionCommand::RecordChannelError(c) => self.failed(c),
            ChannelConnectionCommand::NoteChannelFlood(c) if c.count > 0 => Decision::one(ChannelFloodRefused {
                connection_id: c.connection_id,
                count: c.count,
                first_at: c.first_at,
                last_at: c.last_at,
            }),
            ChannelConnectionCommand::NoteChannelFiles(c) if c.count > 0 => Decision::one(ChannelFilesRefused {
                connection_id: c.connection_id,
                count: c.count,
                first_at: c.first_at,
                last_at: c.last_at,
            }),
            ChannelConnectionCommand::RecordChannelRecovery(c) if self.consecutive > 0 => {
                Decision::one(ChannelRecovered { connection_id: c.connection_id })
            }
            // Meanwhile it was ended, or made anew.
            _ => Decision::nothing(),
        })
    }
}
