//! Slack's Web API: one call at a time, and what its refusals mean.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::{
    Method, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde_json::{Value, json};
use symbia_commands::integrations::{ChannelContent, ChannelFormat};
use symbia_egress::{Egress, Errand, Policy, Reply};

use super::{
    super::provider::ApiKey,
    line::Line,
    markup::{Part, SLACK_MRKDWN, parts},
    messenger::{Messenger, Opening, PATIENCE, Refused, Saying, SpeaksAs},
    program::{download, retry_after},
    telegram::only,
    update::{Attachment, slack_place},
};

/// Where Slack is.
pub const SLACK_API: &str = "https://slack.com/api";
/// Where it keeps files.
const SLACK_FILES: &str = "https://files.slack.com";
/// Most bytes of an answer.
const MOST: usize = 1024 * 1024;
/// Longest name that is taken over, in characters.
const MAX_NAME: usize = 200;

/// Slack, or a server that speaks its Web API. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Slack {
    base: String,
    egress: Egress,
    files: Egress,
}

impl Slack {
    /// A server; tokens go to no other, but for Slack's own of files.
    ///
    /// # Errors
    /// The base is no http(s) URL, or this machine can make no HTTP client.
    pub fn new(base: &str) -> Result<Self, String> {
        let ((base, egress), (_, files)) = (only(base)?, only(SLACK_FILES)?);
        Ok(Slack { base, egress, files })
    }

    /// The same as far as an organization's egress policy lets it.
    #[must_use]
    pub fn within(&self, policy: Option<Arc<Policy>>) -> Self {
        Slack { egress: self.egress.within(policy.clone()), files: self.files.within(policy), ..self.clone() }
    }
}

fn read(reply: &Reply) -> Result<Value, Refused> {
    let said: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    if !reply.status.is_success() {
        return Err(Refused::of_status(reply.status, retry_after(&reply.headers)));
    }
    if said["ok"] == true {
        return Ok(said);
    }
    Err(match said["error"].as_str().unwrap_or_default() {
        "invalid_auth" | "not_authed" | "account_inactive" | "token_revoked" | "token_expired" => {
            Refused::fatal("unauthorized")
        }
        "missing_scope" | "no_permission" | "not_allowed_token_type" => Refused::fatal("missing_scope"),
        "ratelimited" | "rate_limited" => Refused::passing("rate_limited", retry_after(&reply.headers)),
        "channel_not_found" | "not_in_channel" | "is_archived" | "restricted_action" | "user_not_in_channel" => {
            Refused::lasting("forbidden")
        }
        "internal_error" | "fatal_error" | "service_unavailable" | "request_timeout" | "" => {
            Refused::passing("unavailable", None)
        }
        _ => Refused::lasting("refused"),
    })
}

/// A bot of a workspace.
pub(super) struct SlackBot {
    slack: Slack,
    key: ApiKey,
}

impl SlackBot {
    pub fn line(slack: &Slack, key: ApiKey) -> Line {
        Box::new(SlackBot { slack: slack.clone(), key })
    }

    fn headers(&self) -> Result<HeaderMap, Refused> {
        let bearer = HeaderValue::from_str(&format!("Bearer {}", self.key.reveal()));
        let mut bearer = bearer.map_err(|_| Refused::fatal("bad_token"))?;
        bearer.set_sensitive(true);
        Ok(HeaderMap::from_iter([(AUTHORIZATION, bearer)]))
    }

    async fn call(&self, method: &str, body: &Value) -> Result<Value, Refused> {
        let mut headers = self.headers()?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        let url = Url::parse(&format!("{}/{method}", self.slack.base)).map_err(|_| Refused::lasting("bad_url"))?;
        let (method, body) = (Method::POST, Some(body.to_string().into()));
        let errand = Errand { method, url, headers, body, patience: PATIENCE, most: MOST };
        read(&self.slack.egress.fetch(errand).await?)
    }
}

#[async_trait]
impl Messenger for SlackBot {
    // Where Slack calls, its own pages are told: nobody else may say.
    async fn open(&self, _how: &Opening<'_>) -> Result<SpeaksAs, Refused> {
        let me = self.call("auth.test", &json!({})).await?;
        let text = |name: &str| me[name].as_str().unwrap_or_default();
        let (team, user) = (text("team_id"), text("user_id"));
        if user.is_empty() {
            return Err(Refused::lasting("no_account"));
        }
        // A person's token, which an account may be linked with, would speak as that person, and hear itself.
        if text("bot_id").is_empty() {
            return Err(Refused::lasting("not_a_bot"));
        }
        let name = format!("{} ({})", text("user"), text("team"));
        Ok(SpeaksAs { id: format!("{team}:{user}"), name: name.chars().take(MAX_NAME).collect() })
    }

    async fn state(&self, _mode: &str) -> Result<Option<String>, Refused> {
        self.call("auth.test", &json!({})).await.map(|_| None)
    }

    fn parts(&self, content: &ChannelContent) -> Vec<Part> {
        parts(&content.text, content.format, &SLACK_MRKDWN)
    }

    async fn say(&self, saying: &Saying<'_>) -> Result<String, Refused> {
        let Saying { content, part, .. } = saying;
        let (channel, thread) = slack_place(&content.chat_id);
        let mut body = json!({ "channel": channel, "text": part.marked,
            "mrkdwn": content.format == ChannelFormat::Markdown,
            "unfurl_links": !content.disable_preview, "unfurl_media": !content.disable_preview });
        if let Some(thread) = thread.or(content.reply_to_message_id.as_deref()) {
            body["thread_ts"] = json!(thread);
        }
        let said = self.call("chat.postMessage", &body).await?;
        Ok(said["ts"].as_str().unwrap_or_default().to_owned())
    }

    async fn file(&self, attachment: &Attachment, most: usize) -> Result<Bytes, Refused> {
        let url = attachment.url.as_deref().and_then(|url| Url::parse(url).ok());
        let url = url.ok_or_else(|| Refused::lasting("no_file"))?;
        let own = Url::parse(&self.slack.base).is_ok_and(|base| base.origin() == url.origin());
        let egress = if own { &self.slack.egress } else { &self.slack.files };
        download(egress, url, self.headers()?, most).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reqwest::StatusCode;

    use super::*;

    #[test]
    fn what_a_refusal_means_is_told() {
        let reply = |status: u16, after: Option<&'static str>, said: Value| {
            let (url, status) = ("https://x.example".parse().unwrap(), StatusCode::from_u16(status).unwrap());
            let after = after.map(|after| ("retry-after".parse().unwrap(), HeaderValue::from_static(after)));
            read(&Reply { url, status, headers: after.into_iter().collect(), body: said.to_string().into() })
        };
        assert!(reply(200, None, json!({ "ok": true, "ts": "1.2" })).is_ok());
        let waits = Refused::passing("rate_limited", Some(Duration::from_secs(30)));
        assert_eq!(reply(429, Some("30"), json!({ "ok": false, "error": "ratelimited" })), Err(waits));
        let error = |code: &str| reply(200, None, json!({ "ok": false, "error": code })).unwrap_err();
        assert_eq!(error("token_revoked"), Refused::fatal("unauthorized"));
        assert_eq!(error("not_in_channel"), Refused::lasting("forbidden"));
        assert!(error("internal_error").passing && !error("msg_too_long").passing);
        assert_eq!(reply(503, None, json!("<html>")), Err(Refused::passing("unavailable", None)));
    }
}
