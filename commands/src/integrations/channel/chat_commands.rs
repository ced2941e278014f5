//! What a chat can be asked to do.

use symbia_events::{Personal, integrations::ChannelReceipt};

use super::ChannelChange;
use crate::domain_commands;

domain_commands! {
    /// What a chat can be asked to do. The platform's own, but for saying something.
    ChannelChatCommand: Integrations / "channel-chat" {
        /// Takes in what was said there.
        IngestChannelUpdate = "symbia.cmd.integrations.ingest-channel-update.v1" {
            chat_key: String,
            org_id: String,
            connection_id: String,
            update_id: String,
            vendor_message_id: String,
            #[serde(default)]
            change: ChannelChange,
            conversation_id: String,
            message_id: String,
            /// What it is; empty for what is taken back.
            #[serde(default)]
            content_type: String,
            /// Absent for what is taken back.
            #[serde(default)]
            body: Option<Personal>,
            /// What an answer needs besides the chat.
            #[serde(default)]
            thread: Option<Personal>,
        }
        /// It is said in the conversation now.
        RecordChannelPosted = "symbia.cmd.integrations.record-channel-posted.v1" { chat_key: String, update_id: String }
        /// It is not, and will not be.
        IgnoreChannelUpdate = "symbia.cmd.integrations.ignore-channel-update.v1" {
            chat_key: String,
            update_id: String,
            reason: String,
        }
        /// Has something said there: by who configures the organization's integrations, and by the platform.
        SendChannelMessage = "symbia.cmd.integrations.send-channel-message.v1" {
            chat_key: String,
            org_id: String,
            connection_id: String,
            /// A UUID; the same id again changes nothing.
            delivery_id: String,
            #[serde(default)]
            conversation_id: Option<String>,
            #[serde(default)]
            message_id: Option<String>,
            content: Personal,
        }
        /// Its time has come again.
        RetryChannelDelivery = "symbia.cmd.integrations.retry-channel-delivery.v1" {
            chat_key: String,
            delivery_id: String,
            attempt: u32,
        }
        /// A part of it was said.
        RecordChannelPart = "symbia.cmd.integrations.record-channel-part.v1" {
            chat_key: String,
            delivery_id: String,
            part: u32,
            parts: u32,
            vendor_message_id: String,
        }
        /// It cannot be said now.
        DeferChannelDelivery = "symbia.cmd.integrations.defer-channel-delivery.v1" {
            chat_key: String,
            delivery_id: String,
            attempt: u32,
            code: String,
            /// RFC 3339.
            retry_at: String,
        }
        /// All of it was said.
        RecordChannelDelivered = "symbia.cmd.integrations.record-channel-delivered.v1" {
            chat_key: String,
            delivery_id: String,
        }
        /// The other side says what became of a part.
        NoteChannelReceipt = "symbia.cmd.integrations.note-channel-receipt.v1" {
            chat_key: String,
            vendor_message_id: String,
            receipt: ChannelReceipt,
            #[serde(default)]
            code: Option<String>,
        }
        /// It cannot be said.
        FailChannelDelivery = "symbia.cmd.integrations.fail-channel-delivery.v1" {
            chat_key: String,
            delivery_id: String,
            code: String,
        }
    }
}
