//! Events of channels: an organization's connections to messengers, and what is said in the chats there (integrations.md §15,
//! §25.4). Tokens and secrets are in none of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Personal, domain_events};

/// How what is said there comes here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChannelMode {
    /// The other side calls.
    #[default]
    Webhook,
    /// It is asked, again and again.
    Polling,
    /// A connection to it is held open, over which it tells.
    Gateway,
}

/// How a connection is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChannelStatus {
    /// Nobody has asked for it yet.
    #[default]
    Pending,
    /// It is being made.
    Connecting,
    /// It stands.
    Connected,
    /// It was ended.
    Disconnected,
    /// Something is wrong with it.
    Error,
}

/// What the other side says became of something that was said there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChannelReceipt {
    /// It is on its way.
    Sent,
    /// It has arrived.
    Delivered,
    /// Somebody has read it.
    Read,
    /// It will not arrive.
    Failed,
}

domain_events! {
    /// What can have happened to a connection to a messenger.
    ChannelConnectionEvent: Integrations / "channel-connection" {
        /// It is to be made, or made anew.
        ChannelConnectRequested = "symbia.integrations.channel-connection.channel-connect-requested.v1" {
            connection_id: String,
            org_id: String,
            /// Which messenger: `telegram`, `slack`, `whatsapp`, `discord`, `email` or `webhook`.
            channel_type: String,
            /// In whose name is said here what is said there.
            owner_id: String,
            /// The bot's token in the vault.
            credential_id: Option<String>,
            mode: ChannelMode,
            /// Where the other side calls.
            webhook_url: String,
            /// Where it is called.
            target_url: Option<String>,
            /// Where the secret is kept that calls carry or are signed with.
            secret_ref: String,
            /// SHA-256 of it, in hexadecimal digits.
            secret_hash: String,
            /// What was said before is left out.
            drop_pending_updates: bool,
            /// Keys of the assistants that take part in conversations that begin there.
            assistants: Vec<String>,
            /// Counts how often it was asked for, from 1.
            attempt: u32,
            /// The account there that is to speak for us, where the token alone does not say.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            account: Option<String>,
            /// As whom it is signed in there, where that is not the account.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            login: Option<String>,
        }
        /// It stands.
        ChannelConnected = "symbia.integrations.channel-connection.channel-connected.v1" {
            connection_id: String,
            attempt: u32,
            /// The account there that speaks for us.
            account_id: String,
            account_name: String,
        }
        /// It could not be made.
        ChannelConnectFailed = "symbia.integrations.channel-connection.channel-connect-failed.v1" {
            connection_id: String,
            attempt: u32,
            code: String,
        }
        /// It does better, or worse.
        ChannelStatusChanged = "symbia.integrations.channel-connection.channel-status-changed.v1" {
            connection_id: String,
            previous_status: ChannelStatus,
            new_status: ChannelStatus,
            reason: Option<String>,
            error: Option<String>,
            /// It is used no more until it is made anew.
            disabled: bool,
        }
        /// It failed at something, so many times in a row.
        ChannelErrorRecorded = "symbia.integrations.channel-connection.channel-error-recorded.v1" {
            connection_id: String,
            code: String,
            consecutive: u32,
        }
        /// So much was told that some of it was not taken in.
        ChannelFloodRefused = "symbia.integrations.channel-connection.channel-flood-refused.v1" {
            connection_id: String,
            /// How much.
            count: u32,
            /// RFC 3339.
            first_at: String,
            last_at: String,
        }
        /// Files that came along are not kept, since so much was kept lately.
        ChannelFilesRefused = "symbia.integrations.channel-connection.channel-files-refused.v1" {
            connection_id: String,
            /// How many.
            count: u32,
            /// RFC 3339.
            first_at: String,
            last_at: String,
        }
        /// It does again what it failed at.
        ChannelRecovered = "symbia.integrations.channel-connection.channel-recovered.v1" { connection_id: String }
        /// It was ended.
        ChannelDisconnected = "symbia.integrations.channel-connection.channel-disconnected.v1" {
            connection_id: String,
            channel_type: String,
            owner_id: String,
            credential_id: Option<String>,
            secret_ref: String,
            by: String,
        }
        /// It is no more.
        ChannelRemoved = "symbia.integrations.channel-connection.channel-removed.v1" {
            connection_id: String,
            by: String,
        }
    }
}

domain_events! {
    /// What can have happened in a chat of a connection.
    ChannelChatEvent: Integrations / "channel-chat" {
        /// Something was said there.
        ChannelMessageReceived = "symbia.integrations.channel-chat.channel-message-received.v1" {
            /// Keyed hash of connection and chat.
            chat_key: String,
            org_id: String,
            connection_id: String,
            /// The other side's id of the call that told it.
            update_id: String,
            vendor_message_id: String,
            /// Its conversation here, and its id there.
            conversation_id: String,
            message_id: String,
            content_type: String,
            /// A sealed JSON object: chat, sender, text, attachments.
            body: Personal,
            /// What an answer needs besides the chat, sealed, as the messenger's own code wrote it.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            thread: Option<Personal>,
        }
        /// Somebody there replaced the text of what they had said.
        ChannelMessageEdited = "symbia.integrations.channel-chat.channel-message-edited.v1" {
            chat_key: String,
            org_id: String,
            connection_id: String,
            update_id: String,
            vendor_message_id: String,
            conversation_id: String,
            message_id: String,
            content_type: String,
            /// A sealed JSON object: chat, sender, text, attachments.
            body: Personal,
        }
        /// Somebody there took back what they had said.
        ChannelMessageWithdrawn = "symbia.integrations.channel-chat.channel-message-withdrawn.v1" {
            chat_key: String,
            org_id: String,
            connection_id: String,
            update_id: String,
            vendor_message_id: String,
            conversation_id: String,
            message_id: String,
        }
        /// It is said in the conversation now.
        ChannelMessagePosted = "symbia.integrations.channel-chat.channel-message-posted.v1" {
            chat_key: String,
            update_id: String,
        }
        /// It is not said in the conversation, and will not be.
        ChannelUpdateIgnored = "symbia.integrations.channel-chat.channel-update-ignored.v1" {
            chat_key: String,
            update_id: String,
            reason: String,
        }
        /// Something is to be said there, after what is to be said before it.
        ChannelMessageQueued = "symbia.integrations.channel-chat.channel-message-queued.v1" {
            chat_key: String,
            org_id: String,
            connection_id: String,
            delivery_id: String,
            conversation_id: Option<String>,
            message_id: Option<String>,
            /// A sealed JSON object: chat, text, format.
            content: Personal,
            by: String,
        }
        /// It is being said.
        ChannelDeliveryStarted = "symbia.integrations.channel-chat.channel-delivery-started.v1" {
            chat_key: String,
            connection_id: String,
            delivery_id: String,
            attempt: u32,
        }
        /// A part of it was said.
        ChannelPartDelivered = "symbia.integrations.channel-chat.channel-part-delivered.v1" {
            chat_key: String,
            delivery_id: String,
            /// From 1.
            part: u32,
            parts: u32,
            vendor_message_id: String,
        }
        /// It could not be said now: another attempt follows.
        ChannelDeliveryDeferred = "symbia.integrations.channel-chat.channel-delivery-deferred.v1" {
            chat_key: String,
            delivery_id: String,
            attempt: u32,
            code: String,
            /// RFC 3339.
            retry_at: String,
        }
        /// All of it was said.
        ChannelMessageDelivered = "symbia.integrations.channel-chat.channel-message-delivered.v1" {
            chat_key: String,
            connection_id: String,
            delivery_id: String,
            vendor_message_ids: Vec<String>,
        }
        /// The other side says what became of a part of it.
        ChannelReceiptNoted = "symbia.integrations.channel-chat.channel-receipt-noted.v1" {
            chat_key: String,
            connection_id: String,
            delivery_id: String,
            vendor_message_id: String,
            receipt: ChannelReceipt,
            /// Why it failed.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            code: Option<String>,
        }
        /// It is not said, or not to its end.
        ChannelMessageFailed = "symbia.integrations.channel-chat.channel-message-failed.v1" {
            chat_key: String,
            connection_id: String,
            delivery_id: String,
            code: String,
        }
    }
}
