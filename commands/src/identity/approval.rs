//! The approval aggregate: an agent asks a person whether it may do one thing that weighs more than its delegation allows.

use serde::{Deserialize, Serialize};
use symbia_events::{
    ActorType, Personal,
    identity::{ApprovalApproved, ApprovalDenied, ApprovalEvent, ApprovalExpired, ApprovalRequested, ApprovalUsed},
};
use time::{Duration, OffsetDateTime};

use super::instants::{instant, text};
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

/// How long a person has to answer.
pub const ANSWER_WITHIN: Duration = Duration::hours(24);
/// How long an approval can be used.
pub const USE_WITHIN: Duration = Duration::minutes(15);

domain_commands! {
    /// What can be asked of a request for approval.
    ApprovalCommand: Identity / "approval" {
        /// Asks; the sender acts in the name of the person asked.
        RequestApproval = "symbia.cmd.identity.request-approval.v1" {
            approval_id: String,
            action: String,
            target: String,
            #[serde(default)]
            reason: Option<Personal>,
        }
        /// Says yes.
        ApproveRequest = "symbia.cmd.identity.approve-request.v1" { approval_id: String }
        /// Says no.
        DenyRequest = "symbia.cmd.identity.deny-request.v1" { approval_id: String }
        /// Ends a request that nobody answered.
        ExpireRequest = "symbia.cmd.identity.expire-request.v1" { approval_id: String }
        /// Gives a token out for it.
        UseApproval = "symbia.cmd.identity.use-approval.v1" { approval_id: String }
    }
}

/// A request for approval.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ApprovalRequest {
    subject_id: String,
    standing: Standing,
    end: Option<OffsetDateTime>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Standing {
    #[default]
    Unknown,
    Open,
    Approved,
    Denied,
    Expired,
    Used,
}

impl ApprovalRequest {
    fn request(
        &self,
        c: RequestApproval,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<ApprovalEvent>, Rejection> {
        if self.standing != Standing::Unknown {
            return Err(Rejection::new("CONFLICT", "this approval id is in use"));
        }
        let (Some(subject), Some(authority)) = (&by.on_behalf_of, &by.authority) else {
            return Err(Rejection::forbidden("an approval is asked for by an agent that acts in somebody's name"));
        };
        if c.action.is_empty() || c.action.len() > 200 || c.target.is_empty() || c.target.len() > 300 {
            return Err(Rejection::invalid("action and target: those that the refusal named"));
        }
        Ok(Decision::one(ApprovalRequested {
            approval_id: c.approval_id,
            delegation_id: authority.delegation.clone(),
            subject_id: subject.clone(),
            agent_id: by.id.clone(),
            action: c.action,
            target: c.target,
            reason: c.reason,
            expires_at: text(at + ANSWER_WITHIN),
        }))
    }

    // In person: neither the agent that asked nor another one answers for them.
    fn answered_by(&self, by: &Actor, at: OffsetDateTime) -> Result<(), Rejection> {
        let person = by.kind == ActorType::User && by.on_behalf_of.is_none() && by.authority.is_none();
        if self.standing == Standing::Unknown || !person || by.id != self.subject_id {
            return Err(Rejection::not_found("request for approval"));
        }
        if self.standing != Standing::Open || self.end.is_none_or(|end| end <= at) {
            return Err(Rejection::new("APPROVAL_CLOSED", "the request was answered or has expired"));
        }
        Ok(())
    }
}

impl Aggregate for ApprovalRequest {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("approvalId");
    type Command = ApprovalCommand;
    type Event = ApprovalEvent;

    fn apply(&mut self, event: &ApprovalEvent) {
        match event {
            ApprovalEvent::ApprovalRequested(e) => {
                self.subject_id.clone_from(&e.subject_id);
                self.standing = Standing::Open;
                self.end = instant(&e.expires_at);
            }
            ApprovalEvent::ApprovalApproved(e) => {
                self.standing = Standing::Approved;
                self.end = instant(&e.usable_until);
            }
            ApprovalEvent::ApprovalDenied(_) => self.standing = Standing::Denied,
            ApprovalEvent::ApprovalExpired(_) => self.standing = Standing::Expired,
            ApprovalEvent::ApprovalUsed(_) => self.standing = Standing::Used,
        }
    }

    fn decide(
        &self,
        command: ApprovalCommand,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<ApprovalEvent>, Rejection> {
        match command {
            ApprovalCommand::RequestApproval(c) => self.request(c, by, at),
            ApprovalCommand::ApproveRequest(c) => {
                self.answered_by(by, at)?;
                let (by, usable_until) = (by.id.clone(), text(at + USE_WITHIN));
                Ok(Decision::one(ApprovalApproved { approval_id: c.approval_id, by, usable_until }))
            }
            ApprovalCommand::DenyRequest(c) => {
                self.answered_by(by, at)?;
                Ok(Decision::one(ApprovalDenied { approval_id: c.approval_id, by: by.id.clone() }))
            }
            ApprovalCommand::ExpireRequest(c) => {
                if !by.is_platform() {
                    return Err(Rejection::forbidden("time passes by itself"));
                }
                if self.standing != Standing::Open {
                    return Ok(Decision::nothing());
                }
                Ok(Decision::one(ApprovalExpired { approval_id: c.approval_id }))
            }
            ApprovalCommand::UseApproval(c) => {
                if !by.is_platform() {
                    return Err(Rejection::forbidden("tokens are given out by the identity service"));
                }
                if self.standing != Standing::Approved || self.end.is_none_or(|end| end <= at) {
                    return Err(Rejection::new("APPROVAL_CLOSED", "it was not approved, was used, or is too old"));
                }
                Ok(Decision::one(ApprovalUsed { approval_id: c.approval_id }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Authority,
        testing::{AT, given},
    };

    fn person(id: &str) -> Actor {
        Actor { id: id.into(), kind: ActorType::User, ..Actor::service("x") }
    }

    fn agent() -> Actor {
        let authority = Some(Box::new(Authority { delegation: "d1".into(), ..Authority::default() }));
        Actor { kind: ActorType::Agent, on_behalf_of: Some("ada".into()), authority, ..person("agent:a") }
    }

    fn requested(expires: Duration) -> ApprovalEvent {
        ApprovalRequested {
            approval_id: "a1".into(),
            delegation_id: "d1".into(),
            subject_id: "ada".into(),
            agent_id: "agent:a".into(),
            action: "identity.delete-organization".into(),
            target: "organization/o1".into(),
            reason: None,
            expires_at: text(AT + expires),
        }
        .into()
    }

    fn approved(until: Duration) -> ApprovalEvent {
        ApprovalApproved { approval_id: "a1".into(), by: "ada".into(), usable_until: text(AT + until) }.into()
    }

    #[test]
    fn the_person_answers_in_person_once_and_in_time() {
        let ask = RequestApproval {
            approval_id: "a1".into(),
            action: "identity.delete-organization".into(),
            target: "organization/o1".into(),
            reason: None,
        };
        let approve = ApproveRequest { approval_id: "a1".into() };
        given::<ApprovalRequest>([]).when(ask.clone(), &agent()).then([requested(ANSWER_WITHIN)]);
        given::<ApprovalRequest>([]).when(ask, &person("ada")).rejected("FORBIDDEN");
        let open = || [requested(ANSWER_WITHIN)];
        given::<ApprovalRequest>(open()).when(approve.clone(), &person("ada")).then([approved(USE_WITHIN)]);
        given::<ApprovalRequest>(open()).when(approve.clone(), &person("eve")).rejected("NOT_FOUND");
        given::<ApprovalRequest>(open()).when(approve.clone(), &agent()).rejected("NOT_FOUND");
        let denied = ApprovalDenied { approval_id: "a1".into(), by: "ada".into() };
        let deny = DenyRequest { approval_id: "a1".into() };
        given::<ApprovalRequest>(open()).when(deny, &person("ada")).then([denied.clone().into()]);
        given::<ApprovalRequest>([requested(ANSWER_WITHIN), denied.into()])
            .when(approve.clone(), &person("ada"))
            .rejected("APPROVAL_CLOSED");
        given::<ApprovalRequest>([requested(Duration::ZERO)]).when(approve, &person("ada")).rejected("APPROVAL_CLOSED");
        let expire = ExpireRequest { approval_id: "a1".into() };
        let expired = ApprovalExpired { approval_id: "a1".into() };
        given::<ApprovalRequest>(open()).when(expire.clone(), &Actor::system("timer")).then([expired.into()]);
        given::<ApprovalRequest>([requested(ANSWER_WITHIN), approved(USE_WITHIN)])
            .when(expire, &Actor::system("timer"))
            .then([]);
    }

    #[test]
    fn an_approval_is_used_once_and_soon() {
        let (edge, used) = (Actor::service("identity"), ApprovalUsed { approval_id: "a1".into() });
        let using = UseApproval { approval_id: "a1".into() };
        let history = || [requested(ANSWER_WITHIN), approved(USE_WITHIN)];
        given::<ApprovalRequest>(history()).when(using.clone(), &edge).then([used.clone().into()]);
        given::<ApprovalRequest>(history()).when(using.clone(), &agent()).rejected("FORBIDDEN");
        given::<ApprovalRequest>(history().into_iter().chain([used.into()]))
            .when(using.clone(), &edge)
            .rejected("APPROVAL_CLOSED");
        given::<ApprovalRequest>([requested(ANSWER_WITHIN), approved(Duration::ZERO)])
            .when(using.clone(), &edge)
            .rejected("APPROVAL_CLOSED");
        given::<ApprovalRequest>([requested(ANSWER_WITHIN)]).when(using, &edge).rejected("APPROVAL_CLOSED");
    }
}
