//! What operators set for a model (models.md §15.1, 17).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is set for a model, for the whole installation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelSettings {
    /// Other names that it answers to.
    pub aliases: Vec<String>,
    /// Whether it is used at all.
    pub enabled: bool,
    /// The organizations that it is there for; none: for all.
    pub visible_to: Option<Vec<String>>,
    /// The organizations that it is not there for.
    pub hidden_from: Vec<String>,
    /// What holds where a request says nothing.
    pub defaults: ModelDefaults,
    /// The first turn of conversations that have no system turn of their own.
    pub system_prompt: Option<String>,
    /// Never unloaded for being idle, nor for another.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// Jinja program that makes a prompt of a conversation, instead of the one in its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
}

impl Default for ModelSettings {
    fn default() -> Self {
        ModelSettings {
            aliases: Vec::new(),
            enabled: true,
            visible_to: None,
            hidden_from: Vec::new(),
            defaults: ModelDefaults::default(),
            system_prompt: None,
            pinned: false,
            chat_template: None,
        }
    }
}

impl ModelSettings {
    /// Whether the model is there for an organization, or for who has none.
    #[must_use]
    pub fn is_visible_to(&self, org: Option<&str>) -> bool {
        let named = |orgs: &[String]| org.is_some_and(|org| orgs.iter().any(|named| named == org));
        self.visible_to.as_deref().is_none_or(named) && !named(&self.hidden_from)
    }
}

/// What holds where a request says nothing; none: what the engine takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "named as in requests")]
pub struct ModelDefaults {
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<u32>,
    pub min_p: Option<f64>,
    pub repeat_penalty: Option<f64>,
    pub max_tokens: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_there_for_whom_it_is_shown_to_and_not_hidden_from() {
        let orgs = |orgs: &[&str]| orgs.iter().map(|org| (*org).to_owned()).collect::<Vec<_>>();
        let all = ModelSettings::default();
        assert!(all.is_visible_to(Some("a")) && all.is_visible_to(None));
        let hidden = ModelSettings { hidden_from: orgs(&["a"]), ..all.clone() };
        assert!(!hidden.is_visible_to(Some("a")) && hidden.is_visible_to(Some("b")) && hidden.is_visible_to(None));
        let shown = ModelSettings { visible_to: Some(orgs(&["a", "b"])), hidden_from: orgs(&["b"]), ..all };
        assert!(shown.is_visible_to(Some("a")) && !shown.is_visible_to(Some("b")) && !shown.is_visible_to(None));
    }
}
