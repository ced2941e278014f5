//! Commands end to end against a toy that does the least: core request, sign, append, reply.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use async_nats::{Client, HeaderMap, Message, jetstream};
use futures::StreamExt;
use symbia_commands::OutcomeStatus;
use symbia_events::{AggregateRef, KeyRing, commit};
use symbia_nats::{broker::Durability, bus::CommandBus};
use tokio::{sync::Mutex, task::JoinHandle};

use super::{
    Bench,
    append::AGGREGATES,
    ground::Ground,
    ledger::{self, Noted},
    measure::{Lanes, Pairs},
    table::Target,
};

/// Rows of this group.
pub const ROWS: [&str; 2] = ["command_round_trip", "commands_256"];
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends commands as the API does.
#[derive(Clone)]
pub struct Sender {
    bus: CommandBus,
    keys: Arc<KeyRing>,
    text: Arc<str>,
}

impl Sender {
    /// A sender with a connection of its own.
    pub async fn open(ground: &Ground) -> Result<Self> {
        let bus = CommandBus::open(ground.connect().await?).await?;
        Ok(Sender { bus, keys: Arc::clone(&ground.keys), text: ledger::text(&ground.keys).into() })
    }

    /// Sends one command and waits for its outcome.
    pub async fn send(self, ledger: AggregateRef) -> Result<AggregateRef> {
        let command = ledger::command(&self.keys, &ledger, &self.text, 1)?;
        let outcome = self.bus.send(&ledger, &command, PATIENCE).await?;
        ensure!(outcome.status == OutcomeStatus::Accepted, "a command was refused: {outcome:?}");
        Ok(ledger)
    }
}

struct ToyHead {
    subject: String,
    version: u32,
    hash: String,
    sequence: u64,
}

/// The least that gives an answer once a signed event is stored.
struct Toy {
    client: Client,
    jetstream: jetstream::Context,
    keys: Arc<KeyRing>,
    text: String,
    heads: Vec<Mutex<ToyHead>>,
}

impl Toy {
    async fn start(ground: &Ground) -> Result<JoinHandle<()>> {
        let client = ground.connect().await?;
        let head = |index| ToyHead {
            subject: format!("symbia.evt.network.global.toy.{index}"),
            version: 0,
            hash: symbia_events::GENESIS.to_owned(),
            sequence: 0,
        };
        let toy = Arc::new(Toy {
            jetstream: jetstream::new(client.clone()),
            keys: Arc::clone(&ground.keys),
            text: ledger::text(&ground.keys),
            heads: (0..AGGREGATES).map(|index| Mutex::new(head(index))).collect(),
            client,
        });
        let mut requests = toy.client.subscribe("toy.*").await?;
        toy.client.flush().await?;
        Ok(tokio::spawn(async move {
            while let Some(request) = requests.next().await {
                let toy = Arc::clone(&toy);
                tokio::spawn(async move {
                    if let Err(error) = toy.answer(request).await {
                        eprintln!("toy: {error:#}");
                    }
                });
            }
        }))
    }

    async fn answer(&self, request: Message) -> Result<()> {
        let index: usize = request.subject.trim_start_matches("toy.").parse()?;
        let mut head = self.heads.get(index).context("no such head")?.lock().await;
        let note = Noted { text: self.text.clone() };
        let signed = ledger::sign(&self.keys, &ledger::address(index), head.version, &head.hash, note)?;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", signed.event.id.to_string());
        headers.insert("Nats-Expected-Last-Subject-Sequence", head.sequence.to_string());
        headers.insert("Content-Type", commit::CONTENT_TYPE_ONE);
        let sent = self.jetstream.publish_with_headers(head.subject.clone(), headers, signed.bytes).await?;
        head.sequence = sent.await?.sequence;
        head.version += 1;
        head.hash = signed.hash;
        let reply = request.reply.context("no reply subject")?;
        Ok(self.client.publish(reply, head.sequence.to_string().into()).await?)
    }
}

/// Measures the rows.
pub async fn run(bench: &mut Bench) -> Result<()> {
    let ground = Ground::open(Durability::Interval).await?;
    let toy = Toy::start(&ground).await?;
    let worker = ground.worker(ledger::handlers()).await?;
    let sender = Sender::open(&ground).await?;
    let client = ground.connect().await?;
    let request = serde_json::to_vec(&ledger::command(&ground.keys, &ledger::address(0), &sender.text, 1)?)?;
    let request = bytes::Bytes::from(request);
    let ask = move |index: usize| {
        let (client, request) = (client.clone(), request.clone());
        async move {
            client.request(format!("toy.{index}"), request).await?;
            anyhow::Ok(index)
        }
    };
    // Each aggregate is known to the worker before anything counts, as the toy knows its heads.
    let mut lanes = Lanes::deal((0..AGGREGATES).map(ledger::address), 256);
    let (warm, mut one) = (sender.clone(), Lanes::deal((0..AGGREGATES).map(ledger::address), 1));
    lanes.run_times(1, move |ledger| warm.clone().send(ledger)).await?;

    let (mut toy_lanes, mut toy_one) = (Lanes::deal(0..AGGREGATES, 256), Lanes::deal(0..AGGREGATES, 1));
    let round = bench.scale.round;
    if bench.wants(&ROWS[..1]) {
        let pairs = Pairs::take(
            &bench.scale,
            async || {
                let sender = sender.clone();
                Ok(one.run(round, move |ledger| sender.clone().send(ledger)).await?.micros(0.5))
            },
            async || Ok(toy_one.run(round, ask.clone()).await?.micros(0.5)),
        );
        bench.table.push(pairs.await?.row(
            ROWS[0],
            "command round trip, 1 client, p50",
            "µs",
            Target::RatioAtMost(1.5),
        ));
    }
    if bench.wants(&ROWS[1..]) {
        let pairs = Pairs::take(
            &bench.scale,
            async || {
                let sender = sender.clone();
                Ok(lanes.run(round, move |ledger| sender.clone().send(ledger)).await?.rate)
            },
            async || Ok(toy_lanes.run(round, ask.clone()).await?.rate),
        );
        let what = "commands, 256 clients over 10 000 aggregates";
        bench.table.push(pairs.await?.row(ROWS[1], what, "/s", Target::Ratio(0.5)));
    }
    toy.abort();
    worker.stop().await
}
