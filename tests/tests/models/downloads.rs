//! Models that come over the network: from a hub that breaks off, is wrong, or leads inside.

use std::path::Path;

use serde_json::{Value, json};
use symbia_egress::Rules;
use symbia_events::models::ModelSource;
use symbia_workers::models::{Options, pull};

use super::{
    hub::{Giving, Hub, sha256},
    stage::{House, shipped, until},
};

fn pico() -> Vec<u8> {
    std::fs::read(shipped().join("pico-chat.q8_0.gguf")).unwrap()
}

fn getting(dir: &Path, hub: &Hub) -> pull::Options {
    pull::Options {
        dir: dir.to_owned(),
        hub: hub.url.parse().unwrap(),
        hub_token: None,
        rules: Rules::default(),
        most_bytes: None,
        offline: false,
    }
}

async fn house(dir: &Path, pull: pull::Options) -> House {
    House::getting(Options::new(dir), pull).await
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

impl House {
    async fn get_model(&self, token: &str, body: Value) -> String {
        let asked = self.post("/api/models/download", token, body).await.with(202);
        asked["id"].as_str().unwrap().to_owned()
    }

    /// Every state that a follower of a download sees, to its end.
    async fn follow(&self, token: &str, id: &str) -> Vec<Value> {
        let answer = self.send("GET", &format!("/api/models/downloads/{id}/events"), token, None).await;
        assert_eq!(answer.status(), 200);
        let text = answer.text().await.unwrap();
        let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
        data.map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_got_from_a_hub_that_breaks_off_and_answers() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::open(vec![
        ("small.Q8_0.gguf", pico(), Giving::BreaksOnce),
        ("small.F16.gguf", b"GGUF".to_vec(), Giving::Whole),
    ])
    .await;
    let house = house(dir.path(), getting(dir.path(), &hub)).await;
    let (root, eve) = (house.register("root").await, house.register("eve").await);
    let wanted = json!({ "source": "hf", "repo": "org/small", "quant": "q8_0" });
    assert_eq!(house.post("/api/models/download", &eve, wanted.clone()).await.refused(), (403, "missing_capability"));

    let found = house.get("/api/models/search?q=small", &root).await.with(200);
    assert_eq!(found["repositories"][0]["repo"], "org/small");
    assert_eq!(found["repositories"][0]["license"], "mit");

    let id = house.get_model(&root, wanted).await;
    let states = house.follow(&root, &id).await;
    let last = states.last().unwrap();
    assert_eq!((&last["status"], &last["filename"]), (&json!("completed"), &json!("small.Q8_0.gguf")), "{states:?}");
    assert_eq!((last["bytes"].as_u64(), &last["sha256"]), (Some(pico().len() as u64), &json!(sha256(&pico()))));
    assert_eq!(hub.asked("small.Q8_0.gguf"), 2, "the second time from where the first broke off");
    assert_eq!(files(dir.path()), ["small.Q8_0.gguf"]);
    for path in [format!("/api/models/downloads/{id}"), format!("/api/models/downloads/{id}/events")] {
        assert_eq!(house.get(&path, &eve).await.status, 403);
    }
    let gone = house.send("DELETE", &format!("/api/models/downloads/{id}"), &root, None).await;
    assert_eq!(gone.status(), 409, "it has ended");

    let listed = || async { house.get("/v1/models/small-q8-0", &root).await.status == 200 };
    until("the model is listed", listed).await;
    let ask =
        json!({ "model": "small", "messages": [{ "role": "user", "content": "what is 2+2?" }], "temperature": 0 });
    let answer = house.post("/v1/chat/completions", &root, ask).await.with(200);
    assert_eq!(answer["choices"][0]["message"]["content"], "2 + 2 = 4");
    house.read_model_is_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_or_leads_inside_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let inside = "http://127.0.0.1:1/secret.gguf";
    let hub = Hub::open(vec![
        ("astray.gguf", pico(), Giving::Elsewhere(inside)),
        ("web.gguf", b"<html>no model</html>".to_vec(), Giving::Whole),
        ("slow.gguf", pico(), Giving::Stalls),
        ("right.gguf", pico(), Giving::Whole),
    ])
    .await;
    let house = house(dir.path(), getting(dir.path(), &hub)).await;
    let root = house.register("root").await;
    let of_hub = |file: &str| json!({ "source": "hf", "repo": "org/small", "file": file });
    let mut wrong = of_hub("right.gguf");
    wrong["sha256"] = json!("0".repeat(64));
    for (wanted, reason) in [
        (of_hub("astray.gguf"), "blocked"),
        (of_hub("web.gguf"), "not_a_model"),
        (of_hub("none.gguf"), "not_found"),
        (of_hub(""), "not_found"),
        (wrong, "digest"),
        (json!({ "source": "url", "url": inside, "sha256": "0".repeat(64) }), "blocked"),
        (json!({ "source": "hf", "repo": "org/unknown" }), "not_found"),
    ] {
        let id = house.get_model(&root, wanted.clone()).await;
        let last = house.follow(&root, &id).await.pop().unwrap();
        assert_eq!((&last["status"], &last["reason"]), (&json!("failed"), &json!(reason)), "{wanted} {last}");
        assert!(last["error"].as_str().unwrap().len() > 10, "{last}");
    }
    for wanted in [
        json!({ "source": "url", "url": "http://example.com/m.gguf" }),
        json!({ "source": "url", "url": "http://example.com/m.gguf?token=secret", "sha256": "0".repeat(64) }),
        json!({ "source": "ftp" }),
        json!({ "source": "hf", "repo": "../../etc" }),
    ] {
        assert_eq!(house.post("/api/models/download", &root, wanted.clone()).await.status, 400, "{wanted}");
    }

    let id = house.get_model(&root, of_hub("slow.gguf")).await;
    let under_way = || async { files(dir.path()) == ["slow.gguf.part"] && hub.asked("slow.gguf") > 0 };
    until("the download is under way", under_way).await;
    let cancelled = house.send("DELETE", &format!("/api/models/downloads/{id}"), &root, None).await;
    assert_eq!(cancelled.json::<Value>().await.unwrap()["status"], "cancelled");
    until("nothing is left", || async { files(dir.path()).is_empty() }).await;
    assert_eq!(house.follow(&root, &id).await.len(), 1, "it has ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_does_not_grow_beyond_its_limit_and_offline_nothing_is_got() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::open(vec![("small.gguf", pico(), Giving::Whole)]).await;
    let wanted = json!({ "source": "hf", "repo": "org/small" });
    let limited = pull::Options { most_bytes: Some(1 << 20), ..getting(dir.path(), &hub) };
    let offline = pull::Options { offline: true, ..getting(dir.path(), &hub) };
    for (pull, reason) in [(limited, "disk"), (offline, "offline")] {
        let house = house(dir.path(), pull).await;
        let root = house.register("root").await;
        let id = house.get_model(&root, wanted.clone()).await;
        let last = house.follow(&root, &id).await.pop().unwrap();
        assert_eq!(last["reason"], reason, "{last}");
        let seen = files(dir.path());
        assert!(seen.iter().all(|name| !name.ends_with(".gguf")), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_installation_begins_with_is_got_once() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::open(vec![("small.Q8_0.gguf", pico(), Giving::Whole)]).await;
    let house = house(dir.path(), getting(dir.path(), &hub)).await;
    let (root, eve) = (house.register("root").await, house.register("eve").await);
    let of = |file: &str| ModelSource::Hub {
        repo: "org/small".to_owned(),
        file: Some(file.to_owned()),
        revision: None,
        sha256: None,
    };
    let downloads = || async { house.get("/api/models/downloads", &root).await.with(200)["downloads"].clone() };
    let with = |list: &Value, status: &str| {
        list.as_array().unwrap().iter().filter(|download| download["status"] == status).count()
    };
    house.bootstrap(vec![of("Q8_0"), of("Q2_K")]).await;
    let ended = || async {
        let list = downloads().await;
        with(&list, "completed") == 1 && with(&list, "failed") == 1
    };
    until("one is there, the other is not to be had", ended).await;
    assert_eq!(files(dir.path()), ["small.Q8_0.gguf"]);
    assert!(downloads().await.as_array().unwrap().iter().all(|download| download["createdBy"] == "system:models"));
    assert_eq!(house.get("/api/models/downloads", &eve).await.status, 403);

    // At the next start, only what has failed.
    house.bootstrap(vec![of("Q8_0"), of("Q2_K")]).await;
    until("it is tried once more", || async { with(&downloads().await, "failed") == 2 }).await;
    assert_eq!((with(&downloads().await, "completed"), hub.asked("small.Q8_0.gguf")), (1, 1));
    house.read_model_is_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ollamas_clients_get_a_model_as_far_as_they_may() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::open(vec![("tiny-q8_0.gguf", pico(), Giving::BreaksOnce)]).await;
    let house = house(dir.path(), getting(dir.path(), &hub)).await;
    let (root, eve) = (house.register("root").await, house.register("eve").await);
    let wanted = json!({ "model": "org/small:q8_0" });
    assert_eq!(house.ollama_ask("/api/pull", "", wanted.clone()).await.status, 401);
    assert_eq!(house.ollama_ask("/api/pull", &eve, wanted.clone()).await.status, 403);
    assert_eq!(house.ollama_ask("/api/pull", &root, json!({ "model": "llama3" })).await.status, 400);
    assert!(files(dir.path()).is_empty(), "something was got");

    let lines = house.ollama_lines("/api/pull", &root, wanted).await;
    assert_eq!(lines.last(), Some(&json!({ "status": "success" })), "{lines:?}");
    let checked = &lines[lines.len() - 2];
    let whole = pico();
    assert_eq!(checked["digest"], format!("sha256:{}", sha256(&whole)), "{lines:?}");
    assert_eq!((&checked["completed"], &checked["total"]), (&json!(whole.len()), &json!(whole.len())), "{lines:?}");
    assert!(lines.iter().all(|line| line["status"].is_string()), "{lines:?}");
    until("it can be asked", || async {
        let tags = house.ollama_get("/api/tags", &eve).await.with(200);
        tags["models"].as_array().is_some_and(|models| models.iter().any(|model| model["name"] == "tiny-q8-0"))
    })
    .await;
    let none = json!({ "model": "org/none", "stream": false });
    let refused = house.ollama_ask("/api/pull", &root, none).await;
    assert!(refused.status == 502 && refused.body["error"].is_string(), "{refused:?}");
    let lines = house.ollama_lines("/api/pull", &root, json!({ "model": "org/none" })).await;
    assert!(lines.last().unwrap()["error"].is_string(), "{lines:?}");
}
