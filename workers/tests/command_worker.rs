//! The command bus end to end on a real broker: outcomes, idempotency, claims, races, refusals, crashes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use symbia_commands::{
    Actor, Aggregate, Claim, CommandEnvelope, Decision, Outcome, OutcomeStatus, Rejection, domain_commands,
};
use symbia_events::{AggregateRef, CommandId, KeyRing, OrgId, Service, domain_events};
use symbia_nats::{
    append::Grouping,
    broker::{Broker, BrokerOptions, Durability},
    bus::{BusError, CommandBus},
    store::{EventStore, Loaded, StoreOptions},
    timers::{TimerCommand, Timers, When},
    topology,
};
use symbia_workers::{
    command::{CommandWorker, Decider, Handlers, Options},
    timer::TimerWorker,
};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

domain_events! {
    /// Events of the aggregate under test.
    CounterEvent: Logging / "counter" {
        Counted = "symbia.logging.counter.counted.v1" { by: u64, total: u64 }
    }
}
domain_commands! {
    /// Commands of the aggregate under test.
    CounterCommand: Logging / "counter" {
        Count = "symbia.cmd.logging.count.v1" { by: u64, #[serde(default)] name: Option<String> }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Counter {
    total: u64,
}

impl Aggregate for Counter {
    const STATE_VERSION: u32 = 1;
    type Command = CounterCommand;
    type Event = CounterEvent;

    // Those that end in 2 say that they are the first.
    fn begins(command: &CounterCommand) -> bool {
        let CounterCommand::Count(c) = command;
        c.by % 10 == 2
    }

    fn apply(&mut self, event: &CounterEvent) {
        let CounterEvent::Counted(e) = event;
        self.total += e.by;
    }

    fn decide(
        &self,
        command: CounterCommand,
        by: &Actor,
        _: OffsetDateTime,
    ) -> Result<Decision<CounterEvent>, Rejection> {
        let CounterCommand::Count(c) = command;
        if c.by == 0 {
            return Err(Rejection::invalid("by: at least 1"));
        }
        if c.by > self.total + 100 {
            return Err(Rejection::invalid("by: at most 100 more than the total"));
        }
        let decision = Decision::one(Counted { by: c.by, total: self.total + c.by });
        Ok(match c.name {
            Some(name) => decision.claiming(Claim {
                tenant: OrgId::global(),
                name: format!("name:{name}"),
                holder: by.id.clone(),
                taken: "NAME_TAKEN",
            }),
            None => decision,
        })
    }
}

struct House {
    broker: Broker,
    client: async_nats::Client,
    keys: Arc<KeyRing>,
    bus: CommandBus,
    stop: CancellationToken,
    workers: Vec<tokio::task::JoinHandle<()>>,
    options: StoreOptions,
    _dir: tempfile::TempDir,
}

impl House {
    async fn open(durability: Durability, workers: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = BrokerOptions::new(dir.path());
        options.durability = durability;
        let broker = Broker::start(options).await.expect("nats-server 2.14 or newer on PATH");
        let client = async_nats::connect(broker.url()).await.unwrap();
        let js = async_nats::jetstream::new(client.clone());
        topology::ensure(&js, 1).await.unwrap();
        topology::ensure(&js, 1).await.unwrap();
        let keys = Arc::new(KeyRing::generate(OffsetDateTime::now_utc()));
        let grouping = if durability == Durability::Fsync { Grouping::Group } else { Grouping::Single };
        let options = StoreOptions { grouping, cache: 1000 };
        let bus = CommandBus::open(client.clone()).await.unwrap();
        let mut house = House {
            broker,
            client,
            keys,
            bus,
            stop: CancellationToken::new(),
            workers: Vec::new(),
            options,
            _dir: dir,
        };
        for _ in 0..workers {
            house.start_worker().await;
        }
        house
    }

    async fn start_worker(&mut self) {
        // The broker may just have been killed: then another one is about to be there.
        let again = tokio::time::Instant::now() + Duration::from_secs(20);
        let client = loop {
            match async_nats::connect(self.broker.url()).await {
                Ok(client) => break client,
                Err(error) => assert!(tokio::time::Instant::now() < again, "no broker: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let store = EventStore::new(client.clone(), Arc::clone(&self.keys), &self.options);
        let decider = Decider::new(store, Handlers::default().with::<Counter>());
        let worker = CommandWorker::new(client, decider, Options::default());
        let stop = self.stop.clone();
        self.workers.push(tokio::spawn(worker.run(stop)));
    }

    fn store(&self) -> EventStore {
        EventStore::new(self.client.clone(), Arc::clone(&self.keys), &self.options)
    }

    fn envelope(&self, counter: &AggregateRef, count: Count, id: CommandId) -> CommandEnvelope {
        let actor = Actor::service("test");
        let command = CounterCommand::from(count);
        CommandEnvelope::new(&self.keys, counter, &command, &actor, id, OffsetDateTime::now_utc()).unwrap()
    }

    async fn count(&self, counter: &AggregateRef, by: u64, id: CommandId) -> Outcome {
        let envelope = self.envelope(counter, Count { by, name: None }, id);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            match self.bus.send(counter, &envelope, Duration::from_secs(60)).await {
                // The broker was killed, and the connection is not back yet: nothing was sent.
                Err(BusError::Unavailable) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                sent => return sent.unwrap(),
            }
        }
    }

    async fn close(self) {
        self.stop.cancel();
        for worker in self.workers {
            worker.await.unwrap();
        }
        self.broker.stop().await;
    }
}

fn counter(id: &str) -> AggregateRef {
    AggregateRef::new(Service::Logging, OrgId::global(), "counter", id).unwrap()
}

fn code(outcome: &Outcome) -> &str {
    outcome.rejection.as_ref().map_or("", |r| r.code.as_ref())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_decided_once_however_often_it_is_sent() {
    let house = House::open(Durability::Interval, 1).await;
    let (id, address) = (CommandId::random(), counter("a"));
    let first = house.count(&address, 2, id).await;
    assert_eq!(first.status, OutcomeStatus::Accepted);
    let second = house.count(&address, 2, id).await;
    assert!(second.repeated);
    assert_eq!((second.status, &second.events, second.position), (first.status, &first.events, first.position));
    let refused = house.count(&address, 0, CommandId::random()).await;
    assert_eq!(code(&refused), "VALIDATION_FAILED");

    // A worker that knows nothing (another process, the day after) recognises it too: from the tail, then from a snapshot.
    for flush in [false, true] {
        let store = house.store();
        if flush {
            house.count(&address, 1, CommandId::random()).await;
        }
        let envelope = house.envelope(&address, Count { by: 2, name: None }, id);
        let again = store.execute::<Counter>(&address, &envelope, &Actor::service("test")).await.unwrap();
        assert!(again.repeated);
        store.flush().await;
    }
    let loaded: Loaded<Counter> = house.store().load(&address).await.unwrap();
    assert_eq!((loaded.state.total, loaded.version), (3, 2));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_refused_on_the_word_of_a_memory_that_the_log_has_overtaken() {
    let house = House::open(Durability::Interval, 0).await;
    let (address, by, one, other) = (counter("a"), Actor::service("test"), house.store(), house.store());
    let count = async |store: &EventStore, by_how_much| {
        let envelope = house.envelope(&address, Count { by: by_how_much, name: None }, CommandId::random());
        store.execute::<Counter>(&address, &envelope, &by).await.unwrap()
    };
    for (store, by) in [(&one, 1), (&other, 100), (&one, 150)] {
        assert_eq!(count(store, by).await.status, OutcomeStatus::Accepted, "{by}");
    }
    assert_eq!(code(&count(&other, 352).await), "VALIDATION_FAILED", "more than 100 above 251");
    assert_eq!(house.store().load::<Counter>(&address).await.unwrap().state.total, 251);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_says_that_it_is_first_is_decided_on_what_there_is_all_the_same() {
    let house = House::open(Durability::Interval, 0).await;
    let (address, by) = (counter("a"), Actor::service("test"));
    // Each by a store that knows nothing.
    let count = async |by_how_much, id| {
        let envelope = house.envelope(&address, Count { by: by_how_much, name: None }, id);
        house.store().execute::<Counter>(&address, &envelope, &by).await.unwrap()
    };
    let ids = [0; 4].map(|_| CommandId::random());
    for (index, by) in [12, 2, 112].into_iter().enumerate() {
        assert_eq!(count(by, ids[index]).await.status, OutcomeStatus::Accepted, "{by}, the last by more than 100");
    }
    let again = count(2, ids[1]).await;
    assert_eq!((again.repeated, again.events[0].version), (true, 2));
    assert_eq!(code(&count(232, ids[3]).await), "VALIDATION_FAILED", "more than 100 above 126");
    let loaded = house.store().load::<Counter>(&address).await.unwrap();
    assert_eq!((loaded.state.total, loaded.version), (126, 3));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_expired_foreign_and_unknown_commands_are_refused_with_their_reason() {
    let house = House::open(Durability::Interval, 1).await;
    let address = counter("a");
    let good = house.envelope(&address, Count { by: 1, name: None }, CommandId::random());
    let send = |envelope: CommandEnvelope| {
        let (bus, address) = (&house.bus, &address);
        async move { bus.send(address, &envelope, Duration::from_secs(20)).await.unwrap() }
    };
    let fresh = || CommandEnvelope { id: CommandId::random(), ..good.clone() };
    let stranger = Arc::new(KeyRing::generate(OffsetDateTime::now_utc()));
    let now = OffsetDateTime::now_utc();
    let forged = Actor::service("test").assert(&stranger, now, time::Duration::minutes(5));
    let old = Actor::service("test").assert(&house.keys, now - time::Duration::hours(1), time::Duration::minutes(5));
    let cases = [
        (CommandEnvelope { actorassertion: None, ..fresh() }, "AUTH_REQUIRED"),
        (CommandEnvelope { actorassertion: Some(forged), ..fresh() }, "TOKEN_INVALID"),
        (CommandEnvelope { actorassertion: Some(old), ..fresh() }, "TOKEN_EXPIRED"),
        (CommandEnvelope { orgid: "other-org".parse().unwrap(), ..fresh() }, "WRONG_TENANT"),
        (CommandEnvelope { time: now + time::Duration::hours(1), ..fresh() }, "CLOCK_SKEW"),
        (CommandEnvelope { time: now - time::Duration::hours(25), ..fresh() }, "CLOCK_SKEW"),
        (CommandEnvelope { command_type: "symbia.cmd.logging.explode.v1".into(), ..fresh() }, "UNKNOWN_COMMAND"),
        (CommandEnvelope { data: serde_json::value::to_raw_value(&"x").unwrap(), ..fresh() }, "VALIDATION_FAILED"),
    ];
    for (envelope, expected) in cases {
        assert_eq!(code(&send(envelope).await), expected);
    }
    let tenant = AggregateRef::new(Service::Logging, "org-a".parse().unwrap(), "counter", "a").unwrap();
    let outsider = Actor { kind: symbia_events::ActorType::User, ..Actor::service("eve") };
    let command = CounterCommand::from(Count { by: 1, name: None });
    let envelope = CommandEnvelope::new(&house.keys, &tenant, &command, &outsider, CommandId::random(), now).unwrap();
    let outcome = house.bus.send(&tenant, &envelope, Duration::from_secs(20)).await.unwrap();
    assert_eq!(code(&outcome), "ORG_ACCESS_DENIED");

    house.client.publish("symbia.cmd.logging.global.counter.a", "no json".into()).await.unwrap();
    let js = async_nats::jetstream::new(house.client.clone());
    let dead = js.get_stream(topology::DEAD_LETTERS).await.unwrap();
    let waiting = async {
        while dead.get_info().await.unwrap().state.messages == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("the malformed command in the dead letters");
    assert_eq!(house.store().load::<Counter>(&address).await.unwrap().version, 0);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_has_one_holder_however_many_race_for_it() {
    for durability in [Durability::Interval, Durability::Fsync] {
        let house = House::open(durability, 2).await;
        let outcomes = stream::iter(0..20).map(|n| {
            let house = &house;
            async move {
                let address = counter(&format!("racer-{n}"));
                let actor = Actor::service(&format!("racer-{n}"));
                let command = CounterCommand::from(Count { by: 1, name: Some("gold".to_owned()) });
                let now = OffsetDateTime::now_utc();
                let envelope =
                    CommandEnvelope::new(&house.keys, &address, &command, &actor, CommandId::random(), now).unwrap();
                house.bus.send(&address, &envelope, Duration::from_secs(60)).await.unwrap()
            }
        });
        let outcomes: Vec<Outcome> = outcomes.buffer_unordered(20).collect().await;
        let won = outcomes.iter().filter(|o| o.status == OutcomeStatus::Accepted).count();
        let lost = outcomes.iter().filter(|o| code(o) == "NAME_TAKEN").count();
        assert_eq!((won, lost), (1, 19), "{outcomes:?}");
        house.close().await;
    }
}

// Straight to the stores, past the partitions: two workers that both believe the aggregate is theirs.
#[tokio::test(flavor = "multi_thread")]
async fn two_workers_racing_on_one_aggregate_lose_no_update() {
    let house = House::open(Durability::Interval, 0).await;
    let address = counter("contested");
    let rounds = 5000;
    let race = |store: EventStore| {
        let (house, address) = (&house, &address);
        async move {
            let mut accepted = 0u64;
            for _ in 0..rounds {
                let envelope = house.envelope(address, Count { by: 1, name: None }, CommandId::random());
                loop {
                    let outcome = store.execute::<Counter>(address, &envelope, &Actor::service("test")).await.unwrap();
                    if outcome.status == OutcomeStatus::Accepted {
                        accepted += 1;
                        break;
                    }
                    assert_eq!(code(&outcome), "CONFLICT");
                }
            }
            accepted
        }
    };
    let (one, two) = tokio::join!(race(house.store()), race(house.store()));
    let loaded: Loaded<Counter> = house.store().load(&address).await.unwrap();
    assert_eq!(one + two, 2 * rounds);
    assert_eq!((loaded.state.total, u64::from(loaded.version)), (2 * rounds, 2 * rounds));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_sends_its_command_once_and_a_cancelled_one_never() {
    let house = House::open(Durability::Interval, 1).await;
    let timer_worker = TimerWorker::new(house.client.clone(), Arc::clone(&house.keys)).run(house.stop.clone());
    let timer_worker = tokio::spawn(timer_worker);
    let timers = Timers::new(async_nats::jetstream::new(house.client.clone()));
    let command = |id: &str| TimerCommand {
        aggregate: counter(id),
        command_type: "symbia.cmd.logging.count.v1".to_owned(),
        data: serde_json::value::to_raw_value(&serde_json::json!({ "by": 1 })).unwrap(),
    };
    let soon = OffsetDateTime::now_utc() + time::Duration::seconds(2);
    timers.command("kept", &When::At(soon), &command("kept")).await.unwrap();
    timers.command("cancelled", &When::At(soon), &command("cancelled")).await.unwrap();
    timers.command("later", &When::At(soon + time::Duration::seconds(2)), &command("later")).await.unwrap();
    timers.cancel("cancelled").await.unwrap();
    let store = house.store();
    let fired = async {
        while store.load::<Counter>(&counter("later")).await.unwrap().version == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), fired).await.expect("the later timer");
    assert_eq!(store.load::<Counter>(&counter("kept")).await.unwrap().version, 1);
    assert_eq!(store.load::<Counter>(&counter("cancelled")).await.unwrap().version, 0);
    house.close().await;
    timer_worker.await.unwrap();
}

// kill -9 of the broker and loss of a worker under load: what was acknowledged is there once.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_or_done_twice_when_broker_and_workers_die() {
    let rounds = if std::env::var_os("SYMBIA_TEST_LONG").is_some() { 50 } else { 5 };
    let mut house = House::open(Durability::Fsync, 2).await;
    let mut expected = [0u64; 16];
    for round in 0..rounds {
        let load = stream::iter(0..400usize).map(|n| {
            let house = &house;
            async move {
                let target = n % 16;
                let outcome = house.count(&counter(&format!("c{target}")), 1, CommandId::random()).await;
                assert_eq!(outcome.status, OutcomeStatus::Accepted, "{outcome:?}");
                target
            }
        });
        let kill = async {
            tokio::time::sleep(Duration::from_millis(20 + 37 * round % 300)).await;
            house.broker.kill();
        };
        let (done, ()) = tokio::join!(load.buffer_unordered(32).collect::<Vec<_>>(), kill);
        done.into_iter().for_each(|target| expected[target] += 1);
        // One of the two workers is gone without a word; a third takes its place.
        house.workers.remove(0).abort();
        house.start_worker().await;
    }
    let store = house.store();
    for (target, total) in expected.iter().enumerate() {
        let address = counter(&format!("c{target}"));
        let loaded: Loaded<Counter> = store.load(&address).await.unwrap();
        assert_eq!(loaded.state.total, *total, "counter {target}");
        let tail = symbia_nats::read::tail(&house.client, "SYMBIA_EVT_LOGGING", &address.event_subject(), 1).await;
        let ids: HashSet<CommandId> = tail
            .unwrap()
            .iter()
            .map(|m| symbia_events::commit::decode(&house.keys, &m.payload).unwrap()[0].event.commandid)
            .collect();
        assert_eq!(ids.len() as u64, *total, "each command once");
    }
    house.close().await;
}
