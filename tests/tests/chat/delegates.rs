//! An agent in a person's name, in conversations: it may what the person may, and what it says is the person's.

use serde_json::{Value, json};
use symbia_events::{AggregateRef, Service};

use super::stage::{House, Person};

const CREDENTIAL: &str = "the-credential-of-an-agent-0123456789abcdef";

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

/// Somebody who acts with a token of this person's.
async fn delegate(house: &House, person: &Person, scopes: &[&str]) -> Person {
    let agent = json!({ "agentId": "agent:a", "credential": CREDENTIAL, "name": "A", "orgId": person.org });
    house.post(person, "/api/agents", agent).await;
    let login = json!({ "agentId": "agent:a", "credential": CREDENTIAL });
    let own = house.post(person, "/api/auth/agent/login", login).await.with(200);
    let granted = house.post(person, "/api/delegations", json!({ "agentId": "agent:a", "scopes": scopes })).await;
    let token_type = "urn:ietf:params:oauth:token-type:access_token";
    let asked = json!({
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": granted.with(201)["id"],
        "subject_token_type": "urn:symbia:params:oauth:token-type:delegation",
        "actor_token": own["token"],
        "actor_token_type": token_type,
    });
    let exchanged = house.post(person, "/api/oauth/token", asked).await.with(200);
    Person { token: text(&exchanged["access_token"]), ..person.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_says_in_somebodys_name_is_theirs_and_the_log_names_both() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let (grace, joan) = (house.colleague(&ada, "grace").await, house.colleague(&ada, "joan").await);
    let lin = house.colleague(&ada, "lin").await;
    let id = house.talk(&ada, &[&grace.id, &joan.id]).await;
    let at = |rest: &str| format!("/api/conversations/{id}{rest}");
    let agent = delegate(&house, &ada, &["cap:messaging.send"]).await;

    let said = house.say(&agent, &id, "by an agent").await;
    assert_eq!((&said["sender_id"], &said["sender_type"]), (&json!(ada.id), &json!("user")));
    let message = at(&format!("/messages/{}", text(&said["id"])));
    let correction = |words: &str| Some(json!({ "content": words }));
    let edited = house.ask(&agent, "PATCH", &message, &[], correction("by her agent")).await.with(200);
    assert_eq!(edited["content"], "by her agent");
    let subject = AggregateRef::new(Service::Messaging, ada.org.parse().unwrap(), "conversation", &id).unwrap();
    let stream = house.jetstream.get_stream(Service::Messaging.event_stream()).await.unwrap();
    let last = stream.get_last_raw_message_by_subject(&subject.event_subject()).await.unwrap();
    let event: Value = serde_json::from_slice(&last.payload).unwrap();
    assert_eq!(
        (&event["actorid"], &event["actortype"], &event["onbehalfof"]),
        (&json!("agent:a"), &json!("agent"), &json!(ada.id))
    );
    // The person corrects what was said in their name; nobody else does.
    house.ask(&ada, "PATCH", &message, &[], correction("by me")).await.with(200);
    assert_eq!(house.ask(&grace, "PATCH", &message, &[], correction("by Grace")).await.refused(), (403, "FORBIDDEN"));
    let seen = house.get(&grace, &at("/messages")).await.with(200).to_string();
    assert!(seen.contains("by me") && !seen.contains("agent:a"), "{seen}");

    // It reads, joins and leaves as the person, and takes nothing away unless it was left to.
    let hers = house.say(&grace, &id, "news").await;
    let read = house.post(&agent, &at("/read"), json!({ "upToSequence": hers["sequence"] })).await.with(200);
    assert_eq!(read["read_sequence"], hers["sequence"]);
    let removed = house.ask(&agent, "DELETE", &message, &[], None).await;
    assert_eq!(removed.refused(), (403, "APPROVAL_REQUIRED"));
    let grace_there = Person { org: ada.org.clone(), ..grace.clone() };
    let others = house.talk(&grace_there, &[&joan.id, &lin.id]).await;
    let there = |rest: &str| format!("/api/conversations/{others}/{rest}");
    let stranger = house.post(&agent, &there("messages"), json!({ "content": "hi" })).await;
    assert_eq!(stranger.refused(), (403, "NOT_PARTICIPANT"));
    let joined = house.post(&agent, &there("join"), json!({})).await.with(201);
    assert_eq!(joined["user_id"], json!(ada.id));
    house.say(&agent, &others, "hello").await;
    house.post(&agent, &there("leave"), json!({})).await.with(204);
    let gone = house.post(&ada, &there("messages"), json!({ "content": "hi" })).await;
    assert_eq!(gone.refused(), (403, "NOT_PARTICIPANT"));

    // Reading is not writing.
    let reader = delegate(&house, &ada, &["cap:messaging.read"]).await;
    house.get(&reader, &at("/messages")).await.with(200);
    let refused = house.post(&reader, &at("/messages"), json!({ "content": "hi" })).await;
    assert_eq!(refused.refused(), (403, "INSUFFICIENT_SCOPE"));
    house.read_models_are_what_the_log_says().await;
}
