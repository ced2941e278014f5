//! What a completion decides.

use proptest::prelude::*;
use symbia_events::{
    ActorType, SubjectKey,
    integrations::{FinishReason, PromptRole, Timing, Usage},
};

use super::*;
use crate::testing::{AT, given};

fn key() -> SubjectKey {
    SubjectKey::from_bytes("k1", [1; 32])
}

fn worker() -> Actor {
    Actor::service("integrations")
}

fn person(id: &str) -> Actor {
    Actor { id: id.into(), kind: ActorType::User, ..worker() }
}

fn request() -> RequestCompletion {
    RequestCompletion {
        request_id: "r1".into(),
        provider: None,
        model: Some("pico".into()),
        operation: CHAT.into(),
        messages: vec![PromptMessage::text(PromptRole::User, key().seal("hi"))],
        sampling: Sampling::default(),
        stream: true,
        credential_id: None,
        idempotency_key: None,
        deadline: None,
        context: CompletionContext::default(),
        prompt_digest: key().digest("hi"),
        options: None,
        fallbacks: Vec::new(),
    }
}

fn of_ada() -> RequestCompletion {
    let content = SubjectKey::from_bytes("ada", [2; 32]).seal("hi");
    RequestCompletion { messages: vec![PromptMessage::text(PromptRole::User, content)], ..request() }
}

fn start(attempt: u32) -> StartCompletionAttempt {
    StartCompletionAttempt {
        request_id: "r1".into(),
        attempt,
        provider: "symbia-labs".into(),
        model: "pico".into(),
        model_digest: None,
        worker_id: "w1".into(),
        credential_id: None,
        credential_source: "none".into(),
        dropped_params: Vec::new(),
        hedges: None,
        guarded: Vec::new(),
    }
}

fn complete(attempt: u32) -> CompleteCompletion {
    CompleteCompletion {
        request_id: "r1".into(),
        attempt,
        model: "pico".into(),
        content: key().seal("hello"),
        content_digest: key().digest("hello"),
        finish_reason: FinishReason::Stop,
        raw_finish_reason: None,
        usage: Usage { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3, ..Usage::default() },
        timing: Timing::default(),
        provider_request_id: None,
        warnings: Vec::new(),
        tool_calls: None,
        reasoning: None,
        more: None,
        cached: false,
        similarity: None,
        cost: None,
        guarded: Vec::new(),
    }
}

fn fail(attempt: Option<u32>) -> FailCompletion {
    FailCompletion {
        request_id: "r1".into(),
        attempt,
        category: ErrorCategory::Timeout,
        code: None,
        message: None,
        upstream: None,
        partial_content: None,
        usage: None,
        retry_after_ms: None,
        cost: None,
        guarded: Vec::new(),
    }
}

fn fail_attempt(attempt: u32) -> FailCompletionAttempt {
    FailCompletionAttempt {
        request_id: "r1".into(),
        attempt,
        category: ErrorCategory::Network,
        code: None,
        upstream: None,
        message: None,
        retry_after_ms: None,
        spent: None,
    }
}

fn cancel() -> CancelCompletion {
    CancelCompletion {
        request_id: "r1".into(),
        reason: "user".into(),
        partial_content: None,
        usage: None,
        keep_partial: false,
    }
}

// The events of commands that are all accepted.
fn history(commands: impl IntoIterator<Item = CompletionCommand>) -> Vec<CompletionEvent> {
    let (mut state, mut events) = (Completion::default(), Vec::new());
    for command in commands {
        let decision = state.decide(command, &worker(), AT).unwrap();
        decision.events.iter().for_each(|e| state.apply(e));
        events.extend(decision.events);
    }
    events
}

fn kinds(events: &[CompletionEvent]) -> Vec<&'static str> {
    use symbia_events::DomainEvent;
    let kind = |e: &CompletionEvent| {
        e.event_type().trim_start_matches("symbia.integrations.completion.completion-").trim_end_matches(".v1")
    };
    events.iter().map(kind).collect()
}

#[test]
fn a_completion_is_requested_attempted_and_completed() {
    let events = history([request().into(), start(1).into(), complete(1).into()]);
    assert_eq!(kinds(&events), ["requested", "attempt-started", "completed"]);
    let CompletionEvent::CompletionCompleted(end) = &events[2] else { unreachable!() };
    assert_eq!((end.provider.as_str(), end.attempts, end.usage.total_tokens), ("symbia-labs", 1, 3));
    given::<Completion>(events).when(complete(1), &worker()).rejected("COMPLETION_OVER");
}

#[test]
fn budgets_are_kept_before_the_first_attempt_and_named_by_whichever_end() {
    let admit = || AdmitCompletion { request_id: "r1".into(), budgets: vec!["b1".into()] };
    let begun = history([request().into(), admit().into(), start(1).into()]);
    for end in [CompletionCommand::from(complete(1)), fail(Some(1)).into(), cancel().into()] {
        let budgets = match &given_state(&begun).decide(end, &worker(), AT).unwrap().events[0] {
            CompletionEvent::CompletionCompleted(e) => e.budgets.clone(),
            CompletionEvent::CompletionFailed(e) => e.budgets.clone(),
            CompletionEvent::CompletionCancelled(e) => e.budgets.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(budgets, ["b1"]);
    }
    given::<Completion>(begun).when(admit(), &worker()).rejected("STALE_ATTEMPT");
    let waiting = history([request().into()]);
    given::<Completion>(waiting).when(admit(), &person("ada")).rejected("FORBIDDEN");
}

#[test]
fn options_are_sealed_with_the_same_key_as_the_messages() {
    let foreign = RequestCompletion { options: Some(key().seal("{}")), ..of_ada() };
    given::<Completion>([]).when(foreign, &person("ada")).rejected("WRONG_KEY");
    let more = PromptMessage { more: Some(key().seal("{}")), ..of_ada().messages.remove(0) };
    let foreign = RequestCompletion { messages: vec![more], ..of_ada() };
    given::<Completion>([]).when(foreign, &person("ada")).rejected("WRONG_KEY");
}

#[test]
fn a_lost_worker_is_superseded_and_its_late_answer_is_refused() {
    let events = history([request().into(), start(1).into(), start(2).into()]);
    assert_eq!(kinds(&events), ["requested", "attempt-started", "attempt-failed", "attempt-started"]);
    given::<Completion>(events.clone()).when(complete(1), &worker()).rejected("STALE_ATTEMPT");
    given::<Completion>(events.clone()).when(start(2), &worker()).rejected("STALE_ATTEMPT");
    assert!(given_state(&events).decide(complete(2).into(), &worker(), AT).is_ok());
}

fn given_state(events: &[CompletionEvent]) -> Completion {
    let mut state = Completion::default();
    events.iter().for_each(|e| state.apply(e));
    state
}

#[test]
fn it_may_fail_without_an_attempt_but_not_past_one() {
    assert_eq!(kinds(&history([request().into(), fail(None).into()])), ["requested", "failed"]);
    let running = || history([request().into(), start(1).into()]);
    given::<Completion>(running()).when(fail(None), &worker()).rejected("STALE_ATTEMPT");
    let retried = history([request().into(), start(1).into(), fail_attempt(1).into()]);
    given::<Completion>(retried.clone()).when(complete(1), &worker()).rejected("STALE_ATTEMPT");
    let CompletionEvent::CompletionFailed(end) =
        given_state(&retried).decide(fail(None).into(), &worker(), AT).unwrap().events.remove(0)
    else {
        unreachable!()
    };
    assert_eq!((end.status_code, end.retryable, end.attempts), (504, true, 1));
}

#[test]
fn only_the_platform_works_on_it_and_only_its_requester_stops_it() {
    let running = || history([request().into(), start(1).into()]);
    given::<Completion>(running()).when(complete(1), &person("eve")).rejected("FORBIDDEN");
    given::<Completion>(running()).when(cancel(), &person("eve")).rejected("NOT_FOUND");
    let requested = Completion::default().decide(of_ada().into(), &person("ada"), AT).unwrap().events;
    assert!(given_state(&requested).decide(cancel().into(), &person("ada"), AT).is_ok());
}

#[test]
fn what_was_said_is_handed_in_once_and_only_where_it_is_wanted() {
    let running = || history([request().into(), start(1).into()]);
    let keep = || KeepPartialAnswer {
        request_id: "r1".into(),
        content: key().seal("hel"),
        content_digest: key().digest("hel"),
    };
    let kept = |cancel: CancelCompletion| {
        let mut events = running();
        events.extend(given_state(&events).decide(cancel.into(), &worker(), AT).unwrap().events);
        events
    };
    given::<Completion>(running()).when(keep(), &worker()).rejected("COMPLETION_OVER");
    given::<Completion>(kept(cancel())).when(keep(), &worker()).rejected("COMPLETION_OVER");
    let wanted = kept(CancelCompletion { keep_partial: true, ..cancel() });
    given::<Completion>(wanted.clone()).when(keep(), &person("ada")).rejected("FORBIDDEN");
    let mut handed_in = wanted;
    handed_in.extend(given_state(&handed_in).decide(keep().into(), &worker(), AT).unwrap().events);
    assert_eq!(kinds(&handed_in), ["requested", "attempt-started", "cancelled", "partial-kept"]);
    given::<Completion>(handed_in).when(keep(), &worker()).rejected("COMPLETION_OVER");
}

#[test]
fn nobody_but_the_platform_asks_for_a_run() {
    let mut forged = request();
    forged.context.rule_run_id = Some("run".into());
    given::<Completion>([]).when(forged, &person("eve")).rejected("FORBIDDEN");
}

#[test]
fn a_prompt_is_sealed_by_who_asks_and_in_a_conversation_with_its_key() {
    given::<Completion>([]).when(of_ada(), &person("eve")).rejected("WRONG_KEY");
    let to = AggregateRef::of_subject("symbia.cmd.integrations.org.completion.r1").unwrap();
    let context = CompletionContext { conversation_id: Some("c1".into()), ..CompletionContext::default() };
    let foreign = RequestCompletion { context, ..request() };
    let refused = Completion::belongs(&foreign.clone().into(), &to).map_err(|r| r.code.into_owned());
    assert_eq!(refused, Err("WRONG_KEY".to_owned()));
    let content = SubjectKey::from_bytes(content_key_id("org", "c1"), [1; 32]).seal("hi");
    let own = RequestCompletion { messages: vec![PromptMessage::text(PromptRole::User, content)], ..foreign };
    assert_eq!(Completion::belongs(&own.into(), &to), Ok(()));
}

#[test]
fn an_answer_is_forgotten_by_whose_it_is_once_it_has_its_end() {
    let forget = || ForgetCompletion { request_id: "r1".into() };
    let (ada, asked) = (person("ada"), CompletionCommand::from(of_ada()));
    let mut state = Completion::default();
    let mut then = |command: CompletionCommand, by: &Actor| {
        let decided = state.decide(command, by, AT).map(|decision| decision.events).map_err(|r| r.code)?;
        decided.iter().for_each(|event| state.apply(event));
        Ok::<_, std::borrow::Cow<'static, str>>(decided)
    };
    assert_eq!(then(forget().into(), &ada).unwrap_err(), "NOT_FOUND");
    then(asked, &ada).unwrap();
    then(start(1).into(), &worker()).unwrap();
    assert_eq!(then(forget().into(), &ada).unwrap_err(), "CONFLICT");
    then(complete(1).into(), &worker()).unwrap();
    assert_eq!(then(forget().into(), &person("eve")).unwrap_err(), "NOT_FOUND");
    let told = CompletionForgotten { request_id: "r1".into(), by: "ada".into() };
    assert_eq!(then(forget().into(), &ada).unwrap(), [told.into()]);
    assert_eq!(then(forget().into(), &ada).unwrap_err(), "NOT_FOUND");
}

#[test]
fn a_request_that_makes_no_sense_is_refused() {
    let refused = |c: RequestCompletion| given::<Completion>([]).when(c, &worker()).rejected("VALIDATION_FAILED");
    refused(RequestCompletion { messages: Vec::new(), ..request() });
    let long = PromptMessage::text(PromptRole::User, key().seal(&"x".repeat(MAX_PROMPT + 1)));
    let long = RequestCompletion { messages: vec![long], ..request() };
    given::<Completion>([]).when(long, &worker()).rejected("TOO_LARGE");
    let running = history([request().into(), start(1).into()]);
    let long = CompleteCompletion { content: key().seal(&"x".repeat(MAX_TEXT + 1)), ..complete(1) };
    given::<Completion>(running).when(long, &worker()).rejected("TOO_LARGE");
    refused(RequestCompletion { operation: "sing".into(), ..request() });
    refused(RequestCompletion { deadline: Some("soon".into()), ..request() });
    refused(RequestCompletion { sampling: Sampling { temperature: Some(3.0), ..Sampling::default() }, ..request() });
    refused(RequestCompletion { sampling: Sampling { max_tokens: Some(0), ..Sampling::default() }, ..request() });
    given::<Completion>(history([request().into()])).when(request(), &worker()).rejected("CONFLICT");
    given::<Completion>([]).when(start(1), &worker()).rejected("NOT_FOUND");
}

fn any_command() -> impl Strategy<Value = CompletionCommand> {
    (0..6u8, 0..4u32).prop_map(|(which, n)| match which {
        0 => request().into(),
        1 => start(n).into(),
        2 => fail_attempt(n).into(),
        3 => complete(n).into(),
        4 => fail((n > 0).then_some(n)).into(),
        _ => cancel().into(),
    })
}

proptest! {
    #[test]
    fn there_is_at_most_one_end_and_nothing_follows_it(commands in proptest::collection::vec(any_command(), 0..40)) {
        let (mut state, mut events) = (Completion::default(), Vec::new());
        for command in commands {
            if let Ok(decision) = state.decide(command, &worker(), AT) {
                decision.events.iter().for_each(|e| state.apply(e));
                events.extend(decision.events);
            }
        }
        let kinds = kinds(&events);
        let end = |kind: &&str| ["completed", "failed", "cancelled"].contains(kind);
        prop_assert!(kinds.iter().filter(|kind| end(kind)).count() <= 1);
        prop_assert!(kinds.iter().position(end).is_none_or(|at| at + 1 == kinds.len()));
        let started = events.iter().filter_map(|e| match e {
            CompletionEvent::CompletionAttemptStarted(e) => Some(e.attempt),
            _ => None,
        });
        prop_assert!(started.enumerate().all(|(index, attempt)| attempt as usize == index + 1));
    }
}

fn decided(state: &Completion, command: impl Into<CompletionCommand>) -> Vec<CompletionEvent> {
    state.decide(command.into(), &worker(), AT).unwrap().events
}

fn after(mut state: Completion, command: impl Into<CompletionCommand>) -> Completion {
    decided(&state, command).iter().for_each(|event| state.apply(event));
    state
}

#[test]
fn of_two_attempts_side_by_side_one_ends_the_completion_and_both_count() {
    let beside = |attempt: u32, hedged: u32| StartCompletionAttempt {
        hedges: Some(hedged),
        provider: "openai".into(),
        ..start(attempt)
    };
    let stale = |state: &Completion, command: CompletionCommand| {
        assert_eq!(
            state.decide(command, &worker(), AT).map_err(|r| r.code.into_owned()).err(),
            Some("STALE_ATTEMPT".into())
        );
    };
    let begun = after(after(Completion::default(), request()), start(1));
    stale(&begun, beside(2, 3).into());
    let both = after(begun, beside(2, 1));
    stale(&both, beside(3, 2).into());

    let usage = Usage { prompt_tokens: 5, total_tokens: 5, estimated: true, ..Usage::default() };
    let spent = Some(Spent { usage, cost: None });
    for (winner, loser, provider) in [(1, 2, "symbia-labs"), (2, 1, "openai")] {
        let lost = FailCompletionAttempt { code: Some(HEDGE_LOST.into()), spent, ..fail_attempt(loser) };
        let one = after(both.clone(), lost);
        stale(&one, complete(loser).into());
        let CompletionEvent::CompletionCompleted(e) = decided(&one, complete(winner)).remove(0) else {
            panic!("no end")
        };
        assert_eq!((e.attempt, e.attempts, e.provider.as_str(), e.hedged), (winner, 2, provider, spent));
        assert_eq!(after(one, complete(winner)).phase(), Phase::Over);
    }
    // A worker that takes over finds both lost.
    let lost = |event: &CompletionEvent| matches!(event, CompletionEvent::CompletionAttemptFailed(e) if e.code.as_deref() == Some("worker_lost"));
    let events = decided(&both, start(3));
    assert_eq!((events.len(), events.iter().filter(|event| lost(event)).count()), (3, 2));
}
