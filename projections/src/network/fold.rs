//! How the network's events change the rows: touch what a batch concerns, load it, apply in order, save.

use sqlx::PgConnection;
use symbia_events::{
    DomainEvent, Event,
    network::{BridgeEvent, BridgeRegistered, ContractEvent, NodeEvent, PolicyEvent, RoutingEvent},
};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    rows::{Bridge, Contract, Delivery, Mesh, Node, Policy, PolicyVersion, RoutedEvent, Total},
    table::{Key, Table},
};
use crate::{FoldError, FoldEvent};

/// The row of `meshes` that there is for each organization.
pub(super) const MESH: &str = "mesh";

enum Change {
    Node(NodeEvent),
    Contract(ContractEvent),
    Policy(PolicyEvent),
    Bridge(BridgeEvent),
    Routing(Box<RoutingEvent>),
}

struct State {
    /// How long a call is shown after it was made.
    shown: Duration,
    meshes: Table<Mesh>,
    nodes: Table<Node>,
    contracts: Table<Contract>,
    policies: Table<Policy>,
    versions: Table<PolicyVersion>,
    bridges: Table<Bridge>,
    events: Table<RoutedEvent>,
    totals: Table<Total>,
}

pub(super) async fn fold(conn: &mut PgConnection, events: &[FoldEvent], shown: Duration) -> Result<(), FoldError> {
    let (mut changes, mut state) = (Vec::with_capacity(events.len()), State::showing(shown));
    for FoldEvent { event, position, .. } in events {
        let key = (event.orgid.to_string(), event.aggregateid.clone());
        let change = match event.aggregatetype.as_str() {
            NodeEvent::AGGREGATE => {
                state.nodes.touch(&key);
                Change::Node(event.decode()?)
            }
            ContractEvent::AGGREGATE => {
                state.contracts.touch(&key);
                Change::Contract(event.decode()?)
            }
            PolicyEvent::AGGREGATE => {
                state.policies.touch(&key);
                Change::Policy(event.decode()?)
            }
            BridgeEvent::AGGREGATE => {
                state.bridges.touch(&key);
                Change::Bridge(event.decode()?)
            }
            RoutingEvent::AGGREGATE => {
                state.events.touch(&key);
                for total in TOTALS {
                    state.totals.touch(&(key.0.clone(), total.to_owned()));
                }
                Change::Routing(Box::new(event.decode()?))
            }
            _ => continue,
        };
        if !matches!(change, Change::Routing(_)) {
            state.meshes.touch(&(key.0.clone(), MESH.to_owned()));
        }
        changes.push((event, i64::try_from(position.sequence).unwrap_or(i64::MAX), key, change));
    }
    state.load(conn).await?;
    for (event, place, key, change) in changes {
        if !matches!(change, Change::Routing(_)) {
            let mesh = (key.0.clone(), MESH.to_owned());
            *state.meshes.slot(&mesh) = Some(Mesh { org_id: mesh.0.clone(), id: mesh.1.clone(), version: place });
        }
        match change {
            Change::Node(change) => state.node(event, key, change)?,
            Change::Contract(change) => state.contract(event, key, change)?,
            Change::Policy(change) => state.policy(event, place, key, change)?,
            Change::Bridge(change) => state.bridge(event, key, change)?,
            Change::Routing(change) => state.routing(event, place, key, *change)?,
        }
    }
    state.save(conn).await?;
    if let Some(newest) = events.iter().map(|folded| folded.event.time).max() {
        sqlx::query("DELETE FROM events WHERE routed_at < $1").bind(newest - shown).execute(conn).await?;
    }
    Ok(())
}

// The ids in a payload came with a command; the address was authorized.
fn own(event: &Event, id: &str, org: Option<&str>) -> Result<(), FoldError> {
    if id == event.aggregateid && org.is_none_or(|org| org == event.orgid.as_str()) {
        return Ok(());
    }
    Err(FoldError::Event(format!("a {} of {} that names {id}", event.event_type, event.subject)))
}

const TOTALS: [&str; 7] = ["events", "delivered", "dropped", "error", "pending", "unrouted", "latency_ms"];

impl State {
    fn showing(shown: Duration) -> Self {
        State {
            shown,
            meshes: Table::default(),
            nodes: Table::default(),
            contracts: Table::default(),
            policies: Table::default(),
            versions: Table::default(),
            bridges: Table::default(),
            events: Table::default(),
            totals: Table::default(),
        }
    }

    async fn load(&mut self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        self.meshes.load(conn).await?;
        self.nodes.load(conn).await?;
        self.contracts.load(conn).await?;
        self.policies.load(conn).await?;
        self.bridges.load(conn).await?;
        self.events.load(conn).await?;
        self.totals.load(conn).await
    }

    async fn save(self, conn: &mut PgConnection) -> Result<(), FoldError> {
        self.meshes.save(conn).await?;
        self.nodes.save(conn).await?;
        self.contracts.save(conn).await?;
        self.policies.save(conn).await?;
        self.versions.save(conn).await?;
        self.bridges.save(conn).await?;
        self.events.save(conn).await?;
        self.totals.save(conn).await
    }

    fn node(&mut self, event: &Event, key: Key, change: NodeEvent) -> Result<(), FoldError> {
        let slot = self.nodes.slot(&key);
        if let NodeEvent::NodeRegistered(e) = change {
            own(event, &e.node_id, Some(&e.org_id))?;
            *slot = Some(Node {
                org_id: key.0,
                id: key.1,
                name: e.name,
                node_type: e.node_type,
                capabilities: e.capabilities,
                endpoint: e.endpoint,
                owner_id: e.owner_id,
                metadata: e.metadata,
                online: true,
                registered_at: event.time,
                last_registered_at: event.time,
                last_seen: event.time,
                entity_id: None,
                entity_bound_at: None,
            });
            return Ok(());
        }
        let Some(row) = slot else { return Ok(()) };
        match change {
            NodeEvent::NodeRegistered(_) => {}
            NodeEvent::NodeReregistered(e) => {
                own(event, &e.node_id, None)?;
                (row.name, row.node_type, row.capabilities) = (e.name, e.node_type, e.capabilities);
                (row.endpoint, row.metadata, row.online) = (e.endpoint, e.metadata, true);
                (row.last_registered_at, row.last_seen) = (event.time, event.time);
            }
            NodeEvent::NodeConnected(_) => (row.online, row.last_seen) = (true, event.time),
            NodeEvent::NodeExpired(e) => {
                row.online = false;
                row.last_seen = OffsetDateTime::parse(&e.last_seen, &Rfc3339).unwrap_or(row.last_seen);
            }
            NodeEvent::NodeUnregistered(_) => *slot = None,
            NodeEvent::EntityBound(e) => {
                (row.entity_id, row.entity_bound_at) = (Some(e.entity_id), Some(event.time));
            }
            NodeEvent::EntityUnbound(_) => (row.entity_id, row.entity_bound_at) = (None, None),
        }
        Ok(())
    }

    fn contract(&mut self, event: &Event, key: Key, change: ContractEvent) -> Result<(), FoldError> {
        let slot = self.contracts.slot(&key);
        match change {
            ContractEvent::ContractCreated(e) => {
                own(event, &e.contract_id, Some(&e.org_id))?;
                let end = e.expires_at.as_deref().map(|end| OffsetDateTime::parse(end, &Rfc3339));
                let end = end.transpose().map_err(|error| FoldError::Event(format!("expiresAt: {error}")))?;
                *slot = Some(Contract {
                    org_id: key.0,
                    id: key.1,
                    source: e.from,
                    target: e.to,
                    allowed_event_types: e.allowed_event_types,
                    boundaries: e.boundaries,
                    created_at: event.time,
                    created_by: e.by,
                    expires_at: end,
                    max_events_per_second: e.max_events_per_second,
                    redact: e.redact,
                });
            }
            // Its row says when that is.
            ContractEvent::ContractExpired(_) => {}
            ContractEvent::ContractDeleted(_) => *slot = None,
        }
        Ok(())
    }

    fn policy(&mut self, event: &Event, place: i64, key: Key, change: PolicyEvent) -> Result<(), FoldError> {
        let (id, version, definition, by) = match change {
            PolicyEvent::PolicyCreated(e) => (e.policy_id, e.version, Some(e.policy), e.by),
            PolicyEvent::PolicyUpdated(e) => (e.policy_id, e.version, Some(e.policy), e.by),
            PolicyEvent::PolicyEnabled(e) => (e.policy_id, e.version, Some(e.policy), e.by),
            PolicyEvent::PolicyDisabled(e) => (e.policy_id, e.version, Some(e.policy), e.by),
            PolicyEvent::PolicyDeleted(e) => (e.policy_id, e.version, None, e.by),
        };
        own(event, &id, None)?;
        let of_version = (key.0.clone(), format!("{id}@{version}"));
        *self.versions.slot(&of_version) = Some(PolicyVersion {
            org_id: of_version.0.clone(),
            id: of_version.1.clone(),
            policy_id: id.clone(),
            version,
            definition: definition.clone(),
            changed_at: event.time,
            changed_by: by.clone(),
            event_id: event.id,
        });
        let slot = self.policies.slot(&key);
        let (created_at, place) = slot.as_ref().map_or((event.time, place), |row| (row.created_at, row.place));
        *slot = Some(Policy {
            org_id: key.0,
            id: key.1,
            version,
            definition,
            created_at,
            updated_at: event.time,
            updated_by: by,
            place,
        });
        Ok(())
    }

    fn bridge(&mut self, event: &Event, key: Key, change: BridgeEvent) -> Result<(), FoldError> {
        let slot = self.bridges.slot(&key);
        match change {
            BridgeEvent::BridgeRegistered(e) => {
                own(event, &e.bridge_id, Some(&e.org_id))?;
                let BridgeRegistered { name, bridge_type, endpoint, event_types, credential_ref, by, .. } = e;
                *slot = Some(Bridge {
                    org_id: key.0,
                    id: key.1,
                    name,
                    bridge_type,
                    endpoint,
                    event_types,
                    active: true,
                    credential_ref,
                    created_at: event.time,
                    created_by: by,
                });
            }
            BridgeEvent::BridgeActivated(_) => slot.iter_mut().for_each(|row| row.active = true),
            BridgeEvent::BridgeDeactivated(_) => slot.iter_mut().for_each(|row| row.active = false),
            BridgeEvent::BridgeDeleted(_) => *slot = None,
        }
        Ok(())
    }

    fn count(&mut self, org: &str, total: &str, by: i64) {
        let key = (org.to_owned(), total.to_owned());
        let slot = self.totals.slot(&key);
        let value = slot.as_ref().map_or(0, |row| row.value) + by;
        *slot = Some(Total { org_id: key.0, id: key.1, value });
    }

    fn routing(&mut self, event: &Event, place: i64, key: Key, change: RoutingEvent) -> Result<(), FoldError> {
        let org = key.0.clone();
        let slot = self.events.slot(&key);
        // Also where it goes only with the end of this batch.
        if slot.as_ref().is_some_and(|row| row.routed_at < event.time - self.shown) {
            *slot = None;
        }
        let before = slot.as_ref().map(|row| row.status.clone());
        match change {
            RoutingEvent::EventRouted(e) => {
                own(event, &e.event_id, Some(&e.org_id))?;
                *slot = Some(RoutedEvent::accepted(e, place, event.id, micros(event.time)));
            }
            RoutingEvent::EventDelivered(e) => {
                deliver(slot, event, e.target.clone(), "delivered", e.attempt, e.duration_ms, None);
                if let Some(delivery) = slot.as_mut().and_then(|row| row.deliveries.get_mut(&e.target)) {
                    delivery.transport = e.transport;
                }
            }
            RoutingEvent::EventDeliveryFailed(e) => {
                deliver(slot, event, e.target, "retrying", e.attempt, e.duration_ms, Some(e.error_code));
            }
            RoutingEvent::EventHeld(e) => deliver(slot, event, e.target, "held", e.attempt, 0, Some(e.error_code)),
            RoutingEvent::EventDeadLettered(e) => {
                deliver(slot, event, e.target, "dead", e.attempt, 0, Some(e.error_code));
            }
            RoutingEvent::EventRedriven(e) => deliver(slot, event, e.target, "pending", e.attempt, 0, None),
        }
        let Some(row) = slot else { return Ok(()) };
        row.settle(event.time);
        let (after, took) = (row.status.clone(), (event.time - row.routed_at).whole_milliseconds());
        if before.is_none() {
            self.count(&org, "events", 1);
        }
        if before.as_deref() != Some(&after) {
            if let Some(before) = before {
                self.count(&org, &before, -1);
            }
            if after == "delivered" {
                self.count(&org, "latency_ms", i64::try_from(took).unwrap_or(0));
            }
            self.count(&org, &after, 1);
        }
        Ok(())
    }
}

// As the database holds it: durations from it are the same before and after it was stored.
fn micros(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_nanosecond(at.nanosecond() / 1000 * 1000).unwrap_or(at)
}

fn deliver(
    slot: &mut Option<RoutedEvent>,
    event: &Event,
    target: String,
    status: &str,
    attempt: u32,
    duration_ms: u64,
    error_code: Option<String>,
) {
    if let Some(row) = slot {
        let (status, at) = (status.to_owned(), event.time);
        let delivery = Delivery { status, attempt, duration_ms, error_code, transport: None, at };
        row.deliveries.insert(target, delivery);
    }
}
