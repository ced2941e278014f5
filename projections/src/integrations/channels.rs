//! Connections to messengers and what became of what was said there: folding their events, and reading them.

use serde_json::{Value, json};
use sqlx::{FromRow, PgConnection, types::Json};
use symbia_events::{
    DomainEvent, Event,
    integrations::{ChannelChatEvent, ChannelConnectRequested, ChannelConnectionEvent, ChannelMessageReceived},
};
use time::OffsetDateTime;

use super::registry::storable;
use crate::{
    FoldError, FoldEvent,
    columns::{name_of, text},
};

/// A connection to a messenger.
#[derive(Clone, Debug, PartialEq, FromRow)]
#[allow(missing_docs, reason = "named as in integrations.md §3")]
pub struct ChannelConnection {
    pub org_id: String,
    pub id: String,
    pub channel_type: String,
    /// In whose name is said here what is said there.
    pub owner_id: String,
    pub credential_id: Option<String>,
    /// `webhook`, `polling` or `gateway`.
    pub mode: String,
    pub webhook_url: String,
    pub target_url: Option<String>,
    /// The account that was asked for, and as whom it is signed in, where the token does not say.
    pub account: Option<String>,
    pub login: Option<String>,
    pub secret_ref: String,
    pub secret_hash: String,
    pub assistants: Json<Vec<String>>,
    /// Counts how often it was made.
    pub attempt: i64,
    pub account_id: Option<String>,
    pub account_name: Option<String>,
    /// `connecting`, `connected`, `disconnected` or `error`.
    pub status: String,
    /// It is used no more until it is made anew.
    pub disabled: bool,
    pub last_error: Option<String>,
    pub consecutive_errors: i64,
    pub messages_received: i64,
    pub messages_sent: i64,
    /// What was told and not taken in, since it was too much.
    pub messages_refused: i64,
    /// Files that came along and were not kept, since it was too much.
    pub files_refused: i64,
    pub last_message_at: Option<OffsetDateTime>,
    pub last_error_at: Option<OffsetDateTime>,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
    pub connected_at: Option<OffsetDateTime>,
    pub disconnected_at: Option<OffsetDateTime>,
}

impl ChannelConnection {
    /// Whether something may be received and said over it.
    #[must_use]
    pub fn is_used(&self) -> bool {
        !self.disabled && matches!(self.status.as_str(), "connected" | "error")
    }
}

/// What became of something that is said in a chat.
#[derive(Clone, Debug, PartialEq, FromRow)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct ChannelMessage {
    /// `queued`, `deferred`, `delivered` or `failed`.
    pub status: String,
    pub attempts: i64,
    pub vendor_message_ids: Json<Vec<String>>,
    pub error_code: Option<String>,
    /// What the other side told of it: `sent`, `delivered`, `read` or `failed`.
    pub receipt: Option<String>,
    pub receipt_error: Option<String>,
    pub ended_at: Option<OffsetDateTime>,
}

/// An organization's connections of a kind, the oldest first.
pub async fn channel_connections(
    conn: &mut PgConnection,
    org: &str,
    channel_type: &str,
) -> Result<Vec<ChannelConnection>, sqlx::Error> {
    let select = "SELECT * FROM integrations.channel_connections WHERE org_id = $1 AND channel_type = $2
                  ORDER BY created_at, id LIMIT 500";
    sqlx::query_as(select).bind(org).bind(channel_type).fetch_all(conn).await
}

/// A connection, in whichever organization the scope reaches.
pub async fn channel_connection(conn: &mut PgConnection, id: &str) -> Result<Option<ChannelConnection>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM integrations.channel_connections WHERE id = $1").bind(id).fetch_optional(conn).await
}

/// The connections that are to be asked again and again, or to be held open: to be asked in the platform's scope.
pub async fn polled_connections(conn: &mut PgConnection) -> Result<Vec<ChannelConnection>, sqlx::Error> {
    let select = "SELECT * FROM integrations.channel_connections
                  WHERE mode IN ('polling', 'gateway') AND NOT disabled AND status IN ('connected', 'error') ORDER BY id";
    sqlx::query_as(select).fetch_all(conn).await
}

/// What became of something that is to be said in a chat.
pub async fn channel_delivery(
    conn: &mut PgConnection,
    org: &str,
    chat_key: &str,
    id: &str,
) -> Result<Option<ChannelMessage>, sqlx::Error> {
    let select = "SELECT status, attempts, vendor_message_ids, error_code, receipt, receipt_error, ended_at
                  FROM integrations.channel_messages
                  WHERE org_id = $1 AND chat_key = $2 AND direction = 'out' AND id = $3";
    sqlx::query_as(select).bind(org).bind(chat_key).bind(id).fetch_optional(conn).await
}

pub(super) async fn fold(conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
    // A person types each of them: one after the other.
    for FoldEvent { event, .. } in events {
        match event.aggregatetype.as_str() {
            ChannelConnectionEvent::AGGREGATE => connection(conn, event).await?,
            ChannelChatEvent::AGGREGATE => chat(conn, event).await?,
            _ => {}
        }
    }
    Ok(())
}

async fn connection(conn: &mut PgConnection, event: &Event) -> Result<(), FoldError> {
    let row = |sql: &'static str| sqlx::query(sql).bind(event.orgid.as_str()).bind(&event.aggregateid).bind(event.time);
    let change = match event.decode()? {
        ChannelConnectionEvent::ChannelConnectRequested(e) => return Ok(requested(conn, event, e).await?),
        ChannelConnectionEvent::ChannelConnected(e) => {
            row("UPDATE channel_connections SET status = 'connected', disabled = false, last_error = NULL,
                 consecutive_errors = 0, connected_at = $3, disconnected_at = NULL, updated_at = $3,
                 account_id = $4, account_name = $5 WHERE org_id = $1 AND id = $2")
            .bind(text(e.account_id))
            .bind(text(e.account_name))
        }
        ChannelConnectionEvent::ChannelConnectFailed(e) => {
            row("UPDATE channel_connections SET status = 'error', disabled = true, last_error = $4, last_error_at = $3,
                 updated_at = $3 WHERE org_id = $1 AND id = $2")
            .bind(text(e.code))
        }
        ChannelConnectionEvent::ChannelStatusChanged(e) => {
            row("UPDATE channel_connections SET status = $4, disabled = $5, last_error = $6, updated_at = $3
             WHERE org_id = $1 AND id = $2")
            .bind(name_of(e.new_status))
            .bind(e.disabled)
            .bind(e.error.map(text))
        }
        ChannelConnectionEvent::ChannelErrorRecorded(e) => {
            row("UPDATE channel_connections SET last_error = $4, last_error_at = $3, consecutive_errors = $5,
                 updated_at = $3 WHERE org_id = $1 AND id = $2")
            .bind(text(e.code))
            .bind(i64::from(e.consecutive))
        }
        ChannelConnectionEvent::ChannelFloodRefused(e) => {
            row("UPDATE channel_connections SET messages_refused = messages_refused + $4, updated_at = $3
             WHERE org_id = $1 AND id = $2")
            .bind(i64::from(e.count))
        }
        ChannelConnectionEvent::ChannelFilesRefused(e) => {
            row("UPDATE channel_connections SET files_refused = files_refused + $4, updated_at = $3
             WHERE org_id = $1 AND id = $2")
            .bind(i64::from(e.count))
        }
        ChannelConnectionEvent::ChannelRecovered(_) => {
            row("UPDATE channel_connections SET last_error = NULL, consecutive_errors = 0, updated_at = $3
             WHERE org_id = $1 AND id = $2")
        }
        ChannelConnectionEvent::ChannelDisconnected(_) => {
            row("UPDATE channel_connections SET status = 'disconnected', disconnected_at = $3, updated_at = $3
             WHERE org_id = $1 AND id = $2")
        }
        ChannelConnectionEvent::ChannelRemoved(_) => return Ok(removed(conn, event).await?),
    };
    change.execute(conn).await?;
    Ok(())
}

async fn requested(conn: &mut PgConnection, event: &Event, e: ChannelConnectRequested) -> Result<(), sqlx::Error> {
    let upsert =
        "INSERT INTO channel_connections (org_id, id, channel_type, owner_id, credential_id, mode, webhook_url,
                      target_url, secret_ref, secret_hash, assistants, attempt, status, disabled, consecutive_errors,
                      messages_received, messages_sent, created_at, updated_at, account, login)
                  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 'connecting', false, 0, 0, 0, $13, $13, $14, $15)
                  ON CONFLICT (org_id, id) DO UPDATE SET owner_id = excluded.owner_id,
                      credential_id = excluded.credential_id, mode = excluded.mode,
                      webhook_url = excluded.webhook_url, target_url = excluded.target_url,
                      secret_ref = excluded.secret_ref, secret_hash = excluded.secret_hash,
                      assistants = excluded.assistants, attempt = excluded.attempt, status = 'connecting',
                      account = excluded.account, login = excluded.login,
                      disabled = false, updated_at = excluded.updated_at";
    sqlx::query(upsert)
        .bind(event.orgid.as_str())
        .bind(&event.aggregateid)
        .bind(text(e.channel_type))
        .bind(text(e.owner_id))
        .bind(e.credential_id.map(text))
        .bind(name_of(e.mode))
        .bind(text(e.webhook_url))
        .bind(e.target_url.map(text))
        .bind(text(e.secret_ref))
        .bind(text(e.secret_hash))
        .bind(storable(&e.assistants))
        .bind(i64::from(e.attempt))
        .bind(event.time)
        .bind(e.account.map(text))
        .bind(e.login.map(text))
        .execute(conn)
        .await
        .map(|_| ())
}

async fn removed(conn: &mut PgConnection, event: &Event) -> Result<(), sqlx::Error> {
    for delete in [
        "DELETE FROM channel_connections WHERE org_id = $1 AND id = $2",
        "DELETE FROM channel_messages WHERE org_id = $1 AND connection_id = $2",
        "DELETE FROM channel_chats WHERE org_id = $1 AND connection_id = $2",
    ] {
        sqlx::query(delete).bind(event.orgid.as_str()).bind(&event.aggregateid).execute(&mut *conn).await?;
    }
    Ok(())
}

async fn chat(conn: &mut PgConnection, event: &Event) -> Result<(), FoldError> {
    let (org, chat_key) = (event.orgid.as_str(), event.aggregateid.as_str());
    let became = |direction: &'static str, id: String, status: &'static str, error: Option<String>, ids: Value| {
        let update = "UPDATE channel_messages SET status = $5, error_code = coalesce($6, error_code),
                          vendor_message_ids = vendor_message_ids || $7,
                          ended_at = CASE WHEN $5 IN ('posted', 'ignored', 'delivered', 'failed') THEN $8 END
                      WHERE org_id = $1 AND chat_key = $2 AND direction = $3 AND id = $4";
        let update = sqlx::query(update).bind(org).bind(chat_key).bind(direction).bind(text(id)).bind(status);
        update.bind(error.map(text)).bind(Json(ids)).bind(event.time)
    };
    let change = match event.decode()? {
        ChannelChatEvent::ChannelMessageReceived(e) => {
            return Ok(received(conn, event, &e).await?);
        }
        ChannelChatEvent::ChannelMessageEdited(e) => {
            return Ok(came(conn, event, [&e.update_id, &e.connection_id, &e.conversation_id, &e.message_id]).await?);
        }
        ChannelChatEvent::ChannelMessageWithdrawn(e) => {
            return Ok(came(conn, event, [&e.update_id, &e.connection_id, &e.conversation_id, &e.message_id]).await?);
        }
        ChannelChatEvent::ChannelMessagePosted(e) => became("in", e.update_id, "posted", None, json!([])),
        ChannelChatEvent::ChannelUpdateIgnored(e) => became("in", e.update_id, "ignored", Some(e.reason), json!([])),
        ChannelChatEvent::ChannelMessageQueued(e) => {
            let insert =
                "INSERT INTO channel_messages (org_id, chat_key, id, direction, connection_id, conversation_id,
                              message_id, status, attempts, vendor_message_ids, created_at)
                          VALUES ($1, $2, $3, 'out', $4, $5, $6, 'queued', 0, '[]', $7) ON CONFLICT DO NOTHING";
            let insert = sqlx::query(insert).bind(org).bind(chat_key).bind(text(e.delivery_id));
            let insert = insert.bind(text(e.connection_id)).bind(e.conversation_id.map(text));
            insert.bind(e.message_id.map(text)).bind(event.time)
        }
        ChannelChatEvent::ChannelDeliveryStarted(e) => {
            let update = "UPDATE channel_messages SET attempts = $4
                          WHERE org_id = $1 AND chat_key = $2 AND direction = 'out' AND id = $3";
            sqlx::query(update).bind(org).bind(chat_key).bind(text(e.delivery_id)).bind(i64::from(e.attempt))
        }
        ChannelChatEvent::ChannelPartDelivered(e) => {
            became("out", e.delivery_id, "queued", None, storable(&[e.vendor_message_id]).0)
        }
        ChannelChatEvent::ChannelDeliveryDeferred(e) => {
            became("out", e.delivery_id, "deferred", Some(e.code), json!([]))
        }
        ChannelChatEvent::ChannelMessageDelivered(e) => {
            let counted = "UPDATE channel_connections SET messages_sent = messages_sent + 1, last_message_at = $3
                           WHERE org_id = $1 AND id = $2";
            let counted = sqlx::query(counted).bind(org).bind(text(e.connection_id)).bind(event.time);
            counted.execute(&mut *conn).await?;
            became("out", e.delivery_id, "delivered", None, json!([]))
        }
        ChannelChatEvent::ChannelReceiptNoted(e) => {
            let update = "UPDATE channel_messages SET receipt = $4, receipt_error = $5
                          WHERE org_id = $1 AND chat_key = $2 AND direction = 'out' AND id = $3";
            let update = sqlx::query(update).bind(org).bind(chat_key).bind(text(e.delivery_id));
            update.bind(name_of(e.receipt)).bind(e.code.map(text))
        }
        ChannelChatEvent::ChannelMessageFailed(e) => became("out", e.delivery_id, "failed", Some(e.code), json!([])),
    };
    change.execute(conn).await?;
    Ok(())
}

async fn received(conn: &mut PgConnection, event: &Event, e: &ChannelMessageReceived) -> Result<(), sqlx::Error> {
    let (org, at) = (event.orgid.as_str(), event.time);
    let chat = "INSERT INTO channel_chats (org_id, id, connection_id, conversation_id, last_message_at)
                VALUES ($1, $2, $3, $4, $5) ON CONFLICT (org_id, id) DO UPDATE
                SET conversation_id = excluded.conversation_id, last_message_at = excluded.last_message_at";
    let chat = sqlx::query(chat).bind(org).bind(&event.aggregateid).bind(text(&e.connection_id));
    chat.bind(text(&e.conversation_id)).bind(at).execute(&mut *conn).await?;
    let counted = "UPDATE channel_connections SET messages_received = messages_received + 1, last_message_at = $3
                   WHERE org_id = $1 AND id = $2";
    sqlx::query(counted).bind(org).bind(text(&e.connection_id)).bind(at).execute(&mut *conn).await?;
    came(conn, event, [&e.update_id, &e.connection_id, &e.conversation_id, &e.message_id]).await
}

async fn came(
    conn: &mut PgConnection,
    event: &Event,
    [update, connection, conversation, message]: [&String; 4],
) -> Result<(), sqlx::Error> {
    let insert = "INSERT INTO channel_messages (org_id, chat_key, id, direction, connection_id, conversation_id,
                      message_id, status, attempts, vendor_message_ids, created_at)
                  VALUES ($1, $2, $3, 'in', $4, $5, $6, 'received', 0, '[]', $7) ON CONFLICT DO NOTHING";
    let insert = sqlx::query(insert).bind(event.orgid.as_str()).bind(&event.aggregateid).bind(text(update));
    let insert = insert.bind(text(connection)).bind(text(conversation)).bind(text(message)).bind(event.time);
    insert.execute(conn).await.map(|_| ())
}
