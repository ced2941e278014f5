//! Asking a model in a caller's name: the request is sealed and sent as a command, like any other, and what becomes of it is
//! told piece by piece.

use std::time::Duration;

use axum::http::StatusCode;
use symbia_commands::{
    Actor,
    integrations::{CancelCompletion, CompletionCommand, RequestCompletion},
};
use symbia_events::{
    AggregateRef, CommandId, OrgId, Service, SubjectKey,
    integrations::{CompletionContext, CompletionEvent, ErrorCategory},
};
use symbia_projections::secrets::SecretError;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::Instant;
use utoipa::IntoParams;
use uuid::Uuid;

use super::{
    Integrations,
    hub::{Ear, Heard},
    said::{Answer, Failure, Said, ended, live},
};
use crate::{
    http::{ApiError, ApiResult, Caller, RequestScope},
    platform::Consistency,
};

pub(super) use symbia_commands::integrations::{Message, Question};

/// How long a request may take in all: less than the server lets a caller wait for the head of an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(110);
/// How much longer an end is waited for that a worker is to give in time.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// A request under way. Dropped before its end, it is cancelled, unless it is kept.
pub(super) struct Asked {
    pub request_id: String,
    pub asked_at: OffsetDateTime,
    service: Integrations,
    scope: RequestScope,
    actor: Actor,
    address: AggregateRef,
    key: SubjectKey,
    ear: Ear,
    deadline: Instant,
    over: bool,
    attempt: u32,
    // An attempt beside it, which readers hear of when it goes on.
    beside: Option<Said>,
    next: Option<Said>,
}

/// What a request to a model may say of itself.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "only described: the scope of a request has read it")]
pub(super) struct Tagged {
    /// Words between commas, by which the request is found again: at most 10, each 1 to 64 visible characters.
    #[param(rename = "X-Symbia-Tags")]
    tags: Option<String>,
}

/// On whose behalf a caller asks, as far as they may say.
pub(super) fn context(scope: &RequestScope) -> CompletionContext {
    let tags = scope.tags.iter().flat_map(|tags| tags.split(',')).map(str::trim).filter(|tag| !tag.is_empty());
    CompletionContext { tags: tags.map(str::to_owned).collect(), ..CompletionContext::default() }
}

/// The id of the request that a command makes.
pub(super) fn request_id(command_id: CommandId) -> Uuid {
    Uuid::new_v5(&command_id.0, b"request")
}

/// The organization that a caller works in.
pub(super) fn tenant(caller: &Caller, scope: &RequestScope) -> ApiResult<OrgId> {
    caller.org(scope)?.parse().map_err(|_| ApiError::org_access_denied())
}

impl Integrations {
    /// The key that a caller's requests are sealed with: that of the person, for who acts in a person's name. An agent gets its
    /// own with its first request.
    pub(super) async fn key_of(&self, actor: &Actor) -> ApiResult<SubjectKey> {
        let subject = actor.subject();
        if let Some(key) = self.kept_keys.get(subject) {
            return Ok(key);
        }
        let secrets = &self.platform.secrets;
        let key = match secrets.subject_key(subject).await? {
            Some(key) => key,
            None => {
                let key = SubjectKey::generate(subject);
                match secrets.put_subject_key(&key).await {
                    Ok(()) => key,
                    // Another request of the same agent.
                    Err(SecretError::Taken(_)) => {
                        let kept = secrets.subject_key(subject).await?;
                        kept.ok_or_else(|| ApiError::internal("a subject key vanished"))?
                    }
                    Err(SecretError::Destroyed(_)) => {
                        let text = "The account was erased: nothing can be asked in its name";
                        return Err(ApiError::new(StatusCode::GONE, "ACCOUNT_ERASED", text));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        };
        self.kept_keys.insert(subject.to_owned(), key.clone());
        Ok(key)
    }

    /// Asks.
    pub(super) async fn ask(&self, caller: &Caller, scope: &RequestScope, question: Question) -> ApiResult<Asked> {
        let command_id = CommandId(scope.command_id(&Actor::from(&**caller).id));
        self.ask_as(caller, scope, command_id, question, Instant::now() + PATIENCE + GRACE).await
    }

    /// Asks by one of several commands of a request, whose ids derive from the first; its end is waited for until `deadline`.
    pub(super) async fn ask_as(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        command_id: CommandId,
        mut question: Question,
        deadline: Instant,
    ) -> ApiResult<Asked> {
        let tenant = tenant(caller, scope)?;
        let actor = Actor::from(&**caller);
        let key = self.key_of(&actor).await?;
        let request_id = request_id(command_id).to_string();
        let address = AggregateRef::new(Service::Integrations, tenant, "completion", &request_id);
        let address = address.map_err(ApiError::internal)?;
        let place = (address.tenant.as_str(), request_id.as_str());
        let kept = self.keep_pictures(place, &key, &mut question.messages).await?;
        let by = (OffsetDateTime::now_utc() + PATIENCE).format(&Rfc3339).map_err(ApiError::internal)?;
        let request = question.request(&request_id, &key, by, context(scope)).map_err(ApiError::internal)?;
        let command = RequestCompletion { idempotency_key: scope.idempotency_key.clone(), ..request };
        let ear = self.hub.listen_for(address.clone());
        let mut asked = Asked {
            request_id,
            asked_at: OffsetDateTime::now_utc(),
            service: self.clone(),
            scope: scope.clone(),
            actor,
            address,
            key,
            ear,
            deadline,
            // Until it is accepted there is nothing to cancel.
            over: true,
            attempt: 0,
            beside: None,
            next: None,
        };
        let command = CompletionCommand::from(command);
        let sent =
            self.platform.submit_as(command_id, &asked.address, &command, &asked.actor, scope, Consistency::Eventual);
        let done = match sent.await {
            Ok(done) => done,
            Err(error) => {
                // What was refused names nothing; what nobody answered may have been stored.
                if kept && error.status().is_client_error() {
                    self.forget_pictures(asked.address.tenant.as_str(), &asked.request_id).await;
                }
                return Err(with_status(error));
            }
        };
        asked.over = false;
        if done.outcome.repeated {
            asked.ear.look().await;
        }
        Ok(asked)
    }
}

/// With the status that a refused request has.
pub(super) fn with_status(error: ApiError) -> ApiError {
    match error.code() {
        "TOO_LARGE" => error.with_status(StatusCode::PAYLOAD_TOO_LARGE),
        _ => error,
    }
}

impl Asked {
    /// What comes next; after an end, nothing does.
    pub async fn next(&mut self) -> Said {
        if let Some(said) = self.next.take() {
            return said;
        }
        let late = tokio::time::sleep_until(self.deadline);
        tokio::pin!(late);
        loop {
            let heard = tokio::select! {
                heard = self.ear.next() => heard,
                () = &mut late => {
                    self.over = true;
                    let message = "the request takes too long; its result will be found under its id";
                    return Said::Failed(Failure::new(ErrorCategory::Timeout, "deadline", message));
                }
            };
            let said = match heard {
                Heard::Live(message) => live(&message),
                Heard::Event(event) => event.decode().ok().and_then(|event| self.said(event)),
            };
            match said {
                Some(said @ (Said::Completed(_) | Said::Failed(_))) => {
                    self.over = true;
                    return said;
                }
                Some(Said::Piece { attempt, .. }) if self.goes_on(attempt) => {
                    self.next = said;
                    return self.instead();
                }
                Some(said) => return said,
                None => {}
            }
        }
    }

    /// The same, not to be cancelled when it is dropped.
    pub fn kept(mut self) -> Self {
        self.over = true;
        self
    }

    /// The end, whatever comes before it.
    pub async fn end(&mut self) -> Result<Answer, Failure> {
        loop {
            match self.next().await {
                Said::Completed(answer) => return Ok(*answer),
                Said::Failed(failure) => return Err(failure),
                Said::Started { .. } | Said::Piece { .. } | Said::Reset { .. } => {}
            }
        }
    }

    // Whether a piece is of the attempt beside the one that readers know of.
    fn goes_on(&self, attempt: u32) -> bool {
        matches!(self.beside, Some(Said::Started { attempt: beside, .. }) if beside == attempt)
    }

    // The other attempt begins, for the readers.
    fn instead(&mut self) -> Said {
        let started = self.beside.take().unwrap_or(Said::Reset { attempt: self.attempt });
        if let Said::Started { attempt, .. } = started {
            self.attempt = attempt;
        }
        started
    }

    fn said(&mut self, event: CompletionEvent) -> Option<Said> {
        match event {
            CompletionEvent::CompletionAttemptStarted(e) if e.hedges.is_some() && e.attempt > self.attempt => {
                self.beside = Some(Said::Started { attempt: e.attempt, provider: e.provider, model: e.model });
                None
            }
            CompletionEvent::CompletionAttemptFailed(e) if e.attempt == self.attempt && self.beside.is_some() => {
                Some(self.instead())
            }
            CompletionEvent::CompletionAttemptFailed(e) if self.goes_on(e.attempt) => {
                self.beside = None;
                None
            }
            // An event may be heard twice.
            CompletionEvent::CompletionAttemptStarted(e) if e.attempt > self.attempt => {
                self.attempt = e.attempt;
                Some(Said::Started { attempt: e.attempt, provider: e.provider, model: e.model })
            }
            event => ended(&self.key, event),
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.over {
            return;
        }
        let cancel = CompletionCommand::from(CancelCompletion {
            request_id: self.request_id.clone(),
            reason: "client_disconnect".to_owned(),
            partial_content: None,
            usage: None,
            keep_partial: false,
        });
        let (platform, address, actor, scope) =
            (self.service.platform.clone(), self.address.clone(), self.actor.clone(), self.scope.clone());
        runtime.spawn(async move {
            let sent =
                platform.submit_as(CommandId::random(), &address, &cancel, &actor, &scope, Consistency::Eventual).await;
            if let Err(error) = sent {
                tracing::debug!(%address, %error, "a request that nobody waits for is not cancelled");
            }
        });
    }
}
