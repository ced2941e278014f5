//! From messages to the model's tokens, through the chat template in its file.

use std::cell::RefCell;
use std::rc::Rc;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::vocab::LlamaVocab;
use symbia_nats::inference::{Failure, FailureKind, Inspect, Inspected, Message, Request, Tool, ToolCall, ToolChoice};

use super::template::Template;

/// Control tokens shorter than this are not looked for in a message.
const SHORTEST_CONTROL: usize = 3;
const ZERO_WIDTH_SPACE: char = '\u{200b}';

/// A template, or why it is none.
type Compiled = Rc<Result<Template, String>>;

/// Renders and tokenizes prompts of one model.
pub(super) struct Prompts<'m> {
    name: &'m str,
    model: &'m LlamaModel,
    template: Compiled,
    /// The one that was asked for last instead, and its source.
    other: RefCell<Option<(String, Compiled)>>,
    bos: String,
    eos: String,
    /// Texts of the control tokens, and the characters they begin with.
    controls: Vec<String>,
    control_begins: Vec<char>,
    /// Bytes of the longest token.
    longest_token: usize,
}

impl<'m> Prompts<'m> {
    pub(super) fn new(name: &'m str, model: &'m LlamaModel) -> Self {
        let vocab = model.vocab();
        let text = |token| vocab.text(token).and_then(|text| text.to_str().ok()).unwrap_or_default().to_owned();
        let (bos, eos) = (text(vocab.bos()), text(vocab.eos()));
        let source = model.meta_val_str("tokenizer.chat_template").ok().filter(|source| !source.is_empty());
        if source.is_none() {
            tracing::warn!(model = name, "the model has no chat template, ChatML is used");
        }
        let template = compiled(source, &bos, &eos);
        if let Err(error) = &*template {
            tracing::warn!(model = name, error, "the model's chat template cannot be read");
        }
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
        let other = RefCell::default();
        Self { name, model, template, other, bos, eos, controls, control_begins, longest_token }
    }

    pub(super) fn model(&self) -> &'m LlamaModel {
        self.model
    }

    pub(super) fn vocab(&self) -> LlamaVocab<'m> {
        self.model.vocab()
    }

    /// Whether the model thinks before it answers; with a template instead of its own, as that says.
    pub(super) fn thinks(&self, source: Option<&str>) -> bool {
        self.template(source).as_ref().as_ref().is_ok_and(|template| template.thinks)
    }

    fn template(&self, source: Option<&str>) -> Compiled {
        let Some(source) = source else { return Rc::clone(&self.template) };
        let mut other = self.other.borrow_mut();
        match &*other {
            Some((of, compiled)) if of == source => Rc::clone(compiled),
            _ => {
                let compiled = compiled(Some(source.to_owned()), &self.bos, &self.eos);
                *other = Some((source.to_owned(), Rc::clone(&compiled)));
                compiled
            }
        }
    }

    /// The tokens of a request's prompt; at most `limit`.
    pub(super) fn tokens(&self, request: &Request, limit: u32) -> Result<Vec<LlamaToken>, Failure> {
        // Tokenizing is slow: what is far too long is refused by its length.
        let bytes = request.messages.iter().map(|message| message.content.len()).sum::<usize>()
            + request.prompt.as_ref().map_or(0, String::len)
            + request.tools.iter().map(|tool| tool.parameters.len()).sum::<usize>();
        self.check(bytes / self.longest_token, limit, "at least ")?;
        let tokens = match &request.prompt {
            Some(prompt) => self.vocab().tokenize(prompt.replace('\0', "\u{fffd}").as_bytes(), true, false),
            None => {
                let offered = if request.tool_choice == ToolChoice::None { &[][..] } else { &request.tools };
                let source = request.chat_template.as_deref();
                let prompt = self.render(&request.messages, offered, (source, request.thinking))?;
                // Some templates write the token that begins a text, which tokenizing adds.
                let adds = self.vocab().should_add_bos() && !self.bos.is_empty();
                let prompt = prompt.strip_prefix(self.bos.as_str()).filter(|_| adds).unwrap_or(&prompt);
                self.vocab().tokenize(prompt.as_bytes(), true, true)
            }
        };
        self.check(tokens.len(), limit, "")?;
        if tokens.is_empty() {
            return Err(Failure::new(FailureKind::InvalidRequest, "the prompt has no tokens; write something"));
        }
        Ok(tokens)
    }

    /// What a text, tokens or a conversation are to this model.
    pub(super) fn inspect(&self, Inspect { what, chat_template, .. }: Inspect) -> Result<Inspected, Failure> {
        Ok(match what {
            Inspected::Text(text) => {
                let tokens = self.vocab().tokenize(text.replace('\0', "\u{fffd}").as_bytes(), false, false);
                Inspected::Tokens(tokens.into_iter().filter_map(|token| u32::try_from(token.0).ok()).collect())
            }
            Inspected::Tokens(tokens) => {
                let known = u32::try_from(self.model.n_vocab()).unwrap_or_default();
                if let Some(unknown) = tokens.iter().find(|token| **token >= known) {
                    let message = format!("there is no token {unknown}; model {:?} has 0 to {}", self.name, known - 1);
                    return Err(Failure::new(FailureKind::InvalidRequest, message));
                }
                let piece = |token: u32| self.vocab().token_to_piece(LlamaToken(token as i32), false, None);
                let bytes: Vec<u8> = tokens.into_iter().flat_map(piece).collect();
                Inspected::Text(String::from_utf8_lossy(&bytes).into_owned())
            }
            Inspected::Chat(messages, tools) => {
                Inspected::Text(self.render(&messages, &tools, (chat_template.as_deref(), None))?)
            }
        })
    }

    fn check(&self, tokens: usize, limit: u32, about: &str) -> Result<(), Failure> {
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        if tokens <= limit {
            return Ok(());
        }
        let message = format!(
            "the prompt has {about}{tokens} tokens, {about}{} more than the {limit} that model {:?} takes: shorten the conversation",
            tokens - limit,
            self.name
        );
        Err(Failure::new(FailureKind::PromptTooLong { tokens, limit }, message))
    }

    fn render(
        &self,
        messages: &[Message],
        tools: &[Tool],
        (source, thinking): (Option<&str>, Option<bool>),
    ) -> Result<String, Failure> {
        let refused = |why: &dyn std::fmt::Display| {
            let message = format!("the chat template of model {:?} does not take this conversation: {why}", self.name);
            Failure::new(FailureKind::InvalidRequest, message)
        };
        let template = self.template(source);
        let template = template.as_ref().as_ref().map_err(|error| refused(error))?;
        if !tools.is_empty() && !template.knows_tools {
            let message = format!("model {:?} cannot call tools: its chat template does not mention them", self.name);
            return Err(Failure::new(FailureKind::InvalidRequest, message));
        }
        let messages: Vec<Message> = messages.iter().map(|message| self.harmless(message)).collect();
        let tools: Vec<Tool> = tools
            .iter()
            .map(|tool| Tool {
                name: self.plain(&tool.name),
                description: tool.description.as_deref().map(|text| self.plain(text)),
                parameters: self.plain(&tool.parameters),
            })
            .collect();
        template.render(&messages, &tools, thinking).map_err(|error| refused(&error))
    }

    fn harmless(&self, message: &Message) -> Message {
        let call = |call: &ToolCall| ToolCall {
            id: self.plain(&call.id),
            name: self.plain(&call.name),
            arguments: self.plain(&call.arguments),
        };
        Message {
            role: self.plain(&message.role),
            content: self.plain(&message.content),
            tool_calls: message.tool_calls.iter().map(call).collect(),
            tool_call_id: message.tool_call_id.as_deref().map(|id| self.plain(id)),
            name: message.name.as_deref().map(|name| self.plain(name)),
        }
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

fn compiled(source: Option<String>, bos: &str, eos: &str) -> Compiled {
    Rc::new(Template::new(source, bos.to_owned(), eos.to_owned()).map_err(|error| error.to_string()))
}
