//! Integrations that everybody has: the providers of language models, known without asking anybody (integrations.md §12.2),
//! and the keys that nobody else may take.

use serde_json::{Value, json};
use symbia_events::integrations::{Operation, RequestBody};

/// What a builtin operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuiltinCall {
    /// Asks a model; the gateway's name of the operation.
    Chat(&'static str),
    /// Turns texts into vectors.
    Embed,
    /// Lists the provider's models.
    Models,
}

/// A builtin operation.
struct Known {
    call: BuiltinCall,
    id: &'static str,
    /// As the vendor's own document names it.
    vendor_id: Option<&'static str>,
    path: &'static str,
    summary: &'static str,
    tags: &'static [&'static str],
}

const CHAT: Known = Known {
    call: BuiltinCall::Chat("chat.completions"),
    id: "chat.completions.create",
    vendor_id: Some("createChatCompletion"),
    path: "/chat/completions",
    summary: "Have a model answer messages",
    tags: &["chat", "llm"],
};
const MESSAGES: Known = Known {
    call: BuiltinCall::Chat("messages"),
    id: "messages.create",
    vendor_id: Some("createMessage"),
    path: "/messages",
    summary: "Have a model answer messages",
    tags: &["chat", "llm"],
};
const TEXT: Known = Known {
    call: BuiltinCall::Chat("text.generation"),
    id: "text.generation.create",
    vendor_id: None,
    path: "/text-generation",
    summary: "Have a model go on with a text",
    tags: &["llm"],
};
const COMPLETIONS: Known =
    Known { id: "completions.create", vendor_id: Some("createCompletion"), path: "/completions", ..TEXT };
const EMBEDDINGS: Known = Known {
    call: BuiltinCall::Embed,
    id: "embeddings.create",
    vendor_id: Some("createEmbedding"),
    path: "/embeddings",
    summary: "Turn texts into vectors",
    tags: &["embedding"],
};
const MODELS: Known = Known {
    call: BuiltinCall::Models,
    id: "models.list",
    vendor_id: Some("listModels"),
    path: "/models",
    summary: "List models",
    tags: &["models"],
};

/// A builtin integration.
pub struct Builtin {
    /// Its key, and the provider's.
    pub key: &'static str,
    /// For people.
    pub name: &'static str,
    known: &'static [Known],
}

/// All of them.
pub static BUILTINS: [Builtin; 4] = [
    Builtin { key: "openai", name: "OpenAI", known: &[CHAT, EMBEDDINGS, MODELS] },
    Builtin { key: "anthropic", name: "Anthropic", known: &[CHAT, MESSAGES, MODELS] },
    Builtin { key: "huggingface", name: "Hugging Face", known: &[TEXT, CHAT, EMBEDDINGS, MODELS] },
    Builtin { key: "symbia-labs", name: "Symbia Labs", known: &[CHAT, COMPLETIONS, EMBEDDINGS, MODELS] },
];

/// Further providers, and the services of the platform.
const RESERVED: [&str; 14] = [
    "google",
    "mistral",
    "cohere",
    "integrations",
    "symbia",
    "identity",
    "network",
    "logging",
    "catalog",
    "messaging",
    "models",
    "runtime",
    "assistants",
    "builtin",
];

/// Whether nobody may register under this key.
#[must_use]
pub fn is_reserved(key: &str) -> bool {
    RESERVED.contains(&key) || BUILTINS.iter().any(|builtin| builtin.key == key)
}

impl Builtin {
    /// What can be called.
    #[must_use]
    pub fn operations(&self) -> Vec<Operation> {
        self.known.iter().map(Known::operation).collect()
    }

    /// What an operation does.
    #[must_use]
    pub fn call(&self, operation_id: &str) -> Option<BuiltinCall> {
        self.known.iter().find(|known| known.id == operation_id).map(|known| known.call)
    }
}

impl Known {
    fn operation(&self) -> Operation {
        let is_read = self.call == BuiltinCall::Models;
        let schema = match self.call {
            BuiltinCall::Chat(_) => Some(chat_schema()),
            BuiltinCall::Embed => Some(embed_schema()),
            BuiltinCall::Models => None,
        };
        let body =
            |schema| RequestBody { required: true, content_type: "application/json".to_owned(), schema: Some(schema) };
        Operation {
            id: self.id.to_owned(),
            aliases: self.vendor_id.map(super::openapi::operation_path).into_iter().filter(|a| a != self.id).collect(),
            operation_id: self.vendor_id.map(str::to_owned),
            method: Some(if is_read { "GET" } else { "POST" }.to_owned()),
            path: Some(self.path.to_owned()),
            summary: Some(self.summary.to_owned()),
            tags: self.tags.iter().map(|tag| (*tag).to_owned()).collect(),
            request_body: schema.map(body),
            ..Operation::default()
        }
    }
}

fn chat_schema() -> Value {
    let message = json!({ "type": "object", "required": ["role", "content"], "properties": {
        "role": { "type": "string", "enum": ["system", "user", "assistant", "tool"] }, "content": { "type": "string" } } });
    json!({ "type": "object", "properties": {
        "model": { "type": "string", "description": "Absent: the provider's default" },
        "messages": { "type": "array", "items": message, "description": "Or 'prompt'" },
        "prompt": { "type": "string" },
        "temperature": { "type": "number", "minimum": 0, "maximum": 2 },
        "maxTokens": { "type": "integer", "minimum": 1 },
    } })
}

fn embed_schema() -> Value {
    json!({ "type": "object", "required": ["input"], "properties": {
        "model": { "type": "string", "description": "Absent: the provider's default" },
        "input": { "type": "array", "items": { "type": "string" } },
        "dimensions": { "type": "integer", "minimum": 1 },
    } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_found_by_our_name_and_by_the_vendors() {
        let openai = &BUILTINS[0];
        let operations = openai.operations();
        assert_eq!(operations[0].id, "chat.completions.create");
        assert_eq!(operations[0].aliases, ["chat.completion.create"]);
        assert_eq!(openai.call("chat.completions.create"), Some(BuiltinCall::Chat("chat.completions")));
        assert_eq!(openai.call("models.list"), Some(BuiltinCall::Models));
        assert!(is_reserved("openai") && is_reserved("identity") && !is_reserved("weather"));
    }
}
