//! Models that are tried, what that says of them, and who may have it done and see it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, ensure};
use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, patch},
};
use serde_json::{Value, json};
use symbia_tests::binary::until;

use crate::{
    Tested,
    stage::{Answered, Person, Stage},
};

const INTENTS: &str = "routing.intent-classification";

async fn tried(stage: &Stage, who: &Person, model: &str, more: Value) -> anyhow::Result<Answered> {
    let mut body = json!({ "provider": "openai", "modelId": model, "benchmarkId": INTENTS });
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    stage.ask(who, "POST", "/api/model-eval/benchmarks/run", Some(body)).await
}

fn id_of(evaluation: &Value) -> anyhow::Result<String> {
    Ok(evaluation["id"].as_str().with_context(|| evaluation.to_string())?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_tried_marked_and_recommended_and_nobody_else_sees_it() -> Tested {
    let stage = Stage::open().await?;
    let (ada, bob) = (stage.register("ada").await?, stage.register("bob").await?);
    let read = async |who: &Person, path: &str| -> anyhow::Result<Answered> {
        stage.ask(who, "GET", &format!("/api/model-eval/{path}"), None).await
    };
    let all = read(&ada, "benchmarks").await?.body;
    let cases =
        |list: &Value| list.as_array().map_or(0, |l| l.iter().filter_map(|b| b["testCaseCount"].as_u64()).sum());
    ensure!(all["summary"]["total"] == 10 && cases(&all["benchmarks"]) == 44, "{all}");
    let code = read(&ada, "benchmarks?taskType=code").await?.body;
    ensure!(
        code["summary"]
            == json!({ "total": 2, "byTaskType": { "code": 2 }, "byCategory": { "security": 1, "performance": 1 } }),
        "{code}"
    );
    ensure!(read(&ada, "benchmarks?taskType=luck").await?.status == 400, "a task of luck");
    let whole = read(&ada, &format!("benchmarks/{INTENTS}")).await?.body;
    ensure!(
        whole["testCases"].as_array().is_some_and(|cases| cases.len() == 11) && whole["system"].is_string(),
        "{whole}"
    );
    ensure!(read(&ada, "benchmarks/no.such").await?.status == 404, "a benchmark that is none");

    // It always says the same, which is right in three cases of eleven, one of them of double weight.
    let done = tried(&stage, &ada, "clever", json!({ "seed": 7 })).await?;
    let evaluation = &done.body;
    ensure!(done.status == 200 && evaluation["status"] == "completed", "{} {evaluation}", done.status);
    let close = |value: &Value, expected: f64| value.as_f64().is_some_and(|value| (value - expected).abs() < 1e-9);
    ensure!(
        close(&evaluation["overallScore"], 4.0 / 12.0) && close(&evaluation["accuracy"], 3.0 / 11.0),
        "{evaluation}"
    );
    ensure!(evaluation["totalInputTokens"] == 12 * 11 && evaluation["runConfig"]["seed"] == 7, "{evaluation}");
    let results = evaluation["testCaseResults"].as_array().context("no results")?;
    let refund = results.iter().find(|result| result["testCaseId"] == "refund").context("no refund")?;
    ensure!(results.len() == 11 && refund["passed"] == true && refund["output"]["content"] == "billing", "{refund}");
    let bodies: Vec<Value> = stage.vendor.asked().into_iter().map(|asked| asked.body).collect();
    ensure!(
        bodies.len() == 11
            && bodies.iter().all(|b| b["temperature"] == 0.0 && b["max_tokens"] == 100 && b["seed"] == 7),
        "{bodies:?}"
    );
    ensure!(bodies.iter().all(|body| body["messages"][0]["role"] == "system"), "a model is told nothing of its task");
    // Each case is a request like any other, of whom the model is tried for.
    let rows = || async {
        anyhow::Ok(stage.ask(&ada, "GET", "/api/integrations/executions?status=completed", None).await?.body)
    };
    until("they show", || async { Ok(rows().await?.as_array().is_some_and(|rows| rows.len() == 11)) }).await?;
    let rows = rows().await?;
    ensure!(rows.as_array().is_some_and(|rows| rows.iter().all(|row| row["userId"] == ada.id.as_str())), "{rows}");

    // Some cases only; a mock asks nobody and marks nobody.
    let some = tried(&stage, &ada, "clever", json!({ "testCaseIds": ["refund", "weather"] })).await?.body;
    ensure!(close(&some["overallScore"], 0.5) && some["testCaseCount"] == 2, "{some}");
    stage.vendor.asked();
    let mock = tried(&stage, &ada, "mocked", json!({ "mock": true })).await?.body;
    ensure!(close(&mock["overallScore"], 1.0) && stage.vendor.asked().is_empty(), "{mock}");
    for wrong in [json!({ "benchmarkId": "no.such" }), json!({ "testCaseIds": ["none"] }), json!({ "modelId": "" })] {
        ensure!(tried(&stage, &ada, "clever", wrong.clone()).await?.status == 400, "{wrong}");
    }
    ensure!(tried(&stage, &ada, "x", json!({ "provider": "nobody" })).await?.status == 404, "a provider that is none");
    let keyless = tried(&stage, &ada, "x", json!({ "provider": "huggingface" })).await?;
    ensure!(keyless.status == 401 && keyless.body["evaluationId"].is_string(), "{} {}", keyless.status, keyless.body);

    // The marks: quality of both runs, no price, quick.
    let sum_up =
        |task: &str| stage.ask(&ada, "POST", "/api/model-eval/scores/aggregate", Some(json!({ "taskType": task })));
    let summed = sum_up("routing").await?.body;
    ensure!(summed["modelsProcessed"] == 1, "{summed}");
    let score = &summed["scores"][0];
    let quality = (100.0 / 3.0 + 50.0) / 2.0;
    ensure!(
        score["modelId"] == "clever" && close(&score["qualityScore"], quality) && score["costScore"] == 50.0,
        "{score}"
    );
    ensure!(
        score["reliabilityScore"] == 80.0 && score["evaluationIds"].as_array().is_some_and(|ids| ids.len() == 2),
        "{score}"
    );
    let listed = read(&ada, "scores?taskType=routing").await?.body;
    ensure!(listed["count"] == 1 && listed["scores"][0] == *score, "{listed}");
    let recommend = async |more: Value| -> anyhow::Result<Value> {
        let mut body = json!({ "taskType": "routing" });
        if let Some((body, more)) = body.as_object_mut().zip(more.as_object()) {
            body.extend(more.clone());
        }
        Ok(stage.ask(&ada, "POST", "/api/model-eval/recommendations", Some(body)).await?.body)
    };
    let best = recommend(json!({})).await?;
    ensure!(best["recommendations"][0]["modelId"] == "clever" && best["expiresAt"].is_string(), "{best}");
    ensure!(recommend(json!({})).await?["cachedAt"] == best["cachedAt"], "it is not kept");
    let by_quality = recommend(json!({ "weights": { "speed": 0, "cost": 0, "reliability": 0 } })).await?;
    ensure!(close(&by_quality["recommendations"][0]["compositeScore"], quality), "{by_quality}");
    for (constraint, fits) in [
        (json!({ "minQualityScore": 60 }), false),
        (json!({ "maxLatencyMs": 60_000 }), true),
        (json!({ "maxCostPerMTokens": 1000 }), false),
        (json!({ "excludeProviders": ["openai"] }), false),
        (json!({ "excludeModels": ["openai/clever"] }), false),
        (json!({ "requiredCapabilities": ["embedding"] }), false),
    ] {
        let found = recommend(json!({ "constraints": constraint })).await?;
        ensure!(
            found["recommendations"].as_array().is_some_and(|list| list.is_empty() != fits),
            "{constraint} {found}"
        );
    }
    let models = read(&ada, "models?taskType=embedding&providers=openai").await?.body;
    ensure!(
        models["models"]
            .as_array()
            .is_some_and(|all| !all.is_empty() && all.iter().all(|m| m["capabilities"] == json!(["embedding"]))),
        "{models}"
    );
    let resources = read(&ada, "catalog/preview?providers=openai").await?.body;
    let keys: Vec<&str> =
        resources["resources"].as_array().into_iter().flatten().filter_map(|r| r["key"].as_str()).collect();
    ensure!(
        keys.contains(&"integrations/ai/openai/config") && keys.contains(&"integrations/ai/openai/models/fake"),
        "{keys:?}"
    );
    ensure!(read(&ada, "catalog/export").await?.body["resources"].is_array(), "no file");

    // Bob sees nothing of it, and has nothing done in ada's organization.
    let id = id_of(evaluation)?;
    ensure!(read(&bob, &format!("evaluations/{id}")).await?.status == 404, "bob reads it");
    for path in ["evaluations", "scores"] {
        let theirs = read(&bob, path).await?.body;
        ensure!(theirs["count"] == 0, "bob's {path}: {theirs}");
        let foreign = stage.ask_in(&bob, Some(&ada.org), "GET", &format!("/api/model-eval/{path}"), None).await?;
        ensure!(foreign.status == 403, "{path}: {}", foreign.status);
    }
    let cancel = format!("/api/model-eval/evaluations/{id}/cancel");
    ensure!(stage.ask(&bob, "POST", &cancel, None).await?.status == 404, "bob stops it");
    ensure!(stage.ask(&ada, "POST", &cancel, None).await?.status == 409, "what is over is stopped");
    let theirs = json!({ "taskType": "routing", "orgId": ada.org });
    ensure!(
        stage.ask(&bob, "POST", "/api/model-eval/recommendations", Some(theirs)).await?.status == 403,
        "bob asks for ada"
    );

    // What an API key has tried is held against its models and its limits, like any request that is made with it.
    let (key_id, key) = stage.mint(&ada, json!(["model:openai/clever", "role:admin"])).await?;
    let keyed = Person { id: ada.id.clone(), token: key, org: ada.org.clone() };
    let foreign = tried(&stage, &keyed, "fake", json!({})).await?;
    ensure!(
        foreign.status == 403 && foreign.body["code"] == "MODEL_NOT_ALLOWED",
        "{} {}",
        foreign.status,
        foreign.body
    );
    let one = json!({ "testCaseIds": ["refund"] });
    let own = tried(&stage, &keyed, "clever", one.clone()).await?;
    ensure!(own.status == 200 && own.body["testCaseCount"] == 1, "{} {}", own.status, own.body);
    let limit = json!({ "scope": "key", "subject": key_id, "period": "total", "unit": "requests", "limit": 1 });
    stage.ask(&ada, "PUT", "/api/integrations/budgets", Some(limit)).await?;
    let used_up = || async { Ok(tried(&stage, &keyed, "clever", one.clone()).await?.status == 402) };
    until("the key's budget counts", used_up).await?;
    ensure!(tried(&stage, &ada, "clever", one.clone()).await?.status == 200, "the key's budget counts for ada herself");

    // A budget that is used up ends it.
    let budget = json!({ "scope": "user", "subject": ada.id, "period": "total", "unit": "requests", "limit": 1 });
    stage.ask(&ada, "PUT", "/api/integrations/budgets", Some(budget)).await?;
    until("the budget counts", || async { Ok(tried(&stage, &ada, "clever", json!({})).await?.status == 402) }).await?;
    stage.house.run(&["projection", "verify"])?.expect(0)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evaluation_goes_on_when_the_process_dies_and_is_stopped_when_somebody_wants() -> Tested {
    let stage = Stage::open().await?;
    let ada = stage.register("ada").await?;
    let begun = tried(
        &stage,
        &ada,
        "slow",
        json!({ "wait": false, "testCaseIds": ["refund", "weather", "praise", "api-error"] }),
    )
    .await?;
    ensure!(begun.status == 202 && begun.body["status"] == "running", "{} {}", begun.status, begun.body);
    let path = format!("/api/model-eval/evaluations/{}", id_of(&begun.body)?);
    let asked = std::cell::Cell::new(0);
    let three = || async {
        asked.set(asked.get() + stage.vendor.asked().len());
        Ok(asked.get() == 3)
    };
    until("three are asked at once", three).await?;
    let stage = stage.crash()?;
    stage.vendor.let_answer(20);
    let shown = || async { anyhow::Ok(stage.ask(&ada, "GET", &path, None).await?.body) };
    until("it comes to its end", || async { Ok(shown().await?["status"] == "completed") }).await?;
    let shown = shown().await?;
    ensure!(shown["testCaseResults"].as_array().is_some_and(|results| results.len() == 4), "{shown}");
    ensure!(shown["testCaseResults"][0]["error"].is_null(), "{shown}");

    stage.vendor.let_nobody_answer();
    let begun = tried(&stage, &ada, "slow", json!({ "wait": false })).await?.body;
    let path = format!("/api/model-eval/evaluations/{}/cancel", id_of(&begun)?);
    let stopped = stage.ask(&ada, "POST", &path, None).await?;
    ensure!(stopped.status == 200 && stopped.body["status"] == "cancelled", "{}", stopped.body);
    stage.house.run(&["audit", "verify"])?.expect(0)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_answer_means_is_looked_at_by_vectors_and_by_a_judge() -> Tested {
    let stage = Stage::open().await?;
    let ada = stage.register("ada").await?;
    let cases = json!({ "benchmarkId": "code.performance-suggestions", "testCaseIds": ["index", "recursion"] });
    let mut body = cases.clone();
    body["judge"] = json!("openai/strict");
    let done = tried(&stage, &ada, "prose", body).await?;
    ensure!(done.status == 200 && done.body["status"] == "completed", "{} {}", done.status, done.body);
    let case = |name: &str| {
        let all = done.body["testCaseResults"].as_array().into_iter().flatten();
        all.into_iter().find(|case| case["testCaseId"] == name).cloned().context("no such case")
    };
    let (index, recursion) = (case("index")?, case("recursion")?);
    ensure!(index["passed"] == true && index["reason"].as_str().is_some_and(|why| why.contains("near")), "{index}");
    ensure!(recursion["score"] == 0.9 && recursion["reason"] == "both" && recursion["passed"] == true, "{recursion}");
    ensure!(index["output"]["content"].as_str().is_some_and(|text| text.starts_with("Without an index")), "{index}");
    // The judge is another model, which is shown the answer, and is paid for as anything else.
    let asked = stage.vendor.asked();
    let judged: Vec<&Value> = asked.iter().map(|asked| &asked.body).filter(|body| body["model"] == "strict").collect();
    ensure!(judged.len() == 1, "{} judges", judged.len());
    let shown = judged[0]["messages"][1]["content"].as_str().unwrap_or_default();
    ensure!(shown.contains("fib(n - 1)") && shown.contains("Without an index"), "{shown}");
    let rows = || async { anyhow::Ok(stage.ask(&ada, "GET", "/api/integrations/executions", None).await?.body) };
    let chats = |rows: &Value| {
        rows.as_array().map_or(0, |all| all.iter().filter(|r| r["operation"] == "chat.completions").count())
    };
    until("all are on record", || async { Ok(chats(&rows().await?) == 3) }).await?;

    // Without a judge its words are graded, and that is said.
    let mut body = cases;
    body["judge"] = json!("openai/status-401-nobody");
    let done = tried(&stage, &ada, "prose", body).await?.body;
    let by_words =
        done["testCaseResults"].as_array().into_iter().flatten().find(|case| case["testCaseId"] == "recursion");
    let reason = by_words.and_then(|case| case["reason"].as_str()).unwrap_or_default();
    ensure!(reason.contains("by its words") && done["status"] == "completed", "{done}");
    let wrong = json!({ "judge": "x".repeat(300) });
    ensure!(tried(&stage, &ada, "prose", wrong).await?.status == 400, "a judge of such a name");
    stage.house.run(&["projection", "verify"])?.expect(0)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_tried_again_when_it_is_time_once_and_in_the_name_of_an_admin() -> Tested {
    let stage = Stage::open().await?;
    let (ada, bob) = (stage.register("ada").await?, stage.register("bob").await?);
    let path = "/api/model-eval/schedules/nightly";
    let trial = json!({ "provider": "openai", "modelId": "clever", "benchmarkId": INTENTS, "testCaseIds": ["refund"] });
    let with = |more: Value| {
        let mut body = trial.clone();
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
        }
        Some(body)
    };
    for wrong in [
        json!({}),
        json!({ "cron": "* * * *" }),
        json!({ "cron": "0 0 31 2 *" }),
        json!({ "cron": "* * * * *", "intervalHours": 1 }),
        json!({ "intervalHours": 0 }),
        json!({ "intervalHours": 1, "benchmarkId": "no.such" }),
        json!({ "intervalHours": 1, "testCaseIds": ["none"] }),
    ] {
        let refused = stage.ask(&ada, "PUT", path, with(wrong.clone())).await?;
        ensure!(refused.status == 400, "{wrong}: {} {}", refused.status, refused.body);
    }
    let daily = stage.ask(&ada, "PUT", path, with(json!({ "intervalHours": 24 }))).await?;
    ensure!(daily.status == 200 && daily.body["version"] == 1 && daily.body["nextRunAt"].is_string(), "{}", daily.body);
    let off = stage.ask(&ada, "PUT", path, with(json!({ "intervalHours": 24, "enabled": false }))).await?;
    ensure!(off.body["version"] == 2 && off.body["nextRunAt"].is_null(), "{}", off.body);
    // Each minute from now on, whatever becomes of the process.
    let set = stage.ask(&ada, "PUT", path, with(json!({ "cron": "* * * * *" }))).await?;
    ensure!(set.status == 200 && set.body["enabled"] == true, "{}", set.body);
    let first = set.body["nextRunAt"].clone();
    let stage = stage.crash()?;
    let schedules =
        async |who: &Person| anyhow::Ok(stage.ask(who, "GET", "/api/model-eval/schedules", None).await?.body);
    let ran = || async { anyhow::Ok(schedules(&ada).await?[0]["lastEvaluationId"].is_string()) };
    for _ in 0..3 {
        if until("it is time", ran).await.is_ok() {
            break;
        }
    }
    let shown = schedules(&ada).await?;
    let id = shown[0]["lastEvaluationId"].as_str().with_context(|| shown.to_string())?.to_owned();
    ensure!(shown[0]["nextRunAt"] != first && shown[0]["lastError"].is_null(), "{shown}");
    let one = format!("/api/model-eval/evaluations/{id}");
    let done = || async { anyhow::Ok(stage.ask(&ada, "GET", &one, None).await?.body) };
    until("it is done", || async { Ok(done().await?["status"] == "completed") }).await?;
    ensure!(done().await?["startedBy"] == ada.id.as_str() && done().await?["overallScore"] == 1.0, "{}", done().await?);

    // Nobody else's, and no longer than wanted.
    ensure!(schedules(&bob).await? == json!([]), "bob sees it");
    ensure!(stage.ask(&bob, "DELETE", path, None).await?.status == 404, "bob removes it");
    for method in ["PUT", "DELETE"] {
        let body = (method == "PUT").then(|| with(json!({ "intervalHours": 1 }))).flatten();
        let foreign = stage.ask_in(&bob, Some(&ada.org), method, path, body).await?;
        ensure!(foreign.status == 403, "{method}: {}", foreign.status);
    }
    ensure!(stage.ask(&ada, "DELETE", path, None).await?.status == 204, "ada cannot remove it");
    ensure!(schedules(&ada).await? == json!([]), "it is there still");
    let log = stage.house.run(&["log", "export"])?.expect(0)?.out.replace('\\', "");
    let due = log.matches("\"type\":\"symbia.integrations.eval-schedule.eval-schedule-due.v1\"").count();
    let all = || async { anyhow::Ok(stage.ask(&ada, "GET", "/api/model-eval/evaluations", None).await?.body) };
    until("each time once", || async { Ok(all().await?["count"].as_u64() == u64::try_from(due).ok()) }).await?;
    stage.house.run(&["projection", "verify"])?.expect(0)?;
    Ok(())
}

/// A Catalog of the tests' own: its resources by key, and who may write.
#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<BTreeMap<String, Value>>>);

impl Shelf {
    async fn start(&self) -> anyhow::Result<String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let base = format!("http://{}", listener.local_addr()?);
        let routes = Router::new()
            .route("/api/resources", get(Shelf::list).post(Shelf::create))
            .route("/api/resources/{id}", patch(Shelf::update))
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Ok(base)
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Value>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn list(State(shelf): State<Shelf>) -> axum::Json<Vec<Value>> {
        axum::Json(shelf.all().values().cloned().collect())
    }

    async fn create(State(shelf): State<Shelf>, headers: HeaderMap, axum::Json(new): axum::Json<Value>) -> Response {
        if !headers.contains_key("authorization") {
            return (StatusCode::FORBIDDEN, axum::Json(json!({ "message": "sign in" }))).into_response();
        }
        let key = new["key"].as_str().unwrap_or_default().to_owned();
        // One name is somebody else's.
        if key.ends_with("models/embed-it") {
            let taken = json!({ "error": "the key already exists" });
            return (StatusCode::BAD_REQUEST, axum::Json(taken)).into_response();
        }
        shelf.all().insert(key, new.clone());
        (StatusCode::CREATED, axum::Json(new)).into_response()
    }

    async fn update(
        State(shelf): State<Shelf>,
        Path(id): Path<String>,
        axum::Json(new): axum::Json<Value>,
    ) -> Result<axum::Json<Value>, StatusCode> {
        let mut all = shelf.all();
        let found = all.values_mut().find(|row| row["id"] == id.as_str()).ok_or(StatusCode::NOT_FOUND)?;
        found["metadata"] = new["metadata"].clone();
        Ok(axum::Json(found.clone()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_written_into_the_catalog_and_what_is_there_stays_unless_it_is_to_change() -> Tested {
    let shelf = Shelf::default();
    let base = shelf.start().await?;
    let stage = Stage::with_variables(&[("CATALOG_SERVICE_URL", &base)]).await?;
    let (ada, bob) = (stage.register("ada").await?, stage.register("bob").await?);
    let sync = |body: Value| stage.ask(&ada, "POST", "/api/model-eval/catalog/sync", Some(body));
    let counts = |said: &Answered| ["created", "updated", "skipped"].map(|name| said.body[name].as_u64().unwrap_or(99));
    let openai = json!({ "providers": ["openai"] });

    let dry = sync(json!({ "providers": ["openai"], "dryRun": true })).await?;
    ensure!(dry.status == 200 && counts(&dry)[0] >= 3 && shelf.all().is_empty(), "{} {}", dry.status, dry.body);
    let first = sync(openai.clone()).await?;
    let [created, updated, skipped] = counts(&first);
    ensure!(first.status == 200 && (updated, skipped) == (0, 0), "{}", first.body);
    // One was refused, which kept nothing else back.
    ensure!(created + 1 == counts(&dry)[0] && shelf.all().len() as u64 == created, "{}", first.body);
    let errors = &first.body["errors"];
    let named = errors[0]["key"] == "integrations/ai/openai/models/embed-it";
    ensure!(named && errors[0]["error"].as_str().is_some_and(|e| e.contains("already exists")), "{errors}");
    let written = shelf.all().get("integrations/ai/openai/models/fake").cloned().unwrap_or_default();
    ensure!(written["type"] == "integration" && written["metadata"]["modelId"] == "fake", "{written}");

    // Again: nothing is new. What somebody changed there stays, and is set right when that is wanted.
    if let Some(row) = shelf.all().get_mut("integrations/ai/openai/models/fake") {
        row["metadata"] = json!({ "modelId": "changed" });
    }
    let again = sync(openai.clone()).await?;
    ensure!(counts(&again) == [0, 0, created], "{}", again.body);
    let forced = sync(json!({ "providers": ["openai"], "forceUpdate": true })).await?;
    ensure!(counts(&forced) == [0, created, 0], "{}", forced.body);
    let set_right = shelf.all()["integrations/ai/openai/models/fake"]["metadata"]["modelId"] == "fake";
    ensure!(set_right, "it is not brought up to date");

    ensure!(sync(json!({ "providers": ["nobody"] })).await?.status == 404, "a provider that is none");
    let foreign =
        stage.ask_in(&bob, Some(&ada.org), "POST", "/api/model-eval/catalog/sync", Some(openai.clone())).await?;
    ensure!(foreign.status == 403, "bob writes for ada: {}", foreign.status);

    // Where no Catalog is, that is said.
    let stage = stage.crash()?;
    let none = stage.ask(&ada, "POST", "/api/model-eval/catalog/sync", Some(openai)).await?;
    ensure!(
        none.status == 502 && none.body.to_string().contains("CATALOG_SERVICE_URL"),
        "{} {}",
        none.status,
        none.body
    );
    Ok(())
}

#[cfg(feature = "llama")]
#[tokio::test(flavor = "multi_thread")]
async fn the_local_model_is_tried_offline() -> Tested {
    let stage = Stage::alone().await?;
    let ada = stage.register("ada").await?;
    let local = json!({ "provider": "symbia-labs", "benchmarkId": "routing.hybrid-decision" });
    let done = tried(&stage, &ada, "pico-chat", local).await?;
    let results = done.body["testCaseResults"].as_array().cloned().unwrap_or_default();
    ensure!(done.status == 200 && results.len() == 2, "{} {}", done.status, done.body);
    let answered = |result: &Value| result["error"].is_null() && result["outputTokens"].as_u64() > Some(0);
    ensure!(results.iter().all(answered), "{results:?}");
    Ok(())
}
