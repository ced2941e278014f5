//! How models are set, for whom they are there, and how their files go.

use serde_json::{Value, json};
use symbia_workers::models::Options;

use super::stage::{House, shipped, until};

const PICO: &str = "pico-chat-q8-0";

fn ask(model: &str) -> Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": "what is 2+2?" }] })
}

impl House {
    async fn set(&self, token: &str, model: &str, patch: Value) -> (u16, Value) {
        let answer = self.send("PATCH", &format!("/api/models/{model}"), token, Some(&patch)).await;
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    async fn org_of(&self, token: &str) -> String {
        let me = self.identity_get("/api/auth/me", token).await;
        me["organizations"][0]["id"].as_str().unwrap_or_else(|| panic!("{me}")).to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_answers_to_its_aliases_and_is_there_for_whom_it_is_set() {
    let house = House::open().await;
    let (root, ada, eve) = (house.register("root").await, house.register("ada").await, house.register("eve").await);
    assert_eq!(house.set(&ada, PICO, json!({ "aliases": ["small"] })).await.0, 403);
    let (status, set) = house
        .set(
            &root,
            "pico-chat",
            json!({ "aliases": ["gpt-4o-mini"], "defaults": { "temperature": 0, "maxTokens": 3 } }),
        )
        .await;
    assert_eq!((status, &set["settings"]["aliases"]), (200, &json!(["gpt-4o-mini"])), "{set}");
    let answer = house.post("/v1/chat/completions", &ada, ask("gpt-4o-mini")).await.with(200);
    assert_eq!((&answer["model"], &answer["usage"]["completion_tokens"]), (&json!(PICO), &json!(3)), "{answer}");
    let mut more = ask("gpt-4o-mini");
    more["max_tokens"] = json!(50);
    let answer = house.post("/v1/chat/completions", &ada, more).await.with(200);
    assert_eq!(answer["choices"][0]["message"]["content"], "2 + 2 = 4");
    assert_eq!(house.get("/v1/models/gpt-4o-mini", &eve).await.with(200)["id"], PICO);
    let (status, taken) = house.set(&root, "all-minilm-l6-v2", json!({ "aliases": ["gpt-4o-mini"] })).await;
    assert_eq!((status, &taken["error"]["code"]), (409, &json!("alias_taken")));
    let (status, wrong) = house.set(&root, PICO, json!({ "colour": "blue" })).await;
    assert!(status == 400 && wrong["error"]["message"].as_str().unwrap().contains("olour: can be"), "{wrong}");

    // Whoever it is hidden from infers nothing of it, under no name and on no route.
    let eves = house.org_of(&eve).await;
    assert_eq!(house.set(&root, PICO, json!({ "hiddenFrom": [eves] })).await.0, 200);
    let list = house.get("/v1/models", &eve).await.with(200);
    assert_eq!(list["data"].as_array().unwrap().len(), 1, "{list}");
    for name in [PICO, "pico-chat", "gpt-4o-mini"] {
        assert_eq!(house.get(&format!("/v1/models/{name}"), &eve).await.status, 404);
        for (path, body) in [
            ("/v1/chat/completions", ask(name)),
            ("/v1/completions", json!({ "model": name, "prompt": "a" })),
            ("/v1/embeddings", json!({ "model": name, "input": "a" })),
            ("/api/tokenize", json!({ "model": name, "content": "a" })),
            (
                "/api/integrations/execute",
                json!({ "provider": "local", "operation": "chat.completions",
                "params": { "model": name, "prompt": "a" } }),
            ),
        ] {
            let refused = house.post(path, &eve, body).await;
            assert!(
                refused.status == 404 && !refused.body.to_string().replace(name, "").contains("pico"),
                "{path} {name} {refused:?}"
            );
        }
    }
    house.post("/v1/chat/completions", &ada, ask(PICO)).await.with(200);

    assert_eq!(house.set(&root, PICO, json!({ "hiddenFrom": null, "enabled": false })).await.0, 200);
    assert_eq!(house.post("/v1/chat/completions", &eve, ask(PICO)).await.refused(), (403, "model_not_allowed"));
    house.read_model_is_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_template_is_tried_before_it_is_accepted_and_then_counts() {
    let house = House::open().await;
    let (root, ada) = (house.register("root").await, house.register("ada").await);
    let seen = || async { house.post("/api/apply-template", &ada, ask(PICO)).await.with(200)["prompt"].clone() };
    let own = seen().await;
    for (wrong, why) in [
        ("", "leaves out what the person says"),
        ("{% for turn in messages %}", "syntax error"),
        ("{{ messages[0].content }}", "leaves out what the person says"),
        ("{{ raise_exception('no turns here') }}", "no turns here"),
        ("{{ messages | unheard_of }}", "unheard_of"),
    ] {
        let (status, refused) = house.set(&root, PICO, json!({ "chatTemplate": wrong })).await;
        assert!(status == 400 && refused["error"]["message"].as_str().unwrap().contains(why), "{wrong}: {refused}");
    }
    assert_eq!(seen().await, own, "nothing was set");
    let template =
        json!({ "chatTemplate": "{% for turn in messages %}\n{{ turn.role }}: {{ turn.content }};{% endfor %}" });
    assert_eq!(house.set(&ada, PICO, template.clone()).await.0, 403);
    let before = house.post("/v1/chat/completions", &ada, ask(PICO)).await.with(200);
    assert_eq!(house.set(&root, PICO, template).await.0, 200);
    assert_eq!(seen().await, "user: what is 2+2?;");
    let after = house.post("/v1/chat/completions", &ada, ask(PICO)).await.with(200);
    assert_ne!(before["usage"]["prompt_tokens"], after["usage"]["prompt_tokens"], "{after}");
    let shown = house.get(&format!("/v1/models/{PICO}"), &ada).await.with(200);
    assert!(!shown.to_string().contains("turn.content"), "it is for those who manage models: {shown}");

    let back = json!({ "chatTemplate": null, "systemPrompt": "Be brief." });
    let (status, set) = house.set(&root, PICO, back).await;
    let read = house.get(&format!("/api/models/{PICO}"), &root).await.with(200);
    for settings in [&set["settings"], &read["settings"]] {
        let by_default = (settings.get("pinned"), settings.get("chatTemplate"));
        assert_eq!((status, by_default), (200, (Some(&json!(false)), Some(&Value::Null))), "{settings}");
    }
    assert!(seen().await.as_str().unwrap().contains("Be brief."), "as the model reads it");
    assert_eq!(house.set(&root, PICO, json!({ "systemPrompt": null })).await.0, 200);
    assert_eq!(seen().await, own);
    house.read_model_is_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_process_hears_which_models_stay_in_memory_the_later_one_too() {
    let house = House::open().await;
    let (root, eve) = (house.register("root").await, house.register("eve").await);
    assert_eq!(house.set(&eve, PICO, json!({ "pinned": true })).await.0, 403);
    assert_eq!(house.set(&root, PICO, json!({ "pinned": true })).await.0, 200);
    house.add_inference(Options::new(shipped()));
    let all = |pinned: Value| {
        let (house, root) = (&house, &root);
        move || {
            let pinned = pinned.clone();
            async move {
                let told = house.get("/api/models/workers", root).await.with(200);
                let workers = told["workers"].as_array().unwrap();
                workers.len() == 2 && workers.iter().all(|worker| worker["pinned"] == pinned)
            }
        }
    };
    until("both know", all(json!([PICO]))).await;
    assert_eq!(house.get(&format!("/v1/models/{PICO}"), &eve).await.with(200)["pinned"], true);
    assert_eq!(house.set(&root, PICO, json!({ "pinned": null })).await.0, 200);
    until("both have heard that it may go", all(json!([]))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_deleted_when_it_is_not_in_memory_or_by_force() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["pico-chat.q8_0.gguf", "all-minilm-l6-v2.q8_0.gguf"] {
        std::fs::copy(shipped().join(name), dir.path().join(name)).unwrap();
    }
    let house = House::with(Options::new(dir.path())).await;
    let (root, eve) = (house.register("root").await, house.register("eve").await);
    house.events(PICO, "model-described").await;
    house.post(&format!("/api/models/{PICO}/load"), &root, json!({})).await.with(200);
    house.events(PICO, "model-loaded").await;
    let path = format!("/api/models/{PICO}");
    assert_eq!(house.send("DELETE", &path, &eve, None).await.status(), 403);
    assert_eq!(house.send("DELETE", &path, &root, None).await.status(), 409, "it is in memory");
    assert_eq!(house.send("DELETE", &format!("{path}?force=true"), &root, None).await.status(), 200);
    assert!(!dir.path().join("pico-chat.q8_0.gguf").exists());
    house.events(PICO, "model-removed").await;
    until("it is not known any more", || async { house.get(&path, &eve).await.status == 404 }).await;

    // A broken file is given another try when it is asked for.
    std::fs::write(dir.path().join("late.gguf"), b"GGUF").unwrap();
    assert_eq!(house.post("/api/models/rescan", &eve, json!({})).await.status, 403);
    let scanned = house.post("/api/models/rescan", &root, json!({})).await.with(200);
    assert_eq!(scanned["workers"][0]["models"], 2, "{scanned}");
    let listed = || async { house.get("/api/models/late", &root).await.body["status"] == "error" };
    until("the new file is listed", listed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_put_in_order() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let documents = ["Interest rates rose.", "A kitten is sitting on a rug.", "The train is late."];
    let body = json!({ "model": "all-minilm-l6-v2", "query": "A cat sits on the mat.", "documents": documents,
        "top_n": 2, "return_documents": true });
    let ranked = house.post("/v1/rerank", &ada, body).await.with(200);
    let results = ranked["results"].as_array().unwrap();
    assert_eq!((results.len(), &results[0]["index"]), (2, &json!(1)), "{ranked}");
    assert_eq!(results[0]["document"]["text"], documents[1]);
    assert!(results[0]["relevance_score"].as_f64() > results[1]["relevance_score"].as_f64());
    let wrong = json!({ "model": "pico-chat", "query": "a", "documents": ["b"] });
    assert_eq!(house.post("/v1/rerank", &ada, wrong).await.status, 400);
    let none = json!({ "model": "all-minilm-l6-v2", "query": "a", "documents": [] });
    assert_eq!(house.post("/v1/rerank", &ada, none).await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_for_an_organization_is_counted_in_the_log_and_outlives_its_process() {
    let house = House::open().await;
    let (ada, eve) = (house.register("ada").await, house.register("eve").await);
    let answer = house.post("/v1/chat/completions", &ada, ask(PICO)).await.with(200);
    house.post("/v1/embeddings", &ada, json!({ "model": "all-minilm-l6-v2", "input": "a" })).await.with(200);
    // Its last words reach who records before it is gone.
    let told = || async { house.get("/api/stats", &ada).await.with(200)["totalRequests"] == 2 };
    until("the process has told", told).await;
    house.end_inference();
    let counted =
        || async { house.get("/api/stats/hourly", &ada).await.with(200)["hours"].as_array().unwrap().len() == 2 };
    until("what it did is counted", counted).await;
    let stats = house.get("/api/stats/hourly", &ada).await.with(200);
    let row = stats["hours"].as_array().unwrap().iter().find(|row| row["model"] == PICO).unwrap();
    assert_eq!((&row["requests"], &row["errors"]), (&json!(1), &json!(0)), "{row}");
    assert_eq!(row["tokensIn"], answer["usage"]["prompt_tokens"]);
    assert_eq!(row["tokensOut"], answer["usage"]["completion_tokens"]);
    assert!(row["ttftMsP50"].as_f64() > Some(0.0) && row["queueMsP95"].is_f64(), "{row}");
    assert_eq!(house.get("/api/stats/hourly", &eve).await.with(200)["hours"], json!([]));
    house.read_model_is_what_the_log_says().await;
}
