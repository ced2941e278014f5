//! A person asks, an assistant answers: every role in one process, a model that answers at once. What is left is ours.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use sqlx::{PgPool, postgres::PgPoolOptions};
use symbia_commands::{
    Actor, DomainCommand, Membership, OutcomeStatus, Role,
    assistants::seed::ASSISTANT_KEY,
    messaging::{ConversationCommand, CreateConversation, NewParticipant, SendMessage},
};
use symbia_events::{
    ActorType, AggregateRef, CommandId, OrgId, Position, Service, SubjectKey,
    integrations::DroppedParam,
    messaging::{ConversationType, ParticipantType, Priority},
};
use symbia_nats::{broker::Durability, bus::CommandBus, log::LogReader};
use symbia_projections::{
    Projection, ProjectorHandle, ProjectorOptions,
    assistants::Assistants,
    fixed_keys,
    integrations::Integrations,
    messaging::{Messaging, content_key_id},
    migrate,
    secrets::{KeyEncryptionKey, SecretStore},
    server::{DatabaseServer, DatabaseServerOptions},
};
use symbia_workers::{
    assistants::{RuleEngine, load_seed},
    command::{Handlers, Share},
    content_keys::ContentKeys,
    integrations::{Answer, ApiKey, Delta, Deltas, Fault, LlmRouter, Prompt, Provider, Providers, RouterOptions},
    reactor::{Reactor, ReactorRunner},
    sender::Sender,
};
use tokio::{sync::oneshot, task::JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    Bench,
    ground::{Ground, Worker},
    measure::{Lanes, percentile},
    table::{Row, Target},
};

/// Rows of this group.
pub const ROWS: [&str; 4] = ["fsync_exchange_p50", "fsync_exchange_p99", "fsync_exchanges_200", "exchanges_200"];
const CONVERSATIONS: usize = 200;
const PATIENCE: Duration = Duration::from_secs(60);

/// A model that answers at once, and when it was asked and had answered, by the question.
#[derive(Clone, Default)]
struct Instantly(Arc<Mutex<HashMap<String, (Instant, Instant)>>>);

impl Instantly {
    fn worked_on(&self, question: &str) -> Option<(Instant, Instant)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(question)
    }
}

#[async_trait]
impl Provider for Instantly {
    fn key(&self) -> &'static str {
        "instant"
    }

    fn default_model(&self) -> &str {
        "instant"
    }

    fn dropped(&self, _: &Prompt) -> Vec<DroppedParam> {
        Vec::new()
    }

    async fn complete(&self, prompt: &Prompt, _: Option<&ApiKey>, deltas: Deltas<'_>) -> Result<Answer, Fault> {
        let asked = Instant::now();
        deltas(0, Delta::Text("four"));
        if let Some(turn) = prompt.turns.last() {
            let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            times.insert(turn.content.clone(), (asked, Instant::now()));
        }
        Ok(Answer { text: "four".to_owned(), ..Answer::empty("instant") })
    }
}

type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<Position>>>>;

/// A conversation of one person with the assistant.
#[derive(Clone, Debug)]
struct Talk {
    address: AggregateRef,
    key: SubjectKey,
}

/// Every role that an exchange needs.
struct House {
    sender: Sender,
    secrets: SecretStore,
    model: Instantly,
    // Who waits for the reply in a conversation.
    waiting: Waiting,
    messages: Arc<ProjectorHandle>,
    others: Vec<ProjectorHandle>,
    pool: PgPool,
    database: DatabaseServer,
    worker: Worker,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    _ground: Ground,
}

impl House {
    async fn open(durability: Durability) -> Result<Self> {
        let ground = Ground::open(durability).await?;
        let database = DatabaseServer::start(DatabaseServerOptions::new(ground.dir().join("postgres"))).await?;
        let pool = PgPoolOptions::new().max_connections(16).connect(&database.url()).await?;
        migrate(&pool, &[]).await?;
        let kek = Zeroizing::new(std::array::from_fn(|i| u8::try_from(i).unwrap_or(0)));
        let secrets = SecretStore::open(pool.clone(), KeyEncryptionKey::new(&kek)?).await?;
        let messaging = Messaging::new(secrets.clone());
        migrate(&pool, &[&messaging, &Assistants, &Integrations]).await?;
        let worker = ground.worker(Handlers::all()).await?;
        let bus = CommandBus::open(ground.connect().await?).await?;
        bus.decide_here(worker.decider.here(Share::All));
        load_seed(bus.clone(), Arc::clone(&ground.keys)).await?;

        let (keys, stop, mut tasks) = (Arc::clone(&ground.keys), CancellationToken::new(), JoinSet::new());
        let (model, content_keys) = (Instantly::default(), ContentKeys::new(secrets.clone()));
        let client = ground.connect().await?;
        let sender = Sender::new(bus, Arc::clone(&keys));
        let (by, texts) = (sender.clone(), content_keys.clone());
        let engine = RuleEngine::open(client.clone(), Arc::clone(&keys), by.clone(), texts).await?;
        let providers = Providers::default().with(model.clone());
        let options = RouterOptions::default();
        let router = LlmRouter::open(client.clone(), Arc::clone(&keys), by, content_keys, providers, options).await?;
        let reactors: [Arc<dyn Reactor>; 2] = [Arc::new(engine), Arc::new(router)];
        for reactor in reactors {
            let runner = ReactorRunner::new(client.clone(), Arc::clone(&keys), reactor);
            tasks.spawn(runner.run(stop.clone()));
        }
        let jetstream = async_nats::jetstream::new(ground.connect().await?);
        let start = |projection: Arc<dyn Projection>| {
            let keys = fixed_keys(ground.keys.as_ref().clone());
            ProjectorOptions::new(pool.clone(), jetstream.clone(), keys).build(projection).start()
        };
        let messages = Arc::new(start(Arc::new(messaging)));
        let others = vec![start(Arc::new(Assistants)), start(Arc::new(Integrations))];
        let waiting = Waiting::default();
        let log = LogReader::open(jetstream.clone(), Service::Messaging, 0, Vec::new()).await?;
        tasks.spawn(watch(log, Arc::clone(&waiting)));
        Ok(House {
            sender,
            secrets,
            model,
            waiting,
            messages,
            others,
            pool,
            database,
            worker,
            stop,
            tasks,
            _ground: ground,
        })
    }

    async fn talk(&self) -> Result<Talk> {
        let id = Uuid::new_v4().to_string();
        let key = SubjectKey::generate(content_key_id(org()?.as_str(), &id));
        self.secrets.put_subject_key(&key).await?;
        let participant = |id: String, principal_type| NewParticipant {
            participant_id: Uuid::new_v4().to_string(),
            principal_id: id,
            principal_type,
            entity_id: None,
        };
        let create = CreateConversation {
            conversation_id: id.clone(),
            conversation_type: ConversationType::Private,
            name: None,
            description: None,
            org_id: org()?.to_string(),
            metadata: None,
            content_key_id: key.kid().to_owned(),
            owner: participant("ada".to_owned(), ParticipantType::User),
            participants: vec![participant(format!("assistant:{ASSISTANT_KEY}"), ParticipantType::Agent)],
        };
        let address = AggregateRef::new(Service::Messaging, org()?, "conversation", id)?;
        send(&self.sender, &address, &ConversationCommand::from(create)).await?;
        Ok(Talk { address, key })
    }

    fn asker(&self) -> Asker {
        Asker {
            sender: self.sender.clone(),
            model: self.model.clone(),
            waiting: Arc::clone(&self.waiting),
            messages: Arc::clone(&self.messages),
        }
    }

    async fn close(mut self) -> Result<()> {
        self.stop.cancel();
        self.worker.stop().await?;
        self.tasks.shutdown().await;
        for projector in self.others {
            projector.stop().await;
        }
        drop(self.messages);
        self.pool.close().await;
        self.database.stop().await;
        Ok(())
    }
}

/// Tells whoever waits in a conversation of the reply in it.
async fn watch(mut log: LogReader, waiting: Waiting) {
    while let Ok(batch) = log.next_batch(512, PATIENCE).await {
        for message in batch {
            // Only a reply names the run that it comes from.
            let is_reply = memchr::memmem::find(&message.payload, br#""runId":""#).is_some();
            let Some(id) = message.subject.rsplit('.').next().filter(|_| is_reply) else { continue };
            let waiter = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
            let position = Position { service: Service::Messaging, sequence: message.sequence };
            waiter.map(|waiter| waiter.send(position));
        }
    }
}

/// Asks and waits until the reply can be read.
#[derive(Clone)]
struct Asker {
    sender: Sender,
    model: Instantly,
    waiting: Waiting,
    messages: Arc<ProjectorHandle>,
}

impl Asker {
    /// One exchange; how long it took without the model.
    async fn ask(self, talk: &Talk) -> Result<Duration> {
        let question = format!("what is 2+2, {}?", Uuid::new_v4());
        let (told, reply) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(talk.address.id.clone(), told);
        let message = SendMessage {
            message_id: Uuid::new_v4().to_string(),
            content: talk.key.seal(&question),
            content_digest: talk.key.digest(&question),
            content_type: "text".to_owned(),
            reply_to: None,
            run_id: None,
            trace_id: None,
            priority: Priority::Normal,
            interruptible: true,
            preempted_by: None,
            metadata: None,
        };
        let began = Instant::now();
        send(&self.sender, &talk.address, &ConversationCommand::from(message)).await?;
        let position = tokio::time::timeout(PATIENCE, reply).await.context("no reply")??;
        ensure!(self.messages.wait_for(position, PATIENCE).await, "the reply at {position} does not become visible");
        let took = began.elapsed();
        let (asked, answered) = self.model.worked_on(&question).context("the model was not asked")?;
        Ok(took.saturating_sub(answered - asked))
    }
}

/// Measures the rows.
pub async fn run(bench: &mut Bench) -> Result<()> {
    if bench.wants(&ROWS[..3]) {
        let house = House::open(Durability::Fsync).await?;
        if bench.wants(&ROWS[..2]) {
            latency(bench, &house).await?;
        }
        if bench.wants(&ROWS[2..3]) {
            let rate = side_by_side(bench, &house).await?;
            push(bench, ROWS[2], "fsync: exchanges, 200 conversations at once, none lost", rate, "/s", Target::Shown);
        }
        house.close().await?;
    }
    if bench.wants(&ROWS[3..]) {
        let house = House::open(Durability::Interval).await?;
        let rate = side_by_side(bench, &house).await?;
        let target = Target::AtLeast(500.0);
        push(bench, ROWS[3], "exchanges, 200 conversations at once, none lost", rate, "/s", target);
        house.close().await?;
    }
    Ok(())
}

async fn latency(bench: &mut Bench, house: &House) -> Result<()> {
    let (talk, mut took) = (house.talk().await?, Vec::new());
    for _ in 0..bench.scale.samples {
        took.push(house.asker().ask(&talk).await?);
    }
    for (name, share, most) in [(ROWS[0], 0.5, 25.0), (ROWS[1], 0.99, 80.0)] {
        let of = name.trim_start_matches("fsync_exchange_");
        let what = format!("fsync: question to visible reply, the model's time taken off, {of}");
        push(bench, name, &what, percentile(&took, share).as_secs_f64() * 1e3, "ms", Target::AtMost(most));
    }
    Ok(())
}

async fn side_by_side(bench: &Bench, house: &House) -> Result<f64> {
    let mut talks = Vec::new();
    for _ in 0..CONVERSATIONS {
        talks.push(house.talk().await?);
    }
    let (mut lanes, asker) = (Lanes::deal(talks, CONVERSATIONS), house.asker());
    let ask = move |talk: Talk| {
        let asker = asker.clone();
        async move { asker.ask(&talk).await.map(|_| talk) }
    };
    // The first exchange of each makes what the others find in memory.
    lanes.run_times(1, ask.clone()).await?;
    Ok(lanes.run(bench.scale.round * 4, ask).await?.rate)
}

fn push(bench: &mut Bench, name: &'static str, what: &str, ours: f64, unit: &'static str, target: Target) {
    bench.table.push(Row { name, what: what.to_owned(), ours, raw: None, ratio: None, unit, target });
}

async fn send(sender: &Sender, to: &AggregateRef, command: &impl DomainCommand) -> Result<()> {
    let orgs = vec![Membership { id: org()?, role: Role::Member }];
    let ada = Actor { id: "ada".to_owned(), kind: ActorType::User, orgs, ..Actor::service("bench") };
    let outcome = sender.send(None, to, command, &ada, CommandId::random()).await?;
    ensure!(outcome.status == OutcomeStatus::Accepted, "a command was refused: {outcome:?}");
    Ok(())
}

fn org() -> Result<OrgId> {
    Ok("org".parse()?)
}
