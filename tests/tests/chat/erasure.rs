//! What somebody said is erased in all conversations of an organization; what others said stays.

use std::sync::Arc;

use serde_json::{Value, json};
use symbia_commands::{
    Actor, OutcomeStatus,
    identity::{DeleteUser, UserCommand},
};
use symbia_events::{
    AggregateRef, CommandId, OrgId, Service,
    messaging::{author_key_id, content_key_id},
};
use symbia_workers::sender::Sender;

use super::{
    admin::make_admin,
    stage::{House, Person, eventually},
};

const ASSISTANT: &str = "assistant:coordinator";

async fn texts(house: &House, who: &Person, id: &str) -> Vec<String> {
    let rows = house.get(who, &format!("/api/conversations/{id}/messages?limit=200")).await.with(200);
    rows.as_array().unwrap().iter().map(|m| m["content"].as_str().unwrap().to_owned()).collect()
}

async fn answered(house: &House, who: &Person, id: &str, question: &Value) {
    eventually("an answer", || async {
        let rows = house.get(who, &format!("/api/conversations/{id}/messages?limit=200")).await.with(200);
        rows.as_array().unwrap().iter().any(|m| m["reply_to"] == question["id"]).then_some(())
    })
    .await;
}

/// The ids of the keys under which models were asked.
async fn asked_under(house: &House) -> Vec<String> {
    let mut stream = house.jetstream.get_stream(Service::Integrations.event_stream()).await.unwrap();
    let last = stream.info().await.unwrap().state.last_sequence;
    let mut kids = Vec::new();
    for sequence in 1..=last {
        let body: Value = serde_json::from_slice(&stream.get_raw_message(sequence).await.unwrap().payload).unwrap();
        let events = if body.is_array() { body.as_array().unwrap().clone() } else { vec![body] };
        for message in events.iter().filter_map(|event| event["data"]["messages"].as_array()).flatten() {
            kids.push(message["content"]["kid"].as_str().unwrap().to_owned());
        }
    }
    kids
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_said_is_erased_everywhere_and_nobody_elses_words() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let grace = house.colleague(&ada, "grace").await;
    let id = house.talk(&ada, &[&grace.id, ASSISTANT]).await;
    let other = house.talk(&ada, &[]).await;
    let first = house.say(&grace, &id, "a kingfisher by the river").await;
    answered(&house, &grace, &id, &first).await;
    let question = house.say(&ada, &id, "@symbia count the herons").await;
    answered(&house, &ada, &id, &question).await;
    house.say(&ada, &other, "herons elsewhere").await;
    let own = author_key_id(&ada.org, &id, &ada.id, 0);
    let graces = author_key_id(&ada.org, &id, &grace.id, 0);
    let kids = asked_under(&house).await;
    assert!(kids.contains(&own), "the model was asked under her key: {kids:?}");
    // The assistant's own words are the conversation's.
    let known = [&own, &graces, &content_key_id(&ada.org, &id)];
    assert!(kids.iter().all(|kid| known.contains(&kid)), "no prompt outlives whose words are in it: {kids:?}");

    // Somebody else may not.
    let erase = format!("/api/admin/users/{}/erase?orgId={}", ada.id, ada.org);
    assert_eq!(house.post(&grace, &erase, json!({})).await.refused(), (403, "MISSING_CAPABILITY"));
    house.post(&ada, "/api/messages/erase", json!({})).await.with(204);
    assert_eq!(
        texts(&house, &grace, &id).await,
        ["a kingfisher by the river", "one two three", "[erased]", "one two three"]
    );
    assert_eq!(texts(&house, &ada, &other).await, ["[erased]"]);
    for who in [&ada, &grace] {
        assert_eq!(house.get(who, "/api/messages/search?q=herons").await.with(200), json!([]));
        let found = house.get(who, "/api/messages/search?q=kingfisher").await.with(200);
        assert_eq!(found.as_array().unwrap().len(), 1, "{found}");
    }
    let secrets = &house.platform.secrets;
    assert!(secrets.subject_key(&own).await.unwrap().is_none(), "her key is gone");
    assert!(secrets.subject_key(&graces).await.unwrap().is_some());
    house.read_models_are_what_the_log_says().await;

    // What she says from now on can be read, and erased again.
    let again = house.say(&ada, &id, "@symbia count again").await;
    answered(&house, &ada, &id, &again).await;
    assert_eq!(texts(&house, &grace, &id).await[4..], ["@symbia count again", "one two three"]);
    house.post(&ada, "/api/messages/erase", json!({})).await.with(204);
    assert_eq!(texts(&house, &grace, &id).await[4..], ["[erased]", "one two three"]);
    house.read_models_are_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn why_somebody_signalled_is_erased_with_what_they_said_and_not_that_they_did() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let grace = house.colleague(&ada, "grace").await;
    let id = house.talk(&ada, &[&grace.id]).await;
    let signal = json!({ "event": "stream.pause", "reason": "a HERON\u{0}", "metadata": { "seen": "HERON\u{0}" } });
    let given = house.post(&ada, &format!("/api/conversations/{id}/control"), signal).await.with(201);
    assert!(given["metadata"]["control"]["reason"].as_str().unwrap().starts_with("a HERON"), "{given}");
    house.post(&ada, "/api/messages/erase", json!({})).await.with(204);
    let rows = house.get(&grace, &format!("/api/conversations/{id}/messages")).await.with(200);
    let control = &rows[0]["metadata"]["control"];
    assert_eq!((&rows[0]["content"], &control["event"]), (&json!("stream.pause"), &json!("stream.pause")));
    assert!(!rows.to_string().contains("HERON"), "{rows}");
    house.read_models_are_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn admins_erase_what_others_said_in_their_organization_alone() {
    let house = House::open().await;
    let (ada, eve) = (house.register("ada").await, house.register("eve").await);
    let grace = house.colleague(&ada, "grace").await;
    let id = house.talk(&ada, &[&grace.id]).await;
    house.say(&grace, &id, "in the organization").await;
    let own = house.talk(&grace, &[]).await;
    house.say(&grace, &own, "in her own").await;
    make_admin(&house, &ada).await;
    make_admin(&house, &eve).await;
    let erase = format!("/api/admin/users/{}/erase?orgId={}", grace.id, ada.org);
    assert_eq!(house.post(&eve, &erase, json!({})).await.refused(), (403, "ORG_ACCESS_DENIED"));
    assert_eq!(texts(&house, &ada, &id).await, ["in the organization"]);
    house.post(&ada, &erase, json!({})).await.with(204);
    assert_eq!(texts(&house, &ada, &id).await, ["[erased]"]);
    assert_eq!(texts(&house, &grace, &own).await, ["in her own"]);

    // An account that is closed takes everything along.
    let delete = UserCommand::from(DeleteUser { user_id: grace.id.clone() });
    let address = AggregateRef::new(Service::Identity, OrgId::global(), "user", &grace.id).unwrap();
    let sender = Sender::new(house.platform.bus.clone(), Arc::clone(&house.keys));
    let deleted = sender.send(None, &address, &delete, &Actor::system("test"), CommandId::random()).await.unwrap();
    assert_eq!(deleted.status, OutcomeStatus::Accepted, "{deleted:?}");
    let hers = author_key_id(&grace.org, &own, &grace.id, 0);
    eventually("her key is gone", || async {
        house.platform.secrets.subject_key(&hers).await.unwrap().is_none().then_some(())
    })
    .await;
    // The keys go first.
    house.read_models_become_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_adds_to_is_erased_in_its_time() {
    let house = House::open().await;
    let (ada, eve) = (house.register("ada").await, house.register("eve").await);
    let grace = house.colleague(&ada, "grace").await;
    let id = house.talk(&ada, &[&grace.id]).await;
    let (retention, kept) = (format!("/api/conversations/{id}/retention"), house.talk(&ada, &[]).await);
    let set =
        async |who: &Person, days: u32| house.ask(who, "PUT", &retention, &[], Some(json!({ "days": days }))).await;
    assert_eq!(set(&grace, 2).await.refused(), (403, "INSUFFICIENT_ROLE"));
    assert_eq!(set(&eve, 2).await.refused(), (404, "CONVERSATION_NOT_FOUND"));
    assert_eq!(set(&ada, 40_000).await.refused(), (400, "VALIDATION_FAILED"));
    assert_eq!(set(&ada, 10_000).await.with(200)["retention_days"], 10_000);
    assert_eq!(set(&ada, 0).await.with(200)["retention_days"], Value::Null);
    house.say(&ada, &id, "not for ever").await;
    house.say(&ada, &kept, "for ever").await;
    assert_eq!(set(&ada, 2).await.with(200)["retention_days"], 2);
    eventually("it is erased", || async { (texts(&house, &grace, &id).await == ["[erased]"]).then_some(()) }).await;
    let more = house.post(&ada, &format!("/api/conversations/{id}/messages"), json!({ "content": "x" })).await;
    assert_eq!(more.refused(), (410, "CONVERSATION_ERASED"));
    assert_eq!(texts(&house, &ada, &kept).await, ["for ever"]);
    let (own, hers) = (content_key_id(&ada.org, &id), author_key_id(&ada.org, &id, &ada.id, 0));
    let secrets = &house.platform.secrets;
    eventually("the keys are gone", || async {
        let left = secrets.subject_keys(&[own.clone(), hers.clone()]).await.unwrap();
        left.is_empty().then_some(())
    })
    .await;
    house.read_models_become_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_organization_keeps_no_longer_is_erased_and_what_is_still_spoken_in_stays() {
    let house = House::open().await;
    let (ada, eve) = (house.register("ada").await, house.register("eve").await);
    let grace = house.colleague(&ada, "grace").await;
    make_admin(&house, &ada).await;
    make_admin(&house, &eve).await;
    let (old, spoken) = (house.talk(&ada, &[&grace.id]).await, house.talk(&ada, &[]).await);
    let elsewhere = house.talk(&eve, &[]).await;
    for (who, id) in [(&ada, &old), (&ada, &spoken), (&eve, &elsewhere)] {
        house.say(who, id, "a word").await;
    }
    let path = format!("/api/admin/retention?orgId={}", ada.org);
    let set = async |who: &Person, days: u32| house.ask(who, "PUT", &path, &[], Some(json!({ "days": days }))).await;
    assert_eq!(set(&grace, 9).await.refused(), (403, "MISSING_CAPABILITY"));
    assert_eq!(set(&eve, 9).await.refused(), (403, "ORG_ACCESS_DENIED"));
    assert_eq!(house.get(&eve, &path).await.refused(), (403, "ORG_ACCESS_DENIED"));
    assert_eq!(set(&ada, 40_000).await.refused(), (400, "VALIDATION_FAILED"));
    assert_eq!(house.get(&ada, &path).await.with(200)["days"], 0);
    // A day is 300 ms here: what is added to all the while is never as old as twenty of them.
    assert_eq!(set(&ada, 20).await.with(200)["days"], 20);
    eventually("it is erased", || async {
        house.say(&ada, &spoken, "another").await;
        (texts(&house, &grace, &old).await == ["[erased]"]).then_some(())
    })
    .await;
    let first = format!("/api/conversations/{spoken}/messages?order=asc&after=seq:0&limit=1");
    assert_eq!(house.get(&ada, &first).await.with(200)[0]["content"], "a word");
    assert_eq!(texts(&house, &eve, &elsewhere).await, ["a word"]);
    assert_eq!(set(&ada, 0).await.with(200)["days"], 0);
    house.read_models_are_what_the_log_says().await;
}
