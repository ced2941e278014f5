//! Names of an organization's own for several models: which of them is asked, what happens when something goes wrong, and who
//! may ask and see them.

use anyhow::ensure;
use reqwest::Response;
use serde_json::{Value, json};
use symbia_tests::binary::until;

use crate::{
    Tested,
    limits::chat,
    stage::{Person, Stage},
};

pub async fn set(stage: &Stage, who: &Person, alias: &str, route: Value) -> anyhow::Result<(u16, Value)> {
    let answered = stage.ask(who, "PUT", &format!("/api/integrations/routes/{alias}"), Some(route)).await?;
    Ok((answered.status, answered.body))
}

fn target(model: &str) -> Value {
    json!({ "provider": "openai", "model": model })
}

pub async fn asked(stage: &Stage, token: &str, alias: &str) -> anyhow::Result<Response> {
    chat(stage, token, json!({ "model": alias })).await
}

fn answered_by(response: &Response) -> &str {
    response.headers().get("x-symbia-model").and_then(|value| value.to_str().ok()).unwrap_or_default()
}

// The models that the vendor was asked for since it was last looked at.
pub fn models(stage: &Stage) -> Vec<Value> {
    stage.vendor.asked().iter().map(|asked| asked.body["model"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_is_asked_by_its_name_wherever_a_model_is_and_only_in_its_organization() -> Tested {
    let stage = Stage::open().await?;
    let (ada, bob) = (stage.register("ada").await?, stage.register("bob").await?);
    let claude = json!({ "provider": "anthropic", "model": "claude-fake" });
    let route = json!({ "strategy": "priority", "targets": [claude, target("fake")] });
    let (status, body) = set(&stage, &ada, "smart", route.clone()).await?;
    ensure!(status == 200 && body["version"] == 1 && body["targets"] == route["targets"], "{status} {body}");
    let (_, again) = set(&stage, &ada, "smart", route.clone()).await?;
    ensure!(again["version"] == 2, "{again}");
    set(&stage, &ada, "vectors", json!({ "targets": [target("embed")] })).await?;
    for (alias, wrong) in [
        ("auto", route.clone()),
        ("smart", json!({ "targets": [] })),
        ("smart", json!({ "targets": [{ "provider": "nobody" }] })),
        ("smart", json!({ "strategy": "by-luck", "targets": [target("fake")] })),
        (
            "smart",
            json!({ "targets": [target("fake")], "fallbacks": [{ "on": "boredom", "targets": [target("fake")] }] }),
        ),
    ] {
        let (status, body) = set(&stage, &ada, alias, wrong.clone()).await?;
        ensure!(status == 400, "{alias} {wrong}: {status} {body}");
    }

    // By the APIs of OpenAI and Anthropic, and the platform's own.
    let by_name = || async { Ok(asked(&stage, &ada.token, "smart").await?.status() == 200) };
    until("the name means something", by_name).await?;
    ensure!(answered_by(&asked(&stage, &ada.token, "smart").await?) == "claude-fake-2026", "another model");
    models(&stage);
    let hello = json!([{ "role": "user", "content": "hi" }]);
    let executed = json!({ "provider": "auto", "operation": "chat.completions", "params": { "model": "smart", "messages": hello } });
    for (path, body) in [
        ("/v1/responses", json!({ "model": "smart", "input": "hi" })),
        ("/v1/messages", json!({ "model": "smart", "max_tokens": 5, "messages": hello })),
        ("/v1/messages/count_tokens", json!({ "model": "smart", "messages": hello })),
        ("/v1/embeddings", json!({ "model": "vectors", "input": "abc" })),
        ("/api/integrations/execute", executed),
    ] {
        let answered = stage.ask(&ada, "POST", path, Some(body)).await?;
        ensure!(answered.status == 200, "{path}: {}", answered.body);
    }
    let expected = ["claude-fake", "claude-fake", "claude-fake", "embed", "claude-fake"];
    let seen = models(&stage);
    ensure!(seen == expected, "{seen:?}");

    // It stands among the models, and for a key that names it.
    let listed = async |token: &str| -> anyhow::Result<Vec<Value>> {
        let list = stage.http.get(format!("{}/v1/models", stage.gateway)).bearer_auth(token).send().await?;
        let list: Value = list.json().await?;
        Ok(list["data"].as_array().into_iter().flatten().map(|model| model["id"].clone()).collect())
    };
    ensure!(listed(&ada.token).await?.starts_with(&[json!("smart"), json!("vectors")]), "it is not listed");
    ensure!(stage.ask(&ada, "GET", "/v1/models/smart", None).await?.status == 200, "it cannot be read");
    let (_, key) = stage.mint(&ada, json!(["model:smart"])).await?;
    ensure!(asked(&stage, &key, "smart").await?.status() == 200, "the key does not reach it");
    ensure!(asked(&stage, &key, "openai/fake").await?.status() == 403, "the key reaches more");
    ensure!(listed(&key).await? == [json!("smart")], "the key sees more");
    let (_, other) = stage.mint(&ada, json!(["model:openai/fake"])).await?;
    ensure!(asked(&stage, &other, "smart").await?.status() == 403, "a key goes round its scopes");

    // Bob's organization has no such name, and he sees and changes nothing of ada's.
    ensure!(!listed(&bob.token).await?.contains(&json!("smart")), "bob sees it");
    models(&stage);
    asked(&stage, &bob.token, "smart").await?;
    ensure!(!models(&stage).contains(&json!("claude-fake")), "it means something to bob");
    ensure!(stage.ask(&bob, "GET", "/api/integrations/routes", None).await?.body == json!([]), "bob lists it");
    let path = "/api/integrations/routes/smart";
    ensure!(stage.ask(&bob, "GET", path, None).await?.status == 404, "bob reads it");
    ensure!(stage.ask(&bob, "DELETE", path, None).await?.status == 404, "bob removes it");
    for method in ["GET", "PUT", "DELETE"] {
        let body = (method == "PUT").then(|| route.clone());
        let foreign = stage.ask_in(&bob, Some(&ada.org), method, path, body).await?;
        ensure!(foreign.status == 403, "{method}: {}", foreign.status);
    }
    ensure!(stage.ask(&ada, "DELETE", path, None).await?.status == 204, "ada cannot remove it");
    ensure!(stage.ask(&ada, "GET", path, None).await?.status == 404, "it is there still");
    let gone = || async { Ok(!listed(&ada.token).await?.contains(&json!("smart"))) };
    until("it is gone", gone).await?;
    stage.house.run(&["projection", "verify"])?.expect(0)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_says_which_model_is_asked_next() -> Tested {
    let stage = Stage::open().await?;
    let ada = stage.register("ada").await?;
    let on = |trigger: &str, model: &str| json!({ "on": trigger, "targets": [target(model)] });
    let fallbacks = [on("error", "for-errors"), on("timeout", "for-time"), on("content_filter", "for-content")];
    let of = |first: Value| json!({ "targets": [first], "fallbacks": fallbacks });
    let mut slow = target("slow");
    slow["timeoutMs"] = json!(150);
    for (alias, first) in [("broken-one", target("broken")), ("slow-one", slow), ("shy-one", target("shy"))] {
        let (status, body) = set(&stage, &ada, alias, of(first)).await?;
        ensure!(status == 200, "{body}");
    }
    for (alias, next) in [("broken-one", "for-errors"), ("slow-one", "for-time"), ("shy-one", "for-content")] {
        let there = || async {
            let answered = asked(&stage, &ada.token, alias).await?;
            Ok(answered.status() == 200 && models(&stage).last() == Some(&json!(next)))
        };
        until(&format!("{next} is asked for {alias}"), there).await?;
    }

    // A budget that is used up for one model is not for another.
    let route =
        json!({ "targets": [target("fake")], "fallbacks": [on("budget", "cheap"), on("rate_limit", "patient")] });
    set(&stage, &ada, "thrifty", route).await?;
    let limit = |period: &str, limit: u64| json!({ "scope": "model", "subject": "fake", "period": period, "unit": "requests", "limit": limit });
    for (period, next) in [("total", "cheap"), ("minute", "patient")] {
        let set = stage.ask(&ada, "PUT", "/api/integrations/budgets", Some(limit(period, 1))).await?;
        ensure!(set.status == 200, "{}", set.body);
        let there = || async {
            models(&stage);
            ensure!(asked(&stage, &ada.token, "thrifty").await?.status() == 200, "it is refused");
            Ok(models(&stage) == [json!(next)])
        };
        until(&format!("{next} is asked"), there).await?;
        let id = set.body["id"].as_str().unwrap_or_default();
        ensure!(asked(&stage, &ada.token, "openai/fake").await?.status().is_client_error(), "the limit does not hold");
        stage.ask(&ada, "DELETE", &format!("/api/integrations/budgets/{id}"), None).await?;
    }
    Ok(())
}
