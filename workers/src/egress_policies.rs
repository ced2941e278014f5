//! The way out for organizations, and their egress policies, as outbound calls are held against them: kept for a moment, and
//! looked up anew as soon as one is heard to have changed.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_nats::Client;
use futures::StreamExt;
use moka::sync::Cache;
use symbia_egress::{Egress, Policy};
use symbia_projections::{ReadPool, Scope, integrations::egress_policy};

const EVENTS: &str = "symbia.stored.integrations.*.egress-policy.*";
/// Longest time for which one is kept, also that there is none.
const KEPT: Duration = Duration::from_secs(10);
const MOST: u64 = 10_000;
/// How long after a change the read model may lie behind it.
const SETTLES: Duration = Duration::from_secs(2);
/// Pause before listening, or looking up, is tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// How long a database that is not there is waited for: one that starts again takes a few seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// The policies of all organizations. Cheap to clone. The default knows none.
#[derive(Clone, Default)]
pub struct EgressPolicies(Option<Arc<Parts>>);

struct Parts {
    reader: ReadPool,
    kept: Cache<String, Option<Arc<Policy>>>,
    // Since when nothing has changed; none while nobody listens, and then nothing is kept.
    quiet: Mutex<Option<Instant>>,
}

impl std::fmt::Debug for EgressPolicies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EgressPolicies").finish_non_exhaustive()
    }
}

impl EgressPolicies {
    /// Reads them, and hears of changes over the connection.
    #[must_use]
    pub fn follow(reader: ReadPool, client: Client) -> Self {
        let kept = Cache::builder().max_capacity(MOST).time_to_live(KEPT).build();
        let parts = Arc::new(Parts { reader, kept, quiet: Mutex::default() });
        tokio::spawn(listen(Arc::clone(&parts), client));
        EgressPolicies(Some(parts))
    }

    /// The policy of an organization, if it has one.
    ///
    /// # Errors
    /// It cannot be looked up, nor in ten seconds.
    pub async fn of(&self, org: &str) -> anyhow::Result<Option<Arc<Policy>>> {
        let Some(parts) = &self.0 else { return Ok(None) };
        if let Some(policy) = parts.kept.get(org) {
            return Ok(policy);
        }
        let until = Instant::now() + PATIENCE;
        loop {
            match parts.looked_up(org).await {
                Err(_) if Instant::now() < until => tokio::time::sleep(AGAIN).await,
                found => return found,
            }
        }
    }
}

/// The way out, for one organization at a time. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WayOut {
    egress: Egress,
    policies: EgressPolicies,
}

impl WayOut {
    /// Calls by this way, as far as the policies let them out.
    #[must_use]
    pub fn new(egress: Egress, policies: EgressPolicies) -> Self {
        WayOut { egress, policies }
    }

    /// The same under these policies.
    #[must_use]
    pub fn narrowed(self, policies: EgressPolicies) -> Self {
        WayOut { policies, ..self }
    }

    /// That of an organization.
    ///
    /// # Errors
    /// Its policy cannot be looked up: then nothing goes out.
    pub async fn of(&self, org: &str) -> anyhow::Result<Egress> {
        Ok(self.egress.within(self.policy(org).await?))
    }

    /// The policy of an organization, if it has one.
    ///
    /// # Errors
    /// It cannot be looked up.
    pub async fn policy(&self, org: &str) -> anyhow::Result<Option<Arc<Policy>>> {
        self.policies.of(org).await
    }
}

impl Parts {
    async fn looked_up(&self, org: &str) -> anyhow::Result<Option<Arc<Policy>>> {
        let quiet = *self.quiet();
        let mut tx = self.reader.read(&Scope::platform()).await?;
        let found = egress_policy(&mut tx, org).await?;
        drop(tx);
        let policy = found.map(|found| Arc::new(Policy::new(found.terms.0)));
        let since = self.quiet();
        if *since == quiet && quiet.is_some_and(|quiet| quiet.elapsed() > SETTLES) {
            self.kept.insert(org.to_owned(), policy.clone());
        }
        Ok(policy)
    }

    fn quiet(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.quiet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, quiet: Option<Instant>) {
        *self.quiet() = quiet;
        self.kept.invalidate_all();
    }
}

async fn listen(parts: Arc<Parts>, client: Client) {
    loop {
        if let Ok(mut changes) = client.subscribe(EVENTS).await {
            parts.changed(Some(Instant::now()));
            while changes.next().await.is_some() {
                parts.changed(Some(Instant::now()));
            }
        }
        parts.changed(None);
        tokio::time::sleep(AGAIN).await;
    }
}
