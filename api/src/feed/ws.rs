//! `GET /events/ws`: a feed over WebSocket.

use std::time::Duration;

use axum::{
    extract::{
        State, WebSocketUpgrade,
        ws::{CloseFrame, Message, WebSocket, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use futures::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Mounted,
    access::{Access, Slot},
    follow::FollowQuery,
    item::{Closing, End, Item},
    stream::{Gone, Outlet, Stream},
};
use crate::http::{ApiError, ApiResult, Query};

/// The subprotocol that we select. A browser that sends its token in another one must offer this as well.
const PROTOCOL: &str = "symbia.feed.v1";
/// Value of `from` that says: the parameters come in the first message.
const IN_MESSAGE: &str = "message";
const FIRST_MESSAGE: Duration = Duration::from_secs(10);
/// Close code after a first message that is not valid.
const BAD_FIRST_MESSAGE: u16 = 4400;
/// Clients have little to say.
const INBOUND_MAX: usize = 64 * 1024;
/// A client that has not answered so many pings is cut.
const UNANSWERED: u32 = 3;

/// Follow events over WebSocket
///
/// Text messages, one JSON item each. The first is `opened` with the cursor where the feed begins. With `from=message` the
/// parameters are the first message that the client sends, as a JSON object. Browsers send their token as a subprotocol:
/// `new WebSocket(url, ["symbia.feed.v1", "bearer." + token])`. Close codes: 1001 the service stops, 1013 try again later,
/// 4001 session ended, 4003 no access any more, 4008 slow consumer, 4009 log replaced, 4400 first message not valid; a
/// `close` item with the cursor to resume from comes before.
#[utoipa::path(get, path = "/events/ws", tag = "Events", params(FollowQuery),
    responses(
        (status = 101, description = "The feed"),
        (status = 400, description = "A parameter is not valid, or the position lies beyond the end of the log"),
        (status = 401, description = "Not authenticated"),
        (status = 426, description = "The request is no WebSocket upgrade"),
        (status = 429, description = "Too many open feeds"),
    ))]
pub(super) async fn follow_ws(
    access: Access,
    State(Mounted { feed, drained }): State<Mounted>,
    headers: HeaderMap,
    query: Query<FollowQuery>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    // Browsers ask no permission before they open a WebSocket, and send cookies along.
    if !feed.0.config.cors.allows(headers.get(header::ORIGIN)) {
        let message = "Pages of this origin may not call this service";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "ORIGIN_NOT_ALLOWED", message)
            .with_hint("Add the origin to CORS_ALLOWED_ORIGINS."));
    }
    let slot = feed.slot(&access)?;
    let Query(query) = query;
    let later = query.from.as_deref() == Some(IN_MESSAGE);
    let upgrade = upgrade.map_err(|_| {
        ApiError::new(StatusCode::UPGRADE_REQUIRED, "UPGRADE_REQUIRED", "This address is for WebSocket connections")
            .with_hint("Use GET /events for server-sent events.")
    })?;
    let upgrade = upgrade.protocols([PROTOCOL]).max_message_size(INBOUND_MAX).max_frame_size(INBOUND_MAX);
    if !later {
        let stream = Stream::open(feed.clone(), drained, access, &query).await?;
        return Ok(upgrade.on_upgrade(async move |socket| {
            let (mut sink, mut inbound) = socket.split();
            run(&feed, stream, &mut sink, &mut inbound, slot).await;
        }));
    }
    Ok(upgrade.on_upgrade(async move |socket| {
        let (mut sink, mut inbound) = socket.split();
        let opened = match first_message(&mut inbound).await {
            Ok(query) => Stream::open(feed.clone(), drained, access, &query).await,
            Err(error) => Err(error),
        };
        match opened {
            Ok(stream) => run(&feed, stream, &mut sink, &mut inbound, slot).await,
            Err(error) => {
                let closing = Closing::refused(BAD_FIRST_MESSAGE, &error);
                close(&mut sink, &mut inbound, closing, feed.0.config.close_timeout).await;
            }
        }
    }))
}

async fn first_message(inbound: &mut SplitStream<WebSocket>) -> ApiResult<FollowQuery> {
    let deadline = Instant::now() + FIRST_MESSAGE;
    loop {
        match timeout_at(deadline, inbound.next()).await {
            Ok(Some(Ok(Message::Text(text)))) => {
                return serde_json::from_str(&text).map_err(|e| {
                    ApiError::invalid(
                        "",
                        "format",
                        format!("must be a JSON object with the parameters of the feed: {e}"),
                    )
                });
            }
            Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => {}
            _ => return Err(ApiError::invalid("", "required", "must come as a text message within 10 s")),
        }
    }
}

async fn run(
    feed: &super::Feed,
    stream: Stream,
    sink: &mut SplitSink<WebSocket, Message>,
    inbound: &mut SplitStream<WebSocket>,
    slot: Slot,
) {
    let config = &feed.0.config;
    let closing = stream.run(&mut Socket(sink), client(inbound, config.heartbeat * UNANSWERED)).await;
    if let Some(closing) = closing {
        close(sink, inbound, closing, config.close_timeout).await;
    }
    drop(slot);
}

/// Tells when the client has closed, or has not answered for too long.
async fn client(inbound: &mut SplitStream<WebSocket>, silence: Duration) -> End {
    // Answers to our pings arrive here; the library answers theirs.
    loop {
        match timeout(silence, inbound.next()).await {
            Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) => return End::Gone,
            Ok(Some(Ok(_))) => {}
            Err(_) => return End::Slow,
        }
    }
}

/// Says the last words and waits, for a while, until the client has them: it may have much to read before.
async fn close(
    sink: &mut SplitSink<WebSocket, Message>,
    inbound: &mut SplitStream<WebSocket>,
    closing: Closing,
    within: Duration,
) {
    let Closing { code, reason, item } = closing;
    let said = async {
        sink.feed(Message::text(item.data)).await?;
        sink.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await?;
        while let Some(Ok(_)) = inbound.next().await {}
        Ok::<(), axum::Error>(())
    };
    if timeout(within, said).await.is_err() {
        tracing::debug!(code, "the client did not take the close frame");
    }
}

struct Socket<'s>(&'s mut SplitSink<WebSocket, Message>);

impl Outlet for Socket<'_> {
    async fn put(&mut self, item: Item) -> Result<(), Gone> {
        self.0.feed(Message::text(item.data)).await.map_err(|_| Gone)
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        self.0.flush().await.map_err(|_| Gone)
    }

    async fn beat(&mut self) -> Result<(), Gone> {
        self.0.feed(Message::Ping(Bytes::new())).await.map_err(|_| Gone)
    }
}
