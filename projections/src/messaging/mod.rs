//! Read model of the messaging service: conversations, who takes part, and what was said.

mod administration;
mod channels;
mod conversations;
mod end;
mod fold;
mod memberships;
mod messages;
mod retention;
mod rows;
mod webhooks;

pub use administration::{
    OrgCounts, conversation_of_orgs, conversations_of_orgs, conversations_of_user, counts_of_orgs,
};
pub use channels::{ChannelLink, channel_links, channels_of};
pub use conversations::{
    Access, Counts, Listed, Listing, UNREAD_MAX, access, conversation, conversations_of, counts, generation_of,
    participant, participants, read_cursor,
};
pub use fold::signal;
pub use memberships::{Missed, conversation_with, is_elsewhere, memberships, missed_since};
pub use messages::{Anchor, Page, Search, message, messages, open_questions, search};
pub use retention::{RetentionPolicy, quiet_conversations, retention_policy};
pub use rows::{Conversation, Message, Participant, ReadCursor};
pub use symbia_events::messaging::{author_key_id, content_key_id, is_content_key};
pub use webhooks::{Webhook, webhooks, webhooks_of};

use async_trait::async_trait;
use sqlx::PgConnection;
use symbia_events::{Personal, Service, SubjectKey};

use crate::{FoldError, FoldEvent, Migration, Projection, columns::text, secrets::SecretStore};

/// What stands for a text whose key was destroyed.
pub const ERASED: &str = "[erased]";

/// Opens what is said in a conversation; `None` when its key is gone or it was sealed under another.
#[must_use]
pub fn open(key: Option<&SubjectKey>, sealed: &Personal) -> Option<String> {
    key?.open(sealed).ok().map(text)
}

/// The messaging projection.
#[derive(Clone, Debug)]
pub struct Messaging {
    secrets: SecretStore,
}

impl Messaging {
    /// The projection with the store that holds the content keys.
    #[must_use]
    pub fn new(secrets: SecretStore) -> Self {
        Messaging { secrets }
    }
}

#[async_trait]
impl Projection for Messaging {
    fn name(&self) -> &'static str {
        "messaging"
    }

    fn services(&self) -> &'static [Service] {
        &[Service::Messaging]
    }

    fn tables(&self) -> &'static [&'static str] {
        &[
            "conversations",
            "participants",
            "messages",
            "read_cursors",
            "channel_links",
            "author_erasures",
            "webhooks",
            "retention_policies",
        ]
    }

    fn migrations(&self) -> &'static [Migration] {
        MIGRATIONS
    }

    async fn fold(&self, conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
        fold::fold(&self.secrets, conn, events).await
    }
}

const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "messaging", sql: include_str!("../../../migrations/messaging/0001_messaging.sql") },
    Migration { version: 2, name: "reading", sql: include_str!("../../../migrations/messaging/0002_reading.sql") },
    Migration { version: 3, name: "channels", sql: include_str!("../../../migrations/messaging/0003_channels.sql") },
    Migration {
        version: 4,
        name: "message_ids",
        sql: include_str!("../../../migrations/messaging/0004_message_ids.sql"),
    },
    Migration { version: 5, name: "authors", sql: include_str!("../../../migrations/messaging/0005_authors.sql") },
    Migration { version: 6, name: "retention", sql: include_str!("../../../migrations/messaging/0006_retention.sql") },
    Migration { version: 7, name: "who_reads", sql: include_str!("../../../migrations/messaging/0007_who_reads.sql") },
    Migration { version: 8, name: "webhooks", sql: include_str!("../../../migrations/messaging/0008_webhooks.sql") },
    Migration {
        version: 9,
        name: "retention_policies",
        sql: include_str!("../../../migrations/messaging/0009_retention_policies.sql"),
    },
];
