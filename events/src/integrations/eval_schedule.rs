//! Events of a schedule: a model that is tried again and again (integrations.md §16).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Target;
use crate::domain_events;

/// Which model is tried, and with what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Trial {
    /// Its provider.
    pub provider: String,
    /// The model.
    pub model_id: String,
    /// With which benchmark.
    pub benchmark_id: String,
    /// Only these cases; without any, all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub test_case_ids: Vec<String>,
    /// Who judges answers whose meaning counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<Target>,
}

domain_events! {
    /// What can have happened to a schedule.
    EvalScheduleEvent: Integrations / "eval-schedule" {
        /// The model is tried at these times from now on.
        EvalScheduleSet = "symbia.integrations.eval-schedule.eval-schedule-set.v1" {
            schedule_id: String,
            name: String,
            /// Counts changes, from 1.
            version: u64,
            trial: Trial,
            /// Five fields, in UTC. Either this or an interval.
            cron: Option<String>,
            interval_hours: Option<u32>,
            enabled: bool,
            /// RFC 3339; absent when it is not enabled.
            next_run_at: Option<String>,
            /// In whose name the model is asked.
            by: String,
        }
        /// It is time.
        EvalScheduleDue = "symbia.integrations.eval-schedule.eval-schedule-due.v1" {
            schedule_id: String,
            version: u64,
            evaluation_id: String,
            trial: Trial,
            due_at: String,
            next_run_at: Option<String>,
            by: String,
        }
        /// It cannot go on.
        EvalScheduleStopped = "symbia.integrations.eval-schedule.eval-schedule-stopped.v1" {
            schedule_id: String,
            reason: String,
        }
        /// The model is tried no more.
        EvalScheduleRemoved = "symbia.integrations.eval-schedule.eval-schedule-removed.v1" {
            schedule_id: String,
            by: String,
        }
    }
}
