//! Keys, budgets and prices from identity's vault and the read models.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use async_nats::Client;
use async_trait::async_trait;
use moka::sync::Cache;
use serde_json::Value;
use symbia_commands::{
    Actor, Membership,
    integrations::{Guards, MAX_GUARDRAILS},
};
use symbia_events::integrations::GuardrailSet;
use symbia_projections::{
    ReadPool, Scope,
    identity::{self, Credential},
    integrations as model,
    secrets::SecretStore,
};
use time::OffsetDateTime;

use super::{
    accounts::{Accounts, Asker, BudgetTerms, Lease, OrgTerms, PriceTerms},
    leases::Leases,
    provider::ApiKey,
    routes::RouteTerms,
};
use crate::{sender::Sender, vault::Vault};

/// How long what the read models said about budgets, prices and routes counts.
const KEPT: Duration = Duration::from_secs(1);
const MOST: u64 = 10_000;
/// Expressions that are kept compiled, and for how long nobody needs them.
const MOST_EXPRESSIONS: u64 = 4_000;
const UNUSED: Duration = Duration::from_secs(600);
/// What a credential is released for.
const PURPOSE: &str = "llm call";

/// The platform's accounts. Cheap to clone.
#[derive(Clone)]
pub struct Books {
    reader: ReadPool,
    vault: Vault,
    terms: Cache<String, OrgTerms>,
    // Compiled, as long as nobody changes them.
    guards: Cache<String, Arc<Guards>>,
    prices: Cache<(String, String), Option<PriceTerms>>,
    scopes: Cache<String, Option<Arc<[String]>>>,
    routes: Cache<(String, String), Option<Arc<RouteTerms>>>,
    leases: Leases,
}

impl Books {
    /// Over the read models and the secret store; releases are sent.
    #[must_use]
    pub fn new(reader: ReadPool, secrets: SecretStore, sender: Sender) -> Self {
        Books {
            reader,
            vault: Vault::new(secrets, sender),
            terms: Cache::builder().max_capacity(MOST).time_to_live(KEPT).build(),
            guards: Cache::builder()
                .max_capacity(MOST_EXPRESSIONS)
                .weigher(|_, guards: &Arc<Guards>| u32::try_from(guards.expressions()).unwrap_or(u32::MAX))
                .time_to_idle(UNUSED)
                .build(),
            prices: Cache::builder().max_capacity(MOST).time_to_live(KEPT).build(),
            scopes: Cache::builder().max_capacity(MOST).time_to_live(KEPT).build(),
            routes: Cache::builder().max_capacity(MOST).time_to_live(KEPT).build(),
            leases: Leases::new(),
        }
    }

    /// The same with keys that are lent for a while, as long as nothing happens to them: what does is heard over the connection.
    #[must_use]
    pub fn lending(self, client: Client) -> Self {
        tokio::spawn(self.leases.clone().listen(client));
        self
    }

    // The integrations service in the name of the principal, with its present organizations. The credential decides by them.
    pub(super) async fn acting(&self, asker: &Asker<'_>) -> anyhow::Result<Actor> {
        let mut tx = self.reader.read(&Scope::platform()).await?;
        let orgs = identity::organizations_of(&mut tx, asker.principal).await?;
        let membership = |org: identity::OrgRef| {
            let role = serde_json::from_value(Value::String(org.role)).ok()?;
            Some(Membership { id: org.id.parse().ok()?, role })
        };
        let mut orgs: Vec<Membership> = orgs.into_iter().filter_map(membership).collect();
        if let Some(agent) = identity::agent_by_handle(&mut tx, asker.principal).await?.filter(|agent| agent.is_active)
            && let Some(id) = agent.organization().and_then(|org| org.parse().ok())
        {
            orgs.push(Membership { id, role: symbia_commands::Role::Member });
        }
        Ok(Actor { orgs, on_behalf_of: Some(asker.principal.to_owned()), ..Actor::service("integrations") })
    }

    /// The asker's own credential for a provider, else one shared with the organization.
    pub(super) async fn credential(&self, asker: &Asker<'_>, provider: &str) -> anyhow::Result<Option<Credential>> {
        let mut tx = self.reader.read(&Scope::platform()).await?;
        Ok(identity::credential_for(&mut tx, asker.principal, Some(asker.org), provider).await?)
    }

    /// Has identity release a credential, on record, and takes its secret.
    pub(super) async fn release(
        &self,
        asker: &Asker<'_>,
        found: Credential,
        purpose: &str,
    ) -> anyhow::Result<Option<Lease>> {
        let secret = self.vault.lend(&found, &self.acting(asker).await?, purpose).await?;
        let is_proxy = found.owner_id != asker.principal;
        Ok(secret.map(|secret| Lease { key: ApiKey::new(secret), credential_id: found.id, is_proxy }))
    }
}

impl Books {
    /// [`Accounts::lease`] for something else than a call of a model.
    pub(super) async fn lease_for(
        &self,
        asker: &Asker<'_>,
        provider: &str,
        named: Option<&str>,
        purpose: &str,
    ) -> anyhow::Result<Option<Lease>> {
        if let Some(lease) = self.leases.find(asker, provider, named) {
            return Ok(lease);
        }
        let quiet = self.leases.quiet();
        let found = match named {
            // A key is for its provider: another one's server must not see it.
            Some(id) => {
                let mut tx = self.reader.read(&Scope::platform()).await?;
                identity::credential(&mut tx, id).await?.filter(|found| found.provider == provider)
            }
            None => self.credential(asker, provider).await?,
        };
        let lease = match found {
            Some(found) => match self.release(asker, found, purpose).await? {
                Some(lease) => Some(lease),
                // That it is denied goes on record each time.
                None => return Ok(None),
            },
            None => None,
        };
        self.leases.keep(asker, provider, named, quiet, &lease);
        Ok(lease)
    }
}

impl Books {
    async fn guards(&self, org: &str, found: &[model::Guardrail]) -> anyhow::Result<Option<Arc<Guards>>> {
        if found.is_empty() {
            return Ok(None);
        }
        let found: Vec<GuardrailSet> = found.iter().map(model::Guardrail::set).collect();
        let same = |guards: &Arc<Guards>| {
            let stamp = guards.stamp().iter().map(|(id, version)| (id.as_str(), *version));
            stamp.eq(found.iter().map(|set| (set.guardrail_id.as_str(), set.version)))
        };
        if let Some(guards) = self.guards.get(org).filter(same) {
            return Ok(Some(guards));
        }
        // What cannot be applied lets nothing through.
        anyhow::ensure!(found.len() <= MAX_GUARDRAILS, "the organization has more than {MAX_GUARDRAILS} guardrails");
        let compiled = tokio::task::spawn_blocking(move || Guards::compile(&found)).await?;
        let guards = Arc::new(compiled.context("a guardrail of the organization")?);
        self.guards.insert(org.to_owned(), Arc::clone(&guards));
        Ok(Some(guards))
    }
}

#[async_trait]
impl Accounts for Books {
    async fn lease(&self, asker: &Asker<'_>, provider: &str, named: Option<&str>) -> anyhow::Result<Option<Lease>> {
        self.lease_for(asker, provider, named, PURPOSE).await
    }

    async fn budgets(&self, org: &str) -> anyhow::Result<Arc<[BudgetTerms]>> {
        Ok(self.terms(org).await?.budgets)
    }

    async fn terms(&self, org: &str) -> anyhow::Result<OrgTerms> {
        if let Some(terms) = self.terms.get(org) {
            return Ok(terms);
        }
        let mut tx = self.reader.read(&Scope::platform()).await?;
        let found = model::budgets(&mut tx, org).await?;
        let terms = |budget: model::Budget| -> Option<BudgetTerms> {
            let scope = serde_json::from_value(Value::String(budget.scope)).ok()?;
            let unit = serde_json::from_value(Value::String(budget.unit)).ok()?;
            let period = serde_json::from_value(Value::String(budget.period)).ok()?;
            let limit = budget.limit.unsigned_abs();
            Some(BudgetTerms { id: budget.id, scope, subject: budget.subject, period, unit, limit })
        };
        let budgets: Arc<[BudgetTerms]> = found.into_iter().filter_map(terms).collect();
        let guards = self.guards(org, &model::guardrails(&mut tx, org).await?).await?;
        let terms = OrgTerms { budgets, guards };
        self.terms.insert(org.to_owned(), terms.clone());
        Ok(terms)
    }

    async fn scopes(&self, key: &str) -> anyhow::Result<Option<Arc<[String]>>> {
        if let Some(scopes) = self.scopes.get(key) {
            return Ok(scopes);
        }
        let mut tx = self.reader.read(&Scope::platform()).await?;
        let found = identity::api_key(&mut tx, key).await?;
        // Whoever let it in has read it here: one that is not there was deleted since. What waits for long, like the lines of a batch,
        // is not asked with a key that nobody is let in with.
        let now = OffsetDateTime::now_utc();
        let accepted = found.filter(|key| !key.is_revoked(now) && !key.is_expired(now));
        let scopes: Option<Arc<[String]>> = accepted.map(|key| key.scopes.into());
        self.scopes.insert(key.to_owned(), scopes.clone());
        Ok(scopes)
    }

    async fn price(&self, provider: &str, model: &str) -> anyhow::Result<Option<PriceTerms>> {
        let key = (provider.to_owned(), model.to_owned());
        if let Some(price) = self.prices.get(&key) {
            return Ok(price);
        }
        let mut tx = self.reader.read(&Scope::platform()).await?;
        let found = model::price(&mut tx, provider, model).await?;
        let price = found.map(|price| PriceTerms {
            input: price.input_micros_per_m.unsigned_abs(),
            output: price.output_micros_per_m.unsigned_abs(),
            cached_input: price.cached_input_micros_per_m.map(i64::unsigned_abs),
            image: price.image_micros.map(i64::unsigned_abs),
            request: price.request_micros.map(i64::unsigned_abs),
            characters: price.character_micros_per_m.map(i64::unsigned_abs),
            audio_hour: price.audio_hour_micros.map(i64::unsigned_abs),
            version: price.version.unsigned_abs(),
        });
        self.prices.insert(key, price);
        Ok(price)
    }

    async fn route(&self, org: &str, alias: &str) -> anyhow::Result<Option<Arc<RouteTerms>>> {
        let key = (org.to_owned(), alias.to_owned());
        if let Some(route) = self.routes.get(&key) {
            return Ok(route);
        }
        let mut tx = self.reader.read(&Scope::platform()).await?;
        let terms = |route: model::Route| -> anyhow::Result<Arc<RouteTerms>> {
            let strategy = serde_json::from_value(Value::String(route.strategy))?;
            let (targets, fallbacks) = (route.targets.0, route.fallbacks.0);
            Ok(Arc::new(RouteTerms { strategy, targets, fallbacks, hedge: route.hedge.map(|hedge| hedge.0) }))
        };
        let route = model::route(&mut tx, org, alias).await?.map(terms).transpose()?;
        self.routes.insert(key, route.clone());
        Ok(route)
    }
}
