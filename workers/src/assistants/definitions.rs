//! Assistants and their rules, kept in memory and dropped as soon as they change.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_nats::Client;
use futures::{StreamExt, future::join_all};
use moka::sync::Cache;
use symbia_commands::{
    Aggregate,
    assistants::{
        Assistant, RuleSet,
        award::{Candidate, rule_set_keys},
        rules::Rules,
    },
};
use symbia_events::{AggregateRef, DomainEvent, InvalidToken, OrgId, assistants::AssistantDefinition};
use symbia_nats::{
    store::{EventStore, StoreError},
    topology,
};

/// A notice of a change may get lost with the connection: then it is seen after this long.
const KEPT: Duration = Duration::from_secs(2);
/// A replica may be behind the notice of a change: what is loaded so soon after it is not kept.
const UNSETTLED: Duration = Duration::from_secs(1);
const CHANGES: [&str; 2] = ["symbia.stored.assistants.*.assistant.*", "symbia.stored.assistants.*.rule-set.*"];

/// An assistant as far as it exists.
#[derive(Clone, Debug, Default)]
pub struct Definition {
    /// What it is, when it answers.
    pub assistant: Option<AssistantDefinition>,
    /// Its rules.
    pub rules: Option<Arc<Rules>>,
}

impl Definition {
    /// The assistant as a candidate to answer.
    #[must_use]
    pub fn candidate<'a>(&'a self, key: &'a str) -> Candidate<'a> {
        Candidate { key, definition: self.assistant.as_ref(), rules: self.rules.as_deref() }
    }
}

/// Gives assistants and their rules. Cheap to clone.
#[derive(Clone)]
pub struct Definitions {
    store: EventStore,
    assistants: Cache<String, Option<AssistantDefinition>>,
    rules: Cache<String, Option<Arc<Rules>>>,
    changed: Arc<Mutex<Option<Instant>>>,
}

impl Definitions {
    /// Definitions of a log, and the notices of their changes.
    pub async fn open(client: &Client, store: EventStore) -> Result<Self, async_nats::SubscribeError> {
        let definitions = Definitions {
            store,
            assistants: Cache::builder().max_capacity(10_000).time_to_live(KEPT).build(),
            rules: Cache::builder().max_capacity(10_000).time_to_live(KEPT).build(),
            changed: Arc::default(),
        };
        for subject in CHANGES {
            let mut notices = client.subscribe(subject).await?;
            let watched = definitions.clone();
            tokio::spawn(async move {
                while let Some(notice) = notices.next().await {
                    watched.forget(&topology::event_subject(&notice.subject));
                }
            });
        }
        Ok(definitions)
    }

    /// The assistants of these keys in an organization: its own, else those of the platform.
    pub async fn of(&self, org: &OrgId, keys: &[String]) -> Result<Vec<Definition>, StoreError> {
        join_all(keys.iter().map(|key| self.one(org, key))).await.into_iter().collect()
    }

    async fn one(&self, org: &OrgId, key: &str) -> Result<Definition, StoreError> {
        let (assistant, rules) = tokio::join!(self.assistant(org, key), self.rules(org, key));
        Ok(Definition { assistant: assistant?, rules: rules? })
    }

    async fn assistant(&self, org: &OrgId, key: &str) -> Result<Option<AssistantDefinition>, StoreError> {
        for tenant in [org.clone(), OrgId::global()] {
            let load = |assistant: Assistant| assistant.answering().cloned();
            let found = self.kept(&self.assistants, address::<Assistant>(tenant, key), load).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    async fn rules(&self, org: &OrgId, key: &str) -> Result<Option<Arc<Rules>>, StoreError> {
        for (tenant, key) in rule_set_keys(key, org) {
            let load = |set: RuleSet| (!set.key().is_empty()).then(|| Arc::new(Rules::new(&set)));
            let found = self.kept(&self.rules, address::<RuleSet>(tenant, &key), load).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    async fn kept<A: Aggregate, T: Clone + Send + Sync + 'static>(
        &self,
        kept: &Cache<String, Option<T>>,
        address: Result<AggregateRef, InvalidToken>,
        make: impl FnOnce(A) -> Option<T>,
    ) -> Result<Option<T>, StoreError> {
        // What cannot be an address cannot exist.
        let Ok(address) = address else { return Ok(None) };
        let subject = address.event_subject();
        if let Some(found) = kept.get(&subject) {
            return Ok(found);
        }
        let begun = Instant::now();
        let found = make(self.store.load::<A>(&address).await?.state);
        let changed = *self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        if changed.is_none_or(|at| at < begun && at.elapsed() > UNSETTLED) {
            kept.insert(subject, found.clone());
        }
        Ok(found)
    }

    fn forget(&self, subject: &str) {
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.assistants.invalidate(subject);
        self.rules.invalidate(subject);
    }
}

fn address<A: Aggregate>(tenant: OrgId, id: &str) -> Result<AggregateRef, InvalidToken> {
    AggregateRef::new(A::Event::SERVICE, tenant, A::Event::AGGREGATE, id)
}
