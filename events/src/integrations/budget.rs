//! Events of a budget: how much an organization, a person, an assistant or a model may use in a period (integrations.md §25.4).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain_events;

/// Whose use counts. A budget of an organization without a subject counts everything in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum BudgetScope {
    Org,
    User,
    Key,
    Assistant,
    Model,
}

/// How often a budget begins anew, in UTC. One per minute is a rate: it fills steadily. A parallel one is what may be under way
/// at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum BudgetPeriod {
    Minute,
    Day,
    Month,
    Total,
    Parallel,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BudgetUnit {
    /// Millionths of a US dollar, by the price book.
    Micros,
    /// Tokens read and written.
    Tokens,
    /// Requests.
    Requests,
}

domain_events! {
    /// What can have happened to a budget.
    BudgetEvent: Integrations / "budget" {
        /// It has this limit from now on.
        BudgetSet = "symbia.integrations.budget.budget-set.v1" {
            budget_id: String,
            scope: BudgetScope,
            /// The user, API key, assistant or model.
            subject: Option<String>,
            period: BudgetPeriod,
            unit: BudgetUnit,
            limit: u64,
            by: String,
        }
        /// Room is kept for a request.
        BudgetReserved = "symbia.integrations.budget.budget-reserved.v1" {
            budget_id: String,
            request_id: String,
            amount: u64,
            /// The period that it counts for, e.g. `2026-01`.
            window: String,
        }
        /// A request has its end, and this is what it took.
        BudgetSettled = "symbia.integrations.budget.budget-settled.v1" {
            budget_id: String,
            request_id: String,
            amount: u64,
            /// What all requests of the window took.
            spent: u64,
            window: String,
        }
        /// The limit was reached.
        BudgetExhausted = "symbia.integrations.budget.budget-exhausted.v1" {
            budget_id: String,
            spent: u64,
            limit: u64,
            window: String,
        }
        /// A limit of what may be asked in a minute, or at once, refused requests. Those of a minute are told together.
        RateLimitExceeded = "symbia.integrations.budget.rate-limit-exceeded.v1" {
            budget_id: String,
            scope: BudgetScope,
            subject: Option<String>,
            period: BudgetPeriod,
            unit: BudgetUnit,
            limit: u64,
            /// What was counted when the last of them was refused: in the minute before, or under way.
            counted: u64,
            /// How many were refused since this was last told.
            refused: u64,
            /// The last of them.
            request_id: String,
        }
        /// What was spent counts no longer.
        BudgetReset = "symbia.integrations.budget.budget-reset.v1" {
            budget_id: String,
            by: String,
        }
        /// There is no limit any more.
        BudgetRemoved = "symbia.integrations.budget.budget-removed.v1" {
            budget_id: String,
            by: String,
        }
    }
}
