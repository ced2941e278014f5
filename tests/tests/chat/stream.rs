//! Following a conversation: from a position, without gap or repetition, and no longer than one takes part.

use serde_json::json;

use super::stage::{House, Sse};

fn sequence(event: &Sse) -> Option<u64> {
    (event.name == "message").then(|| event.data["sequence"].as_u64()).flatten()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_comes_back_misses_nothing_and_sees_nothing_twice() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let id = house.talk(&ada, &[]).await;
    for n in 1..=6 {
        house.say(&ada, &id, &format!("message {n}")).await;
    }
    let (mut seen, mut from) = (Vec::new(), "earliest".to_owned());
    while seen.len() < 6 {
        let mut events = house.follow(&ada, &id, &from).await;
        for _ in 0..2 {
            let read = events.until(|e| sequence(e).is_some()).await;
            let last = read.last().unwrap();
            seen.extend(sequence(last));
            from = last.id.clone().expect("a stored event has a place");
        }
        // While nobody follows, more is said.
        if seen.len() == 4 {
            house.say(&ada, &id, "said meanwhile").await;
        }
    }
    let mut events = house.follow(&ada, &id, &from).await;
    seen.extend(events.until(|e| sequence(e).is_some()).await.iter().filter_map(sequence));
    assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_and_deletions_are_told_and_a_member_that_is_removed_hears_no_more() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let grace = house.colleague(&ada, "grace").await;
    let id = house.talk(&ada, &[&grace.id]).await;
    let mut events = house.follow(&grace, &id, "latest").await;
    let message = house.say(&ada, &id, "helo").await["id"].as_str().unwrap().to_owned();
    let path = format!("/api/conversations/{id}/messages/{message}");
    house.ask(&ada, "PATCH", &path, &[], Some(json!({ "content": "hello" }))).await.with(200);
    house.ask(&ada, "DELETE", &path, &[], None).await.with(204);
    let member = format!("/api/conversations/{id}/participants/{}", grace.id);
    house.ask(&ada, "DELETE", &member, &[], None).await.with(204);
    house.say(&ada, &id, "not for her").await;

    let seen = events.until(|e| e.name == "close").await;
    let names: Vec<&str> = seen.iter().map(|e| e.name.as_str()).collect();
    let expected = ["opened", "message", "message:updated", "message:deleted", "participant:removed", "close"];
    assert_eq!(names, expected);
    assert_eq!(seen[2].data["content"], "hello");
    assert_eq!(seen[5].data["code"], 4003);
    assert!(events.next().await.is_none(), "the stream has ended");
    let kinds = house.get(&ada, &format!("/api/conversations/{id}/messages?limit=200")).await.with(200);
    assert_eq!(kinds.as_array().map(Vec::len), Some(1), "deleted messages are not shown");
}
