//! The inference process: models on this machine. It stands alone, because llama.cpp ends the process on some errors.

use std::{
    env,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use symbia_nats::process::{Launch, Signal, Supervised, end_leftover};
use symbia_workers::{integrations::LocalOptions, models::stub};
use tokio_util::sync::CancellationToken;

use crate::{
    Ended,
    config::Config,
    connect::{Addresses, broker},
    home::Home,
};

/// Whether this build can run models itself.
pub const BUILT_IN: bool = cfg!(feature = "llama");
const STOP_GRACE: Duration = Duration::from_secs(5);

/// `symbia work --roles inference`.
pub async fn run(config: &Config, stop: CancellationToken) -> Ended {
    // It needs no database and no keys, so a broker is enough.
    let nats = match &config.nats_url {
        Some(url) => url.clone(),
        None => Addresses::find(config, &Home::open(config)?)?.nats,
    };
    let client = broker(&nats).await?;
    serve(config, client, stop).await?;
    Ok(ExitCode::SUCCESS)
}

/// Serves inference jobs until `stop`.
pub async fn serve(config: &Config, client: async_nats::Client, stop: CancellationToken) -> anyhow::Result<()> {
    if config.inference.stub {
        return Ok(stub::run(client, stop).await?);
    }
    engine(config, client, stop).await
}

/// The provider of the models on this machine, where there is anything to serve them with.
pub fn provider(config: &Config) -> Option<LocalOptions> {
    let usual = LocalOptions::default();
    match config.inference.stub {
        true => Some(LocalOptions { default_model: stub::ID.to_owned(), ..usual }),
        false => BUILT_IN.then_some(usual),
    }
}

#[cfg(feature = "llama")]
async fn engine(config: &Config, client: async_nats::Client, stop: CancellationToken) -> anyhow::Result<()> {
    use symbia_workers::models::{InferenceWorker, Options};
    let (limits, defaults) = (&config.inference, Options::new(models_dir(config)?));
    let program = env::current_exe().context("the program's own path")?;
    let options = Options {
        context_tokens: limits.context_tokens.unwrap_or(defaults.context_tokens),
        parallel: limits.parallel.unwrap_or(defaults.parallel),
        batch_tokens: limits.batch_tokens.unwrap_or(defaults.batch_tokens),
        threads: limits.threads.unwrap_or(defaults.threads),
        max_queue: limits.max_queue.unwrap_or(256),
        idle_unload: limits.idle_unload.unwrap_or(defaults.idle_unload),
        max_loaded: limits.max_loaded.unwrap_or(defaults.max_loaded),
        memory_budget: limits.memory_budget.or(defaults.memory_budget),
        pinned: limits.pinned.clone(),
        probe: Some(vec![program.into(), "models".into(), "probe".into()]),
        ..defaults
    };
    Ok(InferenceWorker::start(client, options)?.run(stop).await?)
}

#[cfg(not(feature = "llama"))]
async fn engine(_: &Config, _: async_nats::Client, _: CancellationToken) -> anyhow::Result<()> {
    anyhow::bail!("this build has no local engine: build it with the feature `llama`, or use another provider")
}

/// The inference process of `up`, supervised; `None` when this build has no engine.
pub struct InferenceProcess(Option<Running>);

struct Running {
    process: Supervised,
    metrics: SocketAddr,
}

impl InferenceProcess {
    /// Starts it on a data directory that `up` runs on.
    pub async fn start(config: &Config, home: &Home) -> anyhow::Result<Self> {
        if provider(config).is_none() {
            return Ok(InferenceProcess(None));
        }
        let dir = home.dir().join("inference");
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let (pid_file, models) = (dir.join("inference.pid"), models_dir(config)?);
        end_leftover(&pid_file, home.dir(), Signal::KILL).await.with_context(|| pid_file.display().to_string())?;
        let metrics = metrics_address(config)?;
        let launch = Launch {
            name: "inference",
            program: env::current_exe().context("the program's own path")?,
            args: vec![
                "work".into(),
                "--roles".into(),
                "inference".into(),
                "--data-dir".into(),
                home.dir().into(),
                "--models-dir".into(),
                models.into(),
            ],
            env: vec![("SYMBIA_METRICS_ADDR".into(), metrics.to_string().into())],
            account: None,
            log: dir.join("inference.log"),
            directory: dir,
            pid_file,
            quit: Signal::KILL,
        };
        let process = Supervised::start(launch).context("the inference process did not start")?;
        process.supervise();
        Ok(InferenceProcess(Some(Running { process, metrics })))
    }

    /// Where it shows its metrics.
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.0.as_ref().map(|running| running.metrics)
    }

    /// Ends it.
    pub async fn stop(self) {
        if let Some(Running { process, .. }) = self.0 {
            process.stop(Signal::TERM, STOP_GRACE).await;
        }
    }
}

/// Beside the metrics of the process that starts this one, where those are set apart; else at a free port of this machine. It
/// stays the same when the process is started again.
fn metrics_address(config: &Config) -> anyhow::Result<SocketAddr> {
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let beside = config.metrics.and_then(|address| Some(SocketAddr::new(address.ip(), address.port().checked_add(1)?)));
    let free = TcpListener::bind(beside.unwrap_or(here)).or_else(|_| TcpListener::bind(here));
    Ok(free.context("a port for the inference process's metrics")?.local_addr()?)
}

/// Where the models are: as configured, else a directory `models` here, beside the program or above it (in a repository),
/// else the data directory's own, made when missing.
pub fn models_dir(config: &Config) -> anyhow::Result<PathBuf> {
    if let Some(dir) = &config.models_dir {
        return dir.canonicalize().with_context(|| format!("the model directory {}", dir.display()));
    }
    let program = env::current_exe().ok();
    let above = program.as_deref().into_iter().flat_map(|program| program.ancestors().skip(1).take(4));
    let here = env::current_dir().ok();
    if let Some(found) =
        here.as_deref().into_iter().chain(above).map(|dir| dir.join("models")).find(|dir| holds_models(dir))
    {
        return Ok(found);
    }
    let dir = config.data_dir.join("models");
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(dir.canonicalize()?)
}

fn holds_models(dir: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else { return false };
    entries.flatten().any(|entry| entry.path().extension().is_some_and(|extension| extension == "gguf"))
}
