//! `symbia replay`: fold the log into a scratch database, up to a point, and compare it with the live one.

use std::{
    collections::{BTreeMap, HashSet},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use async_nats::jetstream;
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::{
    AssertSqlSafe, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
    raw_sql,
};
use symbia_events::{Position, Service};
use symbia_nats::log::{LogError, LogReader, first_stored, head};
use symbia_projections::{Projection, Rebuilder, fixed_keys, migrate, schema_hash};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{Ended, cli::ReplayOptions, config::Config, exit, log::extents, opened::Opened, projection, roles};

/// How long the live projections get to reach the log's end before they are taken as they are.
const CATCH_UP: Duration = Duration::from_secs(5);

type Positions = BTreeMap<Service, u64>;

/// What the replay of one projection came to.
struct Outcome {
    name: &'static str,
    events: u64,
    quarantined: u64,
    positions: Positions,
    hash: String,
    /// The live hash, when live stands at the same point.
    live: Option<String>,
}

/// Runs the subcommand.
pub async fn run(config: &Config, options: ReplayOptions) -> Ended {
    Opened::with(config, async |open| {
        let began = Instant::now();
        let point = point(open, &options.to).await?;
        let scratch = Scratch::create(open).await?;
        let outcome = tokio::select! {
            outcome = replay(config, open, &scratch.pool, point.as_ref()) => outcome,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        };
        let kept = scratch.end(open, options.keep && outcome.is_ok()).await;
        let outcomes = outcome?;
        let runs = runs(&open.house.js, point.as_ref()).await?;
        print(config, &outcomes, runs, kept?.as_deref(), began)
    })
    .await
}

/// The positions named by `--to`; none = where live stands.
async fn point(open: &Opened, to: &str) -> anyhow::Result<Option<Positions>> {
    if to == "latest" {
        return Ok(None);
    }
    let js = &open.house.js;
    let ends: Positions = extents(js, &[]).await?.into_iter().collect();
    if let Ok(time) = OffsetDateTime::parse(to, &Rfc3339) {
        let mut positions = Positions::new();
        for service in ends.keys() {
            positions.insert(*service, last_before(js, *service, time).await?);
        }
        return Ok(Some(positions));
    }
    let mut positions = ends.clone();
    for text in to.split(',') {
        let Position { service, sequence } = text.trim().parse().with_context(|| {
            format!("--to '{to}': write positions like identity:120,logging:7, an RFC 3339 time, or latest")
        })?;
        let end = ends.get(&service).copied().unwrap_or(0);
        if sequence > end {
            bail!("--to {text}: the log of {service} ends at {end}");
        }
        positions.insert(service, sequence);
    }
    Ok(Some(positions))
}

/// Sequence of the last message stored at or before a time.
async fn last_before(js: &jetstream::Context, service: Service, time: OffsetDateTime) -> anyhow::Result<u64> {
    let (first, last) = head(js, service).await?;
    if last == 0 || first > last {
        return Ok(last);
    }
    let stream = js.get_stream(service.event_stream()).await?;
    let (mut low, mut high) = (first, last + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        // Where a message is missing, the next one tells.
        let message = stream.direct_get_next_for_subject(format!("symbia.evt.{service}.>"), Some(middle)).await?;
        if first_stored(&message.headers).unwrap_or(message.time) <= time {
            low = message.sequence + 1;
        } else {
            high = middle;
        }
    }
    Ok(low - 1)
}

async fn replay(
    config: &Config,
    open: &Opened,
    scratch: &PgPool,
    point: Option<&Positions>,
) -> anyhow::Result<Vec<Outcome>> {
    let house = &open.house;
    migrate(scratch, &[]).await?;
    let rebuilder =
        Rebuilder { pool: scratch.clone(), jetstream: house.js.clone(), keys: fixed_keys(house.keys.as_ref().clone()) };
    // Personal data is sealed with keys that only the live vault has.
    let projections: Vec<Arc<dyn Projection>> = roles::projections(config, &roles::secrets(&open.home, house).await?);
    let mut outcomes = Vec::new();
    for projection in &projections {
        let projection = projection.as_ref();
        let (live_at, live_hash) = live(open, projection).await?;
        let target = match point {
            Some(point) => live_at.keys().map(|s| (*s, point.get(s).copied().unwrap_or(0))).collect(),
            None => live_at.clone(),
        };
        let bar = projection::bar(config);
        bar.set_message(projection.name());
        let on = |progress| projection::advance(&bar, progress);
        let rebuilt = rebuilder.replay(projection, projection.name(), Some(&target), &on).await?;
        bar.finish_and_clear();
        let (positions, hash) = schema_hash(scratch, projection, projection.name()).await?;
        outcomes.push(Outcome {
            name: projection.name(),
            events: rebuilt.events,
            quarantined: rebuilt.quarantined,
            live: (positions == live_at).then_some(live_hash),
            positions,
            hash,
        });
    }
    Ok(outcomes)
}

/// Where the live projection stands, and its state there: at the log's end, if it gets there soon.
async fn live(open: &Opened, projection: &dyn Projection) -> anyhow::Result<(Positions, String)> {
    let house = &open.house;
    let mut ends = Positions::new();
    for service in projection.services() {
        ends.insert(*service, head(&house.js, *service).await?.1);
    }
    let deadline = Instant::now() + CATCH_UP;
    loop {
        let (positions, hash) = schema_hash(&house.pool, projection, projection.name()).await?;
        if Instant::now() >= deadline || ends.iter().all(|(s, end)| positions.get(s) >= Some(end)) {
            return Ok((positions, hash));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Rule runs that began up to the point.
async fn runs(js: &jetstream::Context, point: Option<&Positions>) -> anyhow::Result<usize> {
    let (service, filter) = (Service::Assistants, "symbia.evt.assistants.*.rule-run.*");
    let end = point.and_then(|p| p.get(&service)).copied().unwrap_or(u64::MAX);
    let stream = js.get_stream(service.event_stream()).await?;
    let mut subjects = stream.info_with_subjects(filter).await?;
    if futures::TryStreamExt::try_next(&mut subjects).await?.is_none() {
        return Ok(0);
    }
    let mut seen = HashSet::new();
    let mut reader = LogReader::open(js.clone(), service, 0, vec![filter.to_owned()]).await?;
    loop {
        let batch = match reader.next_batch(2000, CATCH_UP).await {
            Ok(batch) => batch,
            Err(LogError::Gap { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        seen.extend(batch.iter().filter(|m| m.sequence <= end).map(|m| m.subject.clone()));
        if batch.is_empty() || reader.pending() == 0 || reader.position() >= end {
            return Ok(seen.len());
        }
    }
}

fn print(config: &Config, outcomes: &[Outcome], runs: usize, kept: Option<&str>, began: Instant) -> Ended {
    let seconds = began.elapsed().as_secs_f64();
    let events: u64 = outcomes.iter().map(|o| o.events).sum();
    let mut state = Sha256::new();
    outcomes.iter().for_each(|o| state.update(format!("{}\0{}\n", o.name, o.hash)));
    let state: String = state.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    // Nothing to compare with, unless live stands at the same point.
    let equal: Option<bool> = outcomes
        .iter()
        .map(|o| o.live.as_ref().map(|live| *live == o.hash))
        .try_fold(true, |all, one| Some(all & one?));
    if config.json {
        let each: Vec<_> = outcomes
            .iter()
            .map(|o| {
                json!({
                    "name": o.name, "events": o.events, "quarantined": o.quarantined, "positions": o.positions,
                    "stateHash": o.hash, "equalsLive": o.live.as_ref().map(|live| *live == o.hash),
                })
            })
            .collect();
        println!(
            "{}",
            json!({
                "events": events, "runs": runs, "modelCalls": 0, "stateHash": state, "equalsLive": equal,
                "projections": each, "seconds": seconds, "database": kept,
            })
        );
    } else {
        for o in outcomes {
            let at: Vec<String> =
                o.positions.iter().map(|(service, sequence)| format!("{service}:{sequence}")).collect();
            println!("{:<14} {} events up to {}, {} quarantined", o.name, o.events, at.join(", "), o.quarantined);
        }
        println!("events         {events} in {seconds:.1} s\nruns           {runs}\nmodel calls    0 model calls");
        println!("state hash     {state}");
        println!(
            "live           {}",
            match equal {
                Some(true) => "equal",
                Some(false) => "DIFFERENT: `symbia projection verify` shows where",
                None => "stands elsewhere, not compared",
            }
        );
        if let Some(database) = kept {
            println!("kept           {database}");
        }
    }
    Ok(ExitCode::from(if equal == Some(false) { exit::FOUND } else { 0 }))
}

/// A database of the replay's own, beside the live one.
struct Scratch {
    name: String,
    options: PgConnectOptions,
    pool: PgPool,
}

impl Scratch {
    async fn create(open: &Opened) -> anyhow::Result<Self> {
        let now = OffsetDateTime::now_utc();
        let name = format!("symbia_replay_{}_{:03}", now.unix_timestamp(), now.millisecond());
        raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&open.house.pool)
            .await
            .context("the database user may not create the scratch database (`ALTER ROLE … CREATEDB`)")?;
        let options = open.house.database.clone().database(&name);
        let pool = PgPoolOptions::new().max_connections(8).connect_with(options.clone()).await?;
        Ok(Scratch { name, options, pool })
    }

    /// Drops it, or gives its URL, without password.
    async fn end(self, open: &Opened, keep: bool) -> anyhow::Result<Option<String>> {
        self.pool.close().await;
        if !keep {
            let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
            raw_sql(AssertSqlSafe(drop))
                .execute(&open.house.pool)
                .await
                .with_context(|| format!("the scratch database {} is left behind", self.name))?;
            return Ok(None);
        }
        let (options, port) = (&self.options, self.options.get_port());
        let place = match options.get_socket() {
            Some(socket) => format!("localhost:{port}/{}?host={}", self.name, socket.display()),
            None => format!("{}:{port}/{}", options.get_host(), self.name),
        };
        Ok(Some(format!("postgresql://{}@{place}", options.get_username())))
    }
}
