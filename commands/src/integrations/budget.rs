//! The budget aggregate: room is kept for a request before a model is asked, and given back or spent at its end
//! (integrations.md §25.4, 28). All requests of a budget pass through it one by one, so that racing ones cannot overspend.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use symbia_events::integrations::{
    BudgetEvent, BudgetExhausted, BudgetPeriod, BudgetRemoved, BudgetReserved, BudgetReset, BudgetScope, BudgetSet,
    BudgetSettled, BudgetUnit, RateLimitExceeded,
};
use time::OffsetDateTime;

use super::administration::administers;
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

/// The capability that administers budgets, besides being an admin of the organization.
pub const ADMIN_CAPABILITY: &str = "cap:integrations.admin";
/// Code of a refusal because as many requests are under way as may be.
pub const TOO_MANY_AT_ONCE: &str = "TOO_MANY_AT_ONCE";
/// Most requests that a budget keeps room for at once.
const MAX_RESERVED: usize = 10_000;

domain_commands! {
    /// What can be done about a budget. Reserving and settling is the platform's.
    BudgetCommand: Integrations / "budget" {
        /// Sets the limit; what was spent stays.
        SetBudget = "symbia.cmd.integrations.set-budget.v1" {
            budget_id: String,
            org_id: String,
            scope: BudgetScope,
            /// The user, API key, assistant or model; none for the organization.
            #[serde(default)]
            subject: Option<String>,
            period: BudgetPeriod,
            unit: BudgetUnit,
            limit: u64,
        }
        /// Keeps room for a request.
        ReserveBudget = "symbia.cmd.integrations.reserve-budget.v1" {
            budget_id: String,
            request_id: String,
            amount: u64,
        }
        /// A request has its end.
        SettleBudget = "symbia.cmd.integrations.settle-budget.v1" {
            budget_id: String,
            request_id: String,
            amount: u64,
        }
        /// Requests were refused because of a limit per minute, or at once.
        ReportRefusals = "symbia.cmd.integrations.report-refusals.v1" {
            budget_id: String,
            counted: u64,
            refused: u64,
            request_id: String,
        }
        /// What was spent counts no longer.
        ResetBudget = "symbia.cmd.integrations.reset-budget.v1" { budget_id: String, org_id: String }
        /// No limit any more.
        RemoveBudget = "symbia.cmd.integrations.remove-budget.v1" { budget_id: String, org_id: String }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Terms {
    scope: BudgetScope,
    subject: Option<String>,
    period: BudgetPeriod,
    unit: BudgetUnit,
    limit: u64,
}

/// A budget.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    terms: Option<Terms>,
    window: String,
    spent: u64,
    reserved: BTreeMap<String, u64>,
}

fn window(period: BudgetPeriod, at: OffsetDateTime) -> String {
    match period {
        // A rate, which is not counted here.
        BudgetPeriod::Minute => String::new(),
        // Nothing is spent, only kept.
        BudgetPeriod::Parallel => "at-once".to_owned(),
        BudgetPeriod::Day => at.date().to_string(),
        BudgetPeriod::Month => format!("{}-{:02}", at.year(), u8::from(at.month())),
        BudgetPeriod::Total => "total".to_owned(),
    }
}

impl Terms {
    fn name(&self) -> String {
        let whose = match (self.scope, &self.subject) {
            (BudgetScope::Org, _) => "the organization".to_owned(),
            (BudgetScope::User, Some(subject)) => format!("user {subject}"),
            (BudgetScope::Key, Some(subject)) => format!("key {subject}"),
            (BudgetScope::Assistant, Some(subject)) => format!("assistant {subject}"),
            (BudgetScope::Model, Some(subject)) => format!("model {subject}"),
            (_, None) => "nobody".to_owned(),
        };
        let per = match self.period {
            BudgetPeriod::Minute => " per minute",
            BudgetPeriod::Day => " per day",
            BudgetPeriod::Month => " per month",
            BudgetPeriod::Total => " in all",
            BudgetPeriod::Parallel => " at once",
        };
        format!("the budget of {whose}, {} {}{per}", self.limit, unit(self.unit))
    }
}

fn unit(unit: BudgetUnit) -> &'static str {
    match unit {
        BudgetUnit::Micros => "micro-dollars",
        BudgetUnit::Tokens => "tokens",
        BudgetUnit::Requests => "requests",
    }
}

impl Budget {
    fn terms(&self) -> Result<&Terms, Rejection> {
        self.terms.as_ref().ok_or_else(|| Rejection::not_found("budget"))
    }

    fn spent_in(&self, window: &str) -> u64 {
        if self.window == window { self.spent } else { 0 }
    }

    fn set(&self, c: SetBudget, by: &Actor) -> Result<Decision<BudgetEvent>, Rejection> {
        if (c.scope == BudgetScope::Org) != c.subject.is_none() {
            let text = "subject: the user, API key, assistant or model; none for the organization";
            return Err(Rejection::invalid(text));
        }
        if c.period == BudgetPeriod::Minute && (c.unit == BudgetUnit::Micros || c.limit == 0) {
            return Err(Rejection::invalid("a limit per minute counts requests or tokens, at least 1"));
        }
        if c.period == BudgetPeriod::Parallel && (c.unit != BudgetUnit::Requests || c.limit == 0) {
            return Err(Rejection::invalid("what may be under way at once are requests, at least 1"));
        }
        let same = |terms: &Terms| {
            (terms.scope, &terms.subject, terms.period, terms.unit) == (c.scope, &c.subject, c.period, c.unit)
        };
        if self.terms.as_ref().is_some_and(|terms| !same(terms)) {
            return Err(Rejection::new("CONFLICT", "this budget counts something else: only its limit can change"));
        }
        Ok(Decision::one(BudgetSet {
            budget_id: c.budget_id,
            scope: c.scope,
            subject: c.subject,
            period: c.period,
            unit: c.unit,
            limit: c.limit,
            by: by.id.clone(),
        }))
    }

    fn reserve(&self, c: ReserveBudget, at: OffsetDateTime) -> Result<Decision<BudgetEvent>, Rejection> {
        let terms = self.terms()?;
        if terms.period == BudgetPeriod::Minute || self.reserved.contains_key(&c.request_id) {
            return Ok(Decision::nothing());
        }
        let window = window(terms.period, at);
        let (spent, kept) = (self.spent_in(&window), self.reserved.values().sum::<u64>());
        let taken = spent.saturating_add(kept).saturating_add(c.amount);
        if taken > terms.limit || self.reserved.len() >= MAX_RESERVED {
            if terms.period == BudgetPeriod::Parallel {
                let text = format!("{} is used up: {kept} are under way; ask again when one has its end", terms.name());
                return Err(Rejection::new(TOO_MANY_AT_ONCE, text));
            }
            let text = format!(
                "{} is used up: {spent} spent, {kept} kept for {} requests under way, {} asked for",
                terms.name(),
                self.reserved.len(),
                c.amount
            );
            return Err(Rejection::new("BUDGET_EXCEEDED", text));
        }
        let (budget_id, request_id, amount) = (c.budget_id, c.request_id, c.amount);
        Ok(Decision::one(BudgetReserved { budget_id, request_id, amount, window }))
    }

    fn settle(&self, c: SettleBudget, at: OffsetDateTime) -> Decision<BudgetEvent> {
        let Some(terms) = self.terms.as_ref().filter(|_| self.reserved.contains_key(&c.request_id)) else {
            return Decision::nothing();
        };
        let window = window(terms.period, at);
        let before = self.spent_in(&window);
        let spent = match terms.period {
            BudgetPeriod::Parallel => 0,
            _ => before.saturating_add(c.amount),
        };
        let (budget_id, limit) = (c.budget_id.clone(), terms.limit);
        let settled = BudgetSettled {
            budget_id: c.budget_id,
            request_id: c.request_id,
            amount: c.amount,
            spent,
            window: window.clone(),
        };
        let decision = Decision::one(settled);
        if before < limit && spent >= limit {
            return decision.and(BudgetExhausted { budget_id, spent, limit, window });
        }
        decision
    }
}

// Of a limit that was removed meanwhile nothing is told.
fn told(terms: Option<&Terms>, c: ReportRefusals) -> Decision<BudgetEvent> {
    let at_once = |terms: &&Terms| matches!(terms.period, BudgetPeriod::Minute | BudgetPeriod::Parallel);
    let Some(terms) = terms.filter(at_once).filter(|_| c.refused > 0) else { return Decision::nothing() };
    Decision::one(RateLimitExceeded {
        budget_id: c.budget_id,
        scope: terms.scope,
        subject: terms.subject.clone(),
        period: terms.period,
        unit: terms.unit,
        limit: terms.limit,
        counted: c.counted,
        refused: c.refused,
        request_id: c.request_id,
    })
}

impl Aggregate for Budget {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("budgetId");
    type Command = BudgetCommand;
    type Event = BudgetEvent;

    fn apply(&mut self, event: &BudgetEvent) {
        match event {
            BudgetEvent::BudgetSet(e) => {
                let (scope, subject) = (e.scope, e.subject.clone());
                self.terms = Some(Terms { scope, subject, period: e.period, unit: e.unit, limit: e.limit });
            }
            BudgetEvent::BudgetReserved(e) => _ = self.reserved.insert(e.request_id.clone(), e.amount),
            BudgetEvent::BudgetSettled(e) => {
                self.reserved.remove(&e.request_id);
                self.window.clone_from(&e.window);
                self.spent = e.spent;
            }
            BudgetEvent::BudgetExhausted(_) | BudgetEvent::RateLimitExceeded(_) => {}
            BudgetEvent::BudgetReset(_) => self.spent = 0,
            BudgetEvent::BudgetRemoved(_) => *self = Budget::default(),
        }
    }

    fn decide(
        &self,
        command: BudgetCommand,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<BudgetEvent>, Rejection> {
        match command {
            BudgetCommand::SetBudget(c) => {
                administers(by, &c.org_id, "sets its budgets")?;
                self.set(c, by)
            }
            BudgetCommand::ReserveBudget(c) => {
                by.is_platform().then_some(()).ok_or_else(platforms_own)?;
                self.reserve(c, at)
            }
            BudgetCommand::SettleBudget(c) => {
                by.is_platform().then_some(()).ok_or_else(platforms_own)?;
                Ok(self.settle(c, at))
            }
            BudgetCommand::ReportRefusals(c) => {
                by.is_platform().then_some(()).ok_or_else(platforms_own)?;
                Ok(told(self.terms.as_ref(), c))
            }
            BudgetCommand::ResetBudget(c) => {
                administers(by, &c.org_id, "sets its budgets")?;
                self.terms()?;
                Ok(Decision::one(BudgetReset { budget_id: c.budget_id, by: by.id.clone() }))
            }
            BudgetCommand::RemoveBudget(c) => {
                administers(by, &c.org_id, "sets its budgets")?;
                self.terms()?;
                Ok(Decision::one(BudgetRemoved { budget_id: c.budget_id, by: by.id.clone() }))
            }
        }
    }
}

fn platforms_own() -> Rejection {
    Rejection::forbidden("the platform counts what is used")
}

#[cfg(test)]
mod tests;
