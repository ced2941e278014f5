//! What was said, page by page, always in the order of its sequence.

use sqlx::{AssertSqlSafe, PgConnection};
use time::{Duration, OffsetDateTime};

use super::rows::{MESSAGE, Message};

/// Times are shown to the millisecond, and several messages may share one.
const SHOWN: Duration = Duration::MILLISECOND;
// Times hardly ever descend: below the first that is not earlier. Of those that share the time as it is shown, whoever
// names it has the last at least: as many as lie between them are given beyond the limit, so that none is missed and each page
// goes on.
const BEFORE: &str =
    "SELECT coalesce(max(sequence) FILTER (WHERE created_at < $4), min(sequence), 9223372036854775807),
                             coalesce(max(sequence) FILTER (WHERE created_at < $4)
                                          - min(sequence) FILTER (WHERE created_at < $4), 0)
                      FROM messaging.messages WHERE org_id = $1 AND conversation_id = $2 AND created_at >= $3";
// Above the last that is not later; of those that share the time, whoever names it has the first at least.
const AFTER: &str = "SELECT coalesce(min(sequence) FILTER (WHERE created_at >= $3 AND created_at < $4),
                                     max(sequence) FILTER (WHERE created_at <= $3), 0),
                            coalesce(max(sequence) FILTER (WHERE created_at >= $3 AND created_at < $4)
                                         - min(sequence) FILTER (WHERE created_at >= $3 AND created_at < $4), 0)
                     FROM messaging.messages WHERE org_id = $1 AND conversation_id = $2 AND created_at <= $4";

/// A place in a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// A sequence.
    Sequence(i64),
    /// A message.
    Message(String),
    /// A time.
    Time(OffsetDateTime),
}

/// Which messages. The default: the newest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Only those before.
    pub before: Option<Anchor>,
    /// Only those after; with a `before` it does not count.
    pub after: Option<Anchor>,
    /// Only answers to this message.
    pub reply_to: Option<String>,
    /// At most so many.
    pub limit: i64,
}

/// A message, deleted or not.
pub async fn message(
    conn: &mut PgConnection,
    org: &str,
    conversation: &str,
    id: &str,
) -> Result<Option<Message>, sqlx::Error> {
    sqlx::query_as(AssertSqlSafe(format!(
        "SELECT {MESSAGE} FROM messaging.messages m WHERE org_id = $1 AND conversation_id = $2 AND id = $3"
    )))
    .bind(org)
    .bind(conversation)
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// The messages of a page that are not deleted, in ascending order. `None`: its anchor is no message of the conversation.
pub async fn messages(
    conn: &mut PgConnection,
    org: &str,
    conversation: &str,
    page: &Page,
) -> Result<Option<Vec<Message>>, sqlx::Error> {
    let backwards = page.before.is_some() || page.after.is_none();
    let (anchor, shared) = match page.before.as_ref().or(page.after.as_ref()) {
        None => (i64::MAX, 0),
        Some(Anchor::Sequence(sequence)) => (*sequence, 0),
        Some(Anchor::Message(id)) => match message(&mut *conn, org, conversation, id).await? {
            Some(message) => (message.sequence, 0),
            None => return Ok(None),
        },
        Some(Anchor::Time(time)) => {
            let select = if backwards { BEFORE } else { AFTER };
            let shown = time.nanosecond() % 1_000_000 == 0;
            let until = time.saturating_add(if shown { SHOWN } else { Duration::ZERO });
            let query = sqlx::query_as(select).bind(org).bind(conversation).bind(time).bind(until);
            query.fetch_one(&mut *conn).await?
        }
    };
    let (side, order) = if backwards { ("<", "DESC") } else { (">", "ASC") };
    let select = format!(
        "SELECT {MESSAGE} FROM messaging.messages m WHERE org_id = $1 AND conversation_id = $2 AND sequence {side} $3
             AND deleted_at IS NULL AND ($4::text IS NULL OR reply_to = $4) ORDER BY sequence {order} LIMIT $5"
    );
    let query = sqlx::query_as(AssertSqlSafe(select))
        .bind(org)
        .bind(conversation)
        .bind(anchor)
        .bind(&page.reply_to)
        .bind(page.limit.saturating_add(shared));
    let mut found: Vec<Message> = query.fetch_all(conn).await?;
    if let Some(Anchor::Time(time)) = &page.before
        && found.iter().all(|message| message.created_at >= *time)
    {
        // Nothing is older: who asks on and on until nothing comes is to come to an end.
        found.clear();
    }
    if backwards {
        found.reverse();
    }
    Ok(Some(found))
}

/// The newest messages of one sender, the newest first: what may still be being answered.
pub async fn open_questions(
    conn: &mut PgConnection,
    org: &str,
    conversation: &str,
    sender: &str,
    limit: i64,
) -> Result<Vec<Message>, sqlx::Error> {
    let select = format!(
        "SELECT {MESSAGE} FROM messaging.messages m WHERE org_id = $1 AND conversation_id = $2 AND sender_id = $3
         AND content_type <> 'event' ORDER BY sequence DESC LIMIT $4"
    );
    let query = sqlx::query_as(AssertSqlSafe(select)).bind(org).bind(conversation).bind(sender);
    query.bind(limit).fetch_all(conn).await
}

/// What is looked for.
#[derive(Clone, Debug)]
pub struct Search {
    /// Words, as in a search engine: `"a phrase"`, `or`, `-without`.
    pub words: String,
    /// Only in this conversation.
    pub conversation: Option<String>,
    /// At most so many.
    pub limit: i64,
    /// Without the first so many.
    pub offset: i64,
}

/// The messages with these words in the conversations in which somebody takes part, of these organizations, the newest first.
pub async fn search(
    conn: &mut PgConnection,
    user: &str,
    orgs: &[String],
    search: &Search,
) -> Result<Vec<Message>, sqlx::Error> {
    let select = format!(
        "SELECT {MESSAGE} FROM messaging.participants p
         JOIN messaging.messages m ON m.org_id = p.org_id AND m.conversation_id = p.conversation_id
         WHERE p.user_id = $1 AND p.org_id = ANY($2) AND ($3::text IS NULL OR p.conversation_id = $3)
           AND m.words @@ websearch_to_tsquery('simple', $4)
         ORDER BY m.created_at DESC, m.sequence DESC, m.id LIMIT $5 OFFSET $6"
    );
    let query = sqlx::query_as(AssertSqlSafe(select)).bind(user).bind(orgs).bind(&search.conversation);
    query.bind(&search.words).bind(search.limit).bind(search.offset).fetch_all(conn).await
}
