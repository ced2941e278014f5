//! The model aggregate: what is known of a model file, where it is in memory, and who wanted it there (models.md §16).
//!
//! Models belong to the installation, not to an organization. What the inference processes tell is recorded by the platform;
//! people with the capability ask for loading and unloading.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use symbia_events::{
    AggregateRef, OrgId,
    models::{
        ModelChanged, ModelDescribed, ModelDiscovered, ModelEvent, ModelLoadFailed, ModelLoadRequested, ModelLoaded,
        ModelRemoved, ModelUnloadRequested, ModelUnloaded,
    },
};
use time::OffsetDateTime;

use crate::{Actor, Aggregate, Decision, Rejection, TenantRule, domain_commands};

/// Who may load and unload models.
pub const MANAGE: [&str; 2] = ["cap:models.manage", "cap:models.admin"];
/// Characters of a message at most.
const LONGEST: usize = 2000;

domain_commands! {
    /// What a model can be asked to do.
    ModelCommand: Models / "model" {
        /// Its file is there, and this is what it is.
        RecordModel = "symbia.cmd.models.record-model.v1" {
            model_id: String,
            digest: String,
            filename: String,
            size_bytes: u64,
            worker_id: String,
            name: String,
            architecture: String,
            parameters: u64,
            #[serde(default)]
            quantization: Option<String>,
            context_length: u64,
            embedding_length: u64,
            capabilities: Vec<String>,
            #[serde(default)]
            license: Option<String>,
            /// The processes that there are; what another one had in memory is gone with it. None: not known.
            #[serde(default)]
            workers: Vec<String>,
        }
        /// No process has its file any more.
        RecordModelRemoved = "symbia.cmd.models.record-model-removed.v1" { model_id: String }
        /// Brings it into memory.
        LoadModel = "symbia.cmd.models.load-model.v1" {
            model_id: String,
            #[serde(default)]
            context_tokens: Option<u32>,
            #[serde(default)]
            slots: Option<u32>,
            #[serde(default)]
            keep_alive: Option<i64>,
        }
        /// It could not be loaded.
        RecordLoadFailed = "symbia.cmd.models.record-load-failed.v1" {
            model_id: String,
            category: String,
            message: String,
        }
        /// It is in the memory of a process.
        RecordLoaded = "symbia.cmd.models.record-loaded.v1" {
            model_id: String,
            worker_id: String,
            #[serde(default)]
            digest: Option<String>,
            context_tokens: u32,
            slots: u32,
            weight_bytes: u64,
            cache_bytes: u64,
            compute_bytes: u64,
            load_ms: u64,
        }
        /// Takes it out of memory, everywhere.
        UnloadModel = "symbia.cmd.models.unload-model.v1" {
            model_id: String,
            drain: bool,
        }
        /// It is out of the memory of a process.
        RecordUnloaded = "symbia.cmd.models.record-unloaded.v1" {
            model_id: String,
            worker_id: String,
            reason: String,
        }
    }
}

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct File {
    digest: String,
    filename: String,
}

/// A model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Model {
    file: Option<File>,
    /// Tokens and sequences by process that has it in memory.
    loaded: BTreeMap<String, (u32, u32)>,
}

impl Model {
    fn record(&self, c: RecordModel) -> Decision<ModelEvent> {
        let described = ModelDescribed {
            model_id: c.model_id.clone(),
            digest: c.digest.clone(),
            name: c.name,
            architecture: c.architecture,
            parameters: c.parameters,
            quantization: c.quantization,
            context_length: c.context_length,
            embedding_length: c.embedding_length,
            capabilities: c.capabilities,
            license: c.license,
        };
        let gone = self.loaded.keys().filter(|worker| !c.workers.is_empty() && !c.workers.contains(worker));
        let gone: Vec<ModelUnloaded> = gone.map(|worker| unloaded(&c.model_id, worker, "worker_gone")).collect();
        let RecordModel { model_id, digest, filename, size_bytes, worker_id, .. } = c;
        let found = match &self.file {
            Some(file) if file.digest == digest => Decision::nothing(),
            Some(File { digest: old, .. }) => {
                let old_digest = old.clone();
                let changed = ModelChanged { model_id, old_digest, digest, filename, size_bytes, worker_id };
                Decision::one(changed).and(described)
            }
            None => Decision::one(ModelDiscovered { model_id, digest, filename, size_bytes, worker_id }).and(described),
        };
        gone.into_iter().fold(found, Decision::and)
    }

    fn load(&self, c: LoadModel, by: &Actor) -> Result<Decision<ModelEvent>, Rejection> {
        if c.slots.is_some_and(|slots| !(1..=256).contains(&slots)) {
            return Err(Rejection::invalid("slots: 1 to 256"));
        }
        if c.context_tokens.is_some_and(|tokens| tokens < 64) {
            return Err(Rejection::invalid("contextTokens: at least 64"));
        }
        let LoadModel { model_id, context_tokens, slots, keep_alive } = c;
        Ok(Decision::one(ModelLoadRequested { model_id, by: by.id.clone(), context_tokens, slots, keep_alive }))
    }

    fn loaded(&self, c: RecordLoaded) -> Decision<ModelEvent> {
        if self.loaded.get(&c.worker_id) == Some(&(c.context_tokens, c.slots)) {
            return Decision::nothing();
        }
        Decision::one(ModelLoaded {
            model_id: c.model_id,
            worker_id: c.worker_id,
            digest: c.digest,
            context_tokens: c.context_tokens,
            slots: c.slots,
            weight_bytes: c.weight_bytes,
            cache_bytes: c.cache_bytes,
            compute_bytes: c.compute_bytes,
            load_ms: c.load_ms,
        })
    }
}

fn unloaded(model: &str, worker: &str, reason: &str) -> ModelUnloaded {
    ModelUnloaded { model_id: model.to_owned(), worker_id: worker.to_owned(), reason: reason.to_owned() }
}

fn managers_only(by: &Actor) -> Result<(), Rejection> {
    if by.is_platform() || MANAGE.iter().any(|capability| by.holds(capability)) {
        return Ok(());
    }
    Err(Rejection::new("MISSING_CAPABILITY", format!("the capability '{}' is required", MANAGE[0])))
}

fn platform_only(by: &Actor) -> Result<(), Rejection> {
    if by.is_platform() { Ok(()) } else { Err(Rejection::forbidden("only the platform records what models do")) }
}

fn short(text: String) -> String {
    if text.chars().count() <= LONGEST { text } else { text.chars().take(LONGEST).collect() }
}

impl Aggregate for Model {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("modelId");
    type Command = ModelCommand;
    type Event = ModelEvent;

    fn apply(&mut self, event: &ModelEvent) {
        match event {
            ModelEvent::ModelDiscovered(ModelDiscovered { digest, filename, .. })
            | ModelEvent::ModelChanged(ModelChanged { digest, filename, .. }) => {
                self.file = Some(File { digest: digest.clone(), filename: filename.clone() });
            }
            ModelEvent::ModelRemoved(_) => self.file = None,
            ModelEvent::ModelLoaded(e) => _ = self.loaded.insert(e.worker_id.clone(), (e.context_tokens, e.slots)),
            ModelEvent::ModelUnloaded(e) => _ = self.loaded.remove(&e.worker_id),
            ModelEvent::ModelDescribed(_)
            | ModelEvent::ModelLoadRequested(_)
            | ModelEvent::ModelLoadFailed(_)
            | ModelEvent::ModelUnloadRequested(_) => {}
        }
    }

    fn belongs(_command: &ModelCommand, to: &AggregateRef) -> Result<(), Rejection> {
        if to.tenant.as_str() == OrgId::GLOBAL { Ok(()) } else { Err(Rejection::misaddressed(to)) }
    }

    fn tenant_rule(_command: &ModelCommand) -> TenantRule {
        TenantRule::Anyone
    }

    fn decide(
        &self,
        command: ModelCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<ModelEvent>, Rejection> {
        match &command {
            ModelCommand::LoadModel(_) | ModelCommand::UnloadModel(_) => managers_only(by)?,
            _ => platform_only(by)?,
        }
        Ok(match command {
            ModelCommand::RecordModel(c) => self.record(c),
            ModelCommand::RecordModelRemoved(c) => match &self.file {
                Some(file) => Decision::one(ModelRemoved { model_id: c.model_id, digest: file.digest.clone() }),
                None => Decision::nothing(),
            },
            ModelCommand::LoadModel(c) => self.load(c, by)?,
            ModelCommand::RecordLoadFailed(c) => {
                let RecordLoadFailed { model_id, category, message } = c;
                Decision::one(ModelLoadFailed { model_id, category, message: short(message) })
            }
            ModelCommand::RecordLoaded(c) => self.loaded(c),
            ModelCommand::UnloadModel(UnloadModel { model_id, drain }) => {
                Decision::one(ModelUnloadRequested { model_id, by: by.id.clone(), drain })
            }
            ModelCommand::RecordUnloaded(RecordUnloaded { model_id, worker_id, reason }) => {
                if self.loaded.contains_key(&worker_id) {
                    Decision::one(ModelUnloaded { model_id, worker_id, reason })
                } else {
                    Decision::nothing()
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use symbia_events::ActorType;

    use super::*;
    use crate::testing::given;

    fn keeper() -> Actor {
        Actor::system("models")
    }

    fn person(entitlements: &[&str]) -> Actor {
        let entitlements = entitlements.iter().map(|e| (*e).to_owned()).collect();
        Actor { id: "ada".into(), kind: ActorType::User, entitlements, ..keeper() }
    }

    fn file(digest: &str) -> RecordModel {
        RecordModel {
            model_id: "m".into(),
            digest: digest.into(),
            filename: "m.gguf".into(),
            size_bytes: 1,
            worker_id: "w".into(),
            name: "M".into(),
            architecture: "llama".into(),
            parameters: 1,
            quantization: None,
            context_length: 512,
            embedding_length: 8,
            capabilities: vec!["chat".into()],
            license: None,
            workers: Vec::new(),
        }
    }

    fn events(decision: Decision<ModelEvent>) -> Vec<ModelEvent> {
        decision.events
    }

    #[test]
    fn a_file_is_discovered_once_and_another_one_is_a_change() {
        let found = events(Model::default().record(file("d1")));
        assert!(matches!(found.as_slice(), [ModelEvent::ModelDiscovered(_), ModelEvent::ModelDescribed(_)]));
        given::<Model>(found.clone()).when(file("d1"), &keeper()).then([]);
        let mut model = Model::default();
        found.iter().for_each(|event| model.apply(event));
        let changed = events(model.record(file("d2")));
        assert!(matches!(&changed[0], ModelEvent::ModelChanged(e) if e.old_digest == "d1" && e.digest == "d2"));
        let removed = ModelRemoved { model_id: "m".into(), digest: "d1".into() };
        let gone = RecordModelRemoved { model_id: "m".into() };
        given::<Model>(found).when(gone.clone(), &keeper()).then([removed.into()]);
        given::<Model>([]).when(gone, &keeper()).then([]);
    }

    #[test]
    fn loading_takes_the_capability_and_recording_the_platform() {
        let load = LoadModel { model_id: "m".into(), context_tokens: None, slots: Some(2), keep_alive: None };
        given::<Model>([]).when(load.clone(), &person(&[])).rejected("MISSING_CAPABILITY");
        given::<Model>([]).when(load.clone(), &person(&["cap:models.manage"])).then([ModelLoadRequested {
            model_id: "m".into(),
            by: "ada".into(),
            context_tokens: None,
            slots: Some(2),
            keep_alive: None,
        }
        .into()]);
        let none = LoadModel { slots: Some(0), ..load };
        given::<Model>([]).when(none, &keeper()).rejected("VALIDATION_FAILED");
        given::<Model>([]).when(file("d"), &person(&["cap:models.admin"])).rejected("FORBIDDEN");
    }

    #[test]
    fn a_model_is_loaded_and_unloaded_once_for_each_process() {
        let load = RecordLoaded {
            model_id: "m".into(),
            worker_id: "w".into(),
            digest: None,
            context_tokens: 512,
            slots: 4,
            weight_bytes: 1,
            cache_bytes: 2,
            compute_bytes: 3,
            load_ms: 4,
        };
        let loaded = events(Model::default().loaded(load.clone()));
        given::<Model>(loaded.clone()).when(load, &keeper()).then([]);
        let unload =
            |worker: &str| RecordUnloaded { model_id: "m".into(), worker_id: worker.into(), reason: "unloaded".into() };
        given::<Model>(loaded.clone()).when(unload("other"), &keeper()).then([]);
        given::<Model>(loaded.clone()).when(unload("w"), &keeper()).then([unloaded("m", "w", "unloaded").into()]);

        // A process that died while nobody listened took its models along.
        let history = [events(Model::default().record(file("d"))), loaded].concat();
        let alive = |worker: &str| RecordModel { workers: vec![worker.into()], ..file("d") };
        given::<Model>(history.clone()).when(alive("w"), &keeper()).then([]);
        given::<Model>(history).when(alive("w2"), &keeper()).then([unloaded("m", "w", "worker_gone").into()]);
    }
}
