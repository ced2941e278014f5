//! The model aggregate: what is known of a model file, where it is in memory, and who wanted it there (models.md §16).
//!
//! Models belong to the installation, not to an organization. What the inference processes tell is recorded by the platform;
//! people with the capability ask for loading and unloading.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbia_events::{
    AggregateRef, OrgId,
    models::{
        ModelChanged, ModelConfigured, ModelDeletionRequested, ModelDescribed, ModelDiscovered, ModelEvent,
        ModelLoadFailed, ModelLoadRequested, ModelLoaded, ModelRemoved, ModelSettings, ModelUnloadRequested,
        ModelUnloaded,
    },
};
use time::OffsetDateTime;

use super::settings;
use crate::{Actor, Aggregate, Claim, Decision, Rejection, TenantRule, domain_commands};

/// Who may load, unload, set and get models.
pub const MANAGE: [&str; 2] = ["cap:models.manage", "cap:models.admin"];
/// Who may delete their files.
pub const ADMIN: [&str; 1] = ["cap:models.admin"];
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
        /// Sets how it is to be used.
        ConfigureModel = "symbia.cmd.models.configure-model.v1" {
            model_id: String,
            /// A merge patch (RFC 7396) of the settings.
            patch: Map<String, Value>,
        }
        /// Deletes its file, everywhere.
        DeleteModel = "symbia.cmd.models.delete-model.v1" {
            model_id: String,
            /// Even when it is in memory.
            #[serde(default)]
            force: bool,
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
    settings: ModelSettings,
    /// How often it was set.
    version: u64,
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

impl Model {
    fn configure(&self, c: ConfigureModel, by: &Actor) -> Result<Decision<ModelEvent>, Rejection> {
        let settings = settings::changed(&self.settings, &c.patch)?;
        if settings == self.settings {
            return Ok(Decision::nothing());
        }
        let (before, after) = (&self.settings.aliases, settings.aliases.clone());
        let given_up =
            before.iter().filter(|alias| !after.contains(alias)).map(|alias| alias_claim(alias, &c.model_id));
        let new = after.iter().filter(|alias| !before.contains(alias)).map(|alias| alias_claim(alias, &c.model_id));
        let (given_up, new): (Vec<_>, Vec<_>) = (given_up.collect(), new.collect());
        let model_id = c.model_id;
        let configured = ModelConfigured { model_id, by: by.id.clone(), version: self.version + 1, settings };
        let decision = given_up.into_iter().fold(Decision::one(configured), Decision::releasing);
        Ok(new.into_iter().fold(decision, Decision::claiming))
    }

    fn delete(&self, c: DeleteModel, by: &Actor) -> Result<Decision<ModelEvent>, Rejection> {
        if !by.is_platform() && !ADMIN.iter().any(|capability| by.holds(capability)) {
            return Err(missing(ADMIN[0]));
        }
        let file = self.file.as_ref().ok_or_else(|| Rejection::not_found("model"))?;
        if !self.loaded.is_empty() && !c.force {
            return Err(Rejection::new("MODEL_BUSY", "the model is in memory: unload it first, or force it"));
        }
        let (digest, by) = (file.digest.clone(), by.id.clone());
        Ok(Decision::one(ModelDeletionRequested { model_id: c.model_id, by, digest, force: c.force }))
    }
}

// A dot would be the end of a subject's token.
fn alias_claim(alias: &str, model: &str) -> Claim {
    let (name, holder) = (format!("model-alias:{}", alias.replace('.', "~")), model.to_owned());
    Claim { tenant: OrgId::global(), name, holder, taken: "ALIAS_TAKEN" }
}

fn missing(capability: &str) -> Rejection {
    Rejection::new("MISSING_CAPABILITY", format!("the capability '{capability}' is required"))
}

fn unloaded(model: &str, worker: &str, reason: &str) -> ModelUnloaded {
    ModelUnloaded { model_id: model.to_owned(), worker_id: worker.to_owned(), reason: reason.to_owned() }
}

pub(super) fn managers_only(by: &Actor) -> Result<(), Rejection> {
    if by.is_platform() || MANAGE.iter().any(|capability| by.holds(capability)) {
        return Ok(());
    }
    Err(missing(MANAGE[0]))
}

pub(super) fn platform_only(by: &Actor) -> Result<(), Rejection> {
    if by.is_platform() { Ok(()) } else { Err(Rejection::forbidden("only the platform records what models do")) }
}

pub(super) fn short(text: String) -> String {
    if text.chars().count() <= LONGEST { text } else { text.chars().take(LONGEST).collect() }
}

impl Aggregate for Model {
    const STATE_VERSION: u32 = 2;
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
            ModelEvent::ModelConfigured(e) => {
                self.settings.clone_from(&e.settings);
                self.version = e.version;
            }
            ModelEvent::ModelDescribed(_)
            | ModelEvent::ModelDeletionRequested(_)
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
            ModelCommand::LoadModel(_) | ModelCommand::UnloadModel(_) | ModelCommand::ConfigureModel(_) => {
                managers_only(by)?;
            }
            // That takes more.
            ModelCommand::DeleteModel(_) => {}
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
            ModelCommand::ConfigureModel(c) => self.configure(c, by)?,
            ModelCommand::DeleteModel(c) => self.delete(c, by)?,
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
    fn an_alias_is_claimed_and_given_up_and_only_admins_delete() {
        let patch = |aliases: &[&str]| {
            let patch = Map::from_iter([("aliases".to_owned(), serde_json::json!(aliases))]);
            ConfigureModel { model_id: "m".into(), patch }
        };
        let configured = |aliases: &[&str], version| ModelConfigured {
            model_id: "m".into(),
            by: "ada".into(),
            version,
            settings: ModelSettings {
                aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
                ..ModelSettings::default()
            },
        };
        let ada = person(&["cap:models.manage"]);
        given::<Model>([]).when(patch(&["gpt-4.1"]), &person(&[])).rejected("MISSING_CAPABILITY");
        let (first, second) = (configured(&["gpt-4.1", "small"], 1), configured(&["small"], 2));
        let claimed = Decision::one(first.clone());
        let claimed = claimed.claiming(alias_claim("gpt-4.1", "m")).claiming(alias_claim("small", "m"));
        let decided = Model::default().decide(patch(&["gpt-4.1", "small"]).into(), &ada, OffsetDateTime::UNIX_EPOCH);
        assert_eq!(decided, Ok(claimed));
        let mut model = Model::default();
        model.apply(&first.into());
        let decided = model.decide(patch(&["small"]).into(), &ada, OffsetDateTime::UNIX_EPOCH);
        assert_eq!(decided, Ok(Decision::one(second).releasing(alias_claim("gpt-4.1", "m"))));

        let delete = DeleteModel { model_id: "m".into(), force: false };
        let root = person(&["cap:models.admin"]);
        let found = events(Model::default().record(file("d")));
        let asked = ModelDeletionRequested { model_id: "m".into(), by: "ada".into(), digest: "d".into(), force: false };
        given::<Model>(found.clone()).when(delete.clone(), &ada).rejected("MISSING_CAPABILITY");
        given::<Model>(found).when(delete.clone(), &root).then([asked.into()]);
        given::<Model>([]).when(delete, &root).rejected("NOT_FOUND");
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
