//! What can be read over the Model Context Protocol: the integrations of the registry with their operations, and the models
//! that can be asked.

use rmcp::{
    ErrorData,
    model::{ReadResourceResult, Resource, ResourceContents},
};
use serde_json::{Value, json};

use super::{Tools, internal};
use crate::integrations::registry::{Entry, Reader};

const JSON: &str = "application/json";
const MODELS: &str = "symbia://models";
const REGISTRY: &str = "symbia://integrations/";

fn integration(entry: &Entry) -> Resource {
    let text = format!("What can be called of '{}': {} operations", entry.key, entry.operations.len());
    Resource::new(format!("{REGISTRY}{}", entry.key), entry.key.clone()).with_description(text).with_mime_type(JSON)
}

impl Tools {
    /// All that the caller may read, in an order that stays.
    pub(super) async fn resources(&self) -> Result<Vec<Resource>, ErrorData> {
        let reader = self.reader()?;
        let mut entries = self.service.entries(&reader).await.map_err(|error| internal(&error))?;
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        let models = Resource::new(MODELS, "models");
        let models = models.with_description("The language models that can be asked").with_mime_type(JSON);
        Ok(std::iter::once(models).chain(entries.iter().map(integration)).collect())
    }

    /// One of them.
    pub(super) async fn resource(&self, uri: &str) -> Result<ReadResourceResult, ErrorData> {
        let shown: Value = match uri.strip_prefix(REGISTRY) {
            Some(key) => match self.service.entry(&self.reader()?, key).await {
                Ok(entry) => entry.shown(),
                Err(error) if error.code() == "NOT_FOUND" => return Err(unknown(uri)),
                Err(error) => return Err(internal(&error)),
            },
            None if uri == MODELS => {
                let models = self.service.models(&self.caller, &self.scope).await;
                json!({ "models": models.map_err(|error| internal(&error))? })
            }
            None => return Err(unknown(uri)),
        };
        let contents = ResourceContents::text(shown.to_string(), uri).with_mime_type(JSON);
        Ok(ReadResourceResult::new(vec![contents]))
    }

    pub(super) fn reader(&self) -> Result<Reader, ErrorData> {
        Reader::new(&self.caller, &self.scope).map_err(|error| internal(&error))
    }
}

fn unknown(uri: &str) -> ErrorData {
    ErrorData::resource_not_found(format!("there is no resource '{uri}'"), None)
}
