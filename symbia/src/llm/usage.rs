//! `symbia llm usage`: what was asked of models at the gateway, how much of it there was, and what it cost.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::routes::wanted;
use crate::{
    config::Config,
    rest::{AtGateway, Rest, query},
    table,
};

const PATH: &str = "/api/integrations/usage";

#[derive(Debug, Args)]
pub struct UsageOptions {
    /// A line for each of these
    #[arg(long, value_enum, default_value_t = By::Model)]
    by: By,
    /// Of so many days until now, 1 to 366
    #[arg(long, default_value_t = 30)]
    days: u32,
    /// Only of this model, as the provider calls it: PROVIDER/MODEL, or all of a PROVIDER
    #[arg(long, short)]
    model: Option<String>,
    /// Only of this user, by the id (admins)
    #[arg(long)]
    user: Option<String>,
    /// Only with this API key, by its id
    #[arg(long)]
    key: Option<String>,
    /// Only with this word among their tags
    #[arg(long)]
    tag: Option<String>,
    #[command(flatten)]
    at: AtGateway,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum By {
    Provider,
    Model,
    Assistant,
    User,
    Key,
}

impl By {
    // The heading, the list in the answer, and what names a group in it.
    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            By::Provider => ("PROVIDER", "byIntegration", "/integrationKey"),
            By::Model => ("MODEL", "byModel", "/model"),
            By::Assistant => ("ASSISTANT", "byAssistant", "/assistantId"),
            By::User => ("USER", "byUser", "/userId"),
            By::Key => ("KEY", "byKey", "/keyId"),
        }
    }
}

/// Runs the subcommand.
pub async fn run(config: &Config, options: UsageOptions) -> anyhow::Result<()> {
    let answer = Rest::gateway(config, &options.at).await?.get(&options.path()).await?;
    let (heading, list, name) = options.by.names();
    let columns = [
        (heading, name),
        ("REQUESTS", "/requestCount"),
        ("FAILED", "/errorCount"),
        ("TOKENS", "/totalTokens"),
        ("US$", "/shown"),
        ("MEAN MS", "/avgDurationMs"),
        ("LAST", "/lastUsedAt"),
    ];
    let rows = answer[list].as_array().into_iter().flatten().map(row).collect();
    table::show(config.json, &answer, &rows, &columns);
    if !config.json {
        println!("\n{}", sum(&answer["summary"]));
    }
    Ok(())
}

impl UsageOptions {
    fn path(&self) -> String {
        let (provider, model) = wanted(self.model.as_deref());
        let fields = [
            ("days", Some(self.days.to_string())),
            ("integration", provider),
            ("model", model),
            ("userId", self.user.clone()),
            ("keyId", self.key.clone()),
            ("tag", self.tag.clone()),
        ];
        format!("{PATH}{}", query(&fields))
    }
}

fn row(group: &Value) -> Value {
    let mut row = group.clone();
    row["shown"] = json!(dollars(&group["totalCostMicros"]));
    row
}

fn sum(all: &Value) -> String {
    let number = |name: &str| all[name].as_i64().unwrap_or_default();
    format!(
        "{} requests of {} users, {} failed; {} tokens asked, {} answered; US$ {}",
        number("totalRequests"),
        number("uniqueUsers"),
        number("errorCount"),
        number("promptTokens"),
        number("completionTokens"),
        dollars(&all["totalCostMicros"])
    )
}

// Millionths of a dollar as dollars.
fn dollars(micros: &Value) -> String {
    let micros = micros.as_i64().unwrap_or_default();
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn millionths_are_shown_as_dollars() {
        assert_eq!(dollars(&json!(12_000_345)), "12.000345");
        assert_eq!(dollars(&Value::Null), "0.000000");
    }
}
