//! Requests that one model answers in one piece, and that have one end: texts turned into vectors and into pictures, and tasks.
//! What of them may leave, whom they ask, whether they may, room in budgets, and as many tries as it takes.

use std::{sync::Arc, time::Duration};

use async_nats::Client;
use async_trait::async_trait;
use symbia_commands::{DomainCommand, Rejection};
use symbia_events::{
    CommandId, Event, KeyRing, Position,
    integrations::{CompletionContext, Cost, ErrorCategory, GuardrailFinding, Target},
};
use symbia_nats::{limits::Limits, read};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::Instant;

use super::{
    accounts::{Accounts, Asker, BudgetTerms, Lease, OrgTerms, Taken},
    admission::{Expected, Kept, leave, places, reserve},
    attempts::not_lent,
    balance::Standings,
    circuits::{Line, Lines},
    guarding::{blocked, screen_texts},
    precedence::Precedence,
    provider::{ApiKey, Fault, Provider, Providers},
    quotas::{self, Quotas},
    rates::Rates,
    refusals::Refusals,
    retry::RetryOptions,
    router::{LINE_TAKES, RouterOptions, not_allowed, router},
    routes::{Candidate, Chooser},
};
use crate::{content_keys::ContentKeys, sender::Sender};

/// What such requests are served with.
pub(super) struct Desk {
    client: Client,
    sender: Sender,
    pub content_keys: ContentKeys,
    providers: Providers,
    accounts: Arc<dyn Accounts>,
    lines: Lines,
    rates: Rates,
    quotas: Quotas,
    timeout: Duration,
    retry: RetryOptions,
    precedence: Precedence,
}

/// A request, as far as it is the same for all kinds.
pub(super) struct Errand<'a> {
    pub event: &'a Event,
    pub request_id: &'a str,
    pub requested_by: &'a str,
    pub context: &'a CompletionContext,
    pub asked: Target,
    /// A key of the vault that it names.
    pub credential_id: Option<&'a str>,
    /// RFC 3339.
    pub deadline: Option<&'a str>,
}

/// What a model is asked for.
#[async_trait]
pub(super) trait Wish: Sync {
    /// What it gives.
    type Got: Send + Sync;
    /// The model of a provider where none is named; one without any has none: asking it says so.
    fn usual(provider: &dyn Provider) -> String;
    /// Which provider is asked when none is named: one that takes a model that is named, or has one of its own; none: the default.
    fn able() -> Option<fn(&dyn Provider, bool) -> bool> {
        None
    }
    /// What to do where there is no such provider.
    fn nobody() -> Option<Fault> {
        None
    }
    /// What of it is text that a provider is given: guardrails look at it.
    fn texts(&mut self) -> Vec<&mut String>;
    /// What it is likely to take.
    fn expected(&self) -> Taken;
    /// What it took.
    fn took(got: &Self::Got) -> Taken;
    /// Asks, once.
    async fn ask(&self, org: &str, target: &Candidate, key: Option<&ApiKey>) -> Result<Self::Got, Fault>;
}

/// What a model gave, and how that was come by.
pub(super) struct Made<T> {
    pub provider: &'static str,
    pub got: T,
    pub lease: Option<Lease>,
    pub cost: Option<Cost>,
}

/// What came of a request.
pub(super) struct Served<T> {
    pub made: Result<Made<T>, Fault>,
    pub noted: Noted,
}

/// What is recorded of a request besides what came of it.
#[derive(Clone, Default)]
pub(super) struct Noted {
    /// The budgets that count it.
    pub budgets: Vec<String>,
    /// What guardrails found in it.
    pub guarded: Vec<GuardrailFinding>,
}

impl<T> Served<T> {
    /// Not seen through.
    pub fn refused(fault: Fault) -> Self {
        Served { made: Err(fault), noted: Noted::default() }
    }
}

impl<T> Made<T> {
    /// Whose key it was made with.
    pub fn source(&self) -> &'static str {
        match &self.lease {
            Some(lease) if lease.is_proxy => "org-wide",
            Some(_) => "personal",
            None => "none",
        }
    }
}

impl Errand<'_> {
    fn asker(&self) -> Asker<'_> {
        Asker {
            org: self.event.orgid.as_str(),
            principal: self.context.user_id.as_deref().unwrap_or(self.requested_by),
            assistant: self.context.assistant_id.as_deref(),
            key: self.context.key_id.as_deref(),
        }
    }

    /// How long ago it was asked for.
    pub fn took_ms(&self) -> u64 {
        u64::try_from((OffsetDateTime::now_utc() - self.event.time).whole_milliseconds()).unwrap_or(0)
    }
}

impl Desk {
    /// A desk over providers.
    pub async fn open(
        client: Client,
        keys: Arc<KeyRing>,
        (sender, content_keys): (Sender, ContentKeys),
        providers: Providers,
        accounts: Arc<dyn Accounts>,
        options: &RouterOptions,
    ) -> Result<Self, async_nats::SubscribeError> {
        let (retry, timeout) = (options.retry.clone(), options.timeout);
        let lines = Lines::open(&client, keys, sender.clone(), retry.clone()).await?;
        let rates = Rates::new(Limits::new(client.clone()), Refusals::new(sender.clone()));
        let quotas = Quotas::new(client.clone());
        let precedence = options.precedence.clone();
        Ok(Desk { client, sender, content_keys, providers, accounts, lines, rates, quotas, timeout, retry, precedence })
    }

    /// Whether a request, at its place in the log, has its end: it came again, and is not to be paid for again.
    pub async fn has_ended(&self, event: &Event, at: Position) -> anyhow::Result<bool> {
        let subject = event.aggregate()?.event_subject();
        let last = read::last(&self.client, &at.service.event_stream(), &subject).await?;
        Ok(last.is_some_and(|last| last.sequence > at.sequence))
    }

    /// Sees a request through, up to what is to be recorded of it.
    pub async fn serve<W: Wish>(&self, errand: &Errand<'_>, wish: &mut W) -> anyhow::Result<Served<W::Got>> {
        // Lines of batches have waited for their turn before.
        let _ahead = errand.context.batch_id.is_none().then(|| self.precedence.ahead());
        let OrgTerms { budgets, guards } = self.accounts.terms(errand.asker().org).await?;
        let guarded = guards.map(|guards| screen_texts(&guards, wish.texts())).unwrap_or_default();
        let mut served = match blocked(&guarded, "prompt") {
            Some(fault) => Served::refused(fault),
            None => self.let_out(errand, wish, &budgets).await?,
        };
        served.noted.guarded = guarded;
        Ok(served)
    }

    async fn let_out<W: Wish>(
        &self,
        errand: &Errand<'_>,
        wish: &W,
        limits: &[BudgetTerms],
    ) -> anyhow::Result<Served<W::Got>> {
        let asker = errand.asker();
        let target = match self.target::<W>(errand, &asker).await? {
            Ok(target) => target,
            Err(fault) => return Ok(Served::refused(fault)),
        };
        if let Some(fault) = not_allowed(&*self.accounts, &asker, std::slice::from_ref(&target)).await? {
            return Ok(Served::refused(fault));
        }
        let taken = wish.expected();
        let wanted = (&asker, target.model.as_str(), taken.usage.total_tokens);
        let charged = match self.rates.charge(errand.event, limits, wanted).await {
            Ok(charged) => charged,
            Err(fault) => return Ok(Served::refused(fault)),
        };
        let (provider, model) = (target.provider.key(), target.model.as_str());
        let expected = Expected { provider, model, taken, beside: None };
        let told = (&self.sender, &self.rates.refusals);
        let (event, id) = (errand.event, errand.request_id);
        let budgets = match reserve(&*self.accounts, told, event, id, &asker, expected).await? {
            Ok(Kept(budgets)) => budgets,
            Err(fault) => {
                self.rates.settle(charged, None).await;
                return Ok(Served::refused(fault));
            }
        };
        let made = self.made(errand, &asker, &target, wish).await?;
        let spent = made.as_ref().map_or(0, |made| W::took(&made.got).usage.total_tokens);
        self.rates.settle(charged, Some(spent)).await;
        // Its end frees the places, too; what was made is not made again for them.
        if let Err(error) = leave(&self.sender, event, id, &places(&budgets, limits)).await {
            tracing::warn!(request = id, error = format!("{error:#}"), "places are not given back before the end");
        }
        Ok(Served { made, noted: Noted { budgets, guarded: Vec::new() } })
    }

    // What several models make does not go together: what else a route names is not asked.
    async fn target<W: Wish>(
        &self,
        errand: &Errand<'_>,
        asker: &Asker<'_>,
    ) -> anyhow::Result<Result<Candidate, Fault>> {
        let chooser = Chooser {
            providers: &self.providers,
            accounts: &*self.accounts,
            standings: &Standings::default(),
            usual: W::usual,
            able: W::able(),
            conversation: &|| asker.principal.to_owned(),
        };
        let none = || Fault::new(ErrorCategory::NotFound, "no_provider", "no model is named");
        let chosen = chooser.choose(asker.org, &errand.asked, &[], None).await?;
        let chosen = chosen.and_then(|chosen| chosen.into_iter().next().ok_or_else(none));
        Ok(chosen.map_err(|fault| match (&errand.asked.provider, fault.code.as_deref()) {
            (None, Some("no_provider")) => W::nobody().unwrap_or(fault),
            _ => fault,
        }))
    }

    // After as many tries as it takes.
    async fn made<W: Wish>(
        &self,
        errand: &Errand<'_>,
        asker: &Asker<'_>,
        target: &Candidate,
        wish: &W,
    ) -> anyhow::Result<Result<Made<W::Got>, Fault>> {
        let (provider, deadline) = (&*target.provider, Instant::now() + self.time_left(errand));
        // Asked for before, so that nothing is paid for whose price cannot be known.
        let price = self.accounts.price(provider.key(), &target.model).await?;
        let mut tries = 1;
        loop {
            let lease = match provider.takes_key() {
                true => self.accounts.lease(asker, provider.key(), errand.credential_id).await?,
                false => None,
            };
            if let (Some(named), None, true) = (errand.credential_id, &lease, provider.takes_key()) {
                return Ok(Err(not_lent(named, provider.key())));
            }
            let fault = match self.once(errand, target, wish, lease.as_ref(), deadline).await {
                Ok(got) => {
                    let cost = price.map(|price| price.of_all(&W::took(&got)));
                    return Ok(Ok(Made { provider: provider.key(), got, lease, cost }));
                }
                Err(fault) if fault.code.as_deref() == Some("circuit_open") => return Ok(Err(fault)),
                Err(fault) => fault,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            match self.retry.pause(&fault, tries, false).filter(|wait| *wait < left) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Ok(Err(fault)),
            }
            tracing::warn!(request = errand.request_id, tries, %fault, "a try failed, trying again");
            tries += 1;
        }
    }

    async fn once<W: Wish>(
        &self,
        errand: &Errand<'_>,
        target: &Candidate,
        wish: &W,
        lease: Option<&Lease>,
        deadline: Instant,
    ) -> Result<W::Got, Fault> {
        let (provider, org) = (target.provider.key(), errand.event.orgid.as_str());
        let credential = lease.map(|lease| lease.credential_id.as_str());
        let permit = self.lines.admit(errand.event, Line { provider, model: &target.model, credential })?;
        let lasts = deadline.saturating_duration_since(Instant::now());
        let held = self.quotas.enter(org, target, errand.request_id, lasts).await?;
        let asked = wish.ask(org, target, lease.map(|lease| &lease.key));
        let answer = tokio::time::timeout_at(deadline, asked).await.unwrap_or_else(|_| {
            let message = format!("provider '{provider}' did not finish before the deadline");
            Err(Fault::new(ErrorCategory::Timeout, "deadline", message))
        });
        quotas::leave(held).await;
        match &answer {
            Ok(_) => permit.succeeded().await,
            Err(fault) => permit.failed(fault.category).await,
        }
        answer
    }

    /// Records what came of a request; gives why that is refused, if it is.
    pub async fn record<C: DomainCommand>(
        &self,
        event: &Event,
        command: &C,
        purpose: &str,
    ) -> anyhow::Result<Option<Rejection>> {
        let id = CommandId::derived(event.id, purpose);
        let outcome = self.sender.send(Some(event), &event.aggregate()?, command, &router(), id).await?;
        Ok(outcome.rejection)
    }

    fn time_left(&self, errand: &Errand<'_>) -> Duration {
        let named = errand.deadline.and_then(|d| OffsetDateTime::parse(d, &Rfc3339).ok());
        let left =
            named.map_or(self.timeout, |at| (at - OffsetDateTime::now_utc()).try_into().unwrap_or(Duration::ZERO));
        if errand.context.batch_id.is_some() { left.min(LINE_TAKES) } else { left }
    }
}
