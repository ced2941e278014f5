//! Following a tenant's events from a named position, across services: `/events/ws` and `/events` (docs/FEED.md).
//!
//! A feed is read from the log, not from the database, and the API keeps nothing about it: a client resumes on any process
//! with the cursor of the last item it has.

pub(crate) mod access;
mod audience;
pub(crate) mod follow;
pub(crate) mod item;
mod live;
pub(crate) mod past;
pub mod position;
pub(crate) mod source;
pub(crate) mod sse;
pub(crate) mod stream;
mod ws;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{
    Client,
    jetstream::{self, Context},
};
use symbia_events::Service;
use symbia_nats::log::{self, LogError};
use symbia_projections::Keys;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;

pub use audience::{Audience, PrivateConversations, WholeTenant};

use self::{position::Place, source::Source};
use crate::http::{ApiResult, Health, cors::CorsConfig, routes};

/// Sizes and times of feeds.
#[derive(Clone, Debug)]
pub struct FeedConfig {
    /// Which pages may open a WebSocket: the same as may call.
    pub cors: CorsConfig,
    /// Most feeds that one principal has open in this process.
    pub per_principal: usize,
    /// A client that does not take an item, or a chunk of items, within this time is cut.
    pub write_timeout: Duration,
    /// How long a client that is cut may take to read what was sent, and why.
    pub close_timeout: Duration,
    /// Between signs of life.
    pub heartbeat: Duration,
    /// Between looks at whether the caller's session is still good.
    pub recheck: Duration,
}

impl Default for FeedConfig {
    fn default() -> Self {
        Self {
            cors: CorsConfig::default(),
            per_principal: 50,
            write_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            heartbeat: Duration::from_secs(20),
            recheck: Duration::from_secs(1),
        }
    }
}

/// The feeds of one process, whichever of its services they come in at; cheap to clone.
#[derive(Clone)]
pub struct Feed(Arc<Inner>);

struct Inner {
    client: Client,
    jetstream: Context,
    keys: Keys,
    audience: Arc<dyn Audience>,
    config: FeedConfig,
    slots: access::Slots,
    cut: AtomicU64,
}

impl Feed {
    /// Feeds from the log behind `client`, verified with `keys` as they are at the time.
    pub fn new(client: Client, keys: Keys, audience: Arc<dyn Audience>, config: FeedConfig) -> Self {
        let jetstream = jetstream::new(client.clone());
        let (slots, cut) = (access::Slots::default(), AtomicU64::new(0));
        Self(Arc::new(Inner { client, jetstream, keys, audience, config, slots, cut }))
    }

    /// How many feeds are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.0.slots.open()
    }

    /// How many were cut because their clients were slow.
    #[must_use]
    pub fn cut(&self) -> u64 {
        self.0.cut.load(Ordering::Relaxed)
    }

    /// What is stored from now on under these subjects of a service, whoever's it is, and where that begins. For the
    /// platform's own use: nobody's rights are asked.
    ///
    /// # Errors
    /// The log cannot be asked.
    pub(crate) async fn tail(&self, service: Service, subjects: Vec<String>) -> Result<(Place, Source), LogError> {
        let (_, last) = log::head(&self.0.jetstream, service).await?;
        let place = Place::behind(last);
        Ok((place, Source::of(&self.0.jetstream, &self.0.keys, service, place, subjects)))
    }

    fn count_cut(&self) {
        self.0.cut.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn slot(&self, access: &access::Access) -> ApiResult<access::Slot> {
        self.0.slots.take(&access.caller.id, self.0.config.per_principal)
    }
}

/// The feeds as one service mounts them.
#[derive(Clone)]
struct Mounted {
    feed: Feed,
    drained: CancellationToken,
}

/// `/events/ws` and `/events`, for [`crate::http::ServiceApp::root`]. They end when the service of `health` stops.
pub fn routes(feed: &Feed, health: &Health) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(ws::follow_ws))
        .routes(routes!(sse::follow_sse))
        .with_state(Mounted { feed: feed.clone(), drained: health.drained() })
}
