//! WhatsApp's Cloud API, a part of Meta's Graph API: one call at a time, and what its refusals mean.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::{
    Method, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde_json::{Value, json};
use symbia_commands::integrations::ChannelContent;
use symbia_egress::{Egress, Errand, Policy, Reply};

use super::{
    super::provider::ApiKey,
    line::Line,
    markup::{Part, WHATSAPP, parts},
    messenger::{Messenger, Opening, PATIENCE, Refused, Saying, SpeaksAs},
    program::{download, retry_after},
    telegram::only,
    update::Attachment,
};

/// Where the Graph API is, with its version.
pub const WHATSAPP_API: &str = "https://graph.facebook.com/v23.0";
/// Where it keeps files.
const WHATSAPP_FILES: &str = "https://lookaside.fbsbx.com";
/// Most bytes of an answer.
const MOST: usize = 256 * 1024;
/// How long it shows that somebody is typing.
const TYPING: Duration = Duration::from_secs(25);
/// Longest name that is taken over, in characters.
const MAX_NAME: usize = 200;

/// WhatsApp, or a server that speaks its Cloud API. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WhatsApp {
    base: String,
    egress: Egress,
    files: Egress,
}

impl WhatsApp {
    /// A server; tokens go to no other, but for WhatsApp's own of files.
    ///
    /// # Errors
    /// The base is no http(s) URL, or this machine can make no HTTP client.
    pub fn new(base: &str) -> Result<Self, String> {
        let ((base, egress), (_, files)) = (only(base)?, only(WHATSAPP_FILES)?);
        Ok(WhatsApp { base, egress, files })
    }

    /// The same as far as an organization's egress policy lets it.
    #[must_use]
    pub fn within(&self, policy: Option<Arc<Policy>>) -> Self {
        WhatsApp { egress: self.egress.within(policy.clone()), files: self.files.within(policy), ..self.clone() }
    }
}

// What an error of the Graph API means (Cloud API, "Error codes").
fn meant(code: i64, after: Option<Duration>) -> Option<Refused> {
    Some(match code {
        0 | 190 => Refused::fatal("unauthorized"),
        3 | 10 | 200..=299 => Refused::fatal("missing_scope"),
        368 | 130_497 | 131_031 => Refused::fatal("account_locked"),
        131_045 | 133_010 => Refused::fatal("unregistered"),
        131_042 => Refused::fatal("unpaid"),
        4 | 80_007 | 130_429 | 131_048 | 131_056 | 133_016 => Refused::passing("rate_limited", after),
        1 | 2 | 131_000 | 131_016 | 131_057 | 133_004 | 133_005 => Refused::passing("unavailable", after),
        131_005 => Refused::lasting("forbidden"),
        131_026 | 131_030 => Refused::lasting("undeliverable"),
        // More than a day after the other side said something, templates alone are taken.
        131_047 => Refused::lasting("window_closed"),
        131_052 | 131_053 => Refused::lasting("no_file"),
        _ => return None,
    })
}

/// What Meta's codes of errors are called on record.
pub(super) fn code_of(code: i64) -> String {
    meant(code, None).map_or_else(|| format!("meta_{code}"), |refused| refused.code)
}

fn read(reply: &Reply) -> Result<Value, Refused> {
    let said: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let error = &said["error"];
    if reply.status.is_success() && error.is_null() {
        return Ok(said);
    }
    let after = retry_after(&reply.headers);
    let known = error["code"].as_i64().and_then(|code| meant(code, after));
    Err(known.unwrap_or_else(|| Refused::of_status(reply.status, after)))
}

/// A telephone number.
pub(super) struct WhatsAppNumber {
    whatsapp: WhatsApp,
    number: String,
    key: ApiKey,
}

impl WhatsAppNumber {
    pub fn line(whatsapp: &WhatsApp, number: &str, key: ApiKey) -> Line {
        Box::new(WhatsAppNumber { whatsapp: whatsapp.clone(), number: number.to_owned(), key })
    }

    fn headers(&self) -> Result<HeaderMap, Refused> {
        let bearer = HeaderValue::from_str(&format!("Bearer {}", self.key.reveal()));
        let mut bearer = bearer.map_err(|_| Refused::fatal("bad_token"))?;
        bearer.set_sensitive(true);
        Ok(HeaderMap::from_iter([(AUTHORIZATION, bearer)]))
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Refused> {
        let mut headers = self.headers()?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let url = Url::parse(&format!("{}/{path}", self.whatsapp.base)).map_err(|_| Refused::lasting("bad_url"))?;
        let body = body.map(|body| body.to_string().into());
        let errand = Errand { method, url, headers, body, patience: PATIENCE, most: MOST };
        read(&self.whatsapp.egress.fetch(errand).await?)
    }

    async fn about(&self) -> Result<Value, Refused> {
        let path = format!("{}?fields=id,display_phone_number,verified_name", self.number);
        self.call(Method::GET, &path, None).await
    }

    async fn post(&self, mut body: Value) -> Result<Value, Refused> {
        body["messaging_product"] = json!("whatsapp");
        self.call(Method::POST, &format!("{}/messages", self.number), Some(&body)).await
    }
}

#[async_trait]
impl Messenger for WhatsAppNumber {
    // Where Meta calls, its own pages are told: nobody else may say.
    async fn open(&self, _how: &Opening<'_>) -> Result<SpeaksAs, Refused> {
        let about = self.about().await?;
        let id = about["id"].as_str().filter(|id| *id == self.number).ok_or_else(|| Refused::lasting("no_account"))?;
        let text = |name: &str| about[name].as_str().unwrap_or_default();
        let name = format!("{} ({})", text("verified_name"), text("display_phone_number"));
        Ok(SpeaksAs { id: id.to_owned(), name: name.chars().take(MAX_NAME).collect() })
    }

    async fn state(&self, _mode: &str) -> Result<Option<String>, Refused> {
        self.about().await.map(|_| None)
    }

    fn parts(&self, content: &ChannelContent) -> Vec<Part> {
        parts(&content.text, content.format, &WHATSAPP)
    }

    async fn say(&self, saying: &Saying<'_>) -> Result<String, Refused> {
        let content = saying.content;
        let mut body = json!({ "recipient_type": "individual", "to": content.chat_id, "type": "text",
            "text": { "body": saying.part.marked, "preview_url": !content.disable_preview } });
        if let Some(reply_to) = &content.reply_to_message_id {
            body["context"] = json!({ "message_id": reply_to });
        }
        let said = self.post(body).await?;
        Ok(said["messages"][0]["id"].as_str().unwrap_or_default().to_owned())
    }

    // Who is told that an answer is being typed is told that their message was read.
    async fn shows_typing(&self, _chat: &str, message: &str) -> Result<Option<Duration>, Refused> {
        let body = json!({ "status": "read", "message_id": message, "typing_indicator": { "type": "text" } });
        self.post(body).await.map(|_| Some(TYPING))
    }

    async fn file(&self, attachment: &Attachment, most: usize) -> Result<Bytes, Refused> {
        let id = attachment.file_id.as_deref().filter(|id| id.bytes().all(|b| b.is_ascii_alphanumeric()));
        let id = id.ok_or_else(|| Refused::lasting("no_file"))?;
        // An address is given for five minutes.
        let path = format!("{id}?phone_number_id={}", self.number);
        let file = self.call(Method::GET, &path, None).await.map_err(|refused| Refused { fatal: false, ..refused })?;
        let url = file["url"].as_str().and_then(|url| Url::parse(url).ok());
        let url = url.ok_or_else(|| Refused::lasting("no_file"))?;
        let own = Url::parse(&self.whatsapp.base).is_ok_and(|base| base.origin() == url.origin());
        let egress = if own { &self.whatsapp.egress } else { &self.whatsapp.files };
        download(egress, url, self.headers()?, most).await
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
        let error = |status: u16, code: i64| reply(status, json!({ "error": { "code": code } })).unwrap_err();
        assert!(reply(200, json!({ "messages": [{ "id": "wamid.1" }] })).is_ok());
        assert_eq!(error(401, 190), Refused::fatal("unauthorized"));
        assert_eq!(error(400, 131_047), Refused::lasting("window_closed"));
        assert_eq!(error(400, 131_056), Refused::passing("rate_limited", None));
        assert_eq!(error(500, 131_000), Refused::passing("unavailable", None));
        assert_eq!(error(400, 100), Refused::lasting("refused"));
        assert_eq!(reply(502, json!("<html>")), Err(Refused::passing("unavailable", None)));
        assert_eq!((code_of(131_026), code_of(1_000_000)), ("undeliverable".to_owned(), "meta_1000000".to_owned()));
    }
}
