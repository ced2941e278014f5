//! The events that some target has yet to get, in the order in which it is to have them: by source and run (network.md §8.9).

use std::collections::{BTreeMap, HashMap};

use symbia_events::network::{EventRouted, RoutingEvent};
use symbia_projections::network::{Delivery, EARLIER_WAITS, Unsettled};

/// How far an event is with a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It has yet to come to its end.
    Open,
    /// It waits for an earlier one.
    Behind,
    /// It came to its end.
    Ended,
}

impl State {
    fn of(delivery: &Delivery) -> Self {
        match delivery.status.as_str() {
            "delivered" | "dead" => State::Ended,
            "held" if delivery.error_code.as_deref() == Some(EARLIER_WAITS) => State::Behind,
            _ => State::Open,
        }
    }
}

/// Organization, source and run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Lane {
    org: String,
    source: String,
    run: String,
}

#[derive(Debug)]
struct Waiting {
    id: String,
    targets: HashMap<String, State>,
}

/// What an event of the log says.
enum Step<'e> {
    Routed(&'e EventRouted),
    /// How far an event is with a target.
    Came(&'e str, &'e str, State),
}

fn step(event: &RoutingEvent) -> Step<'_> {
    match event {
        RoutingEvent::EventRouted(e) => Step::Routed(e),
        RoutingEvent::EventDelivered(e) => Step::Came(&e.event_id, &e.target, State::Ended),
        RoutingEvent::EventDeadLettered(e) => Step::Came(&e.event_id, &e.target, State::Ended),
        RoutingEvent::EventDeliveryFailed(e) => Step::Came(&e.event_id, &e.target, State::Open),
        RoutingEvent::EventRedriven(e) => Step::Came(&e.event_id, &e.target, State::Open),
        RoutingEvent::EventHeld(e) => {
            let behind = e.error_code == EARLIER_WAITS;
            Step::Came(&e.event_id, &e.target, if behind { State::Behind } else { State::Open })
        }
    }
}

/// The lane of an event.
pub(super) fn lane(org: &str, e: &EventRouted) -> Lane {
    Lane { org: org.to_owned(), source: e.source.clone(), run: e.run_id.clone() }
}

fn begun(org: &str, e: &EventRouted) -> (Lane, HashMap<String, State>) {
    let delivering = e.candidates.iter().filter(|candidate| candidate.verdict.delivers());
    (lane(org, e), delivering.map(|candidate| (candidate.final_target.clone(), State::Open)).collect())
}

/// What has yet to be delivered.
#[derive(Debug, Default)]
pub(super) struct Queue {
    lanes: HashMap<Lane, BTreeMap<u64, Waiting>>,
    /// Lane and place of what is in them, by organization and id.
    places: HashMap<(String, String), (Lane, u64)>,
}

impl Queue {
    /// As a read model knows it.
    pub fn of(unsettled: Vec<Unsettled>) -> Self {
        let mut queue = Queue::default();
        for open in unsettled {
            let targets = open.deliveries.iter().map(|(target, delivery)| (target.clone(), State::of(delivery)));
            let lane = Lane { org: open.org_id, source: open.source, run: open.run_id };
            queue.put(lane, open.place.unsigned_abs(), open.id, targets.collect());
        }
        queue
    }

    fn put(&mut self, lane: Lane, place: u64, id: String, targets: HashMap<String, State>) {
        if targets.values().any(|state| *state != State::Ended) {
            self.places.insert((lane.org.clone(), id.clone()), (lane.clone(), place));
            self.lanes.entry(lane).or_default().insert(place, Waiting { id, targets });
        }
    }

    /// Takes up what happened to an event. False when it is none that is known to wait, and does now: the queue is to be told of
    /// all that happened to it ([`Queue::again`]).
    pub fn apply(&mut self, org: &str, place: u64, event: &RoutingEvent) -> bool {
        let (id, target, state) = match step(event) {
            Step::Routed(e) => {
                let (lane, targets) = begun(org, e);
                self.put(lane, place, e.event_id.clone(), targets);
                return true;
            }
            Step::Came(id, target, state) => (id, target, state),
        };
        let key = (org.to_owned(), id.to_owned());
        let Some((lane, at)) = self.places.get(&key) else { return state == State::Ended };
        let Some(waiting) = self.lanes.get_mut(lane) else { return true };
        let Some(event) = waiting.get_mut(at) else { return true };
        event.targets.insert(target.to_owned(), state);
        if event.targets.values().all(|state| *state == State::Ended) {
            waiting.remove(at);
            if waiting.is_empty() {
                self.lanes.remove(lane);
            }
            self.places.remove(&key);
        }
        true
    }

    /// Takes up an event from all that happened to it.
    pub fn again(&mut self, org: &str, past: &[(u64, RoutingEvent)]) {
        let mut one = None;
        for (place, event) in past {
            match (step(event), &mut one) {
                (Step::Routed(e), _) => one = Some((*place, e.event_id.clone(), begun(org, e))),
                (Step::Came(_, target, state), Some((_, _, (_, targets)))) => {
                    targets.insert(target.to_owned(), state);
                }
                (Step::Came(..), None) => {}
            }
        }
        if let Some((place, id, (lane, targets))) = one {
            self.put(lane, place, id, targets);
        }
    }

    /// Whether an earlier event of its lane goes to a target before this one.
    pub fn waits(&self, org: &str, id: &str, target: &str) -> bool {
        let Some((lane, place)) = self.places.get(&(org.to_owned(), id.to_owned())) else { return false };
        let Some(waiting) = self.lanes.get(lane) else { return false };
        waiting.range(..place).any(|(_, earlier)| earlier.targets.get(target).is_some_and(|s| *s != State::Ended))
    }

    /// The first event of a lane that waits for an earlier one to come to its end with a target.
    pub fn next(&self, lane: &Lane, target: &str) -> Option<&str> {
        let waiting = self.lanes.get(lane)?;
        let next = waiting.values().find(|event| event.targets.get(target) == Some(&State::Behind));
        next.map(|event| event.id.as_str())
    }
}

#[cfg(test)]
mod tests {
    use symbia_events::{
        SubjectKey,
        network::{Boundary, Candidate, EventDeadLettered, EventDelivered, EventHeld, EventRedriven, Verdict},
    };

    use super::*;

    const NOT_CONNECTED: &str = "not_connected";

    fn routed(id: &str, run: &str, targets: &[&str]) -> RoutingEvent {
        let candidate = |target: &&str| Candidate {
            target: (*target).into(),
            boundary: Boundary::Intra,
            verdict: Verdict::Deliver,
            contract_id: None,
            applied: vec![],
            final_target: (*target).into(),
            endpoint: String::new(),
            mapping: None,
            redact: vec![],
            reason: None,
        };
        EventRouted {
            event_id: id.into(),
            org_id: "o".into(),
            run_id: run.into(),
            payload_type: "message.new".into(),
            data: SubjectKey::from_bytes("mesh:o", [1; 32]).seal("{}"),
            source: "a".into(),
            target: None,
            caused_by: None,
            source_entity_id: None,
            target_entity_id: None,
            boundary: Boundary::Intra,
            timestamp: String::new(),
            hash: String::new(),
            key_id: String::new(),
            signed: false,
            sender_id: "ada".into(),
            policy_set: String::new(),
            candidates: targets.iter().map(candidate).collect(),
        }
        .into()
    }

    fn held(id: &str, target: &str, code: &str) -> RoutingEvent {
        EventHeld { event_id: id.into(), target: target.into(), attempt: 1, error_code: code.into() }.into()
    }

    fn delivered(id: &str, target: &str) -> RoutingEvent {
        EventDelivered { event_id: id.into(), target: target.into(), attempt: 1, duration_ms: 1, transport: None }
            .into()
    }

    fn dead(id: &str, target: &str) -> RoutingEvent {
        EventDeadLettered { event_id: id.into(), target: target.into(), attempt: 5, error_code: "x".into() }.into()
    }

    fn told(events: &[RoutingEvent]) -> Queue {
        let mut queue = Queue::default();
        for (place, event) in (1..).zip(events) {
            assert!(queue.apply("o", place, event), "{event:?}");
        }
        queue
    }

    fn lane_of(run: &str) -> Lane {
        Lane { org: "o".into(), source: "a".into(), run: run.into() }
    }

    #[test]
    fn a_later_event_of_a_run_waits_for_the_earlier_with_the_same_target_alone() {
        let mut queue = told(&[routed("e1", "r", &["b", "c"]), routed("e2", "r", &["b"]), routed("x", "s", &["b"])]);
        assert!(queue.waits("o", "e2", "b") && !queue.waits("o", "e1", "b") && !queue.waits("o", "x", "b"));
        queue.apply("o", 4, &held("e2", "b", EARLIER_WAITS));
        queue.apply("o", 5, &delivered("e1", "b"));
        assert!(!queue.waits("o", "e2", "b"), "its own target has it");
        assert_eq!(queue.next(&lane_of("r"), "b"), Some("e2"));
        queue.apply("o", 6, &held("e2", "b", NOT_CONNECTED));
        assert_eq!(queue.next(&lane_of("r"), "b"), None, "it waits for its target, not for another event");
    }

    #[test]
    fn what_came_to_its_end_is_forgotten_until_it_is_tried_again() {
        let mut queue = told(&[routed("e1", "r", &["b"]), dead("e1", "b"), routed("e2", "r", &["b"])]);
        assert!(!queue.waits("o", "e2", "b") && queue.places.len() == 1);
        let again: RoutingEvent =
            EventRedriven { event_id: "e1".into(), target: "b".into(), attempt: 6, by: "ada".into() }.into();
        assert!(!queue.apply("o", 4, &again));
        queue.again("o", &[(1, routed("e1", "r", &["b"])), (2, dead("e1", "b")), (4, again)]);
        assert!(queue.waits("o", "e2", "b"));
        queue.apply("o", 5, &delivered("e1", "b"));
        queue.apply("o", 6, &delivered("e2", "b"));
        assert!(queue.places.is_empty() && queue.lanes.is_empty());
    }
}
