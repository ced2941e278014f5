//! What is unread, and what is found.

use serde_json::{Value, json};

use super::stage::{House, Person, eventually};

async fn unread(house: &House, who: &Person, id: &str) -> (u64, u64) {
    let list = house.get(who, "/api/conversations").await.with(200);
    let row = list.as_array().unwrap().iter().find(|c| c["id"] == id).unwrap().clone();
    (row["read_sequence"].as_u64().unwrap(), row["unread_count"].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_wrote_is_unread_until_it_is_marked_or_looked_at() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let grace = house.colleague(&ada, "grace").await;
    let id = house.talk(&ada, &[&grace.id]).await;
    for n in 1..=5 {
        house.say(&ada, &id, &format!("message {n}")).await;
    }
    assert_eq!((unread(&house, &ada, &id).await, unread(&house, &grace, &id).await), ((0, 0), (0, 5)));
    let path = format!("/api/conversations/{id}/read");
    let read = house.post(&grace, &path, json!({ "upToSequence": 2 })).await.with(200);
    assert_eq!(read["read_sequence"], 2);
    assert_eq!(unread(&house, &grace, &id).await, (2, 3));
    let back = house.post(&grace, &path, json!({ "upToSequence": 1 })).await.with(200);
    assert_eq!(back["read_sequence"], 2, "the mark moves forward only");
    let far = house.post(&grace, &path, json!({ "upToSequence": 99 })).await.with(200);
    assert_eq!(far["read_sequence"], 5, "and no further than what there is");
    let members = house.get(&ada, &format!("/api/conversations/{id}/participants")).await.with(200);
    let grace_row = members["participants"].as_array().unwrap().iter().find(|p| p["user_id"] == grace.id).unwrap();
    assert!(grace_row["last_read_at"].is_string(), "{grace_row}");

    // An old page is not the news.
    let joan = house.colleague(&ada, "joan").await;
    let group = house.talk(&ada, &[&joan.id, &grace.id]).await;
    let last = house.say(&ada, &group, "news").await;
    house.get(&joan, &format!("/api/conversations/{group}/messages?before=seq:1")).await.with(200);
    assert_eq!(unread(&house, &joan, &group).await, (0, 1));
    house.get(&joan, &format!("/api/conversations/{group}/messages")).await.with(200);
    let sequence = last["sequence"].as_u64().unwrap();
    eventually("what was looked at counts as read", || async {
        (unread(&house, &joan, &group).await == (sequence, 0)).then_some(())
    })
    .await;
    for query in ["type=group&limit=1", "type=private&offset=5"] {
        house.get(&ada, &format!("/api/conversations?{query}")).await.with(200);
    }
    let kinds = house.get(&ada, "/api/conversations?type=group").await.with(200);
    assert_eq!(
        kinds.as_array().map(|c| c.iter().map(|c| c["id"].clone()).collect::<Vec<_>>()),
        Some(vec![json!(group)])
    );
    for query in ["type=choir", "limit=0", "limit=201", "offset=-1"] {
        let refused = house.get(&ada, &format!("/api/conversations?{query}")).await;
        assert_eq!(refused.refused(), (400, "VALIDATION_FAILED"), "{query}");
    }
    house.read_models_are_what_the_log_says().await;
}

fn contents(found: &Value) -> Vec<&str> {
    found.as_array().unwrap().iter().filter_map(|m| m["content"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_found_by_their_words_by_those_who_take_part_and_as_they_read_now() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let grace = house.colleague(&ada, "grace").await;
    let (shared, own) = (house.talk(&ada, &[&grace.id]).await, house.talk(&ada, &[]).await);
    house.say(&ada, &shared, "The invoice of March is late").await;
    let edited = house.say(&ada, &shared, "Another invoice").await;
    let deleted = house.say(&ada, &shared, "An invoice to forget").await;
    house.say(&ada, &own, "My own invoice").await;
    let at = |message: &Value| format!("/api/conversations/{shared}/messages/{}", message["id"].as_str().unwrap());
    house.ask(&ada, "PATCH", &at(&edited), &[], Some(json!({ "content": "Another receipt" }))).await.with(200);
    house.ask(&ada, "DELETE", &at(&deleted), &[], None).await.with(204);

    let all = house.get(&ada, "/api/messages/search?q=invoice").await.with(200);
    assert_eq!(contents(&all), ["My own invoice", "The invoice of March is late"]);
    let theirs = house.get(&grace, "/api/messages/search?q=invoice").await.with(200);
    assert_eq!(contents(&theirs), ["The invoice of March is late"]);
    let here = format!("/api/conversations/{shared}/search");
    for (query, expected) in [
        ("q=invoice", vec!["The invoice of March is late"]),
        ("q=RECEIPT", vec!["Another receipt"]),
        ("q=receipt+or+invoice", vec!["Another receipt", "The invoice of March is late"]),
        ("q=receipt+or+invoice&limit=1&offset=1", vec!["The invoice of March is late"]),
        ("q=%22invoice+of+march%22", vec!["The invoice of March is late"]),
        ("q=invoice+-march", vec![]),
        ("q=forget", vec![]),
        ("q='%3B--%26%7C!(", vec![]),
    ] {
        let found = house.get(&grace, &format!("{here}?{query}")).await.with(200);
        assert_eq!(contents(&found), expected, "{query}");
    }
    for query in ["q=", "q=x&limit=0", "q=x&offset=-1", &format!("q={}", "x".repeat(1025))] {
        assert_eq!(house.get(&ada, &format!("{here}?{query}")).await.refused(), (400, "VALIDATION_FAILED"), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_its_callers_whoever_they_say_they_are() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let grace = house.colleague(&ada, "grace").await;
    let id = house.talk(&ada, &[&grace.id]).await;
    let path = format!("/api/conversations/{id}/messages");
    let forged =
        json!({ "content": "x", "senderId": ada.id, "sender_id": ada.id, "senderType": "agent", "sequence": 99 });
    let said = house.ask(&grace, "POST", &path, &[("x-as-user-id", &ada.id)], Some(forged)).await.with(201);
    assert_eq!(
        (&said["sender_id"], &said["sender_type"], &said["sequence"]),
        (&json!(grace.id), &json!("user"), &json!(1))
    );
    let answer = json!({ "content": "y", "replyTo": said["id"] });
    let answer = house.post(&ada, &path, answer).await.with(201);
    let thread = format!("{path}?replyTo={}", said["id"].as_str().unwrap());
    assert_eq!(house.get(&grace, &thread).await.with(200), json!([answer]));
    let deep = (0..40).fold(json!(1), |inner, _| json!([inner]));
    for metadata in [json!({ "deep": deep }), json!([]), json!("x")] {
        let refused = house.post(&ada, &path, json!({ "content": "x", "metadata": metadata })).await;
        assert_eq!(refused.refused(), (400, "VALIDATION_FAILED"));
    }
    let large = json!({ "content": "x", "metadata": { "x": "x".repeat(33_000) } });
    assert_eq!(house.post(&ada, &path, large).await.refused(), (413, "TOO_LARGE"));
}
