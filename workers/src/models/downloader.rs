//! The downloader: gets the models that people ask for, and records what becomes of that.
//!
//! Error policy: retry. A process that dies leaves what it has got, and the next one that is handed the event goes on with it.
//! What cannot be got is recorded as failed; a download that has ended is not begun again, however often its event comes.

use std::time::Duration;

use async_nats::{Client, Subscriber};
use async_trait::async_trait;
use futures::StreamExt;
use symbia_commands::{
    Actor, Outcome,
    models::{DownloadCommand, RecordDownloadCompleted, RecordDownloadFailed, RecordDownloadStarted},
};
use symbia_events::{
    AggregateRef, CommandId, Event, OrgId, Position, Service,
    models::{DownloadEvent, DownloadRequested},
};
use symbia_nats::downloads::{CANCEL, GROUP, Progress, SEARCH, Search, Searched, progress_subject};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::pull::{PullError, Puller, Wanted};
use crate::{
    reactor::{OnError, Reactor},
    sender::Sender,
};

/// How often progress is told.
const TELL: Duration = Duration::from_millis(250);
/// Without a sign of life for so long, another process takes over.
const PATIENCE: Duration = Duration::from_secs(30);

/// Gets models.
pub struct Downloader {
    client: Client,
    sender: Sender,
    puller: Puller,
}

impl Downloader {
    /// Over a connection.
    #[must_use]
    pub fn new(client: Client, sender: Sender, puller: Puller) -> Self {
        Downloader { client, sender, puller }
    }

    async fn get(&self, event: &Event, asked: DownloadRequested) -> anyhow::Result<()> {
        let download_id = asked.download_id;
        // Before it is recorded that it has begun, so that no cancellation is missed.
        let cancels = self.client.subscribe(CANCEL).await?;
        let began = Instant::now();
        let wanted = match self.puller.resolve(&asked.from).await {
            Ok(wanted) => wanted,
            Err(error) => return self.fail(event, &download_id, error).await,
        };
        let (filename, bytes) = (wanted.filename().to_owned(), wanted.bytes());
        let started = RecordDownloadStarted { download_id: download_id.clone(), filename, bytes };
        if self.record(event, &download_id, started.into()).await?.events.is_empty() {
            self.puller.discard(&wanted);
            return Ok(());
        }
        let pulled = tokio::select! {
            pulled = self.pull(&download_id, &wanted) => pulled,
            () = cancelled(cancels, &download_id) => {
                self.puller.discard(&wanted);
                return Ok(());
            }
        };
        let pulled = match pulled {
            Ok(pulled) => pulled,
            Err(error) => return self.fail(event, &download_id, error).await,
        };
        let completed = RecordDownloadCompleted {
            download_id: download_id.clone(),
            filename: pulled.filename,
            bytes: pulled.bytes,
            sha256: pulled.sha256,
            license: pulled.license,
            duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        self.record(event, &download_id, completed.into()).await?;
        Ok(())
    }

    async fn pull(&self, id: &str, wanted: &Wanted) -> Result<super::pull::Pulled, PullError> {
        let (tell, progress) = watch::channel(Progress::default());
        let mut told = |bytes, total| _ = tell.send_replace(Progress { bytes, total, bytes_per_sec: 0 });
        tokio::select! {
            pulled = self.puller.pull(wanted, &mut told) => pulled,
            never = self.tell(id, progress) => match never {},
        }
    }

    async fn tell(&self, id: &str, mut progress: watch::Receiver<Progress>) -> std::convert::Infallible {
        let subject = progress_subject(id);
        let (mut at, mut before) = (Instant::now(), None);
        loop {
            if progress.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            let now = *progress.borrow_and_update();
            let came = now.bytes.saturating_sub(*before.get_or_insert(now.bytes));
            let bytes_per_sec = (came as f64 / at.elapsed().as_secs_f64().max(TELL.as_secs_f64())) as u64;
            (at, before) = (Instant::now(), Some(now.bytes));
            let payload = serde_json::to_vec(&Progress { bytes_per_sec, ..now }).unwrap_or_default();
            // Unheard progress is made good by the next.
            let _ = self.client.publish(subject.clone(), payload.into()).await;
            tokio::time::sleep(TELL).await;
        }
    }

    async fn fail(&self, event: &Event, id: &str, PullError { reason, message }: PullError) -> anyhow::Result<()> {
        tracing::warn!(download = id, reason = reason.name(), message, "a model was not got");
        let (download_id, reason) = (id.to_owned(), reason.name().to_owned());
        self.record(event, id, RecordDownloadFailed { download_id, reason, message }.into()).await?;
        Ok(())
    }

    async fn record(&self, event: &Event, id: &str, command: DownloadCommand) -> anyhow::Result<Outcome> {
        let to = AggregateRef::new(Service::Models, OrgId::global(), "download", id)?;
        // Never a repetition: whether the aggregate still wants it is what the outcome says.
        Ok(self.sender.send(Some(event), &to, &command, &Actor::system("models"), CommandId::random()).await?)
    }
}

async fn cancelled(mut cancels: Subscriber, id: &str) {
    while let Some(message) = cancels.next().await {
        if message.payload == id.as_bytes() {
            return;
        }
    }
    std::future::pending().await
}

#[async_trait]
impl Reactor for Downloader {
    fn name(&self) -> &'static str {
        "downloader"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(Service::Models, &["global.download.*"])]
    }

    fn acts_on(&self) -> &'static [&'static str] {
        &["symbia.models.download.download-requested."]
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    async fn react(&self, event: &Event, _at: Position) -> anyhow::Result<()> {
        match event.decode()? {
            DownloadEvent::DownloadRequested(asked) => self.get(event, asked).await,
            _ => Ok(()),
        }
    }
}

/// Searches the hub for whoever asks, until `stop`.
///
/// # Errors
/// The broker is away.
pub async fn serve_searches(client: Client, puller: Puller, stop: CancellationToken) -> anyhow::Result<()> {
    let mut asked = client.queue_subscribe(SEARCH, GROUP.to_owned()).await?;
    loop {
        let message = tokio::select! {
            message = asked.next() => message,
            () = stop.cancelled() => return Ok(()),
        };
        let Some(message) = message else { return Ok(()) };
        let (Some(reply), Ok(search)) = (message.reply, serde_json::from_slice::<Search>(&message.payload)) else {
            continue;
        };
        let (client, puller) = (client.clone(), puller.clone());
        tokio::spawn(async move {
            let searched = match puller.search(&search.query, search.limit).await {
                Ok(found) => Searched::Found(found),
                Err(PullError { reason, message }) => Searched::Failed(reason.name().to_owned(), message),
            };
            let payload = serde_json::to_vec(&searched).unwrap_or_default();
            if let Err(error) = client.publish(reply, payload.into()).await {
                tracing::warn!(%error, "what the hub found was not told");
            }
        });
    }
}
