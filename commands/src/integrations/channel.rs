//! Channels (integrations.md §15): an organization's connections to messengers, and the chats there.

mod chat;
mod chat_commands;
mod connection;
mod receipts;

pub use chat::*;
pub use chat_commands::*;
pub use connection::*;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Actor, Rejection};

/// What the references of a connection's secrets begin with.
#[must_use]
pub fn channel_secret_prefix(org: &str, connection_id: &str) -> String {
    format!("channel:{org}:{connection_id}:")
}

/// What a chat's key is a keyed hash of. The link of its conversation has the same id.
#[must_use]
pub fn chat_name(channel_type: &str, connection_id: &str, chat_id: &str) -> String {
    [channel_type, connection_id, chat_id].join("\0")
}

/// Something that is to be said in a chat: what is sealed as its content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChannelContent {
    /// The chat's id there.
    pub chat_id: String,
    /// What is to be said.
    pub text: String,
    /// As what it is written.
    #[serde(default)]
    pub format: ChannelFormat,
    /// The message there that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to_message_id: Option<String>,
    /// Links show no preview.
    #[serde(default)]
    pub disable_preview: bool,
    /// Nobody's telephone rings.
    #[serde(default)]
    pub silent: bool,
}

/// What somebody did in a chat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChannelChange {
    /// They said something.
    #[default]
    Said,
    /// They gave what they had said a new text.
    Edited,
    /// They took it back.
    Withdrawn,
}

/// As what a text is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelFormat {
    /// CommonMark.
    #[default]
    Markdown,
    /// Every character is itself.
    Plain,
}

fn platforms(by: &Actor) -> Result<(), Rejection> {
    if by.is_platform() { Ok(()) } else { Err(Rejection::forbidden("the platform does this by itself")) }
}

#[cfg(test)]
mod tests;
