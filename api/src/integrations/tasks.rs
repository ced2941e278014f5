//! Having a task done in a caller's name: sealed and sent as a command, like any other request, and waited for.

use serde::{Serialize, de::DeserializeOwned};
use symbia_commands::{
    Actor,
    integrations::{RequestTask, TaskCommand},
};
use symbia_events::{
    AggregateRef, CommandId, Service, SubjectKey,
    integrations::{ErrorCategory, Target, TaskCompleted, TaskEvent, TaskFailed, TaskKind},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::{
    Integrations,
    ask::{PATIENCE, context, tenant},
    hub::{Ear, Heard},
    said::Failure,
};
use crate::{
    http::{ApiError, ApiResult, Caller, RequestScope},
    platform::Consistency,
};

/// A task that is about to be asked for: whose it is, and its name.
pub(super) struct Task {
    pub org: String,
    pub request_id: String,
    pub key: SubjectKey,
    actor: Actor,
    command_id: CommandId,
    address: AggregateRef,
}

/// What is to be done.
pub(super) struct Wanted<I> {
    pub kind: TaskKind,
    pub target: Target,
    pub input: I,
    pub credential_id: Option<String>,
}

/// What came of a task.
pub(super) struct Performed<O> {
    pub done: TaskCompleted,
    pub output: O,
    /// It was asked for before, and what came of it then is given again.
    pub repeated: bool,
}

impl Integrations {
    /// Names a task of a caller's.
    pub(super) async fn task(&self, caller: &Caller, scope: &RequestScope, kind: TaskKind) -> ApiResult<Task> {
        let (tenant, actor) = (tenant(caller, scope)?, Actor::from(&**caller));
        let org = tenant.to_string();
        let key = self.key_of(&actor).await?;
        let command_id = CommandId(scope.command_id(&actor.id));
        let request_id = Uuid::new_v5(&command_id.0, kind.operation().as_bytes()).to_string();
        let address = AggregateRef::new(Service::Integrations, tenant, "task", &request_id);
        let address = address.map_err(ApiError::internal)?;
        Ok(Task { org, request_id, key, actor, command_id, address })
    }

    /// Has it done.
    pub(super) async fn perform<I: Serialize, O: DeserializeOwned>(
        &self,
        task: &Task,
        scope: &RequestScope,
        wanted: Wanted<I>,
    ) -> ApiResult<Performed<O>> {
        let Task { request_id, key, actor, command_id, address, .. } = task;
        let deadline = (OffsetDateTime::now_utc() + PATIENCE).format(&Rfc3339).map_err(ApiError::internal)?;
        let command = TaskCommand::from(RequestTask {
            request_id: request_id.clone(),
            kind: wanted.kind,
            provider: wanted.target.provider,
            model: wanted.target.model,
            input: key.seal(&serde_json::to_string(&wanted.input).map_err(ApiError::internal)?),
            credential_id: wanted.credential_id,
            deadline: Some(deadline),
            context: context(scope),
        });
        let mut ear = self.hub.listen_for(address.clone());
        let sent = self.platform.submit_as(*command_id, address, &command, actor, scope, Consistency::Eventual);
        let repeated = sent.await?.outcome.repeated;
        if repeated {
            ear.look().await;
        }
        let ended = tokio::time::timeout(PATIENCE, ended(&mut ear, key)).await;
        let late = |_| Err(Failure::new(ErrorCategory::Timeout, "deadline", "the model takes too long"));
        let (done, output) = ended.unwrap_or_else(late).map_err(|failure| failure.error(request_id))?;
        Ok(Performed { done, output, repeated })
    }
}

async fn ended<O: DeserializeOwned>(ear: &mut Ear, key: &SubjectKey) -> Result<(TaskCompleted, O), Failure> {
    loop {
        let Heard::Event(event) = ear.next().await else { continue };
        match event.decode() {
            Ok(TaskEvent::TaskCompleted(e)) => {
                let opened = key.open(&e.output).ok().and_then(|json| serde_json::from_str(&json).ok());
                let message = "what came of it cannot be read: its key was destroyed";
                let gone = || Failure::new(ErrorCategory::NotFound, "key_destroyed", message);
                return opened.ok_or_else(gone).map(|output| (e, output));
            }
            Ok(TaskEvent::TaskFailed(e)) => return Err(failure(e, key)),
            Ok(TaskEvent::TaskRequested(_)) | Err(_) => {}
        }
    }
}

fn failure(e: TaskFailed, key: &SubjectKey) -> Failure {
    let message = e.message.and_then(|message| key.open(&message).ok());
    Failure {
        category: e.category,
        code: e.code,
        message: message.unwrap_or_else(|| "the model did not do it".to_owned()),
        provider: None,
        upstream: e.upstream.map(Box::new),
        retry_after_ms: e.retry_after_ms,
    }
}
