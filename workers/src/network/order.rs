//! Events of one source and run reach a target in the order they came (network.md §8.9): before each delivery the read model is
//! asked whether an earlier one has yet to come to its end. It knows for all processes, also after they began anew.

use std::time::Duration;

use anyhow::bail;
use async_nats::Client;
use symbia_events::{Position, Service};
use symbia_projections::{Positions, ReadPool, Scope, network as model};
use tokio::time::Instant;

/// How long the read model may take to come to an event.
const SHOWN_WITHIN: Duration = Duration::from_secs(5);
/// An earlier event that is under way is waited for, for so long; beyond it, the log keeps the place of the later one.
const UNDER_WAY: Duration = Duration::from_millis(500);

/// The order of deliveries.
pub(super) struct Order {
    reader: ReadPool,
    positions: Positions,
}

impl Order {
    pub fn follow(client: Client, reader: ReadPool) -> Self {
        Order { positions: Positions::follow(client, reader.clone()), reader }
    }

    async fn shown(&self, at: Position) -> anyhow::Result<()> {
        if self.positions.wait_for(Service::Network.name(), at, SHOWN_WITHIN).await {
            return Ok(());
        }
        bail!("the read model of the mesh has not come to {at}: is a projector running?")
    }

    /// Whether an earlier event goes before this one, which is in the log at `at`.
    pub async fn waits(&self, org: &str, event: &str, target: &str, at: Position) -> anyhow::Result<bool> {
        self.shown(at).await?;
        let deadline = Instant::now() + UNDER_WAY;
        loop {
            let mut tx = self.reader.read(&Scope::platform()).await?;
            let waits = model::comes_after_another(&mut tx, org, event, target).await?;
            drop(tx);
            let left = deadline.saturating_duration_since(Instant::now());
            if !waits || left.is_zero() {
                return Ok(waits);
            }
            let name = Service::Network.name();
            let seen = self.positions.latest(name, Service::Network).unwrap_or_default().max(at.sequence);
            self.positions.wait_for(name, Position { sequence: seen + 1, ..at }, left).await;
        }
    }

    /// The event that goes after this one, of those that wait for it.
    pub async fn next(&self, org: &str, event: &str, target: &str, at: Position) -> anyhow::Result<Option<String>> {
        self.shown(at).await?;
        let mut tx = self.reader.read(&Scope::platform()).await?;
        Ok(model::next_in_order(&mut tx, org, event, target).await?)
    }
}
