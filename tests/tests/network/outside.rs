//! Agents that live outside, and conversations: they are told what they are asked, and answer (messaging.md §8.12, 8.13, §16
//! rows 9 and 10).

use std::sync::Arc;

use serde_json::{Value, json};
use symbia_api::{
    feed::{Feed, FeedConfig, PrivateConversations},
    http::{Health, server::ServerConfig},
    messaging,
};
use symbia_events::{KeyRing, Service, messaging::webhook_signature};
use symbia_nats::bus::CommandBus;
use symbia_projections::{
    ProjectorHandle, ProjectorOptions, ReadPool, assistants::Assistants, fixed_keys, messaging::Messaging, migrate,
};
use symbia_tests::socketio::SocketClient;
use symbia_workers::{
    assistants::{Outside, RuleEngine},
    content_keys::ContentKeys,
    reactor::ReactorRunner,
    sender::Sender,
};
use tokio::net::TcpListener;

use crate::{
    identity::{Answer, Person, eventually},
    stage::{Mesh, silent},
};

const AGENT: &str = "assistant:billing";

/// Conversations beside a mesh.
struct Talks<'m> {
    mesh: &'m Mesh,
    base: String,
    http: reqwest::Client,
    _projector: ProjectorHandle,
}

impl<'m> Talks<'m> {
    async fn open(mesh: &'m Mesh) -> Self {
        let house = &mesh.house;
        let (nats, keys, secrets) =
            (house.platform.nats.clone(), Arc::clone(&house.keys), house.platform.secrets.clone());
        let projection = Arc::new(Messaging::new(secrets.clone()));
        migrate(&house.pool, &[&*projection, &Assistants]).await.unwrap();
        let ring = fixed_keys(KeyRing::clone(&keys));
        let projector = ProjectorOptions::new(house.pool.clone(), house.jetstream.clone(), ring.clone());
        let projector = projector.build(projection).start();

        let sender = Sender::new(CommandBus::open(nats.clone()).await.unwrap(), Arc::clone(&keys));
        let content = ContentKeys::new(secrets);
        let reader = ReadPool::new(house.servers.database_url().parse().unwrap(), 4);
        let outside = Outside::new(reader, Arc::clone(&keys), content.clone(), sender.clone());
        let engine = RuleEngine::open(nats.clone(), Arc::clone(&keys), sender, content).await.unwrap();
        let engine = Arc::new(engine.telling(outside));
        tokio::spawn(ReactorRunner::new(nats.clone(), keys, engine).run(mesh.stop.clone()));

        let feed = Feed::new(nats, ring, Arc::new(PrivateConversations), FeedConfig::default());
        let health = Health::new(Service::Messaging, "test");
        health.set_ready(true);
        let service = messaging::service(house.platform.clone(), &feed, health, ServerConfig::default()).build();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(service.serve(listener, mesh.stop.clone()));
        Talks { mesh, base, http: reqwest::Client::new(), _projector: projector }
    }

    async fn ask(&self, method: &str, path: &str, who: &Person, body: Option<Value>) -> Answer {
        let request = self.http.request(method.parse().unwrap(), format!("{}{path}", self.base));
        let request = request.bearer_auth(&who.token).header("x-org-id", &who.org);
        let request = if let Some(body) = body { request.json(&body) } else { request };
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        Answer { status, headers, body: answer.json().await.unwrap_or_default() }
    }

    /// A conversation with agents.
    async fn with(&self, who: &Person, agents: &[&str]) -> String {
        let body = json!({ "type": "group", "name": "Talk", "orgId": who.org, "participantIds": agents });
        let opened = self.ask("POST", "/api/conversations", who, Some(body)).await;
        assert_eq!(opened.status, 201, "{}", opened.body);
        opened.body["id"].as_str().unwrap().to_owned()
    }

    async fn say(&self, who: &Person, conversation: &str, text: &str) -> String {
        let path = format!("/api/conversations/{conversation}/messages");
        let said = self.ask("POST", &path, who, Some(json!({ "content": text }))).await;
        assert_eq!(said.status, 201, "{}", said.body);
        said.body["id"].as_str().unwrap().to_owned()
    }

    /// What agents have said.
    async fn answers(&self, who: &Person, conversation: &str) -> Vec<Value> {
        let path = format!("/api/conversations/{conversation}/messages");
        let all = self.ask("GET", &path, who, None).await.ok();
        all.as_array().unwrap().iter().filter(|m| m["sender_type"] == "agent").cloned().collect()
    }

    /// The events by which somebody is told of messages.
    async fn told(&self, who: &Person) -> Vec<Value> {
        let events = self.mesh.get("/api/events?source=messaging&type=message.new", who).await;
        events["events"].as_array().unwrap().clone()
    }
}

/// An answer over the mesh.
fn response(source: &str, told: &Value, data: Value) -> Value {
    json!({ "payload": { "type": "message.response", "data": data }, "source": source, "target": "messaging",
        "runId": told["wrapper"]["runId"], "causedBy": told["wrapper"]["id"] })
}

fn assistant(id: &str) -> Value {
    let mut node = silent(id);
    node["type"] = json!("assistant");
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lives_outside_is_told_when_the_mesh_is_back_and_heard_once() {
    let mesh = Mesh::down(|_| {}).await;
    let talks = Talks::open(&mesh).await;
    let ada = mesh.house.register("ada").await;
    let agent = mesh.enrol(&ada, AGENT, &["cap:network.events.write"]).await;
    mesh.enrol(&ada, "agent:deaf", &[]).await;
    let mut socket = mesh.socket(&agent).await;
    assert_eq!(socket.call("node:register", &[assistant(AGENT)]).await.unwrap()["ok"], true);
    let id = talks.with(&ada, &[AGENT, "agent:deaf"]).await;
    let message = talks.say(&ada, &id, "Why did CANARY-invoice fail?").await;
    let waiting = eventually("it is on record", async || talks.told(&ada).await.pop()).await;
    assert_eq!(
        (&waiting["trace"]["status"], &waiting["event"]["wrapper"]["target"]),
        (&json!("pending"), &json!(AGENT))
    );
    assert!(!waiting.to_string().contains("CANARY"), "those who look after the mesh do not read conversations");

    mesh.deliver().await;
    let told = socket.event("event:received").await.unwrap().data;
    let data = &told["payload"]["data"];
    assert_eq!((&told["payload"]["type"], &data["conversationId"]), (&json!("message.new"), &json!(id)), "{told}");
    assert_eq!((&data["message"]["id"], &data["message"]["sender_id"]), (&json!(message), &json!(ada.id)), "{told}");
    assert_eq!(data["message"]["content"], "Why did CANARY-invoice fail?");
    assert_eq!(data["assistants"], json!([{ "userId": AGENT, "key": "billing", "entityId": null }]));
    assert!(!told.to_string().contains("Bearer") && data["_auth"].is_null());

    // It answers twice, as one that has died in between does.
    let answer = response(
        AGENT,
        &told,
        json!({ "conversationId": id, "assistantKey": "billing",
        "message": { "content": "No funds.", "content_type": "markdown" }, "justification": { "reason": "asked" } }),
    );
    for _ in 0..2 {
        let (event, _) = mesh.send(&agent, answer.clone()).await;
        mesh.settled(&ada, &event, "delivered").await;
    }
    let answers = talks.answers(&ada, &id).await;
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!((&answers[0]["sender_id"], &answers[0]["content"]), (&json!(AGENT), &json!("No funds.")));
    assert_eq!(answers[0]["metadata"]["_sdnJustification"]["reason"], "asked");
    assert_eq!(answers[0]["run_id"], told["wrapper"]["runId"]);
    let mut second = answer;
    second["payload"]["data"]["replyId"] = json!("2");
    second["payload"]["data"]["message"]["content"] = json!("And no account.");
    let (event, _) = mesh.send(&agent, second).await;
    mesh.settled(&ada, &event, "delivered").await;
    assert_eq!(talks.answers(&ada, &id).await.len(), 2);
    assert_eq!(talks.told(&ada).await.len(), 1, "of answers nobody is told");
    assert!(
        !mesh.get("/api/events", &ada).await.to_string().contains("No funds"),
        "what was answered is the conversation's"
    );

    // Who is silenced is not asked, and knows that it is, and when it is no longer.
    let control = format!("/api/conversations/{id}/control");
    let pause = json!({ "event": "stream.pause", "reason": "CANARY-reading", "metadata": { "x": "CANARY-not told" } });
    talks.ask("POST", &control, &ada, Some(pause)).await;
    talks.say(&ada, &id, "And now?").await;
    talks.ask("POST", &control, &ada, Some(json!({ "event": "stream.resume" }))).await;
    let mut received = Vec::new();
    for _ in 0..3 {
        received.push(socket.event("event:received").await.unwrap().data["payload"].clone());
    }
    let types: Vec<&Value> = received.iter().map(|payload| &payload["type"]).collect();
    let at =
        |wanted: &str| types.iter().position(|t| **t == wanted).unwrap_or_else(|| panic!("no {wanted}: {types:?}"));
    assert!(at("stream.pause") < at("stream.resume"), "{types:?}");
    let (paused, asked) = (&received[at("stream.pause")]["data"], &received[at("message.new")]["data"]);
    assert_eq!((&paused["event"], &paused["conversationId"]), (&json!("stream.pause"), &json!(id)), "{paused}");
    assert_eq!((&paused["reason"], &paused["assistant"]["userId"]), (&json!("CANARY-reading"), &json!(AGENT)));
    assert_eq!((&paused["issuedBy"]["principalId"], &paused["orgId"]), (&json!(ada.id), &json!(ada.org)), "{paused}");
    assert!(paused["effectiveAt"].is_string() && !paused.to_string().contains("not told"), "{paused}");
    assert_eq!(asked["message"]["content"], "And now?");
    // Told before the read model shows that it was.
    let all = eventually("by which way it was told is on record", async || {
        let all = mesh.get("/api/events", &ada).await;
        let of = |kind: &str| -> Vec<Value> {
            let events = all["events"].as_array().unwrap().iter();
            let is = events.filter(|event| event["event"]["payload"]["type"] == kind);
            is.map(|event| event["trace"]["path"][0]["transport"].clone()).collect()
        };
        let by_socket = |kind: &str| of(kind).iter().all(|transport| transport == "socket");
        let told = ["message.new", "stream.pause", "stream.resume"].map(|kind| of(kind).len()) == [2, 1, 1];
        (told && by_socket("message.new") && by_socket("stream.pause")).then_some(all)
    })
    .await;
    assert!(!all.to_string().contains("CANARY"), "those who look after the mesh do not read why");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_told_where_no_socket_is_signed_again_and_again_and_from_the_dead_letters() {
    let mesh = Mesh::open().await;
    let talks = Talks::open(&mesh).await;
    let (ada, eve) = (mesh.house.register("ada").await, mesh.house.register("eve").await);
    let agent = mesh.enrol(&ada, AGENT, &[]).await;
    let (path, wish) = (format!("/api/webhooks/{AGENT}"), json!({ "url": format!("{}/hook", mesh.inbox.base) }));
    let registered = talks.ask("PUT", &path, &agent, Some(wish.clone())).await.ok();
    let secret = registered["secret"].as_str().unwrap();
    let id = talks.with(&ada, &[AGENT]).await;
    mesh.inbox.refuse("hook", &[503]);
    talks.say(&ada, &id, "Hello?").await;
    let posted = eventually("it is told", async || mesh.inbox.of("hook").pop()).await;
    let header = |name: &str| posted.headers[name].as_str();
    let signed =
        webhook_signature(secret, header("webhook-id"), header("webhook-timestamp").parse().unwrap(), &posted.raw);
    assert_eq!(header("webhook-signature"), signed.unwrap());
    assert_eq!((&posted.body["conversationId"], &posted.body["assistant"]["userId"]), (&json!(id), &json!(AGENT)));
    assert_eq!((&posted.body["message"]["content"], &posted.body["orgId"]), (&json!("Hello?"), &json!(ada.org)));
    let trace = mesh.settled(&ada, header("webhook-id"), "delivered").await;
    assert_eq!(
        (&trace["path"][0]["attempt"], &trace["path"][0]["transport"]),
        (&json!(2), &json!("webhook")),
        "{trace}"
    );
    let cancel = json!({ "event": "stream.cancel", "reason": "enough" });
    talks.ask("POST", &format!("/api/conversations/{id}/control"), &ada, Some(cancel)).await;
    let signal = eventually("the signal is told", async || {
        mesh.inbox.of("hook").pop().filter(|posted| posted.body["type"] == "stream.cancel")
    })
    .await;
    assert_eq!((&signal.body["event"], &signal.body["reason"]), (&json!("stream.cancel"), &json!("enough")));
    assert_eq!((&signal.body["conversationId"], &signal.body["orgId"]), (&json!(id), &json!(ada.org)));
    let of = |name: &str| signal.headers[name].as_str();
    let signed = webhook_signature(secret, of("webhook-id"), of("webhook-timestamp").parse().unwrap(), &signal.raw);
    assert_eq!(of("webhook-signature"), signed.unwrap());

    let mut watching = SocketClient::open(&talks.base, &ada.token, None).await.unwrap();
    watching.event("opened").await.unwrap();
    mesh.inbox.refuse("hook", &[500; 5]);
    let message = talks.say(&ada, &id, "Still there?").await;
    let failed =
        watching.until(|t| t.name == "turn:state" && t.data["state"] == "failed").await.unwrap().pop().unwrap().data;
    assert_eq!((&failed["messageId"], &failed["assistantId"]), (&json!(message), &json!(AGENT)), "{failed}");
    assert_eq!(failed["errorCode"], "http_500");
    let event = failed["turnId"].as_str().unwrap();
    mesh.settled(&ada, event, "error").await;
    mesh.post(&format!("/api/events/{event}/redrive"), &ada, json!({})).await.ok();
    mesh.settled(&ada, event, "delivered").await;
    assert_eq!(mesh.inbox.of("hook").pop().unwrap().headers["webhook-id"], event, "the same one");

    // It is its own and its admins' to know and to choose; the secret is shown once, and lies nowhere else.
    for seen in
        [talks.ask("GET", &path, &agent, None).await.ok(), talks.ask("GET", "/api/webhooks", &ada, None).await.ok()]
    {
        assert!(seen.to_string().contains("/hook") && !seen.to_string().contains("whsec_"), "{seen}");
    }
    for (method, body) in [("GET", None), ("PUT", Some(wish.clone())), ("DELETE", None)] {
        let stranger = Person { org: ada.org.clone(), ..eve.clone() };
        assert_eq!(talks.ask(method, &path, &stranger, body.clone()).await.refused(), (403, "ORG_ACCESS_DENIED"));
        // In her own organization there is none.
        if method != "PUT" {
            assert_eq!(talks.ask(method, &path, &eve, body).await.refused(), (404, "NOT_FOUND"));
        }
    }
    let other = mesh.enrol(&ada, "assistant:other", &[]).await;
    assert_eq!(talks.ask("GET", &path, &other, None).await.refused(), (404, "NOT_FOUND"));
    assert_eq!(talks.ask("PUT", &path, &other, Some(wish.clone())).await.refused(), (403, "FORBIDDEN"));
    assert_eq!(talks.ask("GET", "/api/webhooks", &other, None).await.refused(), (403, "INSUFFICIENT_ROLE"));
    let again = talks.ask("PUT", &path, &ada, Some(wish)).await.ok();
    assert_ne!(again["secret"], secret);
    assert_eq!(talks.ask("DELETE", &path, &ada, None).await.status, 204);
    talks.say(&ada, &id, "Nobody?").await;
    talks.say(&ada, &id, "Nobody!").await;
    assert_eq!(talks.told(&ada).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_answers_in_anothers_name() {
    let mesh = Mesh::open().await;
    let talks = Talks::open(&mesh).await;
    let (ada, eve) = (mesh.house.register("ada").await, mesh.house.register("eve").await);
    let write = ["cap:network.events.write"];
    let agent = mesh.enrol(&ada, AGENT, &write).await;
    let plain = mesh.enrol(&ada, "assistant:plain", &write).await;
    let guest = mesh.enrol(&ada, "assistant:guest", &write).await;
    let mut socket = mesh.socket(&agent).await;
    assert_eq!(socket.call("node:register", &[assistant(AGENT)]).await.unwrap()["ok"], true);
    for agent in [&plain, &guest] {
        mesh.made("/api/registry/nodes", agent, assistant(&agent.id)).await;
    }
    for (who, node) in [(&ada, "relay"), (&eve, "relay")] {
        mesh.made("/api/registry/nodes", who, silent(node)).await;
    }
    let id = talks.with(&ada, &[AGENT]).await;
    talks.say(&ada, &id, "Hello?").await;
    let told = socket.event("event:received").await.unwrap().data;
    let forged = json!({ "conversationId": id, "assistantKey": "billing", "message": { "content": "forged" } });

    // As its node: refused at once, and on record.
    let spoofed = mesh.post("/api/events", &plain, response(AGENT, &told, forged.clone())).await;
    assert_eq!(spoofed.refused(), (403, "SOURCE_NOT_OWNED"));
    let log = mesh.house.jetstream.get_stream(Service::Identity.event_stream()).await.unwrap();
    eventually("it is noted", async || {
        log.get_last_raw_message_by_subject("symbia.evt.identity.global.access.assistant:plain").await.ok()
    })
    .await;
    // From a node that was asked nothing: no contract lets it.
    let (_, trace) = mesh.send(&plain, response("assistant:plain", &told, forged.clone())).await;
    assert_eq!((&trace["status"], &trace["error"]), (&json!("dropped"), &json!("no_contract")));
    let contract = json!({ "allowedEventTypes": ["message.*"], "boundaries": ["intra"], "to": "messaging" });
    for (who, from) in [(&ada, "relay"), (&ada, "assistant:plain"), (&ada, "assistant:guest"), (&eve, "relay")] {
        let mut contract = contract.clone();
        contract["from"] = json!(from);
        mesh.made("/api/registry/contracts", who, contract).await;
    }
    // With a contract: not for another, not where one takes no part, not in another organization; and it stands in the log.
    let own = json!({ "conversationId": id, "message": { "content": "forged" } });
    for (who, source, data, code, kind) in [
        (&ada, "relay", &forged, "sender_not_source", "source-spoof-rejected"),
        (&plain, "assistant:plain", &forged, "sender_not_source", "source-spoof-rejected"),
        (&guest, "assistant:guest", &own, "not_participant", "permission-denied"),
        (&eve, "relay", &forged, "sender_not_source", "source-spoof-rejected"),
    ] {
        let (event, _) = mesh.send(who, response(source, &told, data.clone())).await;
        let org = if who.id == eve.id { &eve } else { &ada };
        let trace = mesh.settled(org, &event, "error").await;
        assert_eq!(trace["path"][0]["reason"], code, "{source}: {trace}");
        let noted = eventually("it is told to the mesh's log", async || {
            let is = |(name, data): &(String, Value)| name == kind && data["errorCode"] == code.to_uppercase();
            mesh.refusals(who).await.into_iter().find(is).map(|(_, data)| data)
        })
        .await;
        let claimed = if *data == forged { AGENT } else { source };
        assert_eq!((&noted["claimedSource"], &noted["operation"]), (&json!(claimed), &json!("message.response")));
    }
    assert_eq!(talks.answers(&ada, &id).await, [] as [Value; 0]);
}
