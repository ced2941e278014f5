//! Which conversation stands for a chat elsewhere: one at most (messaging.md §8.14, §13.1).

use crate::{Personal, domain_events};

domain_events! {
    /// What can have happened to the link of an external chat.
    ChannelLinkEvent: Messaging / "channel-link" {
        /// What is said in the chat belongs into a conversation.
        ChannelLinked = "symbia.messaging.channel-link.channel-linked.v1" {
            link_id: String,
            org_id: String,
            channel_type: String,
            connection_id: String,
            /// Sealed under the conversation's key.
            chat_id: Personal,
            conversation_id: String,
            linked_by: String,
        }
        /// It belongs nowhere any more.
        ChannelUnlinked = "symbia.messaging.channel-link.channel-unlinked.v1" {
            link_id: String,
            conversation_id: String,
            unlinked_by: String,
        }
    }
}
