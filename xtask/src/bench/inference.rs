//! The inference process, asked over NATS as the platform asks it, with the chat model that ships and with SmolLM2-135M. Raw is
//! llama.cpp's own server on the same file and threads, over HTTP. `scripts/prepare.sh bench` gets that server and SmolLM2;
//! without the one the rows have no raw figure, without the other its rows are left out.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use futures::StreamExt;
use serde_json::json;
use symbia_nats::{
    broker::Durability,
    inference::{Frame, Inference, Message, Request, Work},
};
use tokio::process::{Child, Command};
use uuid::Uuid;

use super::{
    Bench, Scale,
    ground::Ground,
    measure::{Lanes, Pairs, median, percentile},
    table::{Row, Target},
};

/// Rows of this group, for each model: tokens generated a second with so many requests at a time, then the time to the first
/// token.
pub const ROWS: [&str; 16] = [
    "inference_1",
    "inference_4",
    "inference_8",
    "inference_16",
    "inference_first_1",
    "inference_first_4",
    "inference_first_8",
    "inference_first_16",
    "inference_smollm2_1",
    "inference_smollm2_4",
    "inference_smollm2_8",
    "inference_smollm2_16",
    "inference_smollm2_first_1",
    "inference_smollm2_first_4",
    "inference_smollm2_first_8",
    "inference_smollm2_first_16",
];
const AT_A_TIME: [usize; 4] = [1, 4, 8, 16];
const PICO: &str = "../models/pico-chat.q8_0.gguf";
/// Names the file of SmolLM2.
const SMOLLM2: &str = "BENCH_SMOLLM2";
/// Tokens of an answer.
const TOKENS: u64 = 128;
/// Tokens of a context, of which there are as many as requests at a time at most.
const CONTEXT: usize = 512;
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures the rows.
pub async fn run(bench: &mut Bench) -> Result<()> {
    let binary = std::env::current_exe()?.with_file_name("symbia");
    if !binary.exists() {
        eprint!("(no {}: build it with `cargo build --release`) ", binary.display());
        return Ok(());
    }
    let (pico, smollm2) = ROWS.split_at(ROWS.len() / 2);
    if bench.wants(pico) {
        compare(bench, &binary, &Path::new(env!("CARGO_MANIFEST_DIR")).join(PICO), "pico-chat", pico).await?;
    }
    match std::env::var_os(SMOLLM2).map(PathBuf::from) {
        _ if !bench.wants(smollm2) => {}
        Some(file) => compare(bench, &binary, &file, "SmolLM2-135M", smollm2).await?,
        None => eprint!("(no {SMOLLM2}: `source scripts/prepare.sh; prepare bench` sets it) "),
    }
    Ok(())
}

/// Ours and llama.cpp's server with a model; `rows` are the rates, then the times.
async fn compare(bench: &mut Bench, binary: &Path, file: &Path, model: &str, rows: &[&'static str]) -> Result<()> {
    let ours = Ours::start(binary, file).await?;
    let raw = Raw::start(file).await?;
    let (rates_rows, firsts_rows) = rows.split_at(AT_A_TIME.len());
    for ((at_a_time, &rate), &first) in AT_A_TIME.into_iter().zip(rates_rows).zip(firsts_rows) {
        let (mut rates, mut firsts, mut own) = (Pairs::default(), Pairs::default(), Vec::new());
        for _ in 0..bench.scale.rounds {
            let raw = match &raw {
                Some(raw) => Some(measure(&bench.scale, at_a_time, raw.asker()).await?),
                None => None,
            };
            let ours = measure(&bench.scale, at_a_time, ours.asker()).await?;
            if let Some(raw) = raw {
                rates.push(ours.0, raw.0);
                firsts.push(ours.1, raw.1);
            }
            own.push(ours);
        }
        let told = |what: &str| format!("{what}, {at_a_time} at a time, {model}");
        let (rate_told, first_told) = (told("tokens generated"), told("to the first token"));
        if raw.is_some() {
            bench.table.push(rates.row(rate, rate_told, "/s", Target::Ratio(1.0)));
            bench.table.push(firsts.row(first, first_told, "ms", Target::RatioAtMost(1.0)));
        } else {
            let of = |figure: fn(&(f64, f64)) -> f64| median(&own.iter().map(figure).collect::<Vec<_>>());
            bench.table.push(alone(rate, rate_told, of(|round| round.0), "/s"));
            bench.table.push(alone(first, first_told, of(|round| round.1), "ms"));
        }
    }
    Ok(())
}

fn alone(name: &'static str, what: String, ours: f64, unit: &'static str) -> Row {
    Row { name, what, ours, raw: None, ratio: None, unit, target: Target::Shown }
}

/// Answers one question, tells of the first token, and gives the number of tokens.
trait Asker: Clone + Send + 'static {
    fn ask(&self, question: String, first: impl FnMut() + Send) -> impl Future<Output = Result<u64>> + Send;
}

/// Tokens a second, and the median time to the first one in milliseconds.
async fn measure(scale: &Scale, at_a_time: usize, asker: impl Asker) -> Result<(f64, f64)> {
    let (tokens, firsts) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (counted, timed) = (Arc::clone(&tokens), Arc::clone(&firsts));
    let ask = move |number: usize| {
        let (asker, counted, timed) = (asker.clone(), Arc::clone(&counted), Arc::clone(&timed));
        async move {
            let began = Instant::now();
            let mut first = None;
            let question = format!("Tell me a story, number {}.", Uuid::new_v4().as_u128() % 1000);
            let tokens = asker.ask(question, || _ = first.get_or_insert_with(|| began.elapsed())).await?;
            counted.fetch_add(tokens, Relaxed);
            timed.lock().unwrap_or_else(PoisonError::into_inner).push(first.context("no token came")?);
            Ok(number)
        }
    };
    let mut lanes = Lanes::deal(0..at_a_time, at_a_time);
    // The first answers load the model.
    lanes.run_times(1, ask.clone()).await?;
    tokens.store(0, Relaxed);
    firsts.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let began = Instant::now();
    lanes.run(scale.round, ask).await?;
    let rate = tokens.load(Relaxed) as f64 / began.elapsed().as_secs_f64();
    let firsts = firsts.lock().unwrap_or_else(PoisonError::into_inner);
    Ok((rate, percentile(&firsts, 0.5).as_secs_f64() * 1e3))
}

/// Our inference process.
struct Ours {
    inference: Inference,
    model: String,
    _process: Child,
    _ground: Ground,
}

impl Ours {
    async fn start(binary: &Path, file: &Path) -> Result<Self> {
        let ground = Ground::open(Durability::Interval).await?;
        let models = file.parent().context("a model lies in a directory")?;
        let model = file.file_stem().context("a model has a name")?.to_string_lossy().into_owned();
        let process = Command::new(binary)
            .args(["work", "--roles", "inference", "--models-dir"])
            .arg(models)
            .env("SYMBIA_NATS_URL", ground.url())
            .env("MODELS_PARALLEL_SLOTS", most().to_string())
            .env("MODELS_DEFAULT_CTX", CONTEXT.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let inference = Inference::new(ground.connect().await?, PATIENCE);
        Ok(Ours { inference, model, _process: process, _ground: ground })
    }

    fn asker(&self) -> impl Asker {
        OverNats { inference: self.inference.clone(), model: self.model.clone() }
    }
}

/// Requests at a time at most.
fn most() -> usize {
    AT_A_TIME.into_iter().max().unwrap_or(1)
}

#[derive(Clone)]
struct OverNats {
    inference: Inference,
    model: String,
}

impl Asker for OverNats {
    async fn ask(&self, question: String, mut first: impl FnMut() + Send) -> Result<u64> {
        let request = Request {
            model: Some(self.model.clone()),
            max_tokens: Some(TOKENS as u32),
            ignore_eos: true,
            ..Request::new(vec![Message::new("user", question)])
        };
        let work = Work::Generate(Box::new(request));
        let mut frames = self.inference.ask(&self.inference.job(work, None)).await?;
        loop {
            match frames.next().await? {
                Frame::Delta { .. } => first(),
                Frame::Completed(completed) => return Ok(completed.usage.completion_tokens.into()),
                Frame::Failed(failure) => bail!("not answered: {failure}"),
                _ => {}
            }
        }
    }
}

/// llama.cpp's own server.
struct Raw {
    url: String,
    http: reqwest::Client,
    _process: Child,
}

impl Raw {
    async fn start(model: &Path) -> Result<Option<Self>> {
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port().to_string();
        let threads = std::thread::available_parallelism().map_or(1, usize::from).saturating_sub(1).max(1).to_string();
        let process = Command::new("llama-server")
            .arg("--model")
            .arg(model)
            .args(["--host", "127.0.0.1", "--port", &port, "--threads", &threads, "--device", "none"])
            .args(["-np", &most().to_string(), "-c", &(most() * CONTEXT).to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let Ok(mut process) = process else {
            eprint!("(no llama-server on PATH: no raw figures; `source scripts/prepare.sh; prepare bench` gets it) ");
            return Ok(None);
        };
        let url = format!("http://127.0.0.1:{port}");
        // It closes a connection after a few requests, without a word.
        let http = reqwest::Client::builder().pool_max_idle_per_host(0).build()?;
        let began = Instant::now();
        while !http.get(format!("{url}/health")).send().await.is_ok_and(|answer| answer.status().is_success()) {
            // One that is built for another processor dies when it first computes.
            if let Some(status) = process.try_wait()? {
                eprint!("(llama-server ended with {status}: no raw figures) ");
                return Ok(None);
            }
            ensure!(began.elapsed() < PATIENCE, "llama-server does not become ready");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(Some(Raw { url, http, _process: process }))
    }

    fn asker(&self) -> impl Asker {
        OverHttp { url: format!("{}/v1/chat/completions", self.url), http: self.http.clone() }
    }
}

#[derive(Clone)]
struct OverHttp {
    url: String,
    http: reqwest::Client,
}

impl Asker for OverHttp {
    async fn ask(&self, question: String, mut first: impl FnMut() + Send) -> Result<u64> {
        let body = json!({
            "messages": [{ "role": "user", "content": question }], "temperature": 0, "max_tokens": TOKENS,
            "ignore_eos": true, "stream": true, "stream_options": { "include_usage": true },
        });
        let mut chunks = self.http.post(&self.url).json(&body).send().await?.error_for_status()?.bytes_stream();
        let mut text = String::new();
        while let Some(chunk) = chunks.next().await {
            text.push_str(&String::from_utf8_lossy(&chunk?));
            if text.contains("\"content\":\"") {
                first();
            }
        }
        let usage = text.rsplit("\"completion_tokens\":").next().context("no usage")?;
        Ok(usage.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default().parse()?)
    }
}
