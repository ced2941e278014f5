//! Which models a request means: those that it names, and those of the routes that it names, in the order in which they are
//! asked (integrations.md §28).

use std::{sync::Arc, time::Duration};

use serde_json::json;
use sha2::{Digest, Sha256};
use symbia_commands::integrations::may_be_alias;
use symbia_events::integrations::{Balance, FallbackTrigger, Hedge, RouteFallback, RouteTarget, Strategy, Target};

use super::{
    accounts::Accounts,
    balance::{Standing, Standings, order},
    provider::{Fault, Provider, Providers},
};

/// A route of an organization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTerms {
    /// Which target is asked first.
    pub strategy: Strategy,
    /// The models of the name.
    pub targets: Vec<RouteTarget>,
    /// Those that are asked besides when something goes wrong.
    pub fallbacks: Vec<RouteFallback>,
    /// When the second is asked besides the first.
    pub hedge: Option<Hedge>,
}

/// A model that may be asked.
#[derive(Clone)]
pub(super) struct Candidate {
    pub provider: Arc<dyn Provider>,
    /// The model, as the provider names it.
    pub model: String,
    /// Only when this went wrong.
    pub after: Option<FallbackTrigger>,
    /// Longest time for one attempt.
    pub timeout: Option<Duration>,
    /// How often it may be asked in a minute, and how many requests it may have under way.
    pub max_rpm: Option<u32>,
    pub max_concurrency: Option<u32>,
    /// The route that it belongs to.
    pub alias: Option<Arc<str>>,
    /// When the next one is asked besides it.
    pub hedge: Option<Hedge>,
}

impl Candidate {
    /// Its name.
    pub fn name(&self) -> String {
        format!("{}/{}", self.provider.key(), self.model)
    }
}

/// Chooses among providers and the routes of an organization.
pub(super) struct Chooser<'a> {
    pub providers: &'a Providers,
    pub accounts: &'a dyn Accounts,
    pub standings: &'a Standings,
    /// The model of a provider when none is named.
    pub usual: fn(&dyn Provider) -> String,
    /// Which provider is asked when none is named: one that takes a model that is named, or has one of its own; none: the default.
    pub able: Option<fn(&dyn Provider, bool) -> bool>,
    /// What is the same for all requests of a conversation.
    pub conversation: &'a (dyn Fn() -> String + Sync),
}

impl Chooser<'_> {
    /// What is asked, in order; one candidate at least. What is named instead follows what is named first, and what is asked
    /// only when something special goes wrong follows both.
    pub async fn choose(
        &self,
        org: &str,
        asked: &Target,
        instead: &[Target],
        balance: Option<&Balance>,
    ) -> anyhow::Result<Result<Vec<Candidate>, Fault>> {
        let (mut chosen, mut after, mut routed) = (Vec::new(), Vec::new(), false);
        for target in std::iter::once(asked).chain(instead) {
            let Some((alias, route)) = self.route(org, target).await? else {
                match self.plain(target) {
                    Ok(candidate) => chosen.push(candidate),
                    Err(fault) => return Ok(Err(fault)),
                }
                continue;
            };
            routed = true;
            match self.of_route(&alias, &route).await? {
                Ok((first, special)) => {
                    chosen.extend(first);
                    after.extend(special);
                }
                Err(fault) => return Ok(Err(fault)),
            }
        }
        // The weights of a request are of what it names itself.
        if let Some(balance) = balance.filter(|_| !routed) {
            chosen = self.ordered(chosen, balance).await?;
        }
        chosen.extend(after);
        Ok(Ok(chosen))
    }

    async fn route(&self, org: &str, target: &Target) -> anyhow::Result<Option<(Arc<str>, Arc<RouteTerms>)>> {
        let named = target.model.as_deref().filter(|name| target.provider.is_none() && may_be_alias(name));
        let Some(alias) = named else { return Ok(None) };
        Ok(self.accounts.route(org, alias).await?.map(|route| (Arc::from(alias), route)))
    }

    fn plain(&self, target: &Target) -> Result<Candidate, Fault> {
        let (provider, model) = self.providers.resolve_able(target, self.able)?;
        let model = model.unwrap_or_else(|| (self.usual)(&**provider));
        let provider = Arc::clone(provider);
        Ok(Candidate {
            provider,
            model,
            after: None,
            timeout: None,
            max_rpm: None,
            max_concurrency: None,
            alias: None,
            hedge: None,
        })
    }

    // Those of its name, and those for when something goes wrong: special reasons before the general one.
    async fn of_route(
        &self,
        alias: &Arc<str>,
        route: &RouteTerms,
    ) -> anyhow::Result<Result<(Vec<Candidate>, Vec<Candidate>), Fault>> {
        let candidate = |after| {
            move |target: &RouteTarget| -> Result<Candidate, Fault> {
                let named = Target { provider: Some(target.provider.clone()), model: target.model.clone() };
                let timeout = target.timeout_ms.map(Duration::from_millis);
                let (max_rpm, max_concurrency) = (target.max_rpm, target.max_concurrency);
                let plain = self.plain(&named)?;
                let (alias, hedge) = (Some(Arc::clone(alias)), route.hedge);
                Ok(Candidate { after, timeout, max_rpm, max_concurrency, alias, hedge, ..plain })
            }
        };
        let weights = route.targets.iter().map(|target| target.weight.unwrap_or(1)).collect();
        let balance = Balance { strategy: route.strategy, weights };
        let first = match route.targets.iter().map(candidate(None)).collect::<Result<Vec<_>, Fault>>() {
            Ok(first) => self.ordered(first, &balance).await?,
            Err(fault) => return Ok(Err(fault)),
        };
        let mut lists: Vec<&RouteFallback> = route.fallbacks.iter().collect();
        lists.sort_by_key(|list| list.on == FallbackTrigger::Error);
        let special = lists.into_iter().flat_map(|list| list.targets.iter().map(candidate(Some(list.on))));
        Ok(special.collect::<Result<Vec<_>, Fault>>().map(|special| (first, special)))
    }

    async fn ordered(&self, candidates: Vec<Candidate>, balance: &Balance) -> anyhow::Result<Vec<Candidate>> {
        let mut standing = Vec::with_capacity(candidates.len());
        let conversation = (balance.strategy == Strategy::Sticky).then(|| (self.conversation)());
        for candidate in candidates {
            let price = match balance.strategy {
                Strategy::LowestCost => self.price(&candidate).await?,
                _ => None,
            };
            let name = candidate.name();
            let (load, latency_ms) = (self.standings.load(&name), self.standings.latency_ms(&name));
            let (used, tokens) = self.standings.usage(&name, candidate.max_rpm);
            let drawn = conversation.as_ref().map(|conversation| drawn(conversation, &name));
            standing.push((candidate, Standing { load, latency_ms, price, used, tokens, drawn }));
        }
        Ok(order(standing, balance))
    }

    // What a million tokens read and written cost; one's own models cost nothing.
    async fn price(&self, candidate: &Candidate) -> anyhow::Result<Option<u64>> {
        if !candidate.provider.takes_key() {
            return Ok(Some(0));
        }
        let price = self.accounts.price(candidate.provider.key(), &candidate.model).await?;
        Ok(price.map(|price| price.input.saturating_add(price.output)))
    }
}

// A number from 0 to 1 that a conversation and a target have in common, wherever it is drawn.
fn drawn(conversation: &str, target: &str) -> f64 {
    let digest = Sha256::digest(json!([conversation, target]).to_string());
    let first = digest.iter().take(4).fold(0_u32, |number, byte| (number << 8) | u32::from(*byte));
    f64::from(first) / (f64::from(u32::MAX) + 1.0)
}
