//! What the gateway asks the router that is nobody's request to a model: which models a provider has, and how many tokens a
//! prompt is. Only the router has the keys of providers. A request over core NATS, with one reply; nothing of it is stored.

use std::time::Duration;

use async_nats::{Client, RequestErrorKind};
use serde::{Deserialize, Serialize};
use symbia_events::{
    Personal,
    integrations::{ErrorCategory, PromptMessage},
};

/// Where enquiries go; the routers share them as one queue group.
pub const ENQUIRIES: &str = "symbia.gateway.enquiry";
/// The queue group.
pub const GROUP: &str = "llm-router";

/// A question, and in whose name.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Enquiry {
    /// The organization.
    pub org: String,
    /// Whose keys count.
    pub principal: String,
    /// What.
    pub what: What,
}

/// What is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The models of a provider.
    Models(String),
    /// The tokens of a prompt.
    Tokens(Box<Prompt>),
}

/// A prompt, sealed as in a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prompt {
    /// Absent: told from the model's name.
    pub provider: Option<String>,
    /// Absent: the provider's default.
    pub model: Option<String>,
    /// The messages.
    pub messages: Vec<PromptMessage>,
    /// The JSON of a `PromptOptions`.
    pub options: Option<Personal>,
}

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// The models, as the provider lists them.
    Models(Vec<ListedModel>),
    /// The tokens; `estimated` where the provider does not count them.
    Tokens {
        /// How many.
        tokens: u64,
        /// Whether they are counted by us.
        estimated: bool,
    },
    /// Nothing.
    Failed {
        /// What kind of failure.
        category: ErrorCategory,
        /// Finer reason.
        code: Option<String>,
        /// What was wrong, and what to do.
        message: String,
    },
}

/// A model that a provider has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedModel {
    /// As requests name it.
    pub id: String,
    /// As people name it.
    pub name: Option<String>,
    /// It makes vectors, and no text.
    pub embeds: bool,
    /// Tokens that it can read.
    pub context_tokens: Option<u64>,
    /// When it was made, in seconds since 1970.
    pub created: Option<i64>,
}

/// No router answered.
#[derive(Debug, thiserror::Error)]
#[error("no router answers: {0}; start one with `symbia work --roles llm-router`")]
pub struct Unanswered(String);

impl Enquiry {
    /// Asks, and waits for so long.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn ask(&self, client: &Client, within: Duration) -> Result<Found, Unanswered> {
        let payload = serde_json::to_vec(self).map_err(|e| Unanswered(e.to_string()))?;
        let request = async_nats::Request::new().payload(payload.into()).timeout(Some(within));
        let reply = client.send_request(ENQUIRIES, request).await.map_err(|error| {
            Unanswered(match error.kind() {
                RequestErrorKind::TimedOut => format!("nothing within {} ms", within.as_millis()),
                RequestErrorKind::NoResponders => "there is none".to_owned(),
                _ => error.to_string(),
            })
        })?;
        serde_json::from_slice(&reply.payload).map_err(|e| Unanswered(e.to_string()))
    }
}
