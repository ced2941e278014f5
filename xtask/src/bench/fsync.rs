//! Commands where each acknowledged write is on disk, against plain publishes to the same broker.

use anyhow::Result;
use async_nats::jetstream;
use bytes::Bytes;
use symbia_nats::broker::Durability;

use super::{
    Bench,
    append::{AGGREGATES, RawHead, publish},
    command::Sender,
    ground::Ground,
    ledger,
    measure::{Lanes, Pairs},
    table::Target,
};

/// Rows of this group.
pub const ROWS: [&str; 2] = ["fsync_round_trip", "fsync_commands_256"];

/// Measures the rows.
pub async fn run(bench: &mut Bench) -> Result<()> {
    let ground = Ground::open(Durability::Fsync).await?;
    let worker = ground.worker(ledger::handlers()).await?;
    let sender = Sender::open(&ground).await?;
    let (raw, payload) = (jetstream::new(ground.connect().await?), Bytes::from("x".repeat(1024)));
    let publish = move |head| publish(raw.clone(), payload.clone(), head);
    let send = move |ledger| sender.clone().send(ledger);

    let mut lanes = Lanes::deal((0..AGGREGATES).map(ledger::address), 256);
    lanes.run_times(1, send.clone()).await?;
    let round = bench.scale.round;
    if bench.wants(&ROWS[..1]) {
        let mut one = Lanes::deal((0..AGGREGATES).map(ledger::address), 1);
        let mut raw = Lanes::deal((0..AGGREGATES).map(RawHead::new), 1);
        let pairs = Pairs::take(
            &bench.scale,
            async || Ok(one.run(round, send.clone()).await?.micros(0.5) / 1e3),
            async || Ok(raw.run(round, publish.clone()).await?.micros(0.5) / 1e3),
        );
        let what = "fsync: command round trip, 1 client, p50 (raw: one synced append)";
        bench.table.push(pairs.await?.row(ROWS[0], what, "ms", Target::AtMost(1.5)));
    }
    if bench.wants(&ROWS[1..]) {
        let mut raw = Lanes::deal((AGGREGATES..2 * AGGREGATES).map(RawHead::new), 256);
        let pairs = Pairs::take(
            &bench.scale,
            async || Ok(lanes.run(round, send.clone()).await?.rate),
            async || Ok(raw.run(round, publish.clone()).await?.rate),
        );
        let what = "fsync: commands, 256 clients over 10 000 aggregates (raw: ungrouped appends)";
        bench.table.push(pairs.await?.row(ROWS[1], what, "/s", Target::AtLeast(8000.0)));
    }
    worker.stop().await
}
