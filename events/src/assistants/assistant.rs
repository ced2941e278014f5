//! Events of an assistant's definition (assistants.md §21.3).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LlmConfig;
use crate::domain_events;

/// What an assistant is; `digest` in its events is the SHA-256 of this.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AssistantDefinition {
    /// Key; its principal is `assistant:<key>`.
    pub key: String,
    /// The catalog resource that it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog_id: Option<String>,
    /// Short name, for mentions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// For people.
    pub name: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// What it may do.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Its model settings, above those of its rule set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub llm_config: Option<LlmConfig>,
}

domain_events! {
    /// What can have happened to an assistant.
    AssistantEvent: Assistants / "assistant" {
        /// It is defined.
        AssistantRegistered = "symbia.assistants.assistant.assistant-registered.v1" {
            definition: AssistantDefinition,
            digest: String,
            by: String,
        }
        /// Its definition is another.
        AssistantUpdated = "symbia.assistants.assistant.assistant-updated.v1" {
            definition: AssistantDefinition,
            digest: String,
            by: String,
        }
        /// It answers.
        AssistantPublished = "symbia.assistants.assistant.assistant-published.v1" {
            key: String,
            digest: String,
            by: String,
        }
        /// It answers no more.
        AssistantWithdrawn = "symbia.assistants.assistant.assistant-withdrawn.v1" { key: String, by: String }
    }
}
