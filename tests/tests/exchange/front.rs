//! A request through the gateway's front, with the router killed (SIGKILL) while it streams: the reader gets the whole answer,
//! the log one end, and the usage one request.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::StreamExt;
use serde_json::{Value, json};
use symbia_events::Service;
use symbia_tests::apart::Plan;

use crate::{
    Tested,
    stage::{SCRIPTED, Stage},
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
        kill(stage)?;
    }
    let response = asking.await??;
    ensure!(response.status() == 200, "{}", response.status());
    let (mut text, mut pieces, mut rest, mut finished) = (String::new(), 0, String::new(), false);
    let mut bytes = response.bytes_stream();
    while let Some(piece) = bytes.next().await {
        rest.push_str(std::str::from_utf8(&piece?)?);
        while let Some((frame, behind)) = rest.split_once("\n\n") {
            let (frame, behind) = (frame.to_owned(), behind.to_owned());
            rest = behind;
            let Some(data) = frame.strip_prefix("data: ") else { continue };
            if data == "[DONE]" {
                ensure!(finished, "an end without a reason");
                return Ok(text);
            }
            let chunk: Value = serde_json::from_str(data)?;
            ensure!(chunk["error"].is_null(), "{chunk}");
            finished |= chunk["choices"][0]["finish_reason"] == "stop";
            if let Some(said) = chunk["choices"][0]["delta"]["content"].as_str().filter(|said| !said.is_empty()) {
                text.push_str(said);
                pieces += 1;
                if (moment, pieces) == (Moment::FirstPiece, 1) || (moment, pieces) == (Moment::FourthPiece, 4) {
                    kill(stage)?;
                }
            }
        }
    }
    anyhow::bail!("the stream broke off after {text:?}")
}

fn kill(stage: &mut Stage) -> anyhow::Result<()> {
    let role = stage.apart.role("router")?;
    role.kill();
    role.start()
}
