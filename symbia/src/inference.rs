//! The inference process: models on this machine. It stands alone, because llama.cpp ends the process on some errors.

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use symbia_nats::process::{Launch, Signal, Supervised, end_leftover};
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
#[cfg(feature = "llama")]
pub async fn serve(config: &Config, client: async_nats::Client, stop: CancellationToken) -> anyhow::Result<()> {
    use symbia_workers::models::{InferenceWorker, Options};
    let models = models_dir(config)?;
    // The router limits how many wait, and each of them has a deadline.
    let options = Options { max_queue: 4096, ..Options::new(models) };
    Ok(InferenceWorker::start(client, options)?.run(stop).await?)
}

/// Serves inference jobs until `stop`.
#[cfg(not(feature = "llama"))]
pub async fn serve(_: &Config, _: async_nats::Client, _: CancellationToken) -> anyhow::Result<()> {
    anyhow::bail!("this build has no local engine: build it with the feature `llama`, or use another provider")
}

/// The inference process of `up`, supervised; `None` when this build has no engine.
pub struct InferenceProcess(Option<Supervised>);

impl InferenceProcess {
    /// Starts it on a data directory that `up` runs on.
    pub async fn start(config: &Config, home: &Home) -> anyhow::Result<Self> {
        if !BUILT_IN {
            return Ok(InferenceProcess(None));
        }
        let dir = home.dir().join("inference");
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let (pid_file, models) = (dir.join("inference.pid"), models_dir(config)?);
        end_leftover(&pid_file, home.dir(), Signal::KILL).await.with_context(|| pid_file.display().to_string())?;
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
            // The port is taken by the process that starts this one.
            env: vec![("SYMBIA_METRICS_ADDR".into(), "".into())],
            account: None,
            log: dir.join("inference.log"),
            directory: dir,
            pid_file,
            quit: Signal::KILL,
        };
        let process = Supervised::start(launch).context("the inference process did not start")?;
        process.supervise();
        Ok(InferenceProcess(Some(process)))
    }

    /// Ends it.
    pub async fn stop(self) {
        if let Some(process) = self.0 {
            process.stop(Signal::TERM, STOP_GRACE).await;
        }
    }
}

/// Where the models are: as configured, else a directory `models` here, beside the program or above it (in a repository),
/// else the data directory's own, made when missing.
fn models_dir(config: &Config) -> anyhow::Result<PathBuf> {
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
