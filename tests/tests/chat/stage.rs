//! A platform of a test's own with every part of one exchange, people, and a reader of streams.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_nats::jetstream;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;
use symbia_api::{
    Platform, assistants,
    feed::{Feed, FeedConfig, WholeTenant},
    http::{Health, ServiceApp, rate::Quota, rate::RatePolicy, server::ServerConfig},
    identity::{self, SigningKeys, Tokens},
    messaging,
    platform::{Parts, Settings},
};
use symbia_commands::{
    Actor, OutcomeStatus,
    identity::{AddMember, OrganizationCommand},
};
use symbia_events::{AggregateRef, CommandId, KeyRing, Service};
use symbia_nats::{
    bus::CommandBus,
    store::{EventStore, StoreOptions},
    topology,
};
use symbia_projections::{
    Positions, Projection, ProjectorHandle, ProjectorOptions, ReadPool, Rebuilder,
    assistants::Assistants,
    fixed_keys,
    identity::Identity,
    integrations::Integrations,
    messaging::Messaging,
    migrate,
    secrets::{KeyEncryptionKey, SecretStore},
};
use symbia_tests::{cluster::TestServers, socketio::SocketClient};
use symbia_workers::{
    assistants::{RuleEngine, load_seed},
    command::{CommandWorker, Decider, Handlers, Options, Share},
    content_keys::ContentKeys,
    integrations::{LlmRouter, Providers, RouterOptions},
    messaging::{Eraser, Periods, Retention},
    reactor::{Reactor, ReactorRunner},
    sender::Sender,
    timer::TimerWorker,
};
use time::OffsetDateTime;
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::model::Scripted;

/// Everybody's.
pub const PASSWORD: &str = "correct horse";
const SOON: Duration = Duration::from_secs(40);

/// A whole platform. Dropping it ends everything.
pub struct House {
    pub platform: Platform,
    pub jetstream: jetstream::Context,
    pub pool: PgPool,
    pub keys: Arc<KeyRing>,
    pub model: Scripted,
    feed: Feed,
    bases: BTreeMap<Service, String>,
    http: reqwest::Client,
    stop: CancellationToken,
    projectors: Vec<ProjectorHandle>,
    _servers: TestServers,
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
}

impl Answer {
    /// The body of an answer with this status.
    pub fn with(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// Status and code of a refusal.
    pub fn refused(&self) -> (u16, &str) {
        (self.status.as_u16(), self.body["code"].as_str().unwrap_or_default())
    }
}

/// Somebody who is signed in.
#[derive(Clone)]
pub struct Person {
    pub id: String,
    pub token: String,
    pub org: String,
}

impl House {
    pub async fn open() -> Self {
        Self::with_flood_limit(Quota::per_minute(1_000_000)).await
    }

    /// The same with a limit for the messages of one principal in one conversation.
    pub async fn with_flood_limit(messages: Quota) -> Self {
        let servers = TestServers::start().await.unwrap();
        let nats = async_nats::connect(servers.nats_url()).await.unwrap();
        let jetstream = jetstream::new(nats.clone());
        topology::ensure(&jetstream, 1).await.unwrap();
        let pool = PgPool::connect(&servers.database_url()).await.unwrap();
        migrate(&pool, &[]).await.unwrap();
        let kek = KeyEncryptionKey::new(&Zeroizing::new(rand::random())).unwrap();
        let secrets = SecretStore::open(pool.clone(), kek).await.unwrap();
        let projections: Vec<Arc<dyn Projection>> = vec![
            Arc::new(Identity::new(secrets.clone())),
            Arc::new(Messaging::new(secrets.clone())),
            Arc::new(Assistants),
            Arc::new(Integrations),
        ];
        let borrowed: Vec<&dyn Projection> = projections.iter().map(AsRef::as_ref).collect();
        migrate(&pool, &borrowed).await.unwrap();

        let keys = Arc::new(KeyRing::generate(OffsetDateTime::now_utc()));
        let ring = fixed_keys(KeyRing::clone(&keys));
        let stop = CancellationToken::new();
        let store = EventStore::new(nats.clone(), Arc::clone(&keys), &StoreOptions::default());
        let decider = Decider::new(store, Handlers::all());
        let worker = CommandWorker::new(nats.clone(), decider.clone(), Options::default());
        tokio::spawn(worker.run(stop.clone()));
        let options = || ProjectorOptions::new(pool.clone(), jetstream.clone(), ring.clone());
        let projectors = projections.into_iter().map(|projection| options().build(projection).start()).collect();

        let bus = CommandBus::open(nats.clone()).await.unwrap();
        bus.decide_here(decider.here(Share::All));
        load_seed(bus.clone(), Arc::clone(&keys)).await.unwrap();
        let content_keys = ContentKeys::new(secrets.clone());
        let (model, router) = (Scripted::default(), RouterOptions::default());
        let providers = Providers::default().with(model.clone());
        let sender = Sender::new(bus.clone(), Arc::clone(&keys));
        let engine = RuleEngine::open(nats.clone(), Arc::clone(&keys), sender.clone(), content_keys.clone());
        let router = LlmRouter::open(nats.clone(), Arc::clone(&keys), sender.clone(), content_keys, providers, router);
        // What is deleted here is erased at once, and a day is short.
        let periods = Periods { deleted: time::Duration::ZERO, day: time::Duration::milliseconds(300) };
        let eraser = Eraser::new(nats.clone(), sender.clone(), secrets.clone(), periods);
        let reading = ReadPool::new(servers.database_url().parse().unwrap(), 2);
        let retention = Retention::new(nats.clone(), sender.clone(), reading, periods.day);
        tokio::spawn(TimerWorker::new(nats.clone(), Arc::clone(&keys)).run(stop.clone()));
        let reactors: [Arc<dyn Reactor>; 4] =
            [Arc::new(engine.await.unwrap()), Arc::new(router.await.unwrap()), Arc::new(eraser), Arc::new(retention)];
        for reactor in reactors {
            tokio::spawn(ReactorRunner::new(nats.clone(), Arc::clone(&keys), reactor).run(stop.clone()));
        }

        let generous = Quota::per_minute(100_000);
        let settings = Settings {
            bcrypt_cost: 4,
            rates: RatePolicy {
                auth: generous,
                standard: generous,
                verify: generous,
                messages,
                ..RatePolicy::default()
            },
            command_timeout: Duration::from_secs(20),
            visible_within: Duration::from_secs(10),
            ..Settings::default()
        };
        let reader = ReadPool::new(servers.database_url().parse().unwrap(), 16);
        let signing = SigningKeys::generate().unwrap();
        let platform = Platform::new(Parts {
            bus,
            positions: Positions::follow(nats.clone(), reader.clone()),
            tokens: Tokens::new(signing, "symbia-test", time::Duration::days(7)),
            keys: Arc::clone(&keys),
            nats: nats.clone(),
            reader,
            secrets,
            settings,
        });
        let feed = Feed::new(nats, ring, Arc::new(WholeTenant), FeedConfig::default());
        let mut bases = BTreeMap::new();
        for service in [Service::Identity, Service::Messaging, Service::Assistants] {
            let (health, config) = (Health::new(service, "test"), ServerConfig::default());
            health.set_ready(true);
            let app: ServiceApp = match service {
                Service::Identity => identity::service(platform.clone(), health, config),
                Service::Messaging => messaging::service(platform.clone(), &feed, health, config),
                _ => assistants::service(platform.clone(), health, config),
            };
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            bases.insert(service, format!("http://{}", listener.local_addr().unwrap()));
            tokio::spawn(app.build().serve(listener, stop.clone()));
        }
        let http = reqwest::Client::new();
        House { platform, jetstream, pool, keys, model, feed, bases, http, stop, projectors, _servers: servers }
    }

    /// Serves messaging once more, as another process would: with nothing in common but the log and the read models.
    pub async fn another(&self) -> String {
        self.another_with(ServerConfig::default()).await
    }

    /// The same with settings of its own.
    pub async fn another_with(&self, config: ServerConfig) -> String {
        let (feed, health) = (self.feed.clone(), Health::new(Service::Messaging, "test"));
        health.set_ready(true);
        let app = messaging::service(self.platform.clone(), &feed, health, config);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(app.build().serve(listener, self.stop.clone()));
        base
    }

    /// Connects somebody's socket, which has been given its rooms.
    pub async fn socket(&self, who: &Person) -> SocketClient {
        self.socket_at(self.base(Service::Messaging), who, None).await
    }

    /// The same with a last position, somewhere.
    pub async fn socket_at(&self, base: &str, who: &Person, position: Option<&str>) -> SocketClient {
        let mut socket = SocketClient::open(base, &who.token, position).await.unwrap();
        if position.is_none() {
            socket.event("opened").await.unwrap();
        }
        socket
    }

    /// Where a service is served.
    pub fn base(&self, service: Service) -> &str {
        &self.bases[&service]
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        who: &str,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> Response {
        let service = match path.split(['/', '?']).nth(2) {
            Some("admin")
                if path.starts_with("/api/admin/conversations")
                    || path.contains("/erase?")
                    || path.contains("/retention?") =>
            {
                Service::Messaging
            }
            Some("conversations" | "messages" | "stats" | "internal") => Service::Messaging,
            Some("assistants" | "runs" | "rules") => Service::Assistants,
            _ => Service::Identity,
        };
        let method: Method = method.parse().unwrap();
        let mut request = self.http.request(method, format!("{}{path}", self.base(service)));
        if !who.is_empty() {
            request = request.bearer_auth(who);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = &body {
            request = request.json(body);
        }
        request.send().await.unwrap()
    }

    pub async fn ask(
        &self,
        who: &Person,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> Answer {
        let answer = self.send(method, path, &who.token, headers, body).await;
        let status = answer.status();
        let text = answer.text().await.unwrap();
        Answer { status, body: serde_json::from_str(&text).unwrap_or(Value::Null) }
    }

    pub async fn get(&self, who: &Person, path: &str) -> Answer {
        self.ask(who, "GET", path, &[], None).await
    }

    pub async fn post(&self, who: &Person, path: &str, body: Value) -> Answer {
        self.ask(who, "POST", path, &[], Some(body)).await
    }

    /// Registers somebody with an organization.
    pub async fn register(&self, name: &str) -> Person {
        let body = json!({ "email": format!("{name}@example.test"), "password": PASSWORD, "name": name,
            "orgName": format!("{name} org") });
        let answer = self.send("POST", "/api/auth/register", "", &[], Some(body)).await;
        let body: Value = answer.json().await.unwrap();
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        Person { id: text(&body["user"]["id"]), token: text(&body["token"]), org: text(&body["organization"]["id"]) }
    }

    /// Registers somebody and adds them to another's organization.
    pub async fn colleague(&self, of: &Person, name: &str) -> Person {
        let person = self.register(name).await;
        let add = OrganizationCommand::from(AddMember {
            org_id: of.org.clone(),
            membership_id: format!("{name}-of-{}", of.org),
            user_id: person.id.clone(),
            role: "member".to_owned(),
        });
        let address = AggregateRef::new(Service::Identity, of.org.parse().unwrap(), "organization", &of.org).unwrap();
        let sender = Sender::new(self.platform.bus.clone(), Arc::clone(&self.keys));
        let added = sender.send(None, &address, &add, &Actor::system("test"), CommandId::random()).await.unwrap();
        assert_eq!(added.status, OutcomeStatus::Accepted, "{added:?}");
        assert!(self.platform.positions.wait_for("identity", added.position.unwrap(), SOON).await);
        person
    }

    /// Opens a conversation with these participants and gives its id.
    pub async fn talk(&self, who: &Person, with: &[&str]) -> String {
        let kind = if with.len() > 1 { "group" } else { "private" };
        let body = json!({ "type": kind, "name": "Talk", "orgId": who.org, "participantIds": with });
        self.post(who, "/api/conversations", body).await.with(201)["id"].as_str().unwrap().to_owned()
    }

    /// Says something and gives the message.
    pub async fn say(&self, who: &Person, conversation: &str, text: &str) -> Value {
        let path = format!("/api/conversations/{conversation}/messages");
        self.post(who, &path, json!({ "content": text })).await.with(201)
    }

    /// Follows a conversation.
    pub async fn follow(&self, who: &Person, conversation: &str, from: &str) -> Events {
        let path = format!("/api/conversations/{conversation}/stream");
        let response = self.send("GET", &path, &who.token, &[("last-event-id", from)], None).await;
        assert_eq!(response.status(), 200);
        Events { response, buffer: String::new() }
    }

    /// The read models are what the log says, folded in one go beside them.
    pub async fn read_models_are_what_the_log_says(&self) {
        let differing = self.differing_from_the_log().await;
        assert!(differing.is_empty(), "{differing:?}");
    }

    /// The same once what is under way has come to its end.
    pub async fn read_models_become_what_the_log_says(&self) {
        let deadline = tokio::time::Instant::now() + SOON;
        while !self.differing_from_the_log().await.is_empty() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.read_models_are_what_the_log_says().await;
    }

    /// The tables of the read models that are not what the log says.
    async fn differing_from_the_log(&self) -> Vec<String> {
        let keys = fixed_keys(KeyRing::clone(&self.keys));
        let rebuilder = Rebuilder { pool: self.pool.clone(), jetstream: self.jetstream.clone(), keys };
        let messaging = Messaging::new(self.platform.secrets.clone());
        let models: [&dyn Projection; 3] = [&messaging, &Assistants, &Integrations];
        let mut all = Vec::new();
        for model in models {
            let verified = rebuilder.verify(model, &|_| {}).await.unwrap();
            assert!(verified.events > 0 || model.name() != "messaging", "nothing was folded");
            all.extend(verified.differing().map(|table| format!("{}: {table:?}", model.name())));
        }
        all
    }

    /// Stops folding into the read models.
    pub async fn stop_projectors(&mut self) {
        for projector in self.projectors.drain(..) {
            projector.stop().await;
        }
    }
}

/// One server-sent event.
#[derive(Clone, Debug)]
pub struct Sse {
    pub name: String,
    pub id: Option<String>,
    pub data: Value,
}

/// A stream of them.
pub struct Events {
    response: Response,
    buffer: String,
}

impl Events {
    /// The next event; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Sse> {
        loop {
            while let Some((frame, rest)) = self.buffer.split_once("\n\n") {
                let (frame, rest) = (frame.to_owned(), rest.to_owned());
                self.buffer = rest;
                let field = |name: &str| {
                    frame.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
                };
                let Some(data) = field("data") else { continue };
                let data = serde_json::from_str(&data).unwrap();
                return Some(Sse { name: field("event").unwrap_or_default(), id: field("id"), data });
            }
            let chunk = timeout(SOON, self.response.chunk()).await.expect("nothing came").unwrap()?;
            self.buffer.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// Everything up to and including the first event that satisfies.
    pub async fn until(&mut self, done: impl Fn(&Sse) -> bool) -> Vec<Sse> {
        let mut seen = Vec::new();
        loop {
            let event = self.next().await.unwrap_or_else(|| panic!("the stream ended after {seen:?}"));
            seen.push(event);
            if seen.last().is_some_and(&done) {
                return seen;
            }
        }
    }
}

/// Whether it tells that a run has come to this.
pub fn run_is(status: &str) -> impl Fn(&Sse) -> bool {
    move |event| event.name == "run" && event.data["status"] == status
}

/// The texts of these events' data field, of those with this name.
pub fn texts(events: &[Sse], name: &str, field: &str) -> Vec<String> {
    let named = events.iter().filter(|e| e.name == name);
    named.map(|e| e.data[field].as_str().unwrap_or_default().to_owned()).collect()
}

/// Asks until the answer satisfies, at most 40 s.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
