//! `symbia llm`: a local model asked directly, without an assistant and a conversation; what was used at the gateway, its
//! routes, and models that are tried.

mod eval;
mod routes;
mod usage;

use std::{
    io::{IsTerminal, Read, Write},
    process::ExitCode,
};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    Ended,
    chat::sse::Events,
    config::Config,
    rest::{Rest, SignIn},
    session::told,
};

/// `symbia llm`.
#[derive(Debug, Subcommand)]
pub enum LlmCommand {
    /// Ask a model
    Chat(ChatOptions),
    /// Make vectors of texts
    Embed(EmbedOptions),
    /// Show what was asked of models, and what it cost: by you, or by everybody in the organization (its admins)
    Usage(usage::UsageOptions),
    /// Names of the organization's own for several models
    #[command(subcommand)]
    Routes(routes::RoutesCommand),
    /// Models that are tried with benchmarks
    #[command(subcommand)]
    Eval(eval::EvalCommand),
}

#[derive(Debug, Args)]
pub struct ChatOptions {
    /// The question; `-` reads it from standard input
    prompt: String,
    /// The model
    #[arg(long, short, default_value = "pico-chat")]
    model: String,
    /// What the model is told before
    #[arg(long)]
    system: Option<String>,
    /// Tokens to generate at most
    #[arg(long)]
    max_tokens: Option<u32>,
    /// 0 takes the likeliest token each time
    #[arg(long)]
    temperature: Option<f32>,
    /// The same seed gives the same answer
    #[arg(long)]
    seed: Option<u32>,
    /// File with a JSON schema that the answer must have
    #[arg(long)]
    schema: Option<std::path::PathBuf>,
    #[command(flatten)]
    who: SignIn,
}

#[derive(Debug, Args)]
pub struct EmbedOptions {
    /// The texts; `-` reads one from standard input
    #[arg(required = true)]
    texts: Vec<String>,
    /// The model
    #[arg(long, short, default_value = "all-minilm-l6-v2")]
    model: String,
    #[command(flatten)]
    who: SignIn,
}

/// Runs the subcommand.
pub async fn run(config: &Config, command: LlmCommand) -> Ended {
    match command {
        LlmCommand::Chat(options) => chat(config, options).await,
        LlmCommand::Embed(options) => embed(config, options).await,
        LlmCommand::Usage(options) => told(usage::run(config, options).await),
        LlmCommand::Routes(command) => told(routes::run(config, command).await),
        LlmCommand::Eval(command) => told(eval::run(config, command).await),
    }
}

fn given(text: String) -> anyhow::Result<String> {
    if text != "-" {
        return Ok(text);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

async fn chat(config: &Config, options: ChatOptions) -> Ended {
    let mut messages = Vec::new();
    if let Some(system) = &options.system {
        messages.push(json!({ "role": "system", "content": system }));
    }
    messages.push(json!({ "role": "user", "content": given(options.prompt)? }));
    let mut body = json!({
        "model": options.model, "messages": messages, "max_tokens": options.max_tokens,
        "temperature": options.temperature, "seed": options.seed,
    });
    if let Some(path) = &options.schema {
        let schema = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let schema: Value = serde_json::from_str(&schema).with_context(|| path.display().to_string())?;
        body["response_format"] =
            json!({ "type": "json_schema", "json_schema": { "name": "answer", "schema": schema } });
    }
    let rest = Rest::models(config, &options.who).await?;
    if config.json {
        println!("{}", rest.post("/v1/chat/completions", &body).await?);
        return Ok(ExitCode::SUCCESS);
    }
    body["stream"] = json!(true);
    let mut parts = Events::new(rest.stream("/v1/chat/completions", &body).await?);
    let mut out = std::io::stdout();
    let mut finished = false;
    while let Some(part) = parts.next().await? {
        if let Some(message) = part.data["error"]["message"].as_str() {
            bail!("{message}");
        }
        let choice = &part.data["choices"][0];
        if let Some(text) = choice["delta"]["content"].as_str() {
            out.write_all(text.as_bytes())?;
            out.flush()?;
        }
        finished |= choice["finish_reason"].is_string();
    }
    ensure!(finished, "the answer broke off");
    println!();
    Ok(ExitCode::SUCCESS)
}

async fn embed(config: &Config, options: EmbedOptions) -> Ended {
    let texts = options.texts.into_iter().map(given).collect::<anyhow::Result<Vec<_>>>()?;
    let rest = Rest::models(config, &options.who).await?;
    let body = rest.post("/v1/embeddings", &json!({ "model": options.model, "input": texts })).await?;
    if config.json {
        println!("{body}");
        return Ok(ExitCode::SUCCESS);
    }
    let data = body["data"].as_array().context("the models service answers without vectors")?;
    ensure!(data.len() == texts.len(), "the models service answers with too few vectors");
    for (text, vector) in texts.iter().zip(data) {
        // For people a glance; a program reads all of it.
        let numbers = vector["embedding"].as_array().context("no vector")?;
        let shown = if std::io::stdout().is_terminal() { &numbers[..numbers.len().min(6)] } else { numbers };
        let shown: Vec<String> = shown.iter().map(|n| format!("{:.4}", n.as_f64().unwrap_or_default())).collect();
        println!("{}\t{} numbers\t{}", text.lines().next().unwrap_or_default(), numbers.len(), shown.join(" "));
    }
    Ok(ExitCode::SUCCESS)
}
