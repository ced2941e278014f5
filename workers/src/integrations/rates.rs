//! Limits per minute: drawn from before a provider is asked, and corrected when it is known what a request took. Unlike other
//! budgets they are buckets that the processes share, and no events: what is lost with them is a minute's counting.

use std::time::Duration;

use symbia_events::{
    Event,
    integrations::{BudgetPeriod, BudgetUnit, ErrorCategory},
};
use symbia_nats::limits::{Bucket, Limits};

use super::{
    accounts::{Asker, BudgetTerms},
    provider::Fault,
    refusals::{Refusals, Refused},
};

const MINUTE: Duration = Duration::from_secs(60);

/// The limits. Cheap to clone.
#[derive(Clone)]
pub(super) struct Rates {
    limits: Limits,
    pub refusals: Refusals,
}

/// What was drawn for a request.
#[derive(Debug, Default)]
pub(super) struct Charged(Vec<Charge>);

#[derive(Debug)]
struct Charge {
    key: String,
    bucket: Bucket,
    unit: BudgetUnit,
    drawn: u64,
}

impl Rates {
    pub fn new(limits: Limits, refusals: Refusals) -> Self {
        Rates { limits, refusals }
    }

    /// Draws from every limit per minute that counts a request of about so many tokens, or from none.
    pub async fn charge(
        &self,
        event: &Event,
        budgets: &[BudgetTerms],
        (asker, model, tokens): (&Asker<'_>, &str, u64),
    ) -> Result<Charged, Fault> {
        let mut charged = Charged::default();
        let counts = |budget: &&BudgetTerms| budget.period == BudgetPeriod::Minute && budget.counts(asker, model);
        for budget in budgets.iter().filter(counts) {
            let bucket = Bucket { size: budget.limit, per: MINUTE };
            // What is larger than the limit waits for a full bucket, not for ever.
            let wanted = if budget.unit == BudgetUnit::Tokens { tokens.clamp(1, budget.limit.max(1)) } else { 1 };
            let key = format!("gateway:{}:{}", event.orgid, budget.id);
            let drawn = match self.limits.draw(&key, bucket, wanted, wanted).await {
                Ok(drawn) => drawn,
                Err(error) => {
                    tracing::warn!(budget = budget.id, %error, "a limit is passed over");
                    continue;
                }
            };
            if drawn.tokens == 0 {
                self.settle(charged, None).await;
                let counted = used(budget.limit, drawn.full_in);
                self.refusals.note(event, Refused { request_id: &event.aggregateid, budget: &budget.id, counted });
                return Err(refusal(budget, drawn.enough_in));
            }
            charged.0.push(Charge { key, bucket, unit: budget.unit, drawn: wanted });
        }
        Ok(charged)
    }

    /// What a request of this model took, where only so much was drawn for it beforehand.
    pub async fn correct(
        &self,
        event: &Event,
        budgets: &[BudgetTerms],
        (asker, model): (&Asker<'_>, &str),
        (drawn, spent): (u64, u64),
    ) {
        let counts = |budget: &&BudgetTerms| {
            budget.period == BudgetPeriod::Minute && budget.unit == BudgetUnit::Tokens && budget.counts(asker, model)
        };
        for budget in budgets.iter().filter(counts) {
            let bucket = Bucket { size: budget.limit, per: MINUTE };
            let drawn = drawn.clamp(1, budget.limit.max(1));
            let key = format!("gateway:{}:{}", event.orgid, budget.id);
            if let Err(error) = self.limits.settle(&key, bucket, drawn, spent).await {
                tracing::warn!(budget = budget.id, %error, "a limit is not corrected");
            }
        }
    }

    /// What a request took in tokens; none: it was not made.
    pub async fn settle(&self, charged: Charged, tokens: Option<u64>) {
        for Charge { key, bucket, unit, drawn } in charged.0 {
            let spent = match (tokens, unit) {
                (None, _) => 0,
                (Some(tokens), BudgetUnit::Tokens) => tokens,
                (Some(_), _) => drawn,
            };
            if let Err(error) = self.limits.settle(&key, bucket, drawn, spent).await {
                tracing::warn!(%error, "a limit is not corrected");
            }
        }
    }
}

// How much of a limit is not there yet again.
fn used(limit: u64, full_in: Duration) -> u64 {
    let used = (u128::from(limit) * full_in.as_nanos()).div_ceil(MINUTE.as_nanos());
    u64::try_from(used).unwrap_or(u64::MAX)
}

fn refusal(budget: &BudgetTerms, wait: Duration) -> Fault {
    let unit = if budget.unit == BudgetUnit::Tokens { "tokens" } else { "requests" };
    let whose = budget.whose();
    let message =
        format!("{whose} may use {} {unit} per minute, and has: ask again in {} s", budget.limit, wait.as_secs() + 1);
    Fault { retry_after: Some(wait), ..Fault::new(ErrorCategory::RateLimit, "rate_limited", message) }
}
