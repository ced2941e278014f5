//! The models that an installation has when it begins: asked for once, and once more at each start while they could not be got
//! (models.md §10). What somebody has cancelled or deleted since stays away.

use std::{sync::Arc, time::Duration};

use symbia_commands::{
    Actor,
    models::{DownloadCommand, RequestDownload},
};
use symbia_events::{AggregateRef, CommandId, KeyRing, OrgId, Service, models::ModelSource};
use symbia_nats::bus::CommandBus;
use symbia_projections::{
    ReadPool, Scope,
    models::{Download, downloads},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::sender::Sender;

/// Downloads that are looked through.
const MOST: i64 = 10_000;
/// Until another try, where log or read model are away.
const AGAIN: Duration = Duration::from_secs(5);

/// Asks for the models that are wanted from the beginning, until that is done or `stop`.
pub async fn bootstrap(
    wanted: Vec<ModelSource>,
    bus: CommandBus,
    keys: Arc<KeyRing>,
    reader: ReadPool,
    stop: CancellationToken,
) {
    let sender = Sender::new(bus, keys);
    let ask = async {
        while let Err(error) = request(&wanted, &sender, &reader).await {
            tracing::warn!(%error, "the first models are not asked for yet, trying again");
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::select! { () = ask => {}, () = stop.cancelled() => {} }
}

async fn request(wanted: &[ModelSource], sender: &Sender, reader: &ReadPool) -> anyhow::Result<()> {
    let mut tx = reader.read(&Scope::platform()).await?;
    let before = downloads(&mut tx, MOST).await?;
    drop(tx);
    for from in wanted {
        let Some(download_id) = due(from, &before)? else { continue };
        let to = AggregateRef::new(Service::Models, OrgId::global(), "download", &download_id)?;
        let command: DownloadCommand = RequestDownload { download_id, from: from.clone() }.into();
        let outcome = sender.send(None, &to, &command, &Actor::system("models"), CommandId::random()).await?;
        match outcome.rejection {
            None => tracing::info!(?from, "a first model is asked for"),
            // Another process has asked.
            Some(rejection) if rejection.code == "CONFLICT" => {}
            Some(rejection) => {
                tracing::error!(?from, message = rejection.message, "MODELS_BOOTSTRAP names what cannot be got");
            }
        }
    }
    Ok(())
}

/// The id of the download to ask for, if one is: the same in every process that asks at this time.
fn due(from: &ModelSource, before: &[Download]) -> serde_json::Result<Option<String>> {
    let is_same =
        |row: &&Download| serde_json::from_str::<ModelSource>(&row.source).is_ok_and(|source| source == *from);
    let tried: Vec<&Download> = before.iter().filter(is_same).collect();
    if tried.iter().any(|row| row.status != "failed") {
        return Ok(None);
    }
    let name = format!("symbia:first-model:{}:{}", serde_json::to_string(from)?, tried.len());
    Ok(Some(Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes()).to_string()))
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    #[test]
    fn a_model_is_asked_for_until_it_came_or_somebody_gave_it_up() -> serde_json::Result<()> {
        let from = ModelSource::Package { name: "smollm2".to_owned() };
        let row = |status: &str| -> serde_json::Result<Download> {
            Ok(Download {
                id: "d".to_owned(),
                source: serde_json::to_string(&from)?,
                status: status.to_owned(),
                filename: None,
                bytes: None,
                sha256: None,
                license: None,
                reason: None,
                error: None,
                created_by: "models".to_owned(),
                created_at: OffsetDateTime::UNIX_EPOCH,
                updated_at: OffsetDateTime::UNIX_EPOCH,
            })
        };
        let (first, second) = (due(&from, &[])?, due(&from, &[row("failed")?])?);
        assert!(first.is_some() && second.is_some() && first != second);
        assert_eq!(due(&from, &[])?, first, "every process names it alike");
        for status in ["requested", "started", "completed", "cancelled"] {
            assert_eq!(due(&from, &[row("failed")?, row(status)?])?, None, "{status}");
        }
        let other = ModelSource::Package { name: "another".to_owned() };
        assert!(due(&other, &[row("completed")?])?.is_some());
        Ok(())
    }
}
