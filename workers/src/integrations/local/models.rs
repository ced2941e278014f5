//! Which of the models on this machine are there for an organization, under which names, and how they are set (models.md §15.1,
//! §17). What is not for it is not there, whoever asks for it by whatever name.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use moka::sync::Cache;
use symbia_events::{integrations::ErrorCategory, models::ModelSettings};
use symbia_nats::inference::{AskError, BEAT, Census, Message, ModelStatus, Request};
use symbia_projections::{ReadPool, Scope, models as model};

use super::super::provider::Fault;

/// How long what is set counts.
const KEPT: Duration = Duration::from_secs(1);

type Settings = Arc<BTreeMap<String, ModelSettings>>;

/// The models of this machine.
#[derive(Clone, Debug)]
pub(super) struct Models {
    pub census: Census,
    patience: Duration,
    // Without one, nothing is set.
    reader: Option<ReadPool>,
    kept: Cache<(), Settings>,
}

/// A model that a request may go to.
pub(super) struct Admitted {
    id: String,
    org: String,
    /// As answers name it.
    pub name: String,
    pub settings: ModelSettings,
}

impl Models {
    pub fn new(census: Census, patience: Duration) -> Self {
        Models { census, patience, reader: None, kept: Cache::builder().max_capacity(1).time_to_live(KEPT).build() }
    }

    pub fn set_by(self, reader: ReadPool) -> Self {
        Models { reader: Some(reader), ..self }
    }

    /// Those that an organization sees, by id.
    pub async fn seen_by(&self, org: &str) -> Result<BTreeMap<String, ModelStatus>, Fault> {
        self.census.settle().await;
        Ok(seen(self.census.models(), &*self.settings().await?, org))
    }

    /// The model that a name means to an organization: its id, one of its aliases, or its file's name or the beginning of it.
    pub async fn admit(&self, org: &str, name: &str) -> Result<Admitted, Fault> {
        if !self.census.wait_until(self.patience, |workers| !workers.is_empty()).await {
            return Err(AskError::Nobody.into());
        }
        if let Some(admitted) = self.find(org, name).await? {
            return Ok(admitted);
        }
        // A file that came just now is told with the next beat.
        tokio::time::sleep(BEAT).await;
        let unknown =
            || format!("there is no model '{name}' on this machine; GET /v1/models lists those that there are");
        self.find(org, name).await?.ok_or_else(|| Fault::new(ErrorCategory::NotFound, "no_model", unknown()))
    }

    async fn find(&self, org: &str, name: &str) -> Result<Option<Admitted>, Fault> {
        let settings = self.settings().await?;
        let models = seen(self.census.models(), &settings, org);
        let alias_of =
            |model: &&ModelStatus| settings.get(&model.id).is_some_and(|set| set.aliases.iter().any(|a| a == name));
        let called = models.get(name).or_else(|| models.values().find(|model| model.is_called(name)));
        let aliased = || models.values().find(alias_of);
        let Some((id, name)) = called.map(|m| (&m.id, name)).or_else(|| aliased().map(|m| (&m.id, m.id.as_str())))
        else {
            return Ok(None);
        };
        let set = settings.get(id).cloned().unwrap_or_default();
        if !set.enabled {
            let message = format!("model '{name}' is switched off: ask those who manage the models");
            return Err(Fault::new(ErrorCategory::Auth, "model_not_allowed", message));
        }
        Ok(Some(Admitted { id: id.clone(), org: org.to_owned(), name: name.to_owned(), settings: set }))
    }

    async fn settings(&self) -> Result<Settings, Fault> {
        let Some(reader) = &self.reader else { return Ok(Settings::default()) };
        if let Some(kept) = self.kept.get(&()) {
            return Ok(kept);
        }
        let read = async {
            let mut tx = reader.read(&Scope::platform()).await?;
            Ok::<_, anyhow::Error>(Arc::new(model::settings(&mut tx).await?))
        };
        let settings = read.await.map_err(|error| {
            tracing::warn!(%error, "how models are set cannot be looked up");
            let message = "how the models are set cannot be looked up at the moment; try again";
            Fault::new(ErrorCategory::Provider, "unavailable", message)
        })?;
        self.kept.insert((), Arc::clone(&settings));
        Ok(settings)
    }
}

fn seen(
    mut models: BTreeMap<String, ModelStatus>,
    settings: &BTreeMap<String, ModelSettings>,
    org: &str,
) -> BTreeMap<String, ModelStatus> {
    models.retain(|id, _| settings.get(id).is_none_or(|set| set.is_visible_to(Some(org))));
    models
}

impl Admitted {
    /// Model and organization, as jobs name them.
    pub fn address(&self) -> (Option<String>, Option<String>) {
        (Some(self.id.clone()), Some(self.org.clone()))
    }

    /// A request to this model, with its chat template, and its system prompt where the conversation has none.
    pub fn direct(&self, mut request: Request) -> Request {
        (request.model, request.org) = self.address();
        request.chat_template.clone_from(&self.settings.chat_template);
        if let Some(prompt) = &self.settings.system_prompt
            && request.messages.iter().all(|message| message.role != "system")
        {
            request.messages.insert(0, Message::new("system", prompt));
        }
        request
    }
}
