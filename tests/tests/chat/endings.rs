//! How a conversation ends: it is deleted, or what was said in it is erased.

use serde_json::json;
use symbia_projections::messaging::content_key_id;

use super::stage::{House, eventually, run_is};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_erased_is_read_and_found_by_nobody_and_nothing_is_said_there_any_more() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let grace = house.colleague(&ada, "grace").await;
    let id = house.talk(&ada, &[&grace.id, "assistant:coordinator"]).await;
    let mut events = house.follow(&ada, &id, "latest").await;
    house.say(&ada, &id, "help with my secret").await;
    events.until(run_is("completed")).await;
    let deleted = house.say(&grace, &id, "a deleted secret").await;
    let at = |rest: &str| format!("/api/conversations/{id}{rest}");
    let message = at(&format!("/messages/{}", deleted["id"].as_str().unwrap()));
    house.ask(&grace, "DELETE", &message, &[], None).await.with(204);
    house.post(&ada, &at("/control"), json!({ "event": "pause", "reason": "a secret" })).await.with(201);
    let found = house.get(&ada, "/api/messages/search?q=secret").await.with(200);
    assert_eq!(found.as_array().map(Vec::len), Some(1));

    let refused = house.ask(&grace, "POST", &at("/erase"), &[], None).await;
    assert_eq!(refused.refused(), (403, "INSUFFICIENT_ROLE"));
    house.ask(&ada, "POST", &at("/erase"), &[], None).await.with(204);
    let kid = content_key_id(&ada.org, &id);
    assert!(house.platform.secrets.subject_key(&kid).await.unwrap().is_none(), "the key is gone");
    let text = house.get(&grace, &at("/messages")).await.with(200).to_string();
    assert!(text.contains("[erased]") && !text.contains("secret"), "{text}");
    let conversation = house.get(&grace, &at("")).await.with(200);
    assert_eq!(conversation["name"], "[erased]");
    assert_eq!(house.get(&ada, "/api/messages/search?q=secret").await.with(200), json!([]));
    assert_eq!(house.get(&ada, "/api/messages/search?q=erased").await.with(200), json!([]));
    for (method, path, body) in [
        ("POST", at("/messages"), json!({ "content": "x" })),
        ("POST", at("/control"), json!({ "event": "resume" })),
        ("PATCH", at(""), json!({ "name": "x" })),
    ] {
        let refused = house.ask(&ada, method, &path, &[], Some(body)).await;
        assert_eq!(refused.refused(), (410, "CONVERSATION_ERASED"), "{method} {path}");
    }
    house.ask(&ada, "POST", &at("/erase"), &[], None).await.with(204);
    house.read_models_are_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_conversation_is_gone_at_once_and_its_key_when_the_time_has_come() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let grace = house.colleague(&ada, "grace").await;
    let (id, other) = (house.talk(&ada, &[&grace.id]).await, house.talk(&ada, &[&grace.id]).await);
    house.say(&ada, &id, "a fleeting word").await;
    house.say(&ada, &other, "a lasting word").await;
    let mut events = house.follow(&grace, &id, "latest").await;
    let path = format!("/api/conversations/{id}");
    assert_eq!(house.ask(&grace, "DELETE", &path, &[], None).await.refused(), (403, "INSUFFICIENT_ROLE"));
    house.ask(&ada, "DELETE", &path, &[], None).await.with(204);
    let seen = events.until(|e| e.name == "close").await;
    assert_eq!(seen[seen.len() - 2].name, "conversation:deleted");
    assert!(events.next().await.is_none(), "the stream has ended");
    for who in [&ada, &grace] {
        for path in [path.clone(), format!("{path}/messages"), format!("{path}/search?q=word")] {
            assert_eq!(house.get(who, &path).await.refused(), (404, "CONVERSATION_NOT_FOUND"));
        }
        let list = house.get(who, "/api/conversations").await.with(200);
        assert_eq!(list.as_array().map(|c| c.iter().map(|c| c["id"].clone()).collect()), Some(vec![json!(other)]));
        let found = house.get(who, "/api/messages/search?q=word").await.with(200);
        assert_eq!(found.as_array().map(Vec::len), Some(1));
    }
    assert_eq!(house.ask(&ada, "DELETE", &path, &[], None).await.refused(), (404, "CONVERSATION_NOT_FOUND"));
    let kid = content_key_id(&ada.org, &id);
    eventually("the key of what is deleted is destroyed", || async {
        house.platform.secrets.subject_key(&kid).await.unwrap().is_none().then_some(())
    })
    .await;
    let lasting = content_key_id(&ada.org, &other);
    assert!(house.platform.secrets.subject_key(&lasting).await.unwrap().is_some());
    house.read_models_are_what_the_log_says().await;
}
