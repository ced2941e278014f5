//! Several reactors at one consumer: each event comes from the broker, and is acknowledged, once for all of them.

use std::{collections::BTreeMap, iter, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::future::join_all;
use symbia_events::{Event, Position, Service};

use super::{OnError, Reactor};

/// Reactors that are each there for ever ([`OnError::Retry`]) and follow aggregates of one service. An event that one of them
/// fails at comes again to all.
pub struct Together {
    name: &'static str,
    service: Service,
    filters: &'static [&'static str],
    members: Vec<Arc<dyn Reactor>>,
}

impl Together {
    /// Reactors under a common name. `filters`: all that their own name.
    #[must_use]
    pub fn new(
        name: &'static str,
        (service, filters): (Service, &'static [&'static str]),
        members: Vec<Arc<dyn Reactor>>,
    ) -> Self {
        let followed: BTreeMap<Service, &[&str]> = members.iter().flat_map(|member| member.follows()).collect();
        debug_assert!(followed.values().flat_map(|own| own.iter()).all(|filter| filters.contains(filter)));
        debug_assert!(members.iter().all(|member| member.on_error() == OnError::Retry));
        Together { name, service, filters, members }
    }
}

// Whether a reactor follows the aggregates of an event's kind.
fn follows(member: &dyn Reactor, event: &Event) -> bool {
    let kind = |filter: &&str| filter.split('.').nth(1) == Some(event.aggregatetype.as_str());
    member.follows().iter().any(|(_, filters)| filters.iter().any(kind))
}

fn acts_on(member: &dyn Reactor, event: &Event) -> bool {
    let (kind, data) = (event.event_type.as_str(), event.data.get());
    member.acts_on().iter().any(|named| kind.contains(named) || data.contains(named))
}

#[async_trait]
impl Reactor for Together {
    fn name(&self) -> &'static str {
        self.name
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(self.service, self.filters)]
    }

    fn is_concerned(&self, subject: &str, payload: &[u8]) -> bool {
        self.members.iter().any(|member| member.is_concerned(subject, payload))
    }

    fn replaces(&self) -> Vec<&'static str> {
        let names = self.members.iter().flat_map(|member| iter::once(member.name()).chain(member.replaces()));
        names.filter(|name| *name != self.name).collect()
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    fn patience(&self) -> Duration {
        self.members.iter().map(|member| member.patience()).min().unwrap_or(Duration::from_secs(10))
    }

    async fn react(&self, event: &Event, at: Position) -> anyhow::Result<()> {
        let concerned = self.members.iter().filter(|member| follows(&***member, event) && acts_on(&***member, event));
        join_all(concerned.map(|member| member.react(event, at))).await.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use serde_json::json;

    use super::*;

    struct Member {
        name: &'static str,
        filters: &'static [&'static str],
        named: &'static [&'static str],
        fails: bool,
        seen: Arc<Mutex<Vec<&'static str>>>,
    }

    #[async_trait]
    impl Reactor for Member {
        fn name(&self) -> &'static str {
            self.name
        }

        fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
            vec![(Service::Integrations, self.filters)]
        }

        fn acts_on(&self) -> &'static [&'static str] {
            self.named
        }

        fn replaces(&self) -> Vec<&'static str> {
            if self.name == "images" { vec!["pictures"] } else { Vec::new() }
        }

        fn on_error(&self) -> OnError {
            OnError::Retry
        }

        async fn react(&self, _: &Event, _: Position) -> anyhow::Result<()> {
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(self.name);
            anyhow::ensure!(!self.fails, "{} fails", self.name);
            Ok(())
        }
    }

    fn event(kind: &str, event_type: &str, data: serde_json::Value) -> Event {
        let event = json!({
            "actorid": "ada", "actortype": "user", "aggregateid": "one", "aggregatetype": kind, "aggregateversion": 1,
            "authmethod": "session", "causationid": "c", "commandid": "018f0000-0000-7000-8000-000000000000",
            "correlationid": "c", "data": data, "datacontenttype": "application/json", "dataschema": "s", "hmackid": "k",
            "id": "018f0000-0000-7000-8000-000000000001", "orgid": "acme", "prevhash": "p",
            "source": "symbia://integrations", "specversion": "1.0", "subject": "integrations", "time": "2026-01-01T00:00:00Z",
            "type": event_type,
        });
        serde_json::from_str(&event.to_string()).unwrap()
    }

    #[tokio::test]
    async fn each_sees_what_it_follows_and_acts_on_and_one_that_fails_keeps_no_other_from_it() {
        let seen = Arc::default();
        let member = |name, filters, named, fails| -> Arc<dyn Reactor> {
            Arc::new(Member { name, filters, named, fails, seen: Arc::clone(&seen) })
        };
        let all = &["*.completion.*", "*.image.*"];
        let members = vec![
            member("router", &["*.completion.*"], &["completion-requested."], true),
            member("images", &["*.image.*"], &["symbia."], false),
            member("meter", all, &["\"budgets\":["], false),
        ];
        let together = Together::new("router", (Service::Integrations, all), members);
        assert_eq!(together.replaces(), ["images", "pictures", "meter"]);
        assert!(together.is_concerned("", b"symbia.x") && !together.is_concerned("", b"nothing"));

        let at = Position { service: Service::Integrations, sequence: 1 };
        let requested =
            event("completion", "symbia.integrations.completion.completion-requested.v1", json!({ "budgets": [] }));
        assert!(together.react(&requested, at).await.is_err());
        let ended = event("completion", "symbia.integrations.completion.completion-failed.v1", json!({}));
        assert!(together.react(&ended, at).await.is_ok());
        assert_eq!(*seen.lock().unwrap_or_else(PoisonError::into_inner), ["router", "meter"]);
    }
}
