//! The usage aggregate: what one inference process has done with a model for an organization in an hour.

use serde::{Deserialize, Serialize};
use symbia_events::models::{UsageCounted, UsageEvent};
use time::OffsetDateTime;

use super::model::platform_only;
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

domain_commands! {
    /// What can be done about the sums of an hour.
    UsageCommand: Models / "usage" {
        /// They are so far.
        CountUsage = "symbia.cmd.models.count-usage.v1" {
            usage_id: String,
            hour: u64,
            model_id: String,
            worker_id: String,
            requests: u64,
            errors: u64,
            tokens_in: u64,
            tokens_cached: u64,
            tokens_out: u64,
            #[serde(default)]
            ttft_ms_p50: Option<f64>,
            #[serde(default)]
            ttft_ms_p95: Option<f64>,
            #[serde(default)]
            tokens_per_sec_p50: Option<f64>,
            #[serde(default)]
            queue_ms_p95: Option<f64>,
        }
    }
}

/// How many requests were counted: the sums only grow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    requests: u64,
}

impl Aggregate for Usage {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("usageId");
    type Command = UsageCommand;
    type Event = UsageEvent;

    fn apply(&mut self, event: &UsageEvent) {
        let UsageEvent::UsageCounted(e) = event;
        self.requests = e.requests;
    }

    fn decide(
        &self,
        command: UsageCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<UsageEvent>, Rejection> {
        platform_only(by)?;
        let UsageCommand::CountUsage(c) = command;
        // Told again, or by somebody who had not heard the latest.
        if c.requests <= self.requests {
            return Ok(Decision::nothing());
        }
        Ok(Decision::one(UsageCounted {
            usage_id: c.usage_id,
            hour: c.hour,
            model_id: c.model_id,
            worker_id: c.worker_id,
            requests: c.requests,
            errors: c.errors,
            tokens_in: c.tokens_in,
            tokens_cached: c.tokens_cached,
            tokens_out: c.tokens_out,
            ttft_ms_p50: c.ttft_ms_p50,
            ttft_ms_p95: c.ttft_ms_p95,
            tokens_per_sec_p50: c.tokens_per_sec_p50,
            queue_ms_p95: c.queue_ms_p95,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::given;

    #[test]
    fn sums_only_grow_and_only_the_platform_counts() {
        let count = |requests| CountUsage {
            usage_id: "u".into(),
            hour: 3600,
            model_id: "m".into(),
            worker_id: "w".into(),
            requests,
            errors: 0,
            tokens_in: 1,
            tokens_cached: 0,
            tokens_out: 1,
            ttft_ms_p50: Some(1.5),
            ttft_ms_p95: None,
            tokens_per_sec_p50: None,
            queue_ms_p95: None,
        };
        let keeper = Actor::system("models");
        let counted = Usage::default().decide(count(2).into(), &keeper, OffsetDateTime::UNIX_EPOCH);
        let counted = counted.map(|decision| decision.events).unwrap_or_default();
        assert_eq!(counted.len(), 1);
        given::<Usage>(counted.clone()).when(count(2), &keeper).then([]);
        given::<Usage>(counted).when(count(1), &keeper).then([]);
        let ada = Actor { kind: symbia_events::ActorType::User, super_admin: true, ..keeper };
        given::<Usage>([]).when(count(1), &ada).rejected("FORBIDDEN");
    }
}
