//! Planning one action of a run: its parameters resolved, its command made, its ids derived. The same inputs give the same
//! plan, so that a run can be decided again from the log.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use symbia_events::{
    AggregateRef, SubjectKey,
    assistants::{ActionConfig, LlmConfig, RuleRunStarted},
    integrations::{CompletionContext, ErrorCategory, PromptMessage, PromptRole, Sampling},
    messaging::{Priority, SenderType},
};
use time::{Duration, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::{
    PlannedAction,
    award::context,
    fault::Failure,
    reactions::{Cause, Command, Inputs, Text},
    rules::{LLM_INVOKE, MESSAGE_SEND, script},
    template::{Rendered, render},
};
use crate::{
    integrations::{CHAT, MAX_TEXT, RequestCompletion},
    messaging::{ASSISTANT_PREFIX, MAX_CONTENT, SendMessage},
};

/// Most earlier messages of a prompt.
const MAX_HISTORY: u64 = 50;
/// Milliseconds that an answer may take unless the settings say otherwise.
const TIMEOUT_MS: u64 = 120_000;
const SYSTEM_PROMPT: &str = "You are a helpful assistant.";

/// An action and the command that performs it.
pub(super) struct Plan {
    pub(super) action: PlannedAction,
    pub(super) to: (&'static str, String),
    pub(super) command: Command,
}

/// Id of the action at a place of a run's script.
pub(super) fn action_id(started: &RuleRunStarted, index: usize) -> Uuid {
    let run = Uuid::try_parse(&started.rule_run_id).unwrap_or_default();
    Uuid::new_v5(&run, path(started, index).as_bytes())
}

fn path(started: &RuleRunStarted, index: usize) -> String {
    format!("{}/{index}", started.rule_index.unwrap_or_default())
}

/// Id of the completion that an `llm.invoke` requests.
pub(super) fn request_id(action: Uuid) -> String {
    Uuid::new_v5(&action, b"completion").to_string()
}

/// Id of the message that a `message.send` sends.
pub(super) fn message_id(action: Uuid) -> String {
    Uuid::new_v5(&action, b"message").to_string()
}

/// Plans the action at a place of the script.
pub(super) fn plan(
    cause: &Cause,
    started: &RuleRunStarted,
    index: usize,
    config: &ActionConfig,
    inputs: &Inputs,
    key: &SubjectKey,
) -> Result<Plan, Failure> {
    let scope = scope(cause, started, index, inputs);
    match config.action_type.as_str() {
        LLM_INVOKE => ask(cause, started, index, config, inputs, &scope, key),
        MESSAGE_SEND => say(cause, started, index, config, &scope, key),
        other => Err(Failure::new(
            ErrorCategory::Validation,
            "unknown_action",
            format!("the rule has an action '{other}' that this version does not know"),
        )),
    }
}

// What templates see: the context of the conditions, and the results of the actions before.
fn scope(cause: &Cause, started: &RuleRunStarted, index: usize, inputs: &Inputs) -> Value {
    let definition = inputs.assistant.as_ref();
    let mut scope = context(cause, inputs, &started.assistant_key, definition, Some(&started.rule_set_key));
    let steps = started.rule.as_ref().map(script).unwrap_or_default();
    for (at, step) in steps.iter().enumerate().take(index) {
        let Some(answer) = inputs.answers.get(&request_id(action_id(started, at))) else { continue };
        if let Some(id) = &step.id {
            scope["steps"][id] = json!({ "response": answer });
        }
        if let Some(name) = step.params.get("resultKey").and_then(Value::as_str) {
            scope["context"][name] = serde_json::from_str(answer).unwrap_or_else(|_| json!(answer));
        }
    }
    scope
}

fn rendered(template: &str, scope: &Value) -> Result<Rendered, Failure> {
    render(template, scope).map_err(|e| Failure::new(ErrorCategory::Validation, "template_limit", e.to_string()))
}

fn text<'a>(params: &'a Map<String, Value>, names: &[&str]) -> Option<&'a str> {
    names.iter().filter_map(|name| params.get(*name)?.as_str()).find(|text| !text.is_empty())
}

fn planned(cause: &Cause, started: &RuleRunStarted, index: usize, config: &ActionConfig) -> PlannedAction {
    let id = action_id(started, index);
    let digest = Sha256::digest(format!("{},{id}", cause.tenant));
    PlannedAction {
        action_id: id.to_string(),
        path: path(started, index),
        action_type: config.action_type.clone(),
        rule_id: started.rule.as_ref().map(|r| r.id.clone()).unwrap_or_default(),
        resolved_params_ref: String::new(),
        resolved_digest: String::new(),
        idempotency_key: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        unresolved_refs: Vec::new(),
    }
}

// The action's own parameters above the settings of assistant and rule set (assistants.md §14.3).
fn settings(started: &RuleRunStarted, params: &Map<String, Value>) -> Result<LlmConfig, Failure> {
    let mut merged =
        started.llm_config.as_ref().and_then(|c| serde_json::to_value(c).ok()).unwrap_or_else(|| json!({}));
    for name in ["provider", "model", "temperature", "maxTokens", "topP", "seed", "stop", "timeoutMs"] {
        if let Some(value) = params.get(name) {
            merged[name] = value.clone();
        }
    }
    serde_json::from_value(merged).map_err(|e| {
        Failure::new(ErrorCategory::Validation, "bad_parameter", format!("the rule's model settings: {e}"))
    })
}

fn ask(
    cause: &Cause,
    started: &RuleRunStarted,
    index: usize,
    config: &ActionConfig,
    inputs: &Inputs,
    scope: &Value,
    key: &SubjectKey,
) -> Result<Plan, Failure> {
    let settings = settings(started, &config.params)?;
    let system = rendered(text(&config.params, &["systemPrompt"]).unwrap_or(SYSTEM_PROMPT), scope)?;
    let template = text(&config.params, &["promptTemplate", "userPrompt"]).unwrap_or("{{message.content}}");
    let prompt = rendered(template, scope)?;
    let size = system.text.len() + prompt.text.len();
    if size > MAX_TEXT {
        return Err(Failure::of_completion(ErrorCategory::Validation, Some("context_length_exceeded")));
    }
    let limit = config.params.get("history").and_then(|h| h.get("limit")).and_then(Value::as_u64).unwrap_or(0);
    // What is made of somebody's words is sealed as they are: templates may repeat them anywhere.
    let asker = inputs.message.key(key);
    let mut sealed = vec![(asker, PromptRole::System, system.text.as_str())];
    sealed.extend(history(started, inputs, limit.min(MAX_HISTORY), MAX_TEXT - size, key));
    sealed.push((asker, PromptRole::User, prompt.text.as_str()));
    let messages: Vec<_> = sealed.iter().map(|(_, role, text)| (*role, *text)).collect();
    let prompt_digest = key.digest(&json!(messages).to_string());
    let sampling = Sampling {
        temperature: settings.temperature,
        top_p: settings.top_p,
        max_tokens: settings.max_tokens,
        stop: settings.stop.unwrap_or_default(),
        seed: settings.seed,
        ..Sampling::default()
    };
    let resolved = json!([messages, settings.provider, settings.model, sampling]).to_string();
    let mut action = planned(cause, started, index, config);
    let id = action_id(started, index);
    let request_id = request_id(id);
    action.resolved_params_ref = format!("completion/{request_id}");
    action.resolved_digest = key.digest(&resolved);
    action.unresolved_refs = [system.unresolved.clone(), prompt.unresolved.clone()].concat();
    let patience = i64::try_from(settings.timeout_ms.unwrap_or(TIMEOUT_MS)).unwrap_or(i64::MAX);
    let deadline = cause.at.checked_add(Duration::milliseconds(patience)).and_then(|at| at.format(&Rfc3339).ok());
    let replies = started.rule.as_ref().map(script).is_some_and(|s| s.get(index + 1).is_some_and(is_reply));
    let request = RequestCompletion {
        request_id: request_id.clone(),
        provider: settings.provider,
        model: settings.model,
        operation: CHAT.to_owned(),
        messages: sealed.into_iter().map(|(key, role, text)| PromptMessage::text(role, key.seal(text))).collect(),
        sampling,
        stream: true,
        credential_id: None,
        idempotency_key: Some(action.idempotency_key.clone()),
        deadline,
        context: CompletionContext {
            conversation_id: Some(started.conversation_id.clone()),
            message_id: Some(started.message_id.clone()),
            assistant_id: Some(format!("{ASSISTANT_PREFIX}{}", started.assistant_key)),
            user_id: Some(started.sender_id.clone()),
            rule_run_id: Some(started.rule_run_id.clone()),
            action_id: Some(action.action_id.clone()),
            reply_message_id: replies.then(|| message_id(action_id(started, index + 1))),
            ..CompletionContext::default()
        },
        prompt_digest,
        options: None,
        fallbacks: Vec::new(),
    };
    Ok(Plan { action, to: ("completion", request_id), command: Command::Completion(request.into()) })
}

fn is_reply(step: &ActionConfig) -> bool {
    step.action_type == MESSAGE_SEND
}

// The newest of the pinned earlier messages that fit beside the rest, oldest first.
fn history<'a>(
    started: &RuleRunStarted,
    inputs: &'a Inputs,
    limit: u64,
    room: usize,
    key: &'a SubjectKey,
) -> Vec<(&'a SubjectKey, PromptRole, &'a str)> {
    let pinned = |m: &&Text| started.history.contains(&m.id);
    let (mut kept, mut room) = (Vec::new(), room);
    for message in inputs.history.iter().filter(pinned).rev().take(usize::try_from(limit).unwrap_or(0)) {
        if message.text.len() > room {
            break;
        }
        room -= message.text.len();
        let role = if message.sender_type == SenderType::Agent { PromptRole::Assistant } else { PromptRole::User };
        kept.push((message.key(key), role, message.text.as_str()));
    }
    kept.reverse();
    kept
}

fn say(
    cause: &Cause,
    started: &RuleRunStarted,
    index: usize,
    config: &ActionConfig,
    scope: &Value,
    key: &SubjectKey,
) -> Result<Plan, Failure> {
    let template = text(&config.params, &["template", "contentTemplate", "content"]).unwrap_or_default();
    let content = rendered(template, scope)?;
    if content.text.trim().is_empty() {
        let error = "the rule that should answer gives an empty text; its author must check its template";
        return Err(Failure::new(ErrorCategory::Validation, "empty_content", error));
    }
    let mut action = planned(cause, started, index, config);
    let id = message_id(action_id(started, index));
    let message = reply(started, id.clone(), clipped(&content.text), key);
    action.resolved_params_ref = format!("message/{id}");
    action.resolved_digest = message.content_digest.clone();
    action.unresolved_refs = content.unresolved;
    let to = ("conversation", started.conversation_id.clone());
    Ok(Plan { action, to, command: Command::Conversation(message.into()) })
}

/// A message of the run's assistant in its conversation.
pub(super) fn reply(started: &RuleRunStarted, message_id: String, text: &str, key: &SubjectKey) -> SendMessage {
    SendMessage {
        message_id,
        content: key.seal(text),
        content_digest: key.digest(text),
        content_type: "markdown".to_owned(),
        reply_to: Some(started.message_id.clone()),
        run_id: Some(started.rule_run_id.clone()),
        trace_id: None,
        priority: Priority::Normal,
        interruptible: true,
        preempted_by: None,
        metadata: Some(key.seal(&origin(started).to_string())),
    }
}

/// What the metadata of a run's message tell of where it comes from.
pub(super) fn origin(started: &RuleRunStarted) -> Value {
    json!({
        "assistantKey": started.assistant_key,
        "runId": started.rule_run_id,
        "ruleId": started.rule.as_ref().map(|r| r.id.as_str()),
        "ruleName": started.rule.as_ref().map(|r| r.name.as_str()),
    })
}

/// The longest beginning that a message may hold.
pub(super) fn clipped(text: &str) -> &str {
    let mut end = text.len().min(MAX_CONTENT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The address of a command's aggregate in the run's tenant.
pub(super) fn address(cause: &Cause, command: &Command, kind: &str, id: &str) -> Option<AggregateRef> {
    AggregateRef::new(command.service(), cause.tenant.clone(), kind, id).ok()
}
