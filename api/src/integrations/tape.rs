//! What a reader of a stream has got already. A stream cannot be taken back: when an answer begins anew, or a piece of it got
//! lost, the reader gets no more pieces, and what is missing at the end, if the end goes with what it has.

use symbia_events::integrations::{AnswerChoice, ToolCall};

use super::said::{Answer, Piece};

/// Most answers of a request.
const MOST: u32 = 128;

/// What was sent.
#[derive(Debug, Default)]
pub(super) struct Tape {
    attempt: u32,
    next: u64,
    silent: bool,
    // Of each answer.
    sent: Vec<Sent>,
}

/// What was sent of one answer.
#[derive(Debug, Default)]
struct Sent {
    text: String,
    reasoning: String,
    calls: Vec<ToolCall>,
    logprobs: usize,
}

impl Tape {
    /// The reader forgets what it has.
    pub fn forget(&mut self, attempt: u32) {
        *self = Tape { attempt, ..Tape::default() };
    }

    /// Whether a piece is to be sent: it is then on the tape.
    pub fn takes(&mut self, attempt: u32, index: u64, choice: u32, piece: &Piece) -> bool {
        if attempt > self.attempt {
            self.silent |= !self.sent.is_empty();
            (self.attempt, self.next) = (attempt, 0);
        }
        // One that got lost, or one of an attempt that is over.
        if attempt < self.attempt || self.silent || index != self.next || choice >= MOST {
            self.silent |= attempt == self.attempt;
            return false;
        }
        self.next += 1;
        let choice = choice as usize;
        if self.sent.len() <= choice {
            self.sent.resize_with(choice + 1, Sent::default);
        }
        self.sent[choice].add(piece);
        true
    }

    /// The pieces that are missing for the whole answers; none: what was sent is not their beginning.
    pub fn missing(&self, answer: &Answer) -> Option<Vec<(u32, Piece)>> {
        let (mut missing, nothing) = (Vec::new(), Sent::default());
        for (place, choice) in (0u32..).zip(answer.choices()) {
            let sent = self.sent.get(place as usize).unwrap_or(&nothing);
            missing.extend(sent.missing(choice)?.into_iter().map(|piece| (place, piece)));
        }
        (self.sent.len() <= 1 + answer.others.len()).then_some(missing)
    }
}

impl Sent {
    fn add(&mut self, piece: &Piece) {
        match piece {
            Piece::Text(text) => self.text.push_str(text),
            Piece::Reasoning(text) => self.reasoning.push_str(text),
            Piece::Logprobs(tokens) => self.logprobs += tokens.len(),
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
    }

    fn missing(&self, answer: &AnswerChoice) -> Option<Vec<Piece>> {
        let mut missing = Vec::new();
        // Of what it thought, a reader needs nothing that it has not got.
        if let Some(rest) = answer.reasoning.strip_prefix(&*self.reasoning).filter(|rest| !rest.is_empty()) {
            missing.push(Piece::Reasoning(rest.to_owned()));
        }
        if let Some(rest) = answer.logprobs.get(self.logprobs..).filter(|rest| !rest.is_empty()) {
            missing.push(Piece::Logprobs(rest.to_vec()));
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
    use symbia_events::integrations::{FinishReason, Timing, TokenLogprob, Usage};

    use super::*;

    fn choice(text: &str) -> AnswerChoice {
        AnswerChoice {
            text: text.into(),
            reasoning: String::new(),
            tool_calls: Vec::new(),
            finish_reason: FinishReason::Stop,
            logprobs: Vec::new(),
        }
    }

    fn answer(first: AnswerChoice) -> Answer {
        Answer {
            provider: "p".into(),
            model: "m".into(),
            first,
            others: Vec::new(),
            raw_finish_reason: None,
            usage: Usage::default(),
            cost: None,
            timing: Timing::default(),
            attempts: 1,
            warnings: Vec::new(),
            provider_request_id: None,
            cached: false,
            similarity: None,
        }
    }

    fn text(text: &str) -> Piece {
        Piece::Text(text.into())
    }

    #[test]
    fn a_lost_piece_is_made_up_for_at_the_end() {
        let mut tape = Tape::default();
        assert!(tape.takes(1, 0, 0, &text("one ")));
        assert!(!tape.takes(1, 2, 0, &text("three")), "two is missing");
        assert_eq!(tape.missing(&answer(choice("one two three"))), Some(vec![(0, text("two three"))]));
    }

    #[test]
    fn an_answer_that_begins_anew_goes_on_where_it_was_or_is_told_apart() {
        let mut tape = Tape::default();
        assert!(tape.takes(1, 0, 0, &text("one ")));
        assert!(!tape.takes(2, 0, 0, &text("one ")) && !tape.takes(1, 1, 0, &text("x")));
        assert_eq!(tape.missing(&answer(choice("one two"))), Some(vec![(0, text("two"))]));
        assert_eq!(tape.missing(&answer(choice("two"))), None);
        // Nothing was sent of the first: nobody notices.
        let mut tape = Tape::default();
        assert!(tape.takes(2, 0, 0, &text("one")) && tape.takes(2, 1, 0, &text(" two")));
        assert_eq!(tape.missing(&answer(choice("one two"))), Some(Vec::new()));
    }

    #[test]
    fn tool_calls_are_completed_too() {
        let call = |arguments: &str| ToolCall { id: "c1".into(), name: "add".into(), arguments: arguments.into() };
        let whole = answer(AnswerChoice { tool_calls: vec![call("{\"a\":1}")], ..choice("") });
        let mut tape = Tape::default();
        let begun =
            Piece::Tool { index: 0, id: Some("c1".into()), name: Some("add".into()), arguments: "{\"a\"".into() };
        assert!(tape.takes(1, 0, 0, &begun));
        let rest = Piece::Tool { index: 0, id: None, name: None, arguments: ":1}".into() };
        assert_eq!(tape.missing(&whole), Some(vec![(0, rest)]));
        let other = ToolCall { id: "c2".into(), ..call("{}") };
        assert_eq!(tape.missing(&answer(AnswerChoice { tool_calls: vec![other], ..choice("") })), None);
    }

    #[test]
    fn each_of_several_answers_is_completed_with_its_probabilities() {
        let mut tape = Tape::default();
        let likely = vec![TokenLogprob::default(); 2];
        assert!(tape.takes(1, 0, 1, &Piece::Logprobs(likely[..1].to_vec())) && tape.takes(1, 1, 1, &text("b")));
        let second = AnswerChoice { logprobs: likely.clone(), ..choice("bc") };
        let whole = Answer { others: vec![second], ..answer(choice("a")) };
        let expected = vec![(0, text("a")), (1, Piece::Logprobs(likely[1..].to_vec())), (1, text("c"))];
        assert_eq!(tape.missing(&whole), Some(expected));
        assert_eq!(tape.missing(&answer(choice("a"))), None, "a second one was begun");
    }
}
