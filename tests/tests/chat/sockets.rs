//! Conversations over Socket.IO: what is said and done in one socket shows in the others, and only there.

use serde_json::{Value, json};
use symbia_api::http::{rate::Quota, server::ServerConfig};
use symbia_commands::Actor;
use symbia_events::Service;
use symbia_tests::socketio::{Options, SocketClient, Told};

use super::stage::{House, Person, eventually};

fn named<'t>(told: &'t [Told], name: &str) -> Vec<&'t Value> {
    told.iter().filter(|t| t.name == name).map(|t| &t.data).collect()
}

async fn said(socket: &SocketClient, conversation: &str, content: &str) -> Value {
    let message = json!({ "conversationId": conversation, "content": content });
    socket.call("message:send", &[message]).await.unwrap()
}

/// Two people in a group, each with a socket.
async fn two(house: &House) -> (Person, Person, String, SocketClient, SocketClient) {
    let ada = house.register("ada").await;
    let grace = house.colleague(&ada, "grace").await;
    let id = house.talk(&ada, &[&grace.id]).await;
    let (hers, graces) = (house.socket(&ada).await, house.socket(&grace).await);
    (ada, grace, id, hers, graces)
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_refused_and_every_credential_counts() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let base = house.base(Service::Messaging).to_owned();
    let refused = async |options: Options| match SocketClient::connect(&base, options).await {
        Ok(_) => "let in".to_owned(),
        Err(error) => error.to_string(),
    };
    let bearer = |token: &str| vec![("authorization", format!("Bearer {token}"))];
    for auth in [json!(null), json!({}), json!({ "token": null, "apiKey": null }), json!({ "token": "nonsense" })] {
        assert_eq!(refused(Options { auth, ..Options::default() }).await, "Authentication required");
    }
    let forged = Options { auth: json!({ "token": "nonsense" }), headers: bearer(&ada.token), ..Options::default() };
    assert_eq!(refused(forged).await, "Authentication required", "the handshake counts first");
    let elsewhere = Options {
        auth: json!({ "token": ada.token }),
        headers: vec![("origin", "https://elsewhere.example".to_owned())],
        ..Options::default()
    };
    // Without a list of pages, none is refused here; cookies of such a page would not be sent.
    assert_eq!(refused(elsewhere).await, "let in");
    for options in [
        Options { auth: json!({ "token": ada.token }), ..Options::default() },
        Options { auth: json!({ "token": null }), headers: bearer(&ada.token), ..Options::default() },
        Options { headers: vec![("cookie", format!("a=b; token={}", ada.token))], ..Options::default() },
        Options { headers: vec![("cookie", format!("symbia_session={}", ada.token))], ..Options::default() },
    ] {
        let mut socket = SocketClient::connect(&base, options).await.unwrap();
        assert!(socket.event("opened").await.unwrap().data["position"].as_str().unwrap().starts_with("messaging:"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_has_more_sockets_than_are_allowed() {
    let house = House::open().await;
    let (ada, grace) = (house.register("ada").await, house.register("grace").await);
    let mut config = ServerConfig::default();
    config.sockets.per_principal = 2;
    let base = house.another_with(config).await;
    let (first, second) = (house.socket_at(&base, &ada, None).await, house.socket_at(&base, &ada, None).await);
    let refused = SocketClient::open(&base, &ada.token, None).await.err().expect("one more is refused");
    assert_eq!(refused.to_string(), "Too many connections: 2 are open already, close one first");
    let others = house.socket_at(&base, &grace, None).await;
    drop(first);
    eventually("a seat is free again", || async { SocketClient::open(&base, &ada.token, None).await.ok() }).await;
    drop((second, others));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_edited_deleted_and_signalled_shows_in_every_socket_of_the_room() {
    let house = House::open().await;
    let (ada, _, id, hers, mut graces) = two(&house).await;
    let join = hers.call("join:conversation", &[json!(id)]).await.unwrap();
    assert_eq!((&join["success"], &join["lastSequence"]), (&json!(true), &json!(0)), "{join}");

    let sent = said(&hers, &id, "helo").await;
    let message = sent["message"]["id"].clone();
    assert_eq!((&sent["success"], &sent["message"]["sender_id"]), (&json!(true), &json!(ada.id)), "{sent}");
    let edit = json!({ "messageId": message, "content": "hello" });
    assert_eq!(hers.call("message:edit", std::slice::from_ref(&edit)).await.unwrap()["message"]["version"], 2);
    let foreign = graces.call("message:edit", &[edit]).await.unwrap();
    assert_eq!(foreign["success"], false, "only its sender edits a message");
    assert_eq!(hers.call("message:delete", std::slice::from_ref(&message)).await.unwrap(), json!({ "success": true }));
    let pause = json!({ "conversationId": id, "event": "stream.pause", "reason": "reading" });
    let paused = hers.call("control:send", std::slice::from_ref(&pause)).await.unwrap();
    assert_eq!(paused["control"]["content_type"], "event", "{paused}");
    assert_eq!(graces.call("control:send", &[pause]).await.unwrap()["code"], "INSUFFICIENT_ENTITLEMENT");
    house.say(&ada, &id, "over REST").await;

    let told = graces.until(|t| t.data["content"] == "over REST").await.unwrap();
    let names: Vec<&str> = told.iter().filter(|t| t.position.is_some()).map(|t| t.name.as_str()).collect();
    let expected =
        ["message:new", "message:updated", "message:deleted", "stream.pause", "control:recorded", "message:new"];
    assert_eq!(names, expected);
    assert_eq!(named(&told, "message:new")[0], &sent["message"], "the row that the sender got");
    let edited = named(&told, "message:updated")[0];
    assert_eq!((&edited["content"], &edited["sender_id"]), (&json!("hello"), &json!(ada.id)), "a whole row");
    assert_eq!(named(&told, "message:deleted")[0], &json!({ "id": message, "conversationId": id }));
    let payload = named(&told, "stream.pause")[0];
    assert_eq!((&payload["event"], &payload["reason"]), (&json!("stream.pause"), &json!("reading")), "{payload}");
    assert_eq!(&paused["control"]["metadata"]["control"], payload);
    let read = json!({ "conversationId": id, "upToSequence": 3 });
    assert_eq!(graces.call("conversation:read", &[read]).await.unwrap()["reading"]["read_sequence"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_said_is_refused_and_stored_nowhere() {
    let house = House::open().await;
    let (ada, grace, id, hers, _) = two(&house).await;
    let eve = house.register("eve").await;
    let eves = house.socket(&eve).await;
    let other = house.talk(&ada, &[]).await;
    let elsewhere = house.say(&ada, &other, "said elsewhere").await;
    let deep = (0..40).fold(json!(1), |inner, _| json!({ "a": inner }));
    let send = |more: Value| {
        let mut message = json!({ "conversationId": id, "content": "x" });
        message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        message
    };
    for (message, code) in [
        (send(json!({ "senderId": grace.id })), "FORGED_SENDER"),
        (send(json!({ "sender_id": "assistant:coordinator" })), "FORGED_SENDER"),
        (send(json!({ "content": "" })), "VALIDATION_FAILED"),
        (send(json!({ "contentType": "event" })), "VALIDATION_FAILED"),
        (send(json!({ "content": "x".repeat(70_000) })), "TOO_LARGE"),
        (send(json!({ "metadata": [1] })), "VALIDATION_FAILED"),
        (send(json!({ "metadata": { "x": "x".repeat(33_000) } })), "TOO_LARGE"),
        (send(json!({ "metadata": { "deep": deep } })), "VALIDATION_FAILED"),
        (send(json!({ "id": elsewhere["id"] })), "MESSAGE_ID_CONFLICT"),
        (send(json!({ "conversationId": "7d2c4a9e-3b0f-4c55-9a53-2f0f5c6f1a01" })), "NOT_PARTICIPANT"),
        (json!("no object"), "VALIDATION_FAILED"),
    ] {
        let answer = hers.call("message:send", std::slice::from_ref(&message)).await.unwrap();
        assert_eq!((&answer["success"], &answer["code"]), (&json!(false), &json!(code)), "{message} {answer}");
        assert!(!answer.to_string().contains("said elsewhere") && !answer.to_string().contains(&other), "{answer}");
    }
    for (call, argument) in [
        ("join:conversation", json!(id)),
        ("message:send", send(json!({}))),
        ("control:send", json!({ "conversationId": id, "event": "cancel" })),
        ("conversation:read", json!({ "conversationId": id })),
    ] {
        let answer = eves.call(call, &[argument]).await.unwrap();
        assert_eq!(
            answer,
            json!({ "success": false, "error": "Not a participant", "code": "NOT_PARTICIPANT" }),
            "{call}"
        );
    }
    assert_eq!(eves.call("watch:conversation", &[json!(id)]).await.unwrap()["success"], false);
    assert_eq!(eves.call("no:such", &[]).await.unwrap()["code"], "NOT_FOUND");
    assert_eq!(hers.call("join:conversation", &[json!(7)]).await.unwrap()["code"], "VALIDATION_FAILED");
    let kept = house.get(&ada, &format!("/api/conversations/{id}/messages")).await.with(200);
    assert_eq!(kept, json!([]));
    // Who writes in another's name is in the audit trail.
    let trail = format!("/api/orgs/{}/audit-logs?action=access.denied", ada.org);
    eventually("it is noted", || async {
        let trail = house.get(&ada, &trail).await.body;
        trail.to_string().contains("FORGED_SENDER").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_sent_again_is_told_and_stored_once_whichever_way_it_comes() {
    let house = House::open().await;
    let (ada, _, id, hers, mut graces) = two(&house).await;
    let message = json!({ "conversationId": id, "content": "once", "id": "0b5b8a1e-7c0e-4a53-9d5e-3c8a2f6f1a02" });
    let sent = hers.call("message:send", std::slice::from_ref(&message)).await.unwrap()["message"].clone();
    for _ in 0..2 {
        let again = hers.call("message:send", std::slice::from_ref(&message)).await.unwrap();
        assert_eq!((&again["success"], &again["message"]), (&json!(true), &sent));
        let path = format!("/api/conversations/{id}/messages");
        assert_eq!(house.post(&ada, &path, message.clone()).await.with(201), sent, "also not edited: {sent}");
    }
    house.say(&ada, &id, "last").await;
    let told = graces.until(|t| t.data["content"] == "last").await.unwrap();
    let sequences: Vec<_> = named(&told, "message:new").iter().map(|m| m["sequence"].clone()).collect();
    assert_eq!(sequences, [1, 2]);
    house.read_models_are_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_are_limited_by_whichever_way_they_come() {
    let limit = Quota { burst: 20, per: std::time::Duration::from_secs(3600) };
    let house = House::with_flood_limit(limit).await;
    let (ada, grace, id, hers, _) = two(&house).await;
    let path = format!("/api/conversations/{id}/messages");
    for n in 0..10 {
        house.say(&ada, &id, &format!("REST {n}")).await;
        assert_eq!(said(&hers, &id, &format!("socket {n}")).await["success"], true);
    }
    assert_eq!(said(&hers, &id, "too much").await["code"], "RATE_LIMIT_EXCEEDED");
    assert_eq!(house.post(&ada, &path, json!({ "content": "too much" })).await.refused(), (429, "RATE_LIMIT_EXCEEDED"));
    // Others, and other conversations, are not concerned.
    house.say(&grace, &id, "still here").await;
    let other = house.talk(&ada, &[]).await;
    house.say(&ada, &other, "elsewhere").await;
    let trail = format!("/api/orgs/{}/audit-logs?action=access.denied", ada.org);
    eventually("the flood is noted", || async {
        house.get(&ada, &trail).await.body.to_string().contains("RATE_LIMIT_EXCEEDED").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_is_told_at_once_and_who_is_removed_hears_no_more() {
    let house = House::open().await;
    let (ada, grace, id, hers, mut graces) = two(&house).await;
    let mary = house.colleague(&ada, "mary").await;
    let mut marys = house.socket(&mary).await;
    let members = format!("/api/conversations/{id}/participants");
    let group = house.talk(&ada, &[&grace.id, "assistant:coordinator"]).await;
    let members_of_group = members.replace(&id, &group);
    house.post(&ada, &members_of_group, json!({ "userId": mary.id })).await.with(201);
    said(&hers, &group, "welcome").await;
    let told = marys.until(|t| t.data["content"] == "welcome").await.unwrap();
    assert_eq!(named(&told, "participant:added")[0]["user_id"], mary.id.as_str());

    let role = json!({ "role": "admin" });
    let member = format!("{members_of_group}/{}", grace.id);
    house.ask(&ada, "PATCH", &member, &[], Some(role)).await.with(200);
    house.ask(&ada, "DELETE", &member, &[], None).await.with(204);
    said(&hers, &group, "not for grace").await;
    assert_eq!(said(&graces, &group, "x").await["error"], "Not a participant");
    assert_eq!(graces.call("join:conversation", &[json!(group)]).await.unwrap()["error"], "Not a participant");
    said(&hers, &id, "the last").await;
    let told = graces.until(|t| t.data["content"] == "the last").await.unwrap();
    let changed = named(&told, "participant:role_changed")[0];
    assert_eq!((&changed["role"], &changed["user_id"]), (&json!("admin"), &json!(grace.id)), "a whole row");
    assert_eq!(named(&told, "participant:removed")[0]["userId"], grace.id.as_str());
    assert!(told.iter().all(|t| t.data["content"] != "not for grace"), "{told:?}");

    house.ask(&ada, "DELETE", &format!("/api/conversations/{group}"), &[], None).await.with(204);
    let ended = marys.event("conversation:deleted").await.unwrap();
    assert_eq!(ended.data, json!({ "conversationId": group }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_ended_ends_its_sockets() {
    let house = House::open().await;
    let (_, grace, id, hers, mut graces) = two(&house).await;
    house.ask(&grace, "POST", "/api/auth/logout", &[], None).await.with(200);
    let told = graces.until(|t| t.name == "disconnect").await.unwrap();
    assert_eq!(named(&told, "close")[0]["code"], 4001);
    assert!(SocketClient::open(house.base(Service::Messaging), &grace.token, None).await.is_err());
    said(&hers, &id, "alone").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_has_leaked_ends_the_sockets_of_what_it_signed() {
    let house = House::open().await;
    house.platform.ensure_signing_key().await.unwrap();
    let (_, grace, _, _, mut graces) = two(&house).await;
    house.platform.rotate_signing_key(&Actor::service("identity"), true).await.unwrap();
    let told = graces.until(|t| t.name == "disconnect").await.unwrap();
    assert_eq!(named(&told, "close")[0]["code"], 4001);
    assert!(SocketClient::open(house.base(Service::Messaging), &grace.token, None).await.is_err());
    assert_eq!(house.ask(&grace, "GET", "/api/conversations", &[], None).await.refused(), (401, "TOKEN_INVALID"));
}

#[tokio::test(flavor = "multi_thread")]
async fn typing_and_presence_show_to_those_concerned_in_every_process() {
    let house = House::open().await;
    let (ada, grace, id, hers, _) = two(&house).await;
    let elsewhere = house.another().await;
    let mut graces = house.socket_at(&elsewhere, &grace, None).await;
    let eve = house.register("eve").await;
    let mut eves = house.socket(&eve).await;

    hers.emit("typing:start", &[json!(id)]);
    let typing = graces.event("typing:started").await.unwrap();
    assert_eq!(typing.data, json!({ "conversationId": id, "userId": ada.id, "userType": "user" }));
    // It ends by itself, and with what is said.
    assert_eq!(graces.event("typing:stopped").await.unwrap().data["userId"], ada.id.as_str());
    hers.emit("typing:start", &[json!(id)]);
    graces.event("typing:started").await.unwrap();
    said(&hers, &id, "done").await;
    graces.event("typing:stopped").await.unwrap();

    hers.emit("presence:update", &[json!("busy")]);
    let changed = graces.until(|t| t.data["status"] == "busy").await.unwrap().pop().unwrap();
    assert_eq!((&changed.name, &changed.data["userId"]), (&"presence:changed".to_owned(), &json!(ada.id)));
    assert_eq!(hers.call("presence:update", &[json!("asleep")]).await.unwrap()["success"], false);
    let join = graces.call("join:conversation", &[json!(id)]).await.unwrap();
    assert!(join["online"].as_array().unwrap().contains(&json!(ada.id)), "{join}");
    drop(hers);
    let gone = graces.until(|t| t.data["status"] == "offline").await.unwrap();
    let gone = named(&gone, "presence:changed").pop().unwrap().clone();
    assert_eq!(gone["userId"], ada.id.as_str());

    // Another organization has heard none of it.
    let own = house.talk(&eve, &[]).await;
    said(&eves, &own, "the last").await;
    let told = eves.until(|t| t.data["content"] == "the last").await.unwrap();
    let foreign = |t: &Told| t.data.to_string().contains(&ada.id) || t.data.to_string().contains(&id);
    assert!(!told.iter().any(foreign), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_comes_in_pieces_before_the_message() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let id = house.talk(&ada, &["assistant:coordinator"]).await;
    let mut hers = house.socket(&ada).await;
    said(&hers, &id, "count").await;
    let told = hers.until(|t| t.name == "message:new" && t.data["sender_type"] == "agent").await.unwrap();
    let (answer, pieces) = (&told.last().unwrap().data, named(&told, "message:delta"));
    let text: String = pieces.iter().map(|piece| piece["text"].as_str().unwrap_or_default()).collect();
    assert_eq!((text.as_str(), &answer["content"]), ("one two three", &json!("one two three")));
    assert!(pieces.iter().all(|piece| piece["messageId"] == answer["id"] && piece["senderId"] == answer["sender_id"]));
    let turns: Vec<_> = named(&told, "turn:state").into_iter().map(|turn| turn["state"].as_str().unwrap()).collect();
    assert_eq!(turns[..2], ["pending", "streaming"]);
    let done = hers.event("turn:state").await.unwrap();
    assert_eq!(done.data["state"], "completed", "{done:?}");
}
