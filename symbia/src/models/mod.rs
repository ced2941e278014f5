//! `symbia models`: the language models of this installation.

mod pull;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    Ended,
    config::Config,
    rest::{Rest, SignIn},
};

const MIB: u64 = 1 << 20;

/// `symbia models`.
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// List the models, and what is in memory
    List(ListOptions),
    /// Show a model, and where it is loaded
    Show(OneOptions),
    /// Load a model into memory
    Load(LoadOptions),
    /// Unload a model everywhere
    Unload(UnloadOptions),
    /// Get a model into the model directory of this machine
    Pull(pull::PullOptions),
    /// Load a file and compute a token with it: what a process does not survive is not loaded elsewhere
    #[command(hide = true)]
    Probe {
        /// The file
        file: std::path::PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct ListOptions {
    #[command(flatten)]
    who: SignIn,
}

#[derive(Debug, Args)]
pub struct OneOptions {
    /// Id of the model, or the beginning of its file's name
    model: String,
    #[command(flatten)]
    who: SignIn,
}

#[derive(Debug, Args)]
pub struct LoadOptions {
    #[command(flatten)]
    one: OneOptions,
    /// Tokens that a request may have, prompt and answer together
    #[arg(long)]
    context: Option<u32>,
    /// Requests that are computed at a time
    #[arg(long)]
    slots: Option<u32>,
    /// Seconds without requests after which it is unloaded; negative: never
    #[arg(long, allow_hyphen_values = true)]
    keep_alive: Option<i64>,
}

#[derive(Debug, Args)]
pub struct UnloadOptions {
    #[command(flatten)]
    one: OneOptions,
    /// Ends what is under way
    #[arg(long)]
    now: bool,
}

/// Runs the subcommand.
pub async fn run(config: &Config, command: ModelsCommand) -> Ended {
    match command {
        ModelsCommand::List(ListOptions { who }) => {
            let body = Rest::models(config, &who).await?.get("/api/models").await?;
            print(config, &body, |body| body["data"].as_array().into_iter().flatten().map(line).collect());
        }
        ModelsCommand::Show(OneOptions { model, who }) => {
            let body = Rest::models(config, &who).await?.get(&format!("/api/models/{model}")).await?;
            print(config, &body, details);
        }
        ModelsCommand::Load(LoadOptions { one: OneOptions { model, who }, context, slots, keep_alive }) => {
            let how = json!({ "n_ctx": context, "slots": slots, "keep_alive": keep_alive });
            let body = Rest::models(config, &who).await?.post(&format!("/api/models/{model}/load"), &how).await?;
            print(config, &body, |body| vec![line(&body["model"])]);
        }
        ModelsCommand::Unload(UnloadOptions { one: OneOptions { model, who }, now }) => {
            let how = json!({ "drain": !now });
            let body = Rest::models(config, &who).await?.post(&format!("/api/models/{model}/unload"), &how).await?;
            print(config, &body, |body| vec![text(&body["message"]).to_owned()]);
        }
        ModelsCommand::Pull(options) => return pull::run(config, options).await,
        ModelsCommand::Probe { file } => return probe(&file),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(feature = "llama")]
fn probe(file: &std::path::Path) -> Ended {
    symbia_workers::models::probe(file)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(not(feature = "llama"))]
fn probe(_: &std::path::Path) -> Ended {
    anyhow::bail!("this build has no local engine: build it with the feature `llama`")
}

fn print(config: &Config, body: &Value, lines: impl Fn(&Value) -> Vec<String>) {
    if config.json {
        println!("{body}");
        return;
    }
    for line in lines(body) {
        println!("{line}");
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn line(model: &Value) -> String {
    let number = |name: &str| model[name].as_u64().unwrap_or_default();
    let quantization = text(&model["quantization"]);
    let state = match text(&model["status"]) {
        "loaded" => format!("loaded, {} MiB", number("memoryUsageMB")),
        other => other.to_owned(),
    };
    let reason = model["reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!(
        "{:<36} {:>7} MiB  {quantization:<8} {:>7} tokens  {state}{reason}",
        text(&model["id"]),
        number("sizeBytes").div_ceil(MIB),
        number("max_context_length")
    )
}

fn details(model: &Value) -> Vec<String> {
    let shown = [
        "id",
        "filename",
        "status",
        "reason",
        "architecture",
        "quantization",
        "parameters",
        "sizeBytes",
        "max_context_length",
        "embedding_length",
        "capabilities",
        "license",
        "digest",
        "placement",
    ];
    let value = |name: &&str| match &model[*name] {
        Value::Null => None,
        Value::String(text) => Some(format!("{name:<20} {text}")),
        other => Some(format!("{name:<20} {other}")),
    };
    shown.iter().filter_map(value).collect()
}
