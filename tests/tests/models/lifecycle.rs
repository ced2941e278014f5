//! Which models there are, and how they come into memory and out of it.

use serde_json::{Value, json};
use symbia_workers::models::Options;

use super::stage::{House, shipped, until};

const PICO: &str = "pico-chat-q8-0";

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_found_loaded_and_unloaded_and_all_of_it_is_in_the_log() {
    let house = House::open().await;
    let (root, eve) = (house.register("root").await, house.register("eve").await);
    assert_eq!(house.get("/v1/models", "").await.status, 401);
    let list = house.get("/v1/models", &eve).await.with(200);
    let ids: Vec<&str> = list["data"].as_array().unwrap().iter().filter_map(|model| model["id"].as_str()).collect();
    assert_eq!(ids, ["all-minilm-l6-v2-q8-0", PICO]);
    let pico = &list["data"][1];
    assert_eq!(
        (&pico["status"], &pico["context_length"], &pico["contextLength"]),
        (&json!("available"), &json!(512), &json!(512))
    );
    assert_eq!((&pico["owned_by"], &pico["quantization"]), (&json!("symbia-labs"), &json!("Q8_0")));
    assert_eq!(house.get("/v1/models/nothing", &eve).await.refused(), (404, "model_not_found"));

    house.events(PICO, "model-described").await;

    // Whoever may not manage models changes nothing.
    for path in ["load", "unload"] {
        let refused = house.post(&format!("/api/models/{PICO}/{path}"), &eve, json!({})).await;
        assert_eq!(refused.refused(), (403, "missing_capability"));
    }
    let wrong = house.post(&format!("/api/models/{PICO}/load"), &root, json!({ "slots": 0 })).await;
    assert_eq!(wrong.status, 400, "{wrong:?}");
    let how = json!({ "n_ctx": 256, "slots": 2, "keep_alive": -1 });
    let loaded = house.post(&format!("/api/models/{PICO}/load"), &root, how).await.with(200);
    assert_eq!((&loaded["model"]["status"], &loaded["model"]["context_length"]), (&json!("loaded"), &json!(256)));
    let read = house.get(&format!("/api/models/{PICO}"), &eve).await.with(200);
    assert_eq!(read["placement"][0]["loaded"]["slots"], 2, "{read}");
    let stats = house.get("/api/stats", &eve).await.with(200);
    assert_eq!((&stats["loadedModels"], &stats["availableModels"]), (&json!(1), &json!(2)));

    house.events(PICO, "model-loaded").await;
    house.post(&format!("/api/models/{PICO}/unload"), &root, json!({})).await.with(200);
    let events = house.events(PICO, "model-unloaded").await;
    let count = |name: &str| events.iter().filter(|event| *event == name).count();
    for name in
        ["model-discovered", "model-described", "model-load-requested", "model-loaded", "model-unload-requested"]
    {
        assert_eq!(count(name), 1, "{name} in {events:?}");
    }
    assert_eq!(house.get(&format!("/v1/models/{PICO}"), &eve).await.with(200)["loaded"], false);

    // Later, without any process, it is still known what there is.
    house.end_inference();
    let gone = || async { house.get("/api/models/workers", &eve).await.with(200)["workers"] == json!([]) };
    until("the process is gone", gone).await;
    let list = house.get("/v1/models", &eve).await.with(200);
    let pico = list["data"].as_array().unwrap().iter().find(|model| model["id"] == PICO).unwrap();
    assert!(pico["reason"].as_str().unwrap().contains("no inference process"), "{pico}");
    house.read_model_is_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_model_the_service_says_so_and_a_broken_file_is_listed_with_its_fault() {
    let directory = tempfile::tempdir().unwrap();
    let house = House::with(Options::new(directory.path())).await;
    let ada = house.register("ada").await;
    let ready = || async {
        let ready = house.get("/health/ready", "").await.with(200);
        ready["checks"]["models"]["workers"] == 1 && ready["checks"]["models"]["status"] == "degraded"
    };
    until("the service is ready, and says that it has no model", ready).await;
    assert_eq!(house.get("/v1/models", &ada).await.with(200)["data"], json!([]));
    let ask =
        json!({ "model": "pico-chat", "messages": [{ "role": "user", "content": "what is 2+2?" }], "temperature": 0 });
    let refused = house.post("/v1/chat/completions", &ada, ask.clone()).await;
    assert_eq!(refused.refused(), (404, "model_not_found"));
    assert!(refused.body["error"]["message"].as_str().unwrap().contains("symbia models pull"), "{refused:?}");

    let whole = std::fs::read(shipped().join("pico-chat.q8_0.gguf")).unwrap();
    std::fs::write(directory.path().join("cut.gguf"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(directory.path().join("pico-chat.q8_0.gguf"), &whole).unwrap();
    let listed = || async { house.get("/v1/models", &ada).await.with(200)["data"].as_array().unwrap().len() == 2 };
    until("files that come later are found", listed).await;
    let cut: Value = house.get("/v1/models/cut", &ada).await.with(200);
    assert!(cut["status"] == "error" && cut["reason"].as_str().unwrap().contains("ends too early"), "{cut}");
    let broken = json!({ "model": "cut", "messages": [{ "role": "user", "content": "hello" }] });
    assert_eq!(house.post("/v1/chat/completions", &ada, broken).await.refused(), (503, "model_unusable"));
    let answer = house.post("/v1/chat/completions", &ada, ask).await.with(200);
    assert_eq!(answer["choices"][0]["message"]["content"], "2 + 2 = 4");
}
