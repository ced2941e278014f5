//! The rows of the assistants model, and reading them. Structured values are JSON texts.

use std::collections::BTreeMap;

use sqlx::{FromRow, PgConnection, postgres::PgRow};
use time::OffsetDateTime;

use crate::{FoldError, columns::write_columns};

/// An assistant's definition.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct Assistant {
    pub org_id: String,
    pub key: String,
    /// JSON of an `AssistantDefinition`.
    pub definition: String,
    pub digest: String,
    /// It answers.
    pub published: bool,
    pub updated_at: OffsetDateTime,
}

/// A rule set.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct RuleSet {
    pub org_id: String,
    pub key: String,
    pub id: String,
    pub name: String,
    pub description: Option<String>,
    /// JSON of the rules.
    pub rules: String,
    /// JSON of the model settings.
    pub llm_config: Option<String>,
    pub version: i32,
    pub digest: String,
    pub is_active: bool,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

/// A rule run: why an assistant answered, and what it did.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct RuleRun {
    pub org_id: String,
    pub id: String,
    pub conversation_id: String,
    pub message_id: String,
    pub sender_id: String,
    pub assistant_key: String,
    /// `running`, `completed`, `failed` or `cancelled`.
    pub status: String,
    /// JSON: the award, the rule set and the rule.
    pub why: String,
    /// JSON: the rules tried.
    pub evaluated: String,
    /// JSON: the actions.
    pub actions: String,
    /// JSON: ids of the messages it sent.
    pub message_ids: String,
    /// JSON: category, code and text.
    pub failure: Option<String>,
    pub started_at: OffsetDateTime,
    pub ended_at: Option<OffsetDateTime>,
    pub duration_ms: Option<i64>,
}

/// Tenant and id.
pub(super) type Key = (String, String);

#[derive(Debug, Default)]
pub(super) struct State {
    pub assistants: BTreeMap<Key, Option<Assistant>>,
    pub rule_sets: BTreeMap<Key, Option<RuleSet>>,
    pub rule_runs: BTreeMap<Key, Option<RuleRun>>,
}

async fn load<R>(
    conn: &mut PgConnection,
    select: &'static str,
    rows: &mut BTreeMap<Key, Option<R>>,
    key: impl Fn(&R) -> Key,
) -> Result<(), sqlx::Error>
where
    R: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    if rows.is_empty() {
        return Ok(());
    }
    let (orgs, ids): (Vec<String>, Vec<String>) = rows.keys().cloned().unzip();
    for row in sqlx::query_as::<_, R>(select).bind(orgs).bind(ids).fetch_all(conn).await? {
        rows.insert(key(&row), Some(row));
    }
    Ok(())
}

impl State {
    /// Fills in the rows whose keys are there.
    pub(super) async fn load(&mut self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let select = "SELECT t.* FROM assistants t JOIN unnest($1::text[], $2::text[]) AS k (org_id, key)
                      USING (org_id, key)";
        load(conn, select, &mut self.assistants, |r| (r.org_id.clone(), r.key.clone())).await?;
        let select = "SELECT t.* FROM rule_sets t JOIN unnest($1::text[], $2::text[]) AS k (org_id, key)
                      USING (org_id, key)";
        load(conn, select, &mut self.rule_sets, |r| (r.org_id.clone(), r.key.clone())).await?;
        let select = "SELECT t.* FROM rule_runs t JOIN unnest($1::text[], $2::text[]) AS k (org_id, id)
                      USING (org_id, id)";
        load(conn, select, &mut self.rule_runs, |r| (r.org_id.clone(), r.id.clone())).await
    }

    pub(super) async fn save(self, conn: &mut PgConnection) -> Result<(), FoldError> {
        write_columns!(
            conn,
            self.assistants.into_values().flatten().collect::<Vec<_>>(),
            (org_id, key, definition, digest, published, updated_at),
            "INSERT INTO assistants (org_id, key, definition, digest, published, updated_at)
             SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::boolean[], $6::timestamptz[])
             ON CONFLICT (org_id, key) DO UPDATE SET definition = excluded.definition, digest = excluded.digest,
                 published = excluded.published, updated_at = excluded.updated_at"
        );
        write_columns!(
            conn,
            self.rule_sets.into_values().flatten().collect::<Vec<_>>(),
            (org_id, key, id, name, description, rules, llm_config, version, digest, is_active, created_at, updated_at),
            "INSERT INTO rule_sets (org_id, key, id, name, description, rules, llm_config, version, digest, is_active,
                                    created_at, updated_at)
             SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                                  $8::int[], $9::text[], $10::boolean[], $11::timestamptz[], $12::timestamptz[])
             ON CONFLICT (org_id, key) DO UPDATE SET id = excluded.id, name = excluded.name,
                 description = excluded.description, rules = excluded.rules, llm_config = excluded.llm_config,
                 version = excluded.version, digest = excluded.digest, is_active = excluded.is_active,
                 updated_at = excluded.updated_at"
        );
        write_columns!(
            conn,
            self.rule_runs.into_values().flatten().collect::<Vec<_>>(),
            (
                org_id,
                id,
                conversation_id,
                message_id,
                sender_id,
                assistant_key,
                status,
                why,
                evaluated,
                actions,
                message_ids,
                failure,
                started_at,
                ended_at,
                duration_ms
            ),
            "INSERT INTO rule_runs (org_id, id, conversation_id, message_id, sender_id, assistant_key, status, why,
                                    evaluated, actions, message_ids, failure, started_at, ended_at, duration_ms)
             SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                                  $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::timestamptz[],
                                  $14::timestamptz[], $15::bigint[])
             ON CONFLICT (org_id, id) DO UPDATE SET status = excluded.status, evaluated = excluded.evaluated,
                 actions = excluded.actions, message_ids = excluded.message_ids, failure = excluded.failure,
                 ended_at = excluded.ended_at, duration_ms = excluded.duration_ms"
        );
        Ok(())
    }
}

/// The assistants that an organization sees: its own and the platform's, by key.
pub async fn assistants(conn: &mut PgConnection, org: &str) -> Result<Vec<Assistant>, sqlx::Error> {
    sqlx::query_as(
        "SELECT DISTINCT ON (key) * FROM assistants.assistants WHERE org_id IN ($1, 'global')
         ORDER BY key, org_id = 'global'",
    )
    .bind(org)
    .fetch_all(conn)
    .await
}

/// The assistant of this key that an organization sees.
pub async fn assistant(conn: &mut PgConnection, org: &str, key: &str) -> Result<Option<Assistant>, sqlx::Error> {
    sqlx::query_as(
        "SELECT * FROM assistants.assistants WHERE org_id IN ($1, 'global') AND key = $2
         ORDER BY org_id = 'global' LIMIT 1",
    )
    .bind(org)
    .bind(key)
    .fetch_optional(conn)
    .await
}

/// The rule sets that an organization sees, by key.
pub async fn rule_sets(conn: &mut PgConnection, org: &str) -> Result<Vec<RuleSet>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM assistants.rule_sets WHERE org_id IN ($1, 'global') ORDER BY key, org_id")
        .bind(org)
        .fetch_all(conn)
        .await
}

/// The rule set by which an assistant answers in an organization: its own, else the platform's.
pub async fn rule_set(conn: &mut PgConnection, org: &str, assistant: &str) -> Result<Option<RuleSet>, sqlx::Error> {
    sqlx::query_as(
        "SELECT * FROM assistants.rule_sets
         WHERE (org_id = $1 AND key = $2 || ':' || $1) OR (org_id = 'global' AND key = $2 || ':default')
         ORDER BY org_id = 'global' LIMIT 1",
    )
    .bind(org)
    .bind(assistant)
    .fetch_optional(conn)
    .await
}

/// A rule run.
pub async fn rule_run(conn: &mut PgConnection, org: &str, id: &str) -> Result<Option<RuleRun>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM assistants.rule_runs WHERE org_id = $1 AND id = $2")
        .bind(org)
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// The newest runs of a conversation, the newest first.
pub async fn rule_runs(
    conn: &mut PgConnection,
    org: &str,
    conversation: &str,
    limit: i64,
) -> Result<Vec<RuleRun>, sqlx::Error> {
    sqlx::query_as(
        "SELECT * FROM assistants.rule_runs WHERE org_id = $1 AND conversation_id = $2
         ORDER BY started_at DESC, id LIMIT $3",
    )
    .bind(org)
    .bind(conversation)
    .bind(limit)
    .fetch_all(conn)
    .await
}
