//! Read model of the integrations service: which models were asked, and what it took.

mod completions;

pub use completions::{Completion, completions_of_run};

use async_trait::async_trait;
use sqlx::PgConnection;
use symbia_events::Service;

use crate::{FoldError, FoldEvent, Migration, Projection};

/// The integrations projection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Integrations;

#[async_trait]
impl Projection for Integrations {
    fn name(&self) -> &'static str {
        "integrations"
    }

    fn services(&self) -> &'static [Service] {
        &[Service::Integrations]
    }

    fn tables(&self) -> &'static [&'static str] {
        &["completions"]
    }

    fn migrations(&self) -> &'static [Migration] {
        MIGRATIONS
    }

    async fn fold(&self, conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
        completions::fold(conn, events).await
    }
}

const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "integrations",
    sql: include_str!("../../../migrations/integrations/0001_integrations.sql"),
}];
