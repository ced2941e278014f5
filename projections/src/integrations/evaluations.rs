//! Evaluations: folding their events, and reading them.

use std::collections::BTreeMap;

use sqlx::{FromRow, PgConnection, types::Json};
use symbia_events::{
    DomainEvent, Event,
    integrations::{CaseResult, EvaluationEvent, RunConfig},
};
use time::OffsetDateTime;

use super::completions::int;
use crate::{
    FoldError, FoldEvent,
    columns::{name_of, text},
};

/// A model that was tried.
#[derive(Clone, Debug, PartialEq, FromRow)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct Evaluation {
    pub org_id: String,
    pub id: String,
    pub provider: String,
    pub model_id: String,
    pub benchmark_id: String,
    pub benchmark_version: String,
    pub task_type: String,
    /// `running`, `completed`, `failed` or `cancelled`.
    pub status: String,
    /// How many cases there are.
    pub cases: i32,
    pub results: Json<Vec<CaseResult>>,
    pub run_config: Json<RunConfig>,
    pub mock: bool,
    pub overall_score: Option<f64>,
    pub accuracy: Option<f64>,
    pub latency_p50_ms: Option<i64>,
    pub latency_p95_ms: Option<i64>,
    pub latency_p99_ms: Option<i64>,
    pub input_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
    pub cost_micros: Option<i64>,
    pub started_by: String,
    pub started_at: OffsetDateTime,
    pub ended_at: Option<OffsetDateTime>,
    pub error_category: Option<String>,
    pub error_message: Option<String>,
}

/// Which evaluations.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "named as the columns")]
pub struct EvaluationFilter<'a> {
    pub provider: Option<&'a str>,
    pub model_id: Option<&'a str>,
    pub benchmark_id: Option<&'a str>,
    pub status: Option<&'a str>,
    pub task_type: Option<&'a str>,
}

/// The evaluations of an organization, those that ended last first, those under way before them.
pub async fn evaluations(
    conn: &mut PgConnection,
    org: &str,
    filter: &EvaluationFilter<'_>,
    limit: i64,
    offset: i64,
) -> Result<Vec<Evaluation>, sqlx::Error> {
    let select = "SELECT * FROM integrations.evaluations WHERE org_id = $1
             AND ($2::text IS NULL OR provider = $2) AND ($3::text IS NULL OR model_id = $3)
             AND ($4::text IS NULL OR benchmark_id = $4) AND ($5::text IS NULL OR status = $5)
             AND ($6::text IS NULL OR task_type = $6)
         ORDER BY ended_at DESC NULLS FIRST, started_at DESC, id LIMIT $7 OFFSET $8";
    sqlx::query_as(select)
        .bind(org)
        .bind(filter.provider)
        .bind(filter.model_id)
        .bind(filter.benchmark_id)
        .bind(filter.status)
        .bind(filter.task_type)
        .bind(limit)
        .bind(offset)
        .fetch_all(conn)
        .await
}

/// One by its id.
pub async fn evaluation(conn: &mut PgConnection, org: &str, id: &str) -> Result<Option<Evaluation>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM integrations.evaluations WHERE org_id = $1 AND id = $2")
        .bind(org)
        .bind(id)
        .fetch_optional(conn)
        .await
}

pub(super) async fn fold(conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
    let mut rows: BTreeMap<(String, String), Option<Evaluation>> = BTreeMap::new();
    let mut changes = Vec::new();
    for FoldEvent { event, .. } in events.iter().filter(|e| e.event.aggregatetype == EvaluationEvent::AGGREGATE) {
        changes.push((event, event.decode::<EvaluationEvent>()?));
        rows.entry((event.orgid.to_string(), event.aggregateid.clone())).or_default();
    }
    if changes.is_empty() {
        return Ok(());
    }
    let (orgs, ids): (Vec<String>, Vec<String>) = rows.keys().cloned().unzip();
    let select =
        "SELECT t.* FROM evaluations t JOIN unnest($1::text[], $2::text[]) AS k (org_id, id) USING (org_id, id)";
    for row in sqlx::query_as::<_, Evaluation>(select).bind(orgs).bind(ids).fetch_all(&mut *conn).await? {
        rows.insert((row.org_id.clone(), row.id.clone()), Some(row));
    }
    for (event, change) in changes {
        apply(rows.entry((event.orgid.to_string(), event.aggregateid.clone())).or_default(), event, change);
    }
    // Nobody has many models tried at once.
    for row in rows.into_values().flatten() {
        save(conn, row).await?;
    }
    Ok(())
}

fn apply(row: &mut Option<Evaluation>, event: &Event, change: EvaluationEvent) {
    if let EvaluationEvent::EvaluationStarted(e) = change {
        let task = e.benchmark_id.split('.').next().unwrap_or_default().to_owned();
        row.get_or_insert_with(|| Evaluation {
            org_id: event.orgid.to_string(),
            id: event.aggregateid.clone(),
            provider: text(e.provider),
            model_id: text(e.model_id),
            benchmark_version: text(e.benchmark_version),
            task_type: text(task),
            benchmark_id: text(e.benchmark_id),
            status: "running".to_owned(),
            cases: i32::try_from(e.cases.len()).unwrap_or(i32::MAX),
            results: Json::default(),
            mock: e.run_config.mock,
            run_config: Json(e.run_config),
            overall_score: None,
            accuracy: None,
            latency_p50_ms: None,
            latency_p95_ms: None,
            latency_p99_ms: None,
            input_tokens: None,
            output_tokens: None,
            cost_micros: None,
            started_by: text(e.started_by),
            started_at: event.time,
            ended_at: None,
            error_category: None,
            error_message: None,
        });
        return;
    }
    let Some(row) = row else { return };
    match change {
        EvaluationEvent::EvaluationStarted(_) => {}
        EvaluationEvent::EvaluationCaseScored(e) => {
            let CaseResult { reason, error, test_case_id, .. } = e.result.clone();
            let (reason, error, test_case_id) = (reason.map(text), error.map(text), text(test_case_id));
            row.results.push(CaseResult { reason, error, test_case_id, ..e.result });
        }
        EvaluationEvent::EvaluationCompleted(e) => {
            row.end(event, "completed");
            (row.overall_score, row.accuracy) = (Some(e.overall_score), Some(e.accuracy));
            row.latency_p50_ms = Some(int(e.latency_p50_ms));
            row.latency_p95_ms = Some(int(e.latency_p95_ms));
            row.latency_p99_ms = Some(int(e.latency_p99_ms));
            row.input_tokens = Some(int(e.total_input_tokens));
            row.output_tokens = Some(int(e.total_output_tokens));
            row.cost_micros = Some(int(e.cost_micros));
        }
        EvaluationEvent::EvaluationFailed(e) => {
            row.end(event, "failed");
            row.error_category = Some(name_of(e.category));
            row.error_message = Some(text(e.message));
        }
        EvaluationEvent::EvaluationCancelled(_) => row.end(event, "cancelled"),
    }
}

impl Evaluation {
    fn end(&mut self, event: &Event, status: &str) {
        status.clone_into(&mut self.status);
        self.ended_at = Some(event.time);
    }
}

async fn save(conn: &mut PgConnection, row: Evaluation) -> Result<(), sqlx::Error> {
    let upsert = "INSERT INTO evaluations (org_id, id, provider, model_id, benchmark_id, benchmark_version, task_type, status,
                      cases, results, run_config, mock, overall_score, accuracy, latency_p50_ms, latency_p95_ms,
                      latency_p99_ms, input_tokens, output_tokens, cost_micros, started_by, started_at, ended_at,
                      error_category, error_message)
                  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,
                      $22, $23, $24, $25)
                  ON CONFLICT (org_id, id) DO UPDATE SET status = excluded.status, results = excluded.results,
                      overall_score = excluded.overall_score, accuracy = excluded.accuracy,
                      latency_p50_ms = excluded.latency_p50_ms, latency_p95_ms = excluded.latency_p95_ms,
                      latency_p99_ms = excluded.latency_p99_ms, input_tokens = excluded.input_tokens,
                      output_tokens = excluded.output_tokens, cost_micros = excluded.cost_micros,
                      ended_at = excluded.ended_at, error_category = excluded.error_category,
                      error_message = excluded.error_message";
    sqlx::query(upsert)
        .bind(row.org_id)
        .bind(row.id)
        .bind(row.provider)
        .bind(row.model_id)
        .bind(row.benchmark_id)
        .bind(row.benchmark_version)
        .bind(row.task_type)
        .bind(row.status)
        .bind(row.cases)
        .bind(row.results)
        .bind(row.run_config)
        .bind(row.mock)
        .bind(row.overall_score)
        .bind(row.accuracy)
        .bind(row.latency_p50_ms)
        .bind(row.latency_p95_ms)
        .bind(row.latency_p99_ms)
        .bind(row.input_tokens)
        .bind(row.output_tokens)
        .bind(row.cost_micros)
        .bind(row.started_by)
        .bind(row.started_at)
        .bind(row.ended_at)
        .bind(row.error_category)
        .bind(row.error_message)
        .execute(conn)
        .await
        .map(|_| ())
}
