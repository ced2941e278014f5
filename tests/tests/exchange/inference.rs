//! A request through the gateway's front, with the inference process killed (SIGKILL) while it generates: another attempt answers,
//! by the process that is started again or by another one, readers of the live stream are told, the log has one end, and the
//! usage one request.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use symbia_events::Service;
use symbia_tests::apart::Plan;

use crate::{
    Tested,
    stage::Stage,
    streamed::{Chunks, said},
};

const PLAN: &Plan = &[
    ("command", &["work", "--roles", "command"]),
    ("router", &["work", "--roles", "llm-router"]),
    ("inference", &["work", "--roles", "inference"]),
    ("projector", &["project"]),
    ("API", &["serve", "--services", "identity,integrations"]),
];
const PATIENCE: Duration = Duration::from_secs(60);
/// The same with two inference processes.
const TWO: &Plan = &[PLAN[0], PLAN[1], PLAN[2], ("other inference", PLAN[2].1), PLAN[3], PLAN[4]];
/// Requests until the broker has given one to the process that dies; each time the odds are even.
const TRIES: usize = 40;
/// Kills, each after so many pieces of an answer.
const KILLS: [usize; 2] = [1, 4];

#[tokio::test(flavor = "multi_thread")]
async fn an_inference_process_killed_in_mid_stream_leaves_one_end_and_a_whole_answer() -> Tested {
    let mut stage = Stage::open(PLAN, &[]).await?;
    let (undisturbed, mut tokens) = streamed(&mut stage, None).await?;
    for kill in KILLS {
        let mut watch = stage.watch("none").await?;
        let answer = tokio::time::timeout(PATIENCE, streamed(&mut stage, Some(kill))).await;
        let answer = answer.with_context(|| format!("no end, killed after {kill}\n{}", stage.apart.logs()))??;
        ensure!(answer.0 == undisturbed, "killed after {kill}: {answer:?}, not {undisturbed:?}");
        tokens += answer.1;
        let told = tokio::time::timeout(PATIENCE, watch.reset()).await.context("no reader was told")??;
        ensure!(told == 2, "attempt {told}");
    }
    let requests = 1 + KILLS.len();
    let events = stage.log(Service::Integrations).await?;
    let kinds: Vec<&str> = events.iter().filter_map(|e| e.event_type.rsplit('.').nth(1)).collect();
    let count = |kind: &str| kinds.iter().filter(|k| **k == kind).count();
    let ends = count("completion-completed") + count("completion-failed") + count("completion-cancelled");
    ensure!((count("completion-requested"), ends) == (requests, requests), "{kinds:?}");
    ensure!(count("completion-attempt-started") >= requests + KILLS.len(), "each began anew: {kinds:?}");
    let began = Instant::now();
    loop {
        let usage = stage.rest.usage().await.unwrap_or_default();
        if usage["summary"]["totalRequests"] == requests {
            ensure!(usage["summary"]["completionTokens"] == tokens, "{usage}, not {tokens}");
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "the usage is {usage}");
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_of_two_inference_processes_leaves_the_other_completes() -> Tested {
    let mut stage = Stage::open(TWO, &[]).await?;
    stage.two_inference_processes().await?;
    let (undisturbed, _) = streamed(&mut stage, None).await?;
    for _ in 0..TRIES {
        let mut watch = stage.watch("none").await?;
        let before = attempts(&stage).await?;
        let answer = tokio::time::timeout(PATIENCE, killed_for_good(&mut stage)).await;
        let answer = answer.with_context(|| format!("no end\n{}", stage.apart.logs()))??;
        ensure!(answer == undisturbed, "{answer:?}, not {undisturbed:?}");
        let after = attempts(&stage).await?;
        ensure!(after.1 == before.1 + 1, "one end: {before:?}, {after:?}");
        if after.0 > before.0 + 1 {
            let told = tokio::time::timeout(PATIENCE, watch.reset()).await.context("no reader was told")??;
            ensure!(told == 2, "attempt {told}");
            return Ok(());
        }
        // The other one had it from the beginning.
        stage.apart.role("inference")?.start()?;
        stage.two_inference_processes().await?;
    }
    anyhow::bail!("the process that was killed never had a request")
}

// Attempts begun, and ends.
async fn attempts(stage: &Stage) -> anyhow::Result<(usize, usize)> {
    let events = stage.log(Service::Integrations).await?;
    let count = |kinds: &[&str]| {
        let kind =
            |event: &std::sync::Arc<symbia_events::Event>| event.event_type.rsplit('.').nth(1).map(str::to_owned);
        events.iter().filter_map(kind).filter(|kind| kinds.contains(&kind.as_str())).count()
    };
    let ends = count(&["completion-completed", "completion-failed", "completion-cancelled"]);
    Ok((count(&["completion-attempt-started"]), ends))
}

// The text of a streamed request, with one of the processes killed after its first piece and not started again.
async fn killed_for_good(stage: &mut Stage) -> anyhow::Result<String> {
    let mut chunks = Chunks::of(stage.rest.clone().stream(long()).await?).await?;
    let mut text = String::new();
    while let Some(chunk) = chunks.next().await.with_context(|| format!("after {text:?}"))? {
        let Some(said) = said(&chunk) else { continue };
        if text.is_empty() {
            stage.apart.role("inference")?.kill();
        }
        text.push_str(said);
    }
    Ok(text)
}

// One streamed request, the process killed after so many pieces; the text that its reader got, and its tokens.
async fn streamed(stage: &mut Stage, kill: Option<usize>) -> anyhow::Result<(String, u64)> {
    let response = stage.rest.clone().stream(long()).await?;
    let mut chunks = Chunks::of(response).await?;
    let (mut text, mut pieces, mut tokens) = (String::new(), 0, None);
    while let Some(chunk) = chunks.next().await.with_context(|| format!("after {text:?}"))? {
        tokens = tokens.or(chunk["usage"]["completion_tokens"].as_u64());
        if let Some(said) = said(&chunk) {
            text.push_str(said);
            pieces += 1;
            if kill == Some(pieces) {
                stage.restart("inference")?;
            }
        }
    }
    Ok((text, tokens.context("an end without usage")?))
}

// So long that it does not come to its end before the process does.
fn long() -> Value {
    let list = json!({ "type": "array", "items": { "enum": ["tea"] }, "minItems": 80, "maxItems": 80 });
    let shape = json!({ "type": "json_schema", "json_schema": { "name": "list", "schema": list } });
    json!({ "model": "symbia-labs/pico-chat", "stream": true, "temperature": 0, "response_format": shape,
        "stream_options": { "include_usage": true }, "messages": [{ "role": "user", "content": "Tell me a story." }] })
}
