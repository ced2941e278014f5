//! Signals about answers under way: they act on the runs, and on who answers from then on.

use serde_json::{Value, json};

use super::stage::{Answer, Events, House, Person, Sse, eventually, run_is, texts};

const ASSISTANT: &str = "assistant:coordinator";

async fn signal(house: &House, who: &Person, id: &str, body: Value) -> Answer {
    house.post(who, &format!("/api/conversations/{id}/control"), body).await
}

async fn messages(house: &House, who: &Person, id: &str) -> Vec<Value> {
    let path = format!("/api/conversations/{id}/messages?limit=200");
    house.get(who, &path).await.with(200).as_array().unwrap().clone()
}

fn started(seen: &[Sse], question: &Value) -> usize {
    seen.iter().filter(|e| run_is("started")(e) && e.data["messageId"] == question["id"]).count()
}

async fn answered(events: &mut Events, question: &Value) -> Vec<Sse> {
    events.until(|e| e.name == "message" && e.data["reply_to"] == question["id"]).await
}

/// A question whose answer has begun, and the id of the message that it will be.
async fn begun(house: &House, who: &Person, id: &str, events: &mut Events) -> (Value, Value) {
    let question = house.say(who, id, "@symbia wait").await;
    let seen = events.until(|e| e.name == "message:delta").await;
    (question, seen.last().unwrap().data["messageId"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_answered_while_it_is_paused_and_the_open_question_afterwards() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let id = house.talk(&ada, &[ASSISTANT]).await;
    let mut events = house.follow(&ada, &id, "latest").await;
    let given_up = house.say(&ada, &id, "@symbia wait").await;
    events.until(|e| e.name == "message:delta").await;

    let paused = signal(&house, &ada, &id, json!({ "event": "stream.pause", "reason": "reading" })).await.with(201);
    assert_eq!((&paused["content"], &paused["content_type"]), (&json!("stream.pause"), &json!("event")));
    assert_eq!((&paused["priority"], &paused["interruptible"]), (&json!("high"), &json!(false)));
    let control = &paused["metadata"]["control"];
    assert_eq!((&control["event"], &control["reason"]), (&json!("stream.pause"), &json!("reading")));
    assert!(control["effectiveAt"].is_string() && control.get("target").is_none(), "{control}");
    let seen = events.until(run_is("cancelled")).await;
    assert_eq!(seen.last().unwrap().data["reason"], "stream.pause");

    let question = house.say(&ada, &id, "count to three").await;
    signal(&house, &ada, &id, json!({ "event": "resume" })).await.with(201);
    let seen = answered(&mut events, &question).await;
    assert_eq!((started(&seen, &question), started(&seen, &given_up)), (1, 0));
    let resumed = seen.iter().position(|e| e.data["content"] == "stream.resume").unwrap();
    assert!(seen[..resumed].iter().all(|e| e.name != "message:delta"), "nothing is said in the pause: {seen:?}");
    assert_eq!(seen.last().unwrap().data["content"], "one two three");
    assert_eq!(texts(&seen, "control:recorded", "content").last().map(String::as_str), Some("stream.resume"));

    // Resumed once more, nothing is open.
    signal(&house, &ada, &id, json!({ "event": "resume" })).await.with(201);
    let next = house.say(&ada, &id, "help").await;
    answered(&mut events, &next).await;
    // An event may be told before the read model has it.
    let said =
        eventually("all of them", || async { Some(messages(&house, &ada, &id).await).filter(|said| said.len() == 8) })
            .await;
    let sequences: Vec<u64> = said.iter().filter_map(|m| m["sequence"].as_u64()).collect();
    assert_eq!(sequences, (1..=8).collect::<Vec<_>>(), "signals have their places: {said:?}");
    let answers = said.iter().filter(|m| m["sender_id"] == ASSISTANT).count();
    assert_eq!(answers, 2);
    house.read_models_are_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_changes_who_answers_and_an_address_still_counts() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let id = house.talk(&ada, &[ASSISTANT]).await;
    let mut events = house.follow(&ada, &id, "latest").await;
    let question = house.say(&ada, &id, "@symbia wait").await;
    events.until(|e| e.name == "message:delta").await;

    let route = json!({ "event": "stream.route", "target": "assistant:nobody" });
    let routed = signal(&house, &ada, &id, route).await.with(201);
    let target = json!({ "principalId": "assistant:nobody", "principalType": "agent" });
    assert_eq!(routed["metadata"]["control"]["target"], target);
    let seen = answered(&mut events, &question).await;
    assert_eq!(seen.last().unwrap().data["sender_id"], "assistant:nobody");
    assert!(seen.iter().any(|e| run_is("cancelled")(e) && e.data["reason"] == "stream.route"), "{seen:?}");
    let next = house.say(&ada, &id, "help").await;
    assert_eq!(answered(&mut events, &next).await.last().unwrap().data["sender_id"], "assistant:nobody");
    let addressed = house.say(&ada, &id, "@symbia count").await;
    let seen = answered(&mut events, &addressed).await;
    assert_eq!(seen.last().unwrap().data["sender_id"], ASSISTANT);

    // Decided again from the log, the routed runs come out the same.
    for message in messages(&house, &ada, &id).await {
        let Some(run) = message["run_id"].as_str() else { continue };
        let (client, secrets) = (&house.platform.nats, &house.platform.secrets);
        let replayed = symbia_workers::assistants::replay(client, &house.keys, secrets, run).await.unwrap();
        assert!(replayed.replay.divergences.is_empty(), "{run}: {:?}", replayed.replay.divergences);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handed_off_to_a_person_assistants_are_silent_until_it_is_resumed() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let grace = house.colleague(&ada, "grace").await;
    let id = house.talk(&ada, &[&grace.id, ASSISTANT]).await;
    let mut events = house.follow(&ada, &id, "latest").await;
    let handoff = json!({ "event": "handoff", "target": { "principalId": grace.id } });
    signal(&house, &ada, &id, handoff).await.with(201);
    let unanswered = house.say(&ada, &id, "help").await;
    signal(&house, &ada, &id, json!({ "event": "resume" })).await.with(201);
    let question = house.say(&ada, &id, "help").await;
    let seen = answered(&mut events, &question).await;
    assert_eq!((started(&seen, &unanswered), started(&seen, &question)), (0, 1));
    assert!(seen.iter().any(|e| e.name == "conversation:handed_off" && e.data["assistantsMuted"] == true));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_urgent_takes_the_place_of_what_may_be_interrupted() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let grace = house.colleague(&ada, "grace").await;
    let id = house.talk(&ada, &[&grace.id, ASSISTANT]).await;
    let mut events = house.follow(&ada, &id, "latest").await;
    let path = format!("/api/conversations/{id}/messages");
    let firm = json!({ "content": "@symbia wait", "interruptible": false });
    let firm = house.post(&grace, &path, firm).await.with(201);
    events.until(|e| e.name == "message:delta").await;
    let slow = house.say(&ada, &id, "@symbia wait").await;
    events.until(|e| e.name == "message:delta").await;
    let urgent = json!({ "content": "@symbia count", "priority": "high" });
    let urgent = house.post(&ada, &path, urgent).await.with(201);
    let seen = answered(&mut events, &urgent).await;
    let given_up: Vec<_> =
        seen.iter().filter(|e| run_is("cancelled")(e)).map(|e| e.data["messageId"].clone()).collect();
    assert_eq!(given_up, [slow["id"].clone()], "{seen:?}");
    // Whoever leads gives up another's.
    let done = signal(&house, &ada, &id, json!({ "event": "cancel" })).await.with(201);
    assert_eq!(done["applied"], true);
    let seen = events.until(run_is("cancelled")).await;
    assert_eq!(seen.last().unwrap().data["messageId"], firm["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_before_a_preemption_stays_and_a_cancellation_leaves_nothing_unless_asked() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let id = house.talk(&ada, &[ASSISTANT]).await;
    let mut events = house.follow(&ada, &id, "latest").await;
    let (question, promised) = begun(&house, &ada, &id, &mut events).await;
    let preempted = signal(&house, &ada, &id, json!({ "event": "preempt" })).await.with(201);
    let seen = answered(&mut events, &question).await;
    let partial = &seen.last().unwrap().data;
    assert_eq!((&partial["id"], &partial["content"]), (&promised, &json!("one")));
    assert_eq!((&partial["preempted_by"], &partial["sender_id"]), (&preempted["id"], &json!(ASSISTANT)));
    assert_eq!(partial["metadata"]["partial"], true);

    let (question, promised) = begun(&house, &ada, &id, &mut events).await;
    let keep = json!({ "event": "cancel", "metadata": { "keepPartial": true } });
    signal(&house, &ada, &id, keep).await.with(201);
    let seen = answered(&mut events, &question).await;
    let partial = &seen.last().unwrap().data;
    assert_eq!((&partial["id"], &partial["content"]), (&promised, &json!("one")));
    assert_eq!(partial["preempted_by"], Value::Null);

    // What is urgent has the same effect.
    let (slow, _) = begun(&house, &ada, &id, &mut events).await;
    let urgent = json!({ "content": "@symbia count", "priority": "high" });
    let urgent = house.post(&ada, &format!("/api/conversations/{id}/messages"), urgent).await.with(201);
    let seen = answered(&mut events, &slow).await;
    assert_eq!(seen.last().unwrap().data["preempted_by"], urgent["id"]);

    let (dropped, _) = begun(&house, &ada, &id, &mut events).await;
    signal(&house, &ada, &id, json!({ "event": "cancel" })).await.with(201);
    events.until(run_is("cancelled")).await;
    let last = house.say(&ada, &id, "@symbia count").await;
    answered(&mut events, &last).await;
    let said = messages(&house, &ada, &id).await;
    assert!(!said.iter().any(|m| m["reply_to"] == dropped["id"]), "nothing of it stays: {said:?}");
    let sequences: Vec<u64> = said.iter().filter_map(|m| m["sequence"].as_u64()).collect();
    assert_eq!(sequences, (1..=sequences.len() as u64).collect::<Vec<_>>());
    house.read_models_are_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_signal_is_refused_and_nothing_is_recorded() {
    let house = House::open().await;
    let (ada, eve) = (house.register("ada").await, house.register("eve").await);
    let (grace, joan) = (house.colleague(&ada, "grace").await, house.colleague(&ada, "joan").await);
    let id = house.talk(&ada, &[&grace.id, ASSISTANT]).await;
    for (event, needed) in [("pause", "cap:messaging.interrupt"), ("route", "cap:messaging.route")] {
        let body = json!({ "event": event, "target": ASSISTANT });
        let refused = signal(&house, &grace, &id, body.clone()).await;
        assert_eq!(refused.refused(), (403, "INSUFFICIENT_ENTITLEMENT"));
        assert_eq!(refused.body["requiredEntitlement"], needed);
        assert_eq!(signal(&house, &joan, &id, body.clone()).await.refused(), (403, "NOT_PARTICIPANT"));
        assert_eq!(signal(&house, &eve, &id, body).await.refused(), (404, "CONVERSATION_NOT_FOUND"));
    }
    for (body, refused) in [
        (json!({}), (400, "VALIDATION_FAILED")),
        (json!({ "event": "message:new" }), (400, "VALIDATION_FAILED")),
        (json!({ "event": "route" }), (400, "VALIDATION_FAILED")),
        (json!({ "event": "route", "target": grace.id }), (400, "VALIDATION_FAILED")),
        (json!({ "event": "handoff", "target": joan.id }), (404, "NOT_FOUND")),
        (json!({ "event": "priority" }), (400, "VALIDATION_FAILED")),
        (json!({ "event": "pause", "metadata": [] }), (400, "VALIDATION_FAILED")),
    ] {
        assert_eq!(signal(&house, &ada, &id, body.clone()).await.refused(), refused, "{body}");
    }
    assert!(messages(&house, &ada, &id).await.is_empty());
}
