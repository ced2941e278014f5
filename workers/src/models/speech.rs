//! What a model says, taken apart: text, what it thinks before, and the tools that it calls (in the Hermes form, which the
//! templates of most open models use).

use serde_json::Value;
use symbia_nats::inference::{Piece, ToolCall};
use uuid::Uuid;

use super::text::overlap;

/// Opens a call.
pub(super) const CALL: &str = "<tool_call>";
/// Closes it.
pub(super) const CALL_END: &str = "</tool_call>";
const THINK: &str = "<think>";
const THINK_END: &str = "</think>";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Text,
    Thought,
    Call,
}

/// Takes an answer apart as it comes.
#[derive(Debug)]
pub(super) struct Speech {
    /// Whether calls are looked for.
    tools: bool,
    /// Whether thoughts are.
    thinks: bool,
    part: Part,
    /// What cannot be given out yet.
    held: String,
}

impl Speech {
    /// An answer in which the model may call tools, or think first.
    pub(super) fn new(tools: bool, thinks: bool) -> Self {
        Speech { tools, thinks, part: Part::Text, held: String::new() }
    }

    /// Whether the model is in the middle of a call, and what of it came so far.
    pub(super) fn call(&self) -> Option<&str> {
        (self.part == Part::Call).then_some(self.held.as_str())
    }

    /// Adds text; gives what is complete by it.
    pub(super) fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        while let Some((at, len, next)) = self.turn() {
            let rest = self.held.split_off(at + len);
            let mut done = std::mem::replace(&mut self.held, rest);
            done.truncate(at);
            self.close(done, Some(next), &mut pieces);
            self.part = next;
        }
        let kept = match self.part {
            Part::Call => self.held.len(),
            Part::Text => self.starts().map(|marker| overlap(&self.held, marker)).max().unwrap_or(0),
            Part::Thought => overlap(&self.held, THINK_END),
        };
        // Space before a call is no text.
        let before = &self.held[..self.held.len() - kept];
        let space = if self.part == Part::Text && self.tools { before.len() - before.trim_end().len() } else { 0 };
        let kept = kept + space;
        let rest = self.held.split_off(self.held.len() - kept);
        let ready = std::mem::replace(&mut self.held, rest);
        self.emit(ready, &mut pieces);
        pieces
    }

    /// The answer has ended: what is left.
    pub(super) fn finish(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let rest = std::mem::take(&mut self.held);
        self.close(rest, None, &mut pieces);
        self.part = Part::Text;
        pieces
    }

    fn starts(&self) -> impl Iterator<Item = &'static str> {
        [(self.tools, CALL), (self.thinks, THINK)].into_iter().filter(|(on, _)| *on).map(|(_, marker)| marker)
    }

    /// Where the next marker is, its length, and what follows it.
    fn turn(&self) -> Option<(usize, usize, Part)> {
        let find = |marker: &str, next| self.held.find(marker).map(|at| (at, marker.len(), next));
        match self.part {
            Part::Call => find(CALL_END, Part::Text),
            Part::Thought => find(THINK_END, Part::Text),
            Part::Text => self
                .starts()
                .filter_map(|m| find(m, if m == CALL { Part::Call } else { Part::Thought }))
                .min_by_key(|found| found.0),
        }
    }

    // `next` follows its closing marker; none at the end of the answer.
    fn close(&self, done: String, next: Option<Part>, pieces: &mut Vec<Piece>) {
        match self.part {
            Part::Call => match call(&done) {
                Some(call) => pieces.push(Piece::ToolCall(call)),
                // Not a call after all: nothing of what the model said is lost.
                None => self.text(format!("{CALL}{done}{}", next.map_or("", |_| CALL_END)), pieces),
            },
            _ if next == Some(Part::Call) => self.emit(done.trim_end().to_owned(), pieces),
            _ => self.emit(done, pieces),
        }
    }

    fn emit(&self, text: String, pieces: &mut Vec<Piece>) {
        match self.part {
            Part::Thought if !text.is_empty() => pieces.push(Piece::Reasoning(text)),
            _ => self.text(text, pieces),
        }
    }

    fn text(&self, text: String, pieces: &mut Vec<Piece>) {
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
    }
}

fn call(text: &str) -> Option<ToolCall> {
    let value: Value = serde_json::from_str(text.trim()).ok()?;
    let name = value.get("name")?.as_str()?.to_owned();
    let arguments = match value.get("arguments").or_else(|| value.get("parameters")) {
        None => "{}".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(arguments) => arguments.to_string(),
    };
    Some(ToolCall { id: format!("call_{}", Uuid::new_v4().simple()), name, arguments })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces of a text that comes a character at a time, neighbours of a kind joined.
    fn said(text: &str) -> Vec<Piece> {
        let mut speech = Speech::new(true, true);
        let mut pieces: Vec<Piece> = text.chars().flat_map(|c| speech.push(&c.to_string())).collect();
        pieces.extend(speech.finish());
        pieces.into_iter().fold(Vec::new(), |mut joined, piece| {
            match (joined.last_mut(), piece) {
                (Some(Piece::Text(before)), Piece::Text(text)) => before.push_str(&text),
                (Some(Piece::Reasoning(before)), Piece::Reasoning(text)) => before.push_str(&text),
                (_, Piece::ToolCall(call)) => joined.push(Piece::ToolCall(ToolCall { id: String::new(), ..call })),
                (_, piece) => joined.push(piece),
            }
            joined
        })
    }

    fn call(name: &str, arguments: &str) -> Piece {
        Piece::ToolCall(ToolCall { id: String::new(), name: name.into(), arguments: arguments.into() })
    }

    #[test]
    fn calls_and_thoughts_are_told_from_text() {
        let text = |text: &str| Piece::Text(text.into());
        for (spoken, expected) in [
            ("Hello < you", vec![text("Hello < you")]),
            ("<think>hm</think>Yes", vec![Piece::Reasoning("hm".into()), text("Yes")]),
            (
                "Let me see.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>",
                vec![text("Let me see."), call("add", "{\"a\":1}")],
            ),
            (
                "<tool_call>{\"name\": \"a\"}</tool_call>\n<tool_call>{\"name\": \"b\"}",
                vec![call("a", "{}"), call("b", "{}")],
            ),
            ("<tool_call>no call</tool_call>!", vec![text("<tool_call>no call</tool_call>!")]),
            ("a <tool_", vec![text("a <tool_")]),
        ] {
            assert_eq!(said(spoken), expected, "{spoken}");
        }
    }
}
