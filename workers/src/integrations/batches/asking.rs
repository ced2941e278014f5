//! Asking what a line asks for, and keeping what came of it.

use serde_json::json;
use symbia_commands::{
    DomainCommand, Rejection,
    integrations::{
        Batch, BatchPhase, CompletionCommand, EmbeddingCommand, LineAnswer, LineQuestion, Question, RequestEmbedding,
        Texts,
    },
};
use symbia_events::{
    AggregateRef, CommandId, Event, Service,
    integrations::{CompletionContext, LineOutcome},
};
use symbia_nats::{
    files::{File, Place},
    pictures::KeepError,
};
use uuid::Uuid;

use super::{BatchRunner, Input, Run, unavailable};
use crate::integrations::router::router;

/// What a kept result is for.
pub(super) const OUTPUT: &str = "output";
pub(super) const ERROR: &str = "error";

/// What the result of a line is kept as.
pub(super) fn kept_as(line: u32) -> String {
    format!("line-{line}")
}

/// A line of an output or error file.
pub(super) fn result(run: &Run, line: u32, custom_id: &str, answer: Result<&LineAnswer, (&str, &str)>) -> Vec<u8> {
    let request_id = run.request_id(line, run.state.tries(line));
    let name = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("result {request_id}").as_bytes());
    let (response, error) = match answer {
        Ok(answer) => {
            let LineAnswer { status, body } = answer;
            (json!({ "status_code": status, "request_id": request_id, "body": body }), json!(null))
        }
        Err((code, message)) => (json!(null), json!({ "code": code, "message": message })),
    };
    let id = format!("batch_req_{}", name.simple());
    let line = json!({ "id": id, "custom_id": custom_id, "response": response, "error": error });
    format!("{line}\n").into_bytes()
}

impl BatchRunner {
    /// Has a model asked what a line asks for, for the first time (0) or again; what is refused before is its result. Gives whether
    /// the batch goes on.
    pub(super) async fn ask(
        &self,
        event: &Event,
        run: &Run,
        input: &Input,
        (line, tries): (u32, u32),
    ) -> anyhow::Result<bool> {
        // Told again: it came further since.
        if run.state.has_ended_line(line) || run.state.tries(line) != tries {
            return Ok(true);
        }
        let Some(asked) = input.line(line).await? else {
            self.fail(event, &run.to, vec![unavailable()]).await?;
            return Ok(false);
        };
        let id = run.request_id(line, tries);
        let refused = match self.dialect.read(run.created.endpoint, asked.body) {
            Ok(LineQuestion::Completion(question)) => self.ask_model(event, run, (line, &id), *question).await?,
            Ok(LineQuestion::Embedding(texts)) => self.ask_vectors(event, run, (line, &id), texts).await?,
            Err(refused) => Some(refused),
        };
        if let Some(refused) = refused {
            self.keep(event, run, line, &asked.custom_id, &refused).await?;
            return Ok(true);
        }
        // Who stopped the batch meanwhile may have found nothing to stop. What is read as it was before it began is no stop.
        let phase = self.store.load::<Batch>(&run.to).await?.state.phase();
        let is_stopped = matches!(phase, BatchPhase::Stopping | BatchPhase::Finalizing | BatchPhase::Over);
        if is_stopped {
            self.is_asked(event, run, (line, &id)).await?;
        }
        Ok(!is_stopped)
    }

    async fn ask_model(
        &self,
        event: &Event,
        run: &Run,
        (line, id): (u32, &str),
        mut question: Question,
    ) -> anyhow::Result<Option<LineAnswer>> {
        for message in &mut question.messages {
            match self.pictures.keep_large((run.org(), id), &run.key, &mut message.more.parts).await {
                Ok(_) => {}
                Err(KeepError::Files(error)) => return Err(error.into()),
                Err(wrong) => return Ok(Some(self.dialect.refusal(Rejection::invalid(wrong.to_string())))),
            }
        }
        let request = question.request(id, &run.key, run.created.expires_at.clone(), context(run, line))?;
        self.send(event, run, ("completion", id), &CompletionCommand::from(request)).await
    }

    async fn ask_vectors(
        &self,
        event: &Event,
        run: &Run,
        (line, id): (u32, &str),
        asked: Texts,
    ) -> anyhow::Result<Option<LineAnswer>> {
        let request = RequestEmbedding {
            request_id: id.to_owned(),
            provider: asked.target.provider,
            model: asked.target.model,
            inputs: run.key.seal(&json!(asked.texts).to_string()),
            count: u32::try_from(asked.texts.len()).unwrap_or(u32::MAX),
            dimensions: asked.dimensions,
            credential_id: asked.credential_id,
            deadline: Some(run.created.expires_at.clone()),
            context: context(run, line),
        };
        self.send(event, run, ("embedding", id), &EmbeddingCommand::from(request)).await
    }

    async fn send(
        &self,
        event: &Event,
        run: &Run,
        (kind, id): (&str, &str),
        command: &impl DomainCommand,
    ) -> anyhow::Result<Option<LineAnswer>> {
        let to = AggregateRef::new(Service::Integrations, run.to.tenant.clone(), kind, id)?;
        let command_id = CommandId(Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("ask {id}").as_bytes()));
        let outcome = self.sender.send(Some(event), &to, command, &router(), command_id).await?;
        // Asked before, by another worker.
        let rejection = outcome.rejection.filter(|rejection| rejection.code != "CONFLICT");
        Ok(rejection.map(|rejection| self.dialect.refusal(rejection)))
    }

    /// Keeps the result of a line, and ends it.
    pub(super) async fn keep(
        &self,
        event: &Event,
        run: &Run,
        line: u32,
        custom_id: &str,
        answer: &LineAnswer,
    ) -> anyhow::Result<()> {
        let (message, outcome) = match answer.succeeded() {
            true => (OUTPUT, LineOutcome::Succeeded),
            false => (ERROR, LineOutcome::Failed),
        };
        let (bytes, message) = (result(run, line, custom_id, Ok(answer)).into(), message.to_owned());
        let (id, file) = (kept_as(line), File { message, name: None, mime_type: None, bytes });
        self.files.keep(&Place { org: run.org(), conversation: run.id(), id: &id }, &run.key, &file).await?;
        self.end(event, run, line, outcome).await
    }
}

fn context(run: &Run, line: u32) -> CompletionContext {
    CompletionContext {
        user_id: Some(run.created.created_by.clone()),
        key_id: run.created.key_id.clone(),
        batch_id: Some(run.id().to_owned()),
        batch_line: Some(line),
        ..CompletionContext::default()
    }
}
