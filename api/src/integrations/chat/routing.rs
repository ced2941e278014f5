//! How a request goes through the gateway: which model is asked first, and whether an earlier answer will do.

use serde::{Deserialize, Serialize};
use symbia_commands::integrations::check_hedge;
use symbia_events::integrations::{Balance, Hedge, PromptOptions, Strategy};
use utoipa::ToSchema;

use crate::{
    http::{ApiError, ApiResult},
    integrations::errors::refused,
};

/// Which of several models is asked first.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::integrations) struct Routing {
    /// `priority` (as they are named), `simple-shuffle` (by chance), `least-busy`, `lowest-latency`, `lowest-cost`,
    /// `usage-based` or `sticky`.
    #[schema(value_type = String, example = "least-busy")]
    strategy: Strategy,
    /// One for each model; 1 where there is none.
    #[serde(default)]
    weights: Vec<u32>,
}

/// When the next model is asked besides the first, which does not begin to answer: whichever does first goes on.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::integrations) struct Hedging {
    /// After so many milliseconds, 10 to 60000, or after `p95`: as long as the first lately took at most in 19 of 20 cases.
    #[schema(value_type = Object, example = 800)]
    after: After,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged)]
enum After {
    Ms(u32),
    Word(String),
}

impl TryFrom<Hedging> for Hedge {
    type Error = ApiError;

    fn try_from(hedging: Hedging) -> ApiResult<Hedge> {
        let wrong = || refused("hedge.after", "must be 10 to 60000 milliseconds, or p95");
        let hedge = match hedging.after {
            After::Ms(ms) => Hedge { after_ms: Some(ms) },
            After::Word(word) if word == "p95" => Hedge { after_ms: None },
            After::Word(_) => return Err(wrong()),
        };
        check_hedge("hedge.after", Some(hedge)).map_err(|_| wrong())?;
        Ok(hedge)
    }
}

impl From<Hedge> for Hedging {
    fn from(hedge: Hedge) -> Self {
        Hedging { after: hedge.after_ms.map_or_else(|| After::Word("p95".to_owned()), After::Ms) }
    }
}

/// Whether an earlier answer will do.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::integrations) struct Caching {
    /// `exact`, `semantic` (also one to a last message of the same meaning, all else being the same) or `off`.
    mode: String,
    /// How old it may be in seconds, 1 to 86400; 300 when it is not given.
    #[serde(default)]
    ttl: Option<u32>,
    /// How near the meanings must be for `semantic`, 0.5 to 1; 0.95 when it is not given.
    #[serde(default)]
    threshold: Option<f64>,
}

impl Routing {
    pub fn read(self) -> Balance {
        Balance { strategy: self.strategy, weights: self.weights }
    }
}

impl Caching {
    /// Sets it in a request.
    pub fn set(self, options: &mut PromptOptions) -> ApiResult<()> {
        let semantic = match self.mode.as_str() {
            "off" => return Ok(()),
            "exact" => false,
            "semantic" => true,
            _ => return Err(refused("cache.mode", "must be exact, semantic or off")),
        };
        let threshold = self.threshold.unwrap_or(0.95);
        if !(0.5..=1.0).contains(&threshold) {
            return Err(refused("cache.threshold", "must be 0.5 to 1"));
        }
        let ttl = self.ttl.unwrap_or(300);
        if !(1..=86_400).contains(&ttl) {
            return Err(refused("cache.ttl", "must be 1 to 86400 seconds"));
        }
        (options.cache_seconds, options.cache_similarity) = (Some(ttl), semantic.then_some(threshold));
        Ok(())
    }
}
