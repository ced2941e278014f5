//! The price book: folding its events, and reading it.

use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection};
use symbia_events::{
    DomainEvent,
    integrations::{PriceEvent, TokenPrice},
};
use time::OffsetDateTime;

use super::completions::int;
use crate::{FoldError, FoldEvent, columns::text};

/// What a model costs, in millionths of a US dollar for a million tokens.
#[derive(Clone, Debug, PartialEq, FromRow, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct Price {
    pub provider: String,
    pub model: String,
    pub version: i64,
    pub input_micros_per_m: i64,
    pub output_micros_per_m: i64,
    pub cached_input_micros_per_m: Option<i64>,
    pub image_micros: Option<i64>,
    pub request_micros: Option<i64>,
    pub character_micros_per_m: Option<i64>,
    pub audio_hour_micros: Option<i64>,
    pub set_at: OffsetDateTime,
}

impl Price {
    /// That of tokens alone.
    #[must_use]
    pub fn tokens(&self) -> TokenPrice {
        TokenPrice {
            input: self.input_micros_per_m.unsigned_abs(),
            output: self.output_micros_per_m.unsigned_abs(),
            cached_input: self.cached_input_micros_per_m.map(i64::unsigned_abs),
            version: self.version.unsigned_abs(),
        }
    }
}

/// All prices.
pub async fn prices(conn: &mut PgConnection) -> Result<Vec<Price>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM integrations.prices ORDER BY provider, model LIMIT 10000").fetch_all(conn).await
}

/// The price of a model.
pub async fn price(conn: &mut PgConnection, provider: &str, model: &str) -> Result<Option<Price>, sqlx::Error> {
    let select = "SELECT * FROM integrations.prices WHERE provider = $1 AND model = $2";
    sqlx::query_as(select).bind(provider).bind(model).fetch_optional(conn).await
}

pub(super) async fn fold(conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
    for FoldEvent { event, .. } in events.iter().filter(|e| e.event.aggregatetype == PriceEvent::AGGREGATE) {
        let PriceEvent::PriceSet(e) = event.decode()?;
        let upsert =
            "INSERT INTO prices (org_id, id, provider, model, version, input_micros_per_m, output_micros_per_m,
                                          cached_input_micros_per_m, image_micros, request_micros,
                                          character_micros_per_m, audio_hour_micros, set_at)
                      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
                      ON CONFLICT (org_id, id) DO UPDATE SET version = excluded.version,
                          input_micros_per_m = excluded.input_micros_per_m,
                          output_micros_per_m = excluded.output_micros_per_m,
                          cached_input_micros_per_m = excluded.cached_input_micros_per_m,
                          image_micros = excluded.image_micros, request_micros = excluded.request_micros,
                          character_micros_per_m = excluded.character_micros_per_m,
                          audio_hour_micros = excluded.audio_hour_micros, set_at = excluded.set_at";
        sqlx::query(upsert)
            .bind(event.orgid.as_str())
            .bind(&event.aggregateid)
            .bind(text(e.provider))
            .bind(text(e.model))
            .bind(int(e.version))
            .bind(int(e.input_micros_per_m))
            .bind(int(e.output_micros_per_m))
            .bind(e.cached_input_micros_per_m.map(int))
            .bind(e.image_micros.map(int))
            .bind(e.request_micros.map(int))
            .bind(e.character_micros_per_m.map(int))
            .bind(e.audio_hour_micros.map(int))
            .bind(event.time)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}
