//! A request is worked on where it is decided, when a router is there: what is asked for and that it is begun are one commit,
//! and the model is asked as soon as that is stored. From the log the request comes to a router all the same; what came to
//! its end here needs nothing more of it, and what did not, because this process died, is taken over as ever.

use std::sync::{Arc, OnceLock};

use futures::future::BoxFuture;
use symbia_commands::{
    Aggregate, Authority, CommandEnvelope, DomainCommand, Outcome,
    integrations::{Completion, CompletionCommand, RequestCompletion},
};
use symbia_events::{
    AggregateRef, DomainEvent, Event,
    integrations::{CompletionEvent, CompletionRequested},
};
use symbia_nats::{bus::DecideHere, store::StoreError, telemetry};
use time::OffsetDateTime;
use tracing::Instrument;

use super::{
    accounts::Lease,
    beginning::Turn,
    router::{Asked, LlmRouter, router as by_router},
    running::Registered,
};
use crate::command::{Decider, Known};

/// Has the requests that are sent in this process worked on in it; what else is sent is decided by another.
pub struct Taking {
    router: OnceLock<Arc<LlmRouter>>,
    decider: Decider,
    others: Arc<dyn DecideHere>,
}

/// A request before it is in the log.
struct Taken {
    request: CompletionRequested,
    registered: Registered,
    asked: Option<Asked>,
    // With what key the first attempt is made, when it is begun with the request.
    begun: Option<Option<Lease>>,
}

impl Taking {
    /// Requests are decided by `decider` when there is a [router](Taking::by), all other commands by `others`.
    #[must_use]
    pub fn new(decider: Decider, others: Arc<dyn DecideHere>) -> Arc<Self> {
        Arc::new(Taking { router: OnceLock::new(), decider, others })
    }

    /// From now on requests are worked on by this router.
    pub fn by(&self, router: Arc<LlmRouter>) {
        self.router.get_or_init(|| router);
    }

    // None: it is no request, or is refused by whoever decides it.
    async fn taken(&self, router: &LlmRouter, to: &AggregateRef, envelope: &CommandEnvelope) -> Option<(Known, Taken)> {
        if to.kind != CompletionEvent::AGGREGATE || envelope.command_type != RequestCompletion::TYPE {
            return None;
        }
        let command = CompletionCommand::from_data(&envelope.command_type, envelope.data.get()).ok()?;
        let now = OffsetDateTime::now_utc();
        let by = envelope.authenticate(self.decider.keys(), to, now, now).ok()?;
        // No key is lent for what will be refused.
        let limited = |authority: &Authority| authority.check(to, &envelope.command_type).is_err();
        if !by.may_enter(&to.tenant) || by.authority.as_deref().is_some_and(limited) {
            return None;
        }
        let decision = Completion::default().decide(command.clone(), &by, envelope.time).ok()?;
        let Some(CompletionEvent::CompletionRequested(request)) = decision.events.into_iter().next() else {
            return None;
        };
        // A line of a batch waits for its turn, and is opened then.
        if request.context.batch_id.is_some() {
            return None;
        }
        let registered = router.running.begin(&to.id)?;
        let (asked, first) = match router.asked(to.tenant.as_str(), &request).await {
            Ok(Ok(asked)) => {
                let first = first(router, to.tenant.as_str(), &request, &asked).await.unwrap_or_default();
                (Some(asked), first)
            }
            // Said again when the request stands in the log.
            _ => (None, None),
        };
        let (next, begun) = first.map(|(start, lease)| ((start, by_router()), lease)).unzip();
        Some((Known { command, by, next }, Taken { request, registered, asked, begun }))
    }

    async fn take(&self, to: &AggregateRef, mut envelope: CommandEnvelope) -> Result<Outcome, StoreError> {
        let Some(at) = self.router.get() else { return self.others.decide(to, envelope).await };
        let Some((known, mut taken)) = self.taken(at, to, &envelope).await else {
            return self.others.decide(to, envelope).await;
        };
        let wants_events = std::mem::replace(&mut envelope.returnevents, true);
        let mut outcome = self.decider.decide_known(to, envelope, OffsetDateTime::now_utc(), Some(known)).await?;
        // Nothing is new when the same command was decided before.
        if let Some(event) = outcome.stored.first().cloned() {
            taken.begun = taken.begun.filter(|_| outcome.stored.len() > 1);
            tokio::spawn(work(Arc::clone(at), event, taken));
        }
        if !wants_events {
            outcome.stored.clear();
        }
        Ok(outcome)
    }
}

// What an earlier answer will do for, and what budgets count, is begun later.
async fn first(
    router: &LlmRouter,
    org: &str,
    request: &CompletionRequested,
    asked: &Asked,
) -> anyhow::Result<Option<(CompletionCommand, Option<Lease>)>> {
    if asked.options.cache_seconds.is_some() || asked.is_counted {
        return Ok(None);
    }
    let turn = Turn::FIRST;
    let lease = router.lease(org, request, &asked.targets, turn).await?;
    let start = router.start(org, request, asked, turn, 1, lease.as_ref());
    Ok(Some((start.into(), lease)))
}

async fn work(router: Arc<LlmRouter>, event: Arc<Event>, taken: Taken) {
    let Taken { request, registered, asked, begun } = taken;
    let span = tracing::info_span!("react", reactor = "llm-router", event = %event.id, what = event.event_type,
        request = event.correlationid, otel.kind = "consumer", otel.status_code = tracing::field::Empty);
    telemetry::follow(&span, event.traceparent.as_deref());
    telemetry::rename(&span, "react llm-router".to_owned());
    let work = router.work_on(&event, &request, registered.cancelled(), asked, begun).instrument(span.clone());
    match work.await {
        Ok(()) => registered.done(),
        Err(error) => {
            span.record("otel.status_code", "ERROR");
            tracing::warn!(request = request.request_id, %error, "a request comes again from the log");
        }
    }
}

impl DecideHere for Taking {
    fn takes(&self, aggregate: &AggregateRef) -> bool {
        self.others.takes(aggregate)
    }

    fn decide<'a>(
        &'a self,
        aggregate: &'a AggregateRef,
        envelope: CommandEnvelope,
    ) -> BoxFuture<'a, Result<Outcome, StoreError>> {
        Box::pin(self.take(aggregate, envelope))
    }
}
