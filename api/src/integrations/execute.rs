//! `POST /api/integrations/execute`: any provider by one shape of request and answer (integrations.md §3.2, §3.3, §6), and its
//! stream (§19).

use axum::{
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response, sse::Event},
};
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_commands::integrations::{CHAT, DESCRIPTION};
use symbia_events::integrations::{AnswerChoice, Hedge, PromptRole, Sampling, Target, ToolCall};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{
    Integrations,
    ask::{Asked, Message, Question, Tagged},
    chat::{Caching, ChatRequest, Hedging, OneOrMany, Routing},
    embeddings::Texts,
    errors::refused,
    said::{Answer, Failure, Piece},
    stream::Dialect,
};
use crate::http::{ApiResult, Caller, Json, RequestScope, routes};

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(execute))
}

/// What to execute.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExecuteRequest {
    /// `openai`, `anthropic`, `huggingface`, `symbia-labs` or another; `auto`: the model's name tells it, which may be a route.
    provider: String,
    /// `chat.completions`, `messages`, `text.generation`, `image.description` or `embeddings`.
    operation: String,
    params: Params,
    /// A key of the vault to ask with.
    #[serde(default)]
    credential_id: Option<String>,
}

/// What a model is given.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Params {
    model: Option<String>,
    #[schema(value_type = Option<Vec<Object>>)]
    messages: Option<Vec<Value>>,
    prompt: Option<String>,
    input: Option<OneOrMany>,
    text: Option<OneOrMany>,
    temperature: Option<f64>,
    max_tokens: Option<u32>,
    top_p: Option<f64>,
    top_k: Option<u32>,
    stop_sequences: Option<Vec<String>>,
    stop: Option<OneOrMany>,
    seed: Option<i64>,
    frequency_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    system: Option<String>,
    system_prompt: Option<String>,
    instructions: Option<String>,
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Vec<Value>>,
    #[schema(value_type = Option<Object>)]
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    /// `text`, `json` or `json_schema`.
    response_format: Option<String>,
    #[schema(value_type = Option<Object>)]
    json_schema: Option<Value>,
    reasoning_effort: Option<String>,
    /// GBNF with the rule `root`, for local models and servers that know it.
    grammar: Option<String>,
    /// Answers, 1 to 8.
    n: Option<u32>,
    logprobs: Option<bool>,
    top_logprobs: Option<u32>,
    dimensions: Option<u32>,
    stream: Option<bool>,
    /// Models that are asked in turn: `provider/model`.
    fallbacks: Option<Vec<String>>,
    /// Which of `model` and `fallbacks` is asked first.
    routing: Option<Routing>,
    /// When the next of `fallbacks` is asked besides.
    hedge: Option<Hedging>,
    /// Whether an earlier answer to the same request will do.
    cache: Option<Caching>,
}

/// Have a provider answer a prompt, or turn texts into vectors
///
/// With `params.stream`, or when `text/event-stream` is accepted: server-sent events `started`, `delta`, `reset`, `completed`
/// and `failed`.
#[utoipa::path(post, path = "/integrations/execute", tag = "Execution", params(Tagged), request_body = ExecuteRequest,
    responses((status = 200, description = "The normalized answer, or its stream", body = Object),
        (status = 400, description = "A field is not valid"), (status = 401, description = "Not authenticated, or no key"),
        (status = 402, description = "A budget is used up"), (status = 404, description = "No such provider or model"),
        (status = 422, description = "The provider declined the content"), (status = 429, description = "Asked too often"),
        (status = 502, description = "The provider failed"), (status = 503, description = "It is left alone for a while"),
        (status = 504, description = "It took too long")))]
pub(super) async fn execute(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    headers: HeaderMap,
    Json(request): Json<ExecuteRequest>,
) -> ApiResult<Response> {
    let ExecuteRequest { provider, operation, params, credential_id } = request;
    if operation == "embeddings" {
        return embeddings(&service, &caller, &scope, provider, params, credential_id).await;
    }
    let operation = match operation.as_str() {
        "chat.completions" => CHAT,
        "messages" => "messages",
        "text.generation" => "text.generation",
        DESCRIPTION => DESCRIPTION,
        _ => {
            let known = "must be chat.completions, messages, text.generation, image.description or embeddings";
            return Err(refused("operation", known));
        }
    };
    let accepts = headers.get("accept").and_then(|value| value.to_str().ok());
    let streams = params.stream.unwrap_or_else(|| accepts.is_some_and(|kinds| kinds.contains("text/event-stream")));
    let question = Question { stream: streams, credential_id, ..params.question(provider, operation)? };
    if operation == DESCRIPTION && !question.shows_something() {
        return Err(refused("params.messages", "image.description needs a message with an image (type image_url)"));
    }
    let telling = |asked: &Asked| Telling::new(asked.request_id.clone());
    let body = |asked: &Asked, answer: &Answer| executed(&asked.request_id, answer);
    service.reply(&caller, &scope, question, telling, body).await
}

/// An answer in its normalized shape.
pub(super) fn executed(request_id: &str, answer: &Answer) -> Value {
    let first = &answer.first;
    let mut data = json!({
        "provider": answer.provider,
        "model": answer.model,
        "content": first.text,
        "usage": {
            "promptTokens": answer.usage.prompt_tokens,
            "completionTokens": answer.usage.completion_tokens,
            "totalTokens": answer.usage.total_tokens,
        },
        "finishReason": first.finish_reason,
        "metadata": {
            "id": answer.provider_request_id,
            "rawFinishReason": answer.raw_finish_reason,
            "cachedTokens": answer.usage.cached_prompt_tokens,
            "estimated": answer.usage.estimated,
            "attempts": answer.attempts,
            "warnings": answer.warnings,
            "reasoning": Some(&first.reasoning).filter(|reasoning| !reasoning.is_empty()),
            "logprobs": Some(&first.logprobs).filter(|tokens| !tokens.is_empty()),
            "cost": answer.cost,
            "cached": answer.cached,
            "cacheSimilarity": answer.similarity,
        },
    });
    if !first.tool_calls.is_empty() {
        data["toolCalls"] = tool_calls(first);
    }
    if !answer.others.is_empty() {
        let choice = |choice: &AnswerChoice| {
            let mut said = json!({ "content": choice.text, "finishReason": choice.finish_reason });
            if !choice.tool_calls.is_empty() {
                said["toolCalls"] = tool_calls(choice);
            }
            said
        };
        data["choices"] = answer.choices().map(choice).collect();
    }
    json!({ "success": true, "data": data, "requestId": request_id, "durationMs": answer.timing.total_ms })
}

fn tool_calls(of: &AnswerChoice) -> Value {
    let call = |call: &ToolCall| {
        let function = json!({ "name": call.name, "arguments": call.arguments });
        json!({ "id": call.id, "type": "function", "function": function })
    };
    of.tool_calls.iter().map(call).collect()
}

async fn embeddings(
    service: &Integrations,
    caller: &Caller,
    scope: &RequestScope,
    provider: String,
    params: Params,
    credential_id: Option<String>,
) -> ApiResult<Response> {
    let texts = params.input.or(params.text).ok_or_else(|| refused("params.input", "is required for embeddings"))?;
    let texts = Texts {
        target: target(provider, params.model),
        texts: texts.into_vec(),
        dimensions: params.dimensions,
        credential_id,
    };
    let embedded = service.embed(caller, scope, texts).await?;
    let data = json!({
        "provider": embedded.provider,
        "model": embedded.model,
        "dimensions": embedded.vectors.first().map(Vec::len),
        "embeddings": embedded.vectors,
        "usage": { "promptTokens": embedded.usage.prompt_tokens, "totalTokens": embedded.usage.total_tokens },
        "metadata": { "estimated": embedded.usage.estimated, "cost": embedded.cost },
    });
    let (id, took) = (embedded.request_id, embedded.took_ms);
    let body = json!({ "success": true, "data": data, "requestId": id, "durationMs": took });
    Ok(axum::Json(body).into_response())
}

fn target(provider: String, model: Option<String>) -> Target {
    Target { provider: Some(provider).filter(|provider| provider != "auto"), model }
}

impl Params {
    fn question(self, provider: String, operation: &'static str) -> ApiResult<Question> {
        // Messages, tools and choices have OpenAI's shape.
        let format = match (self.response_format.as_deref(), self.json_schema) {
            (None | Some("text"), None) => Value::Null,
            (Some("json" | "json_object"), None) => json!({ "type": "json_object" }),
            (None | Some("json" | "json_schema"), Some(schema)) => {
                let named = schema["schema"].is_object() && schema["name"].is_string();
                let described = if named { schema } else { json!({ "name": "answer", "schema": schema }) };
                json!({ "type": "json_schema", "json_schema": described })
            }
            _ => {
                return Err(refused(
                    "params.responseFormat",
                    "must be text, json, or json_schema with params.jsonSchema",
                ));
            }
        };
        let prompt = self.prompt.map(|prompt| vec![json!({ "role": "user", "content": prompt })]);
        let messages = self.messages.or(prompt);
        let messages = messages.ok_or_else(|| refused("params.messages", "is required, or params.prompt"))?;
        let request = json!({
            "messages": messages,
            "tools": self.tools,
            "tool_choice": self.tool_choice,
            "response_format": if format.is_null() { json!({ "type": "text" }) } else { format },
            "grammar": self.grammar,
            "n": self.n,
            "logprobs": self.logprobs,
            "top_logprobs": self.top_logprobs,
        });
        let request: ChatRequest = serde_json::from_value(request)
            .map_err(|e| refused("params", format!("must have messages and tools of OpenAI's shape: {e}")))?;
        let mut question = request.question()?;
        let system = self.system.or(self.system_prompt).or(self.instructions);
        if let Some(system) = system.filter(|_| question.messages.iter().all(|m| m.role != PromptRole::System)) {
            question.messages.insert(0, Message::text(PromptRole::System, system));
        }
        let stop = self.stop.map(OneOrMany::into_vec).unwrap_or_default();
        let named = |model: String| Target { provider: None, model: Some(model) };
        question.options.parallel_tool_calls = self.parallel_tool_calls;
        question.options.reasoning_effort = self.reasoning_effort;
        question.options.balance = self.routing.map(Routing::read);
        question.options.hedge = self.hedge.map(Hedge::try_from).transpose()?;
        if let Some(cache) = self.cache {
            cache.set(&mut question.options)?;
        }
        Ok(Question {
            operation,
            target: target(provider, self.model),
            fallbacks: self.fallbacks.unwrap_or_default().into_iter().map(named).collect(),
            sampling: Sampling {
                temperature: self.temperature,
                top_p: self.top_p,
                top_k: self.top_k,
                max_tokens: self.max_tokens,
                stop: stop.into_iter().chain(self.stop_sequences.unwrap_or_default()).collect(),
                seed: self.seed,
                frequency_penalty: self.frequency_penalty,
                presence_penalty: self.presence_penalty,
            },
            ..question
        })
    }
}

/// The events of an execution. Their ids are `<attempt>.<seq>`; the seq of a piece is its place in its attempt, from 1.
pub(super) struct Telling {
    request_id: String,
    seq: u64,
}

impl Telling {
    pub fn new(request_id: String) -> Self {
        Telling { request_id, seq: 0 }
    }

    /// A piece at its place.
    pub fn at(&mut self, attempt: u32, seq: u64, choice: u32, piece: &Piece) -> Event {
        self.seq = seq;
        let mut data = match piece {
            Piece::Text(text) => json!({ "seq": seq, "text": text }),
            Piece::Reasoning(text) => json!({ "seq": seq, "reasoning": text }),
            Piece::Tool { index, id, name, arguments } => {
                json!({ "seq": seq, "toolCall": { "index": index, "id": id, "name": name, "argumentsDelta": arguments } })
            }
            Piece::Logprobs(tokens) => json!({ "seq": seq, "logprobs": tokens }),
        };
        if choice > 0 {
            data["choice"] = json!(choice);
        }
        self.event("delta", attempt, &data)
    }

    fn event(&self, name: &str, attempt: u32, data: &Value) -> Event {
        Event::default().event(name).id(format!("{attempt}.{}", self.seq)).data(data.to_string())
    }
}

impl Dialect for Telling {
    const FORGETS: bool = true;

    fn started(&mut self, attempt: u32, provider: &str, model: &str) -> Vec<Event> {
        self.seq = 0;
        let data = json!({ "requestId": self.request_id, "provider": provider, "model": model, "attempt": attempt });
        vec![self.event("started", attempt, &data)]
    }

    fn reset(&mut self, attempt: u32) -> Vec<Event> {
        self.seq = 0;
        vec![self.event("reset", attempt, &json!({ "attempt": attempt, "reason": "another attempt is made" }))]
    }

    fn piece(&mut self, attempt: u32, choice: u32, piece: &Piece) -> Vec<Event> {
        vec![self.at(attempt, self.seq + 1, choice, piece)]
    }

    fn completed(&mut self, answer: &Answer) -> Vec<Event> {
        self.seq += 1;
        let data = executed(&self.request_id, answer);
        vec![self.event("completed", answer.attempts, &data)]
    }

    fn failed(&mut self, failure: &Failure) -> Vec<Event> {
        self.seq += 1;
        let data = json!({
            "success": false, "error": failure.message, "category": failure.category, "errorCategory": failure.category,
            "code": failure.code, "retryable": failure.category.is_retryable(), "provider": failure.provider,
            "upstream": failure.upstream, "requestId": self.request_id,
        });
        vec![self.event("failed", 0, &data)]
    }
}
