//! Reading what a server that speaks OpenAI's API answers, in chunks or whole.

use reqwest::header::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_events::integrations::{AnswerChoice, FinishReason, LikelyToken, TokenLogprob, ToolCall, Usage};
use symbia_nats::enquiry::ListedModel;

use super::body::MAX_STOP;
use crate::integrations::{
    provider::{Answer, Delta, Deltas, Fault, MAX_ANSWER, Prompt, append},
    upstream::Call,
};

/// Most calls of one answer.
const MAX_CALLS: usize = 128;
/// Most probabilities of one answer: more do not fit into an event.
const MAX_LIKELY: usize = 100_000;

#[derive(Deserialize)]
struct Chunk {
    id: Option<String>,
    model: Option<String>,
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<VendorUsage>,
    #[serde(default)]
    error: Value,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u32,
    // `message` from a server that does not stream.
    #[serde(alias = "message")]
    delta: Option<Said>,
    logprobs: Option<Logprobs>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Said {
    content: Option<String>,
    // Told by servers of open models, under either name.
    #[serde(alias = "reasoning")]
    reasoning_content: Option<String>,
    tool_calls: Option<Vec<CallPiece>>,
}

#[derive(Deserialize)]
struct Logprobs {
    content: Option<Vec<Token>>,
}

#[derive(Deserialize)]
struct Token {
    token: String,
    #[serde(default)]
    logprob: f64,
    bytes: Option<Vec<u8>>,
    #[serde(default)]
    top_logprobs: Vec<Token>,
}

impl Token {
    fn likely(&self) -> LikelyToken {
        LikelyToken::new(self.bytes.as_deref().unwrap_or(self.token.as_bytes()), self.logprob)
    }

    fn read(self) -> TokenLogprob {
        TokenLogprob { chosen: self.likely(), top: self.top_logprobs.iter().map(Token::likely).collect() }
    }
}

#[derive(Deserialize)]
struct CallPiece {
    index: Option<usize>,
    id: Option<String>,
    function: Option<FunctionPiece>,
}

#[derive(Deserialize)]
struct FunctionPiece {
    name: Option<String>,
    arguments: Option<String>,
}

#[derive(Deserialize)]
struct VendorUsage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
}

/// Answers as far as they have come.
pub(super) struct Reading<'a> {
    call: Call<'a>,
    headers: HeaderMap,
    answer: Answer,
    // One for each answer that is asked for.
    drafts: Vec<Draft>,
    done: bool,
}

/// One answer as far as it has come.
#[derive(Default)]
struct Draft {
    text: String,
    reasoning: String,
    calls: Vec<ToolCall>,
    logprobs: Vec<TokenLogprob>,
    // How many probabilities that are.
    likely: usize,
    // As we name it, and as the server does.
    finish: Option<(FinishReason, String)>,
    begun: bool,
    cut: bool,
}

impl<'a> Reading<'a> {
    pub fn new(call: Call<'a>, headers: HeaderMap, prompt: &Prompt) -> Self {
        let too_many = prompt.sampling.stop.len() > MAX_STOP;
        let warning =
            too_many.then(|| format!("only the first {MAX_STOP} stop texts were used: the API takes no more"));
        let usage = Usage { prompt_tokens: prompt.estimated_tokens(), estimated: true, ..Usage::default() };
        let answer = Answer { usage, warnings: warning.into_iter().collect(), ..Answer::empty(&prompt.model) };
        let drafts = (0..prompt.choices()).map(|_| Draft::default()).collect();
        Reading { call, headers, answer, drafts, done: false }
    }

    /// One frame of a stream; false when the answers are over.
    pub fn frame(&mut self, data: &[u8], deltas: Deltas<'_>) -> Result<bool, Fault> {
        if data == b"[DONE]" {
            self.done = true;
            return Ok(false);
        }
        let chunk = serde_json::from_slice(data).map_err(|e| self.call.invalid(&e.to_string()))?;
        self.take(chunk, deltas)?;
        Ok(!self.drafts.iter().all(|draft| draft.cut))
    }

    /// A chunk, or a whole answer.
    pub fn take(&mut self, chunk: Value, deltas: Deltas<'_>) -> Result<(), Fault> {
        let chunk: Chunk = serde_json::from_value(chunk).map_err(|e| self.call.invalid(&e.to_string()))?;
        if !chunk.error.is_null() {
            return Err(self.call.classified(None, &self.headers, &json!({ "error": chunk.error })));
        }
        self.answer.provider_request_id = self.answer.provider_request_id.take().or(chunk.id);
        if let Some(model) = chunk.model.filter(|model| !model.is_empty()) {
            self.answer.model = model;
        }
        if let Some(usage) = chunk.usage {
            self.answer.usage = Usage {
                prompt_tokens: usage.prompt_tokens,
                completion_tokens: usage.completion_tokens,
                total_tokens: usage.prompt_tokens + usage.completion_tokens,
                cached_prompt_tokens: usage.prompt_tokens_details.and_then(|d| d.cached_tokens),
                estimated: false,
            };
        }
        for choice in chunk.choices {
            // More than were asked for are nobody's.
            if let Some(draft) = self.drafts.get_mut(choice.index as usize) {
                let index = choice.index;
                let mut tell = |delta: Delta<'_>| deltas(index, delta);
                draft.take(choice, &mut tell).map_err(|what| self.call.invalid(what))?;
            }
        }
        Ok(())
    }

    /// The answer, if it is whole.
    pub fn end(mut self) -> Result<Answer, Fault> {
        // A server may give fewer answers than it is asked for; the first it must.
        if let Some(first) = self.drafts.first_mut() {
            first.begun = true;
        }
        self.drafts.retain(|draft| draft.begun);
        if self.drafts.iter().any(|draft| !draft.cut && draft.finish.is_none() && !self.done) {
            return Err(self.call.broken());
        }
        if self.drafts.iter().flat_map(|draft| &draft.calls).any(|call| call.name.is_empty()) {
            return Err(self.call.invalid("it asks for a tool without a name"));
        }
        if self.drafts.iter().any(|draft| draft.cut) {
            self.answer.warnings.push("the answer was longer than 128 kB and is cut off".to_owned());
        }
        let usage = &mut self.answer.usage;
        if usage.estimated {
            usage.completion_tokens = (self.drafts.iter().map(Draft::len).sum::<usize>() as u64).div_ceil(4);
            usage.total_tokens = usage.prompt_tokens + usage.completion_tokens;
        }
        let mut drafts = self.drafts.into_iter();
        let Some(first) = drafts.next() else { return Err(self.call.broken()) };
        let raw_finish_reason = first.finish.as_ref().map(|(_, raw)| raw.clone());
        let AnswerChoice { text, reasoning, tool_calls, finish_reason, logprobs } = first.choice();
        let others = drafts.map(Draft::choice).collect();
        let said = Answer { text, reasoning, tool_calls, finish_reason, logprobs, others, ..self.answer };
        Ok(Answer { raw_finish_reason, ..said })
    }
}

impl Draft {
    fn take(&mut self, choice: Choice, tell: &mut dyn FnMut(Delta<'_>)) -> Result<(), &'static str> {
        self.begun = true;
        let likely = choice.logprobs.and_then(|logprobs| logprobs.content);
        if let Some(tokens) = likely.filter(|_| !self.cut && self.likely < MAX_LIKELY) {
            let tokens: Vec<TokenLogprob> = tokens.into_iter().map(Token::read).collect();
            self.likely += tokens.iter().map(|token| 1 + token.top.len()).sum::<usize>();
            tell(Delta::Logprobs(&tokens));
            self.logprobs.extend(tokens);
        }
        if let Some(said) = choice.delta {
            self.said(said, tell)?;
        }
        if let Some(reason) = choice.finish_reason {
            let known = match reason.as_str() {
                "stop" | "end_turn" => FinishReason::Stop,
                "length" | "max_tokens" => FinishReason::Length,
                "content_filter" | "safety" => FinishReason::ContentFilter,
                "tool_calls" | "function_call" => FinishReason::ToolCalls,
                "incomplete" => FinishReason::Incomplete,
                _ => FinishReason::Error,
            };
            self.finish = Some((known, reason));
        }
        Ok(())
    }

    fn said(&mut self, said: Said, tell: &mut dyn FnMut(Delta<'_>)) -> Result<(), &'static str> {
        if let Some(text) = said.reasoning_content.filter(|text| !text.is_empty()) {
            let before = self.reasoning.len();
            // What is cut off of it is not missed.
            append(&mut self.reasoning, &text);
            tell(Delta::Reasoning(&self.reasoning[before..]));
        }
        if let Some(text) = said.content.filter(|text| !text.is_empty() && !self.cut) {
            let before = self.text.len();
            self.cut = !append(&mut self.text, &text);
            tell(Delta::Text(&self.text[before..]));
        }
        for (place, piece) in said.tool_calls.into_iter().flatten().enumerate() {
            self.call(place, piece, tell)?;
        }
        Ok(())
    }

    fn call(&mut self, place: usize, piece: CallPiece, tell: &mut dyn FnMut(Delta<'_>)) -> Result<(), &'static str> {
        let index = piece.index.unwrap_or(place);
        if index >= MAX_CALLS {
            return Err("it asks for more than 128 tools");
        }
        if self.calls.len() <= index {
            self.calls.resize_with(index + 1, ToolCall::default);
        }
        let room = self.calls.iter().map(|call| call.arguments.len()).sum::<usize>();
        let call = &mut self.calls[index];
        let (id, name) = (piece.id.filter(|id| !id.is_empty()), piece.function.as_ref().and_then(|f| f.name.clone()));
        let arguments = piece.function.and_then(|f| f.arguments).unwrap_or_default();
        if room + arguments.len() > MAX_ANSWER / 2 {
            return Err("the arguments of its tool calls are longer than 64 kB");
        }
        tell(Delta::Tool { index, id: id.as_deref(), name: name.as_deref(), arguments: &arguments });
        call.arguments.push_str(&arguments);
        call.id = id.unwrap_or_else(|| std::mem::take(&mut call.id));
        call.name = name.unwrap_or_else(|| std::mem::take(&mut call.name));
        Ok(())
    }

    fn len(&self) -> usize {
        self.text.len() + self.calls.iter().map(|call| call.arguments.len()).sum::<usize>()
    }

    fn choice(self) -> AnswerChoice {
        let finish_reason = match self.finish {
            _ if self.cut => FinishReason::Length,
            Some((known, _)) => known,
            None => FinishReason::Stop,
        };
        let Draft { text, reasoning, calls, logprobs, .. } = self;
        AnswerChoice { text, reasoning, tool_calls: calls, finish_reason, logprobs }
    }
}

/// The models that can be asked for text or vectors, the newest first. Of OpenAI's own those that are neither somebody's
/// tuned ones nor of another kind.
pub(super) fn models(said: &Value, vendors: bool) -> Option<Vec<ListedModel>> {
    let asked = |id: &str, owner: &str| {
        let family = ["gpt-", "o1", "o3", "o4"].iter().any(|family| id.starts_with(family)) || id.contains("embedding");
        family && ![":ft-", "ft:", "-instruct"].iter().any(|other| id.contains(other)) && owner != "user"
    };
    let model = |model: &Value| -> Option<ListedModel> {
        let id = model["id"].as_str()?;
        let usable = !vendors || asked(id, model["owned_by"].as_str().unwrap_or_default());
        usable.then(|| ListedModel {
            embeds: id.contains("embed"),
            id: id.to_owned(),
            name: None,
            context_tokens: model["context_length"].as_u64().or_else(|| model["max_model_len"].as_u64()),
            created: model["created"].as_i64(),
        })
    };
    let mut models: Vec<ListedModel> = said["data"].as_array()?.iter().filter_map(model).collect();
    models.sort_by_key(|model| std::cmp::Reverse(model.created));
    Some(models)
}

/// So many vectors of one length, none of them empty. A vector for each token of a text is averaged into one.
#[allow(clippy::cast_possible_truncation, reason = "models compute with 32 bits at most")]
pub(super) fn vectors(said: &Value, count: usize) -> Option<Vec<Vec<f32>>> {
    let numbers = |vector: &Value| -> Option<Vec<f32>> {
        vector.as_array()?.iter().map(|number| number.as_f64().map(|n| n as f32)).collect()
    };
    let one = |vector: &Value| -> Option<Vec<f32>> {
        if !vector.get(0)?.is_array() {
            return numbers(vector);
        }
        let tokens: Vec<Vec<f32>> = vector.as_array()?.iter().map(numbers).collect::<Option<_>>()?;
        let mut mean = vec![0f32; tokens.first()?.len()];
        for token in &tokens {
            mean.iter_mut().zip(token).for_each(|(sum, n)| *sum += n / tokens.len() as f32);
        }
        Some(mean)
    };
    let vectors: Vec<Vec<f32>> = said.as_array()?.iter().map(one).collect::<Option<_>>()?;
    let length = vectors.first()?.len();
    (vectors.len() == count && length > 0 && vectors.iter().all(|v| v.len() == length)).then_some(vectors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_that_can_be_asked_are_listed_the_newest_first() {
        let said = json!({ "data": [
            { "id": "gpt-4o", "created": 5, "owned_by": "system" }, { "id": "text-embedding-3-small", "created": 7 },
            { "id": "ft:gpt-4o:me", "created": 9 }, { "id": "whisper-1", "created": 1 }, { "id": "o3", "owned_by": "user" },
        ] });
        let ids = |vendors| models(&said, vendors).unwrap_or_default().into_iter().map(|m| (m.id, m.embeds));
        let expected = [("text-embedding-3-small".to_owned(), true), ("gpt-4o".to_owned(), false)];
        assert!(ids(true).eq(expected));
        assert_eq!(ids(false).count(), 5);
        assert_eq!(models(&json!({ "error": "no" }), true), None);
    }

    #[test]
    fn vectors_are_of_one_length_and_those_of_tokens_are_averaged() {
        assert_eq!(vectors(&json!([[1.0, 2.0], [3.0, 4.0]]), 2), Some(vec![vec![1.0, 2.0], vec![3.0, 4.0]]));
        assert_eq!(vectors(&json!([[[1.0, 2.0], [3.0, 4.0]]]), 1), Some(vec![vec![2.0, 3.0]]));
        for wrong in [json!([[1.0], [1.0, 2.0]]), json!([[1.0]]), json!([[]]), json!(["x"]), json!({}), json!([["a"]])]
        {
            assert_eq!(vectors(&wrong, 2), None, "{wrong}");
        }
    }
}
