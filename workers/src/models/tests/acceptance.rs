//! What models.md §19 asks of the engine, where a test of one part does not show it already.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::*;

/// Each with its own odds: `SYMBIA_TEST_LONG` asks for as many as the specification.
fn seeds() -> std::ops::Range<u32> {
    if std::env::var_os("SYMBIA_TEST_LONG").is_some() { 0..200 } else { 0..10 }
}

fn hot(seed: u32, request: Request) -> Request {
    let sampling = Sampling { temperature: 1.8, seed: Some(seed), ..Sampling::default() };
    Request { sampling, max_tokens: Some(120), ..request }
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_streams_on_four_slots_all_end_and_none_overtakes_far() {
    let (_service, handle) = start(|options| options.parallel = 4);
    // Loaded first, so that queueing is all that they wait for.
    answer(&handle, ask("hello")).await;
    let streams: Vec<_> = (0..32)
        .map(|n| {
            let request = Request { max_tokens: Some(24), ignore_eos: true, ..ask(&format!("{n}: tell me a story.")) };
            generate(&handle, request).unwrap()
        })
        .collect();
    let mut queued = Vec::new();
    for stream in streams {
        let ended = answered(events(stream).await.pop().unwrap());
        assert_eq!((ended.usage.completion_tokens, ended.choice.finish_reason), (24, FinishReason::Length));
        queued.push(ended.timings.queue_ms);
    }
    let after = |index: usize| queued.iter().skip(index + 8).all(|later| *later >= queued[index]);
    assert!((0..24).all(after), "in the order in which they came, give or take two rounds: {queued:?}");
    let mut sorted = queued.clone();
    sorted.sort_by(f64::total_cmp);
    assert!(sorted[30] > sorted[4], "the 95th percentile tells of the queue: {sorted:?}");
    let totals = handle.status().await.totals;
    assert_eq!((totals.errors, totals.active, totals.queued), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_many_requests_of_one_organization_do_not_keep_another_waiting() {
    let (_service, handle) = start(|options| options.parallel = 1);
    answer(&handle, ask("hello")).await;
    let asked = |organization: &str| {
        let request = Request { max_tokens: Some(24), ignore_eos: true, ..ask("Tell me a story.") };
        generate(&handle, Request { org: Some(organization.to_owned()), ..request }).unwrap()
    };
    let all: Vec<_> = ["many"; 8].into_iter().chain(["few"; 2]).map(asked).collect();
    let mut queued = Vec::new();
    for stream in all {
        queued.push(answered(events(stream).await.pop().unwrap()).timings.queue_ms);
    }
    assert!(queued[8] < queued[3] && queued[9] < queued[5], "{queued:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_odds_answers_have_the_shape_that_is_asked_for() {
    let (_service, handle) = start(|_| {});
    let schema = json!({
        "type": "object",
        "properties": { "sum": { "type": "integer", "minimum": 0, "maximum": 99 }, "kind": { "enum": ["even", "odd"] },
            "words": { "type": "array", "items": { "enum": ["a", "b"] }, "maxItems": 2 } },
        "required": ["sum", "kind", "words"],
        "additionalProperties": false,
    });
    let grammar = "root ::= item (\", \" item){0,3} \".\"\nitem ::= [a-z]{1,5} | \"é\" [0-9]";
    let weather = Tool {
        parameters: r#"{"type":"object","properties":{"city":{"enum":["Paris","Rome"]}},"required":["city"],"additionalProperties":false}"#.into(),
        ..weather()
    };
    let mut cut = 0;
    let mut check = |end: Event, fits: &dyn Fn(&Answered) -> bool| {
        let answered = answered(end);
        if answered.choice.finish_reason == FinishReason::Length {
            cut += 1;
        } else {
            assert!(fits(&answered), "{answered:?}");
        }
    };
    let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let is_call = |answered: &Answered| {
        let mut calls = answered.choice.tool_calls.iter();
        calls.all(|call| {
            call.name == "get_weather" && matches!(parsed(&call.arguments)["city"].as_str(), Some("Paris" | "Rome"))
        })
    };
    for seed in seeds() {
        let shaped = |format: &Format| hot(seed, Request { format: format.clone(), ..ask("what is 2+2?") });
        let end = answer(&handle, shaped(&Format::Schema(schema.clone()))).await.1;
        check(end, &|answered| {
            let value = parsed(&answered.choice.text);
            value["sum"].as_u64().is_some_and(|sum| sum < 100)
                && (value["kind"] == "even" || value["kind"] == "odd")
                && value["words"].as_array().is_some_and(|words| words.len() <= 2)
        });
        let end = answer(&handle, shaped(&Format::Grammar(grammar.into()))).await.1;
        check(end, &|answered| {
            let items = answered.choice.text.strip_suffix('.').unwrap_or_default();
            let is_item = |item: &str| match item.strip_prefix('é') {
                Some(digit) => digit.len() == 1 && digit.bytes().all(|b| b.is_ascii_digit()),
                None => (1..=5).contains(&item.len()) && item.bytes().all(|b| b.is_ascii_lowercase()),
            };
            items.split(", ").all(is_item)
        });
        let with_tool = |choice| {
            hot(
                seed,
                Request { tools: vec![weather.clone()], tool_choice: choice, ..ask("What is the weather in Paris?") },
            )
        };
        let end = answer(&handle, with_tool(ToolChoice::Required)).await.1;
        check(end, &|answered| !answered.choice.tool_calls.is_empty() && is_call(answered));
        let end = answer(&handle, with_tool(ToolChoice::Auto)).await.1;
        check(end, &is_call);
    }
    assert!(cut * 5 < seeds().len() * 4, "{cut} of {} answers did not come to their end", seeds().len() * 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_a_stop_string_lies_over_tokens_nothing_of_it_is_shown() {
    let (_service, handle) = start(|_| {});
    let question = ask("What is the capital of France?");
    let (whole, _) = answer(&handle, question.clone()).await;
    assert_eq!(whole, "The capital of France is Paris.");
    let (mut asked, mut seen) = (Vec::new(), HashSet::new());
    for (start, len) in (0..whole.len()).flat_map(|start| [1, 2, 3, 5, 9].map(|len| (start, len))) {
        let Some(stop) = whole.get(start..start + len).filter(|stop| seen.insert((*stop).to_owned())) else { continue };
        let request = Request { stop: vec![stop.to_owned()], ..question.clone() };
        asked.push((stop.to_owned(), generate(&handle, request)));
        // Fewer than may wait.
        if asked.len() == 32 {
            check_stops(&whole, asked.drain(..)).await;
        }
    }
    check_stops(&whole, asked.drain(..)).await;
    assert!(seen.len() > 100);

    // Characters that several tokens make up come whole.
    let text = "é€👋ß";
    let request = Request { format: Format::Grammar(format!("root ::= \"{text}\"")), ..ask("hello") };
    let events = events(generate(&handle, request).unwrap()).await;
    let pieces: Vec<&str> = events
        .iter()
        .filter_map(|e| if let Event::Piece(Piece::Text(text)) = e { Some(text.as_str()) } else { None })
        .collect();
    assert_eq!(pieces.concat(), text);
    assert!(pieces.len() > 1, "{pieces:?}");
}

type Asked = (String, Result<UnboundedReceiver<Event>, Failure>);

async fn check_stops(whole: &str, asked: impl Iterator<Item = Asked>) {
    for (stop, receiver) in asked {
        let events = events(receiver.unwrap()).await;
        let shown: String = events
            .iter()
            .filter_map(|event| if let Event::Piece(Piece::Text(text)) = event { Some(text.as_str()) } else { None })
            .collect();
        assert_eq!(Some(shown.as_str()), whole.split(&stop).next(), "{stop:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_seed_and_a_slot_of_its_own_an_answer_is_the_same_twenty_times() {
    let (_service, handle) = start(|options| options.parallel = 1);
    for temperature in [0.0, 1.2] {
        let sampling = Sampling { temperature, seed: Some(42), ..Sampling::default() };
        let request = Request { sampling, ..ask("Tell me a story.") };
        let mut answers = HashSet::new();
        for _ in 0..20 {
            answers.insert(answer(&handle, request.clone()).await.0);
        }
        assert_eq!(answers.len(), 1, "{answers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_model_makes_the_idle_one_go_and_never_the_busy_one() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        let pico = shipped().join(format!("{PICO}.gguf"));
        std::fs::copy(pico, directory.path().join(format!("{name}.gguf"))).unwrap();
    }
    let of = |name: &str, request: Request| Request { model: Some(name.to_owned()), ..request };
    let (_service, handle) = start(|options| options.model_dir = directory.path().to_owned());
    answer(&handle, of("a", ask("hello"))).await;
    let one = handle.model("a").await.unwrap().loaded.unwrap().bytes();
    drop((_service, handle));

    let (_service, handle) = start(|options| {
        options.model_dir = directory.path().to_owned();
        options.memory_budget = Some(one * 5 / 2);
    });
    let mut busy = generate(&handle, of("a", endless())).unwrap();
    while !matches!(busy.recv().await.unwrap(), Event::Piece(_)) {}
    // It stays so for longer than others take to load, on a slow machine too.
    let more: Vec<_> = (0..12).map(|_| generate(&handle, of("a", endless())).unwrap()).collect();
    assert_eq!(answer(&handle, of("b", ask("what is 2+2?"))).await.0, "2 + 2 = 4");
    assert_eq!(answer(&handle, of("c", ask("what is 2+2?"))).await.0, "2 + 2 = 4");
    assert_eq!(handle.loaded(), ["a", "c"]);
    drop(more);
    assert!(matches!(answered(events(busy).await.pop().unwrap()).choice.finish_reason, FinishReason::Length));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_model_stays_when_nobody_asks_and_when_another_needs_the_room() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        let pico = shipped().join(format!("{PICO}.gguf"));
        std::fs::copy(pico, directory.path().join(format!("{name}.gguf"))).unwrap();
    }
    let of = |name: &str| Request { model: Some(name.to_owned()), ..ask("what is 2+2?") };
    let started = |idle: Duration, most: usize| {
        start(|options| {
            options.model_dir = directory.path().to_owned();
            (options.idle_unload, options.max_loaded) = (idle, most);
        })
    };
    let pin = |names: &[&str]| Order::Pin { models: names.iter().map(|name| (*name).to_owned()).collect() };
    let (_service, handle) = started(Duration::from_millis(20), 0);
    assert_eq!(handle.obey(pin(&["a"])).await.unwrap(), 2);
    assert_eq!(handle.status().await.pinned, ["a"]);
    for name in ["a", "b"] {
        assert_eq!(answer(&handle, of(name)).await.0, "2 + 2 = 4");
    }
    let left_alone = async {
        while handle.loaded() != ["a"] {
            handle.changed().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), left_alone).await.is_ok(), "{:?}", handle.loaded());

    let (_service, handle) = started(Duration::from_secs(300), 1);
    handle.obey(pin(&["a"])).await.unwrap();
    answer(&handle, of("a")).await;
    let refused = generate(&handle, of("b")).unwrap_err();
    assert!(refused.kind == FailureKind::Memory && refused.message.contains("pinned"), "{refused:?}");
    handle.obey(pin(&[])).await.unwrap();
    assert_eq!(answer(&handle, of("b")).await.0, "2 + 2 = 4");
    assert_eq!(handle.loaded(), ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cancelled_says_at_most_what_the_step_under_way_computes() {
    let (_service, handle) = start(|options| options.parallel = 4);
    let cancels: Vec<CancellationToken> = (0..4).map(|_| CancellationToken::new()).collect();
    let mut all: Vec<_> = cancels.iter().map(|cancel| handle.generate(endless(), cancel).unwrap()).collect();
    for stream in &mut all {
        while !matches!(stream.recv().await.unwrap(), Event::Piece(_)) {}
    }
    for (stream, cancel) in all.into_iter().zip(cancels) {
        cancel.cancel();
        // What it has said until now waits here; a step adds a piece to each answer.
        let before = stream.len();
        let mut said = events(stream).await;
        let Some(Event::Cancelled { completion_tokens, .. }) = said.pop() else { panic!("no end: {said:?}") };
        assert!(completion_tokens > 0 && said.len() <= before + 1, "{} pieces after {before}", said.len());
    }
    assert_eq!(handle.status().await.totals.active, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_counted_as_the_tokenizer_counts_them() {
    let (_service, handle) = start(|_| {});
    let mut beside = HashSet::new();
    for text in ["hello", "The capital of France is", "Anna likes tea. Does she like coffee as well?"] {
        let what = Inspected::Text(text.to_owned());
        let inspect = Inspect { model: "pico-chat".into(), what, chat_template: None };
        let seen = events(handle.inspect(inspect, &CancellationToken::new()).unwrap()).await.pop();
        let Some(Event::Inspected(Inspected::Tokens(tokens))) = seen else { panic!("{seen:?}") };
        let request = Request {
            prompt: Some(text.to_owned()),
            max_tokens: Some(9),
            ignore_eos: true,
            logprobs: Some(0),
            ..Request::default()
        };
        let Answered { choice, usage, .. } = answered(answer(&handle, request).await.1);
        beside.insert(usage.prompt_tokens as usize - tokens.len());
        assert_eq!((usage.completion_tokens, choice.logprobs.len()), (9, 9));
    }
    // The token that begins a text, where the model has one.
    assert!(beside == HashSet::from([0]) || beside == HashSet::from([1]), "{beside:?}");
}

/// The small model with another length of context written into its file: what it says then is nothing, but it is counted alike.
fn stretched(directory: &Path, context: u32) {
    let mut file = std::fs::read(shipped().join(format!("{PICO}.gguf"))).unwrap();
    let key = b"llama.context_length";
    let at = file.windows(key.len()).position(|window| window == key).unwrap() + key.len();
    // The type of a 32-bit number, then the number.
    assert_eq!(file[at..at + 8], [4, 0, 0, 0, 0, 2, 0, 0]);
    file[at + 4..at + 8].copy_from_slice(&context.to_le_bytes());
    std::fs::write(directory.join("long.gguf"), file).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_tokens_that_eight_prompts_share_are_computed_once() {
    let directory = tempfile::tempdir().unwrap();
    stretched(directory.path(), 4096);
    let (_service, handle) = start(|options| {
        options.model_dir = directory.path().to_owned();
        options.default_model = "long".into();
    });
    let context = "Anna likes tea. ".repeat(370);
    let question = |n: usize| Request { max_tokens: Some(4), ignore_eos: true, ..ask(&format!("{context}{n}+{n}?")) };
    let all = futures::future::join_all((0..8).map(|n| answer(&handle, question(n)))).await;
    let usages: Vec<Usage> = all.into_iter().map(|(_, end)| answered(end).usage).collect();
    let shortest = usages.iter().map(|usage| usage.prompt_tokens).min().unwrap();
    assert!(shortest > 2000, "{usages:?}");
    let computed: u32 = usages.iter().map(|usage| usage.prompt_tokens - usage.cached_tokens).sum();
    assert!(computed < shortest + 8 * 32, "{computed} tokens were computed: {usages:?}");
    let totals = handle.status().await.totals;
    assert_eq!(totals.tokens_in - totals.tokens_cached, u64::from(computed));
}
