//! Keys that may ask few models and not too often, answers that are given again, and models that share the load.

use anyhow::ensure;
use reqwest::Response;
use serde_json::{Value, json};
use symbia_tests::binary::until;

use crate::{Tested, stage::Stage};

pub async fn chat(stage: &Stage, token: &str, more: Value) -> anyhow::Result<Response> {
    let mut body = json!({ "model": "openai/fake", "messages": [{ "role": "user", "content": "2+3?" }] });
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    let url = format!("{}/v1/chat/completions", stage.gateway);
    Ok(stage.http.post(url).bearer_auth(token).json(&body).send().await?)
}

fn header<'r>(response: &'r Response, name: &str) -> &'r str {
    response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_asks_the_models_that_it_names_and_not_too_often() -> Tested {
    let stage = Stage::open().await?;
    let ada = stage.register("ada").await?;
    let (id, key) = stage.mint(&ada, json!(["model:openai/fake"])).await?;
    let key = key.as_str();

    let answered = chat(&stage, key, json!({})).await?;
    ensure!(answered.status() == 200, "{}", answered.text().await?);
    let refused = chat(&stage, key, json!({ "model": "anthropic/claude-fake" })).await?;
    let (status, body): (_, Value) = (refused.status(), refused.json().await?);
    ensure!(status == 403 && body["error"]["code"] == "model_not_allowed", "{status} {body}");
    // Nor as the second choice.
    let refused = chat(&stage, key, json!({ "models": ["anthropic/claude-fake"] })).await?;
    ensure!(refused.status() == 403, "{}", refused.status());
    let texts = json!({ "model": "openai/embed", "input": "a" });
    let embedded = stage.http.post(format!("{}/v1/embeddings", stage.gateway)).bearer_auth(key).json(&texts);
    ensure!(embedded.send().await?.status() == 403, "it embeds with another model");
    let listed: Value =
        stage.http.get(format!("{}/v1/models", stage.gateway)).bearer_auth(key).send().await?.json().await?;
    ensure!(listed["data"].as_array().is_some_and(|models| models.len() == 1), "{listed}");

    // Two requests a minute, of this key.
    let limit = json!({ "scope": "key", "subject": id, "period": "minute", "unit": "requests", "limit": 2 });
    let set = stage.ask(&ada, "PUT", "/api/integrations/budgets", Some(limit)).await?;
    ensure!(set.status == 200, "{}", set.body);
    until("the limit holds", || async { Ok(chat(&stage, key, json!({})).await?.status() == 429) }).await?;
    let refused = chat(&stage, key, json!({})).await?;
    let wait: u64 = header(&refused, "retry-after").parse()?;
    ensure!((1..=31).contains(&wait), "{wait}");
    let body: Value = refused.json().await?;
    let message = body["error"]["message"].as_str().unwrap_or_default();
    ensure!(body["error"]["type"] == "rate_limit_error" && message.contains("2 requests per minute"), "{body}");
    ensure!(chat(&stage, &ada.token, json!({})).await?.status() == 200, "ada herself has no such limit");

    // Tokens of the organization: what an answer took in the end counts, and it is not more than there is.
    let limit = json!({ "scope": "org", "period": "minute", "unit": "tokens", "limit": 40 });
    stage.ask(&ada, "PUT", "/api/integrations/budgets", Some(limit)).await?;
    let few = || chat(&stage, &ada.token, json!({ "max_tokens": 10 }));
    until("the tokens are used up", || async { Ok(few().await?.status() == 429) }).await?;
    let nothing = json!({ "scope": "org", "period": "minute", "unit": "tokens", "limit": 0 });
    let refused = stage.ask(&ada, "PUT", "/api/integrations/budgets", Some(nothing)).await?;
    ensure!(refused.status == 400, "{}", refused.body);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_given_again_within_its_organization_and_models_share_the_load() -> Tested {
    let stage = Stage::open().await?;
    let (ada, bob) = (stage.register("ada").await?, stage.register("bob").await?);
    let cached = json!({ "cache": { "mode": "exact", "ttl": 60 } });
    let asked = || stage.vendor.asked().len();
    let first = chat(&stage, &ada.token, cached.clone()).await?;
    ensure!((header(&first, "x-symbia-cache"), asked()) == ("", 1), "the first is asked for");
    let again = chat(&stage, &ada.token, cached.clone()).await?;
    ensure!((header(&again, "x-symbia-cache"), asked()) == ("hit", 0), "the second is not");
    let id = header(&again, "x-symbia-request-id").to_owned();
    let body: Value = again.json().await?;
    ensure!(body["choices"][0]["message"]["content"] == "2 + 3 = 5 ✓" && body["usage"]["total_tokens"] == 0, "{body}");
    let streamed = json!({ "cache": { "mode": "exact" }, "stream": true });
    let streamed = chat(&stage, &ada.token, streamed).await?;
    ensure!((header(&streamed, "x-symbia-cache"), asked()) == ("hit", 0), "nor when it is streamed");
    ensure!(streamed.text().await?.contains("2 + 3 = 5"), "a stream without the answer");
    // On record, at no cost.
    let path = format!("/api/integrations/executions/{id}");
    let shown = || async { anyhow::Ok(stage.ask(&ada, "GET", &path, None).await?.body) };
    until("it is on record", || async { Ok(shown().await?["status"] == "completed") }).await?;
    let shown = shown().await?;
    ensure!(shown["totalTokens"] == 0 && shown["result"]["metadata"]["cached"] == true, "{shown}");
    // Neither for who did not ask for it, nor for another question, nor elsewhere.
    for (token, more) in [(&ada.token, json!({})), (&bob.token, cached.clone())] {
        chat(&stage, token, more).await?;
        ensure!(asked() == 1, "it was not asked for");
    }
    let mut other = cached;
    other["temperature"] = json!(0.5);
    chat(&stage, &ada.token, other).await?;
    ensure!(asked() == 1, "another temperature is another question");

    let shared = json!({ "models": ["openai/second"], "routing": { "strategy": "simple-shuffle", "weights": [0, 1] } });
    chat(&stage, &ada.token, shared).await?;
    let models: Vec<Value> = stage.vendor.asked().iter().map(|asked| asked.body["model"].clone()).collect();
    ensure!(models == [json!("second")], "{models:?}");
    let refused = chat(&stage, &ada.token, json!({ "routing": { "strategy": "by-luck" } })).await?;
    ensure!(refused.status() == 400, "{}", refused.status());

    // Not what a process remembers, and for no longer than its asker would take it.
    let brief = json!({ "cache": { "mode": "exact", "ttl": 1 }, "seed": 1 });
    chat(&stage, &ada.token, brief.clone()).await?;
    let stage = stage.crash()?;
    stage.vendor.asked();
    let again = chat(&stage, &ada.token, json!({ "cache": { "mode": "exact", "ttl": 60 } })).await?;
    ensure!(header(&again, "x-symbia-cache") == "hit" && stage.vendor.asked().is_empty(), "it is asked for again");
    let gone = || async {
        chat(&stage, &ada.token, brief.clone()).await?;
        Ok(stage.vendor.asked().len() == 1)
    };
    until("it is too old", gone).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_fails_again_and_again_is_left_alone_until_somebody_resets_it() -> Tested {
    let stage = Stage::open().await?;
    let (ada, bob) = (stage.register("ada").await?, stage.register("bob").await?);
    let keep = json!({ "provider": "openai", "name": "mine", "apiKey": "sk-adas-own-secret-2468" });
    let kept = stage.http.post(format!("{}/api/credentials", stage.identity)).bearer_auth(&ada.token).json(&keep);
    kept.send().await?.error_for_status()?;
    let broken = || chat(&stage, &ada.token, json!({ "model": "openai/broken" }));
    until("it is left alone", || async { Ok(broken().await?.status() == 503) }).await?;
    stage.vendor.asked();
    ensure!(broken().await?.status() == 503 && stage.vendor.asked().is_empty(), "it is asked all the same");
    ensure!(chat(&stage, &ada.token, json!({})).await?.status() == 200, "another model of it is asked");

    let read = |who| stage.ask(who, "GET", "/api/integrations/circuit-breaker", None);
    until("it shows", || async { Ok(read(&ada).await?.body["status"]["openai"]["state"] == "open") }).await?;
    let shown = read(&ada).await?.body;
    let circuit = &shown["circuits"][0];
    ensure!(
        circuit["model"] == "broken" && circuit["failures"] == 5 && circuit["lastCategory"] == "provider",
        "{shown}"
    );
    // It is about ada's key, and hers to reset.
    let foreign = read(&bob).await?.body;
    ensure!(foreign["circuits"] == json!([]) && foreign["status"]["openai"]["state"] == "closed", "{foreign}");
    let reset = |who| stage.ask(who, "POST", "/api/integrations/circuit-breaker/reset/openai", None);
    ensure!(reset(&bob).await?.body["message"] == "0 circuits reset", "bob resets something");
    let done = reset(&ada).await?;
    ensure!(done.status == 200 && done.body["status"]["openai"]["state"] == "closed", "{}", done.body);
    until("it is asked again", || async { Ok(broken().await?.status() == 502) }).await
}
