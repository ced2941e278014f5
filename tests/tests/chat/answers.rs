//! Asking an assistant: by rule, by model, over REST and the stream.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::stage::{House, eventually, run_is, texts};

const ASSISTANT: &str = "assistant:coordinator";

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_answered_as_it_comes_and_stored_once() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let id = house.talk(&ada, &[ASSISTANT]).await;
    let mut events = house.follow(&ada, &id, "latest").await;
    let question = house.say(&ada, &id, "count to three").await;
    assert_eq!((question["sequence"].as_u64(), question["sender_type"].as_str()), (Some(1), Some("user")));

    let mut seen = events.until(run_is("completed")).await;
    if !seen.iter().any(|e| e.name == "message" && e.data["sequence"] == 2) {
        seen.extend(events.until(|e| e.name == "message" && e.data["sequence"] == 2).await);
    }
    assert_eq!(texts(&seen, "message:delta", "delta").concat(), "one two three");
    assert_eq!(texts(&seen, "message", "content"), ["count to three", "one two three"]);
    let started = seen.iter().find(|e| run_is("started")(e)).unwrap();
    assert_eq!(started.data["messageId"], question["id"]);
    assert_eq!(started.data["rule"]["id"], "coord-orchestrate");
    let reply = seen.iter().find(|e| e.name == "message" && e.data["sequence"] == 2).unwrap();
    assert!(texts(&seen, "message:delta", "messageId").iter().all(|id| reply.data["id"] == *id));

    // The stream is fed from the log, and can be ahead of the read models.
    let messages = eventually("both messages can be read", || async {
        let messages = house.get(&ada, &format!("/api/conversations/{id}/messages")).await.with(200);
        (messages.as_array().unwrap().len() == 2).then_some(messages)
    })
    .await;
    let said: Vec<_> = messages.as_array().unwrap().iter().map(|m| (&m["sender_id"], &m["content"])).collect();
    assert_eq!(said, [(&json!(ada.id), &json!("count to three")), (&json!(ASSISTANT), &json!("one two three"))]);
    assert_eq!(&messages[1], &reply.data, "the stream and REST show the same row");

    let run_id = messages[1]["run_id"].as_str().unwrap();
    let run = eventually("the run shows completed with its completion", || async {
        let run = house.get(&ada, &format!("/api/runs/{run_id}")).await;
        if run.status == 404 {
            return None;
        }
        let run = run.with(200);
        let done = run["run"]["status"] == "completed" && run["run"]["completions"][0]["status"] == "completed";
        done.then(|| run["run"].clone())
    })
    .await;
    assert_eq!(run["why"]["rule"]["name"], "Ask the model");
    assert_eq!(run["why"]["awardReason"], "only-candidate");
    let tried: Vec<_> = run["rulesEvaluated"].as_array().unwrap().iter().map(|r| r["ruleId"].clone()).collect();
    assert_eq!(tried, ["coord-help", "coord-orchestrate"]);
    let completion = &run["completions"][0];
    assert_eq!((&completion["provider"], &completion["model"]), (&json!("scripted"), &json!("counting-1")));
    assert_eq!(
        (&completion["usage"]["promptTokens"], &completion["usage"]["completionTokens"]),
        (&json!(5), &json!(3))
    );
    assert_eq!(run["messageIds"], json!([messages[1]["id"]]));

    let list = house.get(&ada, "/api/assistants").await.with(200);
    assert_eq!(list["assistants"][0]["principalId"], ASSISTANT);
    assert_eq!(list["assistants"][0]["rulesCount"], 2);
    let rules = house.get(&ada, "/api/assistants/coordinator/rules").await.with(200);
    assert_eq!(rules["rules"]["version"], 1);
    house.read_models_are_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_with_a_template_answers_without_a_model_and_an_unknown_assistant_says_so() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let id = house.talk(&ada, &[ASSISTANT]).await;
    let mut events = house.follow(&ada, &id, "latest").await;
    house.say(&ada, &id, "help").await;
    let seen = events.until(|e| e.name == "message" && e.data["sequence"] == 2).await;
    assert!(texts(&seen, "message", "content")[1].starts_with("I am Symbia."));
    assert!(texts(&seen, "message:delta", "delta").is_empty());

    let id = house.talk(&ada, &["assistant:nobody"]).await;
    let mut events = house.follow(&ada, &id, "latest").await;
    house.say(&ada, &id, "hello?").await;
    let mut seen = events.until(|e| e.name == "message" && e.data["sequence"] == 2).await;
    if !seen.iter().any(run_is("failed")) {
        seen.extend(events.until(run_is("failed")).await);
    }
    assert!(texts(&seen, "message", "content")[1].contains("no such assistant"), "{seen:?}");
    assert_eq!(texts(&seen, "run", "code").last().map(String::as_str), Some("assistant_not_found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_lost_is_told_and_its_text_forgotten() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let id = house.talk(&ada, &[ASSISTANT]).await;
    let mut events = house.follow(&ada, &id, "latest").await;
    house.say(&ada, &id, "stumble and count").await;
    let seen = events.until(|e| e.name == "message" && e.data["sequence"] == 2).await;
    let reset = seen.iter().position(|e| e.name == "message:reset").expect("a reset");
    assert_eq!(texts(&seen[..reset], "message:delta", "delta"), ["one "]);
    assert_eq!(texts(&seen[reset..], "message:delta", "delta").concat(), "one two three");
    assert_eq!(seen.last().unwrap().data["content"], "one two three");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asked_stops_the_model() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let grace = house.colleague(&ada, "grace").await;
    let id = house.talk(&ada, &[&grace.id, ASSISTANT]).await;
    let mut events = house.follow(&ada, &id, "latest").await;
    house.say(&ada, &id, "@symbia wait").await;
    events.until(|e| e.name == "message:delta").await;

    let path = format!("/api/conversations/{id}/control");
    let other = house.post(&grace, &path, json!({ "event": "stream.cancel" })).await.with(201);
    assert_eq!(other["applied"], false, "only whoever asked may stop it");
    assert_eq!(house.post(&ada, &path, json!({ "event": "stream.sing" })).await.refused(), (400, "VALIDATION_FAILED"));
    let done = house.post(&ada, &path, json!({ "event": "cancel", "reason": "enough" })).await.with(201);
    assert_eq!((&done["event"], &done["applied"]), (&json!("stream.cancel"), &json!(true)));
    let seen = events.until(run_is("cancelled")).await;
    assert_eq!(seen.last().unwrap().data["runId"], done["runIds"][0]);
    assert_eq!(seen.last().unwrap().data["reason"], "enough");
    eventually("the model is stopped", || async { (house.model.given_up.load(Ordering::SeqCst) == 1).then_some(()) })
        .await;
    let messages = house.get(&ada, &format!("/api/conversations/{id}/messages")).await.with(200);
    let said: Vec<_> = messages.as_array().unwrap().iter().map(|m| m["content"].clone()).collect();
    assert_eq!(said, ["@symbia wait", "stream.cancel", "stream.cancel"], "no reply");
    let again = house.post(&ada, &path, json!({ "event": "cancel" })).await.with(201);
    assert_eq!(again["applied"], Value::Bool(false));
}
