//! Upcasters: how an event written in an older version is read today. The log is never edited.

use std::borrow::Cow;

use serde_json::Value;

use crate::DecodeError;

/// One step from an event type's version to the next.
#[derive(Debug)]
pub struct Upcaster {
    /// The older `type`.
    pub from: &'static str,
    /// The `type` it becomes.
    pub to: &'static str,
    /// Rewrites the payload.
    pub rewrite: fn(Value) -> Value,
}

/// The steps that stand. Every event type is at its first version so far; additive fields need no step.
const STEPS: &[Upcaster] = &[];

/// Type and data of an event as today's code reads them.
pub fn upcast<'a>(event_type: &'a str, data: &'a str) -> Result<(Cow<'a, str>, Cow<'a, str>), DecodeError> {
    upcast_with(STEPS, event_type, data)
}

/// [`upcast`] with given steps, applied one after the other until none matches.
pub fn upcast_with<'a>(
    steps: &[Upcaster],
    event_type: &'a str,
    data: &'a str,
) -> Result<(Cow<'a, str>, Cow<'a, str>), DecodeError> {
    let (mut event_type, mut data) = (Cow::Borrowed(event_type), Cow::Borrowed(data));
    while let Some(step) = steps.iter().find(|s| s.from == event_type) {
        let rewritten = (step.rewrite)(serde_json::from_str(&data)?);
        event_type = Cow::Borrowed(step.to);
        data = Cow::Owned(rewritten.to_string());
    }
    Ok((event_type, data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_old_event_passes_every_step_to_today() {
        let steps = [
            Upcaster { from: "symbia.x.v1", to: "symbia.x.v2", rewrite: |v| json!({ "full": v["name"] }) },
            Upcaster { from: "symbia.x.v2", to: "symbia.x.v3", rewrite: |v| json!({ "label": v["full"] }) },
        ];
        let (event_type, data) = upcast_with(&steps, "symbia.x.v1", r#"{"name":"Ada"}"#).unwrap();
        assert_eq!((event_type.as_ref(), data.as_ref()), ("symbia.x.v3", r#"{"label":"Ada"}"#));
    }
}
