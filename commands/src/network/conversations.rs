//! Conversations as a node that every mesh has: it tells who takes part from outside what they are asked, and takes their
//! answers (messaging.md §8.12, 8.13).

use serde::Deserialize;
use serde_json::{Map, Value, json};
use symbia_events::network::EventRouted;
use uuid::Uuid;

use crate::messaging::ASSISTANT_PREFIX;

/// The node's id.
pub const MESSAGING: &str = "messaging";
/// Type of the event that tells somebody of a message.
pub const MESSAGE_NEW: &str = "message.new";
/// The types of the events that tell of signals: their names.
pub const SIGNALS: &str = "stream.*";
/// Who sends them: a node of this name that somebody registered does not.
pub const TELLER: &str = "service:messaging";
/// Types of the events that answer it.
const REPLIES: [&str; 2] = ["message.response", "assistant.action.respond"];

/// Whether an event tells somebody what happened in a conversation: of a message or a signal.
#[must_use]
pub fn tells_of_conversation(routed: &EventRouted) -> bool {
    routed.sender_id == TELLER
}

/// Whether an event tells somebody of a message.
#[must_use]
pub fn tells_of_message(routed: &EventRouted) -> bool {
    tells_of_conversation(routed) && routed.payload_type == MESSAGE_NEW
}

/// Whether an event is an answer for a conversation.
#[must_use]
pub fn is_reply(target: &str, event_type: &str) -> bool {
    target == MESSAGING && REPLIES.contains(&event_type)
}

/// An answer, as it comes over the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    /// Where it belongs.
    pub conversation_id: String,
    message: ReplyMessage,
    #[serde(default)]
    reply_id: Option<String>,
    #[serde(default)]
    assistant_key: Option<String>,
    #[serde(default)]
    assistant: Option<ReplyAssistant>,
    #[serde(default)]
    justification: Option<Value>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct ReplyMessage {
    content: String,
    #[serde(default, alias = "contentType")]
    content_type: Option<String>,
    #[serde(default)]
    metadata: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReplyAssistant {
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    user_id: Option<String>,
}

impl Reply {
    /// What it says.
    #[must_use]
    pub fn content(&self) -> &str {
        &self.message.content
    }

    /// `text`, unless it says otherwise.
    #[must_use]
    pub fn content_type(&self) -> &str {
        self.message.content_type.as_deref().unwrap_or("text")
    }

    /// The agent in whose name it is given, where it names one.
    #[must_use]
    pub fn named(&self) -> Option<String> {
        let by_key = |key: &String| format!("{ASSISTANT_PREFIX}{key}");
        let named = self.assistant.as_ref().and_then(|a| a.user_id.clone().or_else(|| a.key.as_ref().map(by_key)));
        named.or_else(|| self.assistant_key.as_ref().map(by_key))
    }

    /// Who answers: the node that sent it is the agent that it is named for, registered by that agent itself, and nobody else is
    /// named. `None` when somebody speaks for another, or is no agent.
    #[must_use]
    pub fn author<'r>(&self, routed: &'r EventRouted) -> Option<&'r str> {
        let named = self.named();
        let agent = [ASSISTANT_PREFIX, "agent:"].iter().any(|prefix| routed.sender_id.starts_with(prefix));
        let own = agent && routed.source == routed.sender_id && named.is_none_or(|named| named == routed.sender_id);
        own.then_some(routed.sender_id.as_str())
    }

    /// Id of the message that it becomes. One for each thing that was asked, unless the answer has an id of its own: who is told
    /// twice may answer twice, and is heard once.
    #[must_use]
    pub fn message_id(&self, routed: &EventRouted) -> Uuid {
        let asked = routed.caused_by.as_ref().unwrap_or(&routed.event_id);
        let parts = [&routed.org_id, &self.conversation_id, &routed.source, asked].map(String::as_str).join("\0");
        let name = format!("reply\0{parts}\0{}", self.reply_id.as_deref().unwrap_or_default());
        Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
    }

    /// What stands beside the message.
    #[must_use]
    pub fn metadata(&self, routed: &EventRouted) -> Value {
        let mut metadata = self.message.metadata.clone();
        metadata.insert("_sdnEventId".to_owned(), json!(routed.event_id));
        metadata.insert("_sdnRunId".to_owned(), json!(routed.run_id));
        if let Some(justification) = &self.justification {
            metadata.insert("_sdnJustification".to_owned(), justification.clone());
        }
        Value::Object(metadata)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use symbia_events::{SubjectKey, network::Boundary};

    fn routed(source: &str, sender: &str, event_id: &str) -> EventRouted {
        EventRouted {
            event_id: event_id.into(),
            org_id: "o1".into(),
            run_id: "run_msg_1".into(),
            payload_type: "message.response".into(),
            data: SubjectKey::from_bytes("mesh:o1", [1; 32]).seal("{}"),
            source: source.into(),
            target: Some(MESSAGING.into()),
            caused_by: Some("told".into()),
            source_entity_id: None,
            target_entity_id: None,
            boundary: Boundary::Intra,
            timestamp: String::new(),
            hash: String::new(),
            key_id: String::new(),
            signed: false,
            sender_id: sender.into(),
            policy_set: String::new(),
            candidates: vec![],
        }
    }

    fn reply(more: &Value) -> Reply {
        let mut reply = json!({ "conversationId": "c1", "message": { "content": "yes" } });
        reply.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        serde_json::from_value(reply).unwrap()
    }

    #[test]
    fn nobody_answers_for_another() {
        let own = routed("assistant:a", "assistant:a", "e1");
        for named in [json!({}), json!({ "assistantKey": "a" }), json!({ "assistant": { "userId": "assistant:a" } })] {
            assert_eq!(reply(&named).author(&own), Some("assistant:a"), "{named}");
        }
        for named in [json!({ "assistantKey": "b" }), json!({ "assistant": { "userId": "ada", "key": "a" } })] {
            assert_eq!(reply(&named).author(&own), None, "{named}");
        }
        assert_eq!(reply(&json!({})).author(&routed("ada", "ada", "e1")), None, "a person");
        // A node of an admin's is not the agent it is named for.
        assert_eq!(reply(&json!({})).author(&routed("assistant:a", "ada", "e1")), None);
    }

    #[test]
    fn one_answer_to_one_thing_unless_it_says_that_it_is_another() {
        let (first, again) = (routed("a", "a", "e1"), routed("a", "a", "e2"));
        assert_eq!(reply(&json!({})).message_id(&first), reply(&json!({})).message_id(&again));
        let second = reply(&json!({ "replyId": "2" }));
        assert_ne!(reply(&json!({})).message_id(&first), second.message_id(&first));
        assert_ne!(second.message_id(&first), second.message_id(&routed("b", "b", "e1")));
    }
}
