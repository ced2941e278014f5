//! Conversations and their participants, as the messaging routes need them.

use sqlx::{FromRow, PgConnection};

use super::rows::{Conversation, Participant};

/// A conversation, and what the asker is in it.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct Access {
    /// The conversation.
    #[sqlx(flatten)]
    pub conversation: Conversation,
    /// The asker's role: `owner`, `admin` or `member`; `None` when it takes no part.
    pub asker_role: Option<String>,
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
        "SELECT c.*, p.role AS asker_role FROM messaging.conversations c
         LEFT JOIN messaging.participants p
             ON p.org_id = c.org_id AND p.conversation_id = c.id AND p.user_id = $3
         WHERE c.id = $1 AND c.org_id = ANY($2) ORDER BY p.role IS NULL, c.org_id LIMIT 1",
    )
    .bind(id)
    .bind(orgs)
    .bind(asker)
    .fetch_optional(conn)
    .await
}

/// A conversation.
pub async fn conversation(conn: &mut PgConnection, org: &str, id: &str) -> Result<Option<Conversation>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM messaging.conversations WHERE org_id = $1 AND id = $2")
        .bind(org)
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// The conversations in which somebody takes part, of these organizations, the last changed first.
pub async fn conversations_of(
    conn: &mut PgConnection,
    user: &str,
    orgs: &[String],
) -> Result<Vec<Conversation>, sqlx::Error> {
    sqlx::query_as(
        "SELECT c.* FROM messaging.participants p
         JOIN messaging.conversations c ON c.org_id = p.org_id AND c.id = p.conversation_id
         WHERE p.user_id = $1 AND p.org_id = ANY($2) ORDER BY c.updated_at DESC, c.id",
    )
    .bind(user)
    .bind(orgs)
    .fetch_all(conn)
    .await
}

/// Who takes part, in the order of joining.
pub async fn participants(
    conn: &mut PgConnection,
    org: &str,
    conversation: &str,
) -> Result<Vec<Participant>, sqlx::Error> {
    sqlx::query_as(
        "SELECT * FROM messaging.participants WHERE org_id = $1 AND conversation_id = $2
         ORDER BY joined_at, role <> 'owner', user_id",
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
    sqlx::query_as("SELECT * FROM messaging.participants WHERE org_id = $1 AND conversation_id = $2 AND user_id = $3")
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
