//! What an event of identity's is about, for those who hold connections open: whoever is named there is looked at again.

use std::collections::HashSet;

use serde_json::Value;
use symbia_events::{Event, identity::SigningKeyEvent};

/// Named by every event about an agent: it names the agent's row, and a connection knows the handle only.
pub(crate) const AGENTS: &str = "agent:*";
/// Named when a key that tokens are signed with was withdrawn: what it signed counts no longer, whosever it is.
pub(crate) const TOKENS: &str = "token:*";
/// Says that an agent was seen, which takes nothing away, and comes often.
const PRESENCE: &str = "symbia.identity.agent.agent-presence-observed.v1";

/// Adds the ids that an event names: what it is about, and every text of its data.
pub(crate) fn named(event: &Event, ids: &mut HashSet<String>) {
    if event.event_type == PRESENCE {
        return;
    }
    if event.aggregatetype == "agent" {
        ids.insert(AGENTS.to_owned());
    }
    if let Ok(SigningKeyEvent::SigningKeyRetired(key)) = event.decode()
        && key.verify_until == key.retired_at
    {
        ids.insert(TOKENS.to_owned());
    }
    ids.insert(event.aggregateid.clone());
    if let Ok(data) = serde_json::from_str(event.data.get()) {
        texts(&data, ids);
    }
}

fn texts(value: &Value, ids: &mut HashSet<String>) {
    match value {
        Value::String(text) => _ = ids.insert(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| texts(item, ids)),
        Value::Object(members) => members.values().for_each(|member| texts(member, ids)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
