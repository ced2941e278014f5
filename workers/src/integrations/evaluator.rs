//! Has models tried (integrations.md §16): the cases of an evaluation are requests to the gateway like any other, in the name of
//! who started it and of the API key that they used, so that keys, models, budgets and usage are theirs; what comes back is
//! graded.
//!
//! Nothing of it is in memory: some cases are asked at the start, and each one that has its grade makes the next one be asked.
//!
//! Error policy: retry for ever. Ids of commands and requests derive from the event or the case: a repetition changes nothing.

mod meaning;

use std::sync::Arc;

use anyhow::Context;
use async_nats::Client;
use async_trait::async_trait;
use serde_json::json;
use symbia_commands::integrations::{
    Benchmark, CHAT, CompleteEvaluation, CompletionCommand, Evaluation, EvaluationCommand, EvaluationPhase,
    FailEvaluation, Grade, Output, RequestCompletion, ScoreCase, TestCase, benchmark, grade, ideal,
};
use symbia_events::{
    AggregateRef, CommandId, Event, KeyRing, Personal, Position, Service, SubjectKey,
    integrations::{
        CaseResult, CompletionCompleted, CompletionContext, CompletionEvent, CompletionFailed, EmbeddingEvent,
        ErrorCategory, EvaluationCaseScored, EvaluationEvent, EvaluationStarted, PromptMessage, PromptOptions,
        Sampling, ToolCall,
    },
};
use symbia_nats::store::{EventStore, StoreOptions};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::router::router;
use crate::{
    content_keys::ContentKeys,
    reactor::{OnError, Reactor},
    sender::Sender,
};

/// Most bytes of what is told of a case for people.
const LONGEST_REASON: usize = 500;

/// Tries models.
pub struct Evaluator {
    client: Client,
    keys: Arc<KeyRing>,
    store: EventStore,
    sender: Sender,
    content_keys: ContentKeys,
}

/// How a case was answered.
#[derive(Default)]
struct Answered {
    request_id: Option<String>,
    text: String,
    calls: Vec<ToolCall>,
    latency_ms: u64,
    input_tokens: u64,
    output_tokens: u64,
    cost_micros: Option<u64>,
}

impl Answered {
    fn of(done: CompletionCompleted, key: &SubjectKey) -> Self {
        let calls = done.tool_calls.as_ref().map(|calls| key.open(calls)).transpose().ok().flatten();
        Answered {
            request_id: Some(done.request_id),
            text: key.open(&done.content).unwrap_or_default(),
            calls: calls.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default(),
            latency_ms: done.timing.total_ms,
            input_tokens: done.usage.prompt_tokens,
            output_tokens: done.usage.completion_tokens,
            cost_micros: done.cost.map(|cost| cost.total_micros),
        }
    }
}

/// A case, and its benchmark.
type Tried = (&'static Benchmark, &'static TestCase);

impl Evaluator {
    /// One over a connection, with the keys of those who have models tried.
    #[must_use]
    pub fn new(client: Client, keys: Arc<KeyRing>, sender: Sender, content_keys: ContentKeys) -> Self {
        let store = EventStore::new(client.clone(), Arc::clone(&keys), &StoreOptions::default());
        Evaluator { client, keys, store, sender, content_keys }
    }

    async fn started(&self, event: &Event, started: &EvaluationStarted) -> anyhow::Result<()> {
        let first = started.cases.iter().take(started.run_config.parallelism.max(1) as usize);
        for case in first {
            self.ask(event, started, &case.id, 1).await?;
        }
        Ok(())
    }

    // The case that comes next, or the end.
    async fn scored(&self, event: &Event, scored: &EvaluationCaseScored) -> anyhow::Result<()> {
        let Some(started) = self.running(&event.aggregate()?).await? else { return Ok(()) };
        if scored.place as usize == started.cases.len() {
            let complete = CompleteEvaluation { evaluation_id: started.evaluation_id.clone() };
            return self.record(event, &started.evaluation_id, complete.into(), "complete").await;
        }
        let next = started.run_config.parallelism.max(1) as usize + scored.place as usize - 1;
        match started.cases.get(next) {
            Some(case) => self.ask(event, &started, &case.id, 1).await,
            None => Ok(()),
        }
    }

    // What an evaluation under way was started with.
    async fn running(&self, to: &AggregateRef) -> anyhow::Result<Option<EvaluationStarted>> {
        let state = self.store.load::<Evaluation>(to).await?.state;
        Ok(state.started().filter(|_| state.phase() == EvaluationPhase::Running).cloned())
    }

    async fn ask(&self, event: &Event, started: &EvaluationStarted, case: &str, tries: u32) -> anyhow::Result<()> {
        let Some((benchmark, case)) = tried(started, case) else {
            let gone = format!("'{}' has no case '{case}' any more", started.benchmark_id);
            return self.fail(event, started, ErrorCategory::NotFound, gone).await;
        };
        let Some(key) = self.content_keys.key(&started.started_by).await? else {
            let gone = "who started it has no key that a prompt could be sealed with".to_owned();
            return self.fail(event, started, ErrorCategory::Auth, gone).await;
        };
        if started.run_config.mock {
            let (text, calls) = ideal(case);
            let grade = grade(case, Output { text: &text, calls: &calls });
            return self
                .score(event, started, case, &key, Answered { text, calls, ..Answered::default() }, grade)
                .await;
        }
        let request = request(started, (benchmark, case), tries, &key)?;
        let to = AggregateRef::new(Service::Integrations, event.orgid.clone(), "completion", &request.request_id)?;
        let id = CommandId::derived(event.id, &format!("ask-{}-{tries}", case.id));
        let outcome = self.sender.send(Some(event), &to, &CompletionCommand::from(request), &router(), id).await?;
        match outcome.rejection {
            // Asked by another worker.
            Some(rejection) if rejection.code != "CONFLICT" => {
                self.unanswered(event, started, case, &rejection.message, None).await
            }
            _ => Ok(()),
        }
    }

    async fn answered(&self, event: &Event, done: CompletionCompleted) -> anyhow::Result<()> {
        if done.context.graded_id.is_some() {
            return self.judged(event, &done).await;
        }
        let Some((started, (benchmark, case))) = self.case_of(event, &done.context).await? else { return Ok(()) };
        let Some(key) = self.content_keys.key(&done.content.kid).await? else {
            return self.unanswered(event, &started, case, "the key of the answer was destroyed", None).await;
        };
        let answered = Answered::of(done, &key);
        if self.looked_at(event, &started, (benchmark, case), &key, &answered).await? {
            return Ok(());
        }
        let grade = grade(case, Output { text: &answered.text, calls: &answered.calls });
        self.score(event, &started, case, &key, answered, grade).await
    }

    async fn failed(&self, event: &Event, failed: CompletionFailed) -> anyhow::Result<()> {
        if failed.context.graded_id.is_some() {
            return self.graded(event, &failed.context, |_, _| Err("no judge answered".to_owned())).await;
        }
        let Some((started, (_, case))) = self.case_of(event, &failed.context).await? else { return Ok(()) };
        let message = self.opened(failed.message.as_ref()).await?;
        let message = message.unwrap_or_else(|| "the model gave no answer".to_owned());
        // What no other case will do better at.
        if matches!(failed.category, ErrorCategory::Auth | ErrorCategory::NotFound | ErrorCategory::Quota) {
            return self.fail(event, &started, failed.category, message).await;
        }
        let retries = started.run_config.retries;
        let tries = (1..=retries).find(|tries| request_id(&started, case, *tries) == failed.request_id);
        match tries.filter(|_| failed.retryable) {
            Some(tries) => self.ask(event, &started, &case.id, tries + 1).await,
            None => self.unanswered(event, &started, case, &message, Some(failed.request_id)).await,
        }
    }

    async fn opened(&self, sealed: Option<&Personal>) -> anyhow::Result<Option<String>> {
        let Some(sealed) = sealed else { return Ok(None) };
        Ok(self.content_keys.key(&sealed.kid).await?.and_then(|key| key.open(sealed).ok()))
    }

    // The case of an evaluation under way that a request is of.
    async fn case_of(
        &self,
        event: &Event,
        context: &CompletionContext,
    ) -> anyhow::Result<Option<(EvaluationStarted, Tried)>> {
        let (Some(evaluation), Some(case)) = (&context.evaluation_id, &context.case_id) else { return Ok(None) };
        let to = AggregateRef::new(Service::Integrations, event.orgid.clone(), "evaluation", evaluation)?;
        let Some(started) = self.running(&to).await? else { return Ok(None) };
        let tried = tried(&started, case).context("a case that is no more")?;
        Ok(Some((started, tried)))
    }

    async fn score(
        &self,
        event: &Event,
        started: &EvaluationStarted,
        case: &TestCase,
        key: &SubjectKey,
        answered: Answered,
        Grade { score, passed, reason }: Grade,
    ) -> anyhow::Result<()> {
        let output = json!({ "content": answered.text, "functionCalls": answered.calls });
        let result = CaseResult {
            test_case_id: case.id.clone(),
            request_id: answered.request_id,
            output: Some(key.seal(&output.to_string())),
            passed,
            score,
            reason: Some(told(&reason)),
            latency_ms: answered.latency_ms,
            input_tokens: answered.input_tokens,
            output_tokens: answered.output_tokens,
            cost_micros: answered.cost_micros,
            error: None,
        };
        self.score_case(event, started, result).await
    }

    async fn unanswered(
        &self,
        event: &Event,
        started: &EvaluationStarted,
        case: &TestCase,
        error: &str,
        request_id: Option<String>,
    ) -> anyhow::Result<()> {
        let result = CaseResult {
            test_case_id: case.id.clone(),
            request_id,
            output: None,
            passed: false,
            score: 0.0,
            reason: None,
            latency_ms: 0,
            input_tokens: 0,
            output_tokens: 0,
            cost_micros: None,
            error: Some(told(error)),
        };
        self.score_case(event, started, result).await
    }

    async fn score_case(&self, event: &Event, started: &EvaluationStarted, result: CaseResult) -> anyhow::Result<()> {
        let purpose = format!("score-{}", result.test_case_id);
        let score = ScoreCase { evaluation_id: started.evaluation_id.clone(), result };
        self.record(event, &started.evaluation_id, score.into(), &purpose).await
    }

    async fn fail(
        &self,
        event: &Event,
        started: &EvaluationStarted,
        category: ErrorCategory,
        message: String,
    ) -> anyhow::Result<()> {
        tracing::info!(evaluation = started.evaluation_id, message, "a model cannot be tried");
        let fail = FailEvaluation { evaluation_id: started.evaluation_id.clone(), category, message: told(&message) };
        self.record(event, &started.evaluation_id, fail.into(), "fail").await
    }

    // What is refused came after the end.
    async fn record(
        &self,
        event: &Event,
        evaluation: &str,
        command: EvaluationCommand,
        purpose: &str,
    ) -> anyhow::Result<()> {
        let to = AggregateRef::new(Service::Integrations, event.orgid.clone(), "evaluation", evaluation)?;
        let id = CommandId::derived(event.id, purpose);
        let outcome = self.sender.send(Some(event), &to, &command, &router(), id).await?;
        if let Some(rejection) = outcome.rejection {
            tracing::debug!(%to, purpose, %rejection, "not recorded");
        }
        Ok(())
    }
}

fn tried(started: &EvaluationStarted, case: &str) -> Option<Tried> {
    let benchmark = benchmark(&started.benchmark_id)?;
    Some((benchmark, benchmark.case(case)?))
}

fn told(text: &str) -> String {
    let end = (0..=LONGEST_REASON.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}

// The same for whoever asks, so that a case is asked once.
fn request_id(started: &EvaluationStarted, case: &TestCase, tries: u32) -> String {
    let name = json!(["evaluation", started.evaluation_id, case.id, tries]).to_string();
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string()
}

fn request(
    started: &EvaluationStarted,
    (benchmark, case): Tried,
    tries: u32,
    key: &SubjectKey,
) -> anyhow::Result<RequestCompletion> {
    let said = benchmark.messages(case);
    let texts: Vec<&str> = said.iter().map(|(_, text)| text.as_str()).collect();
    let options = PromptOptions { tools: benchmark.tools(case).to_vec(), ..PromptOptions::default() };
    let options = (!options.is_empty()).then(|| serde_json::to_string(&options)).transpose()?;
    let config = &started.run_config;
    let deadline = OffsetDateTime::now_utc() + std::time::Duration::from_millis(config.timeout_ms);
    Ok(RequestCompletion {
        request_id: request_id(started, case, tries),
        provider: Some(started.provider.clone()),
        model: Some(started.model_id.clone()),
        operation: CHAT.to_owned(),
        messages: said.iter().map(|(role, text)| PromptMessage::text(*role, key.seal(text))).collect(),
        sampling: Sampling {
            temperature: config.temperature,
            max_tokens: config.max_tokens,
            seed: config.seed,
            ..Sampling::default()
        },
        stream: false,
        credential_id: None,
        idempotency_key: None,
        deadline: Some(deadline.format(&Rfc3339)?),
        context: CompletionContext {
            user_id: Some(started.started_by.clone()),
            key_id: started.key_id.clone(),
            evaluation_id: Some(started.evaluation_id.clone()),
            case_id: Some(case.id.clone()),
            ..CompletionContext::default()
        },
        prompt_digest: key.digest(&json!(texts).to_string()),
        options: options.map(|options| key.seal(&options)),
        fallbacks: Vec::new(),
    })
}

#[async_trait]
impl Reactor for Evaluator {
    fn name(&self) -> &'static str {
        "evaluator"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(Service::Integrations, &["*.evaluation.*", "*.completion.*", "*.embedding.*"])]
    }

    fn acts_on(&self) -> &'static [&'static str] {
        // Of completions and embeddings those that are of a case.
        &["\"evaluationId\":\""]
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    async fn react(&self, event: &Event, _at: Position) -> anyhow::Result<()> {
        if event.aggregatetype == "evaluation" {
            return match event.decode()? {
                EvaluationEvent::EvaluationStarted(e) => self.started(event, &e).await,
                EvaluationEvent::EvaluationCaseScored(e) => self.scored(event, &e).await,
                _ => Ok(()),
            };
        }
        if event.aggregatetype == "embedding" {
            return match event.decode()? {
                EmbeddingEvent::EmbeddingCompleted(e) if e.context.graded_id.is_some() => {
                    self.measured(event, &e).await
                }
                EmbeddingEvent::EmbeddingFailed(e) => self.unmeasured(event, &e).await,
                _ => Ok(()),
            };
        }
        match event.decode()? {
            CompletionEvent::CompletionCompleted(e) => self.answered(event, e).await,
            CompletionEvent::CompletionFailed(e) => self.failed(event, e).await,
            CompletionEvent::CompletionCancelled(e) if e.context.graded_id.is_some() => {
                self.graded(event, &e.context, |_, _| Err("the judge was stopped".to_owned())).await
            }
            CompletionEvent::CompletionCancelled(e) => {
                let Some((started, (_, case))) = self.case_of(event, &e.context).await? else { return Ok(()) };
                self.unanswered(event, &started, case, "it was cancelled", Some(e.request_id)).await
            }
            _ => Ok(()),
        }
    }
}
