//! Read model of the network service: an organization's mesh, and the calls over it with what was decided about each.

mod events;
mod fold;
mod queue;
mod registry;
mod rows;
mod table;

pub use events::{EventFilter, Totals, event, events, totals, traces_of_run};
pub use queue::{EARLIER_WAITS, comes_after_another, next_in_order, waiting_for};
pub use registry::{bridge, bridges, contract, contracts, mesh_version, node, nodes, policies, policy, policy_version};
pub use rows::{Bridge, Contract, Delivery, Node, Policy, PolicyVersion, RoutedEvent};

use async_trait::async_trait;
use sqlx::PgConnection;
use symbia_events::Service;

use crate::{FoldError, FoldEvent, Migration, Projection};

/// The network projection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Network;

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
        fold::fold(conn, events).await
    }
}

const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "network", sql: include_str!("../../../migrations/network/0001_network.sql") },
    Migration { version: 2, name: "queue", sql: include_str!("../../../migrations/network/0002_queue.sql") },
    Migration { version: 3, name: "terms", sql: include_str!("../../../migrations/network/0003_terms.sql") },
    Migration { version: 4, name: "retention", sql: include_str!("../../../migrations/network/0004_retention.sql") },
];
