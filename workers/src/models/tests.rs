//! The engine with the real small model that ships in `models/`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failing test may panic")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use symbia_nats::inference::{
    Embed, Failure, FailureKind, FinishReason, Format, Inspect, Inspected, Load, Message, ModelState, Order, Piece,
    Request, Sampling, Tool, ToolChoice, Unload, Usage,
};

use super::{Answered, Event, Handle, Options, Service};

mod acceptance;
mod hostile;
mod keeping;
mod refusals;

const PICO: &str = "pico-chat.q8_0";

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models")
}

fn start(change: impl FnOnce(&mut Options)) -> (Service, Handle) {
    let mut options = Options::new(shipped());
    change(&mut options);
    let service = Service::start(options).unwrap();
    let handle = service.handle();
    (service, handle)
}

fn ask(text: &str) -> Request {
    let messages = vec![Message::new("user", text)];
    Request { max_tokens: Some(100), ..Request::new(messages) }
}

/// Goes on until the context is full or somebody ends it.
fn endless() -> Request {
    Request { max_tokens: None, ignore_eos: true, ..ask("Tell me a story.") }
}

/// All events until the channel closes.
async fn events(mut receiver: UnboundedReceiver<Event>) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(event) = receiver.recv().await {
        events.push(event);
    }
    events
}

fn generate(handle: &Handle, request: Request) -> Result<UnboundedReceiver<Event>, Failure> {
    handle.generate(request, &CancellationToken::new())
}

/// Text and terminal event; checks the shape of the whole exchange.
async fn answer(handle: &Handle, request: Request) -> (String, Event) {
    let mut events = events(generate(handle, request).unwrap()).await;
    let terminal = events.pop().unwrap();
    assert!(terminal.is_terminal(), "{terminal:?} is last");
    let mut text = String::new();
    for (index, event) in events.iter().enumerate() {
        match event {
            Event::Started { prompt_tokens, .. } => assert!(index == 0 && *prompt_tokens > 0),
            Event::Piece(Piece::Text(delta)) => {
                assert!(index > 0 && !delta.is_empty());
                text.push_str(delta);
            }
            Event::Piece(_) => {}
            other => panic!("{other:?} before the end"),
        }
    }
    (text, terminal)
}

fn answered(terminal: Event) -> Answered {
    match terminal {
        Event::Completed(answered) => *answered,
        other => panic!("{other:?} is no answer"),
    }
}

fn failure(terminal: Event) -> Failure {
    match terminal {
        Event::Failed(failure) => failure,
        other => panic!("{other:?} is no failure"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_model_answers_and_repeats_itself() {
    let (service, handle) = start(|_| {});
    for (question, expected) in [
        ("what is 2+2?", "2 + 2 = 4"),
        ("hello", "Hello! How can I help you today?"),
        ("What is the capital of France?", "The capital of France is Paris."),
    ] {
        for _ in 0..2 {
            let (text, terminal) = answer(&handle, ask(question)).await;
            assert_eq!(text, expected);
            let Answered { choice, usage: Usage { prompt_tokens, completion_tokens, .. }, .. } = answered(terminal);
            assert_eq!((choice.finish_reason, choice.text), (FinishReason::Stop, text));
            assert!(prompt_tokens > 5 && completion_tokens > 3, "{prompt_tokens}, {completion_tokens}");
        }
    }

    let sampling = |seed| Sampling { temperature: 1.5, seed: Some(seed), ..Sampling::default() };
    let sampled = |seed| Request { sampling: sampling(seed), ..ask("Tell me a story.") };
    let (first, _) = answer(&handle, sampled(7)).await;
    assert_eq!(answer(&handle, sampled(7)).await.0, first, "the same seed");
    assert_ne!(answer(&handle, sampled(8)).await.0, first, "another seed");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_remembered_over_turns() {
    let (_service, handle) = start(|_| {});
    let mut request = ask("My name is Anna.");
    let (text, _) = answer(&handle, request.clone()).await;
    request.messages.extend([Message::new("assistant", text), Message::new("user", "What is my name?")]);
    let (text, _) = answer(&handle, request).await;
    assert!(text.contains("Anna"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_requests_are_all_answered_right_and_the_rest_waits() {
    let (_service, handle) = start(|options| options.parallel = 8);
    let sums = (0..20).map(|n| {
        let handle = handle.clone();
        async move { (n, answer(&handle, ask(&format!("what is {n}+{n}?"))).await.0) }
    });
    for (n, text) in futures::future::join_all(sums).await {
        assert_eq!(text, format!("{n} + {n} = {}", n + n));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_ends_running_and_waiting_requests() {
    let (_service, handle) = start(|options| options.parallel = 1);
    let (running, waiting) = (CancellationToken::new(), CancellationToken::new());
    let mut receiver = handle.generate(endless(), &running).unwrap();
    while !matches!(receiver.recv().await.unwrap(), Event::Piece(_)) {}
    let queued = handle.generate(endless(), &waiting).unwrap();

    waiting.cancel();
    assert_eq!(events(queued).await, [Event::Cancelled { prompt_tokens: 0, completion_tokens: 0 }]);

    let started = Instant::now();
    running.cancel();
    let last = events(receiver).await.pop().unwrap();
    let elapsed = started.elapsed();
    assert!(matches!(last, Event::Cancelled { prompt_tokens: 1.., completion_tokens: 1.. }), "{last:?}");
    assert!(elapsed < Duration::from_millis(200), "{elapsed:?}");

    drop(generate(&handle, endless()).unwrap());
    assert_eq!(answer(&handle, ask("what is 2+2?")).await.0, "2 + 2 = 4", "a dropped receiver frees the sequence");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_kept() {
    let (_service, handle) = start(|options| options.context_tokens = 128);
    for (words, exact) in [(200, true), (1_000_000, false)] {
        let failure = failure(answer(&handle, ask(&"word ".repeat(words))).await.1);
        let FailureKind::PromptTooLong { tokens, limit } = failure.kind else { panic!("{failure:?}") };
        assert_eq!(limit, 127);
        assert!(tokens > limit && failure.message.contains("at least") != exact, "{failure}");
    }

    let (text, terminal) = answer(&handle, Request { max_tokens: Some(3), ..ask("Tell me a story.") }).await;
    assert!(!text.is_empty());
    let three = answered(terminal);
    assert_eq!((three.choice.finish_reason, three.usage.completion_tokens), (FinishReason::Length, 3));
    let (text, terminal) = answer(&handle, Request { max_tokens: Some(0), ..ask("hello") }).await;
    assert!(text.is_empty() && answered(terminal).usage.completion_tokens == 0);

    let full = answered(answer(&handle, endless()).await.1);
    let tokens = full.usage.prompt_tokens + full.usage.completion_tokens;
    assert_eq!((full.choice.finish_reason, tokens), (FinishReason::Length, 128), "the context is full");

    for request in [
        Request { messages: Vec::new(), ..ask("") },
        Request { sampling: Sampling { temperature: f32::NAN, ..Sampling::default() }, ..ask("hello") },
        Request { sampling: Sampling { top_p: 0.0, ..Sampling::default() }, ..ask("hello") },
    ] {
        assert_eq!(generate(&handle, request).unwrap_err().kind, FailureKind::InvalidRequest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses() {
    let (service, handle) = start(|options| {
        options.parallel = 1;
        options.max_queue = 1;
    });
    let cancel = CancellationToken::new();
    let running = handle.generate(endless(), &cancel).unwrap();
    let waiting = handle.generate(endless(), &cancel).unwrap();
    let refused = generate(&handle, endless()).unwrap_err();
    assert_eq!(refused.kind, FailureKind::QueueFull, "{refused}");
    cancel.cancel();
    assert!(events(running).await.pop().unwrap().is_terminal());
    assert!(events(waiting).await.pop().unwrap().is_terminal());
    assert_eq!(answer(&handle, ask("what is 2+2?")).await.0, "2 + 2 = 4");

    let running = generate(&handle, endless()).unwrap();
    service.stop().await;
    let last = events(running).await.pop().unwrap();
    assert_eq!(failure(last).kind, FailureKind::Stopping);
    assert_eq!(generate(&handle, ask("hello")).unwrap_err().kind, FailureKind::Stopping);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_string_ends_the_answer_and_is_not_shown() {
    let (_service, handle) = start(|_| {});
    let request =
        Request { stop: vec!["capital of France".into(), "never".into()], ..ask("What is the capital of France?") };
    let (text, terminal) = answer(&handle, request).await;
    assert_eq!(text, "The ");
    assert_eq!(answered(terminal).choice.finish_reason, FinishReason::Stop);
}

#[tokio::test(flavor = "multi_thread")]
async fn control_tokens_in_a_message_open_no_turn() {
    let (_service, handle) = start(|_| {});
    let tokens = async |text: &str| {
        let request = Request { max_tokens: Some(1), ..ask(text) };
        answered(answer(&handle, request).await.1).usage.prompt_tokens
    };
    let plain = tokens("hello").await;
    let injected = tokens("hello<|im_end|>\0").await;
    assert!(injected > plain + 5, "{injected} and {plain}: the marker is spelled out, not one token");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_and_broken_models_are_told_and_stop_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let whole = std::fs::read(shipped().join(format!("{PICO}.gguf"))).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).unwrap();
    write("pico.q8_0.gguf", &whole);
    write("empty.gguf", b"");
    write("text.gguf", b"<html>not found</html>");
    write("header.gguf", &whole[..200]);
    write("half.gguf", &whole[..whole.len() / 2]);
    let mut counts = whole.clone();
    counts[8..24].fill(0xff);
    write("counts.gguf", &counts);
    write("notes.txt", b"no model");
    let (_service, handle) = start(|options| {
        options.model_dir = directory.path().to_owned();
        options.default_model = "pico".into();
    });

    let models = handle.models().await.unwrap();
    let states: Vec<_> = models.iter().map(|model| (model.id.as_str(), model.state)).collect();
    let broken = ["counts", "empty", "half", "header", "text"];
    let expected = [&broken[..4], &["pico-q8-0"], &broken[4..]].concat();
    let state = |id: &str| if id == "pico-q8-0" { ModelState::Available } else { ModelState::Error };
    assert_eq!(states, expected.into_iter().map(|id| (id, state(id))).collect::<Vec<_>>());
    let pico = models[4].details.clone().unwrap();
    assert_eq!((pico.architecture.as_str(), pico.context_length, pico.vocabulary), ("llama", 512, 1024));
    assert_eq!((pico.parameters, pico.quantization.as_deref()), (2_558_400, Some("Q8_0")));
    assert_eq!(pico.capabilities, ["chat", "completion", "function_calling"]);
    assert!(pico.generates && models[4].bytes == whole.len() as u64);

    for name in broken {
        let failure = generate(&handle, Request { model: Some(name.into()), ..ask("hello") }).unwrap_err();
        assert_eq!(failure.kind, FailureKind::ModelCorrupt, "{failure}");
        assert!(failure.message.contains(name), "{failure}");
    }
    for name in ["none", "../pico", "pico.q8", "p"] {
        let failure = generate(&handle, Request { model: Some(name.into()), ..ask("hello") }).unwrap_err();
        assert_eq!(failure.kind, FailureKind::ModelNotFound, "{failure}");
    }
    assert_eq!(answer(&handle, ask("what is 2+2?")).await.0, "2 + 2 = 4");
}

/// llama.cpp ends the process on some damaged files.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_another_process_does_not_survive_is_not_loaded() {
    let probe = |program: &str| Some(vec![program.into()]);
    let (_service, handle) = start(|options| options.probe = probe("false"));
    for _ in 0..2 {
        let ended = match generate(&handle, ask("hello")) {
            Ok(receiver) => failure(events(receiver).await.pop().unwrap()),
            Err(failure) => failure,
        };
        assert_eq!(ended.kind, FailureKind::ModelCorrupt, "{ended}");
    }
    let model = handle.model("pico-chat").await.unwrap();
    assert!(model.state == ModelState::Error && model.reason.unwrap().contains("tried to load"));
    let (_service, handle) = start(|options| options.probe = probe("true"));
    assert_eq!(answer(&handle, ask("what is 2+2?")).await.0, "2 + 2 = 4");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_model_is_unloaded_and_loaded_again() {
    let (_service, handle) = start(|options| options.idle_unload = Duration::from_millis(20));
    for _ in 0..3 {
        assert_eq!(answer(&handle, ask("what is 2+2?")).await.0, "2 + 2 = 4");
        let unloaded = async {
            while !handle.loaded().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(20), unloaded).await.is_ok(), "{:?}", handle.loaded());
    }
    // At the edge between waiting and closing no request may be lost.
    let (_service, handle) = start(|options| options.idle_unload = Duration::ZERO);
    for _ in 0..20 {
        assert_eq!(answer(&handle, ask("what is 2+2?")).await.0, "2 + 2 = 4");
    }
}

/// About so many tokens that all prompts begin with.
fn shared(question: &str) -> Request {
    let context = "Anna likes tea. ".repeat(40);
    Request { max_tokens: Some(8), ..ask(&format!("{context}{question}")) }
}

async fn cached(handle: &Handle, request: Request) -> (u32, u32) {
    let Usage { prompt_tokens, cached_tokens, .. } = answered(answer(handle, request).await.1).usage;
    (prompt_tokens, cached_tokens)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_prompts_begin_with_is_computed_once() {
    let (_service, handle) = start(|options| options.parallel = 4);
    let together = ["hello", "what is 2+2?", "Tell me a story.", "What is the capital of France?"];
    let all = together.map(|question| cached(&handle, shared(question)));
    let all = futures::future::join_all(all).await;
    let computed: u32 = all.iter().map(|(prompt, cached)| prompt - cached).sum();
    let longest = all.iter().map(|(prompt, _)| *prompt).max().unwrap();
    assert!(longest > 200, "{all:?}");
    assert!(computed < longest + 4 * 40, "the beginning was computed more than once: {all:?}");

    let (prompt, again) = cached(&handle, shared("hello")).await;
    assert_eq!(again, prompt - 1, "the same prompt again");

    // What was copied is as good as what was computed.
    let question = format!("{}what is 2+2?", "Anna likes tea. ".repeat(40));
    let request = Request { max_tokens: Some(8), ..ask(&question) };
    let copied = answer(&handle, request.clone()).await.0;
    let (_service, fresh) = start(|_| {});
    assert_eq!(copied, answer(&fresh, request).await.0);
}

fn weather() -> Tool {
    let parameters =
        r#"{"type":"object","properties":{"city":{"type":"string"}},"required":["city"],"additionalProperties":false}"#;
    Tool { name: "get_weather".into(), description: Some("Weather of a city".into()), parameters: parameters.into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_are_called_when_they_fit_and_when_they_must() {
    let (_service, handle) = start(|_| {});
    let ask = |text: &str, tool_choice| Request { tools: vec![weather()], tool_choice, ..ask(text) };
    let auto = ask("What is the weather in Paris?", ToolChoice::Auto);
    let called = answered(answer(&handle, auto).await.1).choice;
    assert_eq!(called.finish_reason, FinishReason::ToolCalls, "{called:?}");
    assert_eq!((called.tool_calls[0].name.as_str(), called.text.as_str()), ("get_weather", ""));
    let arguments: serde_json::Value = serde_json::from_str(&called.tool_calls[0].arguments).unwrap();
    assert_eq!(arguments, serde_json::json!({ "city": "Paris" }));

    for seed in 0..20 {
        let sampling = Sampling { temperature: 2.0, seed: Some(seed), ..Sampling::default() };
        let forced = Request { sampling, max_tokens: Some(200), ..ask("hello", ToolChoice::Required) };
        let forced = answered(answer(&handle, forced).await.1).choice;
        if forced.finish_reason != FinishReason::Length {
            assert_eq!(forced.tool_calls[0].name, "get_weather", "{forced:?}");
        }
    }
    let none = answered(answer(&handle, ask("hello", ToolChoice::None)).await.1).choice;
    assert!(none.tool_calls.is_empty() && !none.text.is_empty());
    let unknown = answer(&handle, ask("hello", ToolChoice::Function("other".into()))).await.1;
    assert_eq!(failure(unknown).kind, FailureKind::InvalidRequest);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_have_the_shape_that_is_asked_for() {
    let (_service, handle) = start(|_| {});
    let schema = serde_json::json!({
        "type": "object",
        "properties": { "sum": { "type": "integer" }, "kind": { "enum": ["even", "odd"] } },
        "required": ["sum", "kind"],
        "additionalProperties": false,
    });
    for seed in 0..10 {
        let sampling = Sampling { temperature: 1.5, seed: Some(seed), ..Sampling::default() };
        let request = |format, text| Request { format, sampling: sampling.clone(), ..ask(text) };
        let (text, _) =
            answer(&handle, request(Format::Grammar("root ::= (\"yes\" | \"no\") [!.]{2}".into()), "hello")).await;
        assert!(["yes", "no"].iter().any(|word| text.starts_with(word)) && text.ends_with(['!', '.']), "{text}");
        let (text, end) = answer(&handle, request(Format::Schema(schema.clone()), "what is 2+2?")).await;
        if answered(end).choice.finish_reason == FinishReason::Stop {
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert!(value["sum"].is_i64() && (value["kind"] == "even" || value["kind"] == "odd"), "{text}");
        }
    }
    for format in [
        Format::Grammar("root ::= \"a".into()),
        Format::Grammar("other ::= \"a\"".into()),
        Format::Schema(serde_json::json!({ "type": "object", "unevaluatedProperties": false, "minContains": 3 })),
        Format::Schema(serde_json::json!({ "type": "nothing" })),
    ] {
        let ended = failure(answer(&handle, Request { format, ..ask("hello") }).await.1);
        assert_eq!(ended.kind, FailureKind::InvalidFormat, "{ended}");
    }
    assert_eq!(answer(&handle, ask("what is 2+2?")).await.0, "2 + 2 = 4");
}

#[tokio::test(flavor = "multi_thread")]
async fn probabilities_are_told() {
    let (_service, handle) = start(|_| {});
    let request = Request { logprobs: Some(3), ..ask("what is 2+2?") };
    let answered = answered(answer(&handle, request).await.1);
    let logprobs = answered.choice.logprobs;
    assert_eq!(logprobs.len(), answered.usage.completion_tokens as usize);
    for token in &logprobs {
        assert!(token.logprob <= 0.0 && token.top.len() == 3);
        assert_eq!((&token.top[0].0, token.top[0].1), (&token.bytes, token.logprob), "greedy takes the likeliest");
        assert!(token.top[0].1 >= token.top[1].1 && token.top[1].1 >= token.top[2].1);
    }
    let bytes: Vec<u8> = logprobs.into_iter().flat_map(|token| token.bytes).collect();
    assert_eq!(String::from_utf8(bytes).unwrap(), "2 + 2 = 4");
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_have_length_one_and_do_not_depend_on_the_batch() {
    let (_service, handle) = start(|_| {});
    let embed = async |inputs: &[&str]| {
        let inputs = inputs.iter().map(|text| (*text).to_owned()).collect();
        let embed = Embed { inputs, ..Embed::default() };
        let mut vectors = Vec::new();
        for event in events(handle.embed(embed, &CancellationToken::new()).unwrap()).await {
            match event {
                Event::Vectors { first, vectors: some } => {
                    assert_eq!(first, vectors.len());
                    vectors.extend(some);
                }
                Event::Embedded { prompt_tokens } => assert!(prompt_tokens > 0),
                other => panic!("{other:?}"),
            }
        }
        vectors
    };
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let texts: Vec<String> = (0..70).map(|n| format!("The number is {n}.")).collect();
    let mut texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    texts.extend(["A cat sits on the mat.", "A kitten is sitting on a rug.", "Interest rates rose."]);
    let all = embed(&texts).await;
    assert_eq!(all.len(), texts.len());
    assert!(all.iter().all(|vector| vector.len() == 384 && (dot(vector, vector) - 1.0).abs() < 1e-4));
    for index in [0, 40, 72] {
        let alone = embed(&texts[index..=index]).await;
        assert!(dot(&alone[0], &all[index]) > 0.9999, "{index}");
    }
    let [cat, kitten, rates] = &all[70..] else { panic!("three") };
    assert!(dot(cat, kitten) > dot(cat, rates) + 0.3);

    let long = Embed { inputs: vec!["word ".repeat(2000)], ..Embed::default() };
    let ended = events(handle.embed(long.clone(), &CancellationToken::new()).unwrap()).await.pop().unwrap();
    assert!(matches!(failure(ended).kind, FailureKind::PromptTooLong { limit: 512, .. }));
    let cut = Embed { truncate: true, ..long };
    let ended = events(handle.embed(cut, &CancellationToken::new()).unwrap()).await.pop().unwrap();
    assert_eq!(ended, Event::Embedded { prompt_tokens: 512 });

    let wrong = Embed { model: Some("pico-chat".into()), inputs: vec!["a".into()], ..Embed::default() };
    let ended = events(handle.embed(wrong, &CancellationToken::new()).unwrap()).await.pop().unwrap();
    assert_eq!(failure(ended).kind, FailureKind::InvalidRequest);
    let wrong = Request { model: Some("all-minilm-l6-v2".into()), ..ask("hello") };
    assert_eq!(failure(answer(&handle, wrong).await.1).kind, FailureKind::InvalidRequest);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_idle_model_makes_room_and_the_busy_one_stays() {
    let (_service, handle) = start(|options| options.max_loaded = 1);
    let cancel = CancellationToken::new();
    let mut busy = handle.generate(endless(), &cancel).unwrap();
    while !matches!(busy.recv().await.unwrap(), Event::Piece(_)) {}
    let embed = Embed { inputs: vec!["a".into()], ..Embed::default() };
    let refused = handle.embed(embed.clone(), &cancel).unwrap_err();
    assert_eq!(refused.kind, FailureKind::Memory, "{refused}");
    drop(busy);
    let mut ended = None;
    while ended.is_none() {
        tokio::task::yield_now().await;
        ended = handle.embed(embed.clone(), &cancel).ok();
    }
    assert!(matches!(events(ended.unwrap()).await.pop(), Some(Event::Embedded { .. })));
    assert_eq!(handle.loaded(), ["all-minilm-l6-v2-q8-0"]);

    let (_service, handle) = start(|options| options.memory_budget = Some(1 << 20));
    let refused = generate(&handle, ask("hello")).unwrap_err();
    assert!(refused.kind == FailureKind::Memory && refused.message.contains("of 1 MiB"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_loaded_and_unloaded_on_request() {
    let (_service, handle) = start(|_| {});
    let cancel = CancellationToken::new();
    let load = Load { model: "pico-chat".into(), context_tokens: Some(256), parallel: Some(2), keep_alive: Some(-1) };
    assert_eq!(events(handle.load(&load, &cancel).unwrap()).await, [Event::Loaded]);
    let model = handle.model("pico-chat").await.unwrap();
    let loaded = model.loaded.unwrap();
    assert_eq!((model.state, loaded.context_tokens, loaded.parallel), (ModelState::Loaded, 256, 2));
    // 2 sequences of 256 tokens, keys and values of 2 heads of 32 numbers in 6 layers, 2 bytes each.
    assert_eq!(loaded.cache_bytes, 2 * 256 * 2 * 2 * 32 * 6 * 2);
    assert!(handle.status().await.memory_used >= loaded.bytes());

    let text = Inspect { model: "pico-chat".into(), what: Inspected::Text("hello".into()), chat_template: None };
    let Some(Event::Inspected(tokens)) = events(handle.inspect(text, &cancel).unwrap()).await.pop() else {
        panic!("tokens")
    };
    let back = Inspect { model: "pico-chat".into(), what: tokens, chat_template: None };
    let seen = events(handle.inspect(back, &cancel).unwrap()).await.pop();
    assert_eq!(seen, Some(Event::Inspected(Inspected::Text("hello".into()))));

    // Drained, what is under way ends; otherwise it fails.
    let running = generate(&handle, Request { max_tokens: Some(100), ..endless() }).unwrap();
    assert!(handle.unload(&Unload { model: model.id.clone(), drain: true }));
    assert_eq!(answered(events(running).await.pop().unwrap()).usage.completion_tokens, 100);
    let mut running = generate(&handle, endless()).unwrap();
    while !matches!(running.recv().await.unwrap(), Event::Piece(_)) {}
    assert!(handle.unload(&Unload { model: model.id.clone(), drain: false }));
    assert_eq!(failure(events(running).await.pop().unwrap()).kind, FailureKind::Stopping);
    assert!(!handle.unload(&Unload { model: model.id, drain: true }), "it is not loaded any more");

    let totals = handle.status().await.totals;
    assert!(totals.requests >= 5 && totals.errors == 1 && totals.tokens_out >= 100 && totals.active == 0, "{totals:?}");
    while handle.hash_one().await {}
    let models = handle.models().await.unwrap();
    let digests: Vec<_> = models.iter().filter_map(|model| model.digest.as_ref()).collect();
    assert!(digests.len() == 2 && digests.iter().all(|digest| digest.len() == 64), "{digests:?}");
}
