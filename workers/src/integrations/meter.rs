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
        BudgetUnit, CompletionEvent, EmbeddingEvent, ImageEvent, PassthroughEvent, Spent, TaskEvent, Usage,
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
    spent: Spent,
}

impl Meter {
    /// A meter of these accounts.
    #[must_use]
    pub fn new(sender: Sender, accounts: Arc<dyn Accounts>) -> Self {
        Meter { sender, accounts }
    }

    fn ended(event: &Event) -> anyhow::Result<Option<Ended>> {
        // What came to nothing may have taken something all the same.
        let of = |usage: Option<Usage>, cost| Spent { usage: usage.unwrap_or_default(), cost };
        let (request_id, budgets, spent) = match event.aggregatetype.as_str() {
            "embedding" => match event.decode()? {
                EmbeddingEvent::EmbeddingCompleted(e) => (e.request_id, e.budgets, of(Some(e.usage), e.cost)),
                EmbeddingEvent::EmbeddingFailed(e) => (e.request_id, e.budgets, Spent::default()),
                EmbeddingEvent::EmbeddingRequested(_) => return Ok(None),
            },
            "passthrough" => match event.decode()? {
                PassthroughEvent::PassthroughCompleted(e) => (e.request_id, e.budgets, of(Some(e.usage), e.cost)),
                PassthroughEvent::PassthroughFailed(e) => (e.request_id, e.budgets, of(e.usage, e.cost)),
                PassthroughEvent::PassthroughRequested(_) | PassthroughEvent::PassthroughAdmitted(_) => {
                    return Ok(None);
                }
            },
            "image" => match event.decode()? {
                ImageEvent::ImageCompleted(e) => (e.request_id, e.budgets, of(Some(e.usage), e.cost)),
                ImageEvent::ImageFailed(e) => (e.request_id, e.budgets, of(e.usage, e.cost)),
                ImageEvent::ImageRequested(_) => return Ok(None),
            },
            "task" => match event.decode()? {
                TaskEvent::TaskCompleted(e) => (e.request_id, e.budgets, of(Some(e.usage), e.cost)),
                TaskEvent::TaskFailed(e) => (e.request_id, e.budgets, of(e.usage, e.cost)),
                TaskEvent::TaskRequested(_) => return Ok(None),
            },
            _ => match event.decode()? {
                CompletionEvent::CompletionCompleted(e) => {
                    (e.request_id, e.budgets, of(Some(e.usage), e.cost).and(e.hedged))
                }
                CompletionEvent::CompletionFailed(e) => (e.request_id, e.budgets, of(e.usage, e.cost).and(e.hedged)),
                CompletionEvent::CompletionCancelled(e) => (e.request_id, e.budgets, of(e.usage, None).and(e.hedged)),
                _ => return Ok(None),
            },
        };
        Ok(Some(Ended { request_id, budgets, spent }))
    }
}

impl Ended {
    fn amount(&self, unit: BudgetUnit) -> u64 {
        match unit {
            BudgetUnit::Requests => 1,
            BudgetUnit::Tokens => self.spent.usage.total_tokens,
            BudgetUnit::Micros => self.spent.cost.unwrap_or_default().total_micros,
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
