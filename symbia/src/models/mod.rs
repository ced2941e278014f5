//! `symbia models`: the language models of this installation.

mod pull;

use std::process::ExitCode;

use anyhow::Context;
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
    /// Get a model, into the model directory of this machine or the platform's
    Pull(pull::PullOptions),
    /// Show the models that the platform gets or has got
    Downloads(ListOptions),
    /// Have the platform stop getting a model
    Cancel(CancelOptions),
    /// Look for models at the hub
    Search(SearchOptions),
    /// Look through the model directories, and give files another try that could not be used
    Rescan(ListOptions),
    /// Set a model's aliases, defaults, prompts, visibility, and whether it stays in memory
    Set(SetOptions),
    /// Delete a model's file
    Delete(DeleteOptions),
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

#[derive(Debug, Args)]
pub struct CancelOptions {
    /// Id of the download
    download: String,
    #[command(flatten)]
    who: SignIn,
}

#[derive(Debug, Args)]
pub struct SearchOptions {
    /// Words
    query: String,
    /// Repositories at most
    #[arg(long, default_value_t = 20)]
    limit: u32,
    #[command(flatten)]
    who: SignIn,
}

#[derive(Debug, Args)]
pub struct SetOptions {
    #[command(flatten)]
    one: OneOptions,
    /// What to change as JSON, e.g. '{"aliases":["small"],"pinned":true,"defaults":{"temperature":0.2}}'; null sets back
    settings: String,
}

#[derive(Debug, Args)]
pub struct DeleteOptions {
    #[command(flatten)]
    one: OneOptions,
    /// Even when it is in memory
    #[arg(long)]
    force: bool,
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
        ModelsCommand::Downloads(ListOptions { who }) => {
            let body = Rest::models(config, &who).await?.get("/api/models/downloads").await?;
            print(config, &body, |body| body["downloads"].as_array().into_iter().flatten().map(download).collect());
        }
        ModelsCommand::Cancel(CancelOptions { download: id, who }) => {
            let body = Rest::models(config, &who).await?.delete(&format!("/api/models/downloads/{id}")).await?;
            print(config, &body, |body| vec![download(body)]);
        }
        ModelsCommand::Search(SearchOptions { query, limit, who }) => {
            let query = form_urlencoded::byte_serialize(query.as_bytes()).collect::<String>();
            let path = format!("/api/models/search?q={query}&limit={limit}");
            let body = Rest::models(config, &who).await?.get(&path).await?;
            print(config, &body, |body| {
                body["repositories"].as_array().into_iter().flatten().map(repository).collect()
            });
        }
        ModelsCommand::Rescan(ListOptions { who }) => {
            let body = Rest::models(config, &who).await?.post("/api/models/rescan", &json!({})).await?;
            let line = |worker: &Value| format!("{} has {} models", text(&worker["worker"]), worker["models"]);
            print(config, &body, |body| body["workers"].as_array().into_iter().flatten().map(line).collect());
        }
        ModelsCommand::Set(SetOptions { one: OneOptions { model, who }, settings }) => {
            let patch: Value = serde_json::from_str(&settings).context("the settings are no JSON")?;
            let body = Rest::models(config, &who).await?.patch(&format!("/api/models/{model}"), &patch).await?;
            print(config, &body, |body| vec![body["settings"].to_string()]);
        }
        ModelsCommand::Delete(DeleteOptions { one: OneOptions { model, who }, force }) => {
            let body = Rest::models(config, &who).await?.delete(&format!("/api/models/{model}?force={force}")).await?;
            print(config, &body, |body| vec![text(&body["message"]).to_owned()]);
        }
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

fn download(download: &Value) -> String {
    let source = &download["source"];
    let what = ["repo", "url", "name"].iter().find_map(|name| source[*name].as_str()).unwrap_or_default();
    let error = download["error"].as_str().map(|error| format!(": {error}")).unwrap_or_default();
    format!("{}  {:<10} {what}{error}", text(&download["id"]), text(&download["status"]))
}

fn repository(found: &Value) -> String {
    format!("{:<60} {:>10} downloads  {}", text(&found["repo"]), found["downloads"], text(&found["license"]))
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
        "aliases",
        "settings",
        "placement",
    ];
    let value = |name: &&str| match &model[*name] {
        Value::Null => None,
        Value::String(text) => Some(format!("{name:<20} {text}")),
        other => Some(format!("{name:<20} {other}")),
    };
    shown.iter().filter_map(value).collect()
}
