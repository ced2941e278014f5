//! Changing what is set for a model: a merge patch (RFC 7396), held against what can be set.

use minijinja::{Environment, syntax::SyntaxConfig};
use serde_json::{Map, Value};
use symbia_events::models::{ModelDefaults, ModelSettings};

use crate::Rejection;

/// Names of one model at most.
const MOST_ALIASES: usize = 32;
/// Organizations named at most.
const MOST_ORGS: usize = 1000;
/// Characters of a system prompt at most.
const LONGEST_PROMPT: usize = 16_384;
/// Bytes of a chat template at most.
const LONGEST_TEMPLATE: usize = 65_536;

/// The settings after a change. `null` sets a member back.
pub(super) fn changed(settings: &ModelSettings, patch: &Map<String, Value>) -> Result<ModelSettings, Rejection> {
    let as_map = |settings: &ModelSettings| match serde_json::to_value(settings) {
        Ok(Value::Object(map)) => Ok(map),
        _ => Err(Rejection::invalid("the settings cannot be written")),
    };
    let mut merged = as_map(settings)?;
    let mut defaults = as_map(&ModelSettings::default())?;
    // As they are by default, these two are not written.
    defaults.extend([("pinned".to_owned(), false.into()), ("chatTemplate".to_owned(), Value::Null)]);
    merge(&mut merged, patch, &defaults, "")?;
    let settings: ModelSettings =
        serde_json::from_value(Value::Object(merged)).map_err(|error| Rejection::invalid(error.to_string()))?;
    check(&settings)?;
    Ok(settings)
}

fn merge(
    into: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    defaults: &Map<String, Value>,
    path: &str,
) -> Result<(), Rejection> {
    for (name, value) in patch {
        let Some(default) = defaults.get(name) else {
            let known: Vec<&str> = defaults.keys().map(String::as_str).collect();
            return Err(Rejection::invalid(format!("{path}{name}: can be {} only", known.join(", "))));
        };
        match (value, default, into.get_mut(name)) {
            (Value::Object(patch), Value::Object(defaults), Some(Value::Object(into))) => {
                merge(into, patch, defaults, &format!("{path}{name}."))?;
            }
            (Value::Null, _, _) => _ = into.insert(name.clone(), default.clone()),
            _ => _ = into.insert(name.clone(), value.clone()),
        }
    }
    Ok(())
}

fn check(settings: &ModelSettings) -> Result<(), Rejection> {
    let ModelSettings { aliases, visible_to, hidden_from, defaults, system_prompt, chat_template, .. } = settings;
    let is_alias = |alias: &String| {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
        (1..=64).contains(&alias.len()) && alias.bytes().all(fits)
    };
    if aliases.len() > MOST_ALIASES || !aliases.iter().all(is_alias) {
        let message = "aliases: at most 32, each of 1 to 64 small letters, digits, dashes, underscores and dots";
        return Err(Rejection::invalid(message));
    }
    if visible_to.as_ref().map_or(0, Vec::len) + hidden_from.len() > MOST_ORGS {
        return Err(Rejection::invalid("visibleTo, hiddenFrom: at most 1 000 organizations"));
    }
    if system_prompt.as_ref().is_some_and(|prompt| prompt.chars().count() > LONGEST_PROMPT) {
        return Err(Rejection::invalid("systemPrompt: at most 16 384 characters"));
    }
    if let Some(template) = chat_template {
        readable(template)?;
    }
    let ModelDefaults { temperature, top_p, min_p, repeat_penalty, .. } = defaults;
    for (name, value, least, most) in [
        ("temperature", temperature, 0.0, 2.0),
        ("topP", top_p, f64::MIN_POSITIVE, 1.0),
        ("minP", min_p, 0.0, 1.0),
        ("repeatPenalty", repeat_penalty, f64::MIN_POSITIVE, 10.0),
    ] {
        if value.is_some_and(|value| !(least..=most).contains(&value)) {
            return Err(Rejection::invalid(format!("defaults.{name}: out of its range, which ends at {most}")));
        }
    }
    Ok(())
}

/// Whether a chat template is a Jinja program. What it makes of a conversation, an inference process finds out.
fn readable(template: &str) -> Result<(), Rejection> {
    if template.trim().is_empty() || template.len() > LONGEST_TEMPLATE {
        return Err(Rejection::invalid("chatTemplate: 1 to 65 536 bytes"));
    }
    let wrong = |error: minijinja::Error| Rejection::invalid(format!("chatTemplate: is no Jinja template: {error}"));
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(wrong)?);
    environment.add_template("chat", template).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(settings: &ModelSettings, patch: Value) -> Result<ModelSettings, Rejection> {
        let Value::Object(patch) = patch else { return Err(Rejection::invalid("no object")) };
        changed(settings, &patch)
    }

    #[test]
    fn what_is_not_named_stays_and_null_sets_back() -> Result<(), Rejection> {
        let first =
            json!({ "aliases": ["small"], "defaults": { "temperature": 0.2, "topK": 5 }, "systemPrompt": "Be brief." });
        let first = patched(&ModelSettings::default(), first)?;
        assert_eq!((first.aliases.len(), first.defaults.top_k, first.enabled), (1, Some(5), true));
        let second = patched(&first, json!({ "defaults": { "topK": null }, "systemPrompt": null, "enabled": false }))?;
        assert_eq!(second.defaults, ModelDefaults { temperature: Some(0.2), ..ModelDefaults::default() });
        assert!(second.system_prompt.is_none() && !second.enabled && second.aliases == ["small"]);
        Ok(())
    }

    #[test]
    fn what_cannot_be_set_is_named() {
        for (patch, named) in [
            (json!({ "alias": "x" }), "alias: can be aliases"),
            (json!({ "defaults": { "heat": 1 } }), "defaults.heat: can be"),
            (json!({ "aliases": ["Large"] }), "aliases"),
            (json!({ "aliases": "x" }), "invalid type"),
            (json!({ "enabled": "yes" }), "invalid type"),
            (json!({ "defaults": { "temperature": 9 } }), "defaults.temperature"),
            (json!({ "pinned": 1 }), "invalid type"),
            (json!({ "chatTemplate": " " }), "chatTemplate: 1 to"),
            (json!({ "chatTemplate": "{% if %}" }), "chatTemplate: is no Jinja template"),
        ] {
            let refused = patched(&ModelSettings::default(), patch.clone());
            assert!(refused.as_ref().is_err_and(|refused| refused.message.contains(named)), "{patch} {refused:?}");
        }
    }
}
