//! Telegram's Bot API: one call at a time, and what its refusals mean.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::{
    Method, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde_json::{Value, json};
use symbia_commands::integrations::ChannelContent;
use symbia_egress::{Egress, Errand, Policy, Reply, Rules};
use symbia_events::integrations::ChannelMode;

use super::{
    super::provider::ApiKey,
    line::Line,
    markup::{Part, TELEGRAM_HTML, parts},
    messenger::{Messenger, Opening, PATIENCE, Refused, Saying, SpeaksAs},
    program::download,
    update::Attachment,
};

/// Where Telegram is.
pub const TELEGRAM_API: &str = "https://api.telegram.org";
/// Most bytes of an answer: a hundred updates.
const MOST: usize = 4 * 1024 * 1024;
/// How long an answer may take beyond the time for which it may wait.
const BEYOND: Duration = Duration::from_secs(10);
/// How long it shows that somebody is typing.
const TYPING: Duration = Duration::from_secs(5);
/// What is told of chats.
const UPDATES: [&str; 4] = ["message", "edited_message", "channel_post", "edited_channel_post"];

/// Telegram, or a server that speaks its Bot API. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Telegram {
    base: String,
    egress: Egress,
}

impl Telegram {
    /// A server; tokens go to no other.
    ///
    /// # Errors
    /// The base is no http(s) URL, or this machine can make no HTTP client.
    pub fn new(base: &str) -> Result<Self, String> {
        let (base, egress) = only(base)?;
        Ok(Telegram { base, egress })
    }

    /// The same as far as an organization's egress policy lets it.
    #[must_use]
    pub fn within(&self, policy: Option<Arc<Policy>>) -> Self {
        Telegram { egress: self.egress.within(policy), ..self.clone() }
    }

    // A token is a part of the path, and of nothing else.
    fn url(&self, kind: &str, token: &ApiKey, rest: &str) -> Result<Url, Refused> {
        let (token, bad) = (token.reveal(), || Refused::fatal("bad_token"));
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_alphanumeric() || b":_-".contains(&b)) {
            return Err(bad());
        }
        Url::parse(&format!("{}{kind}/bot{token}/{rest}", self.base)).map_err(|_| bad())
    }

    async fn call(&self, token: &ApiKey, method: &str, body: &Value, patience: Duration) -> Result<Value, Refused> {
        let url = self.url("", token, method)?;
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let body = Some(body.to_string().into());
        let errand = Errand { method: Method::POST, url, headers, body, patience, most: MOST };
        read(&self.egress.fetch(errand).await?)
    }
}

/// A server that an operator named, and calls that go there and nowhere else.
pub(super) fn only(base: &str) -> Result<(String, Egress), String> {
    let base = base.trim_end_matches('/').to_owned();
    let url = Url::parse(&base).map_err(|e| format!("'{base}': {e}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(format!("'{base}' is no http(s) URL"));
    }
    let egress = Egress::new(Rules::only(&url)).map_err(|e| e.to_string())?;
    Ok((base, egress))
}

fn read(reply: &Reply) -> Result<Value, Refused> {
    let mut said: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    if reply.status.is_success() && said["ok"] == true {
        return Ok(said["result"].take());
    }
    let after = said["parameters"]["retry_after"].as_u64().map(Duration::from_secs);
    let description = said["description"].as_str().unwrap_or_default();
    Err(match reply.status.as_u16() {
        // Unknown tokens are no paths.
        404 => Refused::fatal("unauthorized"),
        409 => Refused::passing("conflict", after),
        400 if description.contains("can't parse entities") => Refused::lasting("unparsed"),
        _ => Refused::of_status(reply.status, after),
    })
}

/// A bot.
pub(super) struct TelegramBot {
    telegram: Telegram,
    key: ApiKey,
}

// A number, unless it is the name of a public channel.
fn chat_of(id: &str) -> Value {
    id.parse::<i64>().map_or_else(|_| json!(id), |number| json!(number))
}

impl TelegramBot {
    pub fn line(telegram: &Telegram, key: ApiKey) -> Line {
        Box::new(TelegramBot { telegram: telegram.clone(), key })
    }

    async fn call(&self, method: &str, body: &Value) -> Result<Value, Refused> {
        self.telegram.call(&self.key, method, body, PATIENCE).await
    }
}

#[async_trait]
impl Messenger for TelegramBot {
    async fn open(&self, how: &Opening<'_>) -> Result<SpeaksAs, Refused> {
        let dropped = how.drop_pending_updates;
        let (method, body) = match (how.mode, how.secret) {
            (ChannelMode::Polling | ChannelMode::Gateway, _) => {
                ("deleteWebhook", json!({ "drop_pending_updates": dropped }))
            }
            (ChannelMode::Webhook, Some(secret)) => (
                "setWebhook",
                json!({ "url": how.webhook_url, "secret_token": secret.as_str(), "allowed_updates": UPDATES,
                    "drop_pending_updates": dropped }),
            ),
            (ChannelMode::Webhook, None) => return Err(Refused::lasting("no_secret")),
        };
        let me = self.call("getMe", &json!({})).await?;
        self.call(method, &body).await?;
        let id = me["id"].as_i64().map(|id| id.to_string()).ok_or_else(|| Refused::lasting("no_account"))?;
        let name = me["username"].as_str().or(me["first_name"].as_str()).unwrap_or_default();
        Ok(SpeaksAs { id, name: name.chars().take(200).collect() })
    }

    async fn close(&self) -> Result<(), Refused> {
        self.call("deleteWebhook", &json!({})).await.map(drop)
    }

    async fn state(&self, mode: &str) -> Result<Option<String>, Refused> {
        self.call("getMe", &json!({})).await?;
        if mode == "polling" {
            return Ok(None);
        }
        let info = self.call("getWebhookInfo", &json!({})).await?;
        if info["url"].as_str().unwrap_or_default().is_empty() {
            return Ok(Some("webhook_gone".to_owned()));
        }
        let erred = info["last_error_message"].as_str().is_some_and(|message| !message.is_empty());
        Ok(erred.then(|| "webhook_failing".to_owned()))
    }

    async fn updates(&self, offset: i64, waits: Duration) -> Result<Vec<Value>, Refused> {
        let body = json!({ "offset": offset, "timeout": waits.as_secs(), "allowed_updates": UPDATES });
        match self.telegram.call(&self.key, "getUpdates", &body, waits + BEYOND).await? {
            Value::Array(updates) => Ok(updates),
            _ => Err(Refused::passing("unavailable", None)),
        }
    }

    fn parts(&self, content: &ChannelContent) -> Vec<Part> {
        parts(&content.text, content.format, &TELEGRAM_HTML)
    }

    async fn say(&self, saying: &Saying<'_>) -> Result<String, Refused> {
        let Saying { content, part, .. } = saying;
        let mut body = json!({ "chat_id": chat_of(&content.chat_id), "text": part.marked, "parse_mode": "HTML",
            "disable_web_page_preview": content.disable_preview, "disable_notification": content.silent });
        if let Some(reply_to) = content.reply_to_message_id.as_ref().and_then(|id| id.parse::<i64>().ok()) {
            body["reply_to_message_id"] = json!(reply_to);
            body["allow_sending_without_reply"] = json!(true);
        }
        let mut sent = self.call("sendMessage", &body).await;
        if matches!(&sent, Err(refused) if refused.code == "unparsed") {
            // Better plain than not at all.
            body["text"] = json!(part.plain);
            body.as_object_mut().and_then(|body| body.remove("parse_mode"));
            sent = self.call("sendMessage", &body).await;
        }
        Ok(sent?["message_id"].as_i64().map(|id| id.to_string()).unwrap_or_default())
    }

    async fn shows_typing(&self, chat: &str, _message: &str) -> Result<Option<Duration>, Refused> {
        let body = json!({ "chat_id": chat_of(chat), "action": "typing" });
        self.call("sendChatAction", &body).await.map(|_| Some(TYPING))
    }

    async fn file(&self, attachment: &Attachment, most: usize) -> Result<Bytes, Refused> {
        let id = attachment.file_id.as_deref().ok_or_else(|| Refused::lasting("no_file"))?;
        let file = self.call("getFile", &json!({ "file_id": id })).await?;
        let path = file["file_path"].as_str().filter(|path| !path.contains("..") && !path.contains(['?', '#']));
        let path = path.ok_or_else(|| Refused::lasting("no_file"))?;
        download(&self.telegram.egress, self.telegram.url("/file", &self.key, path)?, HeaderMap::new(), most).await
    }
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;

    use super::*;

    #[test]
    fn what_a_refusal_means_is_told_and_what_it_says_is_not() {
        let reply = |status: u16, said: Value| {
            let (url, status) = ("https://x.example".parse().unwrap(), StatusCode::from_u16(status).unwrap());
            read(&Reply { url, status, headers: HeaderMap::new(), body: said.to_string().into() })
        };
        assert_eq!(reply(200, json!({ "ok": true, "result": 7 })), Ok(json!(7)));
        let slow = json!({ "ok": false, "description": "Too Many", "parameters": { "retry_after": 3 } });
        let expected = Refused::passing("rate_limited", Some(Duration::from_secs(3)));
        assert_eq!(reply(429, slow), Err(expected));
        assert_eq!(reply(401, json!({ "ok": false })), Err(Refused::fatal("unauthorized")));
        let entities = json!({ "ok": false, "description": "Bad Request: can't parse entities: x" });
        assert_eq!(reply(400, entities), Err(Refused::lasting("unparsed")));
        assert_eq!(reply(200, json!("<html>")), Err(Refused::passing("unavailable", None)));
    }
}
