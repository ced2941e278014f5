//! `GET /events`: a feed as server-sent events (HTML §9.2).

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures::{StreamExt, stream};
use tokio::sync::{mpsc, oneshot};

use super::{
    Mounted,
    access::{Access, Slot},
    follow::FollowQuery,
    item::{End, Item},
    stream::{Gone, Outlet, Stream},
};
use crate::http::{ApiError, ApiResult, Query};

/// Items between the feed and the connection.
const QUEUE: usize = 16;
/// When a client is to connect again, at the earliest.
const RETRY: Duration = Duration::from_secs(1);

/// Follow events as server-sent events
///
/// The id of each event is the cursor behind it, so that a client that sends it back as `Last-Event-ID` (which counts before
/// `from`) has neither gap nor repetition. Stored events come without an event name; the others are `opened`, `gap`,
/// `quarantined`, `live` and, last, `close`, with the codes of /events/ws.
#[utoipa::path(get, path = "/events", tag = "Events",
    params(FollowQuery, ("Last-Event-ID" = Option<String>, Header, description = "The cursor to resume from")),
    responses(
        (status = 200, description = "The feed", content_type = "text/event-stream", body = String),
        (status = 400, description = "A parameter is not valid, or the position lies beyond the end of the log"),
        (status = 401, description = "Not authenticated"),
        (status = 429, description = "Too many open feeds"),
    ))]
pub(super) async fn follow_sse(
    access: Access,
    State(Mounted { feed, drained }): State<Mounted>,
    headers: HeaderMap,
    query: Query<FollowQuery>,
) -> ApiResult<Response> {
    let slot = feed.slot(&access)?;
    let Query(mut query) = query;
    query.from = resume_from(&headers)?.or(query.from);
    let stream = Stream::open(feed, drained, access, &query).await?;
    Ok(answer(stream, slot, |lines| lines))
}

/// Where a client that connects again wants to go on.
pub(crate) fn resume_from(headers: &HeaderMap) -> ApiResult<Option<String>> {
    let id = headers.get("last-event-id").map(|id| id.to_str().map(str::to_owned)).transpose();
    id.map_err(|_| ApiError::invalid("Last-Event-ID", "format", "must be a cursor"))
}

/// Runs a stream into the answer to a request, through an outlet of choice.
pub(crate) fn answer<O: Outlet + 'static>(stream: Stream, slot: Slot, outlet: impl FnOnce(Lines) -> O) -> Response {
    let (items, queue) = mpsc::channel(QUEUE);
    let (last, said) = oneshot::channel();
    let connection = items.clone();
    let mut outlet = outlet(Lines(items));
    tokio::spawn(async move {
        let client = async {
            connection.closed().await;
            End::Gone
        };
        let closing = stream.run(&mut outlet, client).await;
        if let Some(closing) = closing {
            // Not into the queue, which may be full.
            let _ = last.send(line(closing.item));
        }
    });
    let lines = stream::unfold(queue, |mut queue| async { queue.recv().await.map(|line| (line, queue)) });
    // The place is given back when the connection is gone, not before: what it has not read yet is held until then.
    let end = stream::once(async move {
        let said = said.await;
        drop(slot);
        said.ok()
    });
    let first = Event::default().retry(RETRY);
    let lines = stream::once(async { first }).chain(lines).chain(end.filter_map(std::future::ready));
    let mut response = Sse::new(lines.map(Ok::<_, Infallible>)).into_response();
    // Proxies would hold the items back.
    let unbuffered = (HeaderName::from_static("x-accel-buffering"), axum::http::HeaderValue::from_static("no"));
    response.headers_mut().extend([unbuffered]);
    response
}

fn line(item: Item) -> Event {
    let mut event = Event::default().data(item.data);
    if let Some(name) = item.name {
        event = event.event(name);
    }
    if let Some(cursor) = item.cursor {
        event = event.id(cursor);
    }
    event
}

/// The connection.
pub(crate) struct Lines(mpsc::Sender<Event>);

impl Outlet for Lines {
    async fn put(&mut self, item: Item) -> Result<(), Gone> {
        self.0.send(line(item)).await.map_err(|_| Gone)
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        Ok(())
    }

    async fn beat(&mut self) -> Result<(), Gone> {
        self.0.send(Event::default().comment("heartbeat")).await.map_err(|_| Gone)
    }
}
