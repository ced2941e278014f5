//! `symbia llm routes`: names of an organization's own for several models.

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    config::Config,
    rest::{AtGateway, Rest, segment},
    table,
};

const PATH: &str = "/api/integrations/routes";
const COLUMNS: [(&str, &str); 5] = [
    ("NAME", "/alias"),
    ("VERSION", "/version"),
    ("STRATEGY", "/strategy"),
    ("TARGETS", "/shown/targets"),
    ("FALLBACKS", "/shown/fallbacks"),
];
/// What a target may have besides its name; all of them are numbers.
const LIMITS: [&str; 4] = ["weight", "timeoutMs", "maxRpm", "maxConcurrency"];

/// `symbia llm routes`.
#[derive(Debug, Subcommand)]
pub enum RoutesCommand {
    /// Show the routes of the organization (its admins)
    List(AtGateway),
    /// Have a name mean several models (admins)
    Set(SetOptions),
    /// Have a name mean nothing any more (admins)
    Remove {
        /// The name
        name: String,
        #[command(flatten)]
        at: AtGateway,
    },
}

#[derive(Debug, Args)]
pub struct SetOptions {
    /// The name
    name: String,
    /// PROVIDER/MODEL, with what limits it behind commas: openai/gpt-4o,weight=3,timeoutMs=20000,maxRpm=60,maxConcurrency=4
    #[arg(required = true)]
    targets: Vec<String>,
    /// Which is asked first: priority, simple-shuffle, least-busy, lowest-latency, lowest-cost, usage-based or sticky
    #[arg(long, default_value = "priority")]
    strategy: String,
    /// TRIGGER=PROVIDER/MODEL: asked besides after an error, timeout, rate_limit, content_filter, context_window or budget
    #[arg(long)]
    on: Vec<String>,
    #[command(flatten)]
    at: AtGateway,
}

/// Runs the subcommand.
pub async fn run(config: &Config, command: RoutesCommand) -> anyhow::Result<()> {
    match command {
        RoutesCommand::List(at) => show(config, &Rest::gateway(config, &at).await?.get(PATH).await?),
        RoutesCommand::Set(options) => {
            let (path, policy) = (format!("{PATH}/{}", segment(&options.name)), options.policy()?);
            show(config, &Rest::gateway(config, &options.at).await?.put(&path, &policy).await?);
        }
        RoutesCommand::Remove { name, at } => {
            Rest::gateway(config, &at).await?.remove(&format!("{PATH}/{}", segment(&name))).await?;
            table::done(config.json, &json!({ "removed": name }), "Removed.");
        }
    }
    Ok(())
}

impl SetOptions {
    fn policy(&self) -> anyhow::Result<Value> {
        let mut fallbacks: Vec<(&str, Vec<Value>)> = Vec::new();
        for on in &self.on {
            let (trigger, of) = on.split_once('=').with_context(|| format!("'{on}' is no TRIGGER=PROVIDER/MODEL"))?;
            let of = target(of)?;
            match fallbacks.iter_mut().find(|(known, _)| *known == trigger) {
                Some((_, targets)) => targets.push(of),
                None => fallbacks.push((trigger, vec![of])),
            }
        }
        let fallback = |(on, targets)| json!({ "on": on, "targets": targets });
        Ok(json!({
            "strategy": self.strategy,
            "targets": self.targets.iter().map(|text| target(text)).collect::<anyhow::Result<Vec<_>>>()?,
            "fallbacks": fallbacks.into_iter().map(fallback).collect::<Vec<_>>(),
        }))
    }
}

fn target(text: &str) -> anyhow::Result<Value> {
    let mut parts = text.split(',');
    let (provider, model) = named(parts.next().unwrap_or_default());
    let mut target = json!({ "provider": provider });
    if let Some(model) = model {
        target["model"] = json!(model);
    }
    for part in parts {
        let (name, value) = part.split_once('=').with_context(|| format!("'{part}' in '{text}' is no NAME=NUMBER"))?;
        ensure!(LIMITS.contains(&name), "'{name}' in '{text}' is none of {}", LIMITS.join(", "));
        target[name] = json!(value.parse::<u64>().with_context(|| format!("'{value}' in '{text}' is no number"))?);
    }
    Ok(target)
}

/// A provider, and what stands behind the first slash.
pub(super) fn named(text: &str) -> (&str, Option<&str>) {
    text.split_once('/').map_or((text, None), |(provider, model)| (provider, Some(model)))
}

/// The same of what may be left out, for a query.
pub(super) fn wanted(text: Option<&str>) -> (Option<String>, Option<String>) {
    let (provider, model) = text.map(named).unzip();
    (provider.map(str::to_owned), model.flatten().map(str::to_owned))
}

fn show(config: &Config, answer: &Value) {
    let all = answer.as_array().map_or_else(|| vec![answer.clone()], Clone::clone);
    let rows: Value = all.into_iter().map(row).collect();
    table::show(config.json, answer, &rows, &COLUMNS);
}

fn row(mut route: Value) -> Value {
    let fallback = |fallback: &Value| format!("{}={}", text(&fallback["on"]), together(&fallback["targets"], "+"));
    let fallbacks: Vec<String> = route["fallbacks"].as_array().into_iter().flatten().map(fallback).collect();
    route["shown"] = json!({ "targets": together(&route["targets"], " "), "fallbacks": fallbacks.join(" ") });
    route
}

fn together(targets: &Value, between: &str) -> String {
    targets.as_array().into_iter().flatten().map(shown).collect::<Vec<_>>().join(between)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

// As it is written.
fn shown(target: &Value) -> String {
    let mut text = text(&target["provider"]).to_owned();
    if let Some(model) = target["model"].as_str() {
        text += &format!("/{model}");
    }
    for name in LIMITS {
        if let Some(limit) = target[name].as_u64() {
            text += &format!(",{name}={limit}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_shown_as_it_is_written() -> anyhow::Result<()> {
        for text in ["openai", "openai/gpt-4o", "huggingface/meta-llama/Llama-3.2-1B,weight=2,maxConcurrency=4"] {
            assert_eq!(shown(&target(text)?), text);
        }
        assert_eq!(target("openai/a,maxRpm=60")?, json!({ "provider": "openai", "model": "a", "maxRpm": 60 }));
        for wrong in ["openai/a,weight", "openai/a,luck=1", "openai/a,weight=much"] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
        Ok(())
    }
}
