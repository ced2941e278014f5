//! Which assistant answers a message, by which rule: the candidates' conditions are evaluated, one is chosen, and the
//! inputs of its run are pinned (assistants.md §6.3, §8.4, §12.4).

use std::cmp::Reverse;

use serde_json::{Value, json};
use symbia_events::{
    OrgId, SubjectKey,
    assistants::{AssistantDefinition, RuleEvaluated, RuleRunStarted},
    messaging::SenderType,
};

use super::{
    reactions::{Cause, Inputs},
    rules::{ENGINE_VERSION, Evaluation, MESSAGE_RECEIVED, Rules},
};

/// An assistant that takes part in the conversation. What is absent does not exist, or does not answer.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its key.
    pub key: &'a str,
    /// What it is.
    pub definition: Option<&'a AssistantDefinition>,
    /// Its rules.
    pub rules: Option<&'a Rules>,
}

/// The keys under which the rule set of an assistant is looked for, with the tenant of each: the organization's own
/// first, then the one of the platform (assistants.md §8.1).
#[must_use]
pub fn rule_set_keys(assistant_key: &str, org: &OrgId) -> [(OrgId, String); 2] {
    [(org.clone(), format!("{assistant_key}:{org}")), (OrgId::global(), format!("{assistant_key}:default"))]
}

/// A run that is to start.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Award {
    pub(super) started: RuleRunStarted,
    pub(super) evaluated: Vec<RuleEvaluated>,
}

struct Claim<'a> {
    candidate: Candidate<'a>,
    mentioned: bool,
    context: Value,
    evaluation: Evaluation,
}

impl Claim<'_> {
    fn priority(&self) -> Option<i64> {
        let rules = self.candidate.rules?;
        self.evaluation.matched.and_then(|index| rules.rule(index)).map(|rule| rule.priority)
    }
}

/// Chooses among the candidates; `None` when there is none. One that is mentioned is the only one.
pub(super) fn award(
    cause: &Cause,
    inputs: &Inputs,
    all: &[Candidate],
    run_id: &str,
    key: &SubjectKey,
) -> Option<Award> {
    let mentioned: Vec<_> = all.iter().filter(|c| without_mention(&inputs.message.text, c).is_some()).collect();
    let candidates = if mentioned.is_empty() { all.iter().collect() } else { mentioned };
    let mut keys: Vec<String> = candidates.iter().map(|c| c.key.to_owned()).collect();
    keys.sort();
    let mut claims: Vec<_> = candidates.into_iter().map(|candidate| claim(cause, inputs, *candidate)).collect();
    // Deterministic: a match by the higher priority, then one that exists, then the smaller key.
    let rank = |c: &Claim| (Reverse(c.priority()), c.candidate.definition.is_none());
    claims.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.candidate.key.cmp(b.candidate.key)));
    let alone = claims.len() == 1;
    let winner = claims.into_iter().next()?;
    let reason = match (winner.evaluation.matched, winner.mentioned, alone) {
        (None, ..) => "no-match",
        (_, true, _) => "mentioned",
        (_, _, true) => "only-candidate",
        _ => "priority",
    };
    let Candidate { key: assistant_key, definition, rules } = winner.candidate;
    let rules = rules.filter(|_| definition.is_some());
    let rule_index = winner.evaluation.matched;
    let llm_config = definition.and_then(|d| d.llm_config.clone()).or_else(|| rules?.llm_config.clone());
    let started = RuleRunStarted {
        rule_run_id: run_id.to_owned(),
        trigger: MESSAGE_RECEIVED.to_owned(),
        event_ref: cause.event_id.to_string(),
        conversation_id: inputs.conversation_id.clone(),
        message_id: inputs.message.id.clone(),
        sender_id: inputs.message.sender_id.clone(),
        assistant_key: assistant_key.to_owned(),
        award_reason: reason.to_owned(),
        candidates: keys,
        rule_set_key: rules.map_or_else(|| format!("{assistant_key}:default"), |r| r.key.clone()),
        rule_set_id: rules.map(|r| r.id.clone()),
        rule_set_version: rules.map(|r| r.version),
        rule_set_digest: rules.map(|r| r.digest.clone()),
        rule: rule_index.and_then(|index| rules?.rule(index)).cloned(),
        rule_index: rule_index.and_then(|index| u32::try_from(index).ok()),
        llm_config,
        context_digest: key.digest(&winner.context.to_string()),
        history: inputs.history.iter().map(|m| m.id.clone()).collect(),
        state_at_start: STATE.to_owned(),
        engine_version: ENGINE_VERSION,
        // Set when it is decided.
        now: String::new(),
    };
    Some(Award { started, evaluated: winner.evaluation.tried })
}

/// The state of a conversation for which there is no state machine yet.
const STATE: &str = "idle";

fn claim<'a>(cause: &Cause, inputs: &Inputs, candidate: Candidate<'a>) -> Claim<'a> {
    let context = context(cause, inputs, candidate.key, candidate.definition, candidate.rules.map(|r| r.key.as_str()));
    let rules = candidate.rules.filter(|_| candidate.definition.is_some());
    let evaluation = rules.map(|rules| rules.evaluate(MESSAGE_RECEIVED, &context)).unwrap_or_default();
    let mentioned = without_mention(&inputs.message.text, &candidate).is_some();
    Claim { candidate, mentioned, context, evaluation }
}

/// The execution context: what conditions and templates see (assistants.md §8.4). It holds no credential.
pub(super) fn context(
    cause: &Cause,
    inputs: &Inputs,
    assistant_key: &str,
    definition: Option<&AssistantDefinition>,
    rule_set_key: Option<&str>,
) -> Value {
    let message = &inputs.message;
    let candidate = Candidate { key: assistant_key, definition, rules: None };
    let stripped = without_mention(&message.text, &candidate);
    let content = stripped.unwrap_or(&message.text);
    json!({
        "orgId": cause.tenant.as_str(),
        "org": { "id": cause.tenant.as_str() },
        "ruleSetKey": rule_set_key,
        "conversationId": inputs.conversation_id,
        "conversationState": STATE,
        "conversation": { "id": inputs.conversation_id, "state": STATE },
        "trigger": MESSAGE_RECEIVED,
        "event": {
            "id": cause.event_id.to_string(),
            "type": MESSAGE_RECEIVED,
            "data": {
                "assistantKey": assistant_key,
                "messageId": message.id,
                "senderId": message.sender_id,
                "senderType": message.sender_type,
                "wasMentioned": stripped.is_some(),
            },
        },
        "message": {
            "id": message.id,
            "role": "user",
            "content": content,
            "metadata": {
                "contentType": message.content_type,
                "senderId": message.sender_id,
                "originalContent": message.text,
            },
        },
        "user": {
            "id": message.sender_id,
            "displayName": inputs.sender_name,
            "metadata": { "type": message.sender_type },
        },
        "assistant": {
            "key": assistant_key,
            "name": definition.map_or(assistant_key, |d| d.name.as_str()),
            "alias": definition.and_then(|d| d.alias.as_deref()),
        },
        "context": {},
        "steps": {},
    })
}

/// Whether a message asks for an answer: people and bots ask, assistants and services do not.
pub(super) fn asks(sender: SenderType) -> bool {
    matches!(sender, SenderType::User | SenderType::Bot)
}

// The text after a leading `@key` or `@alias` of the candidate.
pub(super) fn without_mention<'t>(text: &'t str, candidate: &Candidate) -> Option<&'t str> {
    let text = text.trim_start().strip_prefix('@')?;
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-')).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let alias = candidate.definition.and_then(|d| d.alias.as_deref());
    let named = [Some(candidate.key), alias].into_iter().flatten().any(|n| n.eq_ignore_ascii_case(name));
    named.then(|| rest.trim_start())
}
