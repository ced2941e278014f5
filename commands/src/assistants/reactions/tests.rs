//! One exchange through the whole house: what follows from what.

use serde_json::json;
use symbia_events::{
    assistants::{KeepPartial, RuleRunEvent},
    integrations::PromptRole,
    messaging::ConversationEvent,
};

use super::{
    house::{Happened, House, Model, ada, set_of},
    *,
};
use crate::{
    assistants::{
        RunEnd,
        control::on_partial,
        replay::{Recorded, redecide},
        rules::Rules,
        seed,
    },
    messaging::RemoveParticipant,
};

const BY_MODEL: [&str; 13] = [
    "message-sent",
    "rule-run-started",
    "rule-evaluated",
    "rule-evaluated",
    "action-requested",
    "completion-requested",
    "completion-attempt-started",
    "completion-completed",
    "action-completed",
    "action-requested",
    "message-sent",
    "action-completed",
    "rule-run-completed",
];

fn end(house: &House) -> Option<RunEnd> {
    house.runs.values().next().and_then(RuleRun::end)
}

fn fault(house: &House) -> String {
    house.said().last().unwrap().1.clone()
}

#[test]
fn a_question_is_answered_by_the_model_and_stored_once() {
    let mut house = House::new(Model::Answers("2 + 2 = 4"));
    house.asks("what is 2+2?");
    assert_eq!(house.story(), BY_MODEL);
    let answer = ("assistant:coordinator".to_owned(), "2 + 2 = 4".to_owned());
    assert_eq!(house.said(), [("ada".to_owned(), "what is 2+2?".to_owned()), answer]);
    let reply = house.sent().nth(1).unwrap();
    let run = house.runs.values().next().unwrap().started().unwrap();
    assert_eq!(reply.run_id.as_deref(), Some(run.rule_run_id.as_str()));
    assert_eq!(reply.reply_to.as_deref(), Some(run.message_id.as_str()));
    assert_eq!((run.award_reason.as_str(), run.rule_set_version), ("only-candidate", Some(1)));
    assert_eq!(run.rule.as_ref().unwrap().id, "coord-orchestrate");
}

#[test]
fn help_is_answered_by_template_without_a_model() {
    let mut house = House::new(Model::Waits);
    house.asks(" /HELP ");
    let expected = [
        "message-sent",
        "rule-run-started",
        "rule-evaluated",
        "action-requested",
        "message-sent",
        "action-completed",
        "rule-run-completed",
    ];
    assert_eq!(house.story(), expected);
    assert!(fault(&house).starts_with("I am Symbia."), "{}", fault(&house));
    assert!(fault(&house).contains("--conversation c1"));
}

#[test]
fn events_delivered_twice_change_nothing() {
    let mut house = House::new(Model::Answers("4"));
    house.deliveries = 2;
    house.asks("what is 2+2?");
    assert_eq!(house.story(), BY_MODEL);
}

#[test]
fn a_run_goes_on_by_its_pinned_rule_when_the_rules_have_changed() {
    let mut house = House::new(Model::Answers("4"));
    house.asks("what is 2+2?");
    let recorded = house.recorded();
    let started = house.runs.values().next().unwrap().started().unwrap();
    let again = on_message(&recorded.cause, &recorded.inputs, &[], Some(started), &house.key);
    let [Reaction { command: Command::Completion(CompletionCommand::RequestCompletion(request)), .. }] = &again[..]
    else {
        unreachable!("{again:?}")
    };
    assert_eq!(request.prompt_digest, recorded.requests[0].prompt_digest);
}

#[test]
fn the_prompt_holds_the_earlier_messages_in_order() {
    let mut house = House::new(Model::Answers("Hi Ada"));
    house.asks("my name is Ada");
    house.runs.clear();
    house.asks("who am I? {{orgId}}");
    let mut asked = house.log.iter().filter_map(|(_, _, e)| match e {
        Happened::Completion(CompletionEvent::CompletionRequested(e)) => Some(e),
        _ => None,
    });
    let prompt: Vec<_> =
        asked.next_back().unwrap().messages.iter().map(|m| (m.role, house.key.open(&m.content).unwrap())).collect();
    let expected = [
        (PromptRole::System, "You are a helpful assistant."),
        (PromptRole::User, "my name is Ada"),
        (PromptRole::Assistant, "Hi Ada"),
        (PromptRole::User, "who am I? {{orgId}}"),
    ];
    assert_eq!(prompt, expected.map(|(role, text)| (role, text.to_owned())));
}

#[test]
fn a_failed_completion_is_said_clearly_and_without_the_vendors_words() {
    let mut house = House::new(Model::Fails(ErrorCategory::Timeout, None));
    house.asks("hello");
    let story = house.story();
    assert_eq!(story[story.len() - 4..], ["completion-failed", "action-failed", "rule-run-failed", "message-sent"]);
    assert_eq!(fault(&house), "⚠️ I could not answer: the model took too long; try again.");
    let mut house = House::new(Model::Fails(ErrorCategory::Validation, Some("context_length_exceeded")));
    house.deliveries = 2;
    house.asks("hello");
    assert!(fault(&house).contains("longer than the model can read"), "{}", fault(&house));
    assert_eq!(house.said().len(), 2);
}

#[test]
fn an_empty_answer_is_a_failure_not_silence() {
    let mut house = House::new(Model::Answers(" \n"));
    house.asks("hello");
    assert_eq!(end(&house), Some(RunEnd::Failed));
    assert!(fault(&house).contains("empty answer"));
}

#[test]
fn an_assistant_that_does_not_exist_says_so_once() {
    let mut house = House::new(Model::Waits);
    house.definition = None;
    house.deliveries = 2;
    house.asks("hello");
    assert_eq!(house.story(), ["message-sent", "rule-run-started", "rule-run-failed", "message-sent"]);
    assert!(fault(&house).contains("no such assistant"), "{}", fault(&house));
}

#[test]
fn without_a_matching_rule_the_run_ends_in_silence_and_the_log_says_why() {
    let mut house = House::new(Model::Waits);
    let mut command = seed::create_rule_set();
    command.rules.truncate(1);
    house.rules = Some(Rules::new(&set_of(command)));
    house.asks("hello");
    assert_eq!(house.story(), ["message-sent", "rule-run-started", "rule-evaluated", "rule-run-completed"]);
    assert_eq!(house.runs.values().next().unwrap().started().unwrap().award_reason, "no-match");
}

#[test]
fn whoever_asked_stops_the_run_and_the_model_is_stopped() {
    let mut house = House::new(Model::Waits);
    house.asks("tell me a story");
    let cancel = Command::RuleRun(CancelRuleRun { reason: "user".into(), keep_partial: None }.into());
    let stranger = Actor { id: "eve".into(), ..ada() };
    let refused = house.send(cancel.clone(), &stranger, CommandId(Uuid::from_u128(7))).unwrap_err();
    assert_eq!(refused.code, "FORBIDDEN");
    house.send(cancel, &ada(), CommandId(Uuid::from_u128(8))).unwrap();
    house.settle();
    let story = house.story();
    assert_eq!(story[story.len() - 2..], ["rule-run-cancelled", "completion-cancelled"]);
    assert_eq!(house.said().len(), 1);
}

#[test]
fn what_was_said_before_a_preemption_becomes_the_message_that_its_pieces_named() {
    let mut house = House::new(Model::Waits);
    house.asks("tell me a story");
    let before = house.runs.values().next().cloned().unwrap();
    let keep = KeepPartial { preempted_by: Some("m2".into()) };
    let cancel = CancelRuleRun { reason: "stream.preempt".into(), keep_partial: Some(keep) };
    house.send(Command::RuleRun(cancel.into()), &ada(), CommandId(Uuid::from_u128(8))).unwrap();
    house.settle();
    let wanted = house.log.iter().find_map(|(_, _, event)| match event {
        Happened::Completion(CompletionEvent::CompletionCancelled(e)) => Some(e.keep_partial),
        _ => None,
    });
    assert_eq!(wanted, Some(true));
    let (recorded, run) = (house.recorded(), house.runs.values().next().cloned().unwrap());
    let context = recorded.requests[0].context.clone();
    let kept = |run, text| on_partial(&recorded.cause, run, &context, text, &house.key);
    let reaction = kept(&run, "Once upon a ").unwrap();
    let Command::Conversation(ConversationCommand::SendMessage(message)) = &reaction.command else { unreachable!() };
    assert_eq!(Some(&message.message_id), context.reply_message_id.as_ref());
    assert_eq!(house.key.open(&message.content).unwrap(), "Once upon a");
    assert_eq!(message.preempted_by.as_deref(), Some("m2"));
    let metadata = house.key.open(message.metadata.as_ref().unwrap()).unwrap();
    assert!(metadata.contains("\"partial\":true"), "{metadata}");
    assert_eq!((kept(&run, " "), kept(&before, "Once")), (None, None));
}

#[test]
fn a_reply_that_is_refused_fails_the_run() {
    let mut house = House::new(Model::Waits);
    house.asks("hello");
    let remove = RemoveParticipant { principal_id: "assistant:coordinator".into(), even_owner: false };
    house.send(Command::Conversation(remove.into()), &ada(), CommandId(Uuid::from_u128(7))).unwrap();
    house.model = Model::Answers("hi");
    let asked = house.recorded().requests[0].clone();
    house.works(&asked);
    house.settle();
    assert_eq!(house.story().last().map(String::as_str), Some("rule-run-failed"));
    assert_eq!(house.said().len(), 1);
    let replay = redecide(&house.recorded(), &house.key);
    assert_eq!((replay.same, replay.outside, replay.divergences), (2, 1, Vec::new()));
}

#[test]
fn a_refused_request_fails_the_run_and_is_said() {
    let mut house = House::new(Model::Waits);
    let mut command = seed::create_rule_set();
    command.rules[1].actions[0].params.insert("temperature".into(), json!(9));
    house.rules = Some(Rules::new(&set_of(command)));
    house.asks("hello");
    assert_eq!(end(&house), Some(RunEnd::Failed));
    assert!(fault(&house).contains("temperature: 0 to 2"), "{}", fault(&house));
}

#[test]
fn assistants_do_not_answer_assistants() {
    let mut house = House::new(Model::Answers("hi"));
    house.asks("hello");
    let recorded = house.recorded();
    let mut inputs = recorded.inputs.clone();
    inputs.message.sender_type = SenderType::Agent;
    assert_eq!(on_message(&recorded.cause, &inputs, &recorded.candidates, None, &house.key), []);
}

#[test]
fn a_mention_chooses_and_otherwise_priority_then_the_smaller_key() {
    let house = House::new(Model::Waits);
    let rules = |priority: i64| {
        let mut command = seed::create_rule_set();
        command.rules[1].priority = priority;
        Rules::new(&set_of(command))
    };
    let (low, high) = (rules(1), rules(150));
    let definition = |key: &str| AssistantDefinition { key: key.into(), alias: None, ..seed::assistant() };
    let (a, b, c) = (definition("a"), definition("b"), definition("c"));
    let candidates = [("a", &a, &low), ("c", &c, &high), ("b", &b, &high)].map(|(key, definition, rules)| Candidate {
        key,
        definition: Some(definition),
        rules: Some(rules),
    });
    let awarded = |text: &str| {
        let message = Text {
            id: "m".into(),
            sender_id: "ada".into(),
            sender_type: SenderType::User,
            content_type: "text".into(),
            text: text.into(),
            seal: None,
        };
        let inputs = Inputs {
            conversation_id: "c1".into(),
            message,
            history: Vec::new(),
            sender_name: None,
            assistant: None,
            answers: BTreeMap::new(),
        };
        let cause = Cause { event_id: Uuid::from_u128(5), at: crate::testing::AT, tenant: house::org() };
        let reactions = on_message(&cause, &inputs, &candidates, None, &house.key);
        let Command::RuleRun(RuleRunCommand::StartRuleRun(start)) = &reactions[0].command else { unreachable!() };
        (start.started.assistant_key.clone(), start.started.award_reason.clone())
    };
    assert_eq!(awarded("hello"), ("b".into(), "priority".into()));
    assert_eq!(awarded("@A hello"), ("a".into(), "mentioned".into()));
    assert_eq!(awarded("@nobody hello"), ("b".into(), "priority".into()));
}

#[test]
fn a_run_decided_again_from_the_log_comes_out_the_same() {
    let models = [Model::Answers("4"), Model::Fails(ErrorCategory::Network, None), Model::Waits, Model::Answers("")];
    for (model, decisions) in models.into_iter().zip([3, 2, 1, 2]) {
        let mut house = House::new(model.clone());
        house.asks("what is 2+2?");
        let replay = redecide(&house.recorded(), &house.key);
        assert_eq!(replay.divergences, [], "{model:?}");
        assert_eq!(replay.same, decisions, "{model:?}");
    }
}

#[test]
fn a_stopped_run_is_told_apart_from_a_divergence() {
    let mut house = House::new(Model::Waits);
    house.asks("tell me a story");
    let cancel = Command::RuleRun(CancelRuleRun { reason: "user".into(), keep_partial: None }.into());
    house.send(cancel, &ada(), CommandId(Uuid::from_u128(8))).unwrap();
    house.settle();
    let replay = redecide(&house.recorded(), &house.key);
    assert_eq!((replay.same, replay.outside, replay.divergences), (1, 1, Vec::new()));
}

#[test]
fn replay_finds_a_changed_rule_a_changed_reply_and_a_missing_decision() {
    let mut house = House::new(Model::Answers("4"));
    house.asks("what is 2+2?");
    let mut command = seed::create_rule_set();
    command.rules[1].actions[0].params.insert("systemPrompt".into(), json!("Lie."));
    let rules = Rules::new(&set_of(command));
    let mut recorded = house.recorded();
    recorded.candidates[0].rules = Some(&rules);
    let replay = redecide(&recorded, &house.key);
    assert!(replay.divergences.iter().any(|d| d.what.starts_with("prompt of completion")), "{replay:?}");
    assert!(replay.divergences.iter().any(|d| d.what.starts_with("command")), "{replay:?}");

    let mut recorded = house.recorded();
    recorded.replies[0].1.content_digest = house.key.digest("5");
    assert!(redecide(&recorded, &house.key).divergences.iter().any(|d| d.what.starts_with("message")));

    let mut recorded = house.recorded();
    recorded.commits.pop();
    assert!(redecide(&recorded, &house.key).divergences.iter().any(|d| d.recorded == "nothing"));

    let mut recorded = house.recorded();
    recorded.commits[1].events.retain(|e| !matches!(e, RuleRunEvent::ActionRequested(_)));
    assert!(!redecide(&recorded, &house.key).divergences.is_empty());
}

#[test]
fn every_event_and_command_of_an_exchange_reads_back() {
    use symbia_events::DomainEvent;
    fn back<E: DomainEvent + PartialEq>(event: &E) {
        assert_eq!(E::from_data(event.event_type(), event.to_data().unwrap().get()).unwrap(), *event);
    }
    let mut house = House::new(Model::Answers("4"));
    house.asks("what is 2+2?");
    for (_, _, event) in &house.log {
        match event {
            Happened::Conversation(e) => back(e),
            Happened::Run(e) => back(e),
            Happened::Completion(e) => back(e),
        }
    }
    let Recorded { cause, inputs, candidates, .. } = house.recorded();
    for reaction in on_message(&cause, &inputs, &candidates, None, &house.key) {
        let data = reaction.command.to_data().unwrap();
        let read = Command::from_data(reaction.command.command_type(), data.get()).unwrap();
        assert_eq!(read, reaction.command);
    }
}

#[test]
fn nothing_a_person_wrote_stands_in_the_log_in_clear() {
    use symbia_events::DomainEvent;
    let mut house = House::new(Model::Answers("a very special answer"));
    house.asks("a very special question");
    for (_, _, event) in &house.log {
        let data = match event {
            Happened::Conversation(e) => ConversationEvent::to_data(e),
            Happened::Run(e) => e.to_data(),
            Happened::Completion(e) => e.to_data(),
        };
        let data = data.unwrap();
        assert!(!data.get().contains("very special"), "{}", data.get());
    }
}
