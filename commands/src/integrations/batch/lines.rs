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

/// A line.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct BatchLine {
    /// Its name, by which its result is found.
    pub custom_id: String,
    /// `POST`.
    pub method: String,
    /// The path of the batch's endpoint.
    pub url: String,
    /// What would be posted there.
    pub body: Value,
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
        let line: Value = serde_json::from_slice(text)
            .map_err(|wrong| error("invalid_json_line", number, None, format!("not JSON: {wrong}")))?;
        if !line.is_object() {
            return Err(error("invalid_json_line", number, None, "must be a JSON object"));
        }
        for param in ["custom_id", "method", "url", "body"] {
            if line[param].is_null() {
                return Err(error("missing_required_parameter", number, Some(param), format!("'{param}' is missing")));
            }
        }
        let Some(custom_id) = line["custom_id"].as_str().filter(|id| (1..=LONGEST_ID).contains(&id.len())) else {
            let message = format!("must be a text of 1 to {LONGEST_ID} bytes");
            return Err(error("invalid_custom_id", number, Some("custom_id"), message));
        };
        if line["method"] != "POST" {
            return Err(error("invalid_method", number, Some("method"), "must be POST"));
        }
        let path = self.endpoint.path();
        if line["url"] != path {
            let message = format!("must be the batch's endpoint, {path}");
            return Err(error("mismatched_endpoint", number, Some("url"), message));
        }
        if !line["body"].is_object() {
            return Err(error("invalid_body", number, Some("body"), "must be a JSON object"));
        }
        if let Some(first) = self.seen.get(custom_id) {
            let message = format!("the custom_id is that of line {first} as well");
            return Err(error("duplicate_custom_id", number, Some("custom_id"), message));
        }
        self.seen.insert(custom_id.to_owned(), number);
        Ok(())
    }
}
