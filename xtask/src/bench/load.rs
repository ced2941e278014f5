//! Loading aggregates: from memory, by snapshot, after a restart of the broker; against reading their events.

use std::{hint::black_box, sync::Arc, time::Instant};

use anyhow::{Result, ensure};
use async_nats::Client;
use rand::seq::SliceRandom;
use symbia_commands::OutcomeStatus;
use symbia_events::{AggregateRef, KeyRing, Service};
use symbia_nats::{
    broker::Durability,
    read,
    store::{EventStore, Loaded},
};

use super::{
    Bench, Scale,
    ground::Ground,
    ledger::{self, Ledger},
    measure::{Lanes, Pairs, percentile},
    table::{Row, Target},
};

/// Rows of this group.
pub const ROWS: [&str; 5] = ["load_cold", "load_warm", "load_cached", "load_large", "load_large_tail"];
const EVENTS_EACH: usize = 20;
/// Cold reads of a subject's events load the whole stream into the broker: a few tell enough.
const RAW_COLD: usize = 20;

/// A broker whose log holds many aggregates of 20 events, interleaved, with their snapshots.
pub struct Stocked {
    /// The broker.
    pub ground: Ground,
    /// How many aggregates.
    pub aggregates: usize,
}

impl Stocked {
    async fn new(scale: &Scale) -> Result<Self> {
        let ground = Ground::open(Durability::Interval).await?;
        let aggregates = scale.events / EVENTS_EACH;
        let store = ground.store().await?;
        let writer = Writer { store, keys: Arc::clone(&ground.keys), text: ledger::text(&ground.keys).into() };
        let mut lanes = Lanes::deal((0..aggregates).map(ledger::address), 256);
        let (execute, store) = (writer.clone(), writer.store);
        lanes.run_times(EVENTS_EACH, move |ledger| execute.clone().execute(ledger, 1)).await?;
        store.flush().await;
        Ok(Stocked { ground, aggregates })
    }

    /// How many messages the log holds, of one event each until the large aggregate is written.
    pub async fn events(&self) -> Result<u64> {
        let jetstream = async_nats::jetstream::new(self.ground.connect().await?);
        Ok(symbia_nats::log::head(&jetstream, Service::Logging).await?.1)
    }
}

impl Bench {
    /// The stocked log; the first who asks waits for it.
    pub async fn stocked(&mut self) -> Result<Stocked> {
        match self.stocked.take() {
            Some(stocked) => Ok(stocked),
            None => Stocked::new(&self.scale).await,
        }
    }
}

#[derive(Clone)]
struct Writer {
    store: EventStore,
    keys: Arc<KeyRing>,
    text: Arc<str>,
}

impl Writer {
    async fn execute(self, ledger: AggregateRef, times: u32) -> Result<AggregateRef> {
        let command = ledger::command(&self.keys, &ledger, &self.text, times)?;
        let outcome = self.store.execute::<Ledger>(&ledger, &command, &ledger::actor()).await?;
        ensure!(outcome.status == OutcomeStatus::Accepted, "a command was refused: {outcome:?}");
        Ok(ledger)
    }
}

/// Measures the rows.
pub async fn run(bench: &mut Bench) -> Result<()> {
    let mut stocked = bench.stocked().await?;
    let mut sample: Vec<AggregateRef> = (0..stocked.aggregates).map(ledger::address).collect();
    sample.shuffle(&mut rand::rng());
    sample.truncate(bench.scale.samples * 2);

    if bench.wants(&["load_cold"]) {
        stocked.ground = stocked.ground.restart().await?;
        let store = stocked.ground.store().await?;
        let ours = load_each(&store, &sample[..bench.scale.samples]).await?;
        drop(store);
        stocked.ground = stocked.ground.restart().await?;
        let raw = read_each(&stocked.ground.connect().await?, &sample[..RAW_COLD]).await?;
        let mut pairs = Pairs::default();
        pairs.push(ours, raw);
        let what = "load an aggregate of 20 events, broker just restarted, p50 (raw: read its events)";
        bench.table.push(pairs.row("load_cold", what, "ms", Target::AtMost(1.0)));
    }
    let (store, client) = (stocked.ground.store().await?, stocked.ground.connect().await?);
    if bench.wants(&["load_warm"]) {
        // Until the broker has the stream in memory.
        read_each(&client, &sample).await?;
        let pairs = Pairs::take(
            &bench.scale,
            async || load_each(&store, &sample).await,
            async || read_each(&client, &sample).await,
        );
        let what = "the same, warm";
        bench.table.push(pairs.await?.row("load_warm", what, "ms", Target::AtMost(1.0)));
    }
    let writer = Writer { store, keys: Arc::clone(&stocked.ground.keys), text: "x".into() };
    if bench.wants(&["load_cached"]) {
        for ledger in &sample {
            writer.clone().execute(ledger.clone(), 1).await?;
        }
        let micros = load_each(&writer.store, &sample).await? * 1e3;
        push_plain(bench, "load_cached", "the same, from the worker's memory, p50".to_owned(), micros, "µs", 5.0);
    }
    if bench.wants(&["load_large", "load_large_tail"]) {
        load_large(bench).await?;
    }
    bench.stocked = Some(stocked);
    Ok(())
}

async fn load_large(bench: &mut Bench) -> Result<()> {
    const COMMIT: u32 = 100;
    let ground = Ground::open(Durability::Interval).await?;
    let large = ledger::address(usize::MAX);
    let writer = Writer {
        store: ground.store().await?,
        keys: Arc::clone(&ground.keys),
        text: ledger::text(&ground.keys).into(),
    };
    for _ in 0..bench.scale.large / COMMIT {
        writer.clone().execute(large.clone(), COMMIT).await?;
    }
    writer.store.flush().await;
    let reader = ground.store().await?;
    let loads = vec![large.clone(); 100];
    let millis = load_each(&reader, &loads).await?;
    let what = "load an aggregate of 100 000 events with snapshot, p50".to_owned();
    push_plain(bench, "load_large", what, millis, "ms", 5.0);

    // The worst that a lost worker leaves: as many events as one snapshot is behind the other.
    let lost = ground.store().await?;
    let writer = Writer { store: lost, ..writer };
    for _ in 1..COMMIT {
        writer.clone().execute(large.clone(), 1).await?;
    }
    let millis = load_each(&reader, &loads[..20]).await?;
    push_plain(bench, "load_large_tail", "the same, 99 events behind it".to_owned(), millis, "ms", 5.0);
    Ok(())
}

fn push_plain(bench: &mut Bench, name: &'static str, what: String, ours: f64, unit: &'static str, most: f64) {
    bench.table.push(Row { name, what, ours, raw: None, ratio: None, unit, target: Target::AtMost(most) });
}

/// Median time of a load, in milliseconds.
async fn load_each(store: &EventStore, ledgers: &[AggregateRef]) -> Result<f64> {
    let mut times = Vec::with_capacity(ledgers.len());
    for ledger in ledgers {
        let began = Instant::now();
        let loaded: Loaded<Ledger> = black_box(store.load(ledger).await?);
        times.push(began.elapsed());
        ensure!(loaded.version as usize >= EVENTS_EACH, "{ledger} has {} events", loaded.version);
    }
    Ok(percentile(&times, 0.5).as_secs_f64() * 1e3)
}

/// Median time of reading an aggregate's events by batched direct get, in milliseconds.
async fn read_each(client: &Client, ledgers: &[AggregateRef]) -> Result<f64> {
    let mut times = Vec::with_capacity(ledgers.len());
    for ledger in ledgers {
        let began = Instant::now();
        let messages = read::tail(client, &Service::Logging.event_stream(), &ledger.event_subject(), 1).await?;
        times.push(began.elapsed());
        ensure!(messages.len() >= EVENTS_EACH, "{ledger} has {} messages", messages.len());
    }
    Ok(percentile(&times, 0.5).as_secs_f64() * 1e3)
}
