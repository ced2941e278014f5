//! Gives leave to calls of providers' own APIs, which the gateway then makes (integrations.md §28): the models that the caller's
//! key names, limits, and room in budgets, as for other requests; and an end to those whose maker is lost.
//!
//! Error policy: retry for ever. Ids derive from the events, and the aggregate takes one end: a repetition changes nothing. A
//! limit per minute may be corrected twice by a worker that dies over it; it is a minute's counting.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, jetstream};
use async_trait::async_trait;
use symbia_commands::{
    DomainCommand,
    integrations::{
        AdmitPassthrough, FailPassthrough, MODEL_SCOPE, Passthrough as State, PassthroughCommand, Phase, may_ask,
    },
};
use symbia_events::{
    CommandId, Event, KeyRing, Position, Service,
    integrations::{
        CompletionContext, ErrorCategory, PassthroughCompleted, PassthroughEvent, PassthroughFailed,
        PassthroughRequested, Usage,
    },
};
use symbia_nats::{
    limits::Limits,
    store::{EventStore, StoreOptions},
    timers::{TimerCommand, Timers, When},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    accounts::{Accounts, Asker},
    admission::{Expected, Kept, leave, reserve},
    provider::Fault,
    rates::Rates,
    refusals::Refusals,
    router::{key_gone, router},
};
use crate::{
    content_keys::ContentKeys,
    reactor::{OnError, Reactor},
    sender::Sender,
};

/// How long after its deadline a call without an end is taken for lost.
const GRACE: Duration = Duration::from_secs(5);

/// The reactor.
pub struct PassthroughDesk {
    sender: Sender,
    content_keys: ContentKeys,
    accounts: Arc<dyn Accounts>,
    rates: Rates,
    timers: Timers,
    store: EventStore,
}

fn asker<'a>(org: &'a str, context: &'a CompletionContext, requested_by: &'a str) -> Asker<'a> {
    Asker {
        org,
        principal: context.user_id.as_deref().unwrap_or(requested_by),
        assistant: context.assistant_id.as_deref(),
        key: context.key_id.as_deref(),
    }
}

impl PassthroughDesk {
    /// Over a connection, and accounts.
    #[must_use]
    pub fn new(
        client: &Client,
        keys: Arc<KeyRing>,
        sender: Sender,
        content_keys: ContentKeys,
        accounts: Arc<dyn Accounts>,
    ) -> Self {
        let rates = Rates::new(Limits::new(client.clone()), Refusals::new(sender.clone()));
        // A store that decides nothing: what it loads is read from the log.
        let store = EventStore::new(client.clone(), keys, &StoreOptions::default());
        let timers = Timers::new(jetstream::new(client.clone()));
        PassthroughDesk { sender, content_keys, accounts, rates, timers, store }
    }

    async fn requested(&self, event: &Event, request: &PassthroughRequested) -> anyhow::Result<()> {
        let to = event.aggregate()?;
        let state = self.store.load::<State>(&to).await?.state;
        // It had its end before leave was given, and whoever kept room for it then may be lost.
        if state.phase() == Phase::Over && state.budgets().is_empty() {
            let budgets = self.accounts.budgets(event.orgid.as_str()).await?;
            let all: Vec<String> = budgets.iter().map(|budget| budget.id.clone()).collect();
            return leave(&self.sender, event, &request.request_id, &all).await;
        }
        if state.phase() != Phase::Waiting {
            return Ok(());
        }
        // Before leave is given: whoever makes the call may be lost at any time after.
        self.watch(event, request).await?;
        let asker = asker(event.orgid.as_str(), &request.context, &request.requested_by);
        let admission = match self.not_allowed(&asker, request).await? {
            Some(fault) => Err(fault),
            None => self.room(event, request, &asker).await?,
        };
        let (command, purpose, kept) = match admission {
            Ok(budgets) => {
                let price = match &request.model {
                    Some(model) => self.accounts.price(&request.provider, model).await?.map(|price| price.tokens()),
                    None => None,
                };
                let request_id = request.request_id.clone();
                let admit = AdmitPassthrough { request_id, budgets: budgets.clone(), price };
                (PassthroughCommand::from(admit), "admit", budgets)
            }
            Err(fault) => (self.failed(request, &fault).await?.into(), "refuse", Vec::new()),
        };
        let id = CommandId::derived(event.id, purpose);
        let outcome = self.sender.send(Some(event), &to, &command, &router(), id).await?;
        // It was given up meanwhile, and its end names no budgets.
        if outcome.rejection.is_some() {
            leave(&self.sender, event, &request.request_id, &kept).await?;
        }
        Ok(())
    }

    async fn watch(&self, event: &Event, request: &PassthroughRequested) -> anyhow::Result<()> {
        let at = OffsetDateTime::parse(&request.deadline, &Rfc3339)? + GRACE;
        let command = PassthroughCommand::from(FailPassthrough {
            category: ErrorCategory::Internal,
            code: Some("front_lost".to_owned()),
            ..end(&request.request_id)
        });
        let timer = TimerCommand {
            aggregate: event.aggregate()?,
            command_type: command.command_type().to_owned(),
            data: command.to_data()?,
        };
        Ok(self.timers.command(&format!("passthrough-{}", event.id), &When::At(at), &timer).await?)
    }

    // Guardrails hold for all that leaves, and what is passed on is not looked into. A key that names models asks those, and
    // nothing of which it cannot be told what it asks.
    async fn not_allowed(&self, asker: &Asker<'_>, request: &PassthroughRequested) -> anyhow::Result<Option<Fault>> {
        if self.accounts.terms(asker.org).await?.guards.is_some() {
            let text = "calls are not passed on: the organization's guardrails cannot look into them; ask by /v1/chat/completions";
            return Ok(Some(Fault::new(ErrorCategory::Auth, "not_screened", text)));
        }
        let Some(key) = asker.key else { return Ok(None) };
        let Some(scopes) = self.accounts.scopes(key).await? else { return Ok(Some(key_gone())) };
        let model = request.model.as_deref();
        let allowed = match model {
            Some(model) => may_ask(&scopes, &request.provider, model),
            None => !scopes.iter().any(|scope| scope.starts_with(MODEL_SCOPE)),
        };
        Ok((!allowed).then(|| {
            let what = model.map_or_else(|| "a call that names no model".to_owned(), |model| format!("'{model}'"));
            let text = format!("this API key may not ask '{}' for {what}: its scopes name models", request.provider);
            Fault::new(ErrorCategory::Auth, "model_not_allowed", text)
        }))
    }

    async fn room(
        &self,
        event: &Event,
        request: &PassthroughRequested,
        asker: &Asker<'_>,
    ) -> anyhow::Result<Result<Vec<String>, Fault>> {
        let model = request.model.as_deref().unwrap_or_default();
        let limits = self.accounts.budgets(asker.org).await?;
        let charged = match self.rates.charge(event, &limits, (asker, model, request.estimated_tokens)).await {
            Ok(charged) => charged,
            Err(fault) => return Ok(Err(fault)),
        };
        let usage = Usage {
            prompt_tokens: request.estimated_tokens,
            total_tokens: request.estimated_tokens,
            ..Usage::default()
        };
        let expected = Expected { provider: &request.provider, model, taken: usage.into(), beside: None };
        let told = (&self.sender, &self.rates.refusals);
        let kept = reserve(&*self.accounts, told, event, &request.request_id, asker, expected).await?;
        match kept {
            Ok(Kept(budgets)) => Ok(Ok(budgets)),
            Err(fault) => {
                self.rates.settle(charged, None).await;
                Ok(Err(fault))
            }
        }
    }

    async fn failed(&self, request: &PassthroughRequested, fault: &Fault) -> anyhow::Result<FailPassthrough> {
        let key = self.content_keys.key(&request.requested_by).await?;
        Ok(FailPassthrough {
            category: fault.category,
            code: fault.code.clone(),
            message: key.map(|key| key.seal(&fault.message)),
            retry_after_ms: fault.retry_after_ms(),
            ..end(&request.request_id)
        })
    }

    // What was drawn from limits per minute beforehand becomes what it took.
    async fn ended(&self, event: &Event, ended: Ended) -> anyhow::Result<()> {
        let asker = asker(event.orgid.as_str(), &ended.context, &ended.requested_by);
        let limits = self.accounts.budgets(asker.org).await?;
        let model = ended.model.as_deref().unwrap_or_default();
        self.rates.correct(event, &limits, (&asker, model), (ended.drawn, ended.spent)).await;
        Ok(())
    }
}

struct Ended {
    context: CompletionContext,
    requested_by: String,
    model: Option<String>,
    drawn: u64,
    spent: u64,
}

impl From<PassthroughCompleted> for Ended {
    fn from(e: PassthroughCompleted) -> Self {
        let (drawn, spent) = (e.estimated_tokens, e.usage.total_tokens);
        Ended { context: e.context, requested_by: e.requested_by, model: e.model, drawn, spent }
    }
}

impl From<PassthroughFailed> for Ended {
    fn from(e: PassthroughFailed) -> Self {
        let (drawn, spent) = (e.estimated_tokens, e.usage.unwrap_or_default().total_tokens);
        Ended { context: e.context, requested_by: e.requested_by, model: e.model, drawn, spent }
    }
}

fn end(request_id: &str) -> FailPassthrough {
    FailPassthrough {
        request_id: request_id.to_owned(),
        category: ErrorCategory::Internal,
        code: None,
        message: None,
        status_code: None,
        retry_after_ms: None,
        model: None,
        usage: None,
        price: None,
        credential_id: None,
        credential_source: None,
    }
}

#[async_trait]
impl Reactor for PassthroughDesk {
    fn name(&self) -> &'static str {
        "passthrough-desk"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(Service::Integrations, &["*.passthrough.*"])]
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(3)
    }

    async fn react(&self, event: &Event, _at: Position) -> anyhow::Result<()> {
        match event.decode()? {
            PassthroughEvent::PassthroughRequested(request) => self.requested(event, &request).await,
            PassthroughEvent::PassthroughAdmitted(_) => Ok(()),
            PassthroughEvent::PassthroughCompleted(e) => self.ended(event, e.into()).await,
            // Refused before anything was drawn, or given back with the refusal.
            PassthroughEvent::PassthroughFailed(e) if e.credential_source.is_none() && e.usage.is_none() => Ok(()),
            PassthroughEvent::PassthroughFailed(e) => self.ended(event, e.into()).await,
        }
    }
}
