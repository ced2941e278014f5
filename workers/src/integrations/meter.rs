//! The meter: settles the budgets of a request that has its end, once each.
//!
//! Error policy: retry for ever. The commands' ids derive from the end, and a budget forgets a request with its settlement:
//! a repetition changes nothing.

use std::sync::Arc;

use async_trait::async_trait;
use symbia_commands::integrations::{BudgetCommand, SettleBudget};
use symbia_events::{
    AggregateRef, CommandId, Event, Position, Service,
    integrations::{
        BudgetUnit, CompletionEvent, Cost, EmbeddingEvent, ImageEvent, PassthroughEvent, Spent, TaskEvent, Usage,
    },
};

use super::{accounts::Accounts, router::router};
use crate::{
    reactor::{OnError, Reactor},
    sender::Sender,
};

/// The meter.
pub struct Meter {
    sender: Sender,
    accounts: Arc<dyn Accounts>,
}

/// What an end says.
struct Ended {
    request_id: String,
    budgets: Vec<String>,
    usage: Usage,
    cost: Option<Cost>,
}

impl Meter {
    /// A meter of these accounts.
    #[must_use]
    pub fn new(sender: Sender, accounts: Arc<dyn Accounts>) -> Self {
        Meter { sender, accounts }
    }

    fn ended(event: &Event) -> anyhow::Result<Option<Ended>> {
        if event.aggregatetype == "embedding" {
            return Ok(match event.decode()? {
                EmbeddingEvent::EmbeddingCompleted(e) => {
                    Some(Ended::of(e.request_id, e.budgets, Spent { usage: e.usage, cost: e.cost }))
                }
                EmbeddingEvent::EmbeddingFailed(e) => Some(Ended::of(e.request_id, e.budgets, Spent::default())),
                EmbeddingEvent::EmbeddingRequested(_) => None,
            });
        }
        if event.aggregatetype == "passthrough" {
            return Ok(match event.decode()? {
                PassthroughEvent::PassthroughCompleted(e) => {
                    Some(Ended::of(e.request_id, e.budgets, Spent { usage: e.usage, cost: e.cost }))
                }
                PassthroughEvent::PassthroughFailed(e) => {
                    let spent = Spent { usage: e.usage.unwrap_or_default(), cost: e.cost };
                    Some(Ended::of(e.request_id, e.budgets, spent))
                }
                PassthroughEvent::PassthroughRequested(_) | PassthroughEvent::PassthroughAdmitted(_) => None,
            });
        }
        if event.aggregatetype == "image" {
            return Ok(match event.decode()? {
                ImageEvent::ImageCompleted(e) => {
                    Some(Ended::of(e.request_id, e.budgets, Spent { usage: e.usage, cost: e.cost }))
                }
                ImageEvent::ImageFailed(e) => {
                    let spent = Spent { usage: e.usage.unwrap_or_default(), cost: e.cost };
                    Some(Ended::of(e.request_id, e.budgets, spent))
                }
                ImageEvent::ImageRequested(_) => None,
            });
        }
        if event.aggregatetype == "task" {
            return Ok(match event.decode()? {
                TaskEvent::TaskCompleted(e) => {
                    Some(Ended::of(e.request_id, e.budgets, Spent { usage: e.usage, cost: e.cost }))
                }
                TaskEvent::TaskFailed(e) => {
                    let spent = Spent { usage: e.usage.unwrap_or_default(), cost: e.cost };
                    Some(Ended::of(e.request_id, e.budgets, spent))
                }
                TaskEvent::TaskRequested(_) => None,
            });
        }
        Ok(match event.decode()? {
            CompletionEvent::CompletionCompleted(e) => {
                let spent = Spent { usage: e.usage, cost: e.cost }.and(e.hedged);
                Some(Ended::of(e.request_id, e.budgets, spent))
            }
            CompletionEvent::CompletionFailed(e) => {
                let spent = Spent { usage: e.usage.unwrap_or_default(), cost: e.cost }.and(e.hedged);
                Some(Ended::of(e.request_id, e.budgets, spent))
            }
            CompletionEvent::CompletionCancelled(e) => {
                let spent = Spent { usage: e.usage.unwrap_or_default(), cost: None }.and(e.hedged);
                Some(Ended::of(e.request_id, e.budgets, spent))
            }
            _ => None,
        })
    }
}

impl Ended {
    fn of(request_id: String, budgets: Vec<String>, Spent { usage, cost }: Spent) -> Self {
        Ended { request_id, budgets, usage, cost }
    }

    fn amount(&self, unit: BudgetUnit) -> u64 {
        match unit {
            BudgetUnit::Requests => 1,
            BudgetUnit::Tokens => self.usage.total_tokens,
            BudgetUnit::Micros => self.cost.unwrap_or_default().total_micros,
        }
    }
}

#[async_trait]
impl Reactor for Meter {
    fn name(&self) -> &'static str {
        "meter"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        let followed = &["*.completion.*", "*.embedding.*", "*.image.*", "*.task.*", "*.passthrough.*"];
        vec![(Service::Integrations, followed)]
    }

    fn acts_on(&self) -> &'static [&'static str] {
        // Only ends name budgets, and only where there are some.
        &["\"budgets\":[\""]
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    async fn react(&self, event: &Event, _at: Position) -> anyhow::Result<()> {
        let Some(ended) = Self::ended(event)? else { return Ok(()) };
        let kept = self.accounts.budgets(event.orgid.as_str()).await?;
        for id in &ended.budgets {
            // A budget that was removed has forgotten the request.
            let Some(budget) = kept.iter().find(|budget| budget.id == *id) else { continue };
            let to = AggregateRef::new(Service::Integrations, event.orgid.clone(), "budget", id)?;
            let amount = ended.amount(budget.unit);
            let settle = SettleBudget { budget_id: id.clone(), request_id: ended.request_id.clone(), amount };
            let command = CommandId::derived(event.id, &format!("settle-{id}"));
            self.sender.send(Some(event), &to, &BudgetCommand::from(settle), &router(), command).await?;
        }
        Ok(())
    }
}
