//! Guardrails: folding their events, and reading them.

use sqlx::{FromRow, PgConnection, types::Json};
use symbia_events::{
    DomainEvent,
    integrations::{GuardrailEvent, GuardrailRules, GuardrailSet},
};
use time::OffsetDateTime;

use super::completions::int;
use crate::{FoldError, FoldEvent, columns::text};

/// What an organization lets into prompts and out of answers.
#[derive(Clone, Debug, PartialEq, FromRow)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct Guardrail {
    pub id: String,
    pub name: String,
    pub version: i64,
    pub prompt: Json<GuardrailRules>,
    pub answer: Json<GuardrailRules>,
    pub set_by: String,
    pub set_at: OffsetDateTime,
}

impl Guardrail {
    /// As it was set.
    #[must_use]
    pub fn set(&self) -> GuardrailSet {
        GuardrailSet {
            guardrail_id: self.id.clone(),
            name: self.name.clone(),
            version: self.version.unsigned_abs(),
            prompt: self.prompt.0.clone(),
            answer: self.answer.0.clone(),
            by: self.set_by.clone(),
        }
    }
}

/// The guardrails of an organization, by their names.
pub async fn guardrails(conn: &mut PgConnection, org: &str) -> Result<Vec<Guardrail>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM integrations.guardrails WHERE org_id = $1 ORDER BY name")
        .bind(org)
        .fetch_all(conn)
        .await
}

/// One by its name.
pub async fn guardrail(conn: &mut PgConnection, org: &str, name: &str) -> Result<Option<Guardrail>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM integrations.guardrails WHERE org_id = $1 AND name = $2")
        .bind(org)
        .bind(name)
        .fetch_optional(conn)
        .await
}

pub(super) async fn fold(conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
    for FoldEvent { event, .. } in events.iter().filter(|e| e.event.aggregatetype == GuardrailEvent::AGGREGATE) {
        let row = |sql: &'static str| sqlx::query(sql).bind(event.orgid.as_str()).bind(&event.aggregateid);
        let change = match event.decode()? {
            GuardrailEvent::GuardrailSet(e) => {
                row("INSERT INTO guardrails (org_id, id, name, version, prompt, answer, set_by, set_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
                 ON CONFLICT (org_id, id) DO UPDATE SET version = excluded.version, prompt = excluded.prompt,
                     answer = excluded.answer, set_by = excluded.set_by, set_at = excluded.set_at")
                .bind(text(e.name))
                .bind(int(e.version))
                .bind(Json(e.prompt))
                .bind(Json(e.answer))
                .bind(text(e.by))
                .bind(event.time)
            }
            GuardrailEvent::GuardrailRemoved(_) => row("DELETE FROM guardrails WHERE org_id = $1 AND id = $2"),
        };
        change.execute(&mut *conn).await?;
    }
    Ok(())
}
