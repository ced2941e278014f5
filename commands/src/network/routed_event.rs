//! One call over the mesh: accepted once with everything that was decided about it, then each delivery to its end
//! (network.md §8.6, 8.8).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use symbia_events::{
    Personal,
    messaging::content_key_id,
    network::{
        Boundary, Candidate, EventDeadLettered, EventDelivered, EventDeliveryFailed, EventHeld, EventRedriven,
        EventRouted, RoutingEvent, Transport, mesh_key_id,
    },
};
use time::OffsetDateTime;

use super::rights::{NODES_ADMIN, require};
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

/// Attempts of a delivery before it is given up.
pub const ATTEMPTS: u32 = 5;
/// Largest data of an event, in bytes of JSON: sealed, and beside what was decided, it must fit into one event of the log.
pub const EVENT_MAX: usize = 128 * 1024;
/// Longest record of what was decided, in bytes of JSON.
const DECISION_MAX: usize = 72 * 1024;

/// What follows from an attempt that came to nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// It is tried again after a pause, so many times.
    #[default]
    Retry,
    /// It waits until the target can have it, and no attempt was made.
    Hold,
    /// It has waited for long enough.
    GiveUp,
}

domain_commands! {
    /// What a call can be asked to do.
    RoutingCommand: Network / "routed-event" {
        /// Accepts it with what the router decided. The network service's own: it has authenticated the sender.
        RouteEvent = "symbia.cmd.network.route-event.v1" {
            event_id: String,
            org_id: String,
            run_id: String,
            payload_type: String,
            data: Personal,
            source: String,
            #[serde(default)]
            target: Option<String>,
            #[serde(default)]
            caused_by: Option<String>,
            #[serde(default)]
            source_entity_id: Option<String>,
            #[serde(default)]
            target_entity_id: Option<String>,
            boundary: Boundary,
            timestamp: String,
            hash: String,
            key_id: String,
            signed: bool,
            sender_id: String,
            policy_set: String,
            candidates: Vec<Candidate>,
        }
        /// Tells how an attempt to deliver it went.
        ReportDelivery = "symbia.cmd.network.report-delivery.v1" {
            event_id: String,
            target: String,
            attempt: u32,
            duration_ms: u64,
            /// By which way it was taken.
            #[serde(default)]
            transport: Option<Transport>,
            /// None when it was taken.
            #[serde(default)]
            error_code: Option<String>,
            /// What follows from an error.
            #[serde(default)]
            then: Then,
        }
        /// Has it tried again.
        RedriveEvent = "symbia.cmd.network.redrive-event.v1" { event_id: String, target: String }
    }
}

impl From<RouteEvent> for EventRouted {
    fn from(c: RouteEvent) -> Self {
        EventRouted {
            event_id: c.event_id,
            org_id: c.org_id,
            run_id: c.run_id,
            payload_type: c.payload_type,
            data: c.data,
            source: c.source,
            target: c.target,
            caused_by: c.caused_by,
            source_entity_id: c.source_entity_id,
            target_entity_id: c.target_entity_id,
            boundary: c.boundary,
            timestamp: c.timestamp,
            hash: c.hash,
            key_id: c.key_id,
            signed: c.signed,
            sender_id: c.sender_id,
            policy_set: c.policy_set,
            candidates: c.candidates,
        }
    }
}

/// How far a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Delivery {
    /// This attempt is under way.
    Attempt(u32),
    /// So many have failed, and the next waits for its time.
    Failed(u32),
    /// This attempt waits for its target, or for an earlier event.
    Held(u32),
    Delivered,
    Dead,
}

/// A call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutedEvent {
    org_id: String,
    hash: String,
    deliveries: BTreeMap<String, Delivery>,
}

fn platform(by: &Actor) -> Result<(), Rejection> {
    if by.is_platform() {
        return Ok(());
    }
    Err(Rejection::forbidden("events are sent through the network service, which checks who sends them"))
}

impl RoutedEvent {
    fn accept(&self, c: RouteEvent, by: &Actor) -> Result<Decision<RoutingEvent>, Rejection> {
        platform(by)?;
        if !self.org_id.is_empty() {
            // The same event again is the event that there is.
            return if self.hash == c.hash {
                Ok(Decision::nothing())
            } else {
                Err(Rejection::new("EVENT_ID_CONFLICT", "another event has this id"))
            };
        }
        // What comes from a conversation, or goes into one, is erased with it.
        let of_conversation = c.data.kid.starts_with(&content_key_id(&c.org_id, ""));
        if c.data.kid != mesh_key_id(&c.org_id) && !of_conversation {
            return Err(Rejection::invalid("data: sealed under another key than the organization's"));
        }
        if c.data.text_len() > EVENT_MAX {
            return Err(Rejection::new("TOO_LARGE", "payload.data: at most 128 kB of JSON"));
        }
        if serde_json::to_string(&c.candidates).map_or(usize::MAX, |text| text.len()) > DECISION_MAX {
            let message = "the event goes to too many nodes, or too many policies speak about it, for one record";
            return Err(Rejection::new("TOO_LARGE", message));
        }
        Ok(Decision::one(EventRouted::from(c)))
    }

    fn report(&self, c: ReportDelivery, by: &Actor) -> Result<Decision<RoutingEvent>, Rejection> {
        platform(by)?;
        let delivery = self.deliveries.get(&c.target).ok_or_else(|| Rejection::not_found("delivery"))?;
        // Told twice, or of an attempt that nobody waits for.
        if *delivery != Delivery::Attempt(c.attempt) {
            return Ok(Decision::nothing());
        }
        let ReportDelivery { event_id, target, attempt, duration_ms, transport, error_code, then } = c;
        let Some(error_code) = error_code else {
            return Ok(Decision::one(EventDelivered { event_id, target, attempt, duration_ms, transport }));
        };
        Ok(match then {
            Then::Hold => Decision::one(EventHeld { event_id, target, attempt, error_code }),
            Then::Retry if attempt < ATTEMPTS => {
                Decision::one(EventDeliveryFailed { event_id, target, attempt, duration_ms, error_code })
            }
            Then::Retry | Then::GiveUp => Decision::one(EventDeadLettered { event_id, target, attempt, error_code }),
        })
    }

    fn redrive(&self, c: RedriveEvent, by: &Actor) -> Result<Decision<RoutingEvent>, Rejection> {
        if self.org_id.is_empty() {
            return Err(Rejection::not_found("event"));
        }
        require(by, &self.org_id, NODES_ADMIN)?;
        let attempt = match self.deliveries.get(&c.target) {
            None => return Err(Rejection::not_found("delivery")),
            Some(Delivery::Failed(failed)) => failed + 1,
            Some(Delivery::Held(held)) => *held,
            // An operator's wish; a timer's comes too late.
            Some(Delivery::Dead) if !by.is_platform() => 1,
            Some(Delivery::Dead | Delivery::Attempt(_) | Delivery::Delivered) => return Ok(Decision::nothing()),
        };
        let RedriveEvent { event_id, target } = c;
        Ok(Decision::one(EventRedriven { event_id, target, attempt, by: by.id.clone() }))
    }
}

impl Aggregate for RoutedEvent {
    const STATE_VERSION: u32 = 2;
    const ID_FIELD: Option<&'static str> = Some("eventId");
    type Command = RoutingCommand;
    type Event = RoutingEvent;

    fn begins(command: &RoutingCommand) -> bool {
        matches!(command, RoutingCommand::RouteEvent(_))
    }

    fn has_ended(&self) -> bool {
        self.deliveries.values().all(|delivery| matches!(delivery, Delivery::Delivered | Delivery::Dead))
    }

    fn apply(&mut self, event: &RoutingEvent) {
        let mut set = |target: &str, delivery| _ = self.deliveries.insert(target.to_owned(), delivery);
        match event {
            RoutingEvent::EventRouted(e) => {
                for candidate in e.candidates.iter().filter(|candidate| candidate.verdict.delivers()) {
                    set(&candidate.final_target, Delivery::Attempt(1));
                }
                (self.org_id, self.hash) = (e.org_id.clone(), e.hash.clone());
            }
            RoutingEvent::EventDelivered(e) => set(&e.target, Delivery::Delivered),
            RoutingEvent::EventDeliveryFailed(e) => set(&e.target, Delivery::Failed(e.attempt)),
            RoutingEvent::EventHeld(e) => set(&e.target, Delivery::Held(e.attempt)),
            RoutingEvent::EventDeadLettered(e) => set(&e.target, Delivery::Dead),
            RoutingEvent::EventRedriven(e) => set(&e.target, Delivery::Attempt(e.attempt)),
        }
    }

    fn decide(
        &self,
        command: RoutingCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<RoutingEvent>, Rejection> {
        match command {
            RoutingCommand::RouteEvent(c) => self.accept(c, by),
            RoutingCommand::ReportDelivery(c) => self.report(c, by),
            RoutingCommand::RedriveEvent(c) => self.redrive(c, by),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Membership, Role, testing::given};
    use symbia_events::{ActorType, SubjectKey, network::Verdict};

    fn ada() -> Actor {
        let orgs = vec![Membership { id: "o1".parse().unwrap(), role: Role::Admin }];
        Actor { id: "ada".into(), kind: ActorType::User, orgs, ..Actor::service("x") }
    }

    fn candidate(target: &str, verdict: Verdict) -> Candidate {
        Candidate {
            target: target.into(),
            boundary: Boundary::Intra,
            verdict,
            contract_id: None,
            applied: vec![],
            final_target: target.into(),
            endpoint: String::new(),
            mapping: None,
            redact: vec![],
            reason: None,
        }
    }

    fn accept(data: &str) -> RouteEvent {
        RouteEvent {
            event_id: "e1".into(),
            org_id: "o1".into(),
            run_id: "r".into(),
            payload_type: "x".into(),
            data: SubjectKey::from_bytes(mesh_key_id("o1"), [7; 32]).seal(data),
            source: "a".into(),
            target: None,
            caused_by: None,
            source_entity_id: None,
            target_entity_id: None,
            boundary: Boundary::Intra,
            timestamp: "2026-01-01T00:00:00.000Z".into(),
            hash: "h".into(),
            key_id: "k1.mesh".into(),
            signed: false,
            sender_id: "ada".into(),
            policy_set: "p".into(),
            candidates: vec![candidate("b", Verdict::Deliver), candidate("c", Verdict::Deny)],
        }
    }

    fn network() -> Actor {
        Actor::service("network")
    }

    fn accepted() -> Vec<RoutingEvent> {
        RoutedEvent::default().accept(accept("{}"), &network()).unwrap().events
    }

    fn report(target: &str, attempt: u32, error: Option<&str>) -> ReportDelivery {
        let error_code = error.map(str::to_owned);
        ReportDelivery {
            event_id: "e1".into(),
            target: target.into(),
            attempt,
            duration_ms: 1,
            transport: None,
            error_code,
            then: Then::Retry,
        }
    }

    #[test]
    fn an_event_is_accepted_once_and_only_from_the_service_that_checked_its_sender() {
        given::<RoutedEvent>([]).when(accept("{}"), &ada()).rejected("FORBIDDEN");
        given::<RoutedEvent>(accepted()).when(accept("{}"), &network()).then([]);
        let other = RouteEvent { hash: "other".into(), ..accept("{}") };
        given::<RoutedEvent>(accepted()).when(other, &network()).rejected("EVENT_ID_CONFLICT");
        given::<RoutedEvent>([]).when(accept(&"x".repeat(EVENT_MAX + 1)), &network()).rejected("TOO_LARGE");
        let everyone = (0..1000).map(|at| candidate(&format!("node-{at}"), Verdict::Deliver)).collect();
        let wide = RouteEvent { candidates: everyone, ..accept("{}") };
        given::<RoutedEvent>([]).when(wide, &network()).rejected("TOO_LARGE");
        let foreign = RouteEvent { data: SubjectKey::from_bytes("mesh:o2", [7; 32]).seal("{}"), ..accept("{}") };
        given::<RoutedEvent>([]).when(foreign, &network()).rejected("VALIDATION_FAILED");
    }

    #[test]
    fn a_delivery_is_tried_five_times_and_each_attempt_is_told_once() {
        let mut history = accepted();
        let redrive = || RedriveEvent { event_id: "e1".into(), target: "b".into() };
        for attempt in 1..=ATTEMPTS {
            let state = || given::<RoutedEvent>(history.clone());
            state().when(redrive(), &network()).then([]);
            state().when(report("b", attempt + 1, None), &network()).then([]);
            let failed = if attempt < ATTEMPTS {
                let (event_id, target, error_code) = ("e1".into(), "b".into(), "http_500".into());
                RoutingEvent::from(EventDeliveryFailed { event_id, target, attempt, duration_ms: 1, error_code })
            } else {
                let (event_id, target, error_code) = ("e1".into(), "b".into(), "http_500".into());
                EventDeadLettered { event_id, target, attempt, error_code }.into()
            };
            state().when(report("b", attempt, Some("http_500")), &network()).then([failed.clone()]);
            history.push(failed);
            let again =
                |attempt, by: &str| EventRedriven { event_id: "e1".into(), target: "b".into(), attempt, by: by.into() };
            if attempt < ATTEMPTS {
                given::<RoutedEvent>(history.clone()).when(redrive(), &network()).then([again(
                    attempt + 1,
                    "service:network",
                )
                .into()]);
                history.push(again(attempt + 1, "service:network").into());
            } else {
                given::<RoutedEvent>(history.clone()).when(redrive(), &network()).then([]);
                given::<RoutedEvent>(history.clone()).when(redrive(), &ada()).then([again(1, "ada").into()]);
            }
        }
    }

    #[test]
    fn what_is_held_costs_no_attempt_and_is_given_up_when_it_has_waited_for_long_enough() {
        let report = |then| ReportDelivery { then, ..report("b", 1, Some("not_connected")) };
        let redrive = || RedriveEvent { event_id: "e1".into(), target: "b".into() };
        let error_code = || "not_connected".to_owned();
        let held = EventHeld { event_id: "e1".into(), target: "b".into(), attempt: 1, error_code: error_code() };
        given::<RoutedEvent>(accepted()).when(report(Then::Hold), &network()).then([held.clone().into()]);
        let waiting = || accepted().into_iter().chain([held.clone().into()]);
        given::<RoutedEvent>(waiting()).when(report(Then::Hold), &network()).then([]);
        let by = "service:network".into();
        let again = EventRedriven { event_id: "e1".into(), target: "b".into(), attempt: 1, by };
        given::<RoutedEvent>(waiting()).when(redrive(), &network()).then([again.clone().into()]);
        let dead =
            EventDeadLettered { event_id: "e1".into(), target: "b".into(), attempt: 1, error_code: error_code() };
        let tried = waiting().chain([again.into()]);
        given::<RoutedEvent>(tried).when(report(Then::GiveUp), &network()).then([dead.into()]);
    }

    #[test]
    fn who_was_refused_gets_nothing_and_strangers_have_nothing_tried() {
        given::<RoutedEvent>(accepted()).when(report("c", 1, None), &network()).rejected("NOT_FOUND");
        given::<RoutedEvent>(accepted()).when(report("b", 1, None), &ada()).rejected("FORBIDDEN");
        let redrive = RedriveEvent { event_id: "e1".into(), target: "b".into() };
        given::<RoutedEvent>(accepted()).when(redrive, &Actor { orgs: vec![], ..ada() }).rejected("MISSING_CAPABILITY");
    }
}
