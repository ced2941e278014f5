//! How much waits: commands, events for reactors, dead letters, and how far the projections are behind; and how much is on the
//! meshes. Asked every few seconds by the process that takes commands, folds or delivers.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_nats::jetstream::Context;
use futures::TryStreamExt;
use symbia_events::Service;
use symbia_nats::{
    telemetry::{KeyValue, meter},
    topology::{COMMANDS, DEAD_LETTERS, JOBS, TIMERS},
};
use symbia_projections::{Projection, ReadPool, Scope, network};
use tokio_util::sync::CancellationToken;

use crate::connect::Connected;

const EVERY: Duration = Duration::from_secs(5);
/// How often what is on the meshes is counted.
const MESHES_EVERY: Duration = Duration::from_secs(30);

/// Records how much waits in the queues, until `stop`.
pub async fn queues(js: Context, stop: CancellationToken) -> anyhow::Result<()> {
    let depth = meter().u64_gauge("symbia.queue.depth").with_description("Messages that wait or are worked on").build();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
        match waiting(&js).await {
            Ok(queues) => {
                for (queue, messages) in queues {
                    depth.record(messages, &[KeyValue::new("queue", queue)]);
                }
            }
            Err(error) => tracing::debug!(%error, "how much waits cannot be asked"),
        }
    }
}

async fn waiting(js: &Context) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut queues = BTreeMap::new();
    let events = Service::ALL.map(Service::event_stream);
    for stream in events.iter().map(String::as_str).chain([COMMANDS, JOBS]) {
        let stream = js.get_stream(stream).await?;
        let mut consumers = stream.consumers();
        while let Some(consumer) = consumers.try_next().await? {
            let name = consumer.name.strip_prefix("reactor-").map(str::to_owned);
            let queue = name.or_else(|| consumer.name.starts_with("command-worker-").then(|| "commands".to_owned()));
            if let Some(queue) = queue {
                *queues.entry(queue).or_default() += consumer.num_pending + consumer.num_ack_pending as u64;
            }
        }
    }
    for (queue, stream) in [("timers", TIMERS), ("dead letters", DEAD_LETTERS)] {
        queues.insert(queue.to_owned(), js.get_stream(stream).await?.cached_info().state.messages);
    }
    Ok(queues)
}

/// Records how far the projections are behind the log.
pub async fn lag(house: Connected, projections: Vec<Arc<dyn Projection>>) {
    let lag = meter().u64_gauge("symbia.projection.lag").with_description("Messages that are not folded yet").build();
    let borrowed: Vec<&dyn Projection> = projections.iter().map(AsRef::as_ref).collect();
    loop {
        tokio::time::sleep(EVERY).await;
        match symbia_projections::list(&house.pool, &house.js, &borrowed).await {
            Ok(all) => {
                for projection in all {
                    for stream in projection.streams {
                        let labels = [
                            KeyValue::new("projection", projection.name),
                            KeyValue::new("service", stream.service.name()),
                        ];
                        lag.record(stream.lag, &labels);
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "how far the projections are cannot be asked"),
        }
    }
}

/// Records how much is on the meshes under the original's names (network.md §10), until `stop`.
pub async fn meshes(reader: ReadPool, stop: CancellationToken) -> anyhow::Result<()> {
    let gauge = |name: &'static str| meter().i64_gauge(name).build();
    let (nodes, contracts) = (gauge("network.node.active_count"), gauge("network.contract.active_count"));
    let bridges = gauge("network.bridge.active_count");
    loop {
        match active(&reader).await {
            Ok(active) => {
                nodes.record(active.nodes, &[]);
                contracts.record(active.contracts, &[]);
                bridges.record(active.bridges, &[]);
            }
            Err(error) => tracing::debug!(%error, "what is on the meshes cannot be counted"),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(MESHES_EVERY) => {}
        }
    }
}

async fn active(reader: &ReadPool) -> anyhow::Result<network::Active> {
    let mut tx = reader.read(&Scope::platform()).await?;
    Ok(network::active(&mut tx).await?)
}
