//! Scores of models: folding their events, and reading them.

use sqlx::{FromRow, PgConnection, types::Json};
use symbia_events::{DomainEvent, integrations::ModelScoreEvent};
use time::OffsetDateTime;

use crate::{FoldError, FoldEvent, columns::text};

/// The scores of a model for a task, each 0 to 100.
#[derive(Clone, Debug, PartialEq, FromRow)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct ModelScore {
    pub id: String,
    pub provider: String,
    pub model_id: String,
    pub task_type: String,
    pub quality_score: f64,
    pub speed_score: f64,
    pub cost_score: f64,
    pub reliability_score: f64,
    pub composite_score: f64,
    pub evaluation_ids: Json<Vec<String>>,
    pub updated_at: OffsetDateTime,
}

/// The scores of an organization's models, the best first.
pub async fn model_scores(
    conn: &mut PgConnection,
    org: &str,
    provider: Option<&str>,
    model_id: Option<&str>,
    task_type: Option<&str>,
) -> Result<Vec<ModelScore>, sqlx::Error> {
    let select = "SELECT * FROM integrations.model_scores WHERE org_id = $1
             AND ($2::text IS NULL OR provider = $2) AND ($3::text IS NULL OR model_id = $3)
             AND ($4::text IS NULL OR task_type = $4)
         ORDER BY composite_score DESC, provider, model_id, task_type LIMIT 1000";
    sqlx::query_as(select).bind(org).bind(provider).bind(model_id).bind(task_type).fetch_all(conn).await
}

pub(super) async fn fold(conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
    for FoldEvent { event, .. } in events.iter().filter(|e| e.event.aggregatetype == ModelScoreEvent::AGGREGATE) {
        let ModelScoreEvent::ModelScoreUpdated(e) = event.decode()?;
        let upsert = "INSERT INTO model_scores (org_id, id, provider, model_id, task_type, quality_score, speed_score, cost_score,
                          reliability_score, composite_score, evaluation_ids, updated_at)
                      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
                      ON CONFLICT (org_id, id) DO UPDATE SET quality_score = excluded.quality_score,
                          speed_score = excluded.speed_score, cost_score = excluded.cost_score,
                          reliability_score = excluded.reliability_score, composite_score = excluded.composite_score,
                          evaluation_ids = excluded.evaluation_ids, updated_at = excluded.updated_at";
        sqlx::query(upsert)
            .bind(event.orgid.as_str())
            .bind(&event.aggregateid)
            .bind(text(e.provider))
            .bind(text(e.model_id))
            .bind(e.task_type.name())
            .bind(e.quality_score)
            .bind(e.speed_score)
            .bind(e.cost_score)
            .bind(e.reliability_score)
            .bind(e.composite_score)
            .bind(Json(e.evaluation_ids.into_iter().map(text).collect::<Vec<_>>()))
            .bind(event.time)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}
