//! A program of somebody's own, which is told what is said to it as Standard Webhooks say.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::{
    Method, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde_json::json;
use symbia_commands::integrations::{ChannelContent, ChannelFormat};
use symbia_egress::{Egress, EgressError, Errand};
use symbia_events::messaging::webhook_signature;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use zeroize::Zeroizing;

use super::{
    line::Line,
    markup::Part,
    messenger::{Messenger, Opening, PATIENCE, Refused, Saying, SpeaksAs},
    update::Attachment,
};

/// Most bytes that are read of what a program answers.
const MOST: usize = 64 * 1024;

/// A program.
pub(super) struct Program {
    egress: Egress,
    url: Url,
    secret: Zeroizing<String>,
}

impl Program {
    pub fn line(egress: &Egress, url: Url, secret: Zeroizing<String>) -> Line {
        Box::new(Program { egress: egress.clone(), url, secret })
    }
}

#[async_trait]
impl Messenger for Program {
    async fn open(&self, _how: &Opening<'_>) -> Result<SpeaksAs, Refused> {
        let checked = self.egress.request(Method::POST, self.url.clone()).map(drop);
        checked.map_err(|blocked| Refused::fatal(blocked.code()))?;
        let host = self.url.host_str().unwrap_or_default().to_owned();
        Ok(SpeaksAs { id: host.clone(), name: host })
    }

    fn parts(&self, content: &ChannelContent) -> Vec<Part> {
        vec![Part { marked: content.text.clone(), plain: content.text.clone() }]
    }

    async fn say(&self, saying: &Saying<'_>) -> Result<String, Refused> {
        let Saying { content, id, .. } = *saying;
        let now = OffsetDateTime::now_utc();
        let timestamp = now.format(&Rfc3339).unwrap_or_default();
        let body = json!({ "type": "channel.message.outbound", "timestamp": timestamp,
            "data": { "id": id, "chatId": content.chat_id, "text": content.text,
                "format": if content.format == ChannelFormat::Markdown { "markdown" } else { "plain" },
                "replyToMessageId": content.reply_to_message_id } })
        .to_string();
        let seconds = now.unix_timestamp();
        let signature = webhook_signature(&self.secret, id, seconds, body.as_bytes());
        let signature = signature.ok_or_else(|| Refused::fatal("no_secret"))?;
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        for (name, value) in
            [("webhook-id", id), ("webhook-timestamp", &seconds.to_string()), ("webhook-signature", &signature)]
        {
            let value = HeaderValue::from_str(value).map_err(|_| Refused::lasting("bad_id"))?;
            headers.insert(HeaderName::from_static(name), value);
        }
        let (method, body) = (Method::POST, Some(body.into()));
        let errand = Errand { method, url: self.url.clone(), headers, body, patience: PATIENCE, most: MOST };
        let reply = self.egress.fetch(errand).await?;
        if reply.status.is_success() {
            return Ok(id.to_owned());
        }
        Err(match reply.status.as_u16() {
            // It wants no more of them (Standard Webhooks).
            410 => Refused::fatal("gone"),
            408 | 409 | 425 | 429 | 500..=599 => Refused::passing("unavailable", retry_after(&reply.headers)),
            _ => Refused::lasting("refused"),
        })
    }

    async fn file(&self, attachment: &Attachment, most: usize) -> Result<Bytes, Refused> {
        let url = attachment.url.as_deref().and_then(|url| Url::parse(url).ok());
        let url = url.ok_or_else(|| Refused::lasting("bad_url"))?;
        download(&self.egress, url, HeaderMap::new(), most).await
    }
}

/// How long the other side wants to be left alone, in seconds (RFC 9110, 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get("retry-after").and_then(|after| after.to_str().ok()?.parse().ok()).map(Duration::from_secs)
}

/// What is at an address, if it has no more than `most` bytes.
pub(super) async fn download(egress: &Egress, url: Url, headers: HeaderMap, most: usize) -> Result<Bytes, Refused> {
    let errand = Errand { method: Method::GET, url, headers, body: None, patience: PATIENCE, most };
    let reply = match egress.fetch(errand).await {
        // It will not become shorter.
        Err(EgressError::TooLong(_)) => return Err(Refused::lasting("too_long")),
        fetched => fetched?,
    };
    if reply.status.is_success() {
        return Ok(reply.body);
    }
    let refused = Refused::of_status(reply.status, retry_after(&reply.headers));
    // A file that may not be had ends no connection.
    Err(Refused { fatal: false, ..refused })
}
