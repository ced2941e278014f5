//! Which inference processes there are, and what they have: as they told last.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_nats::Client;
use futures::StreamExt;
use tokio::{sync::watch, task::AbortHandle, time::Instant};

use super::{BEAT, CENSUS, GONE, ModelState, ModelStatus, STATUS, Status, UNLOAD, Unload};

type Heard = BTreeMap<String, (Instant, Status)>;

/// What the inference processes told last. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Census {
    pub(super) client: Client,
    heard: watch::Receiver<Heard>,
    since: Instant,
    _listening: Arc<Listening>,
}

#[derive(Debug)]
struct Listening(AbortHandle);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Census {
    /// Listens from now on, for as long as a clone of it is kept.
    #[must_use]
    pub fn listen(client: Client) -> Self {
        let (tell, heard) = watch::channel(Heard::new());
        let listening = tokio::spawn(listen(client.clone(), tell)).abort_handle();
        Census { client, heard, since: Instant::now(), _listening: Arc::new(Listening(listening)) }
    }

    /// The processes that are there.
    #[must_use]
    pub fn workers(&self) -> Vec<Status> {
        present(&self.heard.borrow())
    }

    /// The same, and those that have said just now that they are going.
    #[must_use]
    pub fn workers_and_leavers(&self) -> Vec<Status> {
        lately(&self.heard.borrow()).cloned().collect()
    }

    /// Every model that some process has, by id; one that is in memory somewhere counts as loaded.
    #[must_use]
    pub fn models(&self) -> BTreeMap<String, ModelStatus> {
        merged(&self.workers())
    }

    /// Waits until `holds` of what the processes tell; false after `within`.
    pub async fn wait_until(&self, within: Duration, mut holds: impl FnMut(&[Status]) -> bool) -> bool {
        let mut heard = self.heard.clone();
        let wait = heard.wait_for(|heard| holds(&present(heard)));
        matches!(tokio::time::timeout(within, wait).await, Ok(Ok(_)))
    }

    /// Who has just begun to listen waits until some process has told: at most so long as it takes to tell when asked.
    pub async fn settle(&self) {
        if self.workers().is_empty() && self.since.elapsed() < GONE {
            let _ = self.client.publish(CENSUS, Vec::new().into()).await;
            self.wait_until(BEAT / 2, |workers| !workers.is_empty()).await;
        }
    }

    /// Asks every process to unload a model, and waits until none has it; false after `within`.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn unload(&self, unload: &Unload, within: Duration) -> Result<bool, async_nats::PublishError> {
        let payload = serde_json::to_vec(unload).unwrap_or_default();
        self.client.publish(UNLOAD, payload.into()).await?;
        let gone = |workers: &[Status]| {
            let mut models = workers.iter().flat_map(|worker| &worker.models);
            !models.any(|m| m.id == unload.model && matches!(m.state, ModelState::Loaded | ModelState::Loading))
        };
        Ok(self.wait_until(within, gone).await)
    }
}

fn present(heard: &Heard) -> Vec<Status> {
    lately(heard).filter(|status| !status.draining).cloned().collect()
}

fn lately(heard: &Heard) -> impl Iterator<Item = &Status> {
    heard.values().filter(|(at, _)| at.elapsed() < GONE).map(|(_, status)| status)
}

fn merged(workers: &[Status]) -> BTreeMap<String, ModelStatus> {
    let mut models = BTreeMap::new();
    for model in workers.iter().flat_map(|worker| &worker.models) {
        let known = models.entry(model.id.clone()).or_insert_with(|| model.clone());
        if model.state == ModelState::Loaded && known.state != ModelState::Loaded {
            *known = model.clone();
        }
    }
    models
}

async fn listen(client: Client, tell: watch::Sender<Heard>) {
    let Ok(mut told) = client.subscribe(STATUS).await else { return };
    let _ = client.publish(CENSUS, Vec::new().into()).await;
    while let Some(message) = told.next().await {
        let Ok(status) = serde_json::from_slice::<Status>(&message.payload) else {
            tracing::debug!("a status cannot be read: the inference process is of another version");
            continue;
        };
        tell.send_modify(|heard| {
            heard.retain(|_, (at, _)| at.elapsed() < GONE);
            heard.insert(status.worker.clone(), (Instant::now(), status));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_one_of_two_processes_has_loaded_is_loaded() {
        let model = |state| ModelStatus { id: "m".into(), state, ..ModelStatus::default() };
        let worker = |state| Status { models: vec![model(state)], ..Status::default() };
        for states in [[ModelState::Available, ModelState::Loaded], [ModelState::Loaded, ModelState::Error]] {
            assert_eq!(merged(&states.map(worker))["m"].state, ModelState::Loaded);
        }
    }
}
