//! What limits refuse, told to the log: the first refusal of a limit at once, those of the next minute together, so that a flood
//! of them is one event per limit, minute and process.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use symbia_commands::integrations::{BudgetCommand, ReportRefusals};
use symbia_events::{AggregateRef, CommandId, Event, OrgId, Service};

use super::router::router;
use crate::sender::Sender;

const MINUTE: Duration = Duration::from_secs(60);

/// The refusals of this process. Cheap to clone.
#[derive(Clone)]
pub(super) struct Refusals {
    sender: Sender,
    // By organization and budget, as long as something is to be told.
    untold: Arc<Mutex<HashMap<(OrgId, String), Untold>>>,
}

/// A request that was refused.
#[derive(Clone, Copy)]
pub(super) struct Refused<'a> {
    pub request_id: &'a str,
    pub budget: &'a str,
    /// What was counted against the limit.
    pub counted: u64,
}

#[derive(Clone, Default)]
struct Untold {
    refused: u64,
    counted: u64,
    request_id: String,
}

impl Untold {
    fn add(&mut self, one: Refused<'_>) {
        self.refused = self.refused.saturating_add(1);
        self.counted = one.counted;
        one.request_id.clone_into(&mut self.request_id);
    }
}

impl Refusals {
    pub fn new(sender: Sender) -> Self {
        Refusals { sender, untold: Arc::default() }
    }

    /// Counts a refusal.
    pub fn note(&self, event: &Event, one: Refused<'_>) {
        let key = (event.orgid.clone(), one.budget.to_owned());
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counting) = untold.get_mut(&key) {
            counting.add(one);
            return;
        }
        untold.entry(key.clone()).or_default().add(one);
        drop(untold);
        tokio::spawn(self.clone().tell(event.clone(), key));
    }

    // Until nothing was refused for a minute.
    async fn tell(self, cause: Event, key: (OrgId, String)) {
        let mut cause = Some(cause);
        while let Some(Untold { refused, counted, request_id }) = self.take(&key) {
            let (tenant, budget_id) = key.clone();
            let Ok(to) = AggregateRef::new(Service::Integrations, tenant, "budget", &budget_id) else { return };
            let report = BudgetCommand::from(ReportRefusals { budget_id, counted, refused, request_id });
            let sent = self.sender.send(cause.take().as_ref(), &to, &report, &router(), CommandId::random()).await;
            if let Err(error) = sent {
                tracing::warn!(budget = key.1, refused, %error, "refusals are not told");
            }
            tokio::time::sleep(MINUTE).await;
        }
    }

    // What is to be told; none, and it is forgotten, when that is nothing.
    fn take(&self, key: &(OrgId, String)) -> Option<Untold> {
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = untold.get_mut(key).map(std::mem::take)?;
        if taken.refused == 0 {
            untold.remove(key);
            return None;
        }
        Some(taken)
    }
}
