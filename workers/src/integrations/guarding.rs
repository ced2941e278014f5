//! Guardrails at work (integrations.md §28): on a prompt before a provider sees it, on an answer before a reader does.
//!
//! Of a prompt, all texts that a provider is given are looked at: messages, calls of tools, tools, the answer's shape, where it is
//! to stop; pictures are not. Of an answer that streams, what may be the beginning of something that is to be replaced is held
//! back, calls of tools and probabilities until the end; all of it where it may be blocked.

use std::{collections::BTreeMap, sync::Arc};

use symbia_commands::integrations::{Guards, Hold, Redactor, Screening, blocking};
use symbia_events::integrations::{
    AnswerFormat, ErrorCategory, GuardrailAction, GuardrailFinding, PromptOptions, PromptPart, PromptRole, Sampling,
    TokenLogprob, ToolCall,
};

use super::provider::{Answer, Delta, Fault, MAX_ANSWER, Turn};

/// Replaces what is to be replaced in a prompt, and says what was found.
pub(super) fn screen_prompt(
    guards: &Guards,
    turns: &mut [Turn],
    options: &mut PromptOptions,
    sampling: &mut Sampling,
) -> Vec<GuardrailFinding> {
    let mut screening = guards.of_prompt();
    // What providers are given of a message in parts is its parts.
    turns.iter_mut().filter(|turn| !turn.parts.is_empty()).for_each(|turn| turn.content = texts(&turn.parts));
    // Who is asked nothing is asked nothing allowed.
    let last = turns.iter().enumerate().rfind(|(_, turn)| turn.role == PromptRole::User);
    let (place, text) =
        last.map_or(("messages".to_owned(), ""), |(last, turn)| (format!("messages[{last}]"), &turn.content));
    screening.allowed(text, &place);
    for (place, turn) in turns.iter_mut().enumerate() {
        let place = format!("messages[{place}]");
        if matches!(turn.role, PromptRole::User | PromptRole::Tool) {
            screening.instructions(&turn.content, &place);
        }
        screen_turn(&mut screening, turn, &place);
    }
    for tool in &mut options.tools {
        screening.name(&tool.name, "tools");
        tool.description.iter_mut().for_each(|text| _ = screening.text(text, "tools"));
        screening.schema(&mut tool.parameters, "tools");
    }
    match &mut options.format {
        Some(AnswerFormat::JsonSchema { name, schema, .. }) => {
            screening.name(name, "format");
            screening.schema(schema, "format");
        }
        Some(AnswerFormat::Grammar { grammar }) => screening.name(grammar, "format"),
        Some(AnswerFormat::JsonObject) | None => {}
    }
    sampling.stop.iter_mut().for_each(|text| _ = screening.text(text, "stop"));
    screening.findings("messages")
}

/// The same in texts that are no messages: there is nobody to be instructed, and what is allowed is in one of them.
pub(super) fn screen_texts(guards: &Guards, texts: Vec<&mut String>) -> Vec<GuardrailFinding> {
    let mut screening = guards.of_prompt();
    if !texts.is_empty() {
        let all: Vec<&str> = texts.iter().map(|text| text.as_str()).collect();
        screening.allowed(&all.join("\n"), "input");
    }
    for (place, text) in texts.into_iter().enumerate() {
        screening.text(text, &format!("input[{place}]"));
    }
    screening.findings("input")
}

fn texts(parts: &[PromptPart]) -> String {
    let text = |part: &'_ PromptPart| match part {
        PromptPart::Text { text } => Some(text.clone()),
        PromptPart::Image { .. } => None,
    };
    parts.iter().filter_map(text).collect::<Vec<_>>().join("\n")
}

fn screen_turn(screening: &mut Screening<'_>, turn: &mut Turn, place: &str) {
    // What tools answer is JSON more often than not.
    let is_json = turn.role == PromptRole::Tool;
    let mut look = |text: &mut String| if is_json { screening.json(text, place) } else { screening.text(text, place) };
    if turn.parts.is_empty() {
        look(&mut turn.content);
    } else {
        for part in &mut turn.parts {
            if let PromptPart::Text { text } = part {
                look(text);
            }
        }
        turn.content = texts(&turn.parts);
    }
    turn.name.iter().for_each(|name| screening.name(name, place));
    for call in &mut turn.tool_calls {
        screening.name(&call.name, place);
        screening.json(&mut call.arguments, place);
    }
}

/// Replaces what is to be replaced in an answer, and says what was found.
pub(super) fn screen_answer(
    guards: &Guards,
    answer: &mut Answer,
    format: Option<&AnswerFormat>,
) -> Vec<GuardrailFinding> {
    let mut screening = guards.of_answer();
    let mut left_away = screen_choice(
        (&mut screening, is_json(format)),
        (&mut answer.text, &mut answer.reasoning),
        &mut answer.tool_calls,
        &mut answer.logprobs,
    );
    for choice in &mut answer.others {
        left_away |= screen_choice(
            (&mut screening, is_json(format)),
            (&mut choice.text, &mut choice.reasoning),
            &mut choice.tool_calls,
            &mut choice.logprobs,
        );
    }
    // Marks may be longer than what they stand for.
    for text in [&mut answer.text, &mut answer.reasoning] {
        if text.len() > MAX_ANSWER {
            text.truncate(text.floor_char_boundary(MAX_ANSWER));
            answer.warnings.push(format!("the answer was cut after {MAX_ANSWER} bytes"));
        }
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
    (screening, is_json): (&mut Screening<'_>, bool),
    (text, reasoning): (&mut String, &mut String),
    calls: &mut [ToolCall],
    logprobs: &mut Vec<TokenLogprob>,
) -> bool {
    if calls.is_empty() || !text.is_empty() {
        screening.allowed(text, "answer");
    }
    let mut changed = if is_json { screening.json(text, "answer") } else { screening.text(text, "answer") };
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

fn is_json(format: Option<&AnswerFormat>) -> bool {
    matches!(format, Some(AnswerFormat::JsonObject | AnswerFormat::JsonSchema { .. }))
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
    pub fn new(guards: Option<&Arc<Guards>>, format: Option<&AnswerFormat>) -> Self {
        let hold = guards.map_or(Hold::Nothing, |guards| match guards.hold() {
            // JSON is to stay JSON, which is seen of the whole.
            Hold::Window if is_json(format) => Hold::Whole,
            hold => hold,
        });
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
        let mut sampling = Sampling { stop: vec!["s@t.test".into()], ..Sampling::default() };
        let findings = screen_prompt(&guards, &mut turns, &mut options, &mut sampling);
        assert_eq!(sampling.stop, ["[EMAIL]"]);
        assert_eq!((turns[0].content.as_str(), turns[1].content.as_str()), ("you are [EMAIL]", "[EMAIL]\nb"));
        assert_eq!(turns[1].parts, [part("[EMAIL]"), part("b")]);
        assert_eq!(turns[2].tool_calls[0].arguments, r#"{"to":"[EMAIL]"}"#);
        assert_eq!(options.tools[0].description.as_deref(), Some("mails to [EMAIL]"));
        assert_eq!(options.tools[0].parameters["description"], "like [EMAIL]");
        assert_eq!(
            (findings[0].count, findings[0].places.join(" ")),
            (6, "messages[0] messages[1] messages[2] tools stop".into())
        );
        assert_eq!(blocked(&findings, "prompt"), None);
        // What names something cannot be replaced.
        let mut named = [Turn { name: Some("a@b.test".into()), ..Turn::text(PromptRole::User, "hi") }];
        let findings = screen_prompt(&guards, &mut named, &mut PromptOptions::default(), &mut Sampling::default());
        assert!(blocked(&findings, "prompt").is_some(), "{findings:?}");
    }

    #[test]
    fn texts_that_are_no_messages_are_looked_at_as_well() {
        let guards = guards(GuardrailAction::Redact);
        let (mut query, mut document) = ("who is a@b.test?".to_owned(), "nobody".to_owned());
        let findings = screen_texts(&guards, vec![&mut query, &mut document]);
        assert_eq!((query.as_str(), document.as_str()), ("who is [EMAIL]?", "nobody"));
        assert_eq!(findings[0].places, ["input[0]"]);
    }

    #[test]
    fn an_answer_that_is_json_stays_json() {
        let guards = guards(GuardrailAction::Redact);
        let mut answer = Answer { text: r#"{"to":"x\nada@b.test"}"#.into(), ..Answer::empty("m") };
        screen_answer(&guards, &mut answer, Some(&AnswerFormat::JsonObject));
        assert_eq!(answer.text, r#"{"to":"x\n[EMAIL]"}"#);
        let mut veil = Veil::new(Some(&guards), Some(&AnswerFormat::JsonObject));
        veil.piece(0, Delta::Text("{\"a\": 1, "), &mut |_, _| panic!("it is shown before it is whole"));
    }

    #[test]
    fn an_answer_shows_nothing_of_what_is_replaced_or_blocked() {
        let whole = "ask ada@b.test now";
        for (action, expected) in
            [(GuardrailAction::Redact, "ask [EMAIL] now"), (GuardrailAction::Block, ""), (GuardrailAction::Flag, whole)]
        {
            let guards = guards(action);
            let mut veil = Veil::new(Some(&guards), None);
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
            let findings = screen_answer(&guards, &mut answer, None);
            assert_eq!(blocked(&findings, "answer").is_some(), action == GuardrailAction::Block);
            assert_eq!(answer.logprobs.is_empty(), action == GuardrailAction::Redact);
        }
    }
}
