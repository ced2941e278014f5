//! How a request goes through the gateway: which model is asked first, and whether an earlier answer will do.

use serde::Deserialize;
use symbia_events::integrations::{Balance, Strategy};
use utoipa::ToSchema;

use crate::{http::ApiResult, integrations::errors::refused};

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

/// Whether an earlier answer will do.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::integrations) struct Caching {
    /// `exact` or `off`.
    mode: String,
    /// How old it may be in seconds, 1 to 86400; 300 when it is not given.
    #[serde(default)]
    ttl: Option<u32>,
}

impl Routing {
    pub fn read(self) -> Balance {
        Balance { strategy: self.strategy, weights: self.weights }
    }
}

impl Caching {
    pub fn read(self) -> ApiResult<Option<u32>> {
        match (self.mode.as_str(), self.ttl) {
            ("off", _) => Ok(None),
            ("exact", None) => Ok(Some(300)),
            ("exact", Some(ttl @ 1..=86_400)) => Ok(Some(ttl)),
            ("exact", Some(_)) => Err(refused("cache.ttl", "must be 1 to 86400 seconds")),
            _ => Err(refused("cache.mode", "must be exact or off")),
        }
    }
}
