//! What a rule run decides.

use proptest::prelude::*;
use symbia_events::{DomainEvent, integrations::ErrorCategory};

use super::*;
use crate::{
    assistants::seed,
    testing::{AT, given},
};

fn engine() -> Actor {
    Actor::service("assistants")
}

fn started(rule: Option<usize>) -> RuleRunStarted {
    RuleRunStarted {
        rule_run_id: "run".into(),
        trigger: "message.received".into(),
        event_ref: "e".into(),
        conversation_id: "c1".into(),
        message_id: "m1".into(),
        sender_id: "ada".into(),
        assistant_key: "coordinator".into(),
        award_reason: "only-candidate".into(),
        candidates: vec!["coordinator".into()],
        rule_set_key: "coordinator:default".into(),
        rule_set_id: Some("ruleset-coordinator".into()),
        rule_set_version: Some(1),
        rule_set_digest: Some("d".into()),
        rule: rule.map(|index| seed::create_rule_set().rules[index].clone()),
        rule_index: rule.and_then(|index| u32::try_from(index).ok()),
        llm_config: None,
        context_digest: "x".into(),
        history: Vec::new(),
        state_at_start: "idle".into(),
        engine_version: 1,
        now: "2026-01-01T00:00:00Z".into(),
    }
}

fn planned(index: usize) -> PlannedAction {
    let kinds = [("llm.invoke", "completion/r1"), ("message.send", "message/m2")];
    let (action_type, to) = kinds[index.min(1)];
    PlannedAction {
        action_id: format!("a{index}"),
        path: format!("1/{index}"),
        action_type: action_type.into(),
        rule_id: "coord-orchestrate".into(),
        resolved_params_ref: to.into(),
        resolved_digest: "d".into(),
        idempotency_key: "k".into(),
        unresolved_refs: Vec::new(),
    }
}

fn start(rule: Option<usize>, next: Next) -> StartRuleRun {
    StartRuleRun { started: started(rule), evaluated: Vec::new(), next }
}

fn failure() -> Failure {
    Failure::new(ErrorCategory::Timeout, "late", "too late")
}

fn done(action: &str, next: Next) -> RecordActionOutcome {
    let output = ActionOutput { output_ref: "completion/r1".into(), digest: "d".into(), usage: None };
    RecordActionOutcome { action_id: action.into(), outcome: ActionOutcome::Completed(output), next }
}

fn failed_action(action: &str) -> RecordActionOutcome {
    RecordActionOutcome { action_id: action.into(), outcome: ActionOutcome::Failed(failure()), next: Next::End }
}

fn history(commands: impl IntoIterator<Item = RuleRunCommand>) -> Vec<RuleRunEvent> {
    let (mut state, mut events) = (RuleRun::default(), Vec::new());
    for (index, command) in commands.into_iter().enumerate() {
        let at = AT + time::Duration::milliseconds(10 * i64::try_from(index).unwrap());
        let decision = state.decide(command, &engine(), at).unwrap();
        decision.events.iter().for_each(|e| state.apply(e));
        events.extend(decision.events);
    }
    events
}

fn running() -> Vec<RuleRunEvent> {
    history([start(Some(1), Next::Do(planned(0))).into()])
}

#[test]
fn a_run_starts_at_its_own_address() {
    let start = start(Some(1), Next::Do(planned(0))).into();
    let to = |id: &str| AggregateRef::of_subject(&format!("symbia.cmd.assistants.org.rule-run.{id}")).unwrap();
    assert_eq!(RuleRun::belongs(&start, &to("run")), Ok(()));
    assert_eq!(RuleRun::belongs(&start, &to("other")), Err(Rejection::misaddressed(&to("other"))));
}

#[test]
fn a_run_does_its_actions_in_order_and_tells_how_long_each_took() {
    let events = history([
        start(Some(1), Next::Do(planned(0))).into(),
        done("a0", Next::Do(planned(1))).into(),
        done("a1", Next::End).into(),
    ]);
    let RuleRunEvent::ActionCompleted(first) = &events[2] else { unreachable!("{events:?}") };
    let RuleRunEvent::ActionCompleted(second) = &events[4] else { unreachable!("{events:?}") };
    assert_eq!((first.duration_ms, second.duration_ms), (10, 10));
    let end =
        RuleRunCompleted { rules_evaluated: 0, rules_matched: 1, message_ids: vec!["m2".into()], duration_ms: 20 };
    assert_eq!(events[5], end.into());
}

#[test]
fn an_action_out_of_order_is_refused() {
    given::<RuleRun>([]).when(start(Some(1), Next::Do(planned(1))), &engine()).rejected("VALIDATION_FAILED");
    given::<RuleRun>([]).when(start(Some(1), Next::End), &engine()).rejected("VALIDATION_FAILED");
    given::<RuleRun>([]).when(start(None, Next::Do(planned(0))), &engine()).rejected("VALIDATION_FAILED");
    given::<RuleRun>(running()).when(done("a0", Next::End), &engine()).rejected("VALIDATION_FAILED");
    given::<RuleRun>(running()).when(done("a9", Next::End), &engine()).rejected("NOT_FOUND");
    let second = history([start(Some(1), Next::Do(planned(0))).into(), done("a0", Next::Do(planned(1))).into()]);
    given::<RuleRun>(second).when(done("a0", Next::Do(planned(1))), &engine()).rejected("ACTION_SETTLED");
    given::<RuleRun>(running()).when(start(Some(1), Next::Do(planned(0))), &engine()).rejected("CONFLICT");
}

#[test]
fn a_failure_ends_the_run() {
    let events = history([start(Some(1), Next::Do(planned(0))).into(), failed_action("a0").into()]);
    let end = RuleRunFailed {
        category: ErrorCategory::Timeout,
        code: Some("late".into()),
        error: "too late".into(),
        duration_ms: 10,
    };
    assert_eq!(events.last(), Some(&end.into()));
    given::<RuleRun>(events).when(done("a0", Next::End), &engine()).rejected("RUN_OVER");
}

#[test]
fn a_run_is_driven_by_the_engine_and_stopped_by_who_asked() {
    let person = |id: &str| Actor { id: id.into(), kind: symbia_events::ActorType::User, ..engine() };
    given::<RuleRun>([]).when(start(Some(1), Next::Do(planned(0))), &person("ada")).rejected("FORBIDDEN");
    let cancel = CancelRuleRun { reason: "user".into(), keep_partial: None };
    given::<RuleRun>(running()).when(cancel.clone(), &person("eve")).rejected("FORBIDDEN");
    let cancelled = RuleRunCancelled { by: "ada".into(), reason: "user".into(), duration_ms: 0, keep_partial: None };
    given::<RuleRun>(running()).when(cancel.clone(), &person("ada")).then([cancelled.into()]);
    given::<RuleRun>([]).when(cancel, &engine()).rejected("NOT_FOUND");
}

fn any_next() -> impl Strategy<Value = Next> {
    prop_oneof![(0usize..3).prop_map(|i| Next::Do(planned(i))), Just(Next::Fail(failure())), Just(Next::End)]
}

fn any_command() -> impl Strategy<Value = RuleRunCommand> {
    let action = (0usize..3).prop_map(|i| format!("a{i}"));
    prop_oneof![
        1 => (proptest::option::of(0usize..2), any_next()).prop_map(|(rule, next)| start(rule, next).into()),
        4 => (action.clone(), any_next()).prop_map(|(action, next)| done(&action, next).into()),
        1 => action.prop_map(|action| failed_action(&action).into()),
        1 => Just(FailRuleRun { failure: failure() }.into()),
        1 => Just(CancelRuleRun { reason: "user".into(), keep_partial: None }.into()),
    ]
}

proptest! {
    #[test]
    fn there_is_at_most_one_end_and_nothing_follows_it(
        first in any_next(), commands in proptest::collection::vec(any_command(), 0..30),
    ) {
        let (mut state, mut events) = (RuleRun::default(), Vec::new());
        for command in [start(Some(1), first).into()].into_iter().chain(commands) {
            if let Ok(decision) = state.decide(command, &engine(), AT) {
                decision.events.iter().for_each(|e| state.apply(e));
                events.extend(decision.events);
            }
        }
        let kinds: Vec<&str> = events.iter().map(|e| e.event_type()).collect();
        let end = |kind: &str| ["completed", "failed", "cancelled"].iter().any(|k| kind.ends_with(&format!("rule-run-{k}.v1")));
        prop_assert!(kinds.iter().filter(|kind| end(kind)).count() <= 1);
        prop_assert!(kinds.iter().position(|kind| end(kind)).is_none_or(|at| at + 1 == kinds.len()));
        prop_assert_eq!(state.end().is_some(), kinds.iter().any(|kind| end(kind)));
    }
}
