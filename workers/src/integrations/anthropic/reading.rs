//! Reading the stream of Anthropic's messages.

use reqwest::header::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_events::integrations::{FinishReason, ToolCall, Usage};

use super::body::forces_a_tool;
use crate::integrations::{
    provider::{Answer, Delta, Deltas, Fault, MAX_ANSWER, Prompt, append},
    upstream::Call,
};

/// Most blocks of one answer.
const MAX_BLOCKS: usize = 256;

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    MessageStart {
        message: Message,
    },
    ContentBlockStart {
        index: usize,
        content_block: Block,
    },
    ContentBlockDelta {
        index: usize,
        delta: Piece,
    },
    MessageDelta {
        delta: Ending,
        usage: Option<Counted>,
    },
    MessageStop,
    Error {
        error: Value,
    },
    // ping, content_block_stop, and what is not known yet.
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Message {
    id: Option<String>,
    model: Option<String>,
    usage: Option<Counted>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Text {
        #[serde(default)]
        text: String,
    },
    ToolUse {
        id: String,
        name: String,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Piece {
    TextDelta {
        text: String,
    },
    InputJsonDelta {
        partial_json: String,
    },
    ThinkingDelta {
        thinking: String,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Ending {
    stop_reason: Option<String>,
}

#[derive(Deserialize)]
struct Counted {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
}

/// An answer as far as it has come.
pub(super) struct Reading<'a> {
    call: Call<'a>,
    headers: HeaderMap,
    answer: Answer,
    // Which of the tool calls a block is.
    calls: Vec<Option<usize>>,
    // The one tool stands for the text.
    as_text: bool,
    texts: usize,
    finished: bool,
    cut: bool,
}

impl<'a> Reading<'a> {
    pub fn new(call: Call<'a>, headers: HeaderMap, prompt: &Prompt) -> Self {
        let usage = Usage { prompt_tokens: prompt.estimated_tokens(), estimated: true, ..Usage::default() };
        let answer = Answer { usage, ..Answer::empty(&prompt.model) };
        let as_text = forces_a_tool(prompt);
        Reading { call, headers, answer, calls: Vec::new(), as_text, texts: 0, finished: false, cut: false }
    }

    /// One event of the stream; false when the answer is over.
    pub fn frame(&mut self, data: &[u8], deltas: Deltas<'_>) -> Result<bool, Fault> {
        match serde_json::from_slice(data).map_err(|e| self.call.invalid(&e.to_string()))? {
            Event::MessageStart { message } => {
                self.answer.provider_request_id = message.id;
                self.answer.model = message.model.unwrap_or_else(|| std::mem::take(&mut self.answer.model));
                message.usage.into_iter().for_each(|counted| self.count(&counted));
            }
            Event::ContentBlockStart { index, content_block } => self.begin(index, content_block, deltas)?,
            Event::ContentBlockDelta { index, delta } => self.piece(index, delta, deltas)?,
            Event::MessageDelta { delta, usage } => {
                usage.into_iter().for_each(|counted| self.count(&counted));
                if let Some(reason) = delta.stop_reason {
                    self.answer.finish_reason = match reason.as_str() {
                        "end_turn" | "stop_sequence" => FinishReason::Stop,
                        "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
                        "tool_use" if self.as_text => FinishReason::Stop,
                        "tool_use" => FinishReason::ToolCalls,
                        "refusal" => FinishReason::ContentFilter,
                        "pause_turn" => FinishReason::Incomplete,
                        _ => FinishReason::Error,
                    };
                    self.answer.raw_finish_reason = Some(reason);
                }
            }
            Event::MessageStop => {
                self.finished = true;
                return Ok(false);
            }
            Event::Error { error } => {
                return Err(self.call.classified(None, &self.headers, &json!({ "error": error })));
            }
            Event::Other => {}
        }
        Ok(!self.cut)
    }

    fn begin(&mut self, index: usize, block: Block, deltas: Deltas<'_>) -> Result<(), Fault> {
        if index >= MAX_BLOCKS {
            return Err(self.call.invalid("it has more than 256 blocks"));
        }
        if self.calls.len() <= index {
            self.calls.resize(index + 1, None);
        }
        match block {
            Block::Text { text } => {
                // Blocks of text are told apart by a line.
                if self.texts > 0 {
                    self.text("\n", deltas);
                }
                self.texts += 1;
                self.text(&text, deltas);
            }
            Block::ToolUse { id, name } if !self.as_text => {
                let place = self.answer.tool_calls.len();
                self.calls[index] = Some(place);
                deltas(0, Delta::Tool { index: place, id: Some(&id), name: Some(&name), arguments: "" });
                self.answer.tool_calls.push(ToolCall { id, name, arguments: String::new() });
            }
            Block::ToolUse { .. } | Block::Other => {}
        }
        Ok(())
    }

    fn piece(&mut self, index: usize, piece: Piece, deltas: Deltas<'_>) -> Result<(), Fault> {
        match piece {
            Piece::TextDelta { text } => self.text(&text, deltas),
            Piece::InputJsonDelta { partial_json } if self.as_text => self.text(&partial_json, deltas),
            Piece::InputJsonDelta { partial_json } => {
                let room = self.answer.tool_calls.iter().map(|call| call.arguments.len()).sum::<usize>();
                if room + partial_json.len() > MAX_ANSWER / 2 {
                    return Err(self.call.invalid("the arguments of its tool calls are longer than 64 kB"));
                }
                let place = self.calls.get(index).copied().flatten();
                let place = place.ok_or_else(|| self.call.invalid("arguments without a tool"))?;
                deltas(0, Delta::Tool { index: place, id: None, name: None, arguments: &partial_json });
                self.answer.tool_calls[place].arguments.push_str(&partial_json);
            }
            Piece::ThinkingDelta { thinking } => {
                let before = self.answer.reasoning.len();
                append(&mut self.answer.reasoning, &thinking);
                deltas(0, Delta::Reasoning(&self.answer.reasoning[before..]));
            }
            Piece::Other => {}
        }
        Ok(())
    }

    fn text(&mut self, text: &str, deltas: Deltas<'_>) {
        if text.is_empty() {
            return;
        }
        let before = self.answer.text.len();
        self.cut |= !append(&mut self.answer.text, text);
        deltas(0, Delta::Text(&self.answer.text[before..]));
    }

    // What is read from and written to a cache is not in `input_tokens`.
    fn count(&mut self, counted: &Counted) {
        let usage = &mut self.answer.usage;
        if let Some(input) = counted.input_tokens {
            let cached = counted.cache_read_input_tokens.unwrap_or(0);
            usage.prompt_tokens = input + cached + counted.cache_creation_input_tokens.unwrap_or(0);
            usage.cached_prompt_tokens = counted.cache_read_input_tokens;
        }
        if let Some(output) = counted.output_tokens {
            usage.completion_tokens = output;
        }
        usage.estimated = false;
        usage.total_tokens = usage.prompt_tokens + usage.completion_tokens;
    }

    /// The answer, if it is whole.
    pub fn end(mut self) -> Result<Answer, Fault> {
        if self.cut {
            self.answer.finish_reason = FinishReason::Length;
            self.answer.warnings.push("the answer was longer than 128 kB and is cut off".to_owned());
        } else if !self.finished {
            return Err(self.call.broken());
        }
        for call in &mut self.answer.tool_calls {
            // A tool without arguments.
            if call.arguments.is_empty() {
                "{}".clone_into(&mut call.arguments);
            }
        }
        Ok(self.answer)
    }
}
