//! `symbia llm eval`: models are tried, and recommended by what came of it.

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::routes::{named, wanted};
use crate::{
    config::Config,
    rest::{AtGateway, Rest, query, segment},
    table,
};

const PATH: &str = "/api/model-eval";
const BENCHMARKS: [(&str, &str); 4] =
    [("BENCHMARK", "/id"), ("TASK", "/taskType"), ("CASES", "/testCaseCount"), ("WHAT", "/description")];
const EVALUATIONS: [(&str, &str); 8] = [
    ("ID", "/id"),
    ("PROVIDER", "/provider"),
    ("MODEL", "/modelId"),
    ("BENCHMARK", "/benchmarkId"),
    ("STATUS", "/status"),
    ("SCORE", "/overallScore"),
    ("PASSED", "/accuracy"),
    ("MEDIAN MS", "/latencyP50Ms"),
];
const CASES: [(&str, &str); 5] =
    [("CASE", "/testCaseId"), ("PASSED", "/passed"), ("SCORE", "/score"), ("WHY", "/reason"), ("ERROR", "/error")];
const SCHEDULES: [(&str, &str); 9] = [
    ("NAME", "/name"),
    ("PROVIDER", "/provider"),
    ("MODEL", "/modelId"),
    ("BENCHMARK", "/benchmarkId"),
    ("CRON", "/cron"),
    ("HOURS", "/intervalHours"),
    ("ENABLED", "/enabled"),
    ("NEXT", "/nextRunAt"),
    ("ERROR", "/lastError"),
];
const RECOMMENDED: [(&str, &str); 8] = [
    ("RANK", "/rank"),
    ("PROVIDER", "/provider"),
    ("MODEL", "/modelId"),
    ("SCORE", "/compositeScore"),
    ("QUALITY", "/qualityScore"),
    ("SPEED", "/speedScore"),
    ("COST", "/costScore"),
    ("RELIABILITY", "/reliabilityScore"),
];

/// `symbia llm eval`.
#[derive(Debug, Subcommand)]
pub enum EvalCommand {
    /// Show the benchmarks
    Benchmarks {
        /// Only of this task: routing, code, reasoning, …
        #[arg(long)]
        task: Option<String>,
        #[command(flatten)]
        at: AtGateway,
    },
    /// Show which models were tried
    List(ListOptions),
    /// Try a model with a benchmark (admins)
    Run(RunOptions),
    /// Show an evaluation with its cases
    Show(OneOptions),
    /// Stop an evaluation under way (admins)
    Cancel(OneOptions),
    /// Sum up what came of all evaluations for a task (admins): what is recommended stands on it
    Score {
        /// The task
        task: String,
        #[command(flatten)]
        at: AtGateway,
    },
    /// Show which models to take for a task
    Recommend(RecommendOptions),
    /// Show the models that are tried again and again
    Schedules(AtGateway),
    /// Have a model tried again and again (admins)
    Schedule(ScheduleOptions),
    /// Have it tried no more (admins)
    Unschedule {
        /// Name of the schedule
        name: String,
        #[command(flatten)]
        at: AtGateway,
    },
}

#[derive(Debug, Args)]
pub struct ListOptions {
    /// Only this model: PROVIDER/MODEL, or all of a PROVIDER
    #[arg(long, short)]
    model: Option<String>,
    /// Only with this benchmark
    #[arg(long)]
    benchmark: Option<String>,
    /// Only running, completed, failed or cancelled ones
    #[arg(long)]
    status: Option<String>,
    /// So many at most, the newest first
    #[arg(long, short = 'n', default_value_t = 50)]
    limit: u32,
    #[command(flatten)]
    at: AtGateway,
}

#[derive(Debug, Args)]
pub struct RunOptions {
    /// PROVIDER/MODEL
    model: String,
    /// The benchmark
    benchmark: String,
    /// Only these cases
    #[arg(long = "case")]
    cases: Vec<String>,
    /// The same seed gives the same answers, where the model can
    #[arg(long)]
    seed: Option<i64>,
    /// Ask nobody: grade the expected answers
    #[arg(long)]
    mock: bool,
    /// Who judges answers whose meaning counts, PROVIDER/MODEL
    #[arg(long)]
    judge: Option<String>,
    /// Do not wait for the end
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    at: AtGateway,
}

#[derive(Debug, Args)]
pub struct ScheduleOptions {
    /// Name of the schedule
    name: String,
    /// PROVIDER/MODEL
    model: String,
    /// The benchmark
    benchmark: String,
    /// Only these cases
    #[arg(long = "case")]
    cases: Vec<String>,
    /// Who judges answers whose meaning counts, PROVIDER/MODEL
    #[arg(long)]
    judge: Option<String>,
    /// When, in UTC: '0 3 * * *' is every night at three
    #[arg(long, required_unless_present = "every")]
    cron: Option<String>,
    /// Or each time so many hours have passed
    #[arg(long, conflicts_with = "cron", value_name = "HOURS")]
    every: Option<u32>,
    /// Keep it, but do not run it
    #[arg(long)]
    disabled: bool,
    #[command(flatten)]
    at: AtGateway,
}

#[derive(Debug, Args)]
pub struct OneOptions {
    /// Id of the evaluation
    id: String,
    #[command(flatten)]
    at: AtGateway,
}

#[derive(Debug, Args)]
pub struct RecommendOptions {
    /// The task: routing, code, reasoning, …
    task: String,
    /// Milliseconds that the median answer may take
    #[arg(long)]
    max_latency_ms: Option<u64>,
    /// US dollars that a million tokens may cost
    #[arg(long)]
    max_cost: Option<f64>,
    /// Quality from 0 to 100 that it must have
    #[arg(long)]
    min_quality: Option<f64>,
    /// Something that it must be able to do, e.g. embedding
    #[arg(long = "capability")]
    capabilities: Vec<String>,
    /// None of this provider
    #[arg(long)]
    exclude_provider: Vec<String>,
    /// Not this model: MODEL or PROVIDER/MODEL
    #[arg(long)]
    exclude_model: Vec<String>,
    /// So many at most
    #[arg(long, short = 'n', default_value_t = 5)]
    limit: u32,
    #[command(flatten)]
    at: AtGateway,
}

/// Runs the subcommand.
pub async fn run(config: &Config, command: EvalCommand) -> anyhow::Result<()> {
    match command {
        EvalCommand::Benchmarks { task, at } => {
            let path = format!("{PATH}/benchmarks{}", query(&[("taskType", task)]));
            let answer = Rest::gateway(config, &at).await?.get(&path).await?;
            table::show(config.json, &answer, &answer["benchmarks"], &BENCHMARKS);
        }
        EvalCommand::List(options) => {
            let answer = Rest::gateway(config, &options.at).await?.get(&options.path()).await?;
            table::show(config.json, &answer, &answer["evaluations"], &EVALUATIONS);
        }
        EvalCommand::Run(options) => {
            let (path, body) = (format!("{PATH}/benchmarks/run"), options.body()?);
            show(config, &Rest::gateway(config, &options.at).await?.post(&path, &body).await?);
        }
        EvalCommand::Show(OneOptions { id, at }) => {
            let path = format!("{PATH}/evaluations/{}", segment(&id));
            show(config, &Rest::gateway(config, &at).await?.get(&path).await?);
        }
        EvalCommand::Cancel(OneOptions { id, at }) => {
            let path = format!("{PATH}/evaluations/{}/cancel", segment(&id));
            show(config, &Rest::gateway(config, &at).await?.post(&path, &json!({})).await?);
        }
        EvalCommand::Score { task, at } => {
            let (path, body) = (format!("{PATH}/scores/aggregate"), json!({ "taskType": task }));
            let answer = Rest::gateway(config, &at).await?.post(&path, &body).await?;
            table::show(config.json, &answer, &answer["scores"], &RECOMMENDED[1..]);
        }
        EvalCommand::Recommend(options) => {
            let path = format!("{PATH}/recommendations");
            let answer = Rest::gateway(config, &options.at).await?.post(&path, &options.body()).await?;
            table::show(config.json, &answer, &answer["recommendations"], &RECOMMENDED);
        }
        EvalCommand::Schedules(at) => {
            let answer = Rest::gateway(config, &at).await?.get(&format!("{PATH}/schedules")).await?;
            table::show(config.json, &answer, &answer, &SCHEDULES);
        }
        EvalCommand::Schedule(options) => {
            let (path, body) = (format!("{PATH}/schedules/{}", segment(&options.name)), options.body()?);
            let answer = Rest::gateway(config, &options.at).await?.put(&path, &body).await?;
            table::show(config.json, &answer, &answer, &SCHEDULES);
        }
        EvalCommand::Unschedule { name, at } => {
            let path = format!("{PATH}/schedules/{}", segment(&name));
            Rest::gateway(config, &at).await?.remove(&path).await?;
            table::done(config.json, &json!({ "removed": name }), "Removed.");
        }
    }
    Ok(())
}

impl ListOptions {
    fn path(&self) -> String {
        let (provider, model) = wanted(self.model.as_deref());
        let fields = [
            ("provider", provider),
            ("modelId", model),
            ("benchmarkId", self.benchmark.clone()),
            ("status", self.status.clone()),
            ("limit", Some(self.limit.to_string())),
        ];
        format!("{PATH}/evaluations{}", query(&fields))
    }
}

impl RunOptions {
    fn body(&self) -> anyhow::Result<Value> {
        let (provider, model) = whole(&self.model)?;
        Ok(json!({
            "provider": provider, "modelId": model, "benchmarkId": self.benchmark, "testCaseIds": self.cases,
            "seed": self.seed, "mock": self.mock, "wait": !self.no_wait, "judge": self.judge,
        }))
    }
}

impl ScheduleOptions {
    fn body(&self) -> anyhow::Result<Value> {
        let (provider, model) = whole(&self.model)?;
        Ok(json!({
            "provider": provider, "modelId": model, "benchmarkId": self.benchmark, "testCaseIds": self.cases,
            "judge": self.judge, "cron": self.cron, "intervalHours": self.every, "enabled": !self.disabled,
        }))
    }
}

fn whole(model: &str) -> anyhow::Result<(&str, &str)> {
    let (provider, of) = named(model);
    Ok((provider, of.with_context(|| format!("'{model}' is no PROVIDER/MODEL"))?))
}

impl RecommendOptions {
    fn body(&self) -> Value {
        let constraints = json!({
            "maxLatencyMs": self.max_latency_ms, "maxCostPerMTokens": self.max_cost, "minQualityScore": self.min_quality,
            "requiredCapabilities": self.capabilities, "excludeProviders": self.exclude_provider,
            "excludeModels": self.exclude_model,
        });
        json!({ "taskType": self.task, "constraints": constraints, "limit": self.limit })
    }
}

fn show(config: &Config, evaluation: &Value) {
    table::show(config.json, evaluation, evaluation, &EVALUATIONS);
    if !config.json && evaluation["testCaseResults"].as_array().is_some_and(|cases| !cases.is_empty()) {
        println!();
        table::show(false, evaluation, &evaluation["testCaseResults"], &CASES);
    }
}
