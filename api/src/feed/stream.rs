//! One open feed: writes what is read, for as long as the caller may have it and takes it.

use std::{
    future::Future,
    sync::{PoisonError, RwLock},
    time::Duration,
};

use axum::http::StatusCode;
use symbia_events::{OrgId, Position, Service};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Feed,
    access::Access,
    follow::{Follow, FollowQuery},
    item::{Closing, End, Item},
    live::Live,
    position::Cursor,
    source::{self, Chunk, Entry, Source},
};
use crate::http::{ApiError, ApiResult, Caller};

/// How long one question to the directory may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a feed goes on while the directory cannot be asked.
const DIRECTORY_GRACE: Duration = Duration::from_secs(30);

/// The client's end of a feed. What `put` has taken goes out before anything that comes later, also when the caller gives up
/// waiting for `flush`; an error means that the client went.
pub(crate) trait Outlet: Send {
    fn put(&mut self, item: Item) -> impl Future<Output = Result<(), Gone>> + Send;
    fn flush(&mut self) -> impl Future<Output = Result<(), Gone>> + Send;
    fn beat(&mut self) -> impl Future<Output = Result<(), Gone>> + Send;
}

/// The client went.
pub(crate) struct Gone;

/// A feed that is ready to run.
pub(crate) struct Stream {
    feed: Feed,
    access: Access,
    caller: RwLock<Caller>,
    tenant: OrgId,
    drained: CancellationToken,
    opening: Vec<Item>,
    cursor: Cursor,
    source: Source,
    live: Option<Live>,
}

impl Stream {
    /// Checks what is asked for and starts reading.
    pub async fn open(feed: Feed, drained: CancellationToken, access: Access, query: &FollowQuery) -> ApiResult<Self> {
        let tenant = access.tenant(query.tenant.as_deref(), query.reason.as_deref())?;
        let live = query.live.then_some(">");
        Self::of(feed, drained, access, tenant, query, live).await
    }

    /// The same for a tenant that the caller was admitted to otherwise; `live` is which of its live subjects to follow.
    pub async fn of(
        feed: Feed,
        drained: CancellationToken,
        access: Access,
        tenant: OrgId,
        query: &FollowQuery,
        live: Option<&str>,
    ) -> ApiResult<Self> {
        let follow = Follow::new(query)?;
        // First, so that nothing is missed between the beginning of the one and of the other.
        let live = match live {
            Some(which) => Some(Live::subscribe(&feed.0.client, &tenant, which).await.map_err(|error| {
                tracing::warn!(%error, "a feed cannot begin");
                ApiError::unavailable("The event bus", 2)
            })?),
            None => None,
        };
        let (cursor, gaps) = source::begin(&feed.0.jetstream, &follow).await?;
        let source = Source::start(&feed.0.jetstream, &feed.0.keys, &tenant, &follow, &cursor);
        let mut opening = vec![Item::opened(&tenant, &cursor)];
        opening.extend(gaps.iter().map(|gap| Item::gap(gap, &cursor)));
        tracing::info!(principal = %access.caller.id, %tenant, %cursor, "feed opened");
        let caller = RwLock::new(access.caller.clone());
        Ok(Self { feed, access, caller, tenant, drained, opening, cursor, source, live })
    }

    /// Where it begins in a service's stream.
    pub fn beginning(&self, service: Service) -> Position {
        Position { service, sequence: self.cursor.get(service).unwrap_or_default().passed }
    }

    /// Runs until the end, and tells what is to be said last. `client` tells when
    /// the client has gone, or seems to have.
    pub async fn run(self, outlet: &mut impl Outlet, client: impl Future<Output = End> + Send) -> Option<Closing> {
        let Self { feed, access, caller, tenant, drained, opening, mut cursor, source, live } = self;
        let mut pump = Pump { feed: &feed, caller: &caller, cursor: &mut cursor, source, live };
        let end = tokio::select! {
            biased;
            () = drained.cancelled() => End::Stopping,
            end = no_longer_admitted(&feed, &access, &tenant, &caller) => end,
            end = client => end,
            end = pump.run(opening, outlet) => end,
        };
        drop(pump);
        if end == End::Slow {
            feed.count_cut();
        }
        tracing::info!(principal = %access.caller.id, %tenant, %cursor, ?end, "feed ended");
        Closing::new(end, &cursor)
    }
}

struct Pump<'s> {
    feed: &'s Feed,
    caller: &'s RwLock<Caller>,
    /// Behind the last item that the outlet took.
    cursor: &'s mut Cursor,
    source: Source,
    live: Option<Live>,
}

impl Pump<'_> {
    async fn run(&mut self, opening: Vec<Item>, outlet: &mut impl Outlet) -> End {
        match self.pass_on(opening, outlet).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn pass_on(&mut self, opening: Vec<Item>, outlet: &mut impl Outlet) -> Result<std::convert::Infallible, End> {
        let heartbeat = self.feed.0.config.heartbeat;
        let mut beat = interval_at(Instant::now() + heartbeat, heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for item in opening {
            self.in_time(outlet.put(item)).await?;
        }
        self.in_time(outlet.flush()).await?;
        loop {
            tokio::select! {
                chunk = self.source.next() => {
                    let chunk = chunk.map_err(|_| End::LogReplaced)?;
                    self.chunk(chunk, outlet).await?;
                }
                message = next(&mut self.live) => {
                    let (subject, payload) = message.ok_or(End::Slow)?;
                    if self.audience(|audience, caller| audience.may_hear(caller, &subject)) {
                        self.in_time(outlet.put(Item::live(&subject, &payload))).await?;
                    }
                }
                _ = beat.tick() => self.in_time(outlet.beat()).await?,
            }
            self.in_time(outlet.flush()).await?;
        }
    }

    async fn chunk(&mut self, chunk: Chunk, outlet: &mut impl Outlet) -> Result<(), End> {
        let service = chunk.service;
        for (sequence, entry) in chunk.entries {
            let mut cursor = self.cursor.clone();
            let item = match entry {
                Entry::Event(event, _) if !self.audience(|a, caller| a.may_see(caller, &event.event)) => continue,
                Entry::Event(event, place) => {
                    cursor.set(service, place);
                    Item::event(service, sequence, &cursor, &event)
                }
                Entry::Quarantined => {
                    cursor.set(service, super::position::Place::behind(sequence));
                    Item::quarantined(service, sequence, &cursor)
                }
            };
            self.in_time(outlet.put(item)).await?;
            *self.cursor = cursor;
        }
        Ok(())
    }

    fn audience(&self, may: impl FnOnce(&dyn super::Audience, &Caller) -> bool) -> bool {
        may(self.feed.0.audience.as_ref(), &self.caller.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn in_time(&self, write: impl Future<Output = Result<(), Gone>>) -> Result<(), End> {
        match timeout(self.feed.0.config.write_timeout, write).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Gone)) => Err(End::Gone),
            Err(_) => Err(End::Slow),
        }
    }
}

async fn next(live: &mut Option<Live>) -> Option<(String, bytes::Bytes)> {
    match live {
        Some(live) => live.next().await,
        None => std::future::pending().await,
    }
}

/// Asks again and again whether the caller may still follow, keeps what is known of it fresh, and ends when it may not.
async fn no_longer_admitted(feed: &Feed, access: &Access, tenant: &OrgId, known: &RwLock<Caller>) -> End {
    let mut asked = Instant::now();
    let recheck = feed.0.config.recheck;
    loop {
        tokio::time::sleep(recheck).await;
        match timeout(CHECK_TIMEOUT, access.check(tenant)).await {
            Ok(Ok(caller)) => {
                *known.write().unwrap_or_else(PoisonError::into_inner) = caller;
                asked = Instant::now();
            }
            Ok(Err(error)) if error.status() == StatusCode::UNAUTHORIZED => return End::SessionEnded,
            Ok(Err(error)) if error.status() == StatusCode::FORBIDDEN => return End::AccessLost,
            Ok(Err(_)) | Err(_) if asked.elapsed() > DIRECTORY_GRACE => return End::DirectoryDown,
            Ok(Err(_)) | Err(_) => {}
        }
    }
}
