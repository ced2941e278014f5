//! `given(events).when(command).then(events)`: the vocabulary in which aggregates are tested.

use symbia_events::DomainEvent;
use time::OffsetDateTime;

use crate::{Actor, Aggregate, Decision, Rejection};

/// An aggregate with a history.
#[derive(Debug)]
pub struct Given<A>(A);

/// What a command led to.
#[derive(Debug)]
pub struct When<E>(Result<Decision<E>, Rejection>);

/// The instant at which tested commands are decided: 2026-01-01T00:00:00Z.
pub const AT: OffsetDateTime = time::macros::datetime!(2026-01-01 00:00 UTC);

/// Starts from a history.
pub fn given<A: Aggregate>(history: impl IntoIterator<Item = A::Event>) -> Given<A> {
    let mut state = A::default();
    history.into_iter().for_each(|event| state.apply(&event));
    Given(state)
}

impl<A: Aggregate> Given<A> {
    /// Decides a command of `by`.
    pub fn when(self, command: impl Into<A::Command>, by: &Actor) -> When<A::Event> {
        When(self.0.decide(command.into(), by, AT))
    }
}

impl<E: DomainEvent + PartialEq> When<E> {
    /// Exactly these events follow.
    #[track_caller]
    pub fn then(self, events: impl IntoIterator<Item = E>) {
        let events: Vec<E> = events.into_iter().collect();
        assert_eq!(self.0.map(|d| d.events), Ok(events));
    }

    /// These events and claims follow.
    #[track_caller]
    pub fn then_decision(self, decision: Decision<E>) {
        assert_eq!(self.0, Ok(decision));
    }

    /// The command is refused with this code.
    #[track_caller]
    pub fn rejected(self, code: &str) {
        assert_eq!(self.0.map_err(|r| r.code.into_owned()), Err(code.to_owned()));
    }
}
