//! How many requests may be under way at once, what is told of those that are refused, and what was used with which key.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use symbia_tests::binary::until;

use crate::{
    Tested,
    limits::chat,
    stage::{Person, Stage},
};

fn slow() -> Value {
    json!({ "model": "openai/slow" })
}

async fn limited(stage: &Stage, who: &Person, key: &str, limit: u64) -> anyhow::Result<String> {
    let limit = json!({ "scope": "key", "subject": key, "period": "parallel", "unit": "requests", "limit": limit });
    let set = stage.ask(who, "PUT", "/api/integrations/budgets", Some(limit)).await?;
    ensure!(set.status == 200, "{}", set.body);
    Ok(set.body["id"].as_str().context("no id")?.to_owned())
}

async fn shown(stage: &Stage, who: &Person) -> anyhow::Result<Value> {
    Ok(stage.ask(who, "GET", "/api/integrations/budgets", None).await?.body[0].take())
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_requests_of_a_key_are_under_way_at_once_and_a_place_is_free_when_its_holder_died() -> Tested {
    let stage = Stage::open().await?;
    let (ada, bob) = (stage.register("ada").await?, stage.register("bob").await?);
    let (id, key) = stage.mint(&ada, json!([])).await?;
    for wrong in [json!({ "unit": "tokens", "limit": 2 }), json!({ "unit": "requests", "limit": 0 })] {
        let mut limit = json!({ "scope": "key", "subject": id, "period": "parallel" });
        if let Some((limit, wrong)) = limit.as_object_mut().zip(wrong.as_object()) {
            limit.extend(wrong.clone());
        }
        ensure!(stage.ask(&ada, "PUT", "/api/integrations/budgets", Some(limit)).await?.status == 400, "{wrong}");
    }
    let budget = limited(&stage, &ada, &id, 2).await?;
    // The routers know of it within a second.
    let known = || async {
        chat(&stage, &key, json!({})).await?;
        Ok(stage.house.run(&["log", "export"])?.expect(0)?.out.contains("budget-reserved"))
    };
    until("the limit counts", known).await?;

    let begin = |stage: &Stage| {
        let (http, url, key) = (stage.http.clone(), format!("{}/v1/chat/completions", stage.gateway), key.clone());
        let mut body = json!({ "messages": [{ "role": "user", "content": "2+3?" }] });
        body["model"] = slow()["model"].take();
        tokio::spawn(async move { http.post(url).bearer_auth(key).json(&body).send().await })
    };
    let under_way = [begin(&stage), begin(&stage)];
    until("both are under way", || async { Ok(shown(&stage, &ada).await?["reserved"] == 2) }).await?;
    for _ in 0..5 {
        let refused = chat(&stage, &key, slow()).await?;
        ensure!(refused.status() == 429 && refused.headers().contains_key("retry-after"), "{}", refused.status());
        let body: Value = refused.json().await?;
        let message = body["error"]["message"].as_str().unwrap_or_default();
        ensure!(body["error"]["code"] == "too_many_at_once" && message.contains("2 requests at once"), "{body}");
    }
    ensure!(chat(&stage, &ada.token, json!({})).await?.status() == 200, "ada herself has no such limit");
    stage.vendor.let_answer(2);
    for one in under_way {
        ensure!(one.await??.status() == 200, "one that was under way is not answered");
    }
    // Whoever has the answer finds a place.
    for _ in 0..10 {
        ensure!(chat(&stage, &key, json!({})).await?.status() == 200, "no place after an answer");
    }

    // A flood of refusals is one event, which says what was counted.
    until("it is told", || async { Ok(shown(&stage, &ada).await?["refused"] == 1) }).await?;
    let log = stage.house.run(&["log", "export"])?.expect(0)?.out;
    let told: Vec<String> =
        log.lines().filter(|line| line.contains("rate-limit-exceeded")).map(|line| line.replace('\\', "")).collect();
    let says = |what: &str| told.iter().all(|line| line.contains(what));
    ensure!(told.len() == 1 && says("\"counted\":2") && says("\"limit\":2") && says(&budget), "{told:#?}");
    stage.house.run(&["audit", "verify"])?.expect(0)?;

    // What was used with the key, and by ada without it.
    let by_key = |who| stage.ask(who, "GET", "/api/integrations/usage/by-key", None);
    let of = |body: &Value, key: &Value| {
        let keys = body["keys"].as_array().cloned().unwrap_or_default();
        keys.into_iter().find(|used| used["keyId"] == *key).unwrap_or_default()
    };
    let hers = || async { Ok(of(&by_key(&ada).await?.body, &Value::Null)["requestCount"] == 1) };
    until("what she asked herself shows", hers).await?;
    let used = of(&by_key(&ada).await?.body, &json!(id));
    ensure!(used["successCount"].as_u64() >= Some(12) && used["errorCount"] == 5, "{used}");
    let path = format!("/api/integrations/executions?keyId={id}&status=failed");
    let failed = stage.ask(&ada, "GET", &path, None).await?.body;
    let rows = failed.as_array().context("no rows")?;
    ensure!(rows.len() == 5 && rows.iter().all(|row| row["keyId"] == id.as_str()), "{failed}");
    ensure!(by_key(&bob).await?.body["keys"] == json!([]), "bob sees ada's keys");
    ensure!(stage.ask(&bob, "GET", &path, None).await?.body == json!([]), "bob sees ada's requests");

    // The process dies with a request under way; another takes it over, it ends, and its place is free.
    limited(&stage, &ada, &id, 1).await?;
    let lost = begin(&stage);
    until("it is under way", || async { Ok(shown(&stage, &ada).await?["reserved"] == 1) }).await?;
    let full = || async { Ok(chat(&stage, &key, json!({})).await?.status() == 429) };
    until("there is no other place", full).await?;
    let stage = stage.crash()?;
    ensure!(!lost.await?.is_ok_and(|answer| answer.status() == 200), "it was answered by a dead process");
    ensure!(chat(&stage, &key, json!({})).await?.status() == 429, "it is under way still");
    stage.vendor.let_answer(2);
    until("its place is free", || async { Ok(chat(&stage, &key, json!({})).await?.status() == 200) }).await
}
