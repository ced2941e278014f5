//! The LLM router worker: takes a requested completion, asks a provider, and records exactly one end.
//!
//! Intent before act: `CompletionAttemptStarted` is in the log before a provider is asked. When this process dies, the
//! request comes to a router again; it finds an attempt without an end, records it as lost and starts the next one, and
//! readers of the live stream are told (`message:reset`). What a provider fails at is recorded, too, and tried again, there
//! or elsewhere, as [`super::retry`] has it.
//!
//! A request that is decided in the router's own process does not go round by the log ([`super::taking`]).
//!
//! Error policy: retry for ever. Every round trip begins with a look at how many attempts there were; beyond
//! [`RouterOptions::attempts`] the completion fails.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::Client;
use async_trait::async_trait;
use symbia_commands::{
    Actor,
    integrations::{CompletionCommand, FailCompletion, Guards, may_ask, names_route},
};
use symbia_events::{
    AggregateRef, CommandId, Event, KeyRing, Personal, Position, Service, SubjectKey,
    integrations::{
        Balance, CompletionEvent, CompletionRequested, ErrorCategory, GuardrailFinding, Hedge, PromptMessage,
        PromptMore, PromptOptions, PromptRole, Sampling, Target,
    },
    messaging::conversation_key_of,
};
use symbia_nats::{
    limits::Limits,
    pictures::Pictures,
    store::{EventStore, StoreOptions},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    accounts::{Accounts, Asker, Lease, NoAccounts, OrgTerms},
    admission::Admission,
    answers::Answers,
    balance::Standings,
    circuits::Lines,
    guarding::{blocked, screen_prompt},
    meaning::Meaning,
    pictures::bring,
    precedence::Precedence,
    provider::{Fault, Providers, Turn},
    quotas::Quotas,
    rates::Rates,
    refusals::Refusals,
    retry::{RetryOptions, next_of},
    routes::{Candidate, Chooser},
    running::Running,
};
use crate::{
    content_keys::{ContentKeys, Opener, kids},
    reactor::{OnError, Reactor},
    sender::Sender,
};

/// How a router is set up.
#[derive(Clone, Debug)]
pub struct RouterOptions {
    /// Name of this worker in events.
    pub worker_id: String,
    /// Attempts of a completion whose worker got lost each time.
    pub attempts: u32,
    /// Longest time for a completion that names no deadline.
    pub timeout: Duration,
    /// What follows a failed attempt.
    pub retry: RetryOptions,
    /// Who goes first: the same for all routers of a process.
    pub precedence: Precedence,
}

/// Lines of batches that are asked at a time, when nothing else is said.
pub const BATCH_LINES: u32 = 4;
/// Longest time for a line of a batch, from its turn.
pub(super) const LINE_TAKES: Duration = Duration::from_secs(10 * 60);

impl Default for RouterOptions {
    fn default() -> Self {
        let worker_id = format!("llm-router-{}", Uuid::new_v4().simple());
        let (timeout, retry) = (Duration::from_secs(120), RetryOptions::default());
        RouterOptions { worker_id, attempts: 5, timeout, retry, precedence: Precedence::new(BATCH_LINES) }
    }
}

/// The LLM router.
pub struct LlmRouter {
    pub(super) client: Client,
    pub(super) store: EventStore,
    pub(super) sender: Sender,
    content_keys: ContentKeys,
    providers: Providers,
    pub(super) accounts: Arc<dyn Accounts>,
    pub(super) lines: Lines,
    pub(super) rates: Rates,
    pub(super) standings: Standings,
    pub(super) quotas: Quotas,
    pub(super) keys: Arc<KeyRing>,
    pub(super) answers: Answers,
    pictures: Pictures,
    pub(super) options: RouterOptions,
    pub(super) running: Running,
}

/// Whom to ask, and for which model, in order; one at least.
pub(super) type Targets = Vec<Candidate>;

/// A request that was opened: what is asked, and of whom.
pub(super) struct Asked {
    pub turns: Vec<Turn>,
    pub options: PromptOptions,
    pub sampling: Sampling,
    pub key: SubjectKey,
    pub targets: Targets,
    /// Whether budgets count it.
    pub is_counted: bool,
    /// What looks at its answer.
    pub guards: Option<Arc<Guards>>,
    /// What guardrails found in it.
    pub guarded: Vec<GuardrailFinding>,
}

impl Asked {
    // Leaves those that are asked when a limit refuses the others, as if nothing else had been named; false when there are none.
    fn falls_back(&mut self, fault: &Fault) -> bool {
        let only =
            |target: &Candidate| target.after.is_some() && next_of([target.after].into_iter(), fault, false).is_some();
        if !self.targets.iter().any(only) {
            return false;
        }
        self.targets.retain(only);
        self.targets.iter_mut().for_each(|target| target.after = None);
        true
    }
}

/// Why a request cannot be made, what that is sealed with, and what guardrails found in it.
pub(super) struct Refusal(Fault, Option<SubjectKey>, Vec<GuardrailFinding>);

impl Refusal {
    fn new(fault: Fault, key: Option<SubjectKey>) -> Self {
        Refusal(fault, key, Vec::new())
    }
}

/// What is the same for all attempts of a completion.
pub(super) struct Work<'a> {
    pub event: &'a Event,
    pub request: &'a CompletionRequested,
    pub to: AggregateRef,
    pub asked: Asked,
    pub deadline: Instant,
    pub cancelled: CancellationToken,
    /// Tells the attempts of this round from those of another worker.
    pub round: Uuid,
    /// Tokens that it took, and those of attempts that were given up.
    pub spent: AtomicU64,
    pub lost: AtomicU64,
    /// What its last message means, where answers to others of that meaning would do.
    pub meaning: OnceLock<Meaning>,
    /// Whether two attempts may be made side by side, and whether they were.
    pub hedges: AtomicBool,
    pub raced: AtomicBool,
    /// The budgets that count the second of them alone.
    pub beside: OnceLock<Vec<String>>,
    /// The budgets that count it as long as it is under way.
    pub places: OnceLock<Vec<String>>,
}

impl Work<'_> {
    /// When another target is asked besides the first.
    pub fn hedge(&self) -> Option<Hedge> {
        self.asked.options.hedge.or(self.asked.targets.first()?.hedge)
    }

    /// The target that is asked then: the next in turn.
    pub fn rival(&self) -> Option<usize> {
        self.hedge()?;
        self.asked.targets.get(1).filter(|target| target.after.is_none()).map(|_| 1)
    }

    pub fn asker(&self) -> Asker<'_> {
        asker(self.event.orgid.as_str(), self.request)
    }
}

/// Whose request it is.
pub(super) fn asker<'a>(org: &'a str, request: &'a CompletionRequested) -> Asker<'a> {
    let context = &request.context;
    Asker {
        org,
        principal: context.user_id.as_deref().unwrap_or(&request.requested_by),
        assistant: context.assistant_id.as_deref(),
        key: context.key_id.as_deref(),
    }
}

impl LlmRouter {
    /// A router over a connection; it hears of cancellations from now on.
    pub async fn open(
        client: Client,
        keys: Arc<KeyRing>,
        sender: Sender,
        content_keys: ContentKeys,
        providers: Providers,
        options: RouterOptions,
    ) -> Result<Self, async_nats::SubscribeError> {
        let running = Running::open(&client, &keys, &options.worker_id).await?;
        let lines = Lines::open(&client, Arc::clone(&keys), sender.clone(), options.retry.clone()).await?;
        let store = EventStore::new(client.clone(), Arc::clone(&keys), &StoreOptions::default());
        let accounts = Arc::new(NoAccounts);
        let rates = Rates::new(Limits::new(client.clone()), Refusals::new(sender.clone()));
        let (standings, quotas) = (Standings::default(), Quotas::new(client.clone()));
        let answers = Answers::new(client.clone(), Arc::clone(&keys), content_keys.clone());
        let pictures = Pictures::new(client.clone());
        Ok(LlmRouter {
            client,
            store,
            sender,
            content_keys,
            providers,
            accounts,
            lines,
            rates,
            standings,
            quotas,
            keys,
            answers,
            pictures,
            options,
            running,
        })
    }

    /// The same with keys, budgets and prices.
    #[must_use]
    pub fn with_accounts(self, accounts: Arc<dyn Accounts>) -> Self {
        LlmRouter { accounts, ..self }
    }

    /// Opens a request, and looks up whom to ask.
    pub(super) async fn asked(
        &self,
        org: &str,
        request: &CompletionRequested,
    ) -> anyhow::Result<Result<Asked, Refusal>> {
        let more = request.messages.iter().filter_map(|message| message.more.as_ref());
        let sealed = request.messages.iter().map(|m| &m.content).chain(more).chain(&request.options);
        let opener = self.content_keys.opener(kids(sealed)).await?;
        let kid = request.messages.first().map_or("", |m| m.content.kid.as_str());
        // What is answered in a conversation is the conversation's, whoever asked.
        let kid = if request.context.conversation_id.is_some() { conversation_key_of(kid) } else { kid };
        let Some(key) = self.content_keys.key(kid).await? else { return Ok(Err(Refusal::new(erased(), None))) };
        let (mut turns, mut options) = match opened(&opener, &request.messages, request.options.as_ref()) {
            Ok(opened) => opened,
            Err(fault) => return Ok(Err(Refusal::new(fault, Some(key)))),
        };
        let OrgTerms { budgets, guards } = self.accounts.terms(org).await?;
        let (mut sampling, mut guarded) = (request.sampling.clone(), Vec::new());
        if let Some(guards) = &guards {
            guarded = screen_prompt(guards, &mut turns, &mut options, &mut sampling);
            if let Some(fault) = blocked(&guarded, "prompt") {
                return Ok(Err(Refusal(fault, Some(key), guarded)));
            }
        }
        if let Err(fault) = bring(&self.pictures, (org, &opener), &request.messages, &mut turns).await? {
            return Ok(Err(Refusal::new(fault, Some(key))));
        }
        let targets = match self.targets(org, request, (&turns, options.balance.as_ref())).await? {
            Ok(targets) => targets,
            Err(fault) => return Ok(Err(Refusal::new(fault, Some(key)))),
        };
        if let Some(fault) = not_allowed(&*self.accounts, &asker(org, request), &targets).await? {
            return Ok(Err(Refusal::new(fault, Some(key))));
        }
        Ok(Ok(Asked { turns, options, sampling, key, targets, is_counted: !budgets.is_empty(), guards, guarded }))
    }

    /// Sees a request through. `begun`: its first attempt is in the log, with this key.
    pub(super) async fn work_on(
        &self,
        event: &Event,
        request: &CompletionRequested,
        cancelled: CancellationToken,
        asked: Option<Asked>,
        begun: Option<Option<Lease>>,
    ) -> anyhow::Result<()> {
        let to = event.aggregate()?;
        let asked = match asked {
            Some(asked) => asked,
            None => match self.asked(event.orgid.as_str(), request).await? {
                Ok(asked) => asked,
                Err(refusal) => return self.refuse(event, &to, request, refusal).await,
            },
        };
        // Lines of batches have waited for their turn before.
        let _ahead = request.context.batch_id.is_none().then(|| self.options.precedence.ahead());
        let left = self.time_left(request);
        let left = if request.context.batch_id.is_some() { left.min(LINE_TAKES) } else { left };
        let deadline = Instant::now() + left;
        let (round, spent, lost) = (Uuid::new_v4(), AtomicU64::new(0), AtomicU64::new(0));
        let (hedges, raced) = (AtomicBool::new(true), AtomicBool::new(false));
        let (meaning, beside, places) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        let mut work = Work {
            event,
            request,
            to,
            asked,
            deadline,
            cancelled,
            round,
            spent,
            lost,
            meaning,
            hedges,
            raced,
            beside,
            places,
        };
        if begun.is_some() {
            return self.work(&work, begun).await;
        }
        // Whoever was answered before is not asked again, and nothing is spent.
        if let Some(question) = self.answers.question(&work)
            && let Some((answer, by)) = self.found(&work, &question).await
            && self.again(&work, answer, &by).await?
        {
            return Ok(());
        }
        let admission = match self.admit(&work).await? {
            Admission::Refused(fault) if work.asked.falls_back(&fault) => self.admit(&work).await?,
            admission => admission,
        };
        match admission {
            Admission::Granted(charged) => {
                let done = self.work(&work, None).await;
                let spent = work.spent.load(Ordering::Relaxed) + work.lost.load(Ordering::Relaxed);
                self.rates.settle(charged, Some(spent)).await;
                done
            }
            Admission::Over => Ok(()),
            Admission::Refused(fault) => {
                let Work { to, asked: Asked { key, guarded, .. }, .. } = work;
                self.refuse(event, &to, request, Refusal(fault, Some(key), guarded)).await
            }
        }
    }

    async fn targets(
        &self,
        org: &str,
        request: &CompletionRequested,
        (turns, balance): (&[Turn], Option<&Balance>),
    ) -> anyhow::Result<Result<Targets, Fault>> {
        let conversation = || conversation(request, turns);
        let asked = Target { provider: request.provider.clone(), model: request.model.clone() };
        let chooser = Chooser {
            providers: &self.providers,
            accounts: &*self.accounts,
            standings: &self.standings,
            usual: |provider| provider.default_model().to_owned(),
            able: None,
            conversation: &conversation,
        };
        chooser.choose(org, &asked, &request.fallbacks, balance).await
    }

    // A completion that no attempt can be made for.
    async fn refuse(
        &self,
        event: &Event,
        to: &AggregateRef,
        request: &CompletionRequested,
        Refusal(fault, key, guarded): Refusal,
    ) -> anyhow::Result<()> {
        tracing::warn!(request = request.request_id, %fault, "completion refused");
        let failed = self.failed(request, None, &fault, key.as_ref());
        let failed = CompletionCommand::from(FailCompletion { guarded, ..failed });
        let id = CommandId::derived(event.id, "refused");
        self.sender.send(Some(event), to, &failed, &router(), id).await?;
        Ok(())
    }

    pub(super) fn failed(
        &self,
        request: &CompletionRequested,
        attempt: Option<u32>,
        fault: &Fault,
        key: Option<&SubjectKey>,
    ) -> FailCompletion {
        FailCompletion {
            request_id: request.request_id.clone(),
            attempt,
            category: fault.category,
            code: fault.code.clone(),
            message: key.map(|key| key.seal(&fault.message)),
            upstream: fault.upstream.as_deref().cloned(),
            partial_content: None,
            usage: None,
            retry_after_ms: fault.retry_after_ms(),
            cost: None,
            guarded: Vec::new(),
        }
    }

    fn time_left(&self, request: &CompletionRequested) -> Duration {
        let named = request.deadline.as_deref().and_then(|d| OffsetDateTime::parse(d, &Rfc3339).ok());
        named.map_or(self.options.timeout, |at| (at - OffsetDateTime::now_utc()).try_into().unwrap_or(Duration::ZERO))
    }
}

#[async_trait]
impl Reactor for LlmRouter {
    fn name(&self) -> &'static str {
        "llm-router"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(Service::Integrations, &["*.completion.*"])]
    }

    fn acts_on(&self) -> &'static [&'static str] {
        &["symbia.integrations.completion.completion-requested."]
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(3)
    }

    async fn react(&self, event: &Event, _at: Position) -> anyhow::Result<()> {
        // The first event of a completion; what follows it is mostly our own.
        if event.aggregateversion > 1 {
            return Ok(());
        }
        match event.decode()? {
            // Lines of batches wait for their turn.
            CompletionEvent::CompletionRequested(request) if request.context.batch_id.is_none() => {
                let Some(registered) = self.running.begin_after(&request.request_id).await else { return Ok(()) };
                self.work_on(event, &request, registered.cancelled(), None, None).await?;
                registered.done();
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Why a request must not be made: its API key does not reach a model.
pub(super) async fn not_allowed(
    accounts: &dyn Accounts,
    asker: &Asker<'_>,
    targets: &[Candidate],
) -> anyhow::Result<Option<Fault>> {
    let Some(key) = asker.key else { return Ok(None) };
    let Some(scopes) = accounts.scopes(key).await? else { return Ok(Some(key_gone())) };
    let reached = |target: &&Candidate| {
        let by_name = target.alias.as_deref().is_some_and(|alias| names_route(&scopes, alias));
        by_name || may_ask(&scopes, target.provider.key(), &target.model)
    };
    let foreign = targets.iter().find(|target| !reached(target));
    Ok(foreign.map(|target| {
        let message = format!("this API key may not ask '{}': its scopes name other models", target.name());
        Fault::new(ErrorCategory::Auth, "model_not_allowed", message)
    }))
}

/// The API key that a request was made with is not accepted any more: nothing is spent in its name.
pub(super) fn key_gone() -> Fault {
    let message = "the API key of this request was revoked or deleted, or has expired: ask again with another one";
    Fault::new(ErrorCategory::Auth, "key_gone", message)
}

// What is the same for all requests of a conversation: its id, or who asks and how it began.
fn conversation(request: &CompletionRequested, turns: &[Turn]) -> String {
    if let Some(id) = &request.context.conversation_id {
        return id.clone();
    }
    let first = turns.iter().position(|turn| turn.role == PromptRole::User).unwrap_or(0);
    let begun: Vec<&str> = turns.iter().take(first + 1).map(|turn| turn.content.as_str()).collect();
    serde_json::json!([request.requested_by, begun]).to_string()
}

/// In whose name the router works.
pub(super) fn router() -> Actor {
    Actor::service("integrations")
}

/// What is sealed cannot be read any more.
pub(super) fn erased() -> Fault {
    let message = "the key that the prompt was sealed with was destroyed: it cannot be read";
    Fault::new(ErrorCategory::NotFound, "key_destroyed", message)
}

/// What was sealed, in clear.
pub(super) fn opened(
    opener: &Opener,
    messages: &[PromptMessage],
    options: Option<&Personal>,
) -> Result<(Vec<Turn>, PromptOptions), Fault> {
    let unreadable = |e: serde_json::Error| {
        Fault::new(ErrorCategory::Validation, "request_refused", format!("the prompt's tools or parts: {e}"))
    };
    let mut turns = Vec::with_capacity(messages.len());
    for message in messages {
        let content = opener.open(&message.content).map_err(|_| erased())?;
        let more = message.more.as_ref().map(|more| opener.open(more)).transpose().map_err(|_| erased())?;
        let more: PromptMore =
            more.map(|json| serde_json::from_str(&json)).transpose().map_err(unreadable)?.unwrap_or_default();
        let (parts, tool_calls, tool_call_id) = (more.parts, more.tool_calls, more.tool_call_id);
        turns.push(Turn { role: message.role, content, name: message.name.clone(), parts, tool_calls, tool_call_id });
    }
    let options = options.map(|options| opener.open(options)).transpose().map_err(|_| erased())?;
    let options = options.map(|json| serde_json::from_str(&json)).transpose().map_err(unreadable)?.unwrap_or_default();
    Ok((turns, options))
}
