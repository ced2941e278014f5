//! Events of a route: a name of an organization's own for several models, of which one answers (integrations.md §25.4, §28).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Hedge, Strategy};
use crate::domain_events;

/// A model that a route may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteTarget {
    /// Its provider.
    pub provider: String,
    /// The model; absent: the provider's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How much of the load it takes beside the others; absent: 1. With 0 it is asked last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// How long one attempt at it may take, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// How often it is asked in a minute; beyond that others are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rpm: Option<u32>,
    /// How many requests it may have under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<u32>,
}

/// What has to go wrong for another model to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FallbackTrigger {
    /// Anything that another model may do better.
    Error,
    /// It took too long.
    Timeout,
    /// It, or a limit of the organization, is asked too often.
    RateLimit,
    /// It declined the content.
    ContentFilter,
    /// The prompt is longer than what it reads.
    ContextWindow,
    /// A budget, or what its provider grants, is used up.
    Budget,
}

/// The models that are asked when something goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RouteFallback {
    /// What.
    pub on: FallbackTrigger,
    /// In turn.
    pub targets: Vec<RouteTarget>,
}

domain_events! {
    /// What can have happened to a route.
    RouteEvent: Integrations / "route" {
        /// The name means these models from now on.
        RoutePolicySet = "symbia.integrations.route.route-policy-set.v1" {
            route_id: String,
            /// The name.
            alias: String,
            /// Counts changes, from 1.
            version: u64,
            strategy: Strategy,
            targets: Vec<RouteTarget>,
            fallbacks: Vec<RouteFallback>,
            /// When the second target is asked besides the first.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            hedge: Option<Hedge>,
            by: String,
        }
        /// The name means nothing any more.
        RoutePolicyRemoved = "symbia.integrations.route.route-policy-removed.v1" {
            route_id: String,
            by: String,
        }
    }
}
