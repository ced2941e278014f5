//! How far somebody has read a conversation: events of their own, so that reading never waits for writing
//! (messaging.md §8.11, §13.1).

use uuid::Uuid;

use crate::domain_events;

/// Id of the cursor of a principal in a conversation.
#[must_use]
pub fn read_cursor_id(conversation_id: &str, principal_id: &str) -> String {
    let name = format!("read-cursor\0{conversation_id}\0{principal_id}");
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string()
}

domain_events! {
    /// What can have happened to a read cursor.
    ReadCursorEvent: Messaging / "read-cursor" {
        /// Its principal has read up to a message.
        ConversationRead = "symbia.messaging.read-cursor.conversation-read.v1" {
            conversation_id: String,
            principal_id: String,
            up_to_sequence: u64,
        }
    }
}
