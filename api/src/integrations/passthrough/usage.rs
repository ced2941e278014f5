//! What an answer of a provider's own API says that it took: its `usage`, in OpenAI's and Anthropic's shapes, in one JSON object
//! or within a stream of events. The answer is passed on as it is; only so much of it is kept as telling takes.

use serde_json::Value;
use symbia_events::integrations::Usage;

/// Longest JSON answer that is read whole; of a longer one the end is.
const WHOLE: usize = 1024 * 1024;
const END: usize = 64 * 1024;
/// Longest event that is read.
const LONGEST_EVENT: usize = 1024 * 1024;
const NAME: &[u8] = b"\"usage\"";

/// Reads an answer as it comes by.
#[derive(Debug)]
pub(super) struct Reader {
    kind: Kind,
    held: Vec<u8>,
    // The rest of a line, or of a body, is passed over.
    skips: bool,
    events: u64,
    told: Told,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Json,
    Events,
    Other,
}

/// What was told so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    prompt: Option<u64>,
    completion: Option<u64>,
    cached: Option<u64>,
    total: Option<u64>,
    model: Option<String>,
}

/// What an answer took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Tokens, where it tells.
    pub usage: Option<Usage>,
    /// The model that it names.
    pub model: Option<String>,
    /// Events of a stream: of one that does not tell, each is about a token.
    pub events: u64,
}

impl Reader {
    /// For an answer of this media type.
    pub fn new(content_type: &str) -> Self {
        let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let kind = match media.as_str() {
            "text/event-stream" => Kind::Events,
            media if media.ends_with("/json") || media.ends_with("+json") => Kind::Json,
            _ => Kind::Other,
        };
        Reader { kind, held: Vec::new(), skips: false, events: 0, told: Told::default() }
    }

    /// The next piece.
    pub fn take(&mut self, piece: &[u8]) {
        match self.kind {
            Kind::Other => {}
            Kind::Json => {
                self.held.extend_from_slice(piece);
                if self.skips || self.held.len() > WHOLE {
                    self.skips = true;
                    let beyond = self.held.len().saturating_sub(END);
                    self.held.drain(..beyond);
                }
            }
            Kind::Events => self.lines(piece),
        }
    }

    fn lines(&mut self, mut piece: &[u8]) {
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n' || *byte == b'\r') {
            self.hold(&piece[..end]);
            let line = std::mem::take(&mut self.held);
            if !std::mem::take(&mut self.skips) {
                self.line(&line);
            }
            piece = &piece[end + 1..];
        }
        self.hold(piece);
    }

    fn hold(&mut self, piece: &[u8]) {
        if self.skips || self.held.len() + piece.len() > LONGEST_EVENT {
            self.skips = true;
            self.held.clear();
        } else {
            self.held.extend_from_slice(piece);
        }
    }

    fn line(&mut self, line: &[u8]) {
        let Some(data) = line.strip_prefix(b"data:") else { return };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            return;
        }
        self.events += 1;
        let first = self.told.model.is_none();
        if first || data.windows(NAME.len()).any(|window| window == NAME) {
            self.told.add(&serde_json::from_slice(data).unwrap_or_default());
        }
    }

    /// What it took, as far as it came by.
    pub fn taken(&self) -> Taken {
        let mut told = self.told.clone();
        match self.kind {
            Kind::Json if !self.skips => told.add(&serde_json::from_slice(&self.held).unwrap_or_default()),
            Kind::Json => told.add(&last_usage(&self.held)),
            Kind::Events | Kind::Other => {}
        }
        Taken { usage: told.usage(), model: told.model, events: self.events }
    }
}

// The object of the last `"usage":` in the end of a JSON text. Within a string, its quotes would be escaped.
fn last_usage(end: &[u8]) -> Value {
    let found = end.windows(NAME.len()).rposition(|window| window == NAME);
    let object = found.and_then(|at| {
        let rest = end[at + NAME.len()..].trim_ascii_start().strip_prefix(b":")?;
        serde_json::Deserializer::from_slice(rest).into_iter::<Value>().next()?.ok()
    });
    object.map(|usage| serde_json::json!({ "usage": usage })).unwrap_or_default()
}

impl Told {
    // A chunk of OpenAI's and the whole of an answer have `usage`, an event of OpenAI's responses has it in `response`, the first
    // of Anthropic's in `message`; what comes later counts.
    fn add(&mut self, said: &Value) {
        for place in [said, &said["response"], &said["message"]] {
            if let Some(model) = place["model"].as_str() {
                self.model.get_or_insert_with(|| model.chars().take(200).collect());
            }
            let usage = &place["usage"];
            if !usage.is_object() {
                continue;
            }
            let number = |name: &str| usage[name].as_u64();
            // What is read from and written to Anthropic's cache is not in `input_tokens`.
            let read = number("cache_read_input_tokens");
            let beside = read.unwrap_or(0) + number("cache_creation_input_tokens").unwrap_or(0);
            let input = number("input_tokens").map(|tokens| tokens.saturating_add(beside));
            self.prompt = number("prompt_tokens").or(input).or(self.prompt);
            self.completion = number("completion_tokens").or(number("output_tokens")).or(self.completion);
            let details = ["prompt_tokens_details", "input_tokens_details"];
            let cached = details.iter().find_map(|name| usage[*name]["cached_tokens"].as_u64());
            self.cached = cached.or(read).or(self.cached);
            self.total = number("total_tokens").or(self.total);
        }
    }

    fn usage(&self) -> Option<Usage> {
        if self.prompt.is_none() && self.completion.is_none() && self.total.is_none() {
            return None;
        }
        let completion_tokens = self.completion.unwrap_or(0);
        let prompt_tokens = self.prompt.unwrap_or_else(|| self.total.unwrap_or(0).saturating_sub(completion_tokens));
        Some(Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens.saturating_add(completion_tokens),
            cached_prompt_tokens: self.cached.filter(|cached| *cached > 0),
            estimated: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // However it is cut into pieces.
    fn taken(kind: &str, answer: &str) -> Taken {
        let whole = {
            let mut reader = Reader::new(kind);
            reader.take(answer.as_bytes());
            reader.taken()
        };
        for size in [1, 7, 64] {
            let mut reader = Reader::new(kind);
            answer.as_bytes().chunks(size).for_each(|piece| reader.take(piece));
            assert_eq!(reader.taken(), whole, "in pieces of {size}");
        }
        whole
    }

    fn tokens(taken: &Taken) -> (u64, u64, Option<u64>) {
        let usage = taken.usage.unwrap();
        assert_eq!(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
        (usage.prompt_tokens, usage.completion_tokens, usage.cached_prompt_tokens)
    }

    #[test]
    fn usage_is_read_in_each_shape() {
        let chat = r#"{"model":"gpt-x","choices":[{"message":{"content":"\"usage\":{}"}}],
            "usage":{"prompt_tokens":12,"completion_tokens":6,"total_tokens":18,"prompt_tokens_details":{"cached_tokens":4}}}"#;
        let read = taken("application/json; charset=utf-8", chat);
        assert_eq!((tokens(&read), read.model.as_deref()), ((12, 6, Some(4)), Some("gpt-x")));
        let vectors = r#"{"data":[],"model":"e","usage":{"prompt_tokens":8,"total_tokens":8}}"#;
        assert_eq!(tokens(&taken("application/json", vectors)), (8, 0, None));
        let messages = r#"{"model":"claude-x","usage":{"input_tokens":3,"cache_read_input_tokens":5,"cache_creation_input_tokens":2,"output_tokens":7}}"#;
        assert_eq!(tokens(&taken("application/json", messages)), (10, 7, Some(5)));
        let chunks = "data: {\"model\":\"gpt-x\",\"choices\":[],\"usage\":null}\n\n\
            data: {\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":6,\"total_tokens\":18}}\r\n\r\n\
            data: [DONE]\n\n";
        let read = taken("text/event-stream", chunks);
        assert_eq!((tokens(&read), read.model.as_deref(), read.events), ((12, 6, None), Some("gpt-x"), 2));
        let claude = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-x\",\
            \"usage\":{\"input_tokens\":11,\"output_tokens\":1}}}\n\n\
            event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":9}}\n\n";
        let read = taken("text/event-stream", claude);
        assert_eq!((tokens(&read), read.model.as_deref()), ((11, 9, None), Some("claude-x")));
        let responses = "data: {\"type\":\"response.completed\",\"response\":{\"model\":\"gpt-y\",\"usage\":\
            {\"input_tokens\":5,\"output_tokens\":2,\"input_tokens_details\":{\"cached_tokens\":1},\"total_tokens\":7}}}\n\n";
        assert_eq!(tokens(&taken("text/event-stream", responses)), (5, 2, Some(1)));
    }

    #[test]
    fn what_is_long_is_not_kept_and_what_says_nothing_tells_nothing() {
        let long = format!(
            "{{\"data\":\"{}\",\"note\":\"\\\"usage\\\":{{\\\"prompt_tokens\\\":999}}\",\"usage\":{{\"prompt_tokens\":4,\"total_tokens\":4}}}}",
            "x".repeat(WHOLE + END)
        );
        let mut reader = Reader::new("application/json");
        long.as_bytes().chunks(10_000).for_each(|piece| {
            reader.take(piece);
            assert!(reader.held.len() <= WHOLE + 10_000);
        });
        assert_eq!(tokens(&reader.taken()), (4, 0, None));
        let mut reader = Reader::new("text/event-stream");
        reader.take(b"data: ");
        (0..400).for_each(|_| reader.take(&[b'y'; 10_000]));
        assert!(reader.held.len() <= LONGEST_EVENT);
        reader.take(b"\ndata: {\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n");
        assert_eq!(tokens(&reader.taken()), (1, 2, None));
        for (kind, answer) in [
            ("application/json", "{\"error\":{}}"),
            ("application/json", "{broken"),
            ("application/json", "[1,2]"),
            ("audio/mpeg", "\"usage\":{\"prompt_tokens\":1}"),
            ("text/event-stream", ": comment\nevent: ping\ndata: {}\n\n"),
            ("text/event-stream", "data: {\"usage\":{\"prompt_tokens\":1"),
        ] {
            assert_eq!(taken(kind, answer).usage, None, "{answer}");
        }
    }
}
