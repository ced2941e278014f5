//! What happens to all rows of a conversation at once: they go, or say nothing any more.

use sqlx::PgConnection;

use super::{ERASED, rows::Place};

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
pub(super) async fn erase(conn: &mut PgConnection, (org, conversation): &Place) -> Result<(), sqlx::Error> {
    let silence = "UPDATE conversations SET description = NULL, metadata = '{}',
                       name = CASE WHEN name IS NULL THEN NULL ELSE $3 END
                   WHERE org_id = $1 AND id = $2";
    sqlx::query(silence).bind(org).bind(conversation).bind(ERASED).execute(&mut *conn).await?;
    let silence = "UPDATE messages SET erased = true, metadata = '{}',
                       content = CASE WHEN deleted_at IS NULL THEN $3 ELSE '' END
                   WHERE org_id = $1 AND conversation_id = $2";
    sqlx::query(silence).bind(org).bind(conversation).bind(ERASED).execute(&mut *conn).await?;
    Ok(())
}
