//! Answers as server-sent events, in the words of the API that asked.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    http::HeaderName,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{Stream, stream};
use symbia_events::integrations::ErrorCategory;

use super::{
    ask::Asked,
    said::{Answer, Failure, Piece, Said},
    tape::Tape,
};
use crate::http::{ApiError, ApiResult};

/// A sign of life in a silent stream.
const ALIVE: Duration = Duration::from_secs(15);

/// How an API says it.
pub(super) trait Dialect: Send + 'static {
    /// Whether its readers can forget what they have.
    const FORGETS: bool = false;
    /// An attempt begins.
    fn started(&mut self, _attempt: u32, _provider: &str, _model: &str) -> Vec<Event> {
        Vec::new()
    }
    /// What came of earlier attempts is to be forgotten.
    fn reset(&mut self, _attempt: u32) -> Vec<Event> {
        Vec::new()
    }
    /// A piece of one of the answers.
    fn piece(&mut self, attempt: u32, choice: u32, piece: &Piece) -> Vec<Event>;
    /// The end, after all pieces.
    fn completed(&mut self, answer: &Answer) -> Vec<Event>;
    /// The end, when there is no answer.
    fn failed(&mut self, failure: &Failure) -> Vec<Event>;
}

struct Telling<D> {
    asked: Asked,
    dialect: D,
    tape: Tape,
    events: VecDeque<Event>,
    over: bool,
}

/// The stream of a request. What fails before its first piece is an error like any other.
pub(super) async fn answer<D: Dialect>(mut asked: Asked, dialect: D) -> ApiResult<Response> {
    let mut early = Vec::new();
    loop {
        match asked.next().await {
            Said::Failed(failure) => return Err(failure.error(&asked.request_id)),
            said @ (Said::Piece { .. } | Said::Completed(_)) => {
                early.push(said);
                break;
            }
            said => early.push(said),
        }
    }
    let id = asked.request_id.clone();
    let cached = early.iter().find_map(|said| match said {
        Said::Completed(answer) if answer.cached => Some(answer.similarity),
        _ => None,
    });
    let mut telling = Telling { asked, dialect, tape: Tape::default(), events: VecDeque::new(), over: false };
    early.into_iter().for_each(|said| telling.tell(said));
    let events = stream::unfold(telling, |mut telling| async {
        loop {
            if let Some(event) = telling.events.pop_front() {
                return Some((Ok::<_, Infallible>(event), telling));
            }
            if telling.over {
                return None;
            }
            let said = telling.asked.next().await;
            telling.tell(said);
        }
    });
    let mut response = streamed(events, &id)?;
    let similarity = cached.flatten().map(|similarity| ("x-symbia-cache-similarity", format!("{similarity:.4}")));
    let cached = cached.map(|_| ("x-symbia-cache", "hit".to_owned()));
    for (name, value) in cached.into_iter().chain(similarity) {
        let value = value.parse().map_err(ApiError::internal)?;
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
    Ok(response)
}

/// The answer that these events are, to the request with this id.
pub(super) fn streamed(
    events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static,
    request_id: &str,
) -> ApiResult<Response> {
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE).text("ping")).into_response();
    for (name, value) in [("x-accel-buffering", "no"), ("x-symbia-request-id", request_id)] {
        let value = value.parse().map_err(ApiError::internal)?;
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
    Ok(response)
}

impl<D: Dialect> Telling<D> {
    fn tell(&mut self, said: Said) {
        let events = match said {
            Said::Started { attempt, provider, model } => self.dialect.started(attempt, &provider, &model),
            Said::Reset { attempt } if D::FORGETS => {
                self.tape.forget(attempt);
                self.dialect.reset(attempt)
            }
            Said::Reset { .. } => Vec::new(),
            Said::Piece { attempt, index, choice, piece } => match self.tape.takes(attempt, index, choice, &piece) {
                true => self.dialect.piece(attempt, choice, &piece),
                false => Vec::new(),
            },
            Said::Completed(answer) => {
                self.over = true;
                match self.tape.missing(&answer) {
                    Some(missing) => {
                        let piece =
                            |(choice, piece): &(u32, Piece)| self.dialect.piece(answer.attempts, *choice, piece);
                        let mut events: Vec<Event> = missing.iter().flat_map(piece).collect();
                        events.extend(self.dialect.completed(&answer));
                        events
                    }
                    None => {
                        let message = "the answer began anew and is another one; ask for it by its id, or again";
                        self.dialect.failed(&Failure::new(ErrorCategory::Provider, "stream_reset", message))
                    }
                }
            }
            Said::Failed(failure) => {
                self.over = true;
                self.dialect.failed(&failure)
            }
        };
        self.events.extend(events);
    }
}
