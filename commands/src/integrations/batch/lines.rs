//! The lines of a batch: what each must have, and what is wrong with a file of them.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;
use symbia_events::integrations::{BatchEndpoint, BatchError};

/// Most lines of a batch.
pub const MAX_LINES: u32 = 50_000;
/// Most bytes of a line: a request with its pictures.
pub const MAX_LINE: usize = 20 * 1024 * 1024;
/// Most errors that are told of a file.
pub const MAX_ERRORS: usize = 50;
/// Longest name of a line.
const LONGEST_ID: usize = 512;

/// A line, of which more is of no interest when it is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchLine {
    /// Its name, by which its result is found.
    pub custom_id: String,
    /// What would be posted to the batch's endpoint.
    pub body: Value,
}

/// A line as it comes; a member that stands there twice is none.
#[derive(Deserialize)]
struct Raw {
    custom_id: Option<Value>,
    method: Option<Value>,
    url: Option<Value>,
    body: Option<Value>,
}

/// What is wrong with a line: a code, the member, and a text.
type Wrong = (&'static str, Option<&'static str>, String);

impl Raw {
    fn read(text: &[u8]) -> Result<Self, Wrong> {
        let invalid = |message: String| ("invalid_json_line", None, message);
        // What stands in an array would do as well.
        if text.first() != Some(&b'{') {
            return Err(invalid("must be a JSON object".to_owned()));
        }
        serde_json::from_slice(text).map_err(|wrong| invalid(format!("not a JSON object of a request: {wrong}")))
    }

    fn has_all(&self) -> Result<(), Wrong> {
        let members =
            [("custom_id", &self.custom_id), ("method", &self.method), ("url", &self.url), ("body", &self.body)];
        match members.into_iter().find(|(_, value)| value.is_none()) {
            Some((param, _)) => Err(("missing_required_parameter", Some(param), format!("'{param}' is missing"))),
            None => Ok(()),
        }
    }

    fn checked(self, path: &str) -> Result<BatchLine, Wrong> {
        self.has_all()?;
        let Some(custom_id) = self.custom_id.as_ref().and_then(Value::as_str) else { return Err(unnamed()) };
        if !(1..=LONGEST_ID).contains(&custom_id.len()) {
            return Err(unnamed());
        }
        if self.method.is_none_or(|method| method != "POST") {
            return Err(("invalid_method", Some("method"), "must be POST".to_owned()));
        }
        if self.url.is_none_or(|url| url != path) {
            return Err(("mismatched_endpoint", Some("url"), format!("must be the batch's endpoint, {path}")));
        }
        match self.body {
            Some(body) if body.is_object() => Ok(BatchLine { custom_id: custom_id.to_owned(), body }),
            _ => Err(("invalid_body", Some("body"), "must be a JSON object".to_owned())),
        }
    }
}

fn unnamed() -> Wrong {
    ("invalid_custom_id", Some("custom_id"), format!("must be a text of 1 to {LONGEST_ID} bytes"))
}

impl BatchLine {
    /// The line of a batch with this endpoint; none where it would not have passed the [check](LineCheck).
    #[must_use]
    pub fn read(endpoint: BatchEndpoint, text: &[u8]) -> Option<Self> {
        Raw::read(text).and_then(|raw| raw.checked(endpoint.path())).ok()
    }
}

/// Looks through the lines of a file, one after another.
#[derive(Debug)]
pub struct LineCheck {
    endpoint: BatchEndpoint,
    seen: HashMap<String, u32>,
    lines: u32,
    errors: Vec<BatchError>,
}

fn error(code: &str, line: u32, param: Option<&str>, message: impl Into<String>) -> BatchError {
    BatchError { code: code.to_owned(), message: message.into(), param: param.map(str::to_owned), line: Some(line) }
}

impl LineCheck {
    /// For lines of an endpoint.
    #[must_use]
    pub fn new(endpoint: BatchEndpoint) -> Self {
        LineCheck { endpoint, seen: HashMap::new(), lines: 0, errors: Vec::new() }
    }

    /// The next line that is not empty; `number` is its place in the file, from 1. Gives whether it is worth going on.
    pub fn line(&mut self, number: u32, text: &[u8]) -> bool {
        self.lines += 1;
        if self.lines > MAX_LINES {
            let message = format!("a batch has at most {MAX_LINES} lines: split the file");
            self.errors.push(error("too_many_tasks", number, None, message));
            return false;
        }
        if let Err(wrong) = self.checked(number, text) {
            self.errors.push(wrong);
        }
        self.errors.len() < MAX_ERRORS
    }

    /// How many lines there are.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn end(self) -> Result<u32, Vec<BatchError>> {
        if self.lines == 0 {
            let (code, message) = ("empty_file".to_owned(), "the input file has no lines".to_owned());
            return Err(vec![BatchError { code, message, param: None, line: None }]);
        }
        if self.errors.is_empty() { Ok(self.lines) } else { Err(self.errors) }
    }

    fn checked(&mut self, number: u32, text: &[u8]) -> Result<(), BatchError> {
        if text.len() > MAX_LINE {
            let message = format!("a line has at most {MAX_LINE} bytes");
            return Err(error("line_too_large", number, None, message));
        }
        let read = Raw::read(text).and_then(|raw| raw.checked(self.endpoint.path()));
        let BatchLine { custom_id, .. } = read.map_err(|(code, param, message)| error(code, number, param, message))?;
        if let Some(first) = self.seen.get(&custom_id) {
            let message = format!("the custom_id is that of line {first} as well");
            return Err(error("duplicate_custom_id", number, Some("custom_id"), message));
        }
        self.seen.insert(custom_id, number);
        Ok(())
    }
}
