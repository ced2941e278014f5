//! From messages to the model's tokens, through the chat template in its file.

use llama_cpp_2::model::{LlamaChatMessage, LlamaChatTemplate, LlamaModel};
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::vocab::LlamaVocab;

use super::{Failure, FailureKind, Message};

/// Control tokens shorter than this are not looked for in a message.
const SHORTEST_CONTROL: usize = 3;
const ZERO_WIDTH_SPACE: char = '\u{200b}';

/// Renders and tokenizes prompts of one model.
pub(super) struct Prompts<'m> {
    name: &'m str,
    model: &'m LlamaModel,
    template: Option<LlamaChatTemplate>,
    /// Texts of the control tokens, and the characters they begin with.
    controls: Vec<String>,
    control_begins: Vec<char>,
    /// Bytes of the longest token.
    longest_token: usize,
}

impl<'m> Prompts<'m> {
    pub(super) fn new(name: &'m str, model: &'m LlamaModel) -> Self {
        let vocab = model.vocab();
        let mut controls = Vec::new();
        let mut longest_token = 1;
        for token in vocab.tokens() {
            let Some(text) = vocab.text(token) else { continue };
            longest_token = longest_token.max(text.to_bytes().len());
            if vocab.is_control(token)
                && let Ok(text) = text.to_str()
                && text.len() >= SHORTEST_CONTROL
            {
                controls.push(text.to_owned());
            }
        }
        let mut control_begins: Vec<char> = controls.iter().filter_map(|text| text.chars().next()).collect();
        control_begins.sort_unstable();
        control_begins.dedup();
        // Without a template in the file llama.cpp, too, takes ChatML.
        let template = model.chat_template(None).or_else(|error| {
            tracing::warn!(model = name, %error, "the model has no chat template, ChatML is used");
            LlamaChatTemplate::new("chatml")
        });
        Self { name, model, template: template.ok(), controls, control_begins, longest_token }
    }

    pub(super) fn vocab(&self) -> LlamaVocab<'m> {
        self.model.vocab()
    }

    /// The tokens of a prompt that ends where the assistant is to speak; at most `limit`.
    pub(super) fn tokens(&self, messages: &[Message], limit: u32) -> Result<Vec<LlamaToken>, Failure> {
        // Tokenizing is slow: what is far too long is refused by its length.
        let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
        self.check(bytes / self.longest_token, limit, "at least ")?;
        let prompt = self.render(messages)?;
        let tokens = self.vocab().tokenize(prompt.as_bytes(), true, true);
        self.check(tokens.len(), limit, "")?;
        if tokens.is_empty() {
            return Err(Failure::new(FailureKind::InvalidRequest, "the prompt has no tokens; write something"));
        }
        Ok(tokens)
    }

    fn check(&self, tokens: usize, limit: u32, about: &str) -> Result<(), Failure> {
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        if tokens <= limit {
            return Ok(());
        }
        let message = format!(
            "the prompt has {about}{tokens} tokens, model {:?} takes at most {limit}: shorten the conversation",
            self.name
        );
        Err(Failure::new(FailureKind::PromptTooLong { tokens, limit }, message))
    }

    fn render(&self, messages: &[Message]) -> Result<String, Failure> {
        let unusable = || {
            let message = format!("llama.cpp does not know the chat template of model {:?}: use another", self.name);
            Failure::new(FailureKind::InvalidRequest, message)
        };
        let template = self.template.as_ref().ok_or_else(unusable)?;
        let turn = |message: &Message| LlamaChatMessage::new(self.plain(&message.role), self.plain(&message.content));
        let chat = messages.iter().map(turn).collect::<Result<Vec<_>, _>>().map_err(|_| unusable())?;
        self.model.apply_chat_template(template, &chat, true).map_err(|error| {
            tracing::error!(model = self.name, %error, "chat template not applied");
            unusable()
        })
    }

    /// `text` with control tokens made harmless and without NUL, which llama.cpp's strings end at.
    fn plain(&self, text: &str) -> String {
        let mut plain = text.replace('\0', "\u{fffd}");
        if !plain.contains(self.control_begins.as_slice()) {
            return plain;
        }
        for control in &self.controls {
            if plain.contains(control.as_str())
                && let Some(first) = control.chars().next()
            {
                let broken = format!("{first}{ZERO_WIDTH_SPACE}{}", &control[first.len_utf8()..]);
                plain = plain.replace(control.as_str(), &broken);
            }
        }
        plain
    }
}
