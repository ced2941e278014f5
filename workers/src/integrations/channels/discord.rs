//! Discord's HTTP API: one call at a time, and what its refusals mean. What is said there comes over its gateway.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::{
    Method, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT},
};
use serde_json::{Value, json};
use symbia_commands::integrations::ChannelContent;
use symbia_egress::{Egress, Errand, Policy, Reply, Rules, Socket, leads_to};
use uuid::Uuid;

use super::{
    super::provider::ApiKey,
    line::Line,
    markup::{DISCORD_MARKDOWN, Part, parts},
    messenger::{Messenger, Opening, PATIENCE, Refused, Saying, SpeaksAs},
    program::{download, retry_after},
    telegram::only,
    update::Attachment,
};

/// Where Discord is, with the version of its API.
pub const DISCORD_API: &str = "https://discord.com/api/v10";
/// Where it keeps files.
const DISCORD_FILES: &str = "https://cdn.discordapp.com";
/// Where its gateways are.
const DISCORD_GATEWAYS: &str = "*.discord.gg";
/// Who asks, as Discord wants to be told.
const AGENT: &str = concat!("DiscordBot (symbia, ", env!("CARGO_PKG_VERSION"), ")");
/// Most bytes of an answer, and of what a gateway tells at once.
const MOST: usize = 256 * 1024;
const MOST_TOLD: usize = 4 * 1024 * 1024;
/// How long it shows that somebody is typing.
const TYPING: Duration = Duration::from_secs(10);
/// What is told of chats: what is said on servers, and to the bot alone, with its words.
const INTENTS: u32 = (1 << 9) | (1 << 12) | (1 << 15);
/// Marks of a message: links show no preview; nobody's telephone rings.
const NO_PREVIEW: u32 = 1 << 2;
const SILENT: u32 = 1 << 12;
/// Longest nonce.
const NONCE: usize = 25;

/// Discord, or a server that speaks its API. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Discord {
    base: String,
    /// Where a server that is not Discord's may have its gateway: at its own place.
    own: Vec<String>,
    egress: Egress,
    gateways: Egress,
    files: Egress,
}

impl Discord {
    /// A server; tokens go to no other, but for Discord's own gateways.
    ///
    /// # Errors
    /// The base is no http(s) URL, or this machine can make no HTTP client.
    pub fn new(base: &str) -> Result<Self, String> {
        let ((base, egress), (_, files)) = (only(base)?, only(DISCORD_FILES)?);
        let gateways = Egress::new(Rules::default()).map_err(|e| e.to_string())?;
        let url = Url::parse(&base).map_err(|e| e.to_string())?;
        let host = url.host_str().unwrap_or_default();
        let own = vec![url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))];
        Ok(Discord { base, own, egress, gateways, files })
    }

    /// The same as far as an organization's egress policy lets it.
    #[must_use]
    pub fn within(&self, policy: Option<Arc<Policy>>) -> Self {
        Discord {
            egress: self.egress.within(policy.clone()),
            gateways: self.gateways.within(policy.clone()),
            files: self.files.within(policy),
            ..self.clone()
        }
    }
}

fn read(reply: &Reply) -> Result<Value, Refused> {
    let said: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    if reply.status.is_success() {
        return Ok(said);
    }
    let seconds = said["retry_after"].as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let after = seconds.or_else(|| retry_after(&reply.headers));
    Err(match said["code"].as_i64() {
        _ if matches!(reply.status.as_u16(), 401 | 429) => Refused::of_status(reply.status, after),
        // No such channel, no access to it, no right to write there, nobody who wants to hear it.
        Some(10_003) => Refused::lasting("not_found"),
        Some(50_001 | 50_007 | 50_013) => Refused::lasting("forbidden"),
        Some(40_001 | 40_002) => Refused::fatal("unauthorized"),
        _ => Refused::of_status(reply.status, after),
    })
}

/// A bot.
pub(super) struct DiscordBot {
    discord: Discord,
    key: ApiKey,
}

// An id is a part of the path, and of nothing else.
fn snowflake(id: &str) -> Result<&str, Refused> {
    let is_one = (1..=20).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_digit());
    if is_one { Ok(id) } else { Err(Refused::lasting("bad_id")) }
}

impl DiscordBot {
    pub fn new(discord: &Discord, key: ApiKey) -> Self {
        DiscordBot { discord: discord.clone(), key }
    }

    pub fn line(discord: &Discord, key: ApiKey) -> Line {
        Box::new(Self::new(discord, key))
    }

    fn headers(&self) -> Result<HeaderMap, Refused> {
        let token = HeaderValue::from_str(&format!("Bot {}", self.key.reveal()));
        let mut token = token.map_err(|_| Refused::fatal("bad_token"))?;
        token.set_sensitive(true);
        Ok(HeaderMap::from_iter([(AUTHORIZATION, token), (USER_AGENT, HeaderValue::from_static(AGENT))]))
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Refused> {
        let mut headers = self.headers()?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let url = Url::parse(&format!("{}/{path}", self.discord.base)).map_err(|_| Refused::lasting("bad_url"))?;
        // A call that says nothing has a body nevertheless, or a length of it.
        let body = body.map(|body| body.to_string().into()).or_else(|| (method == Method::POST).then(Bytes::new));
        let errand = Errand { method, url, headers, body, patience: PATIENCE, most: MOST };
        read(&self.discord.egress.fetch(errand).await?)
    }

    /// Where a new session is begun.
    pub async fn gateway(&self) -> Result<String, Refused> {
        let found = self.call(Method::GET, "gateway/bot", None).await?;
        let limit = &found["session_start_limit"];
        if limit["remaining"] == 0 {
            let after = limit["reset_after"].as_u64().map(Duration::from_millis);
            return Err(Refused::passing("session_limit", after));
        }
        found["url"].as_str().map(str::to_owned).ok_or_else(|| Refused::passing("unavailable", None))
    }

    /// Opens a gateway: Discord's own, or one at the place of the server that an operator named.
    pub async fn socket(&self, at: &str) -> Result<Socket, Refused> {
        let bad = || Refused::passing("bad_gateway", None);
        let mut url = Url::parse(at).map_err(|_| bad())?;
        url.set_query(Some("v=10&encoding=json"));
        let own = leads_to(&url, &self.discord.own);
        if !(own || url.scheme() == "wss" && leads_to(&url, &[DISCORD_GATEWAYS.to_owned()])) {
            return Err(bad());
        }
        let egress = if own { &self.discord.egress } else { &self.discord.gateways };
        let headers = HeaderMap::from_iter([(USER_AGENT, HeaderValue::from_static(AGENT))]);
        Ok(egress.websocket(url, headers, PATIENCE, MOST_TOLD).await?)
    }

    /// What begins a session.
    pub fn identify(&self) -> Value {
        let properties = json!({ "os": std::env::consts::OS, "browser": "symbia", "device": "symbia" });
        json!({ "op": 2, "d": { "token": self.key.reveal(), "intents": INTENTS, "properties": properties } })
    }

    /// What goes on with one, behind a sequence number.
    pub fn resume(&self, session: &str, sequence: u64) -> Value {
        json!({ "op": 6, "d": { "token": self.key.reveal(), "session_id": session, "seq": sequence } })
    }
}

// The same at each attempt, and no longer than Discord takes.
fn nonce(id: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, id.as_bytes()).simple().to_string().chars().take(NONCE).collect()
}

#[async_trait]
impl Messenger for DiscordBot {
    async fn open(&self, _how: &Opening<'_>) -> Result<SpeaksAs, Refused> {
        let me = self.call(Method::GET, "users/@me", None).await?;
        let id = me["id"].as_str().ok_or_else(|| Refused::lasting("no_account"))?;
        let name = me["username"].as_str().unwrap_or_default();
        Ok(SpeaksAs { id: id.to_owned(), name: name.chars().take(200).collect() })
    }

    async fn state(&self, _mode: &str) -> Result<Option<String>, Refused> {
        self.call(Method::GET, "users/@me", None).await.map(|_| None)
    }

    fn parts(&self, content: &ChannelContent) -> Vec<Part> {
        parts(&content.text, content.format, &DISCORD_MARKDOWN)
    }

    async fn say(&self, saying: &Saying<'_>) -> Result<String, Refused> {
        let (content, channel) = (saying.content, snowflake(&saying.content.chat_id)?);
        let flags = if content.disable_preview { NO_PREVIEW } else { 0 } | if content.silent { SILENT } else { 0 };
        // Whoever is named in an answer is not called by it. A part that was said already is not said again.
        let mut body = json!({ "content": saying.part.marked, "allowed_mentions": { "parse": [] }, "flags": flags,
            "nonce": nonce(saying.id), "enforce_nonce": true });
        if let Some(reply_to) = content.reply_to_message_id.as_deref().filter(|id| snowflake(id).is_ok()) {
            body["message_reference"] = json!({ "message_id": reply_to, "fail_if_not_exists": false });
        }
        let said = self.call(Method::POST, &format!("channels/{channel}/messages"), Some(&body)).await?;
        Ok(said["id"].as_str().unwrap_or_default().to_owned())
    }

    async fn shows_typing(&self, chat: &str, _message: &str) -> Result<Option<Duration>, Refused> {
        let channel = snowflake(chat)?;
        self.call(Method::POST, &format!("channels/{channel}/typing"), None).await.map(|_| Some(TYPING))
    }

    // An address of a file is signed by itself: no token goes there.
    async fn file(&self, attachment: &Attachment, most: usize) -> Result<Bytes, Refused> {
        let url = attachment.url.as_deref().and_then(|url| Url::parse(url).ok());
        let url = url.ok_or_else(|| Refused::lasting("no_file"))?;
        let own = leads_to(&url, &self.discord.own);
        let egress = if own { &self.discord.egress } else { &self.discord.files };
        download(egress, url, HeaderMap::new(), most).await
    }
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;

    use super::*;

    #[test]
    fn what_a_refusal_means_is_told() {
        let reply = |status: u16, said: Value| {
            let (url, status) = ("https://x.example".parse().unwrap(), StatusCode::from_u16(status).unwrap());
            read(&Reply { url, status, headers: HeaderMap::new(), body: said.to_string().into() })
        };
        assert_eq!(reply(204, Value::Null), Ok(Value::Null));
        let waits = Refused::passing("rate_limited", Some(Duration::from_millis(1500)));
        assert_eq!(reply(429, json!({ "retry_after": 1.5, "global": false })), Err(waits));
        assert_eq!(reply(401, json!({ "code": 0 })), Err(Refused::fatal("unauthorized")));
        assert_eq!(reply(403, json!({ "code": 50013 })), Err(Refused::lasting("forbidden")));
        assert_eq!(reply(502, json!("<html>")), Err(Refused::passing("unavailable", None)));
        assert!(nonce("a.1") != nonce("a.2") && nonce("a.1").len() == NONCE);
        assert!(snowflake("1/../2").is_err());
    }
}
