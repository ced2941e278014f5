//! Batches and what others are to have: limits that they wait for, keys that are gone, and people who go first.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::join_all;
use serde_json::{Value, json};
use symbia_tests::binary::until;

use crate::{
    Tested,
    batches::upload,
    limits::chat,
    stage::{Answered, Person, Stage},
};

const CHAT: &str = "/v1/chat/completions";

fn lines(count: usize, model: &str) -> String {
    let body = json!({ "model": model, "messages": [{ "role": "user", "content": "2+3?" }] });
    let line = |n| json!({ "custom_id": format!("l{n}"), "method": "POST", "url": CHAT, "body": body }).to_string();
    (0..count).map(line).collect::<Vec<String>>().join("\n")
}

async fn make(stage: &Stage, who: &Person, file: &str, endpoint: &str) -> anyhow::Result<Answered> {
    let new = json!({ "input_file_id": file, "endpoint": endpoint, "completion_window": "24h" });
    stage.ask(who, "POST", "/v1/batches", Some(new)).await
}

/// A batch of these lines; its id.
async fn batch(stage: &Stage, who: &Person, lines: &str, endpoint: &str) -> anyhow::Result<String> {
    let file = upload(stage, who, lines).await?;
    let made = make(stage, who, &file, endpoint).await?.body;
    made["id"].as_str().map(str::to_owned).with_context(|| made.to_string())
}

async fn read(stage: &Stage, who: &Person, id: &str) -> anyhow::Result<Value> {
    Ok(stage.ask(who, "GET", &format!("/v1/batches/{id}"), None).await?.body)
}

async fn ended(stage: &Stage, who: &Person, id: &str, status: &str) -> anyhow::Result<Value> {
    until(&format!("the batch is {status}"), || async { Ok(read(stage, who, id).await?["status"] == status) }).await?;
    read(stage, who, id).await
}

async fn results(stage: &Stage, who: &Person, file: &Value) -> anyhow::Result<Vec<Value>> {
    let url = format!("{}/v1/files/{}/content", stage.gateway, file.as_str().context("no file of results")?);
    let text = stage.http.get(url).bearer_auth(&who.token).send().await?.error_for_status()?.text().await?;
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

async fn limit(stage: &Stage, who: &Person, period: &str, limit: u64) -> anyhow::Result<()> {
    let budget = json!({ "scope": "org", "period": period, "unit": "requests", "limit": limit });
    let set = stage.ask(who, "PUT", "/api/integrations/budgets", Some(budget)).await?;
    ensure!(set.status == 200, "{}", set.body);
    Ok(())
}

/// How many events of a kind there are that name this.
fn told(stage: &Stage, kind: &str, name: &str) -> anyhow::Result<usize> {
    let log = stage.house.run(&["log", "export"])?.expect(0)?.out;
    Ok(log.lines().filter(|line| line.contains(kind) && line.contains(name)).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_meet_a_limit_wait_for_it_through_a_crash_and_end_with_their_batch() -> Tested {
    let stage = Stage::open().await?;
    let (ada, bob) = (stage.register("ada").await?, stage.register("bob").await?);
    limit(&stage, &ada, "parallel", 1).await?;
    limit(&stage, &bob, "minute", 40).await?;

    // One of the four that are asked at a time is under way, the others wait.
    let waits = async |stage: &Stage| -> anyhow::Result<String> {
        let id = batch(stage, &ada, &lines(6, "openai/slow"), CHAT).await?;
        until("three lines wait", || async { Ok(told(stage, "batch-line-deferred", &id)? >= 3) }).await?;
        Ok(id)
    };
    let cancelled = waits(&stage).await?;
    stage.ask(&ada, "POST", &format!("/v1/batches/{cancelled}/cancel"), None).await?;
    let cancelled = ended(&stage, &ada, &cancelled, "cancelled").await?;
    ensure!(results(&stage, &ada, &cancelled["error_file_id"]).await?.len() == 6, "{cancelled}");

    let minute = batch(&stage, &bob, &lines(44, "openai/fake"), CHAT).await?;
    let crashed = waits(&stage).await?;
    until("bob's wait as well", || async { Ok(told(&stage, "batch-line-deferred", &minute)? > 0) }).await?;
    let stage = stage.crash()?;
    stage.vendor.let_answer(100);
    for (who, id, count) in [(&ada, &crashed, 6), (&bob, &minute, 44)] {
        // What was refused again and again by now may wait for longer than one look.
        let done = match ended(&stage, who, id, "completed").await {
            Ok(done) => done,
            Err(_) => ended(&stage, who, id, "completed").await?,
        };
        let counts = json!({ "total": count, "completed": count, "failed": 0 });
        ensure!(done["request_counts"] == counts && done["error_file_id"].is_null(), "{done}");
        let named = results(&stage, who, &done["output_file_id"]).await?;
        let named: Vec<&str> = named.iter().filter_map(|result| result["custom_id"].as_str()).collect();
        ensure!(named == (0..count).map(|n| format!("l{n}")).collect::<Vec<_>>(), "{named:?}");
    }
    stage.house.run(&["audit", "verify"])?.expect(0)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_deleted_asks_no_further_line_of_its_batch() -> Tested {
    let stage = Stage::open().await?;
    let ada = stage.register("ada").await?;
    let (key_id, key) = stage.mint(&ada, json!([])).await?;
    let by_key = Person { id: ada.id.clone(), token: key, org: ada.org.clone() };
    let count = 90;
    let id = batch(&stage, &by_key, &lines(count, "openai/slow"), CHAT).await?;
    let counts = async || -> anyhow::Result<(u64, u64)> {
        let counts = &read(&stage, &ada, &id).await?["request_counts"];
        Ok((counts["completed"].as_u64().unwrap_or(0), counts["failed"].as_u64().unwrap_or(0)))
    };
    stage.vendor.let_answer(1);
    until("the first is answered", || async { Ok(counts().await?.0 == 1) }).await?;
    let url = format!("{}/api/api-keys/{key_id}", stage.identity);
    stage.http.delete(url).bearer_auth(&ada.token).send().await?.error_for_status()?;
    // Those that were asked are answered, one after another; what the router knows of keys is a second old at most.
    let refused = || async {
        stage.vendor.let_answer(1);
        Ok(counts().await?.1 > 0)
    };
    until("a line is refused", refused).await?;
    stage.vendor.let_answer(count);
    let done = ended(&stage, &ada, &id, "completed").await?;
    let (answered, failed) = counts().await?;
    ensure!(answered + failed == count as u64 && answered as usize == stage.vendor.asked().len(), "{done}");
    let codes = results(&stage, &ada, &done["error_file_id"]).await?;
    let gone = |result: &Value| result["response"]["body"]["error"]["code"] == "key_gone";
    ensure!(codes.len() as u64 == failed && codes.iter().all(gone), "{codes:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_lines_wait_people_are_answered_and_an_organization_has_so_many_batches() -> Tested {
    let at_once = 54;
    let stage = Stage::with_variables(&[("BATCH_CONCURRENCY", "54")]).await?;
    let (ada, bob) = (stage.register("ada").await?, stage.register("bob").await?);
    let file = upload(&stage, &ada, &lines(at_once, "openai/slow")).await?;
    // All at the same time, so that most pass the first look.
    let made = join_all((0..26).map(|_| make(&stage, &ada, &file, CHAT))).await;
    let made: Vec<Answered> = made.into_iter().collect::<Result<_, _>>()?;
    let turned_away = made.iter().filter(|made| made.status == 429).count();
    ensure!(made.iter().all(|made| [200, 429].contains(&made.status)), "neither made nor turned away");
    let shown = async || -> anyhow::Result<Vec<Value>> {
        let listed = stage.ask(&ada, "GET", "/v1/batches?limit=100", None).await?.body;
        listed["data"].as_array().cloned().with_context(|| listed.to_string())
    };
    let of = |all: &[Value], status: &str| all.iter().filter(|batch| batch["status"] == status).count();
    until("twenty are under way, and no other", || async {
        let all = shown().await?;
        Ok(of(&all, "in_progress") == 20 && of(&all, "failed") == 6 - turned_away)
    })
    .await?;
    let failed: Vec<Value> = shown().await?.into_iter().filter(|batch| batch["status"] == "failed").collect();
    let why = |batch: &Value| batch["errors"]["data"][0]["code"] == "too_many_batches";
    ensure!(failed.iter().all(why), "{failed:?}");
    let refused = make(&stage, &ada, &file, CHAT).await?;
    ensure!(refused.status == 429 && refused.body.to_string().contains("20"), "{}", refused.body);

    // More lines wait than a consumer has under way.
    until("all lines are asked for", || async {
        Ok(told(&stage, "completion.completion-requested", "batchLine")? == 20 * at_once)
    })
    .await?;
    let texts = json!({ "model": "openai/embed", "input": "a" });
    let asked = stage.http.post(format!("{}/v1/embeddings", stage.gateway)).bearer_auth(&bob.token).json(&texts);
    let embedded = asked.timeout(Duration::from_secs(20)).send().await.context("the lines stand in bob's way")?;
    ensure!(embedded.status() == 200, "{}", embedded.text().await?);
    ensure!(chat(&stage, &bob.token, json!({})).await?.status() == 200, "bob is not answered");

    // A place is free with the end of a batch.
    let first = shown().await?.into_iter().find(|batch| batch["status"] == "in_progress").context("none")?;
    let id = first["id"].as_str().context("no id")?;
    stage.ask(&ada, "POST", &format!("/v1/batches/{id}/cancel"), None).await?;
    ended(&stage, &ada, id, "cancelled").await?;
    let next = make(&stage, &ada, &file, CHAT).await?;
    ensure!(next.status == 200, "{}", next.body);
    let id = next.body["id"].as_str().context("no id")?;
    ended(&stage, &ada, id, "in_progress").await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn embedding_lines_wait_for_the_turns_of_all_lines() -> Tested {
    let stage = Stage::with_variables(&[("BATCH_CONCURRENCY", "1")]).await?;
    let ada = stage.register("ada").await?;
    let slow = batch(&stage, &ada, &lines(1, "openai/slow"), CHAT).await?;
    until("the model is asked", || async { Ok(!stage.vendor.asked().is_empty()) }).await?;
    let path = "/v1/embeddings";
    let body = json!({ "model": "openai/embed", "input": ["a"] });
    let line = json!({ "custom_id": "e", "method": "POST", "url": path, "body": body }).to_string();
    let vectors = batch(&stage, &ada, &line, path).await?;
    until("the vectors are asked for", || async { Ok(told(&stage, "embedding-requested", &vectors)? == 1) }).await?;
    // Whoever waits is answered meanwhile.
    for _ in 0..5 {
        ensure!(chat(&stage, &ada.token, json!({})).await?.status() == 200, "ada is not answered");
    }
    let waits = read(&stage, &ada, &vectors).await?;
    ensure!(waits["request_counts"]["completed"] == 0, "{waits}");
    stage.vendor.let_answer(1);
    for id in [&slow, &vectors] {
        ended(&stage, &ada, id, "completed").await?;
    }
    Ok(())
}
