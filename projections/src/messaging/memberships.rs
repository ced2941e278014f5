//! In which conversations somebody takes part, over all of their organizations: to be asked in the platform's scope.

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

/// The conversations in which somebody takes part: organization and id.
pub async fn memberships(
    conn: &mut PgConnection,
    user: &str,
    orgs: &[String],
) -> Result<Vec<(String, String)>, sqlx::Error> {
    sqlx::query_as("SELECT org_id, conversation_id FROM messaging.participants WHERE user_id = $1 AND org_id = ANY($2)")
        .bind(user)
        .bind(orgs)
        .fetch_all(conn)
        .await
}

/// The conversation of somebody's that has a message of this id.
pub async fn conversation_with(
    conn: &mut PgConnection,
    user: &str,
    orgs: &[String],
    message: &str,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT p.conversation_id FROM messaging.participants p
         JOIN messaging.messages m ON m.org_id = p.org_id AND m.conversation_id = p.conversation_id AND m.id = $3
         WHERE p.user_id = $1 AND p.org_id = ANY($2) LIMIT 1",
    )
    .bind(user)
    .bind(orgs)
    .bind(message)
    .fetch_optional(conn)
    .await
}

/// Whether another conversation of the organization has a message of this id.
pub async fn is_elsewhere(
    conn: &mut PgConnection,
    org: &str,
    conversation: &str,
    message: &str,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM messaging.messages WHERE org_id = $1 AND id = $2 AND conversation_id <> $3)",
    )
    .bind(org)
    .bind(message)
    .bind(conversation)
    .fetch_one(conn)
    .await
}

/// What somebody may have missed of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct Missed {
    /// The conversation.
    pub conversation_id: String,
    /// Sequence of the first message that was written later.
    pub from_sequence: i64,
    /// Sequence of the last one.
    pub to_sequence: i64,
}

/// What was written in somebody's conversations after a time; `None` = ever.
pub async fn missed_since(
    conn: &mut PgConnection,
    user: &str,
    orgs: &[String],
    since: Option<OffsetDateTime>,
) -> Result<Vec<Missed>, sqlx::Error> {
    sqlx::query_as(
        "SELECT * FROM (
             SELECT c.id AS conversation_id, c.last_sequence AS to_sequence, 1 + coalesce((
                 SELECT m.sequence FROM messaging.messages m
                 WHERE m.org_id = c.org_id AND m.conversation_id = c.id AND m.created_at <= $3
                 ORDER BY m.sequence DESC LIMIT 1), 0) AS from_sequence
             FROM messaging.participants p
             JOIN messaging.conversations c ON c.org_id = p.org_id AND c.id = p.conversation_id
             WHERE p.user_id = $1 AND p.org_id = ANY($2)
         ) AS missed WHERE from_sequence <= to_sequence ORDER BY conversation_id",
    )
    .bind(user)
    .bind(orgs)
    .bind(since)
    .fetch_all(conn)
    .await
}
