//! Which of a route's models is asked, by what they are granted, by what they may have, and by who asks.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;
use serde_json::{Value, json};
use symbia_tests::binary::until;

use crate::{
    Tested,
    limits::chat,
    routes::{asked, models, set},
    stage::{Person, Stage},
};

fn target(model: &str, limits: Value) -> Value {
    let mut target = json!({ "provider": "openai", "model": model });
    if let (Some(target), Value::Object(limits)) = (target.as_object_mut(), limits) {
        target.extend(limits);
    }
    target
}

async fn known(stage: &Stage, who: &Person, alias: &str, route: Value) -> Tested {
    let (status, body) = set(stage, who, alias, route).await?;
    ensure!(status == 200, "{body}");
    let listed = || async {
        let url = format!("{}/v1/models/{alias}", stage.gateway);
        Ok(stage.http.get(url).bearer_auth(&who.token).send().await?.status() == 200)
    };
    until("the name means something", listed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_has_as_many_requests_as_its_route_lets_it() -> Tested {
    let stage = Stage::open().await?;
    let ada = stage.register("ada").await?;
    let one_at_once = target("slow", json!({ "maxConcurrency": 1 }));
    known(&stage, &ada, "narrow", json!({ "targets": [one_at_once, target("fake", json!({}))] })).await?;
    let first = asked(&stage, &ada.token, "narrow");
    let others = async {
        until("the first is asked", || async { Ok(models(&stage).contains(&json!("slow"))) }).await?;
        let second = asked(&stage, &ada.token, "narrow").await?;
        ensure!(second.status() == 200 && models(&stage) == [json!("fake")], "the place is taken twice");
        stage.vendor.let_answer(2);
        Ok(())
    };
    let (first, others) = tokio::join!(first, others);
    others?;
    ensure!(first?.status() == 200, "the first is not answered");
    asked(&stage, &ada.token, "narrow").await?;
    ensure!(models(&stage) == [json!("slow")], "the place is not free again");

    let once_a_minute = || target("once", json!({ "maxRpm": 1 }));
    known(&stage, &ada, "rare", json!({ "targets": [once_a_minute(), target("often", json!({}))] })).await?;
    known(&stage, &ada, "alone", json!({ "targets": [once_a_minute()] })).await?;
    for _ in 0..3 {
        ensure!(asked(&stage, &ada.token, "rare").await?.status() == 200, "nobody answers");
    }
    let seen = models(&stage);
    ensure!(seen == ["once", "often", "often"], "{seen:?}");
    ensure!(asked(&stage, &ada.token, "alone").await?.status() == 200, "the limits of two routes are one");
    let refused = asked(&stage, &ada.token, "alone").await?;
    let (status, waits) = (refused.status(), refused.headers().contains_key("retry-after"));
    let body: Value = refused.json().await?;
    ensure!(status == 429 && waits && body["error"]["code"] == "target_limited", "{status} {body}");

    // The same for vectors.
    known(&stage, &ada, "vectors", json!({ "targets": [target("embed", json!({ "maxRpm": 1 }))] })).await?;
    let embed = || stage.ask(&ada, "POST", "/v1/embeddings", Some(json!({ "model": "vectors", "input": "abc" })));
    ensure!(embed().await?.status == 200 && embed().await?.status == 429, "vectors are not limited");
    for wrong in [json!({ "maxRpm": 0 }), json!({ "maxConcurrency": 0 }), json!({ "maxRpm": -1 })] {
        let (status, body) = set(&stage, &ada, "rare", json!({ "targets": [target("fake", wrong.clone())] })).await?;
        ensure!(status == 400, "{wrong}: {status} {body}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_most_left_is_asked_and_a_conversation_stays_with_its_model() -> Tested {
    let stage = Stage::open().await?;
    let ada = stage.register("ada").await?;
    let both = |strategy: &str, a: &str, b: &str| json!({ "strategy": strategy, "targets": [target(a, json!({})), target(b, json!({}))] });
    known(&stage, &ada, "roomy", both("usage-based", "nearly-done", "fresh")).await?;
    for _ in 0..2 {
        asked(&stage, &ada.token, "roomy").await?;
    }
    let seen: BTreeSet<String> = models(&stage).iter().map(Value::to_string).collect();
    ensure!(seen.len() == 2, "who has had less is not asked: {seen:?}");
    for _ in 0..3 {
        asked(&stage, &ada.token, "roomy").await?;
    }
    let seen = models(&stage);
    ensure!(seen == ["fresh", "fresh", "fresh"], "who has hardly anything left is asked: {seen:?}");

    known(&stage, &ada, "loyal", both("sticky", "first", "second")).await?;
    let mut by = BTreeMap::new();
    for round in 0..2 {
        for subject in 0..24 {
            let mut messages = vec![json!({ "role": "user", "content": format!("about {subject}") })];
            for _ in 0..round {
                messages.push(json!({ "role": "assistant", "content": "well" }));
                messages.push(json!({ "role": "user", "content": "and then?" }));
            }
            let answered = chat(&stage, &ada.token, json!({ "model": "loyal", "messages": messages })).await?;
            ensure!(answered.status() == 200, "{}", answered.text().await?);
            let model = models(&stage).pop().unwrap_or_default().to_string();
            let before = by.entry(subject).or_insert_with(|| model.clone());
            ensure!(*before == model, "conversation {subject} went from {before} to {model}");
        }
    }
    let all: BTreeSet<&String> = by.values().collect();
    ensure!(all.len() == 2, "all of them go to one: {all:?}");
    Ok(())
}
