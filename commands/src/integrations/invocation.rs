//! The invocation aggregate: one call of a registered operation, recorded before it is made, with exactly one end
//! (integrations.md §7, §25.4).
//!
//! A worker that dies in a call leaves an attempt without an end. The next one repeats what may be repeated (RFC 9110 §9.2.2)
//! and fails the rest: nothing is done twice that was asked for once.

use serde::{Deserialize, Serialize};
use symbia_events::{
    Personal,
    integrations::{
        ErrorCategory, InvocationAttemptStarted, InvocationCompleted, InvocationEvent, InvocationFailed,
        InvocationRequested,
    },
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::Phase;
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

/// Most bytes of what is sent, and of what comes back: sealed, each must fit into an event.
pub const MAX_INVOKED: usize = 2 * 1024 * 1024;

domain_commands! {
    /// What an invocation can be asked to do. All but the request come from workers.
    InvocationCommand: Integrations / "invocation" {
        /// Calls an operation.
        InvokeOperation = "symbia.cmd.integrations.invoke-operation.v1" {
            request_id: String,
            integration_key: String,
            operation_id: String,
            /// The JSON of what it is called with, sealed with the caller's key.
            input: Personal,
            /// RFC 3339.
            #[serde(default)]
            deadline: Option<String>,
        }
        /// A worker calls it.
        StartInvocation = "symbia.cmd.integrations.start-invocation.v1" {
            request_id: String,
            version: u64,
            host: String,
            #[serde(default)]
            credential_id: Option<String>,
            credential_source: String,
        }
        /// It answered.
        CompleteInvocation = "symbia.cmd.integrations.complete-invocation.v1" {
            request_id: String,
            kind: String,
            #[serde(default)]
            status_code: Option<u16>,
            success: bool,
            response: Personal,
            response_digest: String,
            duration_ms: u64,
        }
        /// There is no answer.
        FailInvocation = "symbia.cmd.integrations.fail-invocation.v1" {
            request_id: String,
            category: ErrorCategory,
            code: String,
            #[serde(default)]
            message: Option<Personal>,
            duration_ms: u64,
            /// When asking again is worth it.
            #[serde(default)]
            retry_after_ms: Option<u64>,
        }
    }
}

/// An invocation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Invocation {
    integration_key: String,
    operation_id: String,
    requested_by: String,
    attempts: u32,
    credential_id: Option<String>,
    credential_source: String,
    phase: Phase,
}

impl Invocation {
    fn request(&self, c: InvokeOperation, by: &Actor) -> Result<Decision<InvocationEvent>, Rejection> {
        if self.phase != Phase::Unknown {
            return Err(Rejection::new("CONFLICT", "this request id is in use"));
        }
        // What somebody else sealed would be opened, and sent to a server of the caller's choice.
        if !by.is_platform() && c.input.kid != by.subject() {
            return Err(Rejection::new("WRONG_KEY", format!("input: seal it with the key '{}'", by.subject())));
        }
        if c.input.text_len() > MAX_INVOKED {
            let text = format!("input: {} bytes, the limit is {MAX_INVOKED}", c.input.text_len());
            return Err(Rejection::new("TOO_LARGE", text));
        }
        if c.deadline.as_ref().is_some_and(|d| OffsetDateTime::parse(d, &Rfc3339).is_err()) {
            return Err(Rejection::invalid("deadline: an RFC 3339 time"));
        }
        Ok(Decision::one(InvocationRequested {
            request_id: c.request_id,
            integration_key: c.integration_key,
            operation_id: c.operation_id,
            input: c.input,
            deadline: c.deadline,
            requested_by: by.id.clone(),
            user_id: by.on_behalf_of.is_some().then(|| by.subject().to_owned()),
        }))
    }

    fn worked_on(&self, by: &Actor) -> Result<(), Rejection> {
        if !by.is_platform() {
            return Err(Rejection::forbidden("invocations are worked on by the platform"));
        }
        match self.phase {
            Phase::Unknown => Err(Rejection::not_found("invocation")),
            Phase::Over => Err(Rejection::new("INVOCATION_OVER", "the invocation has its end already")),
            Phase::Waiting | Phase::Running => Ok(()),
        }
    }

    fn complete(&self, c: CompleteInvocation) -> Result<Decision<InvocationEvent>, Rejection> {
        if c.response.text_len() > MAX_INVOKED {
            let text = format!("response: {} bytes, the limit is {MAX_INVOKED}", c.response.text_len());
            return Err(Rejection::new("TOO_LARGE", text));
        }
        Ok(Decision::one(InvocationCompleted {
            request_id: c.request_id,
            integration_key: self.integration_key.clone(),
            operation_id: self.operation_id.clone(),
            kind: c.kind,
            status_code: c.status_code,
            success: c.success,
            response: c.response,
            response_digest: c.response_digest,
            attempts: self.attempts,
            duration_ms: c.duration_ms,
            credential_id: self.credential_id.clone(),
            credential_source: self.credential_source.clone(),
            requested_by: self.requested_by.clone(),
        }))
    }
}

impl Aggregate for Invocation {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("requestId");
    type Command = InvocationCommand;
    type Event = InvocationEvent;

    fn begins(command: &InvocationCommand) -> bool {
        matches!(command, InvocationCommand::InvokeOperation(_))
    }

    fn has_ended(&self) -> bool {
        self.phase == Phase::Over
    }

    fn apply(&mut self, event: &InvocationEvent) {
        match event {
            InvocationEvent::InvocationRequested(e) => {
                self.integration_key.clone_from(&e.integration_key);
                self.operation_id.clone_from(&e.operation_id);
                self.requested_by.clone_from(&e.requested_by);
                self.phase = Phase::Waiting;
            }
            InvocationEvent::InvocationAttemptStarted(e) => {
                self.attempts = e.attempt;
                self.credential_id.clone_from(&e.credential_id);
                self.credential_source.clone_from(&e.credential_source);
                self.phase = Phase::Running;
            }
            InvocationEvent::InvocationCompleted(_) | InvocationEvent::InvocationFailed(_) => self.phase = Phase::Over,
        }
    }

    fn decide(
        &self,
        command: InvocationCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<InvocationEvent>, Rejection> {
        if !matches!(command, InvocationCommand::InvokeOperation(_)) {
            self.worked_on(by)?;
        }
        match command {
            InvocationCommand::InvokeOperation(c) => self.request(c, by),
            InvocationCommand::StartInvocation(c) => Ok(Decision::one(InvocationAttemptStarted {
                request_id: c.request_id,
                attempt: self.attempts + 1,
                version: c.version,
                host: c.host,
                credential_id: c.credential_id,
                credential_source: c.credential_source,
            })),
            InvocationCommand::CompleteInvocation(c) => self.complete(c),
            InvocationCommand::FailInvocation(c) => Ok(Decision::one(InvocationFailed {
                request_id: c.request_id,
                integration_key: self.integration_key.clone(),
                operation_id: self.operation_id.clone(),
                category: c.category,
                code: c.code,
                message: c.message,
                retryable: c.category.is_retryable(),
                attempts: self.attempts,
                duration_ms: c.duration_ms,
                credential_id: self.credential_id.clone(),
                requested_by: self.requested_by.clone(),
                retry_after_ms: c.retry_after_ms,
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use symbia_events::{ActorType, SubjectKey};

    use super::*;
    use crate::testing::given;

    fn ada() -> Actor {
        Actor { id: "ada".into(), kind: ActorType::User, ..Actor::service("x") }
    }

    fn invoke(owner: &str) -> InvokeOperation {
        InvokeOperation {
            request_id: "r1".into(),
            integration_key: "weather".into(),
            operation_id: "forecast.get".into(),
            input: SubjectKey::from_bytes(owner, [1; 32]).seal("{}"),
            deadline: None,
        }
    }

    fn start() -> StartInvocation {
        StartInvocation {
            request_id: "r1".into(),
            version: 1,
            host: "weather.example".into(),
            credential_id: None,
            credential_source: "none".into(),
        }
    }

    fn fail() -> FailInvocation {
        let (category, code) = (ErrorCategory::Network, "unreachable".into());
        FailInvocation { request_id: "r1".into(), category, code, message: None, duration_ms: 3, retry_after_ms: None }
    }

    #[test]
    fn an_invocation_has_one_end_and_the_platform_gives_it() {
        let platform = Actor::service("integrations");
        let mut history =
            Invocation::default().decide(invoke("ada").into(), &ada(), crate::testing::AT).unwrap().events;
        given::<Invocation>(history.clone()).when(fail(), &ada()).rejected("FORBIDDEN");
        given::<Invocation>(history.clone()).when(invoke("ada"), &ada()).rejected("CONFLICT");
        for command in [InvocationCommand::from(start()), fail().into()] {
            let mut state = Invocation::default();
            history.iter().for_each(|event| state.apply(event));
            history.extend(state.decide(command, &platform, crate::testing::AT).unwrap().events);
        }
        given::<Invocation>(history.clone()).when(fail(), &platform).rejected("INVOCATION_OVER");
        given::<Invocation>(history).when(start(), &platform).rejected("INVOCATION_OVER");
    }

    #[test]
    fn what_somebody_else_sealed_is_not_sent() {
        given::<Invocation>([]).when(invoke("bob"), &ada()).rejected("WRONG_KEY");
        // Who acts in a person's name seals with that person's key, as for a model.
        let agent =
            || Actor { id: "agent:a".into(), kind: ActorType::Agent, on_behalf_of: Some("ada".into()), ..ada() };
        given::<Invocation>([]).when(invoke("agent:a"), &agent()).rejected("WRONG_KEY");
        let requested =
            Invocation::default().decide(invoke("ada").into(), &agent(), crate::testing::AT).unwrap().events;
        let of_ada = |event: &InvocationEvent| matches!(event, InvocationEvent::InvocationRequested(e) if e.user_id.as_deref() == Some("ada"));
        assert!(requested.iter().all(of_ada) && requested.len() == 1, "{requested:?}");
        let late = InvokeOperation { deadline: Some("tomorrow".into()), ..invoke("ada") };
        given::<Invocation>([]).when(late, &ada()).rejected("VALIDATION_FAILED");
    }
}
