//! The passthrough aggregate: a call of a provider's own API, admitted before it is made, with exactly one end
//! (integrations.md §28).
//!
//! It is never made again: who makes it may have been heard by the provider. A call whose maker is lost gets its end from a timer.

use serde::{Deserialize, Serialize};
use symbia_events::{
    Personal,
    integrations::{
        CompletionContext, ErrorCategory, PassthroughAdmitted, PassthroughCompleted, PassthroughEvent,
        PassthroughFailed, PassthroughRequested, TokenPrice, Usage,
    },
};
use time::OffsetDateTime;

use super::{
    Phase,
    administration::is_name,
    asker::{is_deadline, names_asker},
};
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

/// Ends of calls of which it is not known what the provider made of them.
const LOST: [&str; 3] = ["front_lost", "deadline", "client_disconnect"];
/// Longest path.
const LONGEST_PATH: usize = 2048;

domain_commands! {
    /// What a passthrough can be asked to do. All but the request come from the platform.
    PassthroughCommand: Integrations / "passthrough" {
        /// Asks for leave to make a call.
        RequestPassthrough = "symbia.cmd.integrations.request-passthrough.v1" {
            request_id: String,
            provider: String,
            method: String,
            path: String,
            #[serde(default)]
            model: Option<String>,
            #[serde(default)]
            estimated_tokens: u64,
            /// RFC 3339.
            deadline: String,
            #[serde(default)]
            context: CompletionContext,
        }
        /// Gives leave.
        AdmitPassthrough = "symbia.cmd.integrations.admit-passthrough.v1" {
            request_id: String,
            #[serde(default)]
            budgets: Vec<String>,
            #[serde(default)]
            price: Option<TokenPrice>,
        }
        /// The answer was passed on whole.
        CompletePassthrough = "symbia.cmd.integrations.complete-passthrough.v1" {
            request_id: String,
            status_code: u16,
            #[serde(default)]
            model: Option<String>,
            usage: Usage,
            /// Of the model that the answer names, where the request named none.
            #[serde(default)]
            price: Option<TokenPrice>,
            response_bytes: u64,
            total_ms: u64,
            #[serde(default)]
            credential_id: Option<String>,
            credential_source: String,
        }
        /// It comes to nothing.
        FailPassthrough = "symbia.cmd.integrations.fail-passthrough.v1" {
            request_id: String,
            category: ErrorCategory,
            #[serde(default)]
            code: Option<String>,
            #[serde(default)]
            message: Option<Personal>,
            #[serde(default)]
            status_code: Option<u16>,
            #[serde(default)]
            retry_after_ms: Option<u64>,
            #[serde(default)]
            model: Option<String>,
            #[serde(default)]
            usage: Option<Usage>,
            #[serde(default)]
            price: Option<TokenPrice>,
            #[serde(default)]
            credential_id: Option<String>,
            #[serde(default)]
            credential_source: Option<String>,
        }
    }
}

/// A passthrough.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Passthrough {
    requested_by: String,
    context: CompletionContext,
    provider: String,
    model: Option<String>,
    estimated_tokens: u64,
    budgets: Vec<String>,
    price: Option<TokenPrice>,
    phase: Phase,
}

impl Passthrough {
    /// How far it is: `Running` once it is admitted.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The budgets that keep room for it: none until it is admitted.
    #[must_use]
    pub fn budgets(&self) -> &[String] {
        &self.budgets
    }

    fn request(&self, mut c: RequestPassthrough, by: &Actor) -> Result<Decision<PassthroughEvent>, Rejection> {
        if self.phase != Phase::Unknown {
            return Err(Rejection::new("CONFLICT", "this request id is in use"));
        }
        names_asker(&mut c.context, by)?;
        let limits = [
            (is_name(&c.provider), "provider: 1 to 200 printable characters"),
            (c.model.as_deref().is_none_or(is_name), "model: 1 to 200 printable characters"),
            ((1..=LONGEST_PATH).contains(&c.path.len()) && !c.path.contains('?'), "path: 1 to 2048 bytes, no query"),
            (
                (1..=20).contains(&c.method.len()) && c.method.bytes().all(|b| b.is_ascii_uppercase()),
                "method: an HTTP method",
            ),
            (is_deadline(Some(&c.deadline)), "deadline: an RFC 3339 time"),
        ];
        if let Some((_, limit)) = limits.iter().find(|(kept, _)| !kept) {
            return Err(Rejection::invalid(*limit));
        }
        Ok(Decision::one(PassthroughRequested {
            request_id: c.request_id,
            provider: c.provider,
            method: c.method,
            path: c.path,
            model: c.model,
            estimated_tokens: c.estimated_tokens,
            deadline: c.deadline,
            context: c.context,
            requested_by: by.subject().to_owned(),
        }))
    }

    // What the provider of a call that was lost has been asked with: it may have heard it.
    fn asked(&self, code: Option<&str>) -> Option<Usage> {
        let lost = code.is_some_and(|code| LOST.contains(&code)) && self.phase == Phase::Running;
        let tokens = self.estimated_tokens;
        let usage = Usage { prompt_tokens: tokens, total_tokens: tokens, estimated: true, ..Usage::default() };
        (lost && tokens > 0).then_some(usage)
    }

    fn worked_on(&self, by: &Actor) -> Result<(), Rejection> {
        if !by.is_platform() {
            return Err(Rejection::forbidden("the platform says what becomes of a passthrough"));
        }
        match self.phase {
            Phase::Unknown => Err(Rejection::not_found("passthrough")),
            Phase::Over => Err(Rejection::new("PASSTHROUGH_OVER", "the passthrough has its end already")),
            Phase::Waiting | Phase::Running => Ok(()),
        }
    }
}

impl Aggregate for Passthrough {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("requestId");
    type Command = PassthroughCommand;
    type Event = PassthroughEvent;

    fn begins(command: &PassthroughCommand) -> bool {
        matches!(command, PassthroughCommand::RequestPassthrough(_))
    }

    fn has_ended(&self) -> bool {
        self.phase == Phase::Over
    }

    fn apply(&mut self, event: &PassthroughEvent) {
        match event {
            PassthroughEvent::PassthroughRequested(e) => {
                self.requested_by.clone_from(&e.requested_by);
                self.context.clone_from(&e.context);
                self.provider.clone_from(&e.provider);
                self.model.clone_from(&e.model);
                self.estimated_tokens = e.estimated_tokens;
                self.phase = Phase::Waiting;
            }
            PassthroughEvent::PassthroughAdmitted(e) => {
                self.budgets.clone_from(&e.budgets);
                self.price = e.price;
                self.phase = Phase::Running;
            }
            PassthroughEvent::PassthroughCompleted(_) | PassthroughEvent::PassthroughFailed(_) => {
                self.phase = Phase::Over;
            }
        }
    }

    fn decide(
        &self,
        command: PassthroughCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<PassthroughEvent>, Rejection> {
        match command {
            PassthroughCommand::RequestPassthrough(c) => self.request(c, by),
            PassthroughCommand::AdmitPassthrough(c) => {
                self.worked_on(by)?;
                if self.phase == Phase::Running {
                    return Ok(Decision::nothing());
                }
                let AdmitPassthrough { request_id, budgets, price } = c;
                Ok(Decision::one(PassthroughAdmitted { request_id, budgets, price }))
            }
            PassthroughCommand::CompletePassthrough(c) => {
                self.worked_on(by)?;
                if self.phase != Phase::Running {
                    return Err(Rejection::new("CONFLICT", "it was not admitted, so it cannot have been made"));
                }
                Ok(Decision::one(PassthroughCompleted {
                    request_id: c.request_id,
                    provider: self.provider.clone(),
                    model: c.model.or_else(|| self.model.clone()),
                    status_code: c.status_code,
                    usage: c.usage,
                    cost: self.price.or(c.price).map(|price| price.of(&c.usage)),
                    response_bytes: c.response_bytes,
                    total_ms: c.total_ms,
                    credential_id: c.credential_id,
                    credential_source: c.credential_source,
                    estimated_tokens: self.estimated_tokens,
                    context: self.context.clone(),
                    requested_by: self.requested_by.clone(),
                    budgets: self.budgets.clone(),
                }))
            }
            PassthroughCommand::FailPassthrough(c) => {
                self.worked_on(by)?;
                let usage = c.usage.or_else(|| self.asked(c.code.as_deref()));
                Ok(Decision::one(PassthroughFailed {
                    request_id: c.request_id,
                    provider: self.provider.clone(),
                    model: c.model.or_else(|| self.model.clone()),
                    category: c.category,
                    code: c.code,
                    message: c.message,
                    status_code: c.status_code,
                    retry_after_ms: c.retry_after_ms,
                    usage,
                    cost: self.price.or(c.price).zip(usage).map(|(price, usage)| price.of(&usage)),
                    credential_id: c.credential_id,
                    credential_source: c.credential_source,
                    estimated_tokens: self.estimated_tokens,
                    context: self.context.clone(),
                    requested_by: self.requested_by.clone(),
                    budgets: self.budgets.clone(),
                }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use symbia_events::ActorType;

    use super::*;
    use crate::testing::{AT, given};

    fn ada() -> Actor {
        Actor { id: "ada".into(), kind: ActorType::User, key: Some("k1".into()), ..Actor::service("x") }
    }

    fn request() -> RequestPassthrough {
        RequestPassthrough {
            request_id: "r1".into(),
            provider: "openai".into(),
            method: "POST".into(),
            path: "chat/completions".into(),
            model: Some("gpt-4o".into()),
            estimated_tokens: 5,
            deadline: "2026-01-01T00:10:00Z".into(),
            context: CompletionContext::default(),
        }
    }

    fn admit() -> AdmitPassthrough {
        let price = TokenPrice { input: 1_000_000, output: 2_000_000, cached_input: None, version: 7 };
        AdmitPassthrough { request_id: "r1".into(), budgets: vec!["b1".into()], price: Some(price) }
    }

    fn complete() -> CompletePassthrough {
        let usage = Usage { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7, ..Usage::default() };
        CompletePassthrough {
            request_id: "r1".into(),
            status_code: 200,
            model: None,
            usage,
            price: None,
            response_bytes: 9,
            total_ms: 1,
            credential_id: None,
            credential_source: "none".into(),
        }
    }

    fn fail() -> FailPassthrough {
        FailPassthrough {
            request_id: "r1".into(),
            category: ErrorCategory::Internal,
            code: Some("front_lost".into()),
            message: None,
            status_code: None,
            retry_after_ms: None,
            model: None,
            usage: None,
            price: None,
            credential_id: None,
            credential_source: None,
        }
    }

    // What happens when the platform asks for these one after another.
    fn history(commands: impl IntoIterator<Item = PassthroughCommand>) -> Vec<PassthroughEvent> {
        let (mut state, mut all) = (Passthrough::default(), Vec::new());
        for command in commands {
            let by = if Passthrough::begins(&command) { ada() } else { Actor::service("x") };
            let events = state.decide(command, &by, AT).unwrap().events;
            events.iter().for_each(|event| state.apply(event));
            all.extend(events);
        }
        all
    }

    #[test]
    fn it_is_admitted_once_and_has_one_end_whoever_gives_it() {
        let platform = Actor::service("x");
        let requested = history([request().into()]);
        given::<Passthrough>(requested.clone()).when(complete(), &platform).rejected("CONFLICT");
        given::<Passthrough>(requested.clone()).when(fail(), &ada()).rejected("FORBIDDEN");
        let admitted = history([request().into(), admit().into()]);
        given::<Passthrough>(admitted.clone()).when(admit(), &platform).then([]);
        given::<Passthrough>(admitted).when(complete(), &ada()).rejected("FORBIDDEN");
        let completed = history([request().into(), admit().into(), complete().into()]);
        let Some(PassthroughEvent::PassthroughCompleted(e)) = completed.last() else { panic!("no end") };
        assert_eq!(e.cost.map(|cost| (cost.input_micros, cost.output_micros, cost.price_version)), Some((3, 8, 7)));
        assert_eq!((e.budgets.as_slice(), e.context.key_id.as_deref()), (&["b1".to_owned()][..], Some("k1")));
        // The timer of a call that was lost comes too late.
        given::<Passthrough>(completed).when(fail(), &platform).rejected("PASSTHROUGH_OVER");
        let lost = history([request().into(), admit().into(), fail().into()]);
        // It may have been heard: what it was asked with counts.
        let Some(PassthroughEvent::PassthroughFailed(e)) = lost.last() else { panic!("no end") };
        assert_eq!(e.usage.map(|usage| (usage.total_tokens, usage.estimated)), Some((5, true)));
        assert_eq!(e.cost.map(|cost| cost.total_micros), Some(5));
        given::<Passthrough>(lost).when(complete(), &platform).rejected("PASSTHROUGH_OVER");
        let given_up = history([request().into(), fail().into()]);
        let Some(PassthroughEvent::PassthroughFailed(e)) = given_up.last() else { panic!("no end") };
        assert_eq!((e.usage, e.cost), (None, None));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused = |c: RequestPassthrough| given::<Passthrough>([]).when(c, &ada()).rejected("VALIDATION_FAILED");
        refused(RequestPassthrough { path: String::new(), ..request() });
        refused(RequestPassthrough { path: "models?key=secret".into(), ..request() });
        refused(RequestPassthrough { method: "get".into(), ..request() });
        refused(RequestPassthrough { deadline: "soon".into(), ..request() });
        let context = CompletionContext { key_id: Some("another".into()), ..CompletionContext::default() };
        given::<Passthrough>([]).when(RequestPassthrough { context, ..request() }, &ada()).rejected("FORBIDDEN");
    }
}
