//! Tasks that one model does in one piece: asked for as the vendors' clients do, paid for as anything else, once each, and nobody
//! else's to see.

use anyhow::ensure;
use serde_json::{Value, json};
use symbia_tests::binary::until;

use crate::{
    Tested,
    stage::{Person, Stage},
};

const RERANK: &str = "/v1/rerank";
const MODERATIONS: &str = "/v1/moderations";
const QUERY: &str = "where do kingfishers-CANARY nest?";

fn documents() -> Value {
    json!({ "model": "openai/ranker", "query": QUERY, "documents": ["in banks", { "text": "in the banks of a river" }, "no"] })
}

pub fn with(body: &Value, more: &Value) -> Value {
    let mut body = body.clone();
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more.clone()) {
        body.extend(more);
    }
    body
}

impl Stage {
    pub async fn price(&self, root: &Person, model: &str, more: &Value) -> Tested {
        let price = json!({ "provider": "openai", "model": model, "inputMicrosPerM": 0, "outputMicrosPerM": 0 });
        let set = self.ask(root, "PUT", "/api/integrations/prices", Some(with(&price, more))).await?;
        ensure!(set.status == 200, "{}", set.body);
        Ok(())
    }

    /// What something cost, once it is on record so many times.
    pub async fn costs(&self, who: &Person, operation: &str, times: usize) -> anyhow::Result<Vec<Value>> {
        let rows = async || {
            let rows = self.ask(who, "GET", "/api/integrations/executions", None).await?.body;
            let made = |row: &&Value| row["operation"] == operation && row["status"] == "completed";
            anyhow::Ok(rows.as_array().into_iter().flatten().filter(made).cloned().collect::<Vec<Value>>())
        };
        until("it is on record", || async { Ok(rows().await?.len() == times) }).await?;
        Ok(rows().await?.iter().map(|row| row["costMicros"].clone()).collect())
    }

    /// That a provider's failures are told as such, as OpenAI tells them; the provider is asked once for each unless it may pass.
    pub async fn told(&self, who: &Person, path: &str, body: &Value) -> Tested {
        // A model of its own for each path: who fails often is left alone.
        let page = format!("openai/page{}", path.replace('/', "-"));
        for (model, status, kind, code) in [
            ("openai/status-400-content_filter-x", 422, "invalid_request_error", "content_filter"),
            ("openai/status-401-invalid_api_key", 401, "authentication_error", "key_refused"),
            ("openai/status-404-x", 404, "not_found_error", "model_not_found"),
            (page.as_str(), 502, "api_error", "invalid_response"),
            ("anthropic/claude-fake", 400, "invalid_request_error", "no_"),
        ] {
            let answered = self.ask(who, "POST", path, Some(with(body, &json!({ "model": model })))).await?;
            let error = &answered.body["error"];
            ensure!(answered.status == status && error["type"] == kind, "{path} {model}: {} {error}", answered.status);
            ensure!(error["code"].as_str().is_some_and(|found| found.starts_with(code)), "{path} {model}: {error}");
            ensure!(error["message"].is_string() && error.get("param").is_some(), "{path} {model}: {error}");
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_done_priced_limited_once_each_and_their_askers_own() -> Tested {
    let (mut stage, root) = Stage::administered_with_vendor().await?;
    let (ada, bob) = (stage.register("ada").await?, stage.register("bob").await?);
    stage.price(&root, "ranker", &json!({ "requestMicros": 2_000, "inputMicrosPerM": 1_000_000 })).await?;

    // Documents in order, the texts only when they are wanted.
    let rank = async |more: Value| stage.ask(&ada, "POST", RERANK, Some(with(&documents(), &more))).await;
    let ranked = rank(json!({ "top_n": 2, "return_documents": true })).await?;
    let expected = json!([{ "index": 1, "relevance_score": 0.23, "document": { "text": "in the banks of a river" } },
        { "index": 0, "relevance_score": 0.08, "document": { "text": "in banks" } }]);
    ensure!(ranked.status == 200 && ranked.body["results"] == expected, "{}", ranked.body);
    ensure!(ranked.body["model"] == "rerank-2026" && ranked.body["usage"]["total_tokens"] == 30, "{}", ranked.body);
    ensure!(ranked.body["id"].is_string() && ranked.body["meta"]["billed_units"]["search_units"] == 1);
    let asked: Vec<Value> = stage.vendor.asked().into_iter().map(|asked| asked.body).collect();
    let expected = json!({ "model": "ranker", "query": QUERY, "top_n": 2,
        "documents": ["in banks", "in the banks of a river", "no"] });
    ensure!(asked == [expected], "{asked:?}");
    let plain = rank(json!({})).await?;
    ensure!(plain.body["results"].as_array().is_some_and(|results| results.len() == 3), "{}", plain.body);
    ensure!(plain.body["results"][0].get("document").is_none(), "{}", plain.body);
    ensure!(stage.costs(&ada, "rerank", 2).await? == [2_030, 2_030], "another cost");

    // What may pass is tried again, what does not is told.
    stage.vendor.asked();
    let again = rank(json!({ "model": "openai/once-429" })).await?;
    ensure!(again.status == 200 && stage.vendor.asked().len() == 2, "{}", again.body);
    stage.told(&ada, RERANK, &documents()).await?;
    for (more, param) in
        [(json!({ "query": "" }), "query"), (json!({ "documents": [] }), "documents"), (json!({ "top_n": 0 }), "top_n")]
    {
        let refused = rank(more).await?;
        ensure!(refused.status == 400 && refused.body["error"]["param"] == param, "{}", refused.body);
    }

    // Texts and pictures that are looked at: a text, several, and parts, of any size, as they came.
    let look = async |body: Value| stage.ask(&ada, "POST", MODERATIONS, Some(body)).await;
    let photo = format!("data:image/png;base64,{}", "AAAA".repeat(100_000));
    let shown = |url: &str| json!([{ "type": "text", "text": "hurt-CANARY" }, { "type": "image_url", "image_url": { "url": url } }]);
    for (input, flags) in [
        (json!("hurt-CANARY"), vec![true]),
        (json!(["fine", "hurt"]), vec![false, true]),
        (shown("https://pictures.example.test/1.png"), vec![true]),
        (shown(&photo), vec![true]),
    ] {
        stage.vendor.asked();
        let looked = look(json!({ "model": "omni-moderation-latest", "input": input })).await?;
        let flagged: Vec<&Value> =
            looked.body["results"].as_array().into_iter().flatten().map(|r| &r["flagged"]).collect();
        ensure!(looked.status == 200 && flagged == flags, "{} {}", looked.status, looked.body);
        ensure!(looked.body["model"] == "moderation-2026" && looked.body["id"] == "modr-9", "{}", looked.body);
        let asked: Vec<Value> = stage.vendor.asked().into_iter().map(|asked| asked.body).collect();
        ensure!(asked == [json!({ "model": "omni-moderation-latest", "input": input })], "another request");
    }
    // Nobody names a model, nor a provider: the one that moderates is asked.
    let usual = look(json!({ "input": "fine" })).await?;
    ensure!(usual.status == 200 && stage.vendor.asked()[0].body["model"] == "omni-moderation-latest", "{}", usual.body);
    // It costs nothing that has no price, and is on record.
    ensure!(stage.costs(&ada, "moderations", 5).await? == vec![Value::Null; 5], "it has a price");
    stage.told(&ada, MODERATIONS, &json!({ "input": "fine" })).await?;
    for input in [json!(null), json!([]), json!(""), json!([{ "type": "sound" }]), json!(1)] {
        let refused = look(json!({ "input": input })).await?;
        ensure!(refused.status == 400 && refused.body["error"]["param"].is_string(), "{input}: {}", refused.body);
    }
    let elsewhere = format!("symbia-file:x/{}?bytes=1&type=image/png", "0".repeat(64));
    let elsewhere = look(json!({ "input": shown(&elsewhere) })).await?;
    ensure!(elsewhere.status == 404 && elsewhere.body["code"] == "PICTURE_GONE", "{}", elsewhere.body);

    // Nobody else's: neither what was done, nor the means to have it done.
    let theirs = stage.ask(&bob, "GET", "/api/integrations/executions", None).await?.body;
    ensure!(theirs == json!([]), "bob sees ada's tasks: {theirs}");
    let foreign = stage.ask_in(&bob, Some(&ada.org), "POST", RERANK, Some(documents())).await?;
    ensure!(foreign.status == 403, "bob asks in ada's name: {}", foreign.body);
    let (_, key) = stage.mint(&ada, json!(["model:openai/fake"])).await?;
    let keyed = stage.http.post(format!("{}{RERANK}", stage.gateway)).bearer_auth(key).json(&documents());
    ensure!(keyed.send().await?.status() == 403, "a key that names other models has it done");

    // A budget that has room for one of them.
    let budget = json!({ "scope": "model", "subject": "ranker", "period": "total", "unit": "micros", "limit": 3_000 });
    let set = stage.ask(&ada, "PUT", "/api/integrations/budgets", Some(budget)).await?;
    ensure!(set.status == 200, "{}", set.body);
    until("the budget counts", || async { Ok(rank(json!({})).await?.status == 402) }).await?;
    let spent = || async {
        let budgets = stage.ask(&ada, "GET", "/api/integrations/budgets", None).await?.body;
        Ok(budgets[0]["spent"].as_u64().is_some_and(|spent| spent <= 3_000) && budgets[0]["reserved"] == 0)
    };
    until("it is settled", spent).await?;

    // Asked again with the same key, it is not done twice; nor after a crash.
    let idempotent = async |stage: &Stage| {
        let request = stage.http.post(format!("{}{RERANK}", stage.gateway)).bearer_auth(&ada.token);
        let body = with(&documents(), &json!({ "model": "openai/other" }));
        let answer = request.header("idempotency-key", "same").json(&body).send().await?;
        anyhow::Ok(answer.error_for_status()?.json::<Value>().await?)
    };
    stage.vendor.asked();
    let first = idempotent(&stage).await?;
    ensure!(first == idempotent(&stage).await? && stage.vendor.asked().len() == 1, "it was done twice");
    stage.house.run(&["projection", "verify"])?.expect(0)?;
    let log = stage.house.run(&["log", "export"])?.expect(0)?.out;
    ensure!(log.contains("task-completed.v1") && !log.contains("CANARY"), "the question is in the log in clear");
    stage = stage.crash()?;
    ensure!(first == idempotent(&stage).await? && stage.vendor.asked().is_empty(), "it was done again");
    Ok(())
}
