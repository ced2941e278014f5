//! A request through the gateway's front, with the router killed (SIGKILL) while it streams: the reader gets the whole answer,
//! the log one end, and the usage one request.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;
use symbia_events::Service;
use symbia_tests::apart::Plan;

use crate::{
    Tested,
    stage::{SCRIPTED, Stage},
    streamed::{Chunks, said},
};

const PLAN: &Plan = &[
    ("command", &["work", "--roles", "command"]),
    ("router", &["work", "--roles", "llm-router"]),
    ("projector", &["project"]),
    ("API", &["serve", "--services", "identity,integrations"]),
];
const PATIENCE: Duration = Duration::from_secs(60);

/// When the router dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    AttemptStarted,
    FirstPiece,
    FourthPiece,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_killed_in_mid_stream_leaves_one_end_and_a_whole_answer() -> Tested {
    let mut stage = Stage::open(PLAN, &[]).await?;
    let moments = [Moment::AttemptStarted, Moment::FirstPiece, Moment::FourthPiece];
    for moment in moments {
        let text = tokio::time::timeout(PATIENCE, streamed(&mut stage, moment)).await;
        let text = text.with_context(|| format!("no end, killed at {moment:?}\n{}", stage.apart.logs()))??;
        ensure!(text == SCRIPTED.text, "killed at {moment:?}: {text:?}");
    }
    let events = stage.log(Service::Integrations).await?;
    let kinds: Vec<&str> = events.iter().filter_map(|e| e.event_type.rsplit('.').nth(1)).collect();
    let count = |kind: &str| kinds.iter().filter(|k| **k == kind).count();
    let ends = count("completion-completed") + count("completion-failed") + count("completion-cancelled");
    ensure!((count("completion-requested"), ends) == (moments.len(), moments.len()), "{kinds:?}");
    ensure!(count("completion-attempt-started") > moments.len(), "nobody began anew: {kinds:?}");
    // Each request counts once, however often it was begun.
    let began = Instant::now();
    loop {
        let usage = stage.rest.usage().await.unwrap_or_default();
        if usage["summary"]["totalRequests"] == moments.len() {
            ensure!(usage["summary"]["totalTokens"] == 18 * moments.len(), "{usage}");
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "the usage is {usage}");
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}

// One streamed request, and the router killed once; the text that its reader got.
async fn streamed(stage: &mut Stage, moment: Moment) -> anyhow::Result<String> {
    let mut log = stage.watch("none").await?;
    let body =
        json!({ "model": "openai/scripted", "stream": true, "messages": [{ "role": "user", "content": "count" }] });
    let asking = tokio::spawn(stage.rest.clone().stream(body));
    if moment == Moment::AttemptStarted {
        log.of_type("completion-attempt-started.v1").await?;
        stage.restart("router")?;
    }
    let response = asking.await??;
    let mut chunks = Chunks::of(response).await?;
    let (mut text, mut pieces, mut finished) = (String::new(), 0, false);
    while let Some(chunk) = chunks.next().await.with_context(|| format!("after {text:?}"))? {
        finished |= chunk["choices"][0]["finish_reason"] == "stop";
        if let Some(said) = said(&chunk) {
            text.push_str(said);
            pieces += 1;
            if (moment, pieces) == (Moment::FirstPiece, 1) || (moment, pieces) == (Moment::FourthPiece, 4) {
                stage.restart("router")?;
            }
        }
    }
    ensure!(finished, "an end without a reason");
    Ok(text)
}
