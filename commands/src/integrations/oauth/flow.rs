//! A person's way to a provider and back. Its state is used once, in time, and in the browser that it was given to.

use serde::{Deserialize, Serialize};
use symbia_events::{
    ActorType, Personal,
    integrations::{OauthAnswered, OauthCompleted, OauthFailed, OauthFlowEvent, OauthStarted},
};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use super::platforms;
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

/// How long somebody may take to come back.
pub const FLOW_TIME: Duration = Duration::minutes(10);
/// Longest text that a program may want back, sealed.
const MOST_STATE: usize = 4096;

domain_commands! {
    /// What can be done about a way to a provider. Only the beginning is a person's.
    OauthFlowCommand: Integrations / "oauth-flow" {
        /// Somebody goes there.
        StartOauth = "symbia.cmd.integrations.start-oauth.v1" {
            state_hash: String,
            org_id: String,
            provider: String,
            user_id: String,
            #[serde(default)]
            redirect_uri: Option<String>,
            scopes: Vec<String>,
            browser_hash: String,
            #[serde(default)]
            client_state: Option<Personal>,
            config_version: u64,
        }
        /// Somebody is back with a code.
        AnswerOauth = "symbia.cmd.integrations.answer-oauth.v1" {
            state_hash: String,
            browser_hash: String,
            code_ref: String,
            callback_uri: String,
        }
        /// The account is linked.
        CompleteOauth = "symbia.cmd.integrations.complete-oauth.v1" { state_hash: String, connection_id: String }
        /// Nothing comes of it; who is back without a code says from which browser.
        FailOauth = "symbia.cmd.integrations.fail-oauth.v1" {
            state_hash: String,
            code: String,
            #[serde(default)]
            browser_hash: Option<String>,
        }
    }
}

/// A way to a provider.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OauthFlow {
    started: Option<OauthStarted>,
    answered: bool,
    ended: bool,
}

impl OauthFlow {
    // Consumed by the first who comes back with it.
    fn usable(&self, browser: &str, at: OffsetDateTime) -> Result<&OauthStarted, Rejection> {
        let started = self.started.as_ref().ok_or_else(|| Rejection::not_found("way to a provider"))?;
        if self.answered || self.ended {
            return Err(Rejection::new("STATE_USED", "this state was used: begin anew"));
        }
        if started.browser_hash != browser {
            return Err(Rejection::new("STATE_OF_ANOTHER_BROWSER", "this state was given to another browser"));
        }
        if OffsetDateTime::parse(&started.expires_at, &Rfc3339).map_or(true, |end| end <= at) {
            return Err(Rejection::new("STATE_EXPIRED", "this took too long: begin anew"));
        }
        Ok(started)
    }

    fn start(&self, c: StartOauth, by: &Actor, at: OffsetDateTime) -> Result<Decision<OauthFlowEvent>, Rejection> {
        if self.started.is_some() {
            return Err(Rejection::new("CONFLICT", "this state is in use"));
        }
        if by.kind != ActorType::User || by.id != c.user_id {
            return Err(Rejection::forbidden("an account is linked by a user, for themselves"));
        }
        if by.orgs.iter().all(|m| m.id.as_str() != c.org_id) {
            return Err(Rejection::new("ORG_ACCESS_DENIED", "the actor does not belong to this organization"));
        }
        let fits = |scope: &String| !scope.is_empty() && scope.len() <= 200 && !scope.contains(char::is_whitespace);
        if c.scopes.len() > 50 || !c.scopes.iter().all(fits) {
            return Err(Rejection::invalid("scopes: at most 50, each of 1 to 200 characters without blanks"));
        }
        if c.client_state.as_ref().is_some_and(|state| state.text_len() > MOST_STATE) {
            return Err(Rejection::invalid(format!("state: at most {MOST_STATE} bytes")));
        }
        Ok(Decision::one(OauthStarted {
            state_hash: c.state_hash,
            provider: c.provider,
            user_id: c.user_id,
            redirect_uri: c.redirect_uri,
            scopes: c.scopes,
            browser_hash: c.browser_hash,
            client_state: c.client_state,
            config_version: c.config_version,
            expires_at: (at + FLOW_TIME).format(&Rfc3339).unwrap_or_default(),
        }))
    }
}

impl Aggregate for OauthFlow {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("stateHash");
    type Command = OauthFlowCommand;
    type Event = OauthFlowEvent;

    fn apply(&mut self, event: &OauthFlowEvent) {
        match event {
            OauthFlowEvent::OauthStarted(e) => self.started = Some(e.clone()),
            OauthFlowEvent::OauthAnswered(_) => self.answered = true,
            OauthFlowEvent::OauthCompleted(_) | OauthFlowEvent::OauthFailed(_) => self.ended = true,
        }
    }

    fn decide(
        &self,
        command: OauthFlowCommand,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<OauthFlowEvent>, Rejection> {
        if let OauthFlowCommand::StartOauth(c) = command {
            return self.start(c, by, at);
        }
        platforms(by)?;
        match command {
            OauthFlowCommand::AnswerOauth(c) => {
                let started = self.usable(&c.browser_hash, at)?;
                Ok(Decision::one(OauthAnswered {
                    provider: started.provider.clone(),
                    user_id: started.user_id.clone(),
                    scopes: started.scopes.clone(),
                    config_version: started.config_version,
                    state_hash: c.state_hash,
                    code_ref: c.code_ref,
                    callback_uri: c.callback_uri,
                }))
            }
            OauthFlowCommand::FailOauth(c) => {
                if let Some(browser) = &c.browser_hash {
                    self.usable(browser, at)?;
                }
                if self.ended {
                    return Ok(Decision::nothing());
                }
                Ok(Decision::one(OauthFailed { state_hash: c.state_hash, code: c.code }))
            }
            OauthFlowCommand::CompleteOauth(c) if self.answered && !self.ended => {
                Ok(Decision::one(OauthCompleted { state_hash: c.state_hash, connection_id: c.connection_id }))
            }
            OauthFlowCommand::CompleteOauth(_) | OauthFlowCommand::StartOauth(_) => Ok(Decision::nothing()),
        }
    }
}
