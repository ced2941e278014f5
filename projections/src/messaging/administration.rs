//! Conversations of whole organizations, for those who administer them. `None` for organizations = all there are. To be asked
//! in the platform's scope.

use sqlx::{FromRow, PgConnection};

use super::rows::Conversation;

/// A page of conversations, the last changed first, and how many there are on all pages.
pub async fn conversations_of_orgs(
    conn: &mut PgConnection,
    orgs: Option<&[String]>,
    kind: Option<&str>,
    limit: i64,
    offset: i64,
) -> Result<(Vec<Conversation>, i64), sqlx::Error> {
    let total = sqlx::query_scalar(
        "SELECT count(*) FROM messaging.conversations
         WHERE ($1::text[] IS NULL OR org_id = ANY($1)) AND ($2::text IS NULL OR type = $2)",
    )
    .bind(orgs)
    .bind(kind)
    .fetch_one(&mut *conn)
    .await?;
    let found = sqlx::query_as(
        "SELECT * FROM messaging.conversations
         WHERE ($1::text[] IS NULL OR org_id = ANY($1)) AND ($2::text IS NULL OR type = $2)
         ORDER BY updated_at DESC, org_id, id LIMIT $3 OFFSET $4",
    );
    Ok((found.bind(orgs).bind(kind).bind(limit).bind(offset).fetch_all(conn).await?, total))
}

/// The conversation of this id.
pub async fn conversation_of_orgs(
    conn: &mut PgConnection,
    orgs: Option<&[String]>,
    id: &str,
) -> Result<Option<Conversation>, sqlx::Error> {
    sqlx::query_as(
        "SELECT * FROM messaging.conversations WHERE id = $2 AND ($1::text[] IS NULL OR org_id = ANY($1))
         ORDER BY org_id LIMIT 1",
    )
    .bind(orgs)
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// The conversations in which somebody takes part, the last changed first.
pub async fn conversations_of_user(
    conn: &mut PgConnection,
    orgs: Option<&[String]>,
    user: &str,
) -> Result<Vec<Conversation>, sqlx::Error> {
    sqlx::query_as(
        "SELECT c.* FROM messaging.participants p
         JOIN messaging.conversations c ON c.org_id = p.org_id AND c.id = p.conversation_id
         WHERE p.user_id = $2 AND ($1::text[] IS NULL OR p.org_id = ANY($1)) ORDER BY c.updated_at DESC, c.id LIMIT 1000",
    )
    .bind(orgs)
    .bind(user)
    .fetch_all(conn)
    .await
}

/// Counters of organizations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "the names say it")]
pub struct OrgCounts {
    pub conversations: i64,
    pub messages: i64,
    pub participants: i64,
    /// Conversations that changed within 24 hours.
    pub active: i64,
}

/// How much there is of everything.
pub async fn counts_of_orgs(
    conn: &mut PgConnection,
    orgs: Option<&[String]>,
    kind: Option<&str>,
) -> Result<OrgCounts, sqlx::Error> {
    sqlx::query_as(
        "WITH counted AS (
             SELECT org_id, id, updated_at FROM messaging.conversations
             WHERE ($1::text[] IS NULL OR org_id = ANY($1)) AND ($2::text IS NULL OR type = $2))
         SELECT (SELECT count(*) FROM counted) AS conversations,
                (SELECT count(*) FROM messaging.messages m JOIN counted c
                     ON c.org_id = m.org_id AND c.id = m.conversation_id) AS messages,
                (SELECT count(DISTINCT p.user_id) FROM messaging.participants p JOIN counted c
                     ON c.org_id = p.org_id AND c.id = p.conversation_id) AS participants,
                (SELECT count(*) FROM counted WHERE updated_at > now() - interval '24 hours') AS active",
    )
    .bind(orgs)
    .bind(kind)
    .fetch_one(conn)
    .await
}
