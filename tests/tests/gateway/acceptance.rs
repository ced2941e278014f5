//! What the platform's own clients depend on, what follows each refusal of a provider, and what is left of somebody who was
//! erased.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use symbia_tests::binary::until;

use crate::{Tested, limits::chat, stage::Stage};

#[tokio::test(flavor = "multi_thread")]
async fn each_client_finds_the_fields_that_it_reads() -> Tested {
    let stage = Stage::open().await?;
    let ada = stage.register("ada").await?;
    let say = json!([{ "role": "system", "content": "be brief" }, { "role": "user", "content": "2+3?" }]);
    let execute = |body: Value| {
        let url = format!("{}/api/integrations/execute", stage.gateway);
        let request = stage.http.post(url).bearer_auth(&ada.token).header("x-org-id", &ada.org);
        request.header("x-service-id", "logging").json(&body)
    };

    // An assistant, and one that leaves the model to the platform.
    for model in [json!("fake"), Value::Null] {
        let params = json!({ "model": model, "messages": say, "temperature": 0.7, "maxTokens": 60 });
        let said = execute(json!({ "provider": "openai", "operation": "chat.completions", "params": params }));
        let said: Value = said.send().await?.error_for_status()?.json().await?;
        let data = &said["data"];
        ensure!(said["success"] == true && said["requestId"].is_string() && said["durationMs"].is_u64(), "{said}");
        ensure!(data["content"] == "2 + 3 = 5 ✓" && data["finishReason"] == "stop", "{said}");
        ensure!(data["model"] == "fake-2026" && data["usage"]["totalTokens"] == 18, "{said}");
    }
    let texts = json!({ "input": ["a", "bc"], "dimensions": 2, "model": "embed" });
    let made = execute(json!({ "provider": "openai", "operation": "embeddings", "params": texts }));
    let made: Value = made.send().await?.error_for_status()?.json().await?;
    ensure!(made["data"]["embeddings"][0].as_array().is_some_and(|vector| vector.len() == 2), "{made}");
    // One whose token has run out reads the text, and the status.
    let url = format!("{}/api/integrations/execute", stage.gateway);
    let nobody = stage.http.post(url).json(&json!({ "provider": "openai" })).send().await?;
    let (status, text) = (nobody.status(), nobody.text().await?);
    ensure!(status == 401 && text.contains("Authentication required"), "{status} {text}");
    // One that tells errors of the service from those of the line by the request's id.
    let params = json!({ "model": "status-500-broken", "messages": say });
    let failed = execute(json!({ "provider": "openai", "operation": "chat.completions", "params": params })).send();
    let failed: Value = failed.await?.json().await?;
    ensure!(failed["success"] == false && failed["requestId"].is_string(), "{failed}");
    ensure!(failed["errorCategory"] == "provider" && failed["category"] == "provider", "{failed}");
    ensure!(failed["retryable"] == true && failed["message"].is_string() && failed["error"].is_string(), "{failed}");

    // Who picks a provider, and pages for people.
    let get = async |path: &str| -> anyhow::Result<Value> { Ok(stage.ask(&ada, "GET", path, None).await?.body) };
    let providers = get("/api/integrations/providers").await?;
    ensure!(providers["providers"][0]["defaultModel"].is_string(), "{providers}");
    let status = get("/api/integrations/status").await?;
    ensure!(status["status"] == "healthy" && status["providers"][0]["configured"].is_boolean(), "{status}");
    let able = get("/api/integrations/capabilities").await?;
    let offered = able["providers"].as_array().context("no providers")?;
    ensure!(offered.iter().any(|provider| provider["status"] == "available"), "{able}");
    ensure!(able["defaults"]["chatModel"].is_string() && able["modelsByPurpose"]["chat"].is_array(), "{able}");
    let models = get("/api/integrations/models?purpose=chat").await?;
    ensure!(models["all"].is_array() && models["models"].is_object(), "{models}");
    let stats = get("/api/stats").await?;
    ensure!(stats["totalProviders"].is_u64() && stats["totalIntegrations"].is_u64(), "{stats}");
    for (path, field) in [
        ("/api/integrations/registry", "integrations"),
        ("/api/integrations/namespace", "integrations"),
        ("/api/integrations/operations/search?q=chat", "results"),
        ("/docs/openapi.json", "paths"),
    ] {
        let found = get(path).await?;
        ensure!(!found[field].is_null(), "{path}: {found}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_provider_refuses_with_says_whether_it_and_others_are_asked_again() -> Tested {
    let stage = Stage::open().await?;
    let ada = stage.register("ada").await?;
    // Refused with status and code, times that it is asked, status and category of the end, whether another one is asked.
    for (refusal, asked, status, kind, others) in [
        ("429-insufficient_quota", 1, 402, "insufficient_quota", true),
        ("529-overloaded_error", 3, 502, "api_error", true),
        ("503-unavailable", 3, 502, "api_error", true),
        ("401-invalid_api_key", 1, 401, "authentication_error", true),
        ("402-billing", 1, 402, "insufficient_quota", true),
        ("404-model_not_found", 1, 404, "not_found_error", true),
        ("408-timeout", 3, 504, "api_error", true),
        ("400-context_length_exceeded", 1, 400, "invalid_request_error", true),
        ("400-bad_request", 1, 400, "invalid_request_error", false),
        ("400-content_filter", 1, 422, "invalid_request_error", false),
    ] {
        let model = |number: u8| format!("openai/status-{refusal}-{number}");
        stage.vendor.asked();
        let refused = chat(&stage, &ada.token, json!({ "model": model(1) })).await?;
        let (got, body): (_, Value) = (refused.status().as_u16(), refused.json().await?);
        let times = stage.vendor.asked().len();
        ensure!(got == status && times == asked, "{refusal}: {got} after {times}: {body}");
        ensure!(body["error"]["type"] == kind, "{refusal}: {body}");
        let other = chat(&stage, &ada.token, json!({ "model": model(2), "models": ["openai/fake"] })).await?;
        ensure!((other.status() == 200) == others, "{refusal}: another one is asked: {}", other.status());
    }

    // Not before the provider wants to be asked again.
    stage.vendor.asked();
    let begun = Instant::now();
    let answered = chat(&stage, &ada.token, json!({ "model": "openai/once-429" })).await?;
    ensure!(answered.status() == 200 && begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    ensure!(answered.headers().get("x-symbia-attempts").is_some_and(|attempts| attempts == "2"), "{answered:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_erased_person_asked_is_unreadable_and_still_counts() -> Tested {
    let (stage, root) = Stage::administered_with_vendor().await?;
    let (ada, bob) = (stage.register("ada").await?, stage.register("bob").await?);
    let invite = json!({ "email": "ada@example.test", "role": "admin" });
    let path = format!("/api/orgs/{}/members/invite", bob.org);
    let invited = stage.ask_at(&stage.identity, &bob, "POST", &path, Some(invite)).await?;
    ensure!((200..300).contains(&invited.status), "{}", invited.body);
    let run = json!({ "provider": "openai", "modelId": "clever", "benchmarkId": "routing.intent-classification",
        "testCaseIds": ["refund"] });
    let tried = || stage.ask_in(&ada, Some(&bob.org), "POST", "/api/model-eval/benchmarks/run", Some(run.clone()));
    until("ada may", || async { Ok(tried().await?.status == 200) }).await?;
    let id = tried().await?.body["id"].as_str().context("no id")?.to_owned();
    let path = format!("/api/model-eval/evaluations/{id}");
    let shown = || async { anyhow::Ok(stage.ask(&bob, "GET", &path, None).await?.body) };
    ensure!(shown().await?["testCaseResults"][0]["output"]["content"] == "billing", "{}", shown().await?);
    let used = || async {
        let usage = stage.ask(&bob, "GET", "/api/integrations/usage", None).await?.body;
        anyhow::Ok((usage["summary"].clone(), usage["byUser"].clone()))
    };
    // An answer that was hers is given to him, as long as she is there.
    let say = json!({ "model": "openai/fake", "cache": { "mode": "exact" },
        "messages": [{ "role": "user", "content": "2+3?" }] });
    let hers = stage.ask_in(&ada, Some(&bob.org), "POST", "/v1/chat/completions", Some(say.clone())).await?;
    ensure!(hers.status == 200, "{}", hers.body);
    stage.vendor.asked();
    let his = || stage.ask(&bob, "POST", "/v1/chat/completions", Some(say.clone()));
    ensure!(his().await?.status == 200 && stage.vendor.asked().is_empty(), "it is not given again");
    let counted = |requests: u64| {
        let used = &used;
        move || async move { Ok(used().await?.0["totalRequests"] == requests) }
    };
    until("all count", counted(4)).await?;
    ensure!(used().await?.0["totalTokens"] == 54, "{}", used().await?.0);
    let before = used().await?;

    let path = format!("/api/admin/users/{}", ada.id);
    let erased = stage.ask_at(&stage.identity, &root, "DELETE", &path, None).await?;
    ensure!(erased.status == 200, "{}", erased.body);
    until("it cannot be read", || async { Ok(shown().await?["testCaseResults"][0]["output"].is_null()) }).await?;
    ensure!(shown().await?["overallScore"] == 1.0, "{}", shown().await?);
    ensure!(used().await? == before, "{before:?} became {:?}", used().await?);
    ensure!(his().await?.status == 200 && stage.vendor.asked().len() == 1, "her answer is given when she is gone");
    until("his counts", counted(5)).await?;
    let before = used().await?;
    stage.house.run(&["projection", "rebuild", "integrations"])?.expect(0)?;
    ensure!(used().await? == before, "{before:?} became {:?}", used().await?);
    Ok(())
}
