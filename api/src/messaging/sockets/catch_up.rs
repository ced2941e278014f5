//! A socket gets what it missed, once and in order, before what comes now: from the hub's memory, else from the log.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use socketioxide::extract::SocketRef;
use symbia_events::{Position, Service};
use symbia_nats::log::LogError;
use symbia_projections::{Scope, messaging as model};
use tokio::time::Instant;

use super::{
    MessagingSockets,
    order::{Seated, Seating, Whole},
    told::{Room, Told, position, tenants},
};
use crate::{
    feed::{past::Stretch, position::Place},
    http::{ApiError, ApiResult, Caller},
    socket::{NotSent, Peer, emit, end},
};

/// Who missed more events than this fetches the rest.
const MOST: u64 = 5_000;
/// How long a client may take to make room in its queue.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);
/// Clocks of those who write differ by so much.
const SKEW: time::Duration = time::Duration::minutes(5);
/// The broker accepts so many subjects to be named; a reader of more conversations reads its organizations'.
const SUBJECTS_MAX: usize = 64;

/// Puts something into a client's queue, and waits a while for room in it.
pub(super) async fn patiently(mut send: impl FnMut() -> Result<(), NotSent>) -> Result<(), NotSent> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match send() {
            Err(NotSent::Slow) if Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
            sent => return sent,
        }
    }
}

impl MessagingSockets {
    /// Seats a socket in the rooms of all its conversations. `from`: the last position that it has.
    pub(super) async fn welcome(&self, socket: SocketRef, peer: &Arc<Peer>, from: Option<Place>) {
        match self.seat_everywhere(&socket, peer, from).await {
            Ok(()) => {}
            Err(Unseated::Gone) => {}
            Err(Unseated::Slow) => end(socket, 4008, "slow consumer: connect again and go on from the last position"),
            Err(Unseated::Failed(error)) => {
                tracing::warn!(%error, "a socket cannot be given its conversations");
                end(socket, 1013, "the conversations cannot be read: connect again");
            }
        }
    }

    async fn seat_everywhere(&self, socket: &SocketRef, peer: &Arc<Peer>, from: Option<Place>) -> Result<(), Unseated> {
        let (hub, caller) = (self.hub(), peer.caller());
        let now = hub.enter(socket.clone(), Arc::clone(peer), tenants(&caller)).await?;
        let mut after = from.unwrap_or(now);
        // Another process may be further than this one; nobody is further than the log.
        let feed = &self.messaging.feed;
        if after > now && !feed.holds(Service::Messaging, after).await.map_err(|error| unread(&error))? {
            self.rooms_of(&caller, now).await?;
            self.tell_gap(socket, &caller, None, now).await?;
            after = now;
        }
        loop {
            let rooms = self.rooms_of(&caller, after.max(now)).await?;
            let seating = Seating { sid: peer.id, rooms: rooms.clone(), after, above: 0, whole: Whole::All };
            match hub.seat(seating).await? {
                Seated::Done(_) => return Ok(()),
                Seated::Refused => return Err(Unseated::Gone),
                Seated::Missed(told, place) => {
                    for one in told {
                        patiently(|| one.send(socket)).await?;
                    }
                    after = place;
                }
                Seated::Past(place) => {
                    self.tell_past(socket, &caller, &rooms, after, place).await?;
                    after = place;
                }
            }
        }
    }

    /// The rooms of somebody's conversations, as they are at a place in the log or later.
    async fn rooms_of(&self, caller: &Caller, at: Place) -> Result<Vec<Room>, Unseated> {
        self.shown(at).await?;
        let platform = &self.messaging.platform;
        let orgs: Vec<String> = caller.organizations.iter().map(|org| org.id.clone()).collect();
        let mut tx = platform.read(&Scope::platform()).await?;
        let found = model::memberships(&mut tx, &caller.id, &orgs).await.map_err(ApiError::from)?;
        Ok(found.iter().map(|(org, id)| Room::new(org, id)).collect())
    }

    /// Waits until the read models have come to a place in the log.
    pub(super) async fn shown(&self, at: Place) -> ApiResult<()> {
        let platform = &self.messaging.platform;
        let position = Position { service: Service::Messaging, sequence: at.passed };
        if platform.positions.wait_for(Service::Messaging.name(), position, platform.settings.visible_within).await {
            return Ok(());
        }
        Err(ApiError::unavailable("The read model", 2))
    }

    /// What was stored between two places.
    async fn tell_past(
        &self,
        socket: &SocketRef,
        caller: &Caller,
        rooms: &[Room],
        after: Place,
        until: Place,
    ) -> Result<(), Unseated> {
        let (platform, keys, feed) = (&self.messaging.platform, &self.messaging.keys, &self.messaging.feed);
        let subject = |tenant: &str, id: &str| format!("symbia.evt.messaging.{tenant}.conversation.{id}");
        let subjects: Vec<String> = if rooms.len() <= SUBJECTS_MAX {
            rooms.iter().map(|room| subject(room.tenant(), room.conversation())).collect()
        } else {
            tenants(caller).iter().map(|tenant| subject(tenant.as_str(), "*")).collect()
        };
        if subjects.is_empty() {
            return Ok(());
        }
        let last = if until.events > 0 { until.passed + 1 } else { until.passed };
        let mut past =
            match feed.past(Service::Messaging, subjects, after, last, MOST).await.map_err(|error| unread(&error))? {
                Stretch::Whole(past) => past,
                Stretch::TooLong => return self.tell_gap(socket, caller, Some(after), until).await,
                Stretch::NotHere => return self.tell_gap(socket, caller, None, until).await,
            };
        while let Some(events) = past.next().await.map_err(|error| unread(&error))? {
            for (signed, place) in events {
                let room = Room::new(signed.event.orgid.as_str(), &signed.event.aggregateid);
                if place > until || !rooms.contains(&room) {
                    continue;
                }
                if let Some(told) = Told::of(platform, keys, &signed.event, place).await {
                    patiently(|| told.send(socket)).await?;
                }
            }
        }
        Ok(())
    }

    /// Says what the client has to fetch: more was missed than is sent, or its position is of another log.
    async fn tell_gap(
        &self,
        socket: &SocketRef,
        caller: &Caller,
        after: Option<Place>,
        until: Place,
    ) -> Result<(), Unseated> {
        let since = match after {
            Some(after) => self.messaging.feed.stored_at(Service::Messaging, after.passed).await.map(|at| at - SKEW),
            None => None,
        };
        let orgs: Vec<String> = caller.organizations.iter().map(|org| org.id.clone()).collect();
        let mut tx = self.messaging.platform.read(&Scope::platform()).await?;
        let missed = model::missed_since(&mut tx, &caller.id, &orgs, since).await.map_err(ApiError::from)?;
        drop(tx);
        let gap = json!({ "from": after.map(position), "to": position(until),
            "conversations": missed.into_iter().map(range).collect::<Vec<Value>>() });
        Ok(patiently(|| emit(socket, "gap", &gap)).await?)
    }
}

fn unread(error: &LogError) -> ApiError {
    tracing::warn!(%error, "the log cannot be read for a socket");
    ApiError::unavailable("The event log", 2)
}

/// Messages to fetch.
pub(super) fn range(missed: model::Missed) -> Value {
    let model::Missed { conversation_id, from_sequence, to_sequence } = missed;
    json!({ "conversationId": conversation_id, "fromSequence": from_sequence, "toSequence": to_sequence })
}

/// Why a socket is told nothing.
pub(super) enum Unseated {
    /// It has gone, or may not be here.
    Gone,
    /// It takes things too slowly.
    Slow,
    /// Nobody can tell what to tell it.
    Failed(ApiError),
}

impl From<super::order::Stopped> for Unseated {
    fn from(_: super::order::Stopped) -> Self {
        Unseated::Gone
    }
}

impl From<NotSent> for Unseated {
    fn from(why: NotSent) -> Self {
        match why {
            NotSent::Gone => Unseated::Gone,
            NotSent::Slow => Unseated::Slow,
        }
    }
}

impl From<ApiError> for Unseated {
    fn from(error: ApiError) -> Self {
        Unseated::Failed(error)
    }
}
