//! A person writes, an assistant answers: on a real broker and database, with models that behave and models that do not,
//! and with everything killed at every step.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use futures::{StreamExt, future::join_all};
use serde_json::{Value, json};
use support::{
    House, Model, SOON, Talk, ada, org, until,
    upstream::{KEY, Mode, Upstream},
};
use symbia_commands::{
    Actor,
    assistants::{CancelRuleRun, RuleRunCommand, seed::ASSISTANT_KEY},
};
use symbia_events::{
    AggregateRef, DomainEvent, Service,
    assistants::RuleRunEvent,
    integrations::{CompletionEvent, ErrorCategory},
    messaging::ConversationEvent,
};
use symbia_workers::assistants::replay;

const ASSISTANT: &str = "assistant:coordinator";

async fn house(mode: Mode) -> (House, Upstream) {
    let upstream = Upstream::start(mode).await;
    let house = House::open(Model::OpenAi(upstream.options().into())).await;
    (house, upstream)
}

fn names<E: DomainEvent>(events: &[E]) -> Vec<&'static str> {
    events.iter().map(|e| e.event_type().rsplit('.').nth(1).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_answered_once_by_template_and_once_by_the_model() {
    let (house, upstream) = house(Mode::Answers(vec!["2 + 2", " = ", "4 ✓"])).await;
    let talk = house.talk(&[ASSISTANT_KEY]).await;
    house.ask(&talk, "/help").await;
    assert!(house.answer(&talk).await.starts_with("I am Symbia."));
    assert!(upstream.asked().is_empty(), "a template needs no model");

    let other = house.talk(&[ASSISTANT_KEY]).await;
    let mut live = house.live(&other).await;
    house.ask(&other, "what is 2+2?").await;
    assert_eq!(house.answer(&other).await, "2 + 2 = 4 ✓");

    // Exactly this was asked, with the key, and nothing that nobody wanted.
    let [asked] = &upstream.asked()[..] else { panic!("one request") };
    assert_eq!(asked.headers["authorization"], format!("Bearer {KEY}"));
    let expected = json!({
        "model": "gpt-4o-mini",
        "messages": [
            { "role": "system", "content": "You are a helpful assistant." },
            { "role": "user", "content": "what is 2+2?" },
        ],
        "stream": true,
        "stream_options": { "include_usage": true },
    });
    assert_eq!(asked.body, expected);

    // The stream named the message that was stored, and held its whole text.
    let reply = house.messages(&other).await.pop().unwrap();
    let mut streamed = String::new();
    for index in 0..3 {
        let delta = tokio::time::timeout(SOON, live.next()).await.unwrap().unwrap();
        let delta: Value = serde_json::from_slice(&delta.payload).unwrap();
        streamed.push_str(delta["delta"].as_str().unwrap());
        let expected = json!({
            "type": "message:delta", "conversationId": other.address.id, "runId": reply.run_id, "messageId": reply.message_id,
            "attempt": 1, "index": index, "delta": delta["delta"],
        });
        assert_eq!(delta, expected);
    }
    assert_eq!(streamed, "2 + 2 = 4 ✓");

    let run_id = house.run_of(&other).await;
    let completion = house.completion(&run_id).await;
    assert_eq!(names(&completion), ["completion-requested", "completion-attempt-started", "completion-completed"]);
    let CompletionEvent::CompletionCompleted(done) = &completion[2] else { panic!() };
    assert_eq!((done.provider.as_str(), done.model.as_str(), done.usage.total_tokens), ("openai", "fake-1", 18));
    let run = names(&house.run(&run_id).await);
    assert_eq!(run.last(), Some(&"rule-run-completed"), "{run:?}");

    for talk in [&talk, &other] {
        let run_id = house.run_of(talk).await;
        let replayed = replay(&house.client, &house.keys, &house.secrets, &run_id).await.unwrap();
        assert_eq!(replayed.replay.divergences, [], "{run_id}");
        assert!(replayed.replay.same >= 2 && replayed.replay.effects >= 1, "{:?}", replayed.replay);
    }
    assert!(upstream.asked().is_empty(), "replay asks no model");

    // What was said before is part of the next prompt.
    house.ask(&other, "and 3+3?").await;
    let waiting = async {
        while house.said(&other).await.len() < 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.unwrap();
    let roles: Vec<_> =
        upstream.asked()[0].body["messages"].as_array().unwrap().iter().map(|m| m["role"].clone()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user"]);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_said_in_the_conversation_and_stands_in_the_log() {
    let (house, upstream) = house(Mode::Hangs).await;
    let cut = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"half of it\"}}]}\n\ndata: {\"choi";
    let error = |code: &str| json!({ "error": { "message": format!("no {KEY}"), "type": "x", "code": code } });
    let refuses = |status, code: &str| Mode::Refuses(status, Vec::new(), error(code));
    let limited =
        Mode::Refuses(429, vec![("retry-after", "17"), ("x-request-id", "req-9")], error("rate_limit_exceeded"));
    let cases = [
        (Mode::Hangs, ErrorCategory::Timeout, "timeout", "took too long"),
        (refuses(500, "oops"), ErrorCategory::Provider, "provider_error", "failed or gave an unusable answer"),
        (limited, ErrorCategory::RateLimit, "rate_limited", "asked too often"),
        (refuses(429, "insufficient_quota"), ErrorCategory::Quota, "quota_exceeded", "budget"),
        (refuses(401, "invalid_api_key"), ErrorCategory::Auth, "key_refused", "refused our key"),
        (refuses(404, "model_not_found"), ErrorCategory::NotFound, "model_not_found", "does not exist"),
        (refuses(400, "context_length_exceeded"), ErrorCategory::Validation, "context_length_exceeded", "longer than"),
        (Mode::Says("data: <html>\n\n"), ErrorCategory::Provider, "invalid_response", "unusable answer"),
        (Mode::Says("hello"), ErrorCategory::Provider, "truncated_stream", "unusable answer"),
        (Mode::Says(cut), ErrorCategory::Provider, "truncated_stream", "unusable answer"),
        (
            Mode::Says("data: {\"error\":{\"message\":\"busy\"}}\n\n"),
            ErrorCategory::Provider,
            "provider_error",
            "unusable",
        ),
    ];
    for (mode, category, code, said) in cases {
        upstream.set(mode.clone());
        let talk = house.talk(&[ASSISTANT_KEY]).await;
        house.ask(&talk, "what is 2+2?").await;
        let answer = house.answer(&talk).await;
        assert!(answer.contains(said), "{mode:?}: {answer}");
        let completion = house.completion(&house.run_of(&talk).await).await;
        let Some(CompletionEvent::CompletionFailed(failed)) = completion.last() else { panic!("{completion:?}") };
        assert_eq!((failed.category, failed.code.as_deref()), (category, Some(code)), "{mode:?}");
        let message = talk.key.open(failed.message.as_ref().unwrap()).unwrap();
        assert!(message.contains("127.0.0.1") && !message.contains(KEY), "{message}");
        if code == "rate_limited" {
            assert!(message.contains("429") && message.contains("17 s"), "{message}");
            assert_eq!(failed.upstream.as_ref().unwrap().request_id.as_deref(), Some("req-9"));
        }
        if matches!(mode, Mode::Says(text) if text == cut) {
            assert_eq!(talk.key.open(failed.partial_content.as_ref().unwrap()).unwrap(), "half of it");
        }
        let run = house.run(&house.run_of(&talk).await).await;
        assert!(matches!(run.last(), Some(RuleRunEvent::RuleRunFailed(_))), "{run:?}");
    }

    // An answer that is whole although it is not streamed.
    upstream.set(Mode::Whole(json!({ "id": "x", "model": "m", "choices": [
        { "index": 0, "message": { "role": "assistant", "content": "4" }, "finish_reason": "stop" } ] })));
    let talk = house.talk(&[ASSISTANT_KEY]).await;
    house.ask(&talk, "what is 2+2?").await;
    assert_eq!(house.answer(&talk).await, "4");

    let talk = house.talk(&["ghost"]).await;
    house.ask(&talk, "anybody?").await;
    let answer = house.answer(&talk).await;
    assert!(answer.contains("no such assistant"), "{answer}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_under_another_conversations_key_is_neither_answered_nor_shown_to_the_model() {
    let (house, upstream) = house(Mode::Answers(vec!["2 + 2 = 4"])).await;
    let (secret, talk) = (house.talk(&[]).await, house.talk(&[ASSISTANT_KEY]).await);
    house.ask(&secret, "the code is 1234").await;
    let stolen = house.messages(&secret).await.remove(0);
    // The conversation itself takes no such text; the engine does not rely on it.
    house.forge(&talk.address, &ConversationEvent::from(stolen)).await;
    house.ask(&talk, "what is 2+2?").await;
    let answered = async {
        while house.messages(&talk).await.len() < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, answered).await.unwrap();
    let [asked] = &upstream.asked()[..] else { panic!("the model is asked once") };
    assert!(!asked.body.to_string().contains("1234"), "{}", asked.body);
    // A conversation's events are taken in order: the first was passed over.
    assert_eq!(house.subjects("symbia.evt.assistants.org.rule-run.*").await, 1, "one run");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_of_another_organization_takes_no_message_and_stays_as_it_was() {
    let (house, upstream) = house(Mode::Answers(vec!["2 + 2 = 4"])).await;
    let talk = house.talk(&[ASSISTANT_KEY]).await;
    let stranger = Actor { orgs: Vec::new(), id: "eve".to_owned(), ..ada() };
    let colleague = Actor { id: "bob".to_owned(), ..ada() };
    for (who, code) in [(stranger, "ORG_ACCESS_DENIED"), (colleague, "NOT_PARTICIPANT")] {
        let refused = house.say(&talk, "let me in", &who).await.1.rejection.unwrap();
        assert_eq!(refused.code, code);
    }
    house.ask(&talk, "what is 2+2?").await;
    assert_eq!(house.answer(&talk).await, "2 + 2 = 4");
    assert_eq!((house.said(&talk).await.len(), upstream.asked().len()), (2, 1));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_model_the_failure_says_what_is_missing() {
    for (model, code, told) in
        [(Model::None, "no_provider", "OPENAI_API_KEY"), (Model::Local, "no_provider", "symbia work --roles inference")]
    {
        let house = House::open(model).await;
        let talk = house.talk(&[ASSISTANT_KEY]).await;
        house.ask(&talk, "what is 2+2?").await;
        let answer = house.answer(&talk).await;
        assert!(answer.contains("no language model is available"), "{answer}");
        let completion = house.completion(&house.run_of(&talk).await).await;
        let Some(CompletionEvent::CompletionFailed(failed)) = completion.last() else { panic!("{completion:?}") };
        assert_eq!(failed.code.as_deref(), Some(code));
        let message = talk.key.open(failed.message.as_ref().unwrap()).unwrap();
        assert!(message.contains(told), "{message}");
        house.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_stops_the_model_within_200_ms() {
    let (house, upstream) = house(Mode::Endless).await;
    for by_event in [true, false] {
        let talk = house.talk(&[ASSISTANT_KEY]).await;
        let (mut live, mut log) = (house.live(&talk).await, house.log().await);
        house.ask(&talk, "tell me a story").await;
        let delta = tokio::time::timeout(SOON, live.next()).await.unwrap().unwrap();
        let delta: Value = serde_json::from_slice(&delta.payload).unwrap();
        let run_id = delta["runId"].as_str().unwrap().to_owned();
        let begun = Instant::now();
        if by_event {
            let run = AggregateRef::new(Service::Assistants, org(), "rule-run", &run_id).unwrap();
            let cancel = RuleRunCommand::from(CancelRuleRun { reason: "user".to_owned(), keep_partial: None });
            house.command(&run, &cancel, &ada()).await;
        } else {
            let requested = house.completion(&run_id).await;
            let CompletionEvent::CompletionRequested(e) = &requested[0] else { panic!() };
            house.client.publish(format!("symbia.live.org.cancel.{}", e.request_id), "".into()).await.unwrap();
        }
        let stopped = async {
            while upstream.left().is_none_or(|at| at < begun) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(SOON, stopped).await.expect("the model stops");
        let took = upstream.left().unwrap() - begun;
        println!("stopped after {} ms", took.as_millis());
        assert!(took < Duration::from_millis(200), "{took:?}");
        until(&mut log, "completion-cancelled.v1").await;
        let ended = async {
            while !house.run(&run_id).await.iter().any(support::is_end) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SOON, ended).await.unwrap();
        assert_eq!(names(&house.run(&run_id).await).last(), Some(&"rule-run-cancelled"));
        assert_eq!(house.said(&talk).await.len(), 1, "nothing was said");
    }
    house.close().await;
}

// The events of an exchange at which somebody dies.
const STEPS: [&str; 6] = [
    "message-sent.v1",
    "rule-run-started.v1",
    "completion-requested.v1",
    "completion-attempt-started.v1",
    "completion-completed.v1",
    "action-completed.v1",
];

async fn one_reply(house: &House, talk: &Talk, what: &str) {
    assert_eq!(house.answer(talk).await, "2 + 2 = 4", "{what}");
    let said = house.said(talk).await;
    assert_eq!(said.len(), 2, "{what}: {said:?}");
    let run_id = house.run_of(talk).await;
    let ends = house.run(&run_id).await.iter().filter(|e| support::is_end(e)).count();
    assert_eq!(ends, 1, "{what}");
    let replayed = replay(&house.client, &house.keys, &house.secrets, &run_id).await.unwrap();
    assert_eq!(replayed.replay.divergences, [], "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn engine_and_router_killed_at_each_step_give_one_reply() {
    let (mut house, _upstream) = house(Mode::Answers(vec!["2 + 2 = 4"])).await;
    for step in STEPS {
        let (talk, mut log) = (house.talk(&[ASSISTANT_KEY]).await, house.log().await);
        let (asked, _) = tokio::join!(house.ask(&talk, "what is 2+2?"), until(&mut log, step));
        house.engine.kill();
        house.router.kill();
        house.restart_engine();
        house.restart_router();
        one_reply(&house, &talk, &format!("killed at {step}, message {asked}")).await;
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_killed_at_each_step_gives_one_reply() {
    let (house, _upstream) = house(Mode::Answers(vec!["2 + 2 = 4"])).await;
    // Engine and router have come.
    let talk = house.talk(&[ASSISTANT_KEY]).await;
    house.ask(&talk, "what is 2+2?").await;
    one_reply(&house, &talk, "before any of it").await;
    for step in STEPS {
        let (talk, mut log) = (house.talk(&[ASSISTANT_KEY]).await, house.log().await);
        let kill = async {
            until(&mut log, step).await;
            house.broker.kill();
        };
        tokio::join!(house.ask(&talk, "what is 2+2?"), kill);
        house.broker.ready().await.unwrap();
        // The first read may meet a connection that is not back yet.
        let back = async {
            while house.client.flush().await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, back).await.unwrap();
        one_reply(&house, &talk, &format!("broker killed at {step}")).await;
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_the_stream_are_told_when_an_attempt_is_begun_again() {
    let (mut house, upstream) = house(Mode::Endless).await;
    let talk = house.talk(&[ASSISTANT_KEY]).await;
    let mut live = house.live(&talk).await;
    house.ask(&talk, "what is 2+2?").await;
    tokio::time::timeout(SOON, live.next()).await.unwrap().unwrap();
    house.router.kill();
    upstream.set(Mode::Answers(vec!["2 + 2 = 4"]));
    house.restart_router();
    one_reply(&house, &talk, "router killed while the model answered").await;
    let completion = house.completion(&house.run_of(&talk).await).await;
    let story = [
        "completion-requested",
        "completion-attempt-started",
        "completion-attempt-failed",
        "completion-attempt-started",
        "completion-completed",
    ];
    assert_eq!(names(&completion), story);
    let reset = async {
        loop {
            let message: Value = serde_json::from_slice(&live.next().await.unwrap().payload).unwrap();
            if message["type"] == "message:reset" {
                return message;
            }
        }
    };
    let reset = tokio::time::timeout(SOON, reset).await.unwrap();
    assert_eq!((&reset["attempt"], &reset["conversationId"]), (&json!(2), &json!(talk.address.id)));
    let after: Value = serde_json::from_slice(&live.next().await.unwrap().payload).unwrap();
    assert_eq!((&after["attempt"], &after["index"], &after["delta"]), (&json!(2), &json!(0), &json!("2 + 2 = 4")));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_conversations_at_once_lose_nothing() {
    let (house, _upstream) = house(Mode::Answers(vec!["2 + 2 = 4"])).await;
    let talks: Vec<Talk> = join_all((0..200).map(|_| house.talk(&[ASSISTANT_KEY]))).await;
    let mut log = house.log().await;
    let begun = Instant::now();
    join_all(talks.iter().map(|talk| house.ask(talk, "what is 2+2?"))).await;
    for _ in 0..200 {
        until(&mut log, "rule-run-completed.v1").await;
    }
    let took = begun.elapsed();
    println!("200 exchanges in {} ms: {:.0}/s", took.as_millis(), 200.0 / took.as_secs_f64());
    for talk in &talks {
        let said = house.said(talk).await;
        assert_eq!(said.len(), 2, "{said:?}");
        assert_eq!(said[1], (ASSISTANT.to_owned(), "2 + 2 = 4".to_owned()));
    }
    house.close().await;
}

#[cfg(feature = "llama")]
mod local {
    use std::path::PathBuf;

    use symbia_workers::models::{InferenceWorker, Options};
    use tokio_util::sync::CancellationToken;

    use super::{support::Process, *};

    // The engine itself outlives its process's runtime here; what is tested is that nobody hears of it any more.
    fn inference(house: &House, models: PathBuf) -> Process {
        let url = house.broker.url();
        Process::start(async move {
            let client = async_nats::connect(url).await.unwrap();
            let worker = InferenceWorker::start(client, Options::new(models)).unwrap();
            worker.run(CancellationToken::new()).await.unwrap();
        })
    }

    fn shipped() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_model_that_ships_answers_and_survives_the_death_of_its_process() {
        let house = House::open(Model::Local).await;
        let mut process = inference(&house, shipped());
        let talk = house.talk(&[ASSISTANT_KEY]).await;
        let mut live = house.live(&talk).await;
        house.ask(&talk, "what is 2+2?").await;
        one_reply(&house, &talk, "the model that ships").await;
        let first: Value = serde_json::from_slice(&live.next().await.unwrap().payload).unwrap();
        assert_eq!(first["type"], "message:delta");
        let completion = house.completion(&house.run_of(&talk).await).await;
        let Some(CompletionEvent::CompletionCompleted(done)) = completion.last() else { panic!("{completion:?}") };
        assert_eq!((done.provider.as_str(), done.model.as_str()), ("symbia-labs", "pico-chat"));
        assert!(done.usage.completion_tokens > 3 && !done.usage.estimated, "{:?}", done.usage);

        // Killed at work: the next process answers, and the attempt that was lost is in the log.
        let talk = house.talk(&[ASSISTANT_KEY]).await;
        let mut log = house.log().await;
        let kill = async {
            until(&mut log, "completion-attempt-started.v1").await;
            process.kill();
        };
        tokio::join!(house.ask(&talk, "what is 2+2?"), kill);
        let mut process = inference(&house, shipped());
        one_reply(&house, &talk, "the inference process killed").await;
        process.kill();
        house.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn cancelling_reaches_the_process_that_has_the_model_within_200_ms() {
        let house = House::open(Model::Local).await;
        let mut process = inference(&house, shipped());
        let talk = house.talk(&[ASSISTANT_KEY]).await;
        let (mut live, mut told) =
            (house.live(&talk).await, house.client.subscribe("symbia.inference.cancel").await.unwrap());
        house.client.flush().await.unwrap();
        house.ask(&talk, "Tell me a story.").await;
        let delta = tokio::time::timeout(SOON, live.next()).await.unwrap().unwrap();
        let delta: Value = serde_json::from_slice(&delta.payload).unwrap();
        let run_id = delta["runId"].as_str().unwrap();
        let run = AggregateRef::new(Service::Assistants, org(), "rule-run", run_id).unwrap();
        let begun = Instant::now();
        let cancel = RuleRunCommand::from(CancelRuleRun { reason: "user".to_owned(), keep_partial: None });
        house.command(&run, &cancel, &ada()).await;
        tokio::time::timeout(SOON, told.next()).await.unwrap().unwrap();
        assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
        let ended = async {
            while !house.run(run_id).await.iter().any(support::is_end) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SOON, ended).await.unwrap();
        assert_eq!(names(&house.run(run_id).await).last(), Some(&"rule-run-cancelled"));
        process.kill();
        house.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_missing_a_corrupt_and_an_overlong_one_are_told_apart() {
        let empty = tempfile::tempdir().unwrap();
        let corrupt = tempfile::tempdir().unwrap();
        std::fs::write(corrupt.path().join("pico-chat.gguf"), b"GGUF, but not really").unwrap();
        let long = "what is 2+2? ".repeat(4000);
        let cases = [
            (empty.path().to_owned(), "what is 2+2?", "no_model", "no language model is available"),
            (corrupt.path().to_owned(), "what is 2+2?", "model_invalid", "damaged"),
            (shipped(), long.as_str(), "context_length_exceeded", "longer than the model can read"),
        ];
        let house = House::open(Model::Local).await;
        for (models, question, code, said) in cases {
            let mut process = inference(&house, models);
            let talk = house.talk(&[ASSISTANT_KEY]).await;
            house.ask(&talk, question).await;
            let answer = house.answer(&talk).await;
            assert!(answer.contains(said), "{answer}");
            let completion = house.completion(&house.run_of(&talk).await).await;
            let Some(CompletionEvent::CompletionFailed(failed)) = completion.last() else { panic!("{completion:?}") };
            assert_eq!(failed.code.as_deref(), Some(code));
            process.kill();
        }
        house.close().await;
    }
}
