//! What happens to many rows at once: those of a conversation go, or say nothing any more, and so do those of an author.

use serde_json::{Value, json};
use sqlx::PgConnection;
use symbia_events::{Event, messaging::AuthorErased};

use time::OffsetDateTime;

use super::{ERASED, rows::Place};
use crate::columns::text;

/// The conversation is gone, with all that was in it.
pub(super) async fn delete(conn: &mut PgConnection, (org, conversation): &Place) -> Result<(), sqlx::Error> {
    for delete in [
        "DELETE FROM messages WHERE org_id = $1 AND conversation_id = $2",
        "DELETE FROM participants WHERE org_id = $1 AND conversation_id = $2",
        "DELETE FROM read_cursors WHERE org_id = $1 AND conversation_id = $2",
        "DELETE FROM conversations WHERE org_id = $1 AND id = $2",
    ] {
        sqlx::query(delete).bind(org).bind(conversation).execute(&mut *conn).await?;
    }
    Ok(())
}

/// What was said can be read no more: as a replay without the key would give it, and before one does.
pub(super) async fn erase(
    conn: &mut PgConnection,
    (org, conversation): &Place,
    at: OffsetDateTime,
) -> Result<(), sqlx::Error> {
    let silence = "UPDATE conversations SET description = NULL, metadata = '{}', erased_at = $4,
                       name = CASE WHEN name IS NULL THEN NULL ELSE $3 END
                   WHERE org_id = $1 AND id = $2";
    sqlx::query(silence).bind(org).bind(conversation).bind(ERASED).bind(at).execute(&mut *conn).await?;
    let silence = "UPDATE messages SET erased = true, metadata = '{}',
                       content = CASE WHEN deleted_at IS NULL THEN $3 ELSE '' END
                   WHERE org_id = $1 AND conversation_id = $2";
    sqlx::query(silence).bind(org).bind(conversation).bind(ERASED).execute(&mut *conn).await?;
    Ok(())
}

// Of a signal stays that it was given, and not why. Its metadata may hold what the database's own JSON cannot.
async fn erase_reasons(conn: &mut PgConnection, org: &str, author: &str) -> Result<(), sqlx::Error> {
    let select = "SELECT conversation_id, id, metadata FROM messages
                  WHERE org_id = $1 AND sender_id = $2 AND content_type = 'event' FOR UPDATE";
    let signals: Vec<(String, String, String)> =
        sqlx::query_as(select).bind(org).bind(author).fetch_all(&mut *conn).await?;
    let (mut conversations, mut ids, mut metadata) = (Vec::new(), Vec::new(), Vec::new());
    for (conversation, id, before) in signals {
        let mut control = serde_json::from_str::<Value>(&before).unwrap_or_default()["control"].take();
        if let Value::Object(control) = &mut control {
            control.retain(|name, _| name != "reason");
        }
        conversations.push(conversation);
        ids.push(id);
        metadata.push(json!({ "control": control }).to_string());
    }
    let silence = "UPDATE messages m SET metadata = s.metadata
                   FROM unnest($2::text[], $3::text[], $4::text[]) AS s (conversation_id, id, metadata)
                   WHERE m.org_id = $1 AND m.conversation_id = s.conversation_id AND m.id = s.id";
    sqlx::query(silence).bind(org).bind(conversations).bind(ids).bind(metadata).execute(conn).await?;
    Ok(())
}

/// What an author said in an organization can be read no more.
pub(super) async fn erase_author(conn: &mut PgConnection, event: &Event, e: &AuthorErased) -> Result<(), sqlx::Error> {
    let (org, author) = (event.orgid.as_str(), text(e.principal_id.clone()));
    let silence = "UPDATE messages SET erased = true, metadata = '{}',
                       content = CASE WHEN deleted_at IS NULL THEN $3 ELSE '' END
                   WHERE org_id = $1 AND sender_id = $2 AND content_type <> 'event'";
    sqlx::query(silence).bind(org).bind(&author).bind(ERASED).execute(&mut *conn).await?;
    erase_reasons(conn, org, &author).await?;
    let note = "INSERT INTO author_erasures (org_id, user_id, generation, erased_at) VALUES ($1, $2, $3, $4)
                ON CONFLICT (org_id, user_id) DO UPDATE SET generation = excluded.generation, erased_at = excluded.erased_at";
    let generation = i32::try_from(e.generation).unwrap_or(i32::MAX);
    sqlx::query(note).bind(org).bind(author).bind(generation).bind(event.time).execute(conn).await?;
    Ok(())
}
