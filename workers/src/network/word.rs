//! Events that the platform itself sends over a mesh: hashed, sealed, and put on record with who gets them.

use serde_json::Value;
use symbia_commands::{
    Actor, Outcome,
    network::{RouteEvent, RoutingCommand},
};
use symbia_events::{
    AggregateRef, CommandId, Event, KeyRing, Service, SubjectKey,
    network::{Boundary, Candidate, HashedEvent, service_hash},
};
use time::{OffsetDateTime, format_description::BorrowedFormatItem};
use uuid::Uuid;

use crate::sender::Sender;

const MILLISECONDS: &[BorrowedFormatItem<'_>] =
    time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// A time as the mesh writes it.
pub(crate) fn iso(at: OffsetDateTime) -> String {
    at.to_offset(time::UtcOffset::UTC).format(MILLISECONDS).unwrap_or_default()
}

/// An event of the mesh that another event sets off.
pub(crate) struct Word<'w> {
    /// Tells apart what one event sets off.
    pub step: &'w str,
    pub event_type: &'w str,
    /// The node that it comes from.
    pub source: &'w str,
    pub target: Option<&'w str>,
    pub caused_by: Option<&'w str>,
    pub run_id: &'w str,
    pub data: &'w Value,
    pub key: &'w SubjectKey,
    /// The service that sends it.
    pub by: Service,
    pub policy_set: &'w str,
    pub candidates: Vec<Candidate>,
}

impl Word<'_> {
    /// Sends it. Sent again of the same event, it is the same.
    pub async fn send(self, sender: &Sender, keys: &KeyRing, cause: &Event) -> anyhow::Result<Outcome> {
        let org = cause.orgid.as_str();
        let event_id = Uuid::new_v5(&cause.id, self.step.as_bytes()).to_string();
        let timestamp = iso(cause.time);
        let hashed = HashedEvent {
            v: 1,
            id: &event_id,
            event_type: self.event_type,
            data: self.data,
            source: self.source,
            target: self.target,
            run_id: self.run_id,
            timestamp: &timestamp,
            boundary: Boundary::Intra,
            caused_by: self.caused_by,
            source_entity_id: None,
            target_entity_id: None,
            org_id: Some(org),
        };
        let (key_id, hash) = service_hash(keys, &hashed.bytes()?);
        let by = Actor::service(self.by.name());
        let command = RoutingCommand::from(RouteEvent {
            event_id: event_id.clone(),
            org_id: org.to_owned(),
            payload_type: self.event_type.to_owned(),
            data: self.key.seal(&self.data.to_string()),
            source: self.source.to_owned(),
            target: self.target.map(str::to_owned),
            caused_by: self.caused_by.map(str::to_owned),
            source_entity_id: None,
            target_entity_id: None,
            boundary: Boundary::Intra,
            timestamp,
            hash,
            key_id,
            signed: false,
            sender_id: by.id.clone(),
            policy_set: self.policy_set.to_owned(),
            candidates: self.candidates,
            run_id: self.run_id.to_owned(),
        });
        let to = AggregateRef::new(Service::Network, cause.orgid.clone(), "routed-event", &event_id)?;
        let id = CommandId::derived(cause.id, self.step);
        Ok(sender.send(Some(cause), &to, &command, &by, id).await?)
    }
}
