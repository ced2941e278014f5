//! Asks providers whether they are there, where an organization or the operator wants that: for their models, which no provider
//! takes money for, with a leased key, through the egress guard, and no more often than was said.

use std::{sync::Arc, time::Duration};

use async_nats::Client;
use futures::StreamExt;
use symbia_events::{OrgId, integrations::ErrorCategory};
use symbia_nats::probes::{Finding, Probes};
use symbia_projections::{ReadPool, Scope, identity, integrations::all_provider_probes};
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    accounts::{Accounts, Asker},
    provider::{Fault, Providers},
};

/// Between two looks at what is due.
const LOOK: Duration = Duration::from_secs(5);
/// How long a provider may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Probes at a time, and names of models that are kept of each.
const AT_ONCE: usize = 8;
const MOST_MODELS: usize = 500;

/// What the operator wants asked, with the installation's own keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeOptions {
    /// Which providers.
    pub providers: Vec<String>,
    /// How long between two.
    pub every: Duration,
}

/// Asks.
pub struct Prober {
    probes: Probes,
    reader: ReadPool,
    providers: Providers,
    accounts: Arc<dyn Accounts>,
    options: ProbeOptions,
}

/// A provider that a tenant wants asked.
struct Wanted {
    tenant: String,
    // Whose keys count; none: the installation's.
    by: Option<String>,
    provider: String,
    every: Duration,
}

impl Prober {
    /// Over the read models, the providers and the keys for them.
    #[must_use]
    pub fn new(
        client: Client,
        reader: ReadPool,
        providers: Providers,
        accounts: Arc<dyn Accounts>,
        options: ProbeOptions,
    ) -> Self {
        Prober { probes: Probes::new(client), reader, providers, accounts, options }
    }

    /// Asks until it is stopped.
    pub async fn run(self, stop: CancellationToken) {
        let asking = async {
            loop {
                match self.wanted().await {
                    Ok(wanted) => {
                        let each = futures::stream::iter(wanted).for_each_concurrent(AT_ONCE, |w| self.probe(w));
                        each.await;
                    }
                    Err(error) => tracing::warn!(error = format!("{error:#}"), "it is not known whom to probe"),
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! { () = asking => {}, () = stop.cancelled() => {} }
    }

    async fn wanted(&self) -> anyhow::Result<Vec<Wanted>> {
        let mut tx = self.reader.read(&Scope::platform()).await?;
        let found = all_provider_probes(&mut tx).await?;
        let of_operator = self.options.providers.iter().map(|provider| Wanted {
            tenant: OrgId::GLOBAL.to_owned(),
            by: None,
            provider: provider.clone(),
            every: self.options.every,
        });
        let of_tenants = found.into_iter().flat_map(|row| {
            let every = Duration::from_secs(row.every_seconds.unsigned_abs().into());
            row.providers.0.into_iter().map(move |provider| Wanted {
                tenant: row.org_id.clone(),
                by: Some(row.set_by.clone()),
                provider,
                every,
            })
        });
        Ok(of_operator.chain(of_tenants).collect())
    }

    async fn probe(&self, wanted: Wanted) {
        let turn = match self.probes.begin(&wanted.tenant, &wanted.provider, wanted.every).await {
            Ok(Some(turn)) => turn,
            Ok(None) => return,
            Err(error) => return tracing::warn!(%error, "a provider is not probed"),
        };
        let begun = Instant::now();
        let asked = tokio::time::timeout(PATIENCE, self.ask(&wanted)).await;
        let asked = asked.unwrap_or_else(|_| Err(Fault::timeout("the provider told no models", PATIENCE)));
        let latency_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let now = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
        let at_ms = i64::try_from(now).unwrap_or(i64::MAX);
        let found = match asked {
            Ok(models) => Finding { at_ms, latency_ms, models: Some(models), category: None, code: None },
            Err(fault) => {
                tracing::info!(tenant = wanted.tenant, provider = wanted.provider, %fault, "a probe failed");
                Finding { at_ms, latency_ms, models: None, category: Some(fault.category), code: fault.code }
            }
        };
        if let Err(error) = self.probes.end(turn, found).await {
            tracing::warn!(%error, "what a probe found is not kept");
        }
    }

    async fn ask(&self, wanted: &Wanted) -> Result<Vec<String>, Fault> {
        let provider = self.providers.find(Some(&wanted.provider))?;
        let lease = match &wanted.by {
            Some(by) if provider.takes_key() => {
                if !self.is_admin(&wanted.tenant, by).await.map_err(|error| unavailable(&error))? {
                    let text = "who set the probes is no admin of the organization any more: set them anew";
                    return Err(Fault::new(ErrorCategory::Auth, "not_admin", text));
                }
                let asker = Asker { org: &wanted.tenant, principal: by, assistant: None, key: None };
                let lent = self.accounts.lease(&asker, provider.key(), None).await;
                lent.map_err(|error| unavailable(&error))?
            }
            _ => None,
        };
        let models = provider.models(&wanted.tenant, lease.as_ref().map(|lease| &lease.key)).await?;
        Ok(models.into_iter().map(|model| model.id).take(MOST_MODELS).collect())
    }

    // Keys are lent in their name.
    async fn is_admin(&self, org: &str, user: &str) -> anyhow::Result<bool> {
        let mut tx = self.reader.read(&Scope::platform()).await?;
        let membership = identity::membership_of(&mut tx, org, user).await?;
        Ok(membership.is_some_and(|membership| membership.role == "admin"))
    }
}

fn unavailable(error: &anyhow::Error) -> Fault {
    Fault::new(ErrorCategory::Internal, "unavailable", format!("{error:#}"))
}
