//! Read model of the assistants service: what assistants there are, by which rules they answer, and why they did.

mod fold;
mod rows;

pub use rows::{Assistant, RuleRun, RuleSet, assistant, assistants, rule_run, rule_runs, rule_set, rule_sets};

use async_trait::async_trait;
use sqlx::PgConnection;
use symbia_events::Service;

use crate::{FoldError, FoldEvent, Migration, Projection};

/// The assistants projection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Assistants;

#[async_trait]
impl Projection for Assistants {
    fn name(&self) -> &'static str {
        "assistants"
    }

    fn services(&self) -> &'static [Service] {
        &[Service::Assistants]
    }

    fn tables(&self) -> &'static [&'static str] {
        &["assistants", "rule_sets", "rule_runs"]
    }

    fn migrations(&self) -> &'static [Migration] {
        MIGRATIONS
    }

    async fn fold(&self, conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
        fold::fold(conn, events).await
    }
}

const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "assistants",
    sql: include_str!("../../../migrations/assistants/0001_assistants.sql"),
}];
