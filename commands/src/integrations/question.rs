//! What a model is asked, in clear, whichever API it came by, and the request that it becomes.

use serde_json::json;
use symbia_events::{
    Personal, SubjectKey,
    integrations::{
        CompletionContext, PromptMessage, PromptMore, PromptOptions, PromptPart, PromptRole, Sampling, Target,
    },
};

use super::RequestCompletion;

/// One message of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: PromptRole,
    /// What they say.
    pub text: String,
    /// Which of several speakers.
    pub name: Option<String>,
    /// What it is besides text.
    pub more: PromptMore,
}

impl Message {
    /// One of text alone.
    #[must_use]
    pub fn text(role: PromptRole, text: impl Into<String>) -> Self {
        Message { role, text: text.into(), name: None, more: PromptMore::default() }
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "named as in the command that it becomes")]
pub struct Question {
    pub operation: &'static str,
    pub target: Target,
    pub fallbacks: Vec<Target>,
    pub messages: Vec<Message>,
    pub sampling: Sampling,
    pub options: PromptOptions,
    pub stream: bool,
    pub credential_id: Option<String>,
}

impl Question {
    /// Whether there is a picture in it.
    #[must_use]
    pub fn shows_something(&self) -> bool {
        let mut parts = self.messages.iter().flat_map(|message| &message.more.parts);
        parts.any(|part| matches!(part, PromptPart::Image { .. }))
    }

    /// What is said and asked for, sealed.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn sealed(&self, key: &SubjectKey) -> serde_json::Result<(Vec<PromptMessage>, Option<Personal>)> {
        let seal = |json: serde_json::Result<String>| json.map(|text| key.seal(&text));
        let message = |message: &Message| {
            let more = (!message.more.is_empty()).then(|| seal(serde_json::to_string(&message.more))).transpose()?;
            let (role, name) = (message.role, message.name.clone());
            Ok(PromptMessage { role, content: key.seal(&message.text), name, more })
        };
        let messages = self.messages.iter().map(message).collect::<serde_json::Result<_>>()?;
        let options = (!self.options.is_empty()).then(|| seal(serde_json::to_string(&self.options))).transpose()?;
        Ok((messages, options))
    }

    /// The request for it, sealed. `deadline`: RFC 3339.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn request(
        self,
        request_id: &str,
        key: &SubjectKey,
        deadline: String,
        context: CompletionContext,
    ) -> serde_json::Result<RequestCompletion> {
        let (messages, options) = self.sealed(key)?;
        let texts: Vec<&str> = self.messages.iter().map(|message| message.text.as_str()).collect();
        let prompt_digest = key.digest(&json!(texts).to_string());
        Ok(RequestCompletion {
            request_id: request_id.to_owned(),
            provider: self.target.provider,
            model: self.target.model,
            operation: self.operation.to_owned(),
            messages,
            sampling: self.sampling,
            stream: self.stream,
            credential_id: self.credential_id,
            idempotency_key: None,
            deadline: Some(deadline),
            context,
            prompt_digest,
            options,
            fallbacks: self.fallbacks,
        })
    }
}

/// Texts to turn into vectors.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "named as in the command that it becomes")]
pub struct Texts {
    pub target: Target,
    pub texts: Vec<String>,
    pub dimensions: Option<u32>,
    pub credential_id: Option<String>,
}
