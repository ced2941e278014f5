//! Calls operations of the registry: recorded before it is done, and exactly one end after it.
//!
//! Error policy: retry for ever. A worker that dies in a call leaves an attempt without an end; who takes over repeats what may
//! be repeated, and fails the rest.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use reqwest::{
    StatusCode,
    header::{HeaderName, HeaderValue},
};
use serde_json::Value;
use symbia_commands::{
    Actor, Outcome,
    integrations::{CompleteInvocation, FailInvocation, InvocationCommand, MAX_INVOKED, StartInvocation},
};
use symbia_egress::{Egress, Request, mcp::McpServer};
use symbia_events::{
    CommandId, Event, Position, Service, SubjectKey,
    integrations::{
        ErrorCategory, IntegrationRetry, InvocationEvent, InvocationInput, InvocationRequested, McpTool, Operation,
    },
};
use symbia_projections::{ReadPool, Scope, integrations as model};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::Instant;

use super::{
    Vault,
    frequency::{CallLimits, Counted, Held, tokens},
};
use crate::{
    content_keys::ContentKeys,
    egress_policies::WayOut,
    integrations::{
        accounts::{Asker, Lease},
        provider::{Fault, not_looked_up},
    },
    reactor::{OnError, Reactor},
    sender::Sender,
};

/// How long a call may take that names no deadline.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest answer; sealed, it must fit into an event.
const MOST: usize = MAX_INVOKED / 2;
/// Methods that may be repeated (RFC 9110 §9.2.2).
const IDEMPOTENT: [&str; 5] = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"];

/// The reactor.
pub struct Invoker {
    sender: Sender,
    content_keys: ContentKeys,
    reader: ReadPool,
    egress: WayOut,
    vault: Arc<dyn Vault>,
    limits: CallLimits,
}

/// What is to be called, and with what.
struct Call {
    integration: model::Integration,
    operation: Operation,
    input: InvocationInput,
}

/// An answer.
struct Answer {
    kind: &'static str,
    status: Option<StatusCode>,
    success: bool,
    data: Value,
}

/// One invocation in hand.
struct Work<'a> {
    invoker: &'a Invoker,
    event: &'a Event,
    request: &'a InvocationRequested,
    deadline: Instant,
}

impl Invoker {
    /// Looks operations up in the read model, and keys in the vault.
    #[must_use]
    pub fn new(
        sender: Sender,
        content_keys: ContentKeys,
        reader: ReadPool,
        egress: WayOut,
        vault: Arc<dyn Vault>,
        limits: CallLimits,
    ) -> Self {
        Invoker { sender, content_keys, reader, egress, vault, limits }
    }
}

fn fault(category: ErrorCategory, code: &str, text: impl Into<String>) -> Fault {
    Fault::new(category, code, text)
}

impl Work<'_> {
    async fn run(&self) -> anyhow::Result<()> {
        let key = self.invoker.content_keys.key(&self.request.input.kid).await?;
        let opened = key.as_ref().and_then(|key| key.open(&self.request.input).ok());
        let (Some(key), Some(input)) = (key, opened) else {
            let text = "the key that the input was sealed with was destroyed: it cannot be read";
            return self.failed(&fault(ErrorCategory::NotFound, "key_destroyed", text), None).await;
        };
        let ended = match serde_json::from_str(&input) {
            Ok(input) => match self.found(input).await? {
                Ok(call) => self.counted(&call).await?,
                Err(fault) => Err(fault),
            },
            Err(error) => Err(fault(ErrorCategory::Validation, "invalid_input", format!("input: {error}"))),
        };
        match ended {
            Ok(Some(answer)) => self.completed(answer, &key).await,
            // Somebody else has given it its end.
            Ok(None) => Ok(()),
            Err(fault) => self.failed(&fault, Some(&key)).await,
        }
    }

    // Of the organization whose event it is: what another one registered is not there.
    async fn found(&self, input: InvocationInput) -> anyhow::Result<Result<Call, Fault>> {
        let (key, id) = (&self.request.integration_key, &self.request.operation_id);
        let mut tx = self.invoker.reader.read(&Scope::platform()).await?;
        let found = model::integration(&mut tx, self.event.orgid.as_str(), key).await?;
        drop(tx);
        let Some(mut integration) = found.filter(|integration| !integration.operations.is_empty()) else {
            let text = format!("no integration '{key}' is registered, or it is not known yet what it can do");
            return Ok(Err(fault(ErrorCategory::NotFound, "no_integration", text)));
        };
        let operations = std::mem::take(&mut integration.operations.0);
        let operation = operations.into_iter().find(|operation| operation.id == *id);
        Ok(operation.map(|operation| Call { integration, operation, input }).ok_or_else(|| {
            fault(ErrorCategory::NotFound, "no_operation", format!("integration '{key}' has no operation '{id}'"))
        }))
    }

    // What is sent, and the key that goes along.
    async fn prepared(&self, call: &Call) -> anyhow::Result<Result<(Request, Option<Lease>), Fault>> {
        let server = call.integration.server_url.as_deref().unwrap_or_default();
        let built = match call.operation.mcp_tool {
            Some(_) => Request::to(server),
            None => Request::new(server, &call.operation, &call.input),
        };
        let request = match built {
            Ok(request) => request,
            Err(invalid) => return Ok(Err(invalid.into())),
        };
        let auth = &call.integration.auth;
        let Some(provider) = auth.credential_key(&call.integration.key) else { return Ok(Ok((request, None))) };
        let principal = self.request.user_id.as_deref().unwrap_or(&self.request.requested_by);
        let asker = Asker { org: self.event.orgid.as_str(), principal, assistant: None, key: None };
        let lending = self.invoker.vault.lend(&asker, provider, &request.url).await?;
        let lease = match lending.or_fault(provider, &request.url) {
            Ok(lease) => lease,
            Err(fault) => return Ok(Err(fault)),
        };
        let keyed = request.with_key(auth, lease.key.reveal());
        Ok(keyed.map(|request| (request, Some(lease))).map_err(Fault::from))
    }

    // Limits are drawn from before a key is lent. What is tried again within a call is one call.
    async fn counted(&self, call: &Call) -> anyhow::Result<Result<Option<Answer>, Fault>> {
        let counted = Counted {
            org: self.event.orgid.as_str(),
            integration: &call.integration,
            operation: &call.operation.id,
            request: &self.request.request_id,
            deadline: self.deadline,
        };
        let limits = &self.invoker.limits;
        let held = match limits.enter(&counted).await {
            Ok(held) => held,
            Err(fault) => return Ok(Err(fault)),
        };
        let drawn = match limits.draw(&counted).await {
            Ok(drawn) => drawn,
            Err(fault) => {
                held.leave().await;
                return Ok(Err(fault));
            }
        };
        let ended = self.answered(call, &counted, held).await;
        let tokens = match &ended {
            Ok(Ok(Some(answer))) => tokens(&call.input, &answer.data),
            _ => 0,
        };
        limits.settle(drawn, tokens).await;
        ended
    }

    // None: another worker has ended it.
    async fn answered(
        &self,
        call: &Call,
        counted: &Counted<'_>,
        mut held: Held,
    ) -> anyhow::Result<Result<Option<Answer>, Fault>> {
        let (request, lease) = match self.prepared(call).await? {
            Ok(prepared) => prepared,
            Err(fault) => return Ok(Err(fault)),
        };
        let (tool, host) = (call.operation.mcp_tool.as_ref(), request.url.host_str().unwrap_or_default());
        let method = call.operation.method.as_deref().unwrap_or("POST");
        let repeatable = tool.map_or(IDEMPOTENT.contains(&method), |tool| tool.resource.is_some());
        let retry = call.integration.retry.as_ref().map_or(NO_RETRY, |retry| retry.0);
        let mut attempt = 0_i32;
        loop {
            attempt += 1;
            let started = self.start(call, attempt, host, lease.as_ref()).await?;
            if started.rejection.is_some() {
                return Ok(Ok(None));
            }
            if started.repeated && !repeatable {
                let text =
                    "the worker that made the call was lost; whether it was done is not known, so it is not repeated";
                return Ok(Err(fault(ErrorCategory::Internal, "worker_lost", text)));
            }
            let answer = match tool {
                Some(tool) => self.run_tool(&request, tool, call).await,
                None => self.call(&request).await,
            };
            held.leave().await;
            let passing = match &answer {
                Ok(answer) => answer.status.is_some_and(|status| status == 429 || status.is_server_error()),
                Err(fault) => fault.category.is_retryable(),
            };
            let pause = retry.backoff_ms as f64 * retry.backoff_multiplier.powi(attempt - 1);
            let pause = Duration::try_from_secs_f64(pause / 1000.0).unwrap_or(Duration::MAX);
            let left = self.deadline.saturating_duration_since(Instant::now());
            if !passing || !repeatable || attempt.unsigned_abs() > retry.max_retries || pause >= left {
                return Ok(answer.map(Some));
            }
            tokio::time::sleep(pause).await;
            // Others may have had its place meanwhile.
            held = match self.invoker.limits.enter_again(counted).await {
                Some(held) => held,
                None => return Ok(answer.map(Some)),
            };
        }
    }

    async fn call(&self, request: &Request) -> Result<Answer, Fault> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let reply = self.egress().await?.fetch(request.errand(left, MOST)).await?;
        let (status, data) = (Some(reply.status), reply.data());
        Ok(Answer { kind: "api-call", status, success: reply.status.is_success(), data })
    }

    // As the organization's policy has it at this moment.
    async fn egress(&self) -> Result<Egress, Fault> {
        self.invoker.egress.of(self.event.orgid.as_str()).await.map_err(|error| not_looked_up(&error))
    }

    async fn run_tool(&self, request: &Request, tool: &McpTool, call: &Call) -> Result<Answer, Fault> {
        let mut arguments = call.input.params.clone();
        match &call.input.body {
            Value::Object(body) => arguments.extend(body.clone()),
            Value::Null => {}
            _ => return Err(fault(ErrorCategory::Validation, "invalid_input", "body: must be the tool's arguments")),
        }
        let egress = self.egress().await?;
        let server = McpServer {
            egress: &egress,
            url: request.url.clone(),
            headers: request.headers.clone().into_iter().filter_map(sensitive).collect(),
            patience: self.deadline.saturating_duration_since(Instant::now()),
        };
        if let Some(uri) = &tool.resource {
            let data = server.resource(uri).await?;
            return Ok(Answer { kind: "mcp-resource", status: None, success: true, data });
        }
        if tool.prompt {
            let data = server.prompt(&tool.name, arguments).await?;
            return Ok(Answer { kind: "mcp-prompt", status: None, success: true, data });
        }
        let data = server.call(&tool.name, arguments).await?;
        Ok(Answer { kind: "mcp-tool", status: None, success: data["isError"] != true, data })
    }

    async fn start(&self, call: &Call, attempt: i32, host: &str, lease: Option<&Lease>) -> anyhow::Result<Outcome> {
        let source = match lease {
            Some(lease) if lease.is_proxy => "org-wide",
            Some(_) => "personal",
            None => "none",
        };
        let start = StartInvocation {
            request_id: self.request.request_id.clone(),
            version: call.integration.version.unsigned_abs(),
            host: host.to_owned(),
            credential_id: lease.map(|lease| lease.credential_id.clone()),
            credential_source: source.to_owned(),
        };
        self.send(start.into(), &format!("start {attempt}")).await
    }

    async fn completed(&self, answer: Answer, key: &SubjectKey) -> anyhow::Result<()> {
        let text = answer.data.to_string();
        let complete = CompleteInvocation {
            request_id: self.request.request_id.clone(),
            kind: answer.kind.to_owned(),
            status_code: answer.status.map(|status| status.as_u16()),
            success: answer.success,
            response: key.seal(&text),
            response_digest: key.digest(&text),
            duration_ms: self.took(),
        };
        let outcome = self.send(complete.into(), "completed").await?;
        match outcome.rejection {
            Some(rejection) if rejection.code == "TOO_LARGE" => {
                let text = format!("its answer is too long to be kept: {}", rejection.message);
                self.failed(&fault(ErrorCategory::Provider, "too_long", text), Some(key)).await
            }
            _ => Ok(()),
        }
    }

    async fn failed(&self, fault: &Fault, key: Option<&SubjectKey>) -> anyhow::Result<()> {
        tracing::info!(request = self.request.request_id, %fault, "an operation was not called, or did not answer");
        let fail = FailInvocation {
            request_id: self.request.request_id.clone(),
            category: fault.category,
            code: fault.code.clone().unwrap_or_default(),
            message: key.map(|key| key.seal(&fault.message)),
            duration_ms: self.took(),
            retry_after_ms: fault.retry_after.and_then(|wait| u64::try_from(wait.as_millis()).ok()),
        };
        self.send(fail.into(), "failed").await.map(|_| ())
    }

    async fn send(&self, command: InvocationCommand, purpose: &str) -> anyhow::Result<Outcome> {
        let (id, by) = (CommandId::derived(self.event.id, purpose), Actor::service("integrations"));
        Ok(self.invoker.sender.send(Some(self.event), &self.event.aggregate()?, &command, &by, id).await?)
    }

    fn took(&self) -> u64 {
        u64::try_from((OffsetDateTime::now_utc() - self.event.time).whole_milliseconds()).unwrap_or(0)
    }
}

// A session's requests are of the library's making; what is added is the key.
fn sensitive((name, value): (Option<HeaderName>, HeaderValue)) -> Option<(HeaderName, HeaderValue)> {
    Some((name?, value)).filter(|(_, value)| value.is_sensitive())
}

const NO_RETRY: IntegrationRetry = IntegrationRetry { max_retries: 0, backoff_ms: 0, backoff_multiplier: 1.0 };

#[async_trait]
impl Reactor for Invoker {
    fn name(&self) -> &'static str {
        "invoker"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(Service::Integrations, &["*.invocation.*"])]
    }

    fn acts_on(&self) -> &'static [&'static str] {
        &["symbia.integrations.invocation.invocation-requested."]
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    async fn react(&self, event: &Event, _at: Position) -> anyhow::Result<()> {
        let InvocationEvent::InvocationRequested(request) = event.decode()? else { return Ok(()) };
        let named = request.deadline.as_deref().and_then(|d| OffsetDateTime::parse(d, &Rfc3339).ok());
        let left = named.map_or(PATIENCE, |at| (at - OffsetDateTime::now_utc()).try_into().unwrap_or(Duration::ZERO));
        let work = Work { invoker: self, event, request: &request, deadline: Instant::now() + left };
        work.run().await
    }
}
