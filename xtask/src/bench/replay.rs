//! Replaying the log with full verification, against pulling it with a signature check and a shallow parse.

use std::{sync::Arc, time::Duration, time::Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::{self, consumer::AckPolicy, consumer::pull};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::value::RawValue;
use symbia_events::{
    KeyRing, Service,
    audit::{Message, Report, Verifier},
};
use symbia_nats::log::{LogMessage, LogReader};

use super::{Bench, measure::Pairs, table::Target};

/// Rows of this group.
pub const ROWS: [&str; 1] = ["replay_verified"];
const BATCH: usize = 4096;

/// Measures the row.
pub async fn run(bench: &mut Bench) -> Result<()> {
    let stocked = bench.stocked().await?;
    let ground = &stocked.ground;
    let jetstream = jetstream::new(ground.connect().await?);
    let events = stocked.events().await?;
    let pairs = Pairs::take(
        &bench.scale,
        async || {
            let began = Instant::now();
            let report = replay(jetstream.clone(), Arc::clone(&ground.keys), events).await?;
            ensure!(report.is_clean() && report.messages == events, "the log does not verify: {:?}", report.findings);
            Ok(events as f64 / began.elapsed().as_secs_f64())
        },
        async || {
            let began = Instant::now();
            pull(&jetstream, &ground.keys, events).await?;
            Ok(events as f64 / began.elapsed().as_secs_f64())
        },
    );
    let what = "replay: signature, chain and order (raw: pull, HMAC, parse)";
    bench.table.push(pairs.await?.row(ROWS[0], what, "/s", Target::Ratio(0.6)));
    bench.stocked = Some(stocked);
    Ok(())
}

/// Reads and verifies side by side.
async fn replay(jetstream: jetstream::Context, keys: Arc<KeyRing>, events: u64) -> Result<Report> {
    let mut reader = LogReader::open(jetstream, Service::Logging, 0, Vec::new()).await?;
    let (sender, mut batches) = tokio::sync::mpsc::channel::<Vec<LogMessage>>(2);
    let threads = std::thread::available_parallelism()?.get();
    let verifying = tokio::task::spawn_blocking(move || {
        let mut verifier = Verifier::new(&keys).threads(threads);
        while let Some(batch) = batches.blocking_recv() {
            let message = |m| -> Message<'_> {
                let LogMessage { sequence, subject, payload, .. }: &LogMessage = m;
                Message { service: Service::Logging, sequence: *sequence, subject, payload }
            };
            verifier.feed(&batch.iter().map(message).collect::<Vec<_>>());
        }
        verifier.finish()
    });
    while reader.position() < events {
        let batch = reader.next_batch(BATCH, Duration::from_secs(10)).await?;
        ensure!(!batch.is_empty(), "the log gave nothing for 10 s");
        sender.send(batch).await.context("the verifier has died")?;
    }
    drop(sender);
    Ok(verifying.await?)
}

/// What the raw reader looks at.
#[derive(Deserialize)]
struct Shallow<'a> {
    id: &'a str,
    #[serde(borrow)]
    data: &'a RawValue,
}

async fn pull(jetstream: &jetstream::Context, keys: &KeyRing, events: u64) -> Result<()> {
    let stream = jetstream.get_stream(Service::Logging.event_stream()).await?;
    let config = pull::Config { ack_policy: AckPolicy::None, memory_storage: true, ..pull::Config::default() };
    let mut messages = stream.create_consumer(config).await?.stream().max_messages_per_batch(5000).messages().await?;
    for _ in 0..events {
        let message = messages.next().await.context("the stream ended")??;
        let (_, signature) = keys.sign(Service::Logging.name(), &message.payload);
        let event: Shallow<'_> = serde_json::from_slice(&message.payload)?;
        std::hint::black_box((signature, event.id, event.data));
    }
    Ok(())
}
