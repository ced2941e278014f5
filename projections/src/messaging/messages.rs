//! What was said, page by page, always in the order of its sequence.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::rows::Message;

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
    sqlx::query_as("SELECT * FROM messaging.messages WHERE org_id = $1 AND conversation_id = $2 AND id = $3")
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
    let anchor = match page.before.as_ref().or(page.after.as_ref()) {
        None => i64::MAX,
        Some(Anchor::Sequence(sequence)) => *sequence,
        Some(Anchor::Message(id)) => match message(&mut *conn, org, conversation, id).await? {
            Some(message) => message.sequence,
            None => return Ok(None),
        },
        // Times ascend with the sequence: before = below the first that is not earlier, after = above the last that is not later.
        Some(Anchor::Time(time)) if backwards => {
            let select = "SELECT coalesce(min(sequence), 9223372036854775807) FROM messaging.messages
                          WHERE org_id = $1 AND conversation_id = $2 AND created_at >= $3";
            sqlx::query_scalar(select).bind(org).bind(conversation).bind(time).fetch_one(&mut *conn).await?
        }
        Some(Anchor::Time(time)) => {
            let select = "SELECT coalesce(max(sequence), 0) FROM messaging.messages
                          WHERE org_id = $1 AND conversation_id = $2 AND created_at <= $3";
            sqlx::query_scalar(select).bind(org).bind(conversation).bind(time).fetch_one(&mut *conn).await?
        }
    };
    let select = if backwards {
        "SELECT * FROM messaging.messages WHERE org_id = $1 AND conversation_id = $2 AND sequence < $3
             AND deleted_at IS NULL AND ($4::text IS NULL OR reply_to = $4) ORDER BY sequence DESC LIMIT $5"
    } else {
        "SELECT * FROM messaging.messages WHERE org_id = $1 AND conversation_id = $2 AND sequence > $3
             AND deleted_at IS NULL AND ($4::text IS NULL OR reply_to = $4) ORDER BY sequence LIMIT $5"
    };
    let query = sqlx::query_as(select).bind(org).bind(conversation).bind(anchor).bind(&page.reply_to).bind(page.limit);
    let mut found: Vec<Message> = query.fetch_all(conn).await?;
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
    sqlx::query_as(
        "SELECT * FROM messaging.messages WHERE org_id = $1 AND conversation_id = $2 AND sender_id = $3
         ORDER BY sequence DESC LIMIT $4",
    )
    .bind(org)
    .bind(conversation)
    .bind(sender)
    .bind(limit)
    .fetch_all(conn)
    .await
}
