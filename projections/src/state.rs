//! What a schema's rows add up to, whatever their order: for comparing a live schema with a replay.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, PgPool};
use symbia_events::Service;

use crate::Projection;

/// The content of a table: its number of rows and the sums of their hashes' halves.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct TableState {
    /// Rows.
    pub rows: i64,
    /// Sums of the two halves of the MD5 of each row's text.
    pub checksum: String,
}

/// State of every table of a schema, and the positions it belongs to, in one snapshot.
pub(crate) async fn table_states(
    pool: &PgPool,
    projection: &dyn Projection,
    schema: &str,
) -> Result<(BTreeMap<Service, u64>, Vec<(String, TableState)>), sqlx::Error> {
    // A row's text depends on these two settings.
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL ROLE symbia_projector; \
         SET LOCAL search_path TO {schema}; SET LOCAL timezone TO 'UTC'; SET LOCAL datestyle TO 'ISO'"
    );
    let mut tx = pool.begin_with(AssertSqlSafe(begin)).await?;
    let checkpoints: Vec<(String, i64)> =
        sqlx::query_as("SELECT service, sequence FROM checkpoint").fetch_all(&mut *tx).await?;
    let positions = checkpoints
        .into_iter()
        .filter_map(|(service, sequence)| Some((service.parse().ok()?, u64::try_from(sequence).ok()?)))
        .filter(|(service, _)| projection.services().contains(service))
        .collect();
    let mut states = Vec::with_capacity(projection.tables().len());
    for table in projection.tables() {
        let sum = |half: &str| format!("coalesce(sum(('x' || {half}(h, 16))::bit(64)::bigint::numeric), 0)");
        let select = format!(
            "SELECT count(*) AS rows, {} || ':' || {} AS checksum FROM (SELECT md5(t::text) AS h FROM {table} t) hashes",
            sum("left"),
            sum("right")
        );
        let state: TableState = sqlx::query_as(AssertSqlSafe(select)).fetch_one(&mut *tx).await?;
        states.push(((*table).to_owned(), state));
    }
    Ok((positions, states))
}

/// One hash over the states of all tables, hexadecimal.
#[must_use]
pub(crate) fn state_hash(states: &[(String, TableState)]) -> String {
    let mut hash = Sha256::new();
    for (table, state) in states {
        hash.update(format!("{table}\0{}\0{}\n", state.rows, state.checksum));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hash of a projection's state in a schema, with the positions it belongs to. Equal logs give equal hashes.
pub async fn schema_hash(
    pool: &PgPool,
    projection: &dyn Projection,
    schema: &str,
) -> Result<(BTreeMap<Service, u64>, String), sqlx::Error> {
    let (positions, states) = table_states(pool, projection, schema).await?;
    Ok((positions, state_hash(&states)))
}
