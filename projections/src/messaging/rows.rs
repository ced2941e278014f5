//! The rows of the messaging model: loading those that a batch touches, and writing them back.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{AssertSqlSafe, FromRow, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{FoldError, columns::write_columns};

/// A conversation (messaging.md §3.1).
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "named as in messaging.md §3.1")]
pub struct Conversation {
    pub org_id: String,
    pub id: String,
    #[sqlx(rename = "type")]
    pub kind: String,
    pub name: Option<String>,
    pub description: Option<String>,
    pub created_by: String,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
    /// A JSON object.
    pub metadata: String,
    pub content_key_id: String,
    pub last_sequence: i64,
    pub retention_days: Option<i32>,
}

/// Who takes part in a conversation (messaging.md §3.2).
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "named as in messaging.md §3.2")]
pub struct Participant {
    pub org_id: String,
    pub conversation_id: String,
    pub user_id: String,
    pub id: String,
    pub user_type: String,
    pub role: String,
    pub entity_id: Option<String>,
    pub joined_at: OffsetDateTime,
    /// Kept with the read cursor.
    #[sqlx(default)]
    pub last_read_at: Option<OffsetDateTime>,
}

/// How far somebody has read a conversation.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "the names say it")]
pub struct ReadCursor {
    pub org_id: String,
    pub conversation_id: String,
    pub user_id: String,
    pub read_sequence: i64,
    pub read_at: OffsetDateTime,
}

/// The columns of a message of the alias `m`, without the words that only a search looks at.
pub(super) const MESSAGE: &str = "m.org_id, m.conversation_id, m.id, m.event_id, m.sender_id, m.sender_type, m.content, \
     m.content_type, m.reply_to, m.run_id, m.trace_id, m.sequence, m.priority, m.interruptible, m.preempted_by, \
     m.created_at, m.updated_at, m.deleted_at, m.metadata, m.version, m.erased";

/// A message (messaging.md §3.3).
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "named as in messaging.md §3.3")]
pub struct Message {
    pub org_id: String,
    pub conversation_id: String,
    pub id: String,
    /// The event that says it was sent.
    pub event_id: Uuid,
    pub sender_id: String,
    pub sender_type: String,
    pub content: String,
    pub content_type: String,
    pub reply_to: Option<String>,
    pub run_id: Option<String>,
    pub trace_id: Option<String>,
    pub sequence: i64,
    pub priority: String,
    pub interruptible: bool,
    pub preempted_by: Option<String>,
    pub created_at: OffsetDateTime,
    pub updated_at: Option<OffsetDateTime>,
    pub deleted_at: Option<OffsetDateTime>,
    /// A JSON object.
    pub metadata: String,
    pub version: i32,
    /// Its text cannot be read any more.
    pub erased: bool,
}

/// Tenant and conversation.
pub(super) type Place = (String, String);
/// Tenant, conversation, and the member or message in it.
pub(super) type Inner = (String, String, String);

/// The rows that a batch touches; `None` = there is no such row, or no longer.
#[derive(Debug, Default)]
pub(super) struct State {
    pub conversations: BTreeMap<Place, Option<Conversation>>,
    pub participants: BTreeMap<Inner, Option<Participant>>,
    pub messages: BTreeMap<Inner, Option<Message>>,
    pub cursors: BTreeMap<Inner, ReadCursor>,
}

fn arrays2<'k>(keys: impl Iterator<Item = &'k Place>) -> (Vec<String>, Vec<String>) {
    keys.cloned().unzip()
}

fn arrays3<'k>(keys: impl Iterator<Item = &'k Inner>) -> (Vec<String>, Vec<String>, Vec<String>) {
    let mut arrays = (Vec::new(), Vec::new(), Vec::new());
    for (a, b, c) in keys {
        arrays.0.push(a.clone());
        arrays.1.push(b.clone());
        arrays.2.push(c.clone());
    }
    arrays
}

impl State {
    pub(super) async fn load(
        conn: &mut PgConnection,
        conversations: &BTreeSet<Place>,
        participants: &BTreeSet<Inner>,
        messages: &BTreeSet<Inner>,
    ) -> Result<State, sqlx::Error> {
        let mut state = State::default();
        if !conversations.is_empty() {
            let (orgs, ids) = arrays2(conversations.iter());
            let select = "SELECT c.* FROM conversations c JOIN unnest($1::text[], $2::text[]) AS k (org_id, id)
                          USING (org_id, id)";
            let rows: Vec<Conversation> = sqlx::query_as(select).bind(orgs).bind(ids).fetch_all(&mut *conn).await?;
            state.conversations = rows.into_iter().map(|r| ((r.org_id.clone(), r.id.clone()), Some(r))).collect();
        }
        if !participants.is_empty() {
            let (orgs, conversations, users) = arrays3(participants.iter());
            let select = "SELECT p.* FROM participants p
                          JOIN unnest($1::text[], $2::text[], $3::text[]) AS k (org_id, conversation_id, user_id)
                          USING (org_id, conversation_id, user_id)";
            let query = sqlx::query_as(select).bind(orgs).bind(conversations).bind(users);
            let rows: Vec<Participant> = query.fetch_all(&mut *conn).await?;
            let key = |r: &Participant| (r.org_id.clone(), r.conversation_id.clone(), r.user_id.clone());
            state.participants = rows.into_iter().map(|r| (key(&r), Some(r))).collect();
        }
        if !messages.is_empty() {
            let (orgs, conversations, ids) = arrays3(messages.iter());
            let select = format!(
                "SELECT {MESSAGE} FROM messages m
                 JOIN unnest($1::text[], $2::text[], $3::text[]) AS k (org_id, conversation_id, id)
                 ON (m.org_id, m.conversation_id, m.id) = (k.org_id, k.conversation_id, k.id)"
            );
            let query = sqlx::query_as(AssertSqlSafe(select)).bind(orgs).bind(conversations).bind(ids);
            let rows: Vec<Message> = query.fetch_all(&mut *conn).await?;
            let key = |r: &Message| (r.org_id.clone(), r.conversation_id.clone(), r.id.clone());
            state.messages = rows.into_iter().map(|r| (key(&r), Some(r))).collect();
        }
        Ok(state)
    }

    pub(super) async fn save(self, conn: &mut PgConnection) -> Result<(), FoldError> {
        write_columns!(
            conn, self.conversations.into_values().flatten().collect::<Vec<_>>(),
            (org_id, id, kind, name, description, created_by, created_at, updated_at, metadata, content_key_id,
             last_sequence, retention_days),
            "INSERT INTO conversations (org_id, id, type, name, description, created_by, created_at, updated_at, metadata,
                                        content_key_id, last_sequence, retention_days)
             SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
                                  $7::timestamptz[], $8::timestamptz[], $9::text[], $10::text[], $11::bigint[],
                                  $12::int[])
             ON CONFLICT (org_id, id) DO UPDATE SET name = excluded.name, description = excluded.description,
                 updated_at = excluded.updated_at, metadata = excluded.metadata, last_sequence = excluded.last_sequence,
                 retention_days = excluded.retention_days"
        );
        let gone = self.participants.iter().filter(|(_, row)| row.is_none()).map(|(key, _)| key);
        let (orgs, conversations, users) = arrays3(gone);
        if !orgs.is_empty() {
            let delete = "DELETE FROM participants WHERE (org_id, conversation_id, user_id) IN
                          (SELECT * FROM unnest($1::text[], $2::text[], $3::text[]))";
            sqlx::query(delete).bind(orgs).bind(conversations).bind(users).execute(&mut *conn).await?;
        }
        write_columns!(
            conn,
            self.participants.into_values().flatten().collect::<Vec<_>>(),
            (org_id, conversation_id, user_id, id, user_type, role, entity_id, joined_at),
            "INSERT INTO participants (org_id, conversation_id, user_id, id, user_type, role, entity_id, joined_at)
             SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                                  $8::timestamptz[])
             ON CONFLICT (org_id, conversation_id, user_id) DO UPDATE SET id = excluded.id,
                 user_type = excluded.user_type, role = excluded.role, entity_id = excluded.entity_id,
                 joined_at = excluded.joined_at"
        );
        write_columns!(
            conn, self.messages.into_values().flatten().collect::<Vec<_>>(),
            (org_id, conversation_id, id, event_id, sender_id, sender_type, content, content_type, reply_to, run_id,
             trace_id, sequence, priority, interruptible, preempted_by, created_at, updated_at, deleted_at, metadata,
             version, erased),
            "INSERT INTO messages (org_id, conversation_id, id, event_id, sender_id, sender_type, content, content_type,
                                   reply_to, run_id, trace_id, sequence, priority, interruptible, preempted_by,
                                   created_at, updated_at, deleted_at, metadata, version, erased)
             SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::text[],
                                  $8::text[], $9::text[], $10::text[], $11::text[], $12::bigint[], $13::text[],
                                  $14::boolean[], $15::text[], $16::timestamptz[], $17::timestamptz[],
                                  $18::timestamptz[], $19::text[], $20::int[], $21::boolean[])
             ON CONFLICT (org_id, conversation_id, id) DO UPDATE SET content = excluded.content,
                 updated_at = excluded.updated_at, deleted_at = excluded.deleted_at, version = excluded.version,
                 erased = excluded.erased"
        );
        write_columns!(
            conn,
            self.cursors.into_values().collect::<Vec<_>>(),
            (org_id, conversation_id, user_id, read_sequence, read_at),
            "INSERT INTO read_cursors (org_id, conversation_id, user_id, read_sequence, read_at)
             SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::timestamptz[])
             ON CONFLICT (org_id, conversation_id, user_id) DO UPDATE SET read_sequence = excluded.read_sequence,
                 read_at = excluded.read_at"
        );
        Ok(())
    }
}
