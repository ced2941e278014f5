//! What messengers tell, read into one shape (integrations.md §15.2, §15.3).

mod discord;
mod email;
mod program;
mod slack;
mod telegram;
mod whatsapp;

pub(super) use email::{MailThread, mail_place, token_of};
pub(super) use slack::slack_place;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use symbia_commands::integrations::{ChannelChange, DISCORD, EMAIL, SLACK, TELEGRAM, WHATSAPP};
use symbia_events::integrations::ChannelReceipt;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Longest id and name that is taken over.
const MAX_LABEL: usize = 200;
/// Longest address of a file.
const MAX_URL: usize = 2048;
/// Most attachments of a message.
const MOST_ATTACHMENTS: usize = 16;

/// Something that was said in a chat.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Inbound {
    /// Its id there.
    pub id: String,
    /// `text`, `image`, `document`, `audio`, `video` or `sticker`.
    pub content_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
    pub sender: Party,
    pub chat: Chat,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to_message_id: Option<String>,
    /// RFC 3339.
    pub timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edited_at: Option<String>,
    /// What an answer needs besides the chat: kept apart from it, and given to the line that says the answer.
    #[serde(skip)]
    pub thread: Option<String>,
}

/// Who said it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Party {
    pub id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_bot: bool,
}

/// Where.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Chat {
    pub id: String,
    /// `private`, `group`, `channel` or `thread`.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What came along; the other side keeps it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Attachment {
    #[serde(rename = "type")]
    pub kind: String,
    /// Its id there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mime_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// What is in it, as base64, where it came along with the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Its id here, once it is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// Why it is not here, once that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<String>,
}

/// What a call told.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Told {
    /// Something was said, said anew, or taken back: then, of the message, its id and its chat are known.
    Message { update_id: String, change: ChannelChange, message: Box<Inbound> },
    /// What became of something that we said.
    Receipt { chat: String, vendor_message_id: String, receipt: ChannelReceipt, code: Option<String> },
    /// Something else.
    Nothing,
    /// It is no such call.
    Malformed,
}

impl Told {
    /// What a call of a messenger tells to an account of ours there; `id` is the call's own, where its body has none.
    pub fn by(channel_type: &str, account: Option<&str>, body: &str, id: Option<&str>) -> Vec<Self> {
        vec![match channel_type {
            TELEGRAM => telegram::read(body),
            SLACK => slack::read(body, account.and_then(|account| account.split_once(':')).map(|(team, _)| team)),
            DISCORD => return discord::read(body, account),
            EMAIL => return email::read(body, account, id),
            WHATSAPP => return whatsapp::read(body, account),
            _ => program::read(body, id),
        }]
    }
}

fn number(value: &Value) -> Option<String> {
    value.as_i64().map(|number| number.to_string())
}

fn label(value: &Value) -> Option<String> {
    let text: String = value.as_str()?.chars().filter(|c| !c.is_control()).take(MAX_LABEL).collect();
    (!text.is_empty()).then_some(text)
}

fn instant(seconds: &Value) -> Option<String> {
    OffsetDateTime::from_unix_timestamp(seconds.as_i64()?).ok()?.format(&Rfc3339).ok()
}
