//! Read model of the network service: an organization's mesh, and the calls over it with what was decided about each.

mod events;
mod fold;
mod queue;
mod registry;
mod rows;
mod table;

pub use events::{EventFilter, Totals, event, events, totals, traces_of_run};
pub use queue::{EARLIER_WAITS, Unsettled, unsettled, waiting_for};
pub use registry::{
    Active, active, bridge, bridges, contract, contracts, mesh_version, mesh_version_and_sent, node, nodes, policies,
    policy, policy_version,
};
pub use rows::{Bridge, Contract, Delivery, Node, Policy, PolicyVersion, RoutedEvent};

use async_trait::async_trait;
use sqlx::PgConnection;
use symbia_events::Service;
use time::Duration;

use crate::{FoldError, FoldEvent, Migration, Projection};

/// How long a call is shown after it was made, where nobody says otherwise (network.md §8.10).
pub const SHOWN: Duration = Duration::days(30);

/// The network projection.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    shown: Duration,
}

impl Default for Network {
    fn default() -> Self {
        Network::showing(SHOWN)
    }
}

impl Network {
    /// One that shows calls for so long after they were made; the log keeps them. Where that is changed, a rebuild brings back
    /// what is shown again.
    #[must_use]
    pub fn showing(shown: Duration) -> Self {
        Network { shown }
    }
}

#[async_trait]
impl Projection for Network {
    fn name(&self) -> &'static str {
        "network"
    }

    fn services(&self) -> &'static [Service] {
        &[Service::Network]
    }

    fn tables(&self) -> &'static [&'static str] {
        &["meshes", "nodes", "contracts", "policies", "policy_versions", "bridges", "events", "totals"]
    }

    fn migrations(&self) -> &'static [Migration] {
        MIGRATIONS
    }

    async fn fold(&self, conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
        fold::fold(conn, events, self.shown).await
    }
}

const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "network", sql: include_str!("../../../migrations/network/0001_network.sql") },
    Migration { version: 2, name: "queue", sql: include_str!("../../../migrations/network/0002_queue.sql") },
    Migration { version: 3, name: "terms", sql: include_str!("../../../migrations/network/0003_terms.sql") },
    Migration { version: 4, name: "retention", sql: include_str!("../../../migrations/network/0004_retention.sql") },
];
