//! Reading what a server that speaks OpenAI's API answers, in chunks or whole.

use reqwest::header::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_events::integrations::{FinishReason, ToolCall, Usage};

use super::body::MAX_STOP;
use crate::integrations::{
    provider::{Answer, Delta, Deltas, Fault, Prompt, append},
    upstream::Call,
};

/// Most calls of one answer.
const MAX_CALLS: usize = 128;

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

/// An answer as far as it has come.
pub(super) struct Reading<'a> {
    call: Call<'a>,
    headers: HeaderMap,
    answer: Answer,
    finished: bool,
    cut: bool,
}

impl<'a> Reading<'a> {
    pub fn new(call: Call<'a>, headers: HeaderMap, prompt: &Prompt) -> Self {
        let too_many = prompt.sampling.stop.len() > MAX_STOP;
        let warning =
            too_many.then(|| format!("only the first {MAX_STOP} stop texts were used: the API takes no more"));
        let answer = Answer {
            text: String::new(),
            model: prompt.model.clone(),
            finish_reason: FinishReason::Stop,
            raw_finish_reason: None,
            usage: Usage { prompt_tokens: prompt.estimated_tokens(), estimated: true, ..Usage::default() },
            tool_calls: Vec::new(),
            reasoning: String::new(),
            provider_request_id: None,
            warnings: warning.into_iter().collect(),
        };
        Reading { call, headers, answer, finished: false, cut: false }
    }

    /// One frame of a stream; false when the answer is over.
    pub fn frame(&mut self, data: &[u8], deltas: Deltas<'_>) -> Result<bool, Fault> {
        if data == b"[DONE]" {
            self.finished = true;
            return Ok(false);
        }
        let chunk = serde_json::from_slice(data).map_err(|e| self.call.invalid(&e.to_string()))?;
        self.take(chunk, deltas)?;
        Ok(!self.cut)
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
        let Some(choice) = chunk.choices.into_iter().find(|choice| choice.index == 0) else { return Ok(()) };
        if let Some(said) = choice.delta {
            self.said(said, deltas)?;
        }
        if let Some(reason) = choice.finish_reason {
            self.answer.finish_reason = match reason.as_str() {
                "stop" | "end_turn" => FinishReason::Stop,
                "length" | "max_tokens" => FinishReason::Length,
                "content_filter" | "safety" => FinishReason::ContentFilter,
                "tool_calls" | "function_call" => FinishReason::ToolCalls,
                "incomplete" => FinishReason::Incomplete,
                _ => FinishReason::Error,
            };
            self.answer.raw_finish_reason = Some(reason);
            self.finished = true;
        }
        Ok(())
    }

    fn said(&mut self, said: Said, deltas: Deltas<'_>) -> Result<(), Fault> {
        if let Some(text) = said.reasoning_content.filter(|text| !text.is_empty()) {
            let before = self.answer.reasoning.len();
            // What is cut off of it is not missed.
            append(&mut self.answer.reasoning, &text);
            deltas(Delta::Reasoning(&self.answer.reasoning[before..]));
        }
        if let Some(text) = said.content.filter(|text| !text.is_empty()) {
            let before = self.answer.text.len();
            self.cut = !append(&mut self.answer.text, &text);
            deltas(Delta::Text(&self.answer.text[before..]));
        }
        for (place, piece) in said.tool_calls.into_iter().flatten().enumerate() {
            let index = piece.index.unwrap_or(place);
            if index >= MAX_CALLS {
                return Err(self.call.invalid("it asks for more than 128 tools"));
            }
            if self.answer.tool_calls.len() <= index {
                self.answer.tool_calls.resize_with(index + 1, ToolCall::default);
            }
            let room = self.answer.tool_calls.iter().map(|call| call.arguments.len()).sum::<usize>();
            let call = &mut self.answer.tool_calls[index];
            let (id, name) =
                (piece.id.filter(|id| !id.is_empty()), piece.function.as_ref().and_then(|f| f.name.clone()));
            let arguments = piece.function.and_then(|f| f.arguments).unwrap_or_default();
            if room + arguments.len() > crate::integrations::provider::MAX_ANSWER / 2 {
                return Err(self.call.invalid("the arguments of its tool calls are longer than 64 kB"));
            }
            let delta = Delta::Tool { index, id: id.as_deref(), name: name.as_deref(), arguments: &arguments };
            deltas(delta);
            call.arguments.push_str(&arguments);
            call.id = id.unwrap_or_else(|| std::mem::take(&mut call.id));
            call.name = name.unwrap_or_else(|| std::mem::take(&mut call.name));
        }
        Ok(())
    }

    /// The answer, if it is whole.
    pub fn end(mut self) -> Result<Answer, Fault> {
        if self.cut {
            self.answer.finish_reason = FinishReason::Length;
            self.answer.warnings.push("the answer was longer than 128 kB and is cut off".to_owned());
        } else if !self.finished {
            return Err(self.call.broken());
        }
        if self.answer.tool_calls.iter().any(|call| call.name.is_empty()) {
            return Err(self.call.invalid("it asks for a tool without a name"));
        }
        let usage = &mut self.answer.usage;
        if usage.estimated {
            let calls = self.answer.tool_calls.iter().map(|call| call.arguments.len()).sum::<usize>();
            usage.completion_tokens = ((self.answer.text.len() + calls) as u64).div_ceil(4);
            usage.total_tokens = usage.prompt_tokens + usage.completion_tokens;
        }
        Ok(self.answer)
    }
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
    fn vectors_are_of_one_length_and_those_of_tokens_are_averaged() {
        assert_eq!(vectors(&json!([[1.0, 2.0], [3.0, 4.0]]), 2), Some(vec![vec![1.0, 2.0], vec![3.0, 4.0]]));
        assert_eq!(vectors(&json!([[[1.0, 2.0], [3.0, 4.0]]]), 1), Some(vec![vec![2.0, 3.0]]));
        for wrong in [json!([[1.0], [1.0, 2.0]]), json!([[1.0]]), json!([[]]), json!(["x"]), json!({}), json!([["a"]])]
        {
            assert_eq!(vectors(&wrong, 2), None, "{wrong}");
        }
    }
}
