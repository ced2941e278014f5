//! Guardrails at work (integrations.md §28): on a prompt before a provider sees it, on an answer before a reader does.
//!
//! Of a prompt, the texts of all messages, the arguments of calls of tools, and what describes tools and the answer's shape are
//! looked at; pictures are not. Of an answer that streams, what may be the beginning of something that is to be replaced is held
//! back, calls of tools and probabilities until the end; all of it where it may be blocked.

use std::{collections::BTreeMap, sync::Arc};

use symbia_commands::integrations::{Guards, Hold, Redactor, Screening, blocking};
use symbia_events::integrations::{
    AnswerFormat, ErrorCategory, GuardrailAction, GuardrailFinding, PromptOptions, PromptPart, PromptRole,
    TokenLogprob, ToolCall,
};

use super::provider::{Answer, Delta, Fault, Turn};

/// Replaces what is to be replaced in a prompt, and says what was found.
pub(super) fn screen_prompt(guards: &Guards, turns: &mut [Turn], options: &mut PromptOptions) -> Vec<GuardrailFinding> {
    let mut screening = guards.of_prompt();
    let last = turns.iter().rposition(|turn| turn.role == PromptRole::User);
    if let Some((place, turn)) = last.and_then(|last| Some((last, turns.get(last)?))) {
        screening.allowed(&turn.content, &format!("messages[{place}]"));
    }
    for (place, turn) in turns.iter_mut().enumerate() {
        let place = format!("messages[{place}]");
        if matches!(turn.role, PromptRole::User | PromptRole::Tool) {
            screening.instructions(&turn.content, &place);
        }
        screen_turn(&mut screening, turn, &place);
    }
    for tool in &mut options.tools {
        tool.description.iter_mut().for_each(|text| _ = screening.text(text, "tools"));
        screening.schema(&mut tool.parameters, "tools");
    }
    if let Some(AnswerFormat::JsonSchema { schema, .. }) = &mut options.format {
        screening.schema(schema, "format");
    }
    screening.findings("messages")
}

fn screen_turn(screening: &mut Screening<'_>, turn: &mut Turn, place: &str) {
    if turn.parts.is_empty() {
        screening.text(&mut turn.content, place);
    } else {
        let mut texts = Vec::new();
        for part in &mut turn.parts {
            if let PromptPart::Text { text } = part {
                screening.text(text, place);
                texts.push(text.as_str());
            }
        }
        turn.content = texts.join("\n");
    }
    for call in &mut turn.tool_calls {
        screening.json(&mut call.arguments, place);
    }
}

/// Replaces what is to be replaced in an answer, and says what was found.
pub(super) fn screen_answer(guards: &Guards, answer: &mut Answer) -> Vec<GuardrailFinding> {
    let mut screening = guards.of_answer();
    let mut left_away = screen_choice(
        &mut screening,
        (&mut answer.text, &mut answer.reasoning),
        &mut answer.tool_calls,
        &mut answer.logprobs,
    );
    for choice in &mut answer.others {
        left_away |= screen_choice(
            &mut screening,
            (&mut choice.text, &mut choice.reasoning),
            &mut choice.tool_calls,
            &mut choice.logprobs,
        );
    }
    let findings = screening.findings("answer");
    answer.warnings.extend(findings.iter().filter_map(|finding| said(finding, "answer")));
    if left_away {
        answer.warnings.push("the probabilities of tokens of which some were replaced are left away".to_owned());
    }
    findings
}

// Whether probabilities were left away, whose tokens are the text.
fn screen_choice(
    screening: &mut Screening<'_>,
    (text, reasoning): (&mut String, &mut String),
    calls: &mut [ToolCall],
    logprobs: &mut Vec<TokenLogprob>,
) -> bool {
    if calls.is_empty() || !text.is_empty() {
        screening.allowed(text, "answer");
    }
    let mut changed = screening.text(text, "answer");
    screening.text(reasoning, "reasoning");
    for call in calls {
        changed |= screening.json(&mut call.arguments, "toolCalls");
    }
    let left_away = changed && !logprobs.is_empty();
    if left_away {
        logprobs.clear();
    }
    left_away
}

/// What a reader is told of something that was replaced.
pub(super) fn said(finding: &GuardrailFinding, hook: &str) -> Option<String> {
    let GuardrailFinding { guardrail, rule, count, action, .. } = finding;
    (*action == GuardrailAction::Redact)
        .then(|| format!("guardrail '{guardrail}' redacted {rule} in the {hook}, × {count}"))
}

/// Why a request fails, when it is to.
pub(super) fn blocked(findings: &[GuardrailFinding], hook: &str) -> Option<Fault> {
    let GuardrailFinding { guardrail, rule, places, .. } = blocking(findings)?;
    let place = places.first().map_or(hook, String::as_str);
    let message = format!("the guardrail '{guardrail}' of the organization blocks the {hook}: {rule} at {place}");
    Some(Fault::new(ErrorCategory::ContentFilter, "guardrail_blocked", message))
}

/// What readers see of an answer while it comes.
pub(super) struct Veil {
    guards: Option<Arc<Guards>>,
    hold: Hold,
    // Of each answer, what it says and what the model thinks.
    said: BTreeMap<u32, Redactor>,
    thought: BTreeMap<u32, Redactor>,
}

impl Veil {
    pub fn new(guards: Option<&Arc<Guards>>) -> Self {
        let hold = guards.map_or(Hold::Nothing, |guards| guards.hold());
        Veil { guards: guards.cloned(), hold, said: BTreeMap::new(), thought: BTreeMap::new() }
    }

    /// Shows what may be shown after a piece.
    pub fn piece(&mut self, choice: u32, piece: Delta<'_>, show: &mut dyn FnMut(u32, Delta<'_>)) {
        let Some(guards) = self.guards.as_ref().filter(|_| self.hold != Hold::Nothing) else {
            return show(choice, piece);
        };
        if self.hold == Hold::Whole {
            return;
        }
        let redactor = || Redactor::new(Arc::clone(guards));
        match piece {
            Delta::Text(text) => {
                let shown = self.said.entry(choice).or_insert_with(redactor).push(text);
                if !shown.is_empty() {
                    show(choice, Delta::Text(&shown));
                }
            }
            Delta::Reasoning(text) => {
                let shown = self.thought.entry(choice).or_insert_with(redactor).push(text);
                if !shown.is_empty() {
                    show(choice, Delta::Reasoning(&shown));
                }
            }
            // Their texts are told from one another at the end alone.
            Delta::Tool { .. } | Delta::Logprobs(_) => {}
        }
    }

    /// Shows what is left when the answer is whole.
    pub fn lift(&mut self, show: &mut dyn FnMut(u32, Delta<'_>)) {
        for (choice, redactor) in &mut self.thought {
            let rest = redactor.finish();
            if !rest.is_empty() {
                show(*choice, Delta::Reasoning(&rest));
            }
        }
        for (choice, redactor) in &mut self.said {
            let rest = redactor.finish();
            if !rest.is_empty() {
                show(*choice, Delta::Text(&rest));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use symbia_events::integrations::{GuardrailRules, GuardrailSet, PersonalData, PersonalDataRule, Tool};

    use super::*;

    fn guards(action: GuardrailAction) -> Arc<Guards> {
        let pii = vec![PersonalDataRule { kind: PersonalData::Email, action }];
        let rules = GuardrailRules { pii, ..GuardrailRules::default() };
        let (prompt, answer) = (rules.clone(), rules);
        let (guardrail_id, name, by) = ("g".to_owned(), "careful".to_owned(), "ada".to_owned());
        let set = GuardrailSet { guardrail_id, name, version: 1, prompt, answer, by };
        Arc::new(Guards::compile([&set]).unwrap_or_default())
    }

    #[test]
    fn every_text_of_a_prompt_is_looked_at() {
        let guards = guards(GuardrailAction::Redact);
        let part = |text: &str| PromptPart::Text { text: text.to_owned() };
        let call = ToolCall { id: "c".into(), name: "mail".into(), arguments: r#"{"to":"c@d.test"}"#.into() };
        let mut turns = vec![
            Turn::text(PromptRole::System, "you are a@b.test"),
            Turn { parts: vec![part("x@y.test"), part("b")], ..Turn::text(PromptRole::User, "x@y.test\nb") },
            Turn { tool_calls: vec![call], ..Turn::text(PromptRole::Assistant, "") },
        ];
        let tool = Tool {
            name: "mail".into(),
            description: Some("mails to t@u.test".into()),
            parameters: json!({ "type": "object", "description": "like v@w.test" }),
            strict: None,
        };
        let mut options = PromptOptions { tools: vec![tool], ..PromptOptions::default() };
        let findings = screen_prompt(&guards, &mut turns, &mut options);
        assert_eq!((turns[0].content.as_str(), turns[1].content.as_str()), ("you are [EMAIL]", "[EMAIL]\nb"));
        assert_eq!(turns[1].parts, [part("[EMAIL]"), part("b")]);
        assert_eq!(turns[2].tool_calls[0].arguments, r#"{"to":"[EMAIL]"}"#);
        assert_eq!(options.tools[0].description.as_deref(), Some("mails to [EMAIL]"));
        assert_eq!(options.tools[0].parameters["description"], "like [EMAIL]");
        assert_eq!(
            (findings[0].count, findings[0].places.join(" ")),
            (5, "messages[0] messages[1] messages[2] tools".into())
        );
        assert_eq!(blocked(&findings, "prompt"), None);
    }

    #[test]
    fn an_answer_shows_nothing_of_what_is_replaced_or_blocked() {
        let whole = "ask ada@b.test now";
        for (action, expected) in
            [(GuardrailAction::Redact, "ask [EMAIL] now"), (GuardrailAction::Block, ""), (GuardrailAction::Flag, whole)]
        {
            let guards = guards(action);
            let mut veil = Veil::new(Some(&guards));
            let mut shown = String::new();
            let mut show = |_: u32, piece: Delta<'_>| {
                if let Delta::Text(text) = piece {
                    shown.push_str(text);
                }
            };
            whole.split_inclusive(|_| true).for_each(|letter| veil.piece(0, Delta::Text(letter), &mut show));
            veil.lift(&mut show);
            assert_eq!(shown, expected);
            let likely = vec![TokenLogprob::default()];
            let mut answer = Answer { text: whole.into(), logprobs: likely, ..Answer::empty("m") };
            let findings = screen_answer(&guards, &mut answer);
            assert_eq!(blocked(&findings, "answer").is_some(), action == GuardrailAction::Block);
            assert_eq!(answer.logprobs.is_empty(), action == GuardrailAction::Redact);
        }
    }
}
