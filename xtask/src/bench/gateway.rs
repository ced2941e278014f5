//! The gateway's front: what a request through it takes beyond the same request to the provider itself, how many it answers,
//! and how streams fare when there are many; the durable events of each request included. Rows that appear when the release
//! build of `symbia` is there.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt;
use memchr::memmem;
use reqwest::Method;
use serde_json::{Value, json};
use symbia_nats::broker::Durability;
use tokio::task::JoinSet;

use super::{
    Bench,
    measure::{Load, percentile},
    process::Symbia,
    table::{Row, Target},
    wire::{Lane, Prepared, lanes},
};

mod bare;
mod provider;

use bare::Bare;
use provider::provider;

/// Rows of this group.
pub const ROWS: [&str; 11] = [
    "gateway_overhead_p50",
    "gateway_overhead_p99",
    "gateway_rps",
    "gateway_rps_1ms",
    "gateway_rps_5ms",
    "gateway_rps_10ms",
    "gateway_rps_50ms",
    "gateway_streams_1000",
    "gateway_streams_1000_stalled",
    "gateway_cpu",
    "fsync_gateway_rps",
];
/// Requests a second while the overhead is measured.
const PACE: u32 = 1000;
/// How many ask at once for the rates, one step after the other.
const ASKERS: [usize; 9] = [1, 2, 4, 8, 12, 16, 24, 32, 64];
/// The bounds of p99 that a rate is told for, with their rows.
const BOUNDS: [(&str, u64); 4] = [(ROWS[3], 1), (ROWS[4], 5), (ROWS[5], 10), (ROWS[6], 50)];
/// How many ask at once while processor time is counted, and how often each before it is timed.
const BUSY: usize = 32;
const WARM: usize = 2;
/// Streams at once.
const STREAMS: usize = 1000;
/// Tokens of each, so many a second.
const TOKENS: usize = 250;
/// A stream that tells nothing for so long has stalled.
const STALL: Duration = Duration::from_secs(1);
/// Pause between the beginnings of two streams.
const APART: Duration = Duration::from_millis(1);

/// Measures the rows.
pub async fn run(bench: &mut Bench) -> Result<()> {
    let provider = provider().await?;
    for (durability, rows) in [(Durability::Interval, &ROWS[..10]), (Durability::Fsync, &ROWS[10..])] {
        if bench.wants(rows) {
            measure(bench, &provider, durability).await?;
        }
    }
    Ok(())
}

async fn measure(bench: &mut Bench, provider: &str, durability: Durability) -> Result<()> {
    let fsync = durability == Durability::Fsync;
    let variables = [
        ("OPENAI_BASE_URL", provider),
        ("OPENAI_API_KEY", "sk-bench"),
        ("SYMBIA_DURABILITY", if fsync { "fsync" } else { "interval" }),
    ];
    let Some(symbia) = Symbia::start_with(&variables).await? else { return Ok(()) };
    let (identity, gateway) = (symbia.base(5001), symbia.base(5007));
    let http = reqwest::Client::new();
    let ada = json!({ "email": "ada@example.test", "password": "ada's password", "name": "Ada", "orgName": "Ada" });
    let registered = http.post(format!("{identity}/api/auth/register")).json(&ada).send().await?.error_for_status()?;
    let registered: Value = registered.json().await?;
    let token = registered["token"].as_str().context("no token")?.to_owned();
    let (direct, through) = (
        Asker { http: http.clone(), url: format!("{provider}/chat/completions"), token: "sk-bench".to_owned() },
        Asker { http, url: format!("{gateway}/v1/chat/completions"), token },
    );
    for asker in [&direct, &through] {
        asker.warm().await?;
    }
    if fsync {
        rates(bench, &through, provider, durability).await?;
        return symbia.stop().await;
    }
    if bench.wants(&ROWS[..2]) {
        overhead(bench, &direct, &through, provider).await?;
    }
    if bench.wants(&ROWS[2..7]) {
        rates(bench, &through, provider, durability).await?;
    }
    if bench.wants(&ROWS[7..9]) {
        streams(bench, &direct, &through).await?;
    }
    if bench.wants(&ROWS[9..10]) {
        processor(bench, &through, &symbia).await?;
    }
    symbia.stop().await
}

// What ours adds, beside what the barest gateway adds.
async fn overhead(bench: &mut Bench, direct: &Asker, through: &Asker, provider: &str) -> Result<()> {
    let bare = Bare::start(provider, Durability::Interval).await?;
    let barely = Asker::of(&bare);
    let taken = async {
        barely.warm().await?;
        in_turn(bench, [direct, &barely, through]).await
    }
    .await;
    bare.stop().await;
    let [alone, raw, ours] = taken?;
    for (name, share) in [(ROWS[0], 0.5), (ROWS[1], 0.99)] {
        let alone = percentile(&alone, share);
        let added = |to: &[Duration]| percentile(to, share).saturating_sub(alone).as_secs_f64() * 1e3;
        let (raw, ours) = (added(&raw), added(&ours));
        let what = format!(
            "added to a request to the provider at {PACE}/s, p{:.0} (raw: by axum, JetStream and PostgreSQL alone)",
            share * 100.0
        );
        let target = Target::AtMost(if share < 0.9 { 0.5 } else { 2.0 });
        bench.table.push(Row { name, what, ours, raw: Some(raw), ratio: Some(ours / raw), unit: "ms", target });
    }
    Ok(())
}

// What requests take, one asker after the other in each round, so that all meet the same machine.
async fn in_turn(bench: &Bench, askers: [&Asker; 3]) -> Result<[Vec<Duration>; 3]> {
    let mut taken = [const { Vec::new() }; 3];
    for _ in 0..bench.scale.rounds {
        for (asker, taken) in askers.into_iter().zip(&mut taken) {
            taken.extend(asker.paced(PACE, bench.scale.round).await?);
        }
    }
    Ok(taken)
}

// How many are answered, beside the barest gateway that does the same on the same ground.
async fn rates(bench: &mut Bench, through: &Asker, provider: &str, durability: Durability) -> Result<()> {
    let fsync = durability == Durability::Fsync;
    let askers = if fsync { &ASKERS[ASKERS.len() - 1..] } else { &ASKERS[..] };
    let (ours, most) = ladder(bench, through, askers).await?;
    let bare = Bare::start(provider, durability).await?;
    let raw = ladder(bench, &Asker::of(&bare), askers).await;
    bare.stop().await;
    let (raw, raw_most) = raw?;
    let mut push = |name, what, ours: f64, raw: f64, target| {
        let ratio = (raw > 0.0).then(|| ours / raw);
        bench.table.push(Row { name, what, ours, raw: Some(raw), ratio, unit: "/s", target });
    };
    let (name, how) = if fsync { (ROWS[10], "fsync: ") } else { (ROWS[2], "") };
    let at_once = ASKERS[ASKERS.len() - 1];
    let what =
        format!("{how}requests through the gateway, {at_once} at once (raw: axum, JetStream and PostgreSQL alone)");
    push(name, what, most, raw_most, Target::Shown);
    if fsync {
        return Ok(());
    }
    for (((name, bound), ours), raw) in BOUNDS.into_iter().zip(ours).zip(raw) {
        let what = format!("requests through the gateway, as many as have a p99 of at most {bound} ms");
        let target = if bound == 10 { Target::AtLeast(2000.0) } else { Target::Shown };
        push(name, what, ours, raw, target);
    }
    Ok(())
}

// The more ask at once, the higher rate and latency: the best rate within each bound, and the rate of the most.
async fn ladder(bench: &Bench, asker: &Asker, askers: &[usize]) -> Result<([f64; BOUNDS.len()], f64)> {
    let (mut best, mut last) = ([0f64; BOUNDS.len()], 0.0);
    for askers in askers {
        let load = asker.load(bench, *askers).await?;
        last = load.rate;
        for (best, (_, bound)) in best.iter_mut().zip(BOUNDS) {
            if load.micros(0.99) <= bound as f64 * 1e3 {
                *best = best.max(load.rate);
            }
        }
    }
    Ok((best, last))
}

// What a request costs, whoever else uses the machine.
async fn processor(bench: &mut Bench, through: &Asker, symbia: &Symbia) -> Result<()> {
    let before = symbia.processor()?;
    let requests = through.load(bench, BUSY).await?.steps() + WARM * BUSY;
    let ours = (symbia.processor()? - before).as_secs_f64() * 1e3 / requests as f64;
    let what = format!("processor time of a request, {BUSY} at once: gateway, nats-server and PostgreSQL");
    bench.table.push(Row { name: ROWS[9], what, ours, raw: None, ratio: None, unit: "ms", target: Target::Shown });
    Ok(())
}

async fn streams(bench: &mut Bench, direct: &Asker, through: &Asker) -> Result<()> {
    let raw = direct.streams().await?;
    let ours = through.streams().await?;
    let first = |heard: &[Heard]| percentile(&heard.iter().map(|heard| heard.first).collect::<Vec<_>>(), 0.5);
    let (raw_first, ours_first) = (first(&raw).as_secs_f64() * 1e3, first(&ours).as_secs_f64() * 1e3);
    let what = format!("added to the first token of {STREAMS} streams at once, {} tokens/s each, p50", provider::PACE);
    let (added, target) = (ours_first - raw_first, Target::Shown);
    bench.table.push(Row { name: ROWS[7], what, ours: added, raw: Some(raw_first), ratio: None, unit: "ms", target });
    let stalled = |heard: &[Heard]| heard.iter().filter(|heard| heard.longest > STALL).count() as f64;
    let what = format!("of these, streams that told nothing for {} s", STALL.as_secs());
    let (ours, raw, target) = (stalled(&ours), Some(stalled(&raw)), Target::AtMost(0.0));
    bench.table.push(Row { name: ROWS[8], what, ours, raw, ratio: None, unit: "", target });
    Ok(())
}

/// Asks questions and reads the answers.
#[derive(Clone)]
struct Asker {
    http: reqwest::Client,
    url: String,
    token: String,
}

fn question() -> Value {
    json!({ "model": "openai/bench", "messages": [{ "role": "user", "content": "2+2?" }] })
}

/// How a stream came.
struct Heard {
    /// Until its first token.
    first: Duration,
    /// The longest silence between two pieces.
    longest: Duration,
}

impl Asker {
    fn of(bare: &Bare) -> Self {
        Asker { http: reqwest::Client::new(), url: bare.url.clone(), token: String::new() }
    }

    async fn ask(&self) -> Result<Duration> {
        let began = Instant::now();
        let answer = self.http.post(&self.url).bearer_auth(&self.token).json(&question()).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success() && text.contains("four"), "{status}: {text}");
        Ok(began.elapsed())
    }

    // So many at once, one request after the other.
    async fn load(&self, bench: &Bench, askers: usize) -> Result<Load> {
        let request = Prepared::new(Method::POST, &self.url, Some(&self.token), Some(&question()))?;
        let mut lanes = lanes(vec![request; askers]).await?;
        let ask = async |(mut wire, request): Lane| {
            let answer = wire.send(&request).await?;
            ensure!(memmem::find(answer, b"four").is_some(), "{}", String::from_utf8_lossy(answer));
            Ok((wire, request))
        };
        lanes.run_times(WARM, ask).await?;
        lanes.run(bench.scale.round, ask).await
    }

    // Connections and caches.
    async fn warm(&self) -> Result<()> {
        self.paced(PACE / 4, Duration::from_secs(1)).await.map(|_| ())
    }

    // So many a second, whether or not the earlier ones are answered.
    async fn paced(&self, a_second: u32, round: Duration) -> Result<Vec<Duration>> {
        let mut due = tokio::time::interval(Duration::from_secs(1) / a_second);
        let mut asking = JoinSet::new();
        let began = Instant::now();
        while began.elapsed() < round {
            due.tick().await;
            let asker = self.clone();
            asking.spawn(async move { asker.ask().await });
        }
        asking.join_all().await.into_iter().collect()
    }

    async fn streams(&self) -> Result<Vec<Heard>> {
        let mut streams = Vec::with_capacity(STREAMS);
        for _ in 0..STREAMS {
            tokio::time::sleep(APART).await;
            let asker = self.clone();
            streams.push(tokio::spawn(async move { asker.stream().await }));
        }
        let mut heard = Vec::with_capacity(streams.len());
        for stream in streams {
            heard.push(stream.await??);
        }
        Ok(heard)
    }

    async fn stream(&self) -> Result<Heard> {
        let body = json!({ "model": "openai/bench", "messages": [{ "role": "user", "content": "2+2?" }], "stream": true,
            "max_tokens": TOKENS });
        let began = Instant::now();
        let answer = self.http.post(&self.url).bearer_auth(&self.token).json(&body).send().await?.error_for_status()?;
        let (mut pieces, mut tokens, mut said) = (answer.bytes_stream(), 0, Vec::new());
        let (mut first, mut last, mut longest) = (None, began, Duration::ZERO);
        while let Some(piece) = pieces.next().await {
            said.extend_from_slice(&piece?);
            let count = said.windows(provider::TOKEN.len()).filter(|of| *of == provider::TOKEN.as_bytes()).count();
            // One may come in two parts.
            said.drain(..said.len().saturating_sub(provider::TOKEN.len() - 1));
            if count == 0 {
                continue;
            }
            let now = Instant::now();
            tokens += count;
            if first.is_some() {
                longest = longest.max(now - last);
            }
            first.get_or_insert(now - began);
            last = now;
        }
        ensure!(tokens == TOKENS, "a stream of {tokens} tokens instead of {TOKENS}");
        Ok(Heard { first: first.context("a stream without a token")?, longest })
    }
}
