//! Room in budgets: kept before a provider is asked, given back by the [meter](super::meter) when the request has its end.

use std::{sync::atomic::Ordering, time::Duration};

use symbia_commands::{
    OutcomeStatus,
    integrations::{
        AdmitCompletion, BudgetCommand, Completion, CompletionCommand, Phase, ReserveBudget, SettleBudget,
        TOO_MANY_AT_ONCE,
    },
};
use symbia_events::{
    AggregateRef, CommandId, Event, Service,
    integrations::{BudgetPeriod, BudgetUnit, ErrorCategory, Usage},
};

use super::{
    accounts::{Accounts, Asker, BudgetTerms, Taken},
    provider::Fault,
    rates::Charged,
    refusals::{Refusals, Refused},
    router::{LlmRouter, Work, router},
    routes::Candidate,
};
use crate::sender::Sender;

/// Tokens that an answer is expected to have when nobody limits it.
const EXPECTED: u64 = 1024;
/// When who has too many requests under way may ask again.
const AGAIN: Duration = Duration::from_secs(1);

/// Whether a request may be made.
pub(super) enum Admission {
    /// With what was drawn from limits per minute.
    Granted(Charged),
    Refused(Fault),
    /// It has its end already.
    Over,
}

/// What is kept for a request.
pub(super) struct Kept(pub Vec<String>);

/// What a request may take.
#[derive(Clone, Copy)]
pub(super) struct Expected<'a> {
    pub provider: &'a str,
    pub model: &'a str,
    pub taken: Taken,
    /// Provider and model of another attempt that may be made besides, and take as much.
    pub beside: Option<(&'a str, &'a str)>,
}

/// Keeps room in all budgets that count a request, or in none.
pub(super) async fn reserve(
    accounts: &dyn Accounts,
    (sender, refusals): (&Sender, &Refusals),
    event: &Event,
    request_id: &str,
    asker: &Asker<'_>,
    expected: Expected<'_>,
) -> anyhow::Result<Result<Kept, Fault>> {
    let budgets = accounts.budgets(asker.org).await?;
    let counts = |budget: &&BudgetTerms| {
        let counts = |model| budget.counts(asker, model);
        let counted = counts(expected.model) || expected.beside.is_some_and(|(_, model)| counts(model));
        budget.period != BudgetPeriod::Minute && counted
    };
    let counting: Vec<&BudgetTerms> = budgets.iter().filter(counts).collect();
    let mut kept = Vec::with_capacity(counting.len());
    for budget in counting {
        let amount = match budget.unit {
            BudgetUnit::Requests => 1,
            BudgetUnit::Tokens => expected.taken.usage.total_tokens * if expected.beside.is_some() { 2 } else { 1 },
            BudgetUnit::Micros => {
                let mut micros = 0u64;
                for (provider, model) in [(expected.provider, expected.model)].into_iter().chain(expected.beside) {
                    if let Some(price) = accounts.price(provider, model).await? {
                        micros = micros.saturating_add(price.of_all(&expected.taken).total_micros);
                    }
                }
                micros
            }
        };
        let to = AggregateRef::new(Service::Integrations, event.orgid.clone(), "budget", &budget.id)?;
        let reserve = ReserveBudget { budget_id: budget.id.clone(), request_id: request_id.to_owned(), amount };
        // Another model after a refusal is another question.
        let question = expected.question();
        let id = CommandId::derived(event.id, &format!("reserve-{}-{question}", budget.id));
        let outcome = sender.send(Some(event), &to, &BudgetCommand::from(reserve), &router(), id).await?;
        match outcome.rejection {
            None => kept.push(budget.id.clone()),
            // Removed a moment ago.
            Some(rejection) if rejection.code == "NOT_FOUND" => {}
            Some(rejection) => {
                for budget in kept {
                    give_back(sender, event, request_id, (&budget, &question)).await?;
                }
                if rejection.code == TOO_MANY_AT_ONCE {
                    refusals.note(event, Refused { request_id, budget: &budget.id, counted: budget.limit });
                    let fault = Fault::new(ErrorCategory::RateLimit, "too_many_at_once", rejection.message);
                    return Ok(Err(Fault { retry_after: Some(AGAIN), ..fault }));
                }
                return Ok(Err(Fault::new(ErrorCategory::Quota, "budget_exceeded", rejection.message)));
            }
        }
    }
    Ok(Ok(Kept(kept)))
}

impl Expected<'_> {
    fn question(&self) -> String {
        let beside = self.beside.map_or_else(String::new, |(provider, model)| format!("+{provider}/{model}"));
        format!("{}/{}{beside}", self.provider, self.model)
    }
}

// `why` tells times from one another at which the same is given back.
async fn give_back(
    sender: &Sender,
    event: &Event,
    request_id: &str,
    (budget, why): (&str, &str),
) -> anyhow::Result<()> {
    let to = AggregateRef::new(Service::Integrations, event.orgid.clone(), "budget", budget)?;
    let settle = SettleBudget { budget_id: budget.to_owned(), request_id: request_id.to_owned(), amount: 0 };
    let id = CommandId::derived(event.id, &format!("give-back-{budget}-{why}"));
    sender.send(Some(event), &to, &BudgetCommand::from(settle), &router(), id).await?;
    Ok(())
}

/// The budgets among them that count what is under way. Who asks again when it has its answer must find a place: these are
/// given back before a request has its end, all others after it.
pub(super) fn places(kept: &[String], budgets: &[BudgetTerms]) -> Vec<String> {
    let parallel = |budget: &&BudgetTerms| budget.period == BudgetPeriod::Parallel && kept.contains(&budget.id);
    budgets.iter().filter(parallel).map(|budget| budget.id.clone()).collect()
}

/// Gives places back.
pub(super) async fn leave(sender: &Sender, event: &Event, request_id: &str, places: &[String]) -> anyhow::Result<()> {
    for budget in places {
        give_back(sender, event, request_id, (budget, "end")).await?;
    }
    Ok(())
}

impl LlmRouter {
    /// Keeps room for a completion, once: who takes it over finds that it was admitted.
    pub(super) async fn admit(&self, work: &Work<'_>) -> anyhow::Result<Admission> {
        let granted = || Admission::Granted(Charged::default());
        let Some(Candidate { provider, model, .. }) = work.asked.targets.first() else { return Ok(granted()) };
        let budgets = self.accounts.budgets(work.asker().org).await?;
        if budgets.is_empty() {
            return Ok(granted());
        }
        let state = self.store.load::<Completion>(&work.to).await?.state;
        if state.phase() == Phase::Over {
            return Ok(Admission::Over);
        }
        if state.attempts() > 0 || !state.budgets().is_empty() {
            work.places.get_or_init(|| places(state.budgets(), &budgets));
            // What was kept then may have been for one.
            work.hedges.store(false, Ordering::Relaxed);
            return Ok(granted());
        }
        let targets = &work.asked.targets;
        let beside = work.rival().and_then(|rival| targets.get(rival));
        let admitted = self.admit_with(work, &budgets, (provider.key(), model.as_str()), beside).await?;
        if beside.is_none() || !matches!(admitted, Admission::Refused(_)) {
            return Ok(admitted);
        }
        // There may be room for one.
        work.hedges.store(false, Ordering::Relaxed);
        self.admit_with(work, &budgets, (provider.key(), model.as_str()), None).await
    }

    async fn admit_with(
        &self,
        work: &Work<'_>,
        budgets: &[BudgetTerms],
        (provider, model): (&str, &str),
        beside: Option<&Candidate>,
    ) -> anyhow::Result<Admission> {
        let request = work.request;
        let prompt_tokens = work.prompt(0, model.to_owned()).estimated_tokens();
        let choices = u64::from(work.asked.options.choices.unwrap_or(1).clamp(1, 128));
        let completion_tokens = request.sampling.max_tokens.map_or(EXPECTED, u64::from) * choices;
        let total_tokens = prompt_tokens + completion_tokens;
        let usage = Usage { prompt_tokens, completion_tokens, total_tokens, ..Usage::default() };
        let times = if beside.is_some() { 2 } else { 1 };
        let beside = beside.map(|target| (target.provider.key(), target.model.as_str()));
        let expected = Expected { provider, model, taken: usage.into(), beside };
        let (id, asker) = (&request.request_id, work.asker());
        let asked = (&asker, model, total_tokens * times);
        let charged = match self.rates.charge(work.event, budgets, asked).await {
            Ok(charged) => charged,
            Err(fault) => return Ok(Admission::Refused(fault)),
        };
        let told = (&self.sender, &self.rates.refusals);
        match reserve(&*self.accounts, told, work.event, id, &asker, expected).await? {
            Err(fault) => {
                self.rates.settle(charged, None).await;
                Ok(Admission::Refused(fault))
            }
            Ok(Kept(kept)) if kept.is_empty() => Ok(Admission::Granted(charged)),
            Ok(Kept(kept)) => {
                work.places.get_or_init(|| places(&kept, budgets));
                work.beside.get_or_init(|| {
                    let first = budgets.iter().filter(|budget| budget.counts(&asker, model));
                    let first: Vec<&str> = first.map(|budget| budget.id.as_str()).collect();
                    kept.iter().filter(|id| !first.contains(&id.as_str())).cloned().collect()
                });
                let admit = AdmitCompletion { request_id: id.clone(), budgets: kept.clone() };
                let command = CommandId::derived(work.event.id, "admit");
                let admit = CompletionCommand::from(admit);
                let outcome = self.sender.send(Some(work.event), &work.to, &admit, &router(), command).await?;
                if outcome.status == OutcomeStatus::Accepted {
                    return Ok(Admission::Granted(charged));
                }
                // It was cancelled meanwhile, and its end names no budgets.
                self.rates.settle(charged, None).await;
                for budget in &kept {
                    give_back(&self.sender, work.event, id, (budget, "over")).await?;
                }
                Ok(Admission::Over)
            }
        }
    }
}
