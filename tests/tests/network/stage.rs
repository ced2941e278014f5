//! A platform with a mesh, and nodes that take what is posted to them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    routing::post,
};
use futures::TryStreamExt;
use serde_json::{Value, json};
use symbia_api::{
    feed::{Feed, FeedConfig, PrivateConversations},
    http::{Health, server::ServerConfig},
    network::{self, Options},
};
use symbia_egress::Rules;
use symbia_events::{KeyRing, Service};
use symbia_projections::{
    ProjectorHandle, ProjectorOptions, ReadPool, fixed_keys, integrations::Integrations, migrate, network::Network,
};
use symbia_tests::socketio::SocketClient;
use symbia_workers::{
    network::{DelivererOptions, Liveness, MeshDeliverer, MeshKeeper, Post},
    reactor::ReactorRunner,
    sender::Sender,
    timer::TimerWorker,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::identity::{Answer, House, Person, eventually};

/// A platform with the network service. Dropping it ends everything.
pub struct Mesh {
    pub house: House,
    pub inbox: Inbox,
    pub base: String,
    options: Options,
    http: reqwest::Client,
    pub stop: CancellationToken,
    projector: Option<ProjectorHandle>,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// An event as it was posted to a node.
#[derive(Clone, Debug)]
pub struct Posted {
    pub headers: HashMap<String, String>,
    pub body: Value,
    pub raw: Bytes,
}

#[derive(Default)]
struct Content {
    posted: HashMap<String, Vec<Posted>>,
    /// Answers that a node gives before it takes events.
    refusals: HashMap<String, Vec<u16>>,
}

/// Where all nodes of a test take their events: `<base>/<node>`.
#[derive(Clone)]
pub struct Inbox {
    pub base: String,
    content: Arc<Mutex<Content>>,
}

impl Inbox {
    async fn open(stop: CancellationToken) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let inbox = Inbox { base, content: Arc::default() };
        let router = Router::new().route("/{node}", post(take)).with_state(inbox.clone());
        tokio::spawn(async move {
            axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await }).await.unwrap();
        });
        inbox
    }

    /// What was posted to a node and taken.
    pub fn of(&self, node: &str) -> Vec<Posted> {
        self.content.lock().unwrap().posted.get(node).cloned().unwrap_or_default()
    }

    /// Lets a node refuse so many events.
    pub fn refuse(&self, node: &str, answers: &[u16]) {
        self.content.lock().unwrap().refusals.insert(node.to_owned(), answers.to_vec());
    }
}

async fn take(State(inbox): State<Inbox>, Path(node): Path<String>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut content = inbox.content.lock().unwrap();
    if let Some(status) = content.refusals.get_mut(&node).and_then(Vec::pop) {
        return StatusCode::from_u16(status).unwrap();
    }
    let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()));
    let posted =
        Posted { headers: headers.collect(), body: serde_json::from_slice(&body).unwrap_or_default(), raw: body };
    content.posted.entry(node).or_default().push(posted);
    StatusCode::OK
}

impl Mesh {
    pub async fn open() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(configure: impl FnOnce(&mut Options)) -> Self {
        let mesh = Self::down(configure).await;
        mesh.deliver().await;
        mesh
    }

    /// A mesh that delivers nothing yet.
    pub async fn down(configure: impl FnOnce(&mut Options)) -> Self {
        Self::within(House::open().await, configure).await
    }

    /// The same on a platform that stands.
    pub async fn within(house: House, configure: impl FnOnce(&mut Options)) -> Self {
        // The integrations' read models have the egress policies that deliveries keep to.
        migrate(&house.pool, &[&Network::default(), &Integrations]).await.unwrap();
        let ring = fixed_keys(KeyRing::clone(&house.keys));
        let projector = ProjectorOptions::new(house.pool.clone(), house.jetstream.clone(), ring);
        let projector = projector.build(Arc::new(Network::default())).start();
        let stop = CancellationToken::new();
        let mut options = Options::default();
        configure(&mut options);

        let (nats, keys) = (house.platform.nats.clone(), Arc::clone(&house.keys));
        let reader = ReadPool::new(house.servers.database_url().parse().unwrap(), 8);
        let sender = Sender::new(house.platform.bus.clone(), Arc::clone(&keys));
        let keeper = MeshKeeper::new(nats.clone(), sender.clone(), reader);
        tokio::spawn(ReactorRunner::new(nats.clone(), Arc::clone(&keys), Arc::new(keeper)).run(stop.clone()));
        let liveness = Liveness::new(nats.clone(), sender, options.lease);
        tokio::spawn(liveness.run(stop.clone()));
        tokio::spawn(TimerWorker::new(nats, keys).run(stop.clone()));

        let inbox = Inbox::open(stop.clone()).await;
        let (http, base) = (reqwest::Client::new(), String::new());
        let mut mesh = Mesh { house, inbox, base, options, http, stop, projector: Some(projector) };
        mesh.base = mesh.serve().await;
        mesh
    }

    /// Has what waits, and what comes, delivered.
    pub async fn deliver(&self) {
        let (nats, keys) = (self.house.platform.nats.clone(), Arc::clone(&self.house.keys));
        let deliveries = DelivererOptions {
            post: Post { rules: Rules::development().any_port(), patience: Duration::from_secs(10) },
            pauses: [1; 4].map(Duration::from_secs),
            max_age: Duration::from_secs(MAX_AGE),
        };
        let secrets = self.house.platform.secrets.clone();
        let reader = ReadPool::new(self.house.servers.database_url().parse().unwrap(), 8);
        let sender = Sender::new(self.house.platform.bus.clone(), Arc::clone(&keys));
        let deliverer = MeshDeliverer::new(nats.clone(), Arc::clone(&keys), sender, reader, secrets, deliveries);
        tokio::spawn(deliverer.courier().run(self.stop.clone()));
        tokio::spawn(ReactorRunner::new(nats, keys, Arc::new(deliverer)).run(self.stop.clone()));
    }

    /// Serves the mesh from one process more, and gives its address.
    pub async fn serve(&self) -> String {
        let (nats, ring) = (self.house.platform.nats.clone(), fixed_keys(KeyRing::clone(&self.house.keys)));
        let feed = Feed::new(nats, ring, Arc::new(PrivateConversations), FeedConfig::default());
        let health = Health::new(Service::Network, "test");
        health.set_ready(true);
        let (platform, options) = (self.house.platform.clone(), self.options.clone());
        let service = network::service(platform, &feed, options, health, ServerConfig::default()).build();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(service.serve(listener, self.stop.clone()));
        base
    }

    /// An agent of somebody's organization, with these capabilities.
    pub async fn enrol(&self, by: &Person, handle: &str, capabilities: &[&str]) -> Person {
        let issued = json!({ "capabilities": capabilities });
        let issued = self.house.call("POST", "/api/agents/enrolment-tokens", &by.token, issued).await.ok();
        let token = [("x-enrolment-token", issued["token"].as_str().unwrap())];
        let agent = json!({ "agentId": handle, "credential": "credential-of-an-agent-0123456789abcdef", "name": "A",
            "capabilities": capabilities });
        let body = self.house.send("POST", "/api/auth/agent/register", &token, Some(agent)).await.ok();
        Person { id: handle.to_owned(), token: body["token"].as_str().unwrap().to_owned(), ..by.clone() }
    }

    /// Stops what folds the mesh's events: its read model stays as it is.
    pub async fn stop_projector(&mut self) {
        if let Some(projector) = self.projector.take() {
            projector.stop().await;
        }
    }

    /// What the log says of refusals to somebody: type, operation, code and how often.
    pub async fn refusals(&self, who: &Person) -> Vec<(String, Value)> {
        let subject = format!("symbia.evt.network.{}.security.{}", who.org, who.id);
        let nats = &self.house.platform.nats;
        let stored = symbia_nats::read::tail(nats, &Service::Network.event_stream(), &subject, 1).await.unwrap();
        let decode = |payload: &Bytes| symbia_events::commit::decode(&self.house.keys, payload).unwrap();
        let events = stored.iter().flat_map(|stored| decode(&stored.payload)).map(|signed| signed.event);
        let name = |event: &symbia_events::Event| event.event_type.split('.').nth(3).unwrap_or_default().to_owned();
        events.map(|event| (name(&event), serde_json::from_str(event.data.get()).unwrap())).collect()
    }

    /// A socket of somebody.
    pub async fn socket(&self, who: &Person) -> SocketClient {
        SocketClient::open(&self.base, &who.token, None).await.unwrap()
    }

    /// A socket that speaks for a node.
    pub async fn speaker(&self, base: &str, who: &Person, node: &str) -> SocketClient {
        let socket = SocketClient::open(base, &who.token, None).await.unwrap();
        let registered = socket.call("node:register", &[silent(node)]).await.unwrap();
        assert_eq!(registered["ok"], true, "{registered}");
        socket
    }

    /// Asks the network service in somebody's name, in an organization.
    pub async fn ask(&self, method: &str, path: &str, who: &Person, org: &str, body: Option<Value>) -> Answer {
        let request = self.http.request(method.parse().unwrap(), format!("{}{path}", self.base));
        let mut request = request.bearer_auth(&who.token).header("x-org-id", org);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        Answer { status, headers, body: answer.json().await.unwrap_or_default() }
    }

    /// Asks as nobody.
    pub async fn http_get(&self, path: &str) -> Value {
        self.http.get(format!("{}{path}", self.base)).send().await.unwrap().json().await.unwrap()
    }

    pub async fn get(&self, path: &str, who: &Person) -> Value {
        self.ask("GET", path, who, &who.org, None).await.ok()
    }

    pub async fn post(&self, path: &str, who: &Person, body: Value) -> Answer {
        self.ask("POST", path, who, &who.org, Some(body)).await
    }

    /// The body of something that was made.
    pub async fn made(&self, path: &str, who: &Person, body: Value) -> Value {
        let answer = self.post(path, who, body).await;
        assert_eq!(answer.status.as_u16(), 201, "{path}: {}", answer.body);
        answer.body
    }

    /// A node that takes its events in the inbox.
    pub fn node(&self, id: &str) -> Value {
        json!({ "id": id, "name": id, "type": "service", "capabilities": ["test"], "endpoint": format!("{}/{id}", self.inbox.base) })
    }

    pub async fn register(&self, who: &Person, ids: &[&str]) {
        for id in ids {
            self.made("/api/registry/nodes", who, self.node(id)).await;
        }
    }

    pub async fn contract(&self, who: &Person, from: &str, to: &str) -> Value {
        let body =
            json!({ "from": from, "to": to, "allowedEventTypes": ["message.*"], "boundaries": ["intra", "inter"] });
        self.made("/api/registry/contracts", who, body).await
    }

    pub async fn policy(&self, who: &Person, priority: i64, conditions: Value, action: Value) -> Value {
        let body = json!({ "name": "test", "priority": priority, "conditions": conditions, "action": action });
        self.made("/api/policies", who, body).await
    }

    /// Sends an event and gives its id and trace.
    pub async fn send(&self, who: &Person, event: Value) -> (String, Value) {
        let answer = self.post("/api/events", who, event).await;
        assert_eq!(answer.status.as_u16(), 202, "{}", answer.body);
        (answer.body["eventId"].as_str().unwrap().to_owned(), answer.body["trace"].clone())
    }

    /// The trace of an event once its status is this one.
    pub async fn settled(&self, who: &Person, id: &str, status: &str) -> Value {
        let path = format!("/api/events/{id}/trace");
        eventually(&format!("event {id} is {status}"), async || {
            Some(self.get(&path, who).await).filter(|trace| trace["status"] == status)
        })
        .await
    }

    /// How much the network's event stream holds, but for what it tells of refusals.
    pub async fn head(&self) -> u64 {
        let stream = self.house.jetstream.get_stream(Service::Network.event_stream()).await.unwrap();
        let refusals = stream.info_with_subjects("symbia.evt.network.*.security.*").await.unwrap();
        let all = refusals.info.state.messages;
        let refused: Vec<(String, usize)> = refusals.try_collect().await.unwrap();
        all - refused.iter().map(|(_, messages)| *messages as u64).sum::<u64>()
    }
}

/// Seconds that an event waits for a node which is not there.
pub const MAX_AGE: u64 = 8;

/// A node without an address.
pub fn silent(id: &str) -> Value {
    json!({ "id": id, "name": id, "type": "service", "capabilities": [], "endpoint": "" })
}

/// An event to a target.
pub fn event(source: &str, target: Option<&str>) -> Value {
    let mut event = json!({
        "payload": { "type": "message.new", "data": { "text": "hello", "n": 1 } }, "source": source, "runId": "run-1",
    });
    if let Some(target) = target {
        event["target"] = json!(target);
    }
    event
}
