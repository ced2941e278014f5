//! The model keeper: does what people ask of models (load, unload, delete), and records what the inference processes tell of them.
//!
//! Error policy: retry what was asked for. What is recorded is compared with what the process tells now, and the aggregate
//! passes over what it knows, so that nothing has to be remembered over a restart.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::Client;
use async_trait::async_trait;
use symbia_commands::{
    Actor, DomainCommand,
    models::{
        CountUsage, ModelCommand, RecordLoadFailed, RecordLoaded, RecordModel, RecordModelRemoved, RecordUnloaded,
        UsageCommand,
    },
};
use symbia_events::{
    AggregateRef, CommandId, Event, KeyRing, OrgId, Position, Service,
    models::{ModelDeletionRequested, ModelEvent, ModelLoadRequested, ModelUnloadRequested},
};
use symbia_nats::{
    bus::CommandBus,
    inference::{
        AskError, BEAT, Census, FailureKind, Inference, Load, ModelState, ModelStatus, Order, Status, Unload, Work,
    },
};
use symbia_projections::{ReadPool, Scope, models as model};
use tokio_util::sync::CancellationToken;

use super::counting::Counting;
use crate::{
    reactor::{OnError, Reactor},
    sender::Sender,
};

/// How long an inference process is looked for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Loading a large model from a slow disk takes so long.
const LOADING: Duration = Duration::from_secs(600);
const UNLOADING: Duration = Duration::from_secs(60);

/// Does what people ask of models.
pub struct ModelKeeper {
    inference: Inference,
    census: Census,
    sender: Sender,
}

impl ModelKeeper {
    /// Over a connection.
    #[must_use]
    pub fn new(client: Client, sender: Sender) -> Self {
        ModelKeeper { inference: Inference::new(client.clone(), PATIENCE), census: Census::listen(client), sender }
    }

    async fn load(&self, event: &Event, asked: ModelLoadRequested) -> anyhow::Result<()> {
        let model_id = asked.model_id.clone();
        let load = Load {
            model: asked.model_id,
            context_tokens: asked.context_tokens,
            parallel: asked.slots,
            keep_alive: asked.keep_alive,
        };
        let (category, message) = match self.inference.once(Work::Load(load)).await {
            // That it is loaded, the process tells.
            Ok(_) => return Ok(()),
            Err(AskError::Failed(failure)) => (category(failure.kind), failure.message),
            Err(error @ AskError::Nobody) => ("engine", error.to_string()),
            Err(error) => return Err(error.into()),
        };
        let failed = RecordLoadFailed { model_id: model_id.clone(), category: category.to_owned(), message };
        send(&self.sender, Some(event), &model_id, failed, CommandId::derived(event.id, "load")).await
    }

    async fn unload(&self, asked: ModelUnloadRequested) -> anyhow::Result<()> {
        let unload = Unload { model: asked.model_id, drain: asked.drain };
        // Where it is still at work after that, it is unloaded when that has ended.
        self.census.unload(&unload, UNLOADING).await?;
        Ok(())
    }

    async fn delete(&self, event: &Event, asked: ModelDeletionRequested) -> anyhow::Result<()> {
        let ModelDeletionRequested { model_id: model, digest, force, .. } = asked;
        if force {
            self.census.unload(&Unload { model: model.clone(), drain: false }, UNLOADING).await?;
        }
        // What has come since then stays, however late this is.
        let before = event.time.unix_timestamp().unsigned_abs();
        let done = self.census.order(&Order::Remove { model: model.clone(), digest, before }, PATIENCE).await?;
        for error in done.iter().filter_map(|done| done.error.as_ref()) {
            tracing::warn!(model, error, "a model's file cannot be deleted");
        }
        Ok(())
    }
}

fn category(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Memory => "memory",
        FailureKind::ModelCorrupt | FailureKind::ModelNotFound => "format",
        _ => "engine",
    }
}

#[async_trait]
impl Reactor for ModelKeeper {
    fn name(&self) -> &'static str {
        "model-keeper"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(Service::Models, &["global.model.*"])]
    }

    fn acts_on(&self) -> &'static [&'static str] {
        &[
            "symbia.models.model.model-load-requested.",
            "symbia.models.model.model-unload-requested.",
            "symbia.models.model.model-deletion-requested.",
        ]
    }

    fn on_error(&self) -> OnError {
        OnError::Bury { after: 5 }
    }

    fn patience(&self) -> Duration {
        LOADING
    }

    async fn react(&self, event: &Event, _at: Position) -> anyhow::Result<()> {
        match event.decode()? {
            ModelEvent::ModelLoadRequested(asked) => self.load(event, asked).await,
            ModelEvent::ModelUnloadRequested(asked) => self.unload(asked).await,
            ModelEvent::ModelDeletionRequested(asked) => self.delete(event, asked).await,
            _ => Ok(()),
        }
    }
}

async fn send(
    sender: &Sender,
    cause: Option<&Event>,
    model: &str,
    command: impl Into<ModelCommand>,
    id: CommandId,
) -> anyhow::Result<()> {
    let to = AggregateRef::new(Service::Models, OrgId::global(), "model", model)?;
    send_to(sender, cause, &to, &command.into(), id).await
}

async fn send_to(
    sender: &Sender,
    cause: Option<&Event>,
    to: &AggregateRef,
    command: &impl DomainCommand,
    id: CommandId,
) -> anyhow::Result<()> {
    let outcome = sender.send(cause, to, command, &Actor::system("models"), id).await?;
    if let Some(rejection) = outcome.rejection {
        tracing::warn!(%to, code = %rejection.code, message = %rejection.message, "not recorded");
    }
    Ok(())
}

async fn count(sender: &Sender, tenant: OrgId, count: &CountUsage) -> anyhow::Result<()> {
    let to = AggregateRef::new(Service::Models, tenant, "usage", &count.usage_id)?;
    send_to(sender, None, &to, &UsageCommand::from(count.clone()), CommandId::random()).await
}

/// What was recorded of a model.
#[derive(Clone, Debug, Default, PartialEq)]
struct Recorded {
    digest: Option<String>,
    /// Tokens and sequences by process that has it in memory.
    loaded: HashMap<String, (u32, u32)>,
}

/// Records what the inference processes tell, and tells them what is set, until `stop`.
pub async fn record(client: Client, bus: CommandBus, keys: Arc<KeyRing>, reader: ReadPool, stop: CancellationToken) {
    let (census, sender) = (Census::listen(client), Sender::new(bus, keys));
    let (mut recorded, mut counting) = (HashMap::new(), Counting::default());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(BEAT) => {}
        }
        let workers = census.workers();
        if let Err(error) = pin(&census, &reader, &workers).await {
            tracing::warn!(%error, "the inference processes are not told which models are pinned, trying again");
        }
        for (tenant, sums) in counting.due(&census.workers_and_leavers(), Instant::now()) {
            if let Err(error) = count(&sender, tenant, &sums).await {
                tracing::warn!(%error, model = sums.model_id, "usage is not recorded, trying again");
                counting.missed(&sums);
            }
        }
        let (now, changes) = compare(&recorded, &workers);
        recorded = now;
        for (model, command) in changes {
            if let Err(error) = send(&sender, None, &model, command, CommandId::random()).await {
                tracing::warn!(%error, model, "not recorded, trying again");
                // The next round finds it missing.
                recorded.remove(&model);
            }
        }
    }
}

/// Tells the processes which models stay in memory, where one does not know: it began later, or did not hear.
async fn pin(census: &Census, reader: &ReadPool, workers: &[Status]) -> anyhow::Result<()> {
    let mut tx = reader.read(&Scope::platform()).await?;
    let models = model::pinned(&mut tx).await?;
    if workers.iter().any(|worker| !knows(worker, &models)) {
        census.order(&Order::Pin { models }, BEAT).await?;
    }
    Ok(())
}

/// Whether a process was told of its own models which are pinned.
fn knows(worker: &Status, pinned: &[String]) -> bool {
    worker.models.iter().all(|model| pinned.contains(&model.id) == worker.pinned.contains(&model.id))
}

/// What is to be recorded of what the processes tell now, and what has been recorded then.
fn compare(
    before: &HashMap<String, Recorded>,
    workers: &[Status],
) -> (HashMap<String, Recorded>, Vec<(String, ModelCommand)>) {
    let mut after = before.clone();
    let mut changes = Vec::new();
    for (worker, model) in workers.iter().flat_map(|w| w.models.iter().map(move |m| (&w.worker, m))) {
        let known = after.entry(model.id.clone()).or_default();
        if let Some(command) = described(worker, model).filter(|_| known.digest != model.digest) {
            known.digest.clone_from(&model.digest);
            let workers = workers.iter().map(|worker| worker.worker.clone()).collect();
            changes.push((model.id.clone(), RecordModel { workers, ..command }.into()));
        }
        if let Some(command) = loaded(worker, model) {
            let how = (command.context_tokens, command.slots);
            if known.loaded.insert(worker.clone(), how) != Some(how) {
                changes.push((model.id.clone(), command.into()));
            }
        }
    }
    for (id, known) in &mut after {
        let told = |worker: &String| workers.iter().find(|status| status.worker == *worker);
        let of = |status: &Status| status.models.iter().find(|model| model.id == *id).cloned();
        known.loaded.retain(|worker, _| {
            let reason = match told(worker) {
                None => "worker_gone",
                Some(status) if of(status).is_none_or(|model| model.state != ModelState::Loaded) => "unloaded",
                Some(_) => return true,
            };
            let unloaded =
                RecordUnloaded { model_id: id.clone(), worker_id: worker.clone(), reason: reason.to_owned() };
            changes.push((id.clone(), unloaded.into()));
            false
        });
        // Without any process nobody knows what the directory holds.
        let missing = !workers.is_empty() && workers.iter().all(|status| of(status).is_none());
        if known.digest.is_some() && missing {
            known.digest = None;
            changes.push((id.clone(), RecordModelRemoved { model_id: id.clone() }.into()));
        }
    }
    (after, changes)
}

fn described(worker: &str, model: &ModelStatus) -> Option<RecordModel> {
    let details = model.details.clone()?;
    Some(RecordModel {
        model_id: model.id.clone(),
        digest: model.digest.clone()?,
        filename: model.filename.clone(),
        size_bytes: model.bytes,
        worker_id: worker.to_owned(),
        name: details.title,
        architecture: details.architecture,
        parameters: details.parameters,
        quantization: details.quantization,
        context_length: details.context_length,
        embedding_length: details.embedding_length,
        capabilities: details.capabilities,
        license: details.license,
        workers: Vec::new(),
    })
}

fn loaded(worker: &str, model: &ModelStatus) -> Option<RecordLoaded> {
    let loaded = model.loaded.filter(|_| model.state == ModelState::Loaded)?;
    Some(RecordLoaded {
        model_id: model.id.clone(),
        worker_id: worker.to_owned(),
        digest: model.digest.clone(),
        context_tokens: loaded.context_tokens,
        slots: loaded.parallel,
        weight_bytes: loaded.weight_bytes,
        cache_bytes: loaded.cache_bytes,
        compute_bytes: loaded.compute_bytes,
        load_ms: loaded.load_ms,
    })
}

#[cfg(test)]
mod tests {
    use symbia_nats::inference::{Details, LoadedModel};

    use super::*;

    fn told(state: ModelState, digest: &str) -> Vec<Status> {
        let loaded = (state == ModelState::Loaded).then(|| LoadedModel {
            context_tokens: 8,
            parallel: 1,
            ..LoadedModel::default()
        });
        let model = ModelStatus {
            id: "m".into(),
            digest: Some(digest.into()),
            details: Some(Details::default()),
            state,
            loaded,
            ..ModelStatus::default()
        };
        vec![Status { worker: "w".into(), models: vec![model], ..Status::default() }]
    }

    #[test]
    fn a_process_is_told_of_pins_of_its_own_models_only() {
        let pinned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let worker = Status { pinned: pinned(&["m"]), ..told(ModelState::Loaded, "d").remove(0) };
        assert!(knows(&worker, &pinned(&["m"])) && knows(&worker, &pinned(&["m", "of another"])));
        assert!(!knows(&worker, &[]) && !knows(&Status { pinned: Vec::new(), ..worker }, &pinned(&["m"])));
    }

    #[test]
    fn each_change_is_recorded_once() {
        let step = |before: &HashMap<String, Recorded>, workers: &[Status]| {
            let (after, changes) = compare(before, workers);
            let name = |command: &ModelCommand| {
                let text = format!("{command:?}");
                text.split(['(', ' ']).next().unwrap_or_default().to_owned()
            };
            (after, changes.iter().map(|(_, command)| name(command)).collect::<Vec<_>>())
        };
        let mut before = HashMap::new();
        for (workers, expected) in [
            (told(ModelState::Available, "d1"), vec!["RecordModel"]),
            (told(ModelState::Loading, "d1"), vec![]),
            (told(ModelState::Loaded, "d1"), vec!["RecordLoaded"]),
            (told(ModelState::Loaded, "d1"), vec![]),
            (told(ModelState::Available, "d2"), vec!["RecordModel", "RecordUnloaded"]),
            (told(ModelState::Loaded, "d2"), vec!["RecordLoaded"]),
            (vec![], vec!["RecordUnloaded"]),
            (vec![Status { worker: "w2".into(), ..Status::default() }], vec!["RecordModelRemoved"]),
        ] {
            let (after, changes) = step(&before, &workers);
            assert_eq!(changes, expected);
            before = after;
        }
    }
}
