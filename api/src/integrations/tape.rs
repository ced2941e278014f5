//! What a reader of a stream has got already. A stream cannot be taken back: when an answer begins anew, or a piece of it got
//! lost, the reader gets no more pieces, and what is missing at the end, if the end goes with what it has.

use symbia_events::integrations::ToolCall;

use super::said::{Answer, Piece};

/// What was sent.
#[derive(Debug, Default)]
pub(super) struct Tape {
    attempt: u32,
    next: u64,
    silent: bool,
    text: String,
    reasoning: String,
    calls: Vec<ToolCall>,
}

impl Tape {
    /// Whether anything was sent.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty() && self.reasoning.is_empty() && self.calls.is_empty()
    }

    /// The reader forgets what it has.
    pub fn forget(&mut self, attempt: u32) {
        *self = Tape { attempt, ..Tape::default() };
    }

    /// Whether a piece is to be sent: it is then on the tape.
    pub fn takes(&mut self, attempt: u32, index: u64, piece: &Piece) -> bool {
        if attempt > self.attempt {
            self.silent |= !self.is_empty();
            (self.attempt, self.next) = (attempt, 0);
        }
        // One that got lost, or one of an attempt that is over.
        if attempt < self.attempt || self.silent || index != self.next {
            self.silent |= attempt == self.attempt;
            return false;
        }
        self.next += 1;
        match piece {
            Piece::Text(text) => self.text.push_str(text),
            Piece::Reasoning(text) => self.reasoning.push_str(text),
            Piece::Tool { index, id, name, arguments } => {
                if self.calls.len() <= *index {
                    self.calls.resize_with(index + 1, ToolCall::default);
                }
                let call = &mut self.calls[*index];
                id.iter().for_each(|id| call.id.clone_from(id));
                name.iter().for_each(|name| call.name.clone_from(name));
                call.arguments.push_str(arguments);
            }
        }
        true
    }

    /// The pieces that are missing for the whole answer; none: what was sent is not its beginning.
    pub fn missing(&self, answer: &Answer) -> Option<Vec<Piece>> {
        let mut missing = Vec::new();
        let reasoning = answer.reasoning.as_deref().unwrap_or_default();
        // Of what it thought, a reader needs nothing that it has not got.
        if let Some(rest) = reasoning.strip_prefix(&*self.reasoning).filter(|rest| !rest.is_empty()) {
            missing.push(Piece::Reasoning(rest.to_owned()));
        }
        let rest = answer.text.strip_prefix(&*self.text)?;
        if !rest.is_empty() {
            missing.push(Piece::Text(rest.to_owned()));
        }
        if self.calls.len() > answer.tool_calls.len() {
            return None;
        }
        for (index, call) in answer.tool_calls.iter().enumerate() {
            let Some(sent) = self.calls.get(index).filter(|sent| !sent.name.is_empty()) else {
                let (id, name) = (Some(call.id.clone()), Some(call.name.clone()));
                missing.push(Piece::Tool { index, id, name, arguments: call.arguments.clone() });
                continue;
            };
            if (&sent.id, &sent.name) != (&call.id, &call.name) {
                return None;
            }
            // A tool without arguments has an empty object in the end.
            let rest = call.arguments.strip_prefix(&*sent.arguments)?.to_owned();
            if !rest.is_empty() {
                missing.push(Piece::Tool { index, id: None, name: None, arguments: rest });
            }
        }
        Some(missing)
    }
}

#[cfg(test)]
mod tests {
    use symbia_events::integrations::{FinishReason, Timing, Usage};

    use super::*;

    fn answer(text: &str) -> Answer {
        Answer {
            provider: "p".into(),
            model: "m".into(),
            text: text.into(),
            reasoning: None,
            tool_calls: Vec::new(),
            finish_reason: FinishReason::Stop,
            raw_finish_reason: None,
            usage: Usage::default(),
            cost: None,
            timing: Timing::default(),
            attempts: 1,
            warnings: Vec::new(),
            provider_request_id: None,
        }
    }

    fn text(text: &str) -> Piece {
        Piece::Text(text.into())
    }

    #[test]
    fn a_lost_piece_is_made_up_for_at_the_end() {
        let mut tape = Tape::default();
        assert!(tape.takes(1, 0, &text("one ")));
        assert!(!tape.takes(1, 2, &text("three")), "two is missing");
        assert_eq!(tape.missing(&answer("one two three")), Some(vec![text("two three")]));
    }

    #[test]
    fn an_answer_that_begins_anew_goes_on_where_it_was_or_is_told_apart() {
        let mut tape = Tape::default();
        assert!(tape.takes(1, 0, &text("one ")) && !tape.takes(2, 0, &text("one ")) && !tape.takes(1, 1, &text("x")));
        assert_eq!(tape.missing(&answer("one two")), Some(vec![text("two")]));
        assert_eq!(tape.missing(&answer("two")), None);
        // Nothing was sent of the first: nobody notices.
        let mut tape = Tape::default();
        assert!(tape.takes(2, 0, &text("one")) && tape.takes(2, 1, &text(" two")));
        assert_eq!(tape.missing(&answer("one two")), Some(Vec::new()));
    }

    #[test]
    fn tool_calls_are_completed_too() {
        let call = |arguments: &str| ToolCall { id: "c1".into(), name: "add".into(), arguments: arguments.into() };
        let (whole, mut tape) = (Answer { tool_calls: vec![call("{\"a\":1}")], ..answer("") }, Tape::default());
        let begun =
            Piece::Tool { index: 0, id: Some("c1".into()), name: Some("add".into()), arguments: "{\"a\"".into() };
        assert!(tape.takes(1, 0, &begun));
        let rest = Piece::Tool { index: 0, id: None, name: None, arguments: ":1}".into() };
        assert_eq!(tape.missing(&whole), Some(vec![rest]));
        let other = ToolCall { id: "c2".into(), ..call("{}") };
        assert_eq!(tape.missing(&Answer { tool_calls: vec![other], ..answer("") }), None);
    }
}
