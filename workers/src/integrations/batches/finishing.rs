//! The end of a batch: stopping what is under way, and putting the results together.

use futures::{StreamExt, stream};
use symbia_commands::integrations::{
    BatchPhase, CancelCompletion, CompleteBatch, CompletionCommand, Embedding, StoreFile, StoredFileCommand,
};
use symbia_events::{
    AggregateRef, CommandId, Event, Service,
    integrations::{BatchEndpoint, BatchStop, FilePurpose, LineOutcome},
};
use symbia_nats::files::{About, Place, Writer};
use uuid::Uuid;

use super::{
    BatchRunner, Run,
    again::timer,
    asking::{ERROR, OUTPUT, kept_as, result},
};
use crate::integrations::router::router;

/// Results that are read at a time.
const AT_ONCE: usize = 8;

/// A file of results under way.
struct Results {
    id: String,
    name: String,
    writer: Writer,
}

impl BatchRunner {
    /// Stops the lines under way; those that were never asked are dropped. The others end when their requests do.
    pub(super) async fn stopping(&self, event: &Event, batch_id: &str) -> anyhow::Result<()> {
        let Some(run) = self.run(event, batch_id, &[BatchPhase::Stopping]).await? else { return Ok(()) };
        for line in run.state.open_lines() {
            if !self.is_asked(event, &run, (line, &run.request_id(line, run.state.tries(line)))).await? {
                self.end(event, &run, line, LineOutcome::Dropped).await?;
            }
        }
        Ok(())
    }

    /// Whether there is a request of a line with this id, which then is stopped if it can be.
    pub(super) async fn is_asked(&self, event: &Event, run: &Run, (line, id): (u32, &str)) -> anyhow::Result<bool> {
        let org = run.to.tenant.clone();
        if run.created.endpoint == BatchEndpoint::Embeddings {
            let to = AggregateRef::new(Service::Integrations, org, "embedding", id)?;
            return Ok(self.store.load::<Embedding>(&to).await?.state != Embedding::default());
        }
        let to = AggregateRef::new(Service::Integrations, org, "completion", id)?;
        let cancel = CompletionCommand::from(CancelCompletion {
            request_id: id.to_owned(),
            reason: "user".to_owned(),
            partial_content: None,
            usage: None,
            keep_partial: false,
        });
        let command_id = CommandId::derived(event.id, &format!("cancel-{line}"));
        let outcome = self.sender.send(Some(event), &to, &cancel, &router(), command_id).await?;
        Ok(outcome.rejection.is_none_or(|rejection| rejection.code != "NOT_FOUND"))
    }

    /// Puts the results together. Done again, it gives the same files.
    pub(super) async fn finalize(&self, event: &Event, batch_id: &str) -> anyhow::Result<()> {
        let Some(run) = self.run(event, batch_id, &[BatchPhase::Finalizing]).await? else { return Ok(()) };
        let (mut output, mut errors) = (self.results(&run, OUTPUT)?, self.results(&run, ERROR)?);
        let each = |line: u32| self.result_of(event, &run, line);
        let mut results = Box::pin(stream::iter(0..run.state.lines()).map(each).buffered(AT_ONCE));
        while let Some(found) = results.next().await {
            // The batch failed, and says why.
            let Some((succeeded, bytes)) = found? else { return Ok(()) };
            let file = if succeeded { &mut output } else { &mut errors };
            file.writer.write(&bytes).await?;
        }
        let output_file_id = self.store_results(event, &run, output).await?;
        let error_file_id = self.store_results(event, &run, errors).await?;
        let complete = CompleteBatch { batch_id: batch_id.to_owned(), output_file_id, error_file_id };
        self.record(event, &run.to, complete, "complete").await.map(drop)
    }

    fn results(&self, run: &Run, kind: &str) -> anyhow::Result<Results> {
        let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{} {kind}", run.id()).as_bytes());
        let (id, name) = (format!("file-{}", id.simple()), format!("{}_{kind}.jsonl", run.id()));
        let writer = self.files.begin(&Place::stored(run.org(), &id), &run.key)?;
        Ok(Results { id, name, writer })
    }

    // What a line came to, and whether that is an answer. A line without a result was not asked, or stopped.
    async fn result_of(&self, event: &Event, run: &Run, line: u32) -> anyhow::Result<Option<(bool, Vec<u8>)>> {
        let id = kept_as(line);
        let at = Place { org: run.org(), conversation: run.id(), id: &id };
        if let Some(kept) = self.files.find(&at, &run.key).await? {
            let succeeded = kept.message == OUTPUT;
            return Ok(Some((succeeded, kept.whole().await?.into())));
        }
        let why = match run.state.stop() {
            Some(BatchStop::Cancelled) => {
                ("batch_cancelled", "This request was not executed because the batch was cancelled.")
            }
            Some(BatchStop::Expired) => {
                ("batch_expired", "This request could not be executed before the completion window expired.")
            }
            None => anyhow::bail!("the result of line {line} of {} was kept, and is not found", run.to),
        };
        let Some(input) = self.input(event, run).await? else { return Ok(None) };
        let custom_id = input.line(line).await?.map(|line| line.custom_id).unwrap_or_default();
        Ok(Some((false, result(run, line, &custom_id, Err(why)))))
    }

    // None when there is nothing in it.
    async fn store_results(&self, event: &Event, run: &Run, results: Results) -> anyhow::Result<Option<String>> {
        let Results { id, name, writer } = results;
        if writer.size() == 0 {
            return Ok(None);
        }
        let kind = Some("application/jsonl".to_owned());
        let bytes =
            writer.finish(About { message: run.id().to_owned(), name: Some(name.clone()), mime_type: kind }).await?;
        let store = StoredFileCommand::from(StoreFile {
            file_id: id.clone(),
            purpose: FilePurpose::BatchOutput,
            filename: run.key.seal(&name),
            bytes,
            owner: Some(run.created.created_by.clone()),
            batch_id: Some(run.id().to_owned()),
        });
        let to = AggregateRef::new(Service::Integrations, run.to.tenant.clone(), "stored-file", &id)?;
        let command_id = CommandId::derived(event.id, &format!("store-{id}"));
        let outcome = self.sender.send(Some(event), &to, &store, &router(), command_id).await?;
        match outcome.rejection {
            Some(rejection) if rejection.code != "CONFLICT" => anyhow::bail!("{name} is not stored: {rejection}"),
            _ => Ok(Some(id)),
        }
    }

    /// Forgets the results of the lines, which stand in the files of the batch, and its timers.
    pub(super) async fn over(&self, event: &Event) -> anyhow::Result<()> {
        let (org, id) = (event.orgid.as_str(), &event.aggregateid);
        self.known.invalidate(&(org.to_owned(), id.clone()));
        self.timers.cancel(&timer(&event.aggregate()?, ">")).await?;
        Ok(self.files.forget(org, id).await?)
    }
}
