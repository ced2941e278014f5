//! Two organizations on one platform: neither sees, hears or touches the other.

use serde_json::json;

use super::stage::{House, texts};

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_not_there_for_another_organization_and_closed_to_who_takes_no_part() {
    let house = House::open().await;
    let (ada, eve) = (house.register("ada").await, house.register("eve").await);
    let colleague = house.colleague(&ada, "grace").await;
    let id = house.talk(&ada, &["assistant:coordinator"]).await;
    let question = house.say(&ada, &id, "help").await;
    let message = question["id"].as_str().unwrap();
    let body = json!({ "content": "x", "event": "cancel", "userId": "u", "role": "admin" });
    let at = |rest: &str| format!("/api/conversations/{id}{rest}");
    for (method, path) in [
        ("GET", at("")),
        ("GET", at("/messages")),
        ("POST", at("/messages")),
        ("GET", at(&format!("/messages/{message}"))),
        ("PATCH", at(&format!("/messages/{message}"))),
        ("DELETE", at(&format!("/messages/{message}"))),
        ("GET", at("/participants")),
        ("POST", at("/participants")),
        ("DELETE", at(&format!("/participants/{}", ada.id))),
        ("POST", at("/leave")),
        ("POST", at("/control")),
        ("GET", at("/stream")),
        ("PATCH", at("")),
        ("DELETE", at("")),
        ("POST", at("/erase")),
        ("PATCH", at(&format!("/participants/{}", ada.id))),
        ("POST", at("/transfer")),
        ("POST", at("/read")),
        ("GET", at("/search?q=help")),
    ] {
        let send = async |who| {
            let body = (method != "GET").then(|| body.clone());
            house.ask(who, method, &path, &[], body).await
        };
        assert_eq!(send(&eve).await.refused(), (404, "CONVERSATION_NOT_FOUND"), "{method} {path}");
        assert_eq!(send(&colleague).await.refused(), (403, "NOT_PARTICIPANT"), "{method} {path}");
    }
    let join = house.ask(&eve, "POST", &at("/join"), &[], None).await;
    assert_eq!(join.refused(), (404, "CONVERSATION_NOT_FOUND"));
    for who in [&eve, &colleague] {
        assert_eq!(house.get(who, "/api/messages/search?q=help").await.with(200), json!([]));
    }
    // A message of another conversation is none of this one.
    let own = house.talk(&ada, &[]).await;
    for (method, body) in [("GET", None), ("PATCH", Some(json!({ "content": "x" }))), ("DELETE", None)] {
        let path = format!("/api/conversations/{own}/messages/{message}");
        assert_eq!(house.ask(&ada, method, &path, &[], body).await.refused(), (404, "MESSAGE_NOT_FOUND"), "{method}");
    }
    let taken = json!({ "content": "help", "id": message });
    let refused = house.post(&ada, &format!("/api/conversations/{own}/messages"), taken.clone()).await;
    assert_eq!(refused.refused(), (409, "MESSAGE_ID_CONFLICT"));
    let said = refused.body.to_string();
    assert!(!said.contains(&id) && !said.contains("help"), "nothing is told of the other: {said}");
    let messages = async |of: &str| house.get(&ada, &format!("/api/conversations/{of}/messages")).await.with(200);
    assert_eq!(messages(&own).await, json!([]), "and nothing is stored");
    assert_eq!(messages(&id).await[0], question);
    // In another organization, the same id is another message's.
    let of_eve = house.talk(&eve, &[]).await;
    let copied = house.post(&eve, &format!("/api/conversations/{of_eve}/messages"), taken).await.with(201);
    assert_eq!((&copied["conversation_id"], &copied["sequence"]), (&json!(of_eve), &json!(1)));
    let named = [("x-org-id", ada.org.as_str())];
    assert_eq!(house.ask(&eve, "GET", "/api/conversations", &named, None).await.status, 403);
    assert_eq!(house.get(&eve, "/api/conversations").await.with(200).as_array().unwrap().len(), 1);
    assert_eq!(house.get(&colleague, "/api/conversations").await.with(200), json!([]));
    let foreign = json!({ "type": "private", "orgId": ada.org });
    assert_eq!(house.post(&eve, "/api/conversations", foreign).await.refused(), (403, "ORG_ACCESS_DENIED"));
    assert_eq!(house.get(&eve, &format!("/api/runs?conversationId={id}")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_carries_one_conversation_only() {
    let house = House::open().await;
    let (ada, eve) = (house.register("ada").await, house.register("eve").await);
    let with = ["assistant:coordinator"];
    let (own, other, foreign) =
        (house.talk(&ada, &with).await, house.talk(&ada, &with).await, house.talk(&eve, &with).await);
    let mut events = house.follow(&ada, &own, "earliest").await;
    for (who, id) in [(&ada, &other), (&eve, &foreign)] {
        let mut followed = house.follow(who, id, "latest").await;
        house.say(who, id, "count elsewhere").await;
        followed.until(|e| e.name == "message" && e.data["sequence"] == 2).await;
    }
    house.say(&ada, &own, "count here").await;
    let seen = events.until(|e| e.name == "message" && e.data["sequence"] == 2).await;
    assert_eq!(texts(&seen, "message", "content"), ["count here", "one two three"]);
    assert!(seen.iter().filter(|e| e.name == "run").all(|e| e.data["conversationId"] == own), "{seen:?}");
    assert_eq!(texts(&seen, "message:delta", "delta").concat(), "one two three");
}
