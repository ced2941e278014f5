//! Events of a plan (identity.md §16.5).

use std::collections::BTreeMap;

use serde_json::Number;

use crate::domain_events;

domain_events! {
    /// What can have happened to a plan.
    PlanEvent: Identity / "plan" {
        /// Organizations can have it.
        PlanCreated = "symbia.identity.plan.plan-created.v1" {
            plan_id: String,
            name: String,
            features: Vec<String>,
            /// A negative number is no limit.
            limits: BTreeMap<String, Number>,
            price_cents: u32,
            by: String,
        }
        /// It now reads like this.
        PlanUpdated = "symbia.identity.plan.plan-updated.v1" {
            plan_id: String,
            name: String,
            features: Vec<String>,
            limits: BTreeMap<String, Number>,
            price_cents: u32,
            by: String,
        }
        /// No organization gets it any more; those that have it keep it.
        PlanRetired = "symbia.identity.plan.plan-retired.v1" { plan_id: String, by: String }
    }
}
