//! Conversations and messages over REST: order, repetition, pages, members, erasure.

use futures::future::join_all;
use serde_json::{Value, json};
use symbia_projections::{
    Rebuilder, fixed_keys,
    messaging::{Messaging, content_key_id},
};

use super::stage::House;

fn sequences(messages: &Value) -> Vec<u64> {
    messages.as_array().unwrap().iter().filter_map(|m| m["sequence"].as_u64()).collect()
}

fn deep(levels: usize) -> Value {
    (0..levels).fold(json!(1), |inner, _| json!({ "a": inner }))
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_have_one_dense_order_and_a_repetition_changes_nothing() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let id = house.talk(&ada, &[]).await;
    let path = format!("/api/conversations/{id}/messages");
    let sent = join_all((0..20).map(|n| {
        let text = format!("m{n}");
        let (house, ada, id) = (&house, &ada, &id);
        async move { house.say(ada, id, &text).await["sequence"].as_u64().unwrap() }
    }));
    let mut sent = sent.await;
    sent.sort_unstable();
    assert_eq!(sent, (1..=20).collect::<Vec<_>>());
    let all = house.get(&ada, &path).await.with(200);
    assert_eq!(sequences(&all), (1..=20).collect::<Vec<_>>());

    let key = [("idempotency-key", "once")];
    let once = house.ask(&ada, "POST", &path, &key, Some(json!({ "content": "once" }))).await.with(201);
    let again = house.ask(&ada, "POST", &path, &key, Some(json!({ "content": "once" }))).await.with(201);
    assert_eq!(once, again);
    let own = json!({ "content": "mine", "id": "0b5b8a1e-7c0e-4a53-9d5e-3c8a2f6f1a01", "priority": "high",
        "metadata": { "a": [1] } });
    let first = house.post(&ada, &path, own.clone()).await.with(201);
    assert_eq!(house.post(&ada, &path, own).await.with(201), first);
    assert_eq!((&first["priority"], &first["metadata"]), (&json!("high"), &json!({ "a": [1] })));
    let other = json!({ "content": "not mine", "id": first["id"] });
    assert_eq!(house.post(&ada, &path, other).await.refused(), (409, "MESSAGE_ID_CONFLICT"));
    assert_eq!(sequences(&house.get(&ada, &path).await.with(200)), (1..=22).collect::<Vec<_>>());

    for (query, expected) in [
        ("limit=3", vec![20, 21, 22]),
        ("limit=3&order=desc", vec![22, 21, 20]),
        ("before=seq:4", vec![1, 2, 3]),
        ("after=seq:20", vec![21, 22]),
        (&format!("before={}", all[2]["id"].as_str().unwrap()), vec![1, 2]),
        ("after=2020-01-01T00:00:00Z&limit=2", vec![1, 2]),
        ("before=2020-01-01T00:00:00Z", vec![]),
    ] {
        assert_eq!(sequences(&house.get(&ada, &format!("{path}?{query}")).await.with(200)), expected, "{query}");
    }
    for query in ["limit=0", "limit=201", "before=yesterday", "after=seq:x", "order=up"] {
        let refused = house.get(&ada, &format!("{path}?{query}")).await;
        assert_eq!(refused.refused(), (400, "VALIDATION_FAILED"), "{query}");
    }
    for (body, refused) in [
        (json!({}), (400, "VALIDATION_FAILED")),
        (json!({ "content": "" }), (400, "VALIDATION_FAILED")),
        (json!({ "content": "x", "contentType": "event" }), (400, "VALIDATION_FAILED")),
        (json!({ "content": "x", "priority": "loud" }), (400, "VALIDATION_FAILED")),
        (json!({ "content": "x", "metadata": [] }), (400, "VALIDATION_FAILED")),
        (json!({ "content": "x", "metadata": { "x": "x".repeat(33_000) } }), (413, "TOO_LARGE")),
        (json!({ "content": "x", "metadata": { "deep": deep(40) } }), (400, "VALIDATION_FAILED")),
        (json!({ "content": "x", "metadata": { "deep": deep(200) } }), (400, "MALFORMED_JSON")),
        (json!({ "content": "x".repeat(64 * 1024 + 1) }), (413, "TOO_LARGE")),
        (json!({ "content": "x", "replyTo": "0b5b8a1e-7c0e-4a53-9d5e-3c8a2f6f1a99" }), (404, "MESSAGE_NOT_FOUND")),
    ] {
        assert_eq!(house.post(&ada, &path, body).await.refused(), refused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_opened_once_and_its_members_come_and_go() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let (grace, joan) = (house.colleague(&ada, "grace").await, house.colleague(&ada, "joan").await);
    let body = json!({ "type": "group", "name": "Plans", "description": "of ours", "metadata": { "k": 1 },
        "participants": [{ "userId": grace.id }, { "userId": ada.id }, {}, { "userId": "assistant:coordinator" }],
        "orgId": ada.org });
    let key = [("idempotency-key", "plans")];
    let opened = house.ask(&ada, "POST", "/api/conversations", &key, Some(body.clone())).await.with(201);
    assert_eq!(house.ask(&ada, "POST", "/api/conversations", &key, Some(body)).await.with(201), opened);
    let id = opened["id"].as_str().unwrap();
    let members = |conversation: &Value| -> Vec<(String, String, String)> {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let rows = conversation["participants"].as_array().unwrap().iter();
        let mut rows: Vec<_> = rows.map(|p| (text(&p["user_id"]), text(&p["user_type"]), text(&p["role"]))).collect();
        rows.sort();
        rows
    };
    let member = |id: &str, kind: &str, role: &str| (id.to_owned(), kind.to_owned(), role.to_owned());
    let mut expected = vec![
        member(&ada.id, "user", "owner"),
        member(&grace.id, "user", "member"),
        member("assistant:coordinator", "agent", "member"),
    ];
    expected.sort();
    assert_eq!(members(&opened), expected);
    assert_eq!((&opened["name"], &opened["metadata"]), (&json!("Plans"), &json!({ "k": 1 })));
    for who in [&ada, &grace] {
        assert_eq!(house.get(who, "/api/conversations").await.with(200)[0]["id"], id);
    }

    let path = format!("/api/conversations/{id}/participants");
    assert_eq!(house.post(&grace, &path, json!({ "userId": joan.id })).await.refused(), (403, "INSUFFICIENT_ROLE"));
    let added = house.post(&ada, &path, json!({ "userId": joan.id })).await.with(201);
    assert_eq!((&added["role"], &added["user_type"]), (&json!("member"), &json!("user")));
    assert_eq!(house.post(&ada, &path, json!({ "userId": joan.id })).await.with(201), added);
    house.ask(&joan, "POST", &format!("/api/conversations/{id}/leave"), &[], None).await.with(204);
    let left = house.ask(&ada, "POST", &format!("/api/conversations/{id}/leave"), &[], None).await;
    assert_eq!(left.refused(), (400, "OWNER_MUST_TRANSFER"));
    house.ask(&ada, "DELETE", &format!("{path}/{}", grace.id), &[], None).await.with(204);
    assert_eq!(house.get(&grace, &format!("/api/conversations/{id}")).await.status, 403);
    assert_eq!(house.get(&ada, &path).await.with(200)["participants"].as_array().map(Vec::len), Some(2));
    let stats = house.get(&ada, "/api/stats").await.with(200);
    assert_eq!(stats["totalConversations"], 1);

    for (body, code) in [
        (json!({ "type": "group" }), "VALIDATION_FAILED"),
        (json!({ "type": "choir" }), "VALIDATION_FAILED"),
        (json!({}), "VALIDATION_FAILED"),
        (json!({ "type": "private", "participantIds": [grace.id, joan.id] }), "PRIVATE_CONVERSATION"),
    ] {
        assert_eq!(house.post(&ada, "/api/conversations", body).await.refused(), (400, code));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_key_a_conversation_cannot_be_read_or_written_any_more() {
    let mut house = House::open().await;
    let ada = house.register("ada").await;
    let id = house.talk(&ada, &[]).await;
    house.say(&ada, &id, "between us").await;
    let kid = content_key_id(&ada.org, &id);
    assert_eq!(house.platform.secrets.destroy_conversation_keys(&kid).await.unwrap(), 2, "its own, and hers in it");
    let path = format!("/api/conversations/{id}/messages");
    assert_eq!(house.post(&ada, &path, json!({ "content": "x" })).await.refused(), (410, "CONVERSATION_ERASED"));

    house.stop_projectors().await;
    let keys = fixed_keys(symbia_events::KeyRing::clone(&house.keys));
    let rebuilder = Rebuilder { pool: house.pool.clone(), jetstream: house.jetstream.clone(), keys };
    let model = Messaging::new(house.platform.secrets.clone());
    rebuilder.rebuild(&model, &|_| {}).await.unwrap();
    let messages = house.get(&ada, &path).await.with(200);
    assert_eq!((&messages[0]["content"], &messages[0]["metadata"]), (&json!("[erased]"), &json!({ "erased": true })));
}
