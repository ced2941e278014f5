//! What can be read over the Model Context Protocol: the integrations of the registry with their operations, the resources of the
//! servers among them, and the models that can be asked.

use rmcp::{
    ErrorData,
    model::{ReadResourceResult, Resource, ResourceContents, ResourceTemplate},
};
use serde_json::{Value, json};
use symbia_events::integrations::{InvocationInput, Operation};

use super::{Tools, internal, tools::among};
use crate::integrations::registry::{Entry, Reader};

const JSON: &str = "application/json";
const MODELS: &str = "symbia://models";
/// An integration is at its key; a resource of its server is below that, at the operation that reads it.
const REGISTRY: &str = "symbia://integrations/";

/// How the addresses of resources are made.
pub(super) fn templates() -> Vec<ResourceTemplate> {
    let integration = ResourceTemplate::new(format!("{REGISTRY}{{key}}"), "integration");
    let operation = ResourceTemplate::new(format!("{REGISTRY}{{key}}/{{+operation}}"), "resource of an integration");
    vec![
        integration.with_description("What can be called of an integration, by its key").with_mime_type(JSON),
        operation.with_description("A resource of the server of an integration, by the operation that reads it"),
    ]
}

/// Whether it can be told when a resource changes: what is read elsewhere changes there.
pub(super) fn tells_changes(uri: &str) -> bool {
    changes_by_itself(uri) || uri.strip_prefix(REGISTRY).is_some_and(|key| !key.is_empty() && !key.contains('/'))
}

/// Whether it changes without a change of the registry.
pub(super) fn changes_by_itself(uri: &str) -> bool {
    uri == MODELS
}

fn integration(entry: &Entry) -> Resource {
    let text = format!("What can be called of '{}': {} operations", entry.key, entry.operations.len());
    Resource::new(format!("{REGISTRY}{}", entry.key), entry.key.clone()).with_description(text).with_mime_type(JSON)
}

/// A resource of another server, where it is one.
fn theirs(entry: &Entry, operation: &Operation) -> Option<Resource> {
    let tool = operation.mcp_tool.as_ref().filter(|tool| tool.resource.is_some())?;
    let mut resource =
        Resource::new(format!("{REGISTRY}{}/{}", entry.key, operation.id), format!("{}/{}", entry.key, tool.name));
    resource.description.clone_from(&operation.description);
    resource.mime_type.clone_from(&tool.mime_type);
    Some(resource)
}

impl Tools {
    /// All that the caller may read, in an order that stays.
    pub(super) async fn resources(&self) -> Result<Vec<Resource>, ErrorData> {
        let reader = self.reader()?;
        let mut entries = self.service.entries(&reader).await.map_err(|error| internal(&error))?;
        entries.retain(|entry| among(self.choice.integrations.as_deref(), |key| key == entry.key));
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        let models = Resource::new(MODELS, "models");
        let models = models.with_description("The language models that can be asked").with_mime_type(JSON);
        let of = |entry: &Entry| {
            let theirs = entry.operations.iter().filter_map(|operation| theirs(entry, operation));
            std::iter::once(integration(entry)).chain(theirs).collect::<Vec<_>>()
        };
        Ok(std::iter::once(models).chain(entries.iter().flat_map(of)).collect())
    }

    /// One of them.
    pub(super) async fn resource(&self, uri: &str) -> Result<ReadResourceResult, ErrorData> {
        let shown: Value = match uri.strip_prefix(REGISTRY).map(|path| path.split_once('/').unwrap_or((path, ""))) {
            Some((key, "")) => self.entry(uri, key).await?.shown(),
            Some((key, id)) => return self.resource_of(uri, &self.entry(uri, key).await?, id).await,
            None if uri == MODELS => {
                let models = self.service.models(&self.caller, &self.scope).await;
                json!({ "models": models.map_err(|error| internal(&error))? })
            }
            None => return Err(unknown(uri)),
        };
        let contents = ResourceContents::text(shown.to_string(), uri).with_mime_type(JSON);
        Ok(ReadResourceResult::new(vec![contents]))
    }

    async fn entry(&self, uri: &str, key: &str) -> Result<Entry, ErrorData> {
        let found = self.service.entry(&self.reader()?, key).await;
        found.map_err(|error| if error.code() == "NOT_FOUND" { unknown(uri) } else { internal(&error) })
    }

    // Read at its server now; nothing of it is kept.
    async fn resource_of(&self, uri: &str, entry: &Entry, id: &str) -> Result<ReadResourceResult, ErrorData> {
        let found = entry.operations.iter().find(|operation| operation.id == id);
        let at = found.and_then(|operation| operation.mcp_tool.as_ref()?.resource.as_deref());
        let (Some(operation), Some(at)) = (found, at) else { return Err(unknown(uri)) };
        let called = self.call(entry, operation, InvocationInput::default()).await;
        let mut data = called.map_err(|error| internal(&error))?.data;
        // Whoever reads it knows it by our name.
        for contents in data["contents"].as_array_mut().into_iter().flatten() {
            if contents["uri"] == at {
                contents["uri"] = json!(uri);
            }
        }
        serde_json::from_value(data).map_err(|_| ErrorData::internal_error("what the server gave is no resource", None))
    }

    pub(super) fn reader(&self) -> Result<Reader, ErrorData> {
        Reader::new(&self.caller, &self.scope).map_err(|error| internal(&error))
    }
}

fn unknown(uri: &str) -> ErrorData {
    ErrorData::resource_not_found(format!("there is no resource '{uri}'"), None)
}
