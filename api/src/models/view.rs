//! Which models a caller sees, under which names, and how they are set (models.md §17). What is not for their organization is
//! not there.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use symbia_commands::models::MANAGE;
use symbia_events::models::{ModelDefaults, ModelSettings};
use symbia_nats::inference::{AskError, Details, Message, ModelStatus, Request};
use symbia_projections::{Scope, models as model};

use super::{
    Models,
    error::{error, invalid, shaped, unanswered},
};
use crate::http::{ApiError, ApiResult, Caller, RequestScope};

/// What a caller sees.
pub(super) struct View {
    /// By id: those that the processes have, and those that are known though no process is there to tell.
    models: BTreeMap<String, ModelStatus>,
    settings: BTreeMap<String, ModelSettings>,
    org: Option<String>,
}

/// A model that a request may go to.
pub(super) struct Admitted {
    pub(super) id: String,
    /// Who it is counted for.
    pub(super) org: Option<String>,
    /// Whether it can think before it answers.
    pub(super) thinks: bool,
    settings: ModelSettings,
}

impl Models {
    /// What a caller sees. Who manages models sees all of them.
    pub(super) async fn view(&self, caller: &Caller, scope: &RequestScope) -> ApiResult<View> {
        let org = match caller.org(scope) {
            Ok(org) => Some(org),
            // Only who names an organization must belong to it: the models are the installation's.
            Err(error) if scope.org_id.is_some() => return Err(shaped(error)),
            Err(_) => None,
        };
        self.census.settle().await;
        let mut tx = self.platform.read(&Scope::platform()).await.map_err(shaped)?;
        let known = model::models(&mut tx).await.map_err(|error| shaped(error.into()))?;
        let settings = model::settings(&mut tx).await.map_err(|error| shaped(error.into()))?;
        let mut models: BTreeMap<String, ModelStatus> =
            known.into_iter().map(|row| (row.id.clone(), absent(row))).collect();
        models.extend(self.census.models());
        if caller.require_capability(&MANAGE).is_err() {
            let is_visible = |settings: &ModelSettings| settings.is_visible_to(org.as_deref());
            models.retain(|id, _| settings.get(id).is_none_or(is_visible));
        }
        Ok(View { models, settings, org })
    }

    /// The model that a caller may have a request answered by.
    pub(super) async fn admit(&self, caller: &Caller, scope: &RequestScope, name: &str) -> ApiResult<Admitted> {
        if name.is_empty() {
            return Err(invalid("model", "must name a model"));
        }
        let view = self.view(caller, scope).await?;
        let found = view.find(name);
        if found.is_err() && self.census.workers().is_empty() {
            // Nobody is there to know better.
            return Err(unanswered(AskError::Nobody));
        }
        let found = found?;
        let id = found.id.clone();
        let settings = view.settings(&id);
        let able = found.details.as_ref().is_some_and(|details| details.capabilities.iter().any(|a| a == "reasoning"));
        let thinks = settings.chat_template.as_ref().map_or(able, |template| template.contains("<think>"));
        if !settings.enabled {
            let message = format!("model {name:?} is switched off: ask those who manage the models");
            return Err(error(StatusCode::FORBIDDEN, "model_not_allowed", message));
        }
        Ok(Admitted { id, thinks, settings, org: view.org })
    }
}

impl View {
    /// All of them, by id.
    pub(super) fn models(&self) -> impl Iterator<Item = &ModelStatus> {
        self.models.values()
    }

    /// How a model is set.
    pub(super) fn settings(&self, id: &str) -> ModelSettings {
        self.settings.get(id).cloned().unwrap_or_default()
    }

    /// The model that a name means: its id, one of its aliases, or its file's name or the beginning of it.
    pub(super) fn find(&self, name: &str) -> ApiResult<&ModelStatus> {
        let is_alias = |settings: &ModelSettings| settings.aliases.iter().any(|alias| alias == name);
        let aliased = || self.models.values().find(|model| self.settings.get(&model.id).is_some_and(is_alias));
        let called = || self.models.values().find(|model| model.is_called(name));
        self.models.get(name).or_else(aliased).or_else(called).ok_or_else(|| self.unknown(name))
    }

    fn unknown(&self, name: &str) -> ApiError {
        let alike = |id: &&String| id.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
        let mut near: Vec<&String> = self.models.keys().collect();
        near.sort_by_key(|id| std::cmp::Reverse(alike(id)));
        let near: Vec<&str> = near.into_iter().take(3).map(String::as_str).collect();
        let near = if near.is_empty() {
            "there is none yet: `symbia models pull smollm2` gets a small one".to_owned()
        } else {
            format!("there is {}", near.join(", "))
        };
        error(StatusCode::NOT_FOUND, "model_not_found", format!("there is no model {name:?}; {near}"))
    }
}

impl Admitted {
    /// What holds where a request says nothing.
    pub(super) fn defaults(&self) -> &ModelDefaults {
        &self.settings.defaults
    }

    /// Sends a request to this model, with its chat template, and its system prompt where the conversation has none.
    pub(super) fn direct(&self, request: &mut Request) {
        (request.model, request.org) = (Some(self.id.clone()), self.org.clone());
        request.chat_template.clone_from(&self.settings.chat_template);
        let is_open = request.prompt.is_none() && request.messages.iter().all(|message| message.role != "system");
        if let Some(prompt) = self.settings.system_prompt.as_ref().filter(|_| is_open) {
            request.messages.insert(0, Message::new("system", prompt));
        }
    }
}

/// A model whose file is known, and no process that has it.
fn absent(row: model::Model) -> ModelStatus {
    let unsigned = |number: i64| number.unsigned_abs();
    ModelStatus {
        id: row.id,
        name: row.filename.trim_end_matches(".gguf").to_owned(),
        filename: row.filename,
        bytes: unsigned(row.size_bytes),
        modified: unsigned(row.created_at.unix_timestamp()),
        digest: Some(row.digest),
        details: Some(Details {
            title: row.name,
            architecture: row.architecture,
            license: row.license,
            quantization: row.quantization,
            parameters: unsigned(row.parameters),
            context_length: unsigned(row.context_length),
            embedding_length: unsigned(row.embedding_length),
            generates: row.capabilities.iter().any(|able| able == "completion"),
            capabilities: row.capabilities,
            ..Details::default()
        }),
        reason: Some(row.reason.unwrap_or_else(|| "no inference process has it now".to_owned())),
        ..ModelStatus::default()
    }
}
