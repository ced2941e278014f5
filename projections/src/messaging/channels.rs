//! Chats elsewhere and the conversations that stand for them: folded one by one, since they are few.

use sqlx::{FromRow, PgConnection};
use symbia_events::{Event, messaging::ChannelLinkEvent};
use time::OffsetDateTime;

use crate::{FoldError, columns::text};

/// The conversation of a chat.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "named as in messaging.md §8.14")]
pub struct ChannelLink {
    pub org_id: String,
    /// Keyed hash of the chat.
    pub id: String,
    pub channel_type: String,
    pub connection_id: String,
    pub conversation_id: String,
    pub linked_by: String,
    pub linked_at: OffsetDateTime,
    /// The conversation has not been deleted.
    pub alive: bool,
}

pub(super) async fn fold(conn: &mut PgConnection, event: &Event, change: ChannelLinkEvent) -> Result<(), FoldError> {
    let (org, id) = (event.orgid.as_str(), &event.aggregateid);
    let query = match change {
        ChannelLinkEvent::ChannelLinked(e) => sqlx::query(
            "INSERT INTO channel_links (org_id, id, channel_type, connection_id, conversation_id, linked_by, linked_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (org_id, id) DO UPDATE SET channel_type = excluded.channel_type,
                 connection_id = excluded.connection_id, conversation_id = excluded.conversation_id,
                 linked_by = excluded.linked_by, linked_at = excluded.linked_at",
        )
        .bind(org)
        .bind(id)
        .bind(text(e.channel_type))
        .bind(text(e.connection_id))
        .bind(text(e.conversation_id))
        .bind(text(e.linked_by))
        .bind(event.time),
        ChannelLinkEvent::ChannelUnlinked(_) => {
            sqlx::query("DELETE FROM channel_links WHERE org_id = $1 AND id = $2").bind(org).bind(id)
        }
    };
    query.execute(conn).await?;
    Ok(())
}

/// The links of a chat, of one organization or of all, the oldest first: to be asked in the platform's scope.
pub async fn channel_links(
    conn: &mut PgConnection,
    id: &str,
    org: Option<&str>,
) -> Result<Vec<ChannelLink>, sqlx::Error> {
    sqlx::query_as(
        "SELECT l.*, c.id IS NOT NULL AS alive FROM messaging.channel_links l
         LEFT JOIN messaging.conversations c ON c.org_id = l.org_id AND c.id = l.conversation_id
         WHERE l.id = $1 AND ($2::text IS NULL OR l.org_id = $2) ORDER BY l.linked_at, l.org_id",
    )
    .bind(id)
    .bind(org)
    .fetch_all(conn)
    .await
}

/// The chats of a conversation that stands.
pub async fn channels_of(
    conn: &mut PgConnection,
    org: &str,
    conversation: &str,
) -> Result<Vec<ChannelLink>, sqlx::Error> {
    sqlx::query_as(
        "SELECT l.*, true AS alive FROM messaging.channel_links l
         WHERE l.org_id = $1 AND l.conversation_id = $2 ORDER BY l.linked_at, l.id",
    )
    .bind(org)
    .bind(conversation)
    .fetch_all(conn)
    .await
}
