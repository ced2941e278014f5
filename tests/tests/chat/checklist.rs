//! Rows of the acceptance checklist that are about many things at once (messaging.md §16).

use futures::{StreamExt, stream};
use serde_json::{Value, json};
use symbia_events::Service;
use symbia_tests::socketio::SocketClient;

use super::stage::House;

fn sequences(messages: &Value) -> Vec<u64> {
    messages.as_array().unwrap().iter().filter_map(|m| m["sequence"].as_u64()).collect()
}

/// The messages that a socket is told, up to a sequence: id and sequence, as they come.
async fn told(socket: &mut SocketClient, last: u64) -> Vec<(String, u64)> {
    let told = socket.until(|t| t.name == "message:new" && t.data["sequence"].as_u64() == Some(last)).await.unwrap();
    let messages = told.iter().filter(|t| t.name == "message:new");
    messages.map(|t| (t.data["id"].as_str().unwrap().to_owned(), t.data["sequence"].as_u64().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_messages_at_once_over_two_processes_have_one_dense_order_for_everybody() {
    const MESSAGES: u64 = 1000;
    let house = House::open().await;
    let ada = house.register("ada").await;
    let grace = house.colleague(&ada, "grace").await;
    let id = house.talk(&ada, &[&grace.id]).await;
    let bases = [house.base(Service::Messaging).to_owned(), house.another().await];
    let mut listening = Vec::new();
    for base in &bases {
        for who in [&ada, &grace] {
            listening.push(house.socket_at(base, who, None).await);
        }
    }
    let writers = [house.socket_at(&bases[0], &ada, None).await, house.socket_at(&bases[1], &grace, None).await];
    let (http, tokens) = (reqwest::Client::new(), [&ada.token, &grace.token]);
    let sent = stream::iter(0..MESSAGES).map(|n| {
        let side = usize::from(n % 2 == 1);
        let message = json!({ "conversationId": id, "content": format!("number {n}") });
        let url = format!("{}/api/conversations/{id}/messages", bases[side]);
        // Half over REST, half over sockets, at both processes. A socket's calls wait for one another, 64 at most.
        let rest = (n % 4 < 2).then(|| http.post(url).bearer_auth(tokens[side]).json(&message));
        let writer = &writers[side];
        async move {
            let answer: Value = match rest {
                Some(request) => request.send().await.unwrap().json().await.unwrap(),
                None => writer.call("message:send", &[message]).await.unwrap()["message"].clone(),
            };
            answer["sequence"].as_u64().unwrap_or_else(|| panic!("{answer}"))
        }
    });
    let mut sent: Vec<u64> = sent.buffer_unordered(64).collect().await;
    sent.sort_unstable();
    let expected: Vec<u64> = (1..=MESSAGES).collect();
    assert_eq!(sent, expected);
    let mut orders = Vec::new();
    for socket in &mut listening {
        orders.push(told(socket, MESSAGES).await);
    }
    assert_eq!(orders[0].iter().map(|(_, sequence)| *sequence).collect::<Vec<_>>(), expected);
    assert!(orders.iter().all(|order| *order == orders[0]), "everybody sees the same order");
    house.read_models_are_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_the_past_adjoin_without_gap_or_overlap() {
    const MESSAGES: u64 = 130;
    let house = House::open().await;
    let ada = house.register("ada").await;
    let id = house.talk(&ada, &[]).await;
    let path = format!("/api/conversations/{id}/messages");
    // At once, so that they are microseconds apart.
    let written = stream::iter(0..MESSAGES).map(|_| house.say(&ada, &id, "said"));
    written.buffer_unordered(32).collect::<Vec<Value>>().await;
    let newest = house.get(&ada, &path).await.with(200);
    assert_eq!(sequences(&newest), (MESSAGES - 49..=MESSAGES).collect::<Vec<_>>(), "the newest fifty, in order");
    for by in ["id", "sequence", "created_at"] {
        let (mut page, mut seen) = (newest.clone(), sequences(&newest));
        while let Some(first) = page.as_array().unwrap().first() {
            let before = match first[by].as_str() {
                Some(text) => text.to_owned(),
                None => format!("seq:{}", first[by]),
            };
            page = house.get(&ada, &format!("{path}?before={before}&limit=33")).await.with(200);
            seen.splice(0..0, sequences(&page));
        }
        assert_eq!(seen, (1..=MESSAGES).collect::<Vec<_>>(), "{by}");
    }
    // One at a time, from the first on.
    let (mut after, mut seen) = ("seq:0".to_owned(), Vec::new());
    let since = async |after: &str| house.get(&ada, &format!("{path}?after={after}&limit=1")).await.with(200);
    loop {
        let page = since(&after).await;
        let Some(last) = page.as_array().unwrap().last() else { break };
        seen.extend(sequences(&page));
        after = last["created_at"].as_str().unwrap().to_owned();
    }
    assert_eq!(seen, (1..=MESSAGES).collect::<Vec<_>>(), "each once, by times that are shown");
    let signal = json!({ "event": "stream.pause" });
    house.post(&ada, &format!("/api/conversations/{id}/control"), signal).await.with(201);
    house.say(&ada, &id, "more").await;
    for expected in [MESSAGES + 1, MESSAGES + 2] {
        let page = since(&after).await;
        assert_eq!(sequences(&page), [expected], "who has the newest gets what is newer, and nothing again");
        after = page[0]["created_at"].as_str().unwrap().to_owned();
    }
    assert_eq!(since(&after).await, json!([]));
    house.read_models_are_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_opened_a_moment_ago_is_written_to_over_a_socket_that_is_older() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let socket = house.socket(&ada).await;
    for _ in 0..5 {
        let id = house.talk(&ada, &[]).await;
        assert_eq!(socket.call("join:conversation", &[json!(id)]).await.unwrap()["success"], true);
        let message = json!({ "conversationId": id, "content": "first" });
        assert_eq!(socket.call("message:send", &[message]).await.unwrap()["message"]["sequence"], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_of_the_client_library_is_answered_as_it_expects() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let grace = house.colleague(&ada, "grace").await;
    let scoped = [("x-org-id", ada.org.as_str())];
    // createConversation, getConversation, listConversations, updateConversation
    let wish = json!({ "type": "group", "name": "Billing", "participants": [{ "userId": "assistant:x", "userType": "agent" }] });
    let opened = house.ask(&ada, "POST", "/api/conversations", &scoped, Some(wish)).await.with(201);
    let at = |rest: &str| format!("/api/conversations/{}{rest}", opened["id"].as_str().unwrap());
    assert_eq!(opened["participants"].as_array().map(Vec::len), Some(2), "{opened}");
    assert_eq!(house.get(&ada, &at("")).await.with(200)["participants"], opened["participants"]);
    assert_eq!(house.get(&ada, "/api/conversations/00000000-0000-4000-8000-000000000000").await.status, 404);
    let listed =
        house.ask(&ada, "GET", &format!("/api/conversations?orgId={}", ada.org), &scoped, None).await.with(200);
    assert_eq!((listed.as_array().map(Vec::len), &listed[0]["id"]), (Some(1), &opened["id"]));
    let renamed = house.ask(&ada, "PATCH", &at(""), &[], Some(json!({ "name": "Invoices" }))).await.with(200);
    assert_eq!(renamed["name"], "Invoices");
    // addParticipant, joinConversation, leaveConversation, removeParticipant
    let member = json!({ "userId": grace.id, "userType": "user" });
    let added = house.post(&ada, &at("/participants"), member).await.with(201);
    assert_eq!((&added["user_id"], &added["role"]), (&json!(grace.id), &json!("member")));
    house.ask(&grace, "POST", &at("/leave"), &[], None).await.with(204);
    house.ask(&grace, "POST", &at("/join"), &[], None).await.with(201);
    house.ask(&ada, "DELETE", &at("/participants/assistant:x"), &[], None).await.with(204);
    // sendMessage, getMessages, sendControl
    let said = json!({ "content": "first", "contentType": "markdown", "metadata": { "a": 1 }, "runId": "run_msg_1",
        "traceId": "t1", "priority": "high", "interruptible": false });
    let said = house.post(&grace, &at("/messages"), said).await.with(201);
    let expected = json!({ "conversation_id": opened["id"], "sender_id": grace.id, "sender_type": "user", "content": "first",
        "content_type": "markdown", "reply_to": null, "org_id": ada.org, "run_id": "run_msg_1", "trace_id": "t1",
        "sequence": 1, "priority": "high", "interruptible": false, "preempted_by": null, "updated_at": null,
        "deleted_at": null, "metadata": { "a": 1 } });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&said[field], value, "{field}");
    }
    let answer = json!({ "content": "second", "replyTo": said["id"] });
    house.post(&ada, &at("/messages"), answer).await.with(201);
    let sent = said["created_at"].as_str().unwrap();
    let newer = house.get(&ada, &at(&format!("/messages?limit=10&after={sent}"))).await.with(200);
    let newer: Vec<&Value> = newer.as_array().unwrap().iter().map(|m| &m["content"]).collect();
    assert_eq!(newer, ["second"]);
    let signal = json!({ "event": "stream.pause", "reason": "reading", "metadata": {}, "traceId": "t2" });
    let row = house.post(&ada, &at("/control"), signal).await.with(201);
    assert_eq!(
        (&row["content"], &row["content_type"], &row["sequence"]),
        (&json!("stream.pause"), &json!("event"), &json!(3))
    );
    assert_eq!(row["metadata"]["control"]["reason"], "reading");
    // deleteConversation
    house.ask(&ada, "DELETE", &at(""), &[], None).await.with(204);
    assert_eq!(house.get(&ada, &at("")).await.status, 404);
}
