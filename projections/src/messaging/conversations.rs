//! Conversations and their participants, as the messaging routes need them.

use sqlx::{FromRow, PgConnection};

use super::rows::{Conversation, Participant, ReadCursor};

/// A conversation, and what the asker is in it.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct Access {
    /// The conversation.
    #[sqlx(flatten)]
    pub conversation: Conversation,
    /// The asker's role: `owner`, `admin` or `member`; `None` when it takes no part.
    pub asker_role: Option<String>,
    /// How often what the asker said in the organization was erased.
    pub asker_generation: i32,
}

/// Counters of the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Counts {
    pub conversations: i64,
    pub messages: i64,
    pub participants: i64,
}

/// The conversation of this id in one of the organizations, whoever takes part in it: to be asked in the platform's scope,
/// to tell "not yours" from "not there".
pub async fn access(
    conn: &mut PgConnection,
    id: &str,
    orgs: &[String],
    asker: &str,
) -> Result<Option<Access>, sqlx::Error> {
    sqlx::query_as(
        "SELECT c.*, p.role AS asker_role, coalesce(e.generation, 0) AS asker_generation FROM messaging.conversations c
         LEFT JOIN messaging.participants p
             ON p.org_id = c.org_id AND p.conversation_id = c.id AND p.user_id = $3
         LEFT JOIN messaging.author_erasures e ON e.org_id = c.org_id AND e.user_id = $3
         WHERE c.id = $1 AND c.org_id = ANY($2) ORDER BY p.role IS NULL, c.org_id LIMIT 1",
    )
    .bind(id)
    .bind(orgs)
    .bind(asker)
    .fetch_optional(conn)
    .await
}

/// How often what somebody said in an organization was erased.
pub async fn generation_of(conn: &mut PgConnection, org: &str, user: &str) -> Result<u32, sqlx::Error> {
    let found: Option<i32> =
        sqlx::query_scalar("SELECT generation FROM messaging.author_erasures WHERE org_id = $1 AND user_id = $2")
            .bind(org)
            .bind(user)
            .fetch_optional(conn)
            .await?;
    Ok(found.and_then(|generation| u32::try_from(generation).ok()).unwrap_or_default())
}

/// A conversation.
pub async fn conversation(conn: &mut PgConnection, org: &str, id: &str) -> Result<Option<Conversation>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM messaging.conversations WHERE org_id = $1 AND id = $2")
        .bind(org)
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// Which of somebody's conversations.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Of these organizations.
    pub orgs: Vec<String>,
    /// `private` or `group`; `None` = both.
    pub kind: Option<String>,
    /// At most so many.
    pub limit: i64,
    /// Without the first so many.
    pub offset: i64,
}

/// A conversation, and how far somebody has read it.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct Listed {
    /// The conversation.
    #[sqlx(flatten)]
    pub conversation: Conversation,
    /// Sequence of the last message that was marked as read; 0 before the first.
    pub read_sequence: i64,
    /// Messages of others after it, up to [`UNREAD_MAX`].
    pub unread_count: i64,
}

/// Unread messages are counted up to this many.
pub const UNREAD_MAX: i64 = 1000;

/// The conversations in which somebody takes part, the last changed first.
pub async fn conversations_of(
    conn: &mut PgConnection,
    user: &str,
    listing: &Listing,
) -> Result<Vec<Listed>, sqlx::Error> {
    sqlx::query_as(
        "SELECT c.*, coalesce(r.read_sequence, 0) AS read_sequence, (
             SELECT count(*) FROM (
                 SELECT FROM messaging.messages m
                 WHERE m.org_id = c.org_id AND m.conversation_id = c.id AND m.sequence > coalesce(r.read_sequence, 0)
                   AND m.sender_id <> $1 AND m.deleted_at IS NULL AND m.content_type <> 'event' LIMIT $6) AS unread
         ) AS unread_count
         FROM (SELECT c.* FROM messaging.participants p
               JOIN messaging.conversations c ON c.org_id = p.org_id AND c.id = p.conversation_id
               WHERE p.user_id = $1 AND p.org_id = ANY($2) AND ($3::text IS NULL OR c.type = $3)
               ORDER BY c.updated_at DESC, c.id LIMIT $4 OFFSET $5) AS c
         LEFT JOIN messaging.read_cursors r ON r.org_id = c.org_id AND r.conversation_id = c.id AND r.user_id = $1
         ORDER BY c.updated_at DESC, c.id",
    )
    .bind(user)
    .bind(&listing.orgs)
    .bind(&listing.kind)
    .bind(listing.limit)
    .bind(listing.offset)
    .bind(UNREAD_MAX)
    .fetch_all(conn)
    .await
}

/// How far somebody has read a conversation.
pub async fn read_cursor(
    conn: &mut PgConnection,
    org: &str,
    conversation: &str,
    user: &str,
) -> Result<Option<ReadCursor>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM messaging.read_cursors WHERE org_id = $1 AND conversation_id = $2 AND user_id = $3")
        .bind(org)
        .bind(conversation)
        .bind(user)
        .fetch_optional(conn)
        .await
}

/// Who takes part, in the order of joining.
pub async fn participants(
    conn: &mut PgConnection,
    org: &str,
    conversation: &str,
) -> Result<Vec<Participant>, sqlx::Error> {
    sqlx::query_as(
        "SELECT p.*, r.read_at AS last_read_at FROM messaging.participants p
         LEFT JOIN messaging.read_cursors r USING (org_id, conversation_id, user_id)
         WHERE p.org_id = $1 AND p.conversation_id = $2 ORDER BY p.joined_at, p.role <> 'owner', p.user_id",
    )
    .bind(org)
    .bind(conversation)
    .fetch_all(conn)
    .await
}

/// One participant.
pub async fn participant(
    conn: &mut PgConnection,
    org: &str,
    conversation: &str,
    user: &str,
) -> Result<Option<Participant>, sqlx::Error> {
    sqlx::query_as(
        "SELECT p.*, r.read_at AS last_read_at FROM messaging.participants p
         LEFT JOIN messaging.read_cursors r USING (org_id, conversation_id, user_id)
         WHERE p.org_id = $1 AND p.conversation_id = $2 AND p.user_id = $3",
    )
    .bind(org)
    .bind(conversation)
    .bind(user)
    .fetch_optional(conn)
    .await
}

/// How much there is of everything in these organizations. It counts, so it is for operators.
pub async fn counts(conn: &mut PgConnection, orgs: &[String]) -> Result<Counts, sqlx::Error> {
    sqlx::query_as(
        "SELECT (SELECT count(*) FROM messaging.conversations WHERE org_id = ANY($1)) AS conversations,
                (SELECT count(*) FROM messaging.messages WHERE org_id = ANY($1)) AS messages,
                (SELECT count(DISTINCT user_id) FROM messaging.participants WHERE org_id = ANY($1)) AS participants",
    )
    .bind(orgs)
    .fetch_one(conn)
    .await
}
