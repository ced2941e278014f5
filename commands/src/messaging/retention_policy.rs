//! The retention policy aggregate: for how long an organization keeps what is said, whatever its conversations say themselves
//! (messaging.md §8.16, §13.1).

use serde::{Deserialize, Serialize};
use symbia_events::{
    AggregateRef,
    messaging::{RetentionDue, RetentionPolicyChanged, RetentionPolicyEvent},
};
use time::OffsetDateTime;

use super::settings::MAX_RETENTION;
use crate::{Actor, Aggregate, Decision, Rejection, Role, domain_commands};

domain_commands! {
    /// What a retention policy can be asked to do.
    RetentionPolicyCommand: Messaging / "retention-policy" {
        /// Has what nobody adds to for so many days erased, in all conversations of the organization.
        SetRetentionPolicy = "symbia.cmd.messaging.set-retention-policy.v1" {
            org_id: String,
            /// 0: it is kept for ever.
            days: u32,
        }
        /// Has it looked for. Comes from a timer.
        SweepRetention = "symbia.cmd.messaging.sweep-retention.v1" {
            org_id: String,
            /// The days that the timer was set for; by another number, it is out of date.
            days: u32,
        }
    }
}

/// A retention policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionPolicy {
    days: u32,
}

impl Aggregate for RetentionPolicy {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("orgId");
    type Command = RetentionPolicyCommand;
    type Event = RetentionPolicyEvent;

    fn belongs(_: &RetentionPolicyCommand, to: &AggregateRef) -> Result<(), Rejection> {
        // One for each organization.
        if to.id == to.tenant.as_str() { Ok(()) } else { Err(Rejection::misaddressed(to)) }
    }

    fn apply(&mut self, event: &RetentionPolicyEvent) {
        if let RetentionPolicyEvent::RetentionPolicyChanged(e) = event {
            self.days = e.days;
        }
    }

    fn decide(
        &self,
        command: RetentionPolicyCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<RetentionPolicyEvent>, Rejection> {
        match command {
            RetentionPolicyCommand::SetRetentionPolicy(c) => {
                let admin = by.orgs.iter().any(|m| m.id.as_str() == c.org_id && m.role == Role::Admin);
                if !admin && !by.super_admin && !by.is_platform() {
                    let text = "for how long an organization keeps what is said is for its admins to say";
                    return Err(Rejection::forbidden(text));
                }
                if c.days > MAX_RETENTION {
                    let text = format!("days: at most {MAX_RETENTION}; 0 keeps it for ever");
                    return Err(Rejection::invalid(text));
                }
                if c.days == self.days {
                    return Ok(Decision::nothing());
                }
                let by = by.id.clone();
                Ok(Decision::one(RetentionPolicyChanged { org_id: c.org_id, days: c.days, by }))
            }
            RetentionPolicyCommand::SweepRetention(c) => {
                if !by.is_platform() {
                    return Err(Rejection::forbidden("it is looked for by a timer"));
                }
                if c.days == 0 || c.days != self.days {
                    return Ok(Decision::nothing());
                }
                Ok(Decision::one(RetentionDue { org_id: c.org_id, days: c.days }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::testing::people;
    use super::*;
    use crate::{Membership, testing::given};

    fn admin() -> Actor {
        let orgs = vec![Membership { id: "org".parse().unwrap(), role: Role::Admin }];
        Actor { orgs, ..people("ada", "org") }
    }

    fn set(days: u32) -> SetRetentionPolicy {
        SetRetentionPolicy { org_id: "org".into(), days }
    }

    fn changed(days: u32) -> RetentionPolicyEvent {
        RetentionPolicyChanged { org_id: "org".into(), days, by: "ada".into() }.into()
    }

    #[test]
    fn admins_say_how_long_and_nobody_else() {
        given::<RetentionPolicy>([]).when(set(30), &admin()).then([changed(30)]);
        given::<RetentionPolicy>([changed(30)]).when(set(30), &admin()).then([]);
        given::<RetentionPolicy>([]).when(set(MAX_RETENTION + 1), &admin()).rejected("VALIDATION_FAILED");
        given::<RetentionPolicy>([]).when(set(30), &people("bob", "org")).rejected("FORBIDDEN");
        let elsewhere = SetRetentionPolicy { org_id: "other".into(), days: 30 };
        given::<RetentionPolicy>([]).when(elsewhere, &admin()).rejected("FORBIDDEN");
    }

    #[test]
    fn only_a_timer_of_the_policy_that_counts_sweeps() {
        let (timer, sweep) = (Actor::system("timer"), SweepRetention { org_id: "org".into(), days: 30 });
        let due = RetentionDue { org_id: "org".into(), days: 30 };
        given::<RetentionPolicy>([changed(30)]).when(sweep.clone(), &timer).then([due.into()]);
        given::<RetentionPolicy>([changed(30), changed(7)]).when(sweep.clone(), &timer).then([]);
        given::<RetentionPolicy>([changed(30), changed(0)]).when(sweep.clone(), &timer).then([]);
        given::<RetentionPolicy>([changed(30)]).when(sweep, &admin()).rejected("FORBIDDEN");
    }
}
