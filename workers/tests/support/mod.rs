//! A house in one process: broker, database, command worker, and a rule engine and a router that can be killed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code, missing_docs)]

pub mod upstream;

use std::{fs::Permissions, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use async_nats::{Client, Subscriber};
use futures::StreamExt;
use sqlx::{PgPool, postgres::PgPoolOptions};
use symbia_commands::{
    Actor, DomainCommand, Membership, Outcome, OutcomeStatus, Role,
    integrations::CompletionCommand,
    messaging::{CreateConversation, NewParticipant, SendMessage},
};
use symbia_events::{
    ActorType, AggregateRef, AuthMethod, CommandId, Context, DomainEvent, Event, KeyRing, OrgId, Service, SubjectKey,
    assistants::RuleRunEvent,
    commit,
    integrations::CompletionEvent,
    messaging::{ConversationEvent, ConversationType, MessageSent, ParticipantType, Priority},
    sign_commit,
};
use symbia_nats::{
    append::Grouping,
    broker::{Broker, BrokerOptions, Durability},
    bus::CommandBus,
    read,
    store::{EventStore, StoreOptions},
    topology,
};
use symbia_projections::{
    messaging::content_key_id,
    migrate,
    secrets::{KeyEncryptionKey, SecretStore},
    server::{DatabaseServer, DatabaseServerOptions},
};
use symbia_workers::{
    assistants::{RuleEngine, load_seed},
    command::{CommandWorker, Decider, Handlers, Options, Share},
    content_keys::ContentKeys,
    integrations::{
        Accounts, LlmRouter, LocalOptions, LocalProvider, Meter, OpenAi, OpenAiOptions, Providers, RetryOptions,
        RouterOptions, Taking,
    },
    reactor::{Reactor, ReactorRunner},
    sender::Sender,
};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use zeroize::Zeroizing;

pub const SOON: Duration = Duration::from_secs(40);

/// A worker in a runtime of its own, so that killing it leaves nothing of it behind.
pub struct Process(Option<tokio::runtime::Runtime>);

impl Process {
    pub fn start(work: impl Future<Output = ()> + Send + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.spawn(work);
        Process(Some(runtime))
    }

    pub fn kill(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What the router can ask.
#[derive(Clone)]
pub enum Model {
    OpenAi(Box<OpenAiOptions>),
    Local,
    None,
}

#[derive(Clone)]
struct Plan {
    nats: String,
    database: String,
    keys: Arc<KeyRing>,
    model: Model,
    router: RouterOptions,
    accounts: Option<Arc<dyn Accounts>>,
}

pub struct House {
    pub broker: Broker,
    pub client: Client,
    pub keys: Arc<KeyRing>,
    pub secrets: SecretStore,
    pub engine: Process,
    pub router: Process,
    sender: Sender,
    plan: Plan,
    stop: CancellationToken,
    worker: tokio::task::JoinHandle<()>,
    pub database: DatabaseServer,
    _dir: tempfile::TempDir,
}

/// A conversation of Ada with assistants.
#[derive(Clone)]
pub struct Talk {
    pub address: AggregateRef,
    pub key: SubjectKey,
}

impl House {
    pub async fn open(model: Model) -> Self {
        // Many models of these tests fail, and all have one name.
        let retry = RetryOptions { failures: u32::MAX, ..RetryOptions::default() };
        Self::open_with(model, RouterOptions { retry, ..RouterOptions::default() }, None).await
    }

    /// With a router and accounts of choice.
    pub async fn open_with(model: Model, settings: RouterOptions, accounts: Option<Arc<dyn Accounts>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
        let database = DatabaseServer::start(DatabaseServerOptions::new(dir.path().join("postgres"))).await.unwrap();
        let options = BrokerOptions { durability: Durability::Interval, ..BrokerOptions::new(dir.path().join("nats")) };
        let broker = Broker::start(options).await.expect("nats-server 2.14 or newer on PATH");
        let client = async_nats::connect(broker.url()).await.unwrap();
        topology::ensure(&async_nats::jetstream::new(client.clone()), 1).await.unwrap();
        let pool = PgPool::connect(&database.url()).await.unwrap();
        migrate(&pool, &[]).await.unwrap();
        let secrets = secret_store(pool).await;
        let keys = Arc::new(KeyRing::generate(OffsetDateTime::now_utc()));
        let plan = Plan {
            nats: broker.url(),
            database: database.url(),
            keys: Arc::clone(&keys),
            model,
            router: settings,
            accounts,
        };

        let store = EventStore::new(
            client.clone(),
            Arc::clone(&keys),
            &StoreOptions { grouping: Grouping::Single, ..StoreOptions::default() },
        );
        let worker = CommandWorker::new(client.clone(), Decider::new(store, Handlers::all()), Options::default());
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let worker = tokio::spawn(worker.run(stopped));
        let bus = CommandBus::open(client.clone()).await.unwrap();
        load_seed(bus.clone(), Arc::clone(&keys)).await.unwrap();
        let sender = Sender::new(bus, Arc::clone(&keys));
        let (engine, router) = (Process::start(engine(plan.clone())), Process::start(router(plan.clone())));
        House { broker, client, keys, secrets, engine, router, sender, plan, stop, worker, database, _dir: dir }
    }

    pub fn restart_engine(&mut self) {
        self.engine.kill();
        self.engine = Process::start(engine(self.plan.clone()));
    }

    pub fn restart_router(&mut self) {
        self.router.kill();
        self.router = Process::start(router(self.plan.clone()));
    }

    /// A process that sends a command of Ada's, and works itself on what is asked for in it.
    pub fn front(&self, to: AggregateRef, command: CompletionCommand) -> Process {
        let plan = self.plan.clone();
        Process::start(async move {
            let (client, sender, content_keys, taking) = parts(&plan).await;
            taking.by(Arc::new(routing(&plan, client, sender.clone(), content_keys).await));
            let outcome = sender.send(None, &to, &command, &ada(), CommandId::random()).await.unwrap();
            assert_eq!(outcome.status, OutcomeStatus::Accepted, "{outcome:?}");
            std::future::pending().await
        })
    }

    pub async fn close(mut self) {
        self.engine.kill();
        self.router.kill();
        self.stop.cancel();
        self.worker.await.unwrap();
        self.broker.stop().await;
        self.database.stop().await;
    }

    pub async fn talk(&self, assistants: &[&str]) -> Talk {
        let id = Uuid::new_v4().to_string();
        let key = SubjectKey::generate(content_key_id(org().as_str(), &id));
        self.secrets.put_subject_key(&key).await.unwrap();
        let participant = |id: String, principal_type| NewParticipant {
            participant_id: format!("p-{id}"),
            principal_id: id,
            principal_type,
            entity_id: None,
        };
        let create = CreateConversation {
            conversation_id: id.clone(),
            conversation_type: ConversationType::Private,
            name: None,
            description: None,
            org_id: "org".to_owned(),
            metadata: None,
            content_key_id: key.kid().to_owned(),
            owner: participant("ada".to_owned(), ParticipantType::User),
            participants: assistants
                .iter()
                .map(|key| participant(format!("assistant:{key}"), ParticipantType::Agent))
                .collect(),
        };
        let address = AggregateRef::new(Service::Messaging, org(), "conversation", id).unwrap();
        self.command(&address, &symbia_commands::messaging::ConversationCommand::from(create), &ada()).await;
        Talk { address, key }
    }

    /// Sends a command that must be accepted.
    pub async fn command(&self, to: &AggregateRef, command: &impl DomainCommand, by: &Actor) -> Outcome {
        let outcome = self.sender.send(None, to, command, by, CommandId::random()).await.unwrap();
        assert_eq!(outcome.status, OutcomeStatus::Accepted, "{outcome:?}");
        outcome
    }

    pub async fn ask(&self, talk: &Talk, text: &str) -> String {
        let (id, outcome) = self.say(talk, text, &ada()).await;
        assert_eq!(outcome.status, OutcomeStatus::Accepted, "{outcome:?}");
        id
    }

    /// Sends a message, whatever becomes of it.
    pub async fn say(&self, talk: &Talk, text: &str, by: &Actor) -> (String, Outcome) {
        let id = Uuid::new_v4().to_string();
        let message = SendMessage {
            message_id: id.clone(),
            content: talk.key.seal(text),
            content_digest: talk.key.digest(text),
            content_type: "text".to_owned(),
            reply_to: None,
            run_id: None,
            trace_id: None,
            priority: Priority::Normal,
            interruptible: true,
            preempted_by: None,
            metadata: None,
        };
        let message = symbia_commands::messaging::ConversationCommand::from(message);
        let sent = self.sender.send(None, &talk.address, &message, by, CommandId::random());
        (id, sent.await.unwrap())
    }

    /// Puts an event into the log that no aggregate has decided.
    pub async fn forge(&self, address: &AggregateRef, event: &impl DomainEvent) {
        let (stream, subject) = (address.service.event_stream(), address.event_subject());
        let stored = read::last(&self.client, &stream, &subject).await.unwrap().unwrap();
        let last = commit::decode(&self.keys, &stored.payload).unwrap().pop().unwrap();
        let of = CommandId::random();
        let context = Context {
            actor_id: ada().id,
            actor_type: ActorType::User,
            on_behalf_of: None,
            auth_method: AuthMethod::Session,
            command_id: of,
            correlation_id: of.to_string(),
            causation_id: of.to_string(),
            traceparent: None,
            data_class: None,
            env: None,
            policy_ref: None,
            at: OffsetDateTime::now_utc(),
        };
        let version = last.event.aggregateversion;
        let signed =
            sign_commit(&self.keys, address, &context, version, &last.hash, std::slice::from_ref(event)).unwrap();
        let js = async_nats::jetstream::new(self.client.clone());
        js.publish(subject, commit::encode(&signed).0).await.unwrap().await.unwrap();
    }

    pub async fn events<E: DomainEvent>(&self, address: &AggregateRef) -> Vec<(Event, E)> {
        let stream = address.service.event_stream();
        let stored = read::tail(&self.client, &stream, &address.event_subject(), 1).await.unwrap();
        let signed = stored.iter().flat_map(|s| commit::decode(&self.keys, &s.payload).unwrap());
        signed.map(|s| (Event::clone(&s.event), s.event.decode().unwrap())).collect()
    }

    pub async fn messages(&self, talk: &Talk) -> Vec<MessageSent> {
        let events = self.events::<ConversationEvent>(&talk.address).await.into_iter();
        events
            .filter_map(|(_, e)| match e {
                ConversationEvent::MessageSent(sent) => Some(sent),
                _ => None,
            })
            .collect()
    }

    /// Who said what.
    pub async fn said(&self, talk: &Talk) -> Vec<(String, String)> {
        let messages = self.messages(talk).await;
        messages.iter().map(|m| (m.sender_id.clone(), talk.key.open(&m.content).unwrap())).collect()
    }

    /// Waits for an answer to the only message and gives it; there must be no other.
    pub async fn answer(&self, talk: &Talk) -> String {
        let waiting = async {
            loop {
                let replies: Vec<MessageSent> =
                    self.messages(talk).await.into_iter().filter(|m| m.run_id.is_some()).collect();
                if let Some(run_id) = replies.first().and_then(|r| r.run_id.clone()) {
                    let ended = self.run(&run_id).await.iter().any(is_end);
                    if ended {
                        return talk.key.open(&replies[0].content).unwrap();
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let answer = tokio::time::timeout(SOON, waiting).await;
        let Ok(answer) = answer else { panic!("no answer; said so far: {:?}", self.said(talk).await) };
        answer
    }

    pub async fn run(&self, run_id: &str) -> Vec<RuleRunEvent> {
        let run = AggregateRef::new(Service::Assistants, org(), "rule-run", run_id).unwrap();
        self.events::<RuleRunEvent>(&run).await.into_iter().map(|(_, e)| e).collect()
    }

    /// The run of the only message that was answered.
    pub async fn run_of(&self, talk: &Talk) -> String {
        self.messages(talk).await.iter().find_map(|m| m.run_id.clone()).unwrap()
    }

    /// The events of the only completion of a run.
    pub async fn completion(&self, run_id: &str) -> Vec<CompletionEvent> {
        let id = self.run(run_id).await.iter().find_map(|e| match e {
            RuleRunEvent::ActionRequested(e) => e.resolved_params_ref.strip_prefix("completion/").map(str::to_owned),
            _ => None,
        });
        let completion = AggregateRef::new(Service::Integrations, org(), "completion", id.unwrap()).unwrap();
        self.events::<CompletionEvent>(&completion).await.into_iter().map(|(_, e)| e).collect()
    }

    /// How many aggregates have events on these subjects of the assistants.
    pub async fn subjects(&self, filter: &str) -> usize {
        let js = async_nats::jetstream::new(self.client.clone());
        let stream = js.get_stream(Service::Assistants.event_stream()).await.unwrap();
        stream.info_with_subjects(filter).await.unwrap().count().await
    }

    pub async fn log(&self) -> Subscriber {
        let log = self.client.subscribe("symbia.evt.>").await.unwrap();
        self.client.flush().await.unwrap();
        log
    }

    pub async fn live(&self, talk: &Talk) -> Subscriber {
        let subject = format!("symbia.live.org.conversation.{}", talk.address.id);
        let live = self.client.subscribe(subject).await.unwrap();
        self.client.flush().await.unwrap();
        live
    }
}

/// The event type that the log shows next, of the conversation, run and completion of an exchange.
pub async fn until(log: &mut Subscriber, event_type: &str) -> async_nats::Message {
    let waiting = async {
        loop {
            let message = log.next().await.unwrap();
            if String::from_utf8_lossy(&message.payload).contains(event_type) {
                return message;
            }
        }
    };
    tokio::time::timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("{event_type} did not happen"))
}

pub fn is_end(event: &RuleRunEvent) -> bool {
    matches!(
        event,
        RuleRunEvent::RuleRunCompleted(_) | RuleRunEvent::RuleRunFailed(_) | RuleRunEvent::RuleRunCancelled(_)
    )
}

pub fn org() -> OrgId {
    "org".parse().unwrap()
}

pub fn ada() -> Actor {
    let orgs = vec![Membership { id: org(), role: Role::Member }];
    Actor { id: "ada".to_owned(), kind: ActorType::User, orgs, ..Actor::service("x") }
}

async fn secret_store(pool: PgPool) -> SecretStore {
    let kek = Zeroizing::new(std::array::from_fn(|i| u8::try_from(i).unwrap()));
    SecretStore::open(pool, KeyEncryptionKey::new(&kek).unwrap()).await.unwrap()
}

async fn parts(plan: &Plan) -> (Client, Sender, ContentKeys, Arc<Taking>) {
    let client = async_nats::connect(&plan.nats).await.unwrap();
    let bus = CommandBus::open(client.clone()).await.unwrap();
    let pool = PgPoolOptions::new().max_connections(8).connect(&plan.database).await.unwrap();
    let keys = Arc::clone(&plan.keys);
    let store = EventStore::new(client.clone(), Arc::clone(&keys), &StoreOptions::default());
    let decider = Decider::new(store, Handlers::all());
    let taking = Taking::new(decider.clone(), decider.here(Share::ReactorsOwn));
    bus.decide_here(taking.clone());
    let sender = Sender::new(bus, keys);
    (client, sender, ContentKeys::new(secret_store(pool).await), taking)
}

async fn run(client: Client, keys: Arc<KeyRing>, reactor: impl Reactor) {
    ReactorRunner::new(client, keys, Arc::new(reactor)).run(CancellationToken::new()).await;
}

async fn engine(plan: Plan) {
    let (client, sender, content_keys, _) = parts(&plan).await;
    let engine = RuleEngine::open(client.clone(), Arc::clone(&plan.keys), sender, content_keys).await.unwrap();
    run(client, plan.keys, engine).await;
}

async fn router(plan: Plan) {
    let (client, sender, content_keys, _) = parts(&plan).await;
    let metered = sender.clone();
    let router = routing(&plan, client.clone(), sender, content_keys).await;
    let Some(accounts) = plan.accounts else { return run(client, plan.keys, router).await };
    let meter = run(client.clone(), Arc::clone(&plan.keys), Meter::new(metered, Arc::clone(&accounts)));
    tokio::join!(meter, run(client, plan.keys, router));
}

async fn routing(plan: &Plan, client: Client, sender: Sender, content_keys: ContentKeys) -> LlmRouter {
    let providers = match &plan.model {
        Model::OpenAi(options) => Providers::default().with(OpenAi::new(*options.clone()).unwrap()),
        Model::Local => {
            let options = LocalOptions { patience: Duration::from_secs(5), ..LocalOptions::default() };
            Providers::default().with(LocalProvider::new(client.clone(), options))
        }
        Model::None => Providers::default(),
    };
    let options = RouterOptions { worker_id: Uuid::new_v4().to_string(), ..plan.router.clone() };
    let router = LlmRouter::open(client, Arc::clone(&plan.keys), sender, content_keys, providers, options);
    let router = router.await.unwrap();
    match &plan.accounts {
        Some(accounts) => router.with_accounts(Arc::clone(accounts)),
        None => router,
    }
}
