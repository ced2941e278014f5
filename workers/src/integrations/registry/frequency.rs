//! How much an organization calls what it registered: buckets and places that all processes share, drawn from before a call is
//! begun, and settled when it is known what the call took.

use std::time::Duration;

use serde_json::Value;
use symbia_events::integrations::{CallRate, ErrorCategory, InvocationInput};
use symbia_nats::{
    limits::{Bucket, Limits},
    places::Places,
};
use symbia_projections::integrations::Integration;

use crate::integrations::provider::Fault;

/// Bytes of a token, about.
const TOKEN: usize = 4;
const MINUTE: Duration = Duration::from_secs(60);
/// For so many minutes one answer's tokens count at most.
const MOST_MINUTES: u64 = 4;
/// When who has too many calls under way may make the next.
const AGAIN: Duration = Duration::from_secs(1);

/// The limits. Cheap to clone.
#[derive(Clone)]
pub struct CallLimits {
    buckets: Limits,
    places: Places,
}

/// A call that is to be counted.
pub(super) struct Counted<'a> {
    pub org: &'a str,
    pub integration: &'a Integration,
    pub operation: &'a str,
    /// Its id: who makes the call again has the same place.
    pub request: &'a str,
    /// How long it may take.
    pub lasting: Duration,
}

/// What a call has of the limits that count it.
#[derive(Default)]
pub(super) struct Drawn {
    calls: Vec<(String, Bucket)>,
    tokens: Vec<(String, Bucket)>,
    places: Vec<String>,
}

impl CallLimits {
    /// Over a connection.
    #[must_use]
    pub fn new(client: async_nats::Client) -> Self {
        CallLimits { buckets: Limits::new(client.clone()), places: Places::new(client) }
    }

    /// Draws from every limit that counts a call; refuses when one has nothing left, and then has drawn from none.
    pub(super) async fn admit(&self, call: &Counted<'_>) -> Result<Drawn, Fault> {
        let mut drawn = Drawn::default();
        let Some(limit) = &call.integration.rate_limit else { return Ok(drawn) };
        let whole = format!("integration:{}:{}", call.org, call.integration.key);
        let of_one = limit.operations.get(call.operation).map(|rate| (format!("{whole}:{}", call.operation), *rate));
        for (key, rate) in std::iter::once((whole, limit.all())).chain(of_one) {
            if let Err(fault) = self.draw(call, &key, rate, &mut drawn).await {
                for (key, bucket) in std::mem::take(&mut drawn.calls) {
                    self.correct(&key, bucket, 0).await;
                }
                self.settle(call, drawn, 0).await;
                return Err(fault);
            }
        }
        Ok(drawn)
    }

    /// Gives places back, and takes the tokens that a call took.
    pub(super) async fn settle(&self, call: &Counted<'_>, drawn: Drawn, tokens: u64) {
        for (key, bucket) in drawn.tokens {
            // An answer says what it took, and is not believed without bounds.
            self.correct(&key, bucket, tokens.min(bucket.size.saturating_mul(MOST_MINUTES))).await;
        }
        for key in drawn.places {
            if let Err(error) = self.places.leave(&key, call.request).await {
                tracing::warn!(key, %error, "a place is not given back before its time");
            }
        }
    }

    // One was drawn.
    async fn correct(&self, key: &str, bucket: Bucket, spent: u64) {
        if let Err(error) = self.buckets.settle(key, bucket, 1, spent).await {
            tracing::warn!(key, %error, "a limit is not corrected");
        }
    }

    // A broker that is away keeps nobody from working.
    async fn draw(&self, call: &Counted<'_>, key: &str, rate: CallRate, drawn: &mut Drawn) -> Result<(), Fault> {
        let integration = &call.integration.key;
        if let Some(most) = rate.concurrent_requests {
            let key = format!("{key}:at-once");
            match self.places.take(&key, most, call.request, call.lasting).await {
                Ok(true) => drawn.places.push(key),
                Ok(false) => return Err(crowded(integration, most)),
                // It may have been taken all the same.
                Err(error) => {
                    tracing::warn!(key, %error, "a limit is passed over");
                    drawn.places.push(key);
                }
            }
        }
        let CallRate { requests_per_second, requests_per_minute, tokens_per_minute, .. } = rate;
        for (name, most, per) in [
            ("second", requests_per_second, Duration::from_secs(1)),
            ("minute", requests_per_minute, MINUTE),
            ("tokens", tokens_per_minute, MINUTE),
        ] {
            let Some(most) = most else { continue };
            let (key, bucket) = (format!("{key}:{name}"), Bucket { size: most.into(), per });
            match self.buckets.draw(&key, bucket, 1, 1).await {
                Ok(got) if got.tokens == 0 => return Err(refusal(integration, name, bucket, got.enough_in)),
                Ok(_) if name == "tokens" => drawn.tokens.push((key, bucket)),
                Ok(_) => drawn.calls.push((key, bucket)),
                Err(error) => tracing::warn!(key, %error, "a limit is passed over"),
            }
        }
        Ok(())
    }
}

fn crowded(key: &str, most: u32) -> Fault {
    let text = format!("the organization calls '{key}' at most {most} times at once, and does: ask again in 1 s");
    Fault { retry_after: Some(AGAIN), ..Fault::new(ErrorCategory::RateLimit, "too_many_at_once", text) }
}

fn refusal(key: &str, name: &str, Bucket { size, .. }: Bucket, wait: Duration) -> Fault {
    let what = match name {
        "tokens" => format!("'{key}' may use {size} tokens a minute, and has"),
        per => format!("the organization calls '{key}' at most {size} times a {per}, and has"),
    };
    let text = format!("{what}: ask again in {} s", wait.as_secs() + 1);
    Fault { retry_after: Some(wait), ..Fault::new(ErrorCategory::RateLimit, "rate_limited", text) }
}

/// The tokens that an answer says it took, else about as many as its text and what was asked are.
pub(super) fn tokens(input: &InvocationInput, answer: &Value) -> u64 {
    let said = |names: &[&str]| names.iter().find_map(|name| answer["usage"][*name].as_u64());
    let parts = || {
        let (read, written) = (said(&["prompt_tokens", "input_tokens"]), said(&["completion_tokens", "output_tokens"]));
        read.or(written).map(|_| read.unwrap_or(0).saturating_add(written.unwrap_or(0)))
    };
    let text = |value: &Value| if value.is_null() { 0 } else { value.to_string().len() };
    let asked = text(&input.body) + input.params.values().map(text).sum::<usize>();
    let about = || u64::try_from((asked + text(answer)).div_ceil(TOKEN)).unwrap_or(u64::MAX);
    said(&["total_tokens"]).or_else(parts).unwrap_or_else(about)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tokens_are_those_that_an_answer_tells_or_about_as_many_as_its_text_has() {
        let input = InvocationInput { body: json!({ "text": "12345678" }), ..InvocationInput::default() };
        let told = |usage: Value| tokens(&input, &json!({ "usage": usage, "text": "x".repeat(4000) }));
        assert_eq!(told(json!({ "total_tokens": 7, "prompt_tokens": 5 })), 7);
        assert_eq!(told(json!({ "prompt_tokens": 5, "completion_tokens": 3 })), 8);
        assert_eq!(told(json!({ "input_tokens": 5 })), 5);
        assert!((1000..1050).contains(&told(json!("unknown"))), "{}", told(json!("unknown")));
        assert_eq!(tokens(&InvocationInput::default(), &Value::Null), 0);
        assert_eq!(tokens(&input, &Value::Null), 5, "what was asked counts as well");
    }
}
