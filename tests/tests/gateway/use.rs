//! Keys of the vault, what is used, budgets, and what others may not see.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use symbia_tests::binary::until;

use crate::{
    Tested,
    stage::{Person, Stage},
};

const KEY: &str = "sk-adas-own-secret-9753";

fn chat() -> Value {
    json!({ "provider": "openai", "operation": "chat.completions", "params": { "model": "fake", "prompt": "2+3?" } })
}

async fn execute(stage: &Stage, who: &Person, body: Value) -> anyhow::Result<crate::stage::Answered> {
    stage.ask(who, "POST", "/api/integrations/execute", Some(body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_usage_and_budgets_are_an_organizations_own() -> Tested {
    let stage = Stage::open().await?;
    let (ada, bob) = (stage.register("ada").await?, stage.register("bob").await?);

    // By the platform's own route, with the platform's key.
    let answered = execute(&stage, &ada, chat()).await?;
    ensure!(answered.status == 200 && answered.body["success"] == true, "{}", answered.body);
    ensure!(answered.body["data"]["content"] == "2 + 3 = 5 ✓", "{}", answered.body);
    ensure!(answered.body["data"]["usage"]["totalTokens"] == 18, "{}", answered.body);
    let first = answered.body["requestId"].as_str().context("no id")?.to_owned();

    // With a key of her own, once it is there.
    let keep = json!({ "provider": "openai", "name": "mine", "apiKey": KEY });
    let kept = stage.http.post(format!("{}/api/credentials", stage.identity)).bearer_auth(&ada.token).json(&keep);
    kept.send().await?.error_for_status()?;
    stage.vendor.asked();
    execute(&stage, &ada, chat()).await?;
    execute(&stage, &bob, chat()).await?;
    let keys: Vec<String> = stage.vendor.asked().into_iter().map(|asked| asked.key).collect();
    ensure!(keys == [KEY, crate::vendor::KEYS[0]], "{keys:?}");

    // Embeddings by the same route.
    let texts =
        json!({ "provider": "openai", "operation": "embeddings", "params": { "input": ["a", "bc"], "dimensions": 2 } });
    let made = execute(&stage, &ada, texts).await?;
    ensure!(made.body["data"]["embeddings"] == json!([[1.0, 0.5], [2.0, 0.5]]), "{}", made.body);

    // What was used, by whom and what for.
    let used = || async { anyhow::Ok(stage.ask(&ada, "GET", "/api/integrations/usage", None).await?.body) };
    until("the usage shows", || async { Ok(used().await?["summary"]["totalRequests"] == 3) }).await?;
    let usage = used().await?;
    ensure!(usage["summary"]["totalTokens"] == 18 * 2 + 2, "{usage}");
    ensure!(usage["byUser"][0]["userId"] == ada.id.as_str() && usage["byUser"][0]["requestCount"] == 3, "{usage}");

    // What she was answered is hers alone.
    let path = format!("/api/integrations/executions/{first}");
    let read = stage.ask(&ada, "GET", &path, None).await?;
    ensure!(read.body["result"]["content"] == "2 + 3 = 5 ✓" && read.body["status"] == "completed", "{}", read.body);
    ensure!(stage.ask(&bob, "GET", &path, None).await?.status == 404, "bob reads ada's request");
    // And to follow: it has its end, and is told it.
    let path_of = |id: &str| format!("/api/integrations/executions/{id}/stream");
    let followed = stage.ask(&ada, "GET", &path_of(&first), None).await?.body;
    let followed = followed.as_str().unwrap_or_default();
    ensure!(followed.contains("event: started") && followed.contains("event: completed\nid: 1."), "{followed}");
    ensure!(stage.ask(&bob, "GET", &path_of(&first), None).await?.status == 404, "bob follows ada's request");
    let goes_on = json!({ "model": "openai/fake", "input": "hi", "previous_response_id": format!("resp_{first}") });
    ensure!(stage.ask(&bob, "POST", "/v1/responses", Some(goes_on)).await?.status == 400, "bob goes on with it");
    for path in [path.as_str(), "/api/integrations/usage", "/api/integrations/executions", "/api/integrations/budgets"]
    {
        let foreign = stage.ask_in(&bob, Some(&ada.org), "GET", path, None).await?;
        ensure!(foreign.status == 403, "bob in ada's organization: {path} {}", foreign.status);
    }
    let theirs = stage.ask(&bob, "GET", "/api/integrations/executions", None).await?.body;
    ensure!(theirs.as_array().is_some_and(|rows| rows.len() == 1), "{theirs}");

    // A budget that is used up refuses, and says what it counted; bob's organization has none.
    let budget = json!({ "scope": "user", "subject": ada.id, "period": "month", "unit": "requests", "limit": 1 });
    let set = stage.ask(&ada, "PUT", "/api/integrations/budgets", Some(budget.clone())).await?;
    ensure!(set.status == 200 && set.body["limit"] == 1, "{} {}", set.status, set.body);
    let foreign = stage.ask_in(&bob, Some(&ada.org), "PUT", "/api/integrations/budgets", Some(budget)).await?;
    ensure!(foreign.status == 403, "{}", foreign.body);
    until("the budget counts", || async { Ok(execute(&stage, &ada, chat()).await?.status == 402) }).await?;
    let refused = stage.ask(
        &ada,
        "POST",
        "/v1/chat/completions",
        Some(json!({ "messages": [{ "role": "user", "content": "hi" }] })),
    );
    let refused = refused.await?;
    let message = refused.body["error"]["message"].as_str().unwrap_or_default();
    ensure!(refused.status == 402 && refused.body["error"]["type"] == "insufficient_quota", "{}", refused.body);
    ensure!(message.contains("1 requests per month is used up: 1 spent"), "{message}");
    ensure!(execute(&stage, &bob, chat()).await?.status == 200, "bob has no budget");

    // Who has no key and no provider is told.
    let none = json!({ "provider": "huggingface", "operation": "chat.completions", "params": { "prompt": "hi" } });
    let none = execute(&stage, &bob, none).await?;
    ensure!(none.status == 401 && none.body["code"] == "NO_KEY", "{}", none.body);
    let none = json!({ "provider": "nobody", "operation": "chat.completions", "params": { "prompt": "hi" } });
    let none = execute(&stage, &bob, none).await?;
    ensure!(none.status == 404 && none.body["category"] == "not_found", "{}", none.body);

    // The read model, built again from the log, sums up the same.
    let sums = || async { used().await.map(|usage| (usage["summary"].clone(), usage["byIntegration"].clone())) };
    stage.house.run(&["projection", "verify"])?.expect(0)?;
    let before = sums().await?;
    stage.house.run(&["projection", "rebuild", "integrations"])?.expect(0)?;
    ensure!(sums().await? == before, "{before:?}");

    // Her key stands in no event.
    let logged = stage.house.run(&["log", "export"])?.expect(0)?;
    ensure!(logged.out.contains("completion-completed") && !logged.out.contains(KEY), "the key is in the log");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_lent_for_a_while_and_what_happens_to_it_counts_at_once() -> Tested {
    let stage = Stage::open().await?;
    let ada = stage.register("ada").await?;
    let credentials = format!("{}/api/credentials", stage.identity);
    let keep = json!({ "provider": "openai", "name": "mine", "apiKey": KEY });
    let kept = stage.http.post(&credentials).bearer_auth(&ada.token).json(&keep).send().await?.error_for_status()?;
    let kept: Value = kept.json().await?;
    let id = [&kept["id"], &kept["credential"]["id"]].into_iter().find_map(|id| id.as_str()).context("no id")?;
    let path = format!("{credentials}/{id}");
    let released =
        || anyhow::Ok(stage.house.run(&["log", "export"])?.expect(0)?.out.matches("credential-released.v1").count());
    let asked = || async {
        execute(&stage, &ada, chat()).await?;
        anyhow::Ok(stage.vendor.asked().into_iter().map(|asked| asked.key).next_back())
    };

    // On record before it is lent, and not for each request.
    until("a key is lent for more than one request", || async {
        let before = released()?;
        let used = (asked().await?, asked().await?);
        ensure!(used == (Some(KEY.to_owned()), Some(KEY.to_owned())), "{used:?}");
        Ok(before > 0 && released()? == before)
    })
    .await?;

    let changed = json!({ "apiKey": "sk-adas-other-secret-1357" });
    stage.http.patch(&path).bearer_auth(&ada.token).json(&changed).send().await?.error_for_status()?;
    ensure!(asked().await?.as_deref() == Some("sk-adas-other-secret-1357"), "the key of before is used");
    stage.http.delete(&path).bearer_auth(&ada.token).send().await?.error_for_status()?;
    ensure!(asked().await?.as_deref() == Some(crate::vendor::KEYS[0]), "a deleted key is used");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_no_event_holds_is_refused_as_too_large() -> Tested {
    let stage = Stage::open().await?;
    let ada = stage.register("ada").await?;
    for (path, kind) in [("/v1/chat/completions", "invalid_request_error"), ("/v1/messages", "request_too_large")] {
        let messages = json!([{ "role": "user", "content": "x".repeat(200_000) }]);
        let body = json!({ "model": "openai/fake", "max_tokens": 9, "messages": messages });
        let refused = stage.ask(&ada, "POST", path, Some(body)).await?;
        ensure!(refused.status == 413 && refused.body["error"]["type"] == kind, "{} {}", refused.status, refused.body);
    }
    // Many small turns are more than their text.
    let turn = json!({ "role": "user", "content": "x".repeat(300) });
    let many = json!({ "model": "openai/fake", "messages": vec![turn; 490] });
    let refused = stage.ask(&ada, "POST", "/v1/chat/completions", Some(many)).await?;
    ensure!(refused.status == 413 && stage.vendor.asked().is_empty(), "{} {}", refused.status, refused.body);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_found_again_by_their_tags() -> Tested {
    let stage = Stage::open().await?;
    let (ada, bob) = (stage.register("ada").await?, stage.register("bob").await?);
    let messages = json!([{ "role": "user", "content": "hi" }]);
    let ask = async |tags: &str, path: &str, body: Value| -> anyhow::Result<u16> {
        let request = stage.http.post(format!("{}{path}", stage.gateway)).bearer_auth(&ada.token);
        Ok(request.header("x-symbia-tags", tags).json(&body).send().await?.status().as_u16())
    };
    let said = json!({ "model": "openai/fake", "messages": messages });
    ensure!(ask("team:blue, nightly", "/v1/chat/completions", said.clone()).await? == 200);
    ensure!(ask("team:blue", "/v1/embeddings", json!({ "model": "openai/embed", "input": "abc" })).await? == 200);
    ensure!(ask("team:red", "/api/integrations/execute", chat()).await? == 200);
    for wrong in ["a b", &"x".repeat(65), &["x"; 11].join(",")] {
        ensure!(ask(wrong, "/v1/chat/completions", said.clone()).await? == 400, "{wrong}");
    }
    let found = async |who: &Person, tag: &str| -> anyhow::Result<Vec<Value>> {
        let path = format!("/api/integrations/executions?tag={tag}");
        Ok(stage.ask(who, "GET", &path, None).await?.body.as_array().cloned().unwrap_or_default())
    };
    until("both show", || async { Ok(found(&ada, "team:blue").await?.len() == 2) }).await?;
    let one = found(&ada, "nightly").await?;
    ensure!(one.len() == 1 && one[0]["tags"] == json!(["team:blue", "nightly"]), "{one:?}");
    ensure!(found(&ada, "team").await?.is_empty() && found(&bob, "team:blue").await?.is_empty(), "others are found");
    let usage = stage.ask(&ada, "GET", "/api/integrations/usage?tag=nightly", None).await?.body;
    ensure!(usage["summary"]["totalRequests"] == 1 && usage["summary"]["totalTokens"] == 18, "{usage}");
    stage.house.run(&["projection", "verify"])?.expect(0)?;
    Ok(())
}
