//! Read model of the models service: which model files there are, where they are in memory, how they are to be used, and what
//! is being got.

mod downloads;
mod stats;

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::{FromRow, PgConnection};
use symbia_events::{
    DecodeError, DomainEvent, Event, Service,
    models::{DownloadEvent, ModelEvent, ModelSettings, UsageEvent},
};
use time::OffsetDateTime;

pub use downloads::{Download, download, downloads};
pub use stats::{InferenceStats, inference_stats};

use crate::{FoldError, FoldEvent, Migration, Projection, columns::text};

/// The models projection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Models;

#[async_trait]
impl Projection for Models {
    fn name(&self) -> &'static str {
        "models"
    }

    fn services(&self) -> &'static [Service] {
        &[Service::Models]
    }

    fn tables(&self) -> &'static [&'static str] {
        &["models", "model_instances", "model_settings", "downloads", "inference_stats"]
    }

    fn migrations(&self) -> &'static [Migration] {
        MIGRATIONS
    }

    // A few events a day: a statement each.
    async fn fold(&self, conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
        for FoldEvent { event, .. } in events {
            match event.aggregatetype.as_str() {
                ModelEvent::AGGREGATE => fold(conn, event, event.decode()?).await?,
                DownloadEvent::AGGREGATE => downloads::fold(conn, event, event.decode()?).await?,
                UsageEvent::AGGREGATE => stats::fold(conn, event, event.decode()?).await?,
                _ => {}
            }
        }
        Ok(())
    }
}

const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "models", sql: include_str!("../../../migrations/models/0001_models.sql") },
    Migration { version: 2, name: "settings", sql: include_str!("../../../migrations/models/0002_settings.sql") },
];

/// A model whose file is known.
#[derive(Clone, Debug, PartialEq, FromRow)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct Model {
    pub id: String,
    pub digest: String,
    pub name: String,
    pub filename: String,
    pub architecture: String,
    pub parameters: i64,
    pub quantization: Option<String>,
    pub size_bytes: i64,
    pub context_length: i64,
    pub embedding_length: i64,
    pub capabilities: Vec<String>,
    pub license: Option<String>,
    /// `available`, `removed`, or `error` when it could not be loaded the last time.
    pub status: String,
    pub reason: Option<String>,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

/// The models whose files some process has, by id.
pub async fn models(conn: &mut PgConnection) -> Result<Vec<Model>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM models.models WHERE status <> 'removed' ORDER BY id").fetch_all(conn).await
}

/// What is set for models, by id; a model that is not named is used as it is.
pub async fn settings(conn: &mut PgConnection) -> Result<BTreeMap<String, ModelSettings>, sqlx::Error> {
    let select = "SELECT id, settings FROM models.model_settings";
    let rows: Vec<(String, String)> = sqlx::query_as(select).fetch_all(conn).await?;
    let read = |(id, text): (String, String)| {
        let settings = serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok((id, settings))
    };
    rows.into_iter().map(read).collect()
}

/// The models that are to stay in memory, by id.
pub async fn pinned(conn: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    let settings = settings(conn).await?;
    Ok(settings.into_iter().filter(|(_, set)| set.pinned).map(|(id, _)| id).collect())
}

fn json(value: &impl serde::Serialize) -> Result<String, FoldError> {
    Ok(serde_json::to_string(value).map_err(DecodeError::from)?)
}

fn int(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

async fn fold(conn: &mut PgConnection, event: &Event, change: ModelEvent) -> Result<(), FoldError> {
    let (org, id, at) = (event.orgid.to_string(), event.aggregateid.clone(), event.time);
    let status = async |conn: &mut PgConnection, status: &str, reason: Option<String>| {
        let update = "UPDATE models SET status = $3, reason = $4, updated_at = $5 WHERE org_id = $1 AND id = $2";
        sqlx::query(update).bind(&org).bind(&id).bind(status).bind(reason.map(text)).bind(at).execute(conn).await
    };
    match change {
        ModelEvent::ModelDiscovered(e) => file(conn, event, e.digest, e.filename, e.size_bytes).await?,
        ModelEvent::ModelChanged(e) => file(conn, event, e.digest, e.filename, e.size_bytes).await?,
        ModelEvent::ModelDescribed(e) => {
            let update = "UPDATE models SET name = $3, architecture = $4, parameters = $5, quantization = $6,
                    context_length = $7, embedding_length = $8, capabilities = $9, license = $10
                WHERE org_id = $1 AND id = $2";
            let capabilities: Vec<String> = e.capabilities.into_iter().map(text).collect();
            let row = sqlx::query(update).bind(&org).bind(&id).bind(text(e.name)).bind(text(e.architecture));
            let row = row.bind(int(e.parameters)).bind(e.quantization.map(text)).bind(int(e.context_length));
            let row = row.bind(int(e.embedding_length)).bind(capabilities).bind(e.license.map(text));
            row.execute(conn).await?;
        }
        ModelEvent::ModelRemoved(_) => _ = status(conn, "removed", None).await?,
        ModelEvent::ModelLoadFailed(e) => {
            _ = status(conn, if e.category == "memory" { "available" } else { "error" }, Some(e.message)).await?;
        }
        ModelEvent::ModelLoaded(e) => {
            status(conn, "available", None).await?;
            let insert = "INSERT INTO model_instances (org_id, id, worker_id, context_tokens, slots, weight_bytes,
                    cache_bytes, compute_bytes, load_ms, loaded_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
                ON CONFLICT (org_id, id, worker_id) DO UPDATE SET context_tokens = excluded.context_tokens,
                    slots = excluded.slots, weight_bytes = excluded.weight_bytes, cache_bytes = excluded.cache_bytes,
                    compute_bytes = excluded.compute_bytes, load_ms = excluded.load_ms, loaded_at = excluded.loaded_at";
            let row = sqlx::query(insert).bind(&org).bind(&id).bind(text(e.worker_id)).bind(int(e.context_tokens));
            let row = row.bind(int(e.slots)).bind(int(e.weight_bytes)).bind(int(e.cache_bytes));
            row.bind(int(e.compute_bytes)).bind(int(e.load_ms)).bind(at).execute(conn).await?;
        }
        ModelEvent::ModelUnloaded(e) => {
            let delete = "DELETE FROM model_instances WHERE org_id = $1 AND id = $2 AND worker_id = $3";
            sqlx::query(delete).bind(&org).bind(&id).bind(text(e.worker_id)).execute(conn).await?;
        }
        ModelEvent::ModelConfigured(e) => {
            let insert =
                "INSERT INTO model_settings (org_id, id, settings, version, updated_at) VALUES ($1, $2, $3, $4, $5)
                ON CONFLICT (org_id, id) DO UPDATE SET settings = excluded.settings, version = excluded.version,
                    updated_at = excluded.updated_at";
            let settings = json(&e.settings)?;
            let row = sqlx::query(insert).bind(&org).bind(&id).bind(settings).bind(int(e.version));
            row.bind(at).execute(conn).await?;
        }
        ModelEvent::ModelLoadRequested(_)
        | ModelEvent::ModelUnloadRequested(_)
        | ModelEvent::ModelDeletionRequested(_) => {}
    }
    Ok(())
}

async fn file(
    conn: &mut PgConnection,
    event: &Event,
    digest: String,
    filename: String,
    size_bytes: u64,
) -> Result<(), FoldError> {
    let insert = "INSERT INTO models (org_id, id, digest, name, filename, architecture, parameters, size_bytes,
            context_length, embedding_length, capabilities, status, created_at, updated_at)
        VALUES ($1, $2, $3, $2, $4, '', 0, $5, 0, 0, '{}', 'available', $6, $6)
        ON CONFLICT (org_id, id) DO UPDATE SET digest = excluded.digest, filename = excluded.filename,
            size_bytes = excluded.size_bytes, status = excluded.status, reason = NULL, updated_at = excluded.updated_at";
    let row = sqlx::query(insert).bind(event.orgid.to_string()).bind(&event.aggregateid).bind(text(digest));
    row.bind(text(filename)).bind(int(size_bytes)).bind(event.time).execute(conn).await?;
    Ok(())
}
