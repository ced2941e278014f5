//! A broker, a log to write to, a service that feeds from it, and followers.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_nats::jetstream;
use async_trait::async_trait;
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use symbia_api::{
    feed::{Audience, Feed, FeedConfig, WholeTenant, routes},
    http::{
        AuthError, Authenticator, Health, Principal, ServiceApp,
        discovery::ServiceInfo,
        principal::{AuthType, Membership, PrincipalKind},
        server::{Limits, ServerConfig},
    },
};
use symbia_events::{
    ActorType, AggregateRef, AuthMethod, CommandId, Context, GENESIS, KeyRing, Service, Signed, commit, domain_events,
    sign_commit,
};
use symbia_nats::{
    broker::{Broker, BrokerOptions, Durability},
    topology,
};
use time::OffsetDateTime;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Error, Message, client::IntoClientRequest, handshake::client::Response},
};
use tokio_util::sync::CancellationToken;

domain_events! {
    /// Events in the stream of identity.
    ParcelEvent: Identity / "parcel" {
        ParcelSent = "symbia.identity.parcel.parcel-sent.v1" { number: u64, text: String }
        ParcelLost = "symbia.identity.parcel.parcel-lost.v1" { number: u64 }
    }
}
domain_events! {
    /// Events in the stream of messaging.
    NoteEvent: Messaging / "note" {
        NoteWritten = "symbia.messaging.note.note-written.v1" { number: u64 }
    }
}

pub fn sent(number: u64) -> ParcelEvent {
    ParcelSent { number, text: String::new() }.into()
}

pub fn lost(number: u64) -> ParcelEvent {
    ParcelLost { number }.into()
}

pub fn note(number: u64) -> NoteEvent {
    NoteWritten { number }.into()
}

/// Knows the tokens that were given to it, until it does not.
#[derive(Default)]
pub struct Directory(Mutex<HashMap<String, Result<Principal, AuthError>>>);

impl Directory {
    pub fn knows(&self, token: &str, principal: Result<Principal, AuthError>) {
        self.0.lock().unwrap().insert(token.to_owned(), principal);
    }
}

#[async_trait]
impl Authenticator for Directory {
    async fn bearer(&self, token: &str) -> Result<Principal, AuthError> {
        self.0.lock().unwrap().get(token).cloned().unwrap_or(Err(AuthError::Invalid))
    }

    async fn api_key(&self, _: &str) -> Result<Principal, AuthError> {
        Err(AuthError::Invalid)
    }
}

pub fn member(id: &str, orgs: &[&str]) -> Principal {
    let membership = |org: &&str| {
        let [id, name, slug, role] = [org, org, org, "member"].map(str::to_owned);
        Membership { id, name, slug, role }
    };
    Principal {
        organizations: orgs.iter().map(membership).collect(),
        ..Principal::new(id, PrincipalKind::User, AuthType::Jwt)
    }
}

/// The broker, its streams, and the directory.
pub struct Stage {
    pub broker: Broker,
    pub client: async_nats::Client,
    pub js: jetstream::Context,
    pub keys: KeyRing,
    pub directory: Arc<Directory>,
    _dir: tempfile::TempDir,
}

impl Stage {
    /// Tokens `a` and `b` are members of `org-a` and `org-b`, `root` is a super admin.
    pub async fn new() -> Self {
        Self::with(Durability::Interval, None).await
    }

    /// `first`: the first sequence of a service's stream, as if all before were lost.
    pub async fn with(durability: Durability, first: Option<(Service, u64)>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let broker = Broker::start(BrokerOptions { durability, ..BrokerOptions::new(dir.path()) }).await.unwrap();
        let client = async_nats::connect(broker.url()).await.unwrap();
        let js = jetstream::new(client.clone());
        for service in Service::ALL {
            let first_sequence = first.filter(|(s, _)| *s == service).map(|(_, first)| first);
            let config = jetstream::stream::Config { first_sequence, ..topology::event_stream(service, 1) };
            js.create_stream(config).await.unwrap();
        }
        let directory = Arc::new(Directory::default());
        directory.knows("a", Ok(member("anna", &["org-a"])));
        directory.knows("b", Ok(member("bert", &["org-b"])));
        directory.knows("root", Ok(Principal { is_super_admin: true, ..member("root", &[]) }));
        Stage { broker, client, js, keys: KeyRing::generate(OffsetDateTime::now_utc()), directory, _dir: dir }
    }

    /// Signs and appends the events of one commit; gives what was stored.
    pub async fn append<E: symbia_events::DomainEvent>(&self, org: &str, id: &str, events: &[E]) -> Vec<Signed> {
        let signed = self.sign(org, id, events);
        self.store(&address::<E>(org, id).event_subject(), commit::encode(&signed).0.into()).await;
        signed
    }

    pub fn sign<E: symbia_events::DomainEvent>(&self, org: &str, id: &str, events: &[E]) -> Vec<Signed> {
        let context = Context {
            actor_id: "tester".to_owned(),
            actor_type: ActorType::User,
            on_behalf_of: None,
            auth_method: AuthMethod::Jwt,
            command_id: CommandId::random(),
            correlation_id: "c".to_owned(),
            causation_id: "c".to_owned(),
            traceparent: None,
            data_class: None,
            env: None,
            policy_ref: None,
            at: OffsetDateTime::now_utc(),
        };
        sign_commit(&self.keys, &address::<E>(org, id), &context, 0, GENESIS, events).unwrap()
    }

    /// Appends a message, again until the broker has it.
    pub async fn store(&self, subject: &str, payload: Vec<u8>) -> u64 {
        let message_id = CommandId::random().to_string();
        within("the broker stores", async {
            loop {
                let mut headers = async_nats::HeaderMap::new();
                headers.insert(async_nats::header::NATS_MESSAGE_ID, message_id.as_str());
                let acknowledged =
                    self.js.publish_with_headers(subject.to_owned(), headers, payload.clone().into()).await;
                if let Ok(acknowledged) = acknowledged
                    && let Ok(stored) = acknowledged.await
                {
                    return stored.sequence;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }

    pub async fn serve(&self, config: FeedConfig) -> Server {
        self.serve_to(config, Arc::new(WholeTenant)).await
    }

    pub async fn serve_to(&self, config: FeedConfig, audience: Arc<dyn Audience>) -> Server {
        let client = async_nats::connect(self.broker.url()).await.unwrap();
        let keys = symbia_projections::fixed_keys(self.keys.clone());
        let feed = Feed::new(client, keys, audience, config);
        let health = Health::new(Service::Messaging, "1.0.0");
        let limits = Limits { drain: Duration::ZERO, ..Limits::default() };
        let service = ServiceApp::new(
            ServiceInfo::new(Service::Messaging, "Messaging", "Notes."),
            health.clone(),
            ServerConfig { limits, ..ServerConfig::default() },
        )
        .root(routes(&feed, &health))
        .authenticator(Arc::clone(&self.directory) as Arc<dyn Authenticator>)
        .build();
        let document = serde_json::to_value(service.document()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        tokio::spawn(service.serve(listener, shutdown.clone()));
        Server { address, feed, shutdown, document }
    }
}

pub fn address<E: symbia_events::DomainEvent>(org: &str, id: &str) -> AggregateRef {
    AggregateRef::new(E::SERVICE, org.parse().unwrap(), E::AGGREGATE, id).unwrap()
}

/// A service that feeds.
pub struct Server {
    pub address: SocketAddr,
    pub feed: Feed,
    pub shutdown: CancellationToken,
    pub document: Value,
}

impl Server {
    /// Opens a feed and takes its first item, which says where it begins.
    pub async fn follow(&self, token: &str, query: &str) -> Follower {
        let authorization = format!("Bearer {token}");
        let (mut follower, _) = self.connect(query, &[("authorization", &authorization)]).await.expect("a feed");
        let opened = follower.item().await;
        assert_eq!(opened["type"], "opened", "{opened}");
        follower.cursor = opened["cursor"].as_str().unwrap().to_owned();
        follower
    }

    pub async fn connect(&self, query: &str, headers: &[(&str, &str)]) -> Result<(Follower, Response), Error> {
        let mut request = format!("ws://{}/events/ws?{query}", self.address).into_client_request()?;
        for (name, value) in headers {
            let name: tokio_tungstenite::tungstenite::http::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let (socket, response) = within("a handshake", tokio_tungstenite::connect_async(request)).await?;
        Ok((Follower { socket, cursor: String::new() }, response))
    }

    /// Status and code of a refusal.
    pub async fn refused(&self, query: &str, headers: &[(&str, &str)]) -> (u16, Value) {
        let Err(Error::Http(response)) = self.connect(query, headers).await else { panic!("not refused: {query}") };
        (response.status().as_u16(), serde_json::from_slice(response.body().as_deref().unwrap_or_default()).unwrap())
    }
}

/// A client of `/events/ws`.
pub struct Follower {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Of the last item.
    pub cursor: String,
}

impl Follower {
    pub async fn item(&mut self) -> Value {
        match self.next().await {
            Next::Item(item) => item,
            Next::Closed(code, reason) => panic!("closed: {code} {reason}"),
        }
    }

    pub async fn next(&mut self) -> Next {
        within("an item", async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Text(text))) => {
                        let item: Value = serde_json::from_str(&text).unwrap();
                        if let Some(cursor) = item["cursor"].as_str() {
                            self.cursor = cursor.to_owned();
                        }
                        return Next::Item(item);
                    }
                    Some(Ok(Message::Close(Some(frame)))) => {
                        return Next::Closed(frame.code.into(), frame.reason.to_string());
                    }
                    Some(Ok(_)) => {}
                    ended => panic!("ended without a close frame: {ended:?}"),
                }
            }
        })
        .await
    }

    /// The next `count` events.
    pub async fn events(&mut self, count: usize) -> Vec<Value> {
        let mut events = Vec::with_capacity(count);
        while events.len() < count {
            let item = self.item().await;
            assert!(item["event"].is_object(), "{item}");
            events.push(item["event"].clone());
        }
        events
    }

    /// The items up to the end, and the close code and reason.
    pub async fn rest(&mut self) -> (Vec<Value>, u16, String) {
        let mut items = Vec::new();
        loop {
            match self.next().await {
                Next::Item(item) => items.push(item),
                Next::Closed(code, reason) => return (items, code, reason),
            }
        }
    }

    pub async fn say(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }
}

pub enum Next {
    Item(Value),
    Closed(u16, String),
}

pub fn stored(events: &[Signed]) -> Vec<Value> {
    events.iter().map(|e| serde_json::from_slice(&e.bytes).unwrap()).collect()
}

/// The numbers in events, which tests give in order.
pub fn numbers(events: &[Value]) -> Vec<u64> {
    events.iter().map(|e| e["data"]["number"].as_u64().unwrap()).collect()
}

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.unwrap_or_else(|_| panic!("waited too long: {what}"))
}

/// Waits for a condition, and fails when it does not come true.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}
