//! The line to the other side: making it, ending it, asking how it is, and saying something over it.

use std::time::Duration;

use reqwest::{
    Method, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde_json::{Value, json};
use symbia_commands::integrations::{ChannelContent, ChannelFormat, TELEGRAM, WEBHOOK};
use symbia_egress::Errand;
use symbia_events::{
    integrations::{ChannelConnectRequested, ChannelDisconnected, ChannelMode},
    messaging::webhook_signature,
};
use symbia_projections::integrations::ChannelConnection;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use zeroize::Zeroizing;

use super::{
    super::{Asker, provider::ApiKey},
    Channels,
    markup::{Part, parts},
};

/// What a token is released for.
const PURPOSE: &str = "channel";
/// How long a call may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// Most bytes that are read of what a program answers.
const MOST: usize = 64 * 1024;
/// What is told of chats.
pub(super) const UPDATES: [&str; 4] = ["message", "edited_message", "channel_post", "edited_channel_post"];

/// Why the other side does not do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// A code for the record.
    pub code: String,
    /// It may do it later.
    pub passing: bool,
    /// When it wants to be asked again.
    pub after: Option<Duration>,
    /// It will do nothing for this connection.
    pub fatal: bool,
}

impl Refused {
    pub fn passing(code: &str, after: Option<Duration>) -> Self {
        Refused { code: code.to_owned(), passing: true, after, fatal: false }
    }

    pub fn lasting(code: &str) -> Self {
        Refused { code: code.to_owned(), passing: false, after: None, fatal: false }
    }

    pub fn fatal(code: &str) -> Self {
        Refused { fatal: true, ..Self::lasting(code) }
    }
}

/// Whose line it is.
#[derive(Clone, Copy)]
pub(super) struct Account<'a> {
    pub org: &'a str,
    pub channel_type: &'a str,
    pub owner: &'a str,
    pub credential: Option<&'a str>,
    pub secret_ref: &'a str,
    pub target_url: Option<&'a str>,
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
        }
    }
}

/// A line, with what proves whose it is.
pub(super) enum Line {
    /// To a bot of Telegram.
    Telegram(ApiKey),
    /// To a program.
    Webhook { url: Url, secret: Zeroizing<String> },
}

/// What is to be said, ready to be sent.
pub(super) enum Ready {
    Telegram(Vec<Part>),
    Webhook,
}

impl Ready {
    pub fn of(line: &Line, content: &ChannelContent) -> Self {
        match line {
            Line::Telegram(_) => Ready::Telegram(parts(&content.text, content.format)),
            Line::Webhook { .. } => Ready::Webhook,
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Ready::Telegram(parts) => parts.len(),
            Ready::Webhook => 1,
        }
    }
}

// A number, unless it is the name of a public channel.
fn chat_of(id: &str) -> Value {
    id.parse::<i64>().map_or_else(|_| json!(id), |number| json!(number))
}

impl Channels {
    /// The line of an account; the token is lent on record.
    pub(super) async fn line(&self, of: Account<'_>) -> anyhow::Result<Result<Line, Refused>> {
        match of.channel_type {
            TELEGRAM => {
                let asker = Asker { org: of.org, principal: of.owner, assistant: None, key: None };
                let lease = self.0.books.lease_for(&asker, TELEGRAM, of.credential, PURPOSE).await?;
                Ok(lease.map(|lease| Line::Telegram(lease.key)).ok_or_else(|| Refused::fatal("no_credential")))
            }
            WEBHOOK => {
                let secret = self.0.secrets.secret(of.secret_ref).await?;
                let url = of.target_url.and_then(|url| Url::parse(url).ok());
                Ok(match (url, secret) {
                    (Some(url), Some(secret)) => Ok(Line::Webhook { url, secret }),
                    (None, _) => Err(Refused::fatal("bad_url")),
                    (_, None) => Err(Refused::fatal("no_secret")),
                })
            }
            _ => Ok(Err(Refused::fatal("unknown_channel"))),
        }
    }

    /// Makes the other side talk to us, and gives the account that speaks for us there: its id and its name.
    pub(super) async fn open(
        &self,
        line: &Line,
        e: &ChannelConnectRequested,
    ) -> anyhow::Result<Result<(String, String), Refused>> {
        let key = match line {
            Line::Webhook { url, .. } => {
                let checked = self.0.egress.request(Method::POST, url.clone()).map(drop);
                let host = url.host_str().unwrap_or_default().to_owned();
                return Ok(checked.map(|()| (host.clone(), host)).map_err(|blocked| Refused::fatal(blocked.code())));
            }
            Line::Telegram(key) => key,
        };
        let secret = self.0.secrets.secret(&e.secret_ref).await?;
        let (method, body) = match (e.mode, &secret) {
            (ChannelMode::Polling, _) => ("deleteWebhook", json!({ "drop_pending_updates": e.drop_pending_updates })),
            (ChannelMode::Webhook, Some(secret)) => (
                "setWebhook",
                json!({ "url": e.webhook_url, "secret_token": secret.as_str(), "allowed_updates": UPDATES,
                    "drop_pending_updates": e.drop_pending_updates }),
            ),
            (ChannelMode::Webhook, None) => return Ok(Err(Refused::lasting("no_secret"))),
        };
        let telegram = &self.0.telegram;
        let opened = async {
            let me = telegram.call(key, "getMe", &json!({}), PATIENCE).await?;
            telegram.call(key, method, &body, PATIENCE).await?;
            let id = me["id"].as_i64().map(|id| id.to_string()).ok_or_else(|| Refused::lasting("no_account"))?;
            let name = me["username"].as_str().or(me["first_name"].as_str()).unwrap_or_default();
            Ok((id, name.chars().take(200).collect()))
        };
        Ok(opened.await)
    }

    /// Has the other side talk to us no more.
    pub(super) async fn close(&self, line: &Line) -> Result<(), Refused> {
        match line {
            Line::Telegram(key) => self.0.telegram.call(key, "deleteWebhook", &json!({}), PATIENCE).await.map(drop),
            Line::Webhook { .. } => Ok(()),
        }
    }

    /// How the other side says that it is doing; nothing when all is well.
    pub(super) async fn state(&self, line: &Line, mode: &str) -> Result<Option<String>, Refused> {
        let Line::Telegram(key) = line else { return Ok(None) };
        let telegram = &self.0.telegram;
        telegram.call(key, "getMe", &json!({}), PATIENCE).await?;
        if mode == "polling" {
            return Ok(None);
        }
        let info = telegram.call(key, "getWebhookInfo", &json!({}), PATIENCE).await?;
        if info["url"].as_str().unwrap_or_default().is_empty() {
            return Ok(Some("webhook_gone".to_owned()));
        }
        let erred = info["last_error_message"].as_str().is_some_and(|message| !message.is_empty());
        Ok(erred.then(|| "webhook_failing".to_owned()))
    }

    /// Shows in a chat that an answer is thought about, for a few seconds. Best effort.
    pub(super) fn shows_typing(&self, connection: &ChannelConnection, chat: &str) {
        let (channels, connection, body) = (self.clone(), connection.clone(), chat_of(chat));
        tokio::spawn(async move {
            if let Ok(Ok(Line::Telegram(key))) = channels.line(Account::from(&connection)).await {
                let body = json!({ "chat_id": body, "action": "typing" });
                let _ = channels.0.telegram.call(&key, "sendChatAction", &body, PATIENCE).await;
            }
        });
    }

    /// Says a part of something, and gives the other side's id of it. `id` is that of the part, at each attempt.
    pub(super) async fn say(
        &self,
        line: &Line,
        content: &ChannelContent,
        ready: &Ready,
        part: usize,
        id: &str,
    ) -> Result<String, Refused> {
        match (line, ready) {
            (Line::Telegram(key), Ready::Telegram(parts)) => {
                let part = parts.get(part).ok_or_else(|| Refused::lasting("no_part"))?;
                self.tell_telegram(key, content, part).await
            }
            (Line::Webhook { url, secret }, _) => self.tell_program(url, secret, content, id).await,
            (Line::Telegram(_), Ready::Webhook) => Err(Refused::lasting("no_part")),
        }
    }

    async fn tell_telegram(&self, key: &ApiKey, content: &ChannelContent, part: &Part) -> Result<String, Refused> {
        let mut body = json!({ "chat_id": chat_of(&content.chat_id), "text": part.html, "parse_mode": "HTML",
            "disable_web_page_preview": content.disable_preview, "disable_notification": content.silent });
        if let Some(reply_to) = content.reply_to_message_id.as_ref().and_then(|id| id.parse::<i64>().ok()) {
            body["reply_to_message_id"] = json!(reply_to);
            body["allow_sending_without_reply"] = json!(true);
        }
        let telegram = &self.0.telegram;
        let mut sent = telegram.call(key, "sendMessage", &body, PATIENCE).await;
        if matches!(&sent, Err(refused) if refused.code == "unparsed") {
            // Better plain than not at all.
            body["text"] = json!(part.plain);
            body.as_object_mut().and_then(|body| body.remove("parse_mode"));
            sent = telegram.call(key, "sendMessage", &body, PATIENCE).await;
        }
        let sent = sent?;
        Ok(sent["message_id"].as_i64().map(|id| id.to_string()).unwrap_or_default())
    }

    async fn tell_program(
        &self,
        url: &Url,
        secret: &str,
        content: &ChannelContent,
        id: &str,
    ) -> Result<String, Refused> {
        let now = OffsetDateTime::now_utc();
        let timestamp = now.format(&Rfc3339).unwrap_or_default();
        let body = json!({ "type": "channel.message.outbound", "timestamp": timestamp,
            "data": { "id": id, "chatId": content.chat_id, "text": content.text,
                "format": if content.format == ChannelFormat::Markdown { "markdown" } else { "plain" },
                "replyToMessageId": content.reply_to_message_id } })
        .to_string();
        let seconds = now.unix_timestamp();
        let signature = webhook_signature(secret, id, seconds, body.as_bytes());
        let signature = signature.ok_or_else(|| Refused::fatal("no_secret"))?;
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        for (name, value) in
            [("webhook-id", id), ("webhook-timestamp", &seconds.to_string()), ("webhook-signature", &signature)]
        {
            let value = HeaderValue::from_str(value).map_err(|_| Refused::lasting("bad_id"))?;
            headers.insert(HeaderName::from_static(name), value);
        }
        let (method, body) = (Method::POST, Some(body.into()));
        let errand = Errand { method, url: url.clone(), headers, body, patience: PATIENCE, most: MOST };
        let reply = self.0.egress.fetch(errand).await?;
        if reply.status.is_success() {
            return Ok(id.to_owned());
        }
        let after = reply.headers.get("retry-after").and_then(|after| after.to_str().ok()?.parse().ok());
        Err(match reply.status.as_u16() {
            // It wants no more of them (Standard Webhooks).
            410 => Refused::fatal("gone"),
            408 | 409 | 425 | 429 | 500..=599 => Refused::passing("unavailable", after.map(Duration::from_secs)),
            _ => Refused::lasting("refused"),
        })
    }
}
