//! What happens in the loop, told to who asked: whole, or as server-sent events in the words of the API that asked.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
};

use axum::response::{IntoResponse, Response, sse::Event};
use futures::stream;
use serde_json::Value;
use symbia_events::integrations::ErrorCategory;

use super::{
    Toolset,
    calls::{Made, Planned},
    names::ToolNames,
    outcome::Outcome,
    rounds::{Rounds, Step},
};
use crate::{
    http::{ApiResult, Caller, RequestScope},
    integrations::{
        Integrations,
        ask::Question,
        reply::with_headers,
        said::{Failure, Piece, Said},
        stream::{Dialect, streamed},
        tape::Tape,
    },
};

/// How an API says what becomes of calls.
pub(in crate::integrations) trait ToolDialect: Dialect {
    /// Calls are made.
    fn calls(&mut self, _calls: &[Planned]) -> Vec<Event> {
        Vec::new()
    }
    /// One of them has its end.
    fn called(&mut self, _place: usize, _made: &Made) -> Vec<Event> {
        Vec::new()
    }
    /// The model is asked again, by the request with this id.
    fn asked(&mut self, request_id: &str) -> Vec<Event>;
    /// The end.
    fn over(&mut self, outcome: &Outcome) -> Vec<Event>;
}

impl Integrations {
    /// Asks, has tools called, and answers: as a stream in its dialect, or whole.
    pub(in crate::integrations) async fn reply_with_tools<D: ToolDialect>(
        &self,
        (caller, scope): (&Caller, &RequestScope),
        question: Question,
        toolset: Toolset,
        dialect: impl FnOnce(&Rounds) -> D,
        body: impl FnOnce(&Rounds, &Outcome) -> Value,
    ) -> ApiResult<Response> {
        let streams = question.stream;
        let mut rounds = Rounds::begin(self, caller, scope, question, toolset).await?;
        if streams {
            let dialect = dialect(&rounds);
            return told(rounds, dialect).await;
        }
        let outcome = rounds.end().await.map_err(super::rounds::Trouble::error)?;
        let response = axum::Json(body(&rounds, &outcome)).into_response();
        Ok(with_headers(&rounds.request_id(), &outcome.answer, response))
    }
}

struct Telling<D> {
    rounds: Rounds,
    dialect: D,
    // Of the turn under way.
    tape: Tape,
    shown: Shown,
    events: VecDeque<Event>,
    over: bool,
}

/// The calls of a turn that its reader is shown: those that are not of servers, counted without the others.
#[derive(Debug, Default)]
struct Shown {
    places: HashMap<usize, Option<usize>>,
    count: usize,
}

// What fails before the first piece is an error like any other.
async fn told<D: ToolDialect>(mut rounds: Rounds, dialect: D) -> ApiResult<Response> {
    let mut early = Vec::new();
    while let Some(step) = rounds.next().await {
        let begun = !matches!(step, Step::Said(Said::Started { .. } | Said::Reset { .. }));
        match step {
            Step::Failed(trouble) => return Err(trouble.error()),
            step => early.push(step),
        }
        if begun {
            break;
        }
    }
    let id = rounds.request_id();
    let (tape, shown, events) = (Tape::default(), Shown::default(), VecDeque::new());
    let mut telling = Telling { rounds, dialect, tape, shown, events, over: false };
    early.into_iter().for_each(|step| telling.tell(step));
    let events = stream::unfold(telling, |mut telling| async {
        loop {
            if let Some(event) = telling.events.pop_front() {
                return Some((Ok::<_, Infallible>(event), telling));
            }
            if telling.over {
                return None;
            }
            match telling.rounds.next().await {
                Some(step) => telling.tell(step),
                None => telling.over = true,
            }
        }
    });
    streamed(events, &id)
}

impl<D: ToolDialect> Telling<D> {
    fn tell(&mut self, step: Step) {
        let events = match step {
            Step::Said(Said::Started { attempt, provider, model }) => self.dialect.started(attempt, &provider, &model),
            Step::Said(Said::Piece { attempt, index, choice, piece }) => {
                match self.tape.takes(attempt, index, choice, &piece) {
                    true => self.piece(attempt, choice, piece),
                    false => Vec::new(),
                }
            }
            Step::Said(_) => Vec::new(),
            Step::Answered(answer) => match self.tape.missing(&answer) {
                Some(missing) => {
                    missing.into_iter().flat_map(|(choice, piece)| self.piece(answer.attempts, choice, piece)).collect()
                }
                None => {
                    let message = "the answer began anew and is another one; ask again with the same Idempotency-Key";
                    self.failed(&Failure::new(ErrorCategory::Provider, "stream_reset", message))
                }
            },
            Step::Calls(calls) => self.dialect.calls(&calls),
            Step::Called(place, made) => self.dialect.called(place, &made),
            Step::Asked(request_id) => {
                (self.tape, self.shown) = (Tape::default(), Shown::default());
                self.dialect.asked(&request_id)
            }
            Step::Over(outcome) => {
                self.over = true;
                self.dialect.over(&outcome)
            }
            Step::Failed(trouble) => self.failed(&trouble.failure()),
        };
        self.events.extend(events);
    }

    fn failed(&mut self, failure: &Failure) -> Vec<Event> {
        self.over = true;
        self.dialect.failed(failure)
    }

    fn piece(&mut self, attempt: u32, choice: u32, piece: Piece) -> Vec<Event> {
        match self.shown.as_shown(piece, &self.rounds.toolset().names) {
            Some(piece) => self.dialect.piece(attempt, choice, &piece),
            None => Vec::new(),
        }
    }
}

impl Shown {
    /// A piece as its reader is shown it; none where it is of a server's call.
    fn as_shown(&mut self, piece: Piece, names: &ToolNames) -> Option<Piece> {
        let Piece::Tool { index, id, name, arguments } = piece else { return Some(piece) };
        if let Some(name) = &name {
            let own = names.find(name).is_none();
            let count = &mut self.count;
            self.places.entry(index).or_insert_with(|| {
                own.then(|| {
                    *count += 1;
                    *count - 1
                })
            });
        }
        // Until it is named, nobody knows whose it is.
        let index = self.places.get(&index).copied().flatten()?;
        Some(Piece::Tool { index, id, name, arguments })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::names::tests::names, *};

    #[test]
    fn calls_of_servers_are_not_shown_and_the_others_are_counted_without_them() {
        let (names, mut shown) = (names(8), Shown::default());
        let piece = |index, name: Option<&str>, arguments: &str| Piece::Tool {
            index,
            id: name.map(|_| "c".to_owned()),
            name: name.map(str::to_owned),
            arguments: arguments.to_owned(),
        };
        let text = Piece::Text("It rains.".to_owned());
        assert_eq!(shown.as_shown(text.clone(), &names), Some(text));
        assert_eq!(shown.as_shown(piece(0, Some("weather_get"), ""), &names), None);
        assert_eq!(shown.as_shown(piece(0, None, "{}"), &names), None);
        assert_eq!(shown.as_shown(piece(1, Some("add"), ""), &names), Some(piece(0, Some("add"), "")));
        assert_eq!(shown.as_shown(piece(2, Some("sub"), ""), &names), Some(piece(1, Some("sub"), "")));
        assert_eq!(shown.as_shown(piece(1, None, "{}"), &names), Some(piece(0, None, "{}")));
        assert_eq!(shown.as_shown(piece(3, None, "{}"), &names), None, "nobody knows whose it is");
    }
}
