//! Who may stay: a socket outlives the request that opened it, so its credential is looked at again when identity's log
//! names its principal, when it ends, and now and then in any case.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError},
    time::Duration,
};

use axum::http::StatusCode;
use futures::{StreamExt, stream};
use socketioxide::{SocketIo, extract::SocketRef};
use symbia_events::{Position, Service};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::{Peer, Sockets, end};
use crate::{
    feed::source::{Chunk, Entry},
    identity::{TOKENS, named},
};

/// Seconds after which a credential is looked at without a reason.
const SELDOM: i64 = 300;
/// Most looks without a reason in one round.
const ROUND_MAX: usize = 100;
const ROUND: Duration = Duration::from_secs(1);
/// Looks at a time.
const LOOKS: usize = 8;
/// Pause before the log is read again after it could not be.
const PAUSE: Duration = Duration::from_secs(1);

type Connected = (SocketRef, Arc<Peer>);

impl Sockets {
    /// Watches over the connected, from the first of them on until the service stops.
    pub(super) fn watch(&self, drained: CancellationToken, io: SocketIo) {
        self.0.watching.get_or_init(|| {
            let (following, looking) = (self.clone(), self.clone());
            let watching = drained.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = watching.cancelled() => {}
                    () = following.follow() => {}
                    () = looking.look_around() => {}
                }
            });
            tokio::spawn(async move {
                drained.cancelled().await;
                // Clients connect again by themselves, to a process that serves.
                io.close().await;
            });
        });
    }

    async fn follow(&self) {
        loop {
            let subjects = vec![format!("symbia.evt.{}.>", Service::Identity)];
            let Ok((_, mut source)) = self.0.ground.feed.tail(Service::Identity, subjects).await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            // What happened while nobody followed.
            self.look_at(self.connected(|_| true)).await;
            while let Ok(chunk) = source.next().await {
                self.heard(chunk).await;
            }
        }
    }

    async fn heard(&self, chunk: Chunk) {
        let Some((sequence, _)) = chunk.entries.last() else { return };
        let position = Position { service: chunk.service, sequence: *sequence };
        let mut ids = HashSet::new();
        for (_, entry) in &chunk.entries {
            if let Entry::Event(signed, _) = entry {
                named(&signed.event, &mut ids);
            }
        }
        let concerned = self.connected(|peer| peer.is_among(&ids));
        if concerned.is_empty() {
            return;
        }
        let platform = &self.0.ground.platform;
        platform.positions.wait_for(Service::Identity.name(), position, platform.settings.visible_within).await;
        // Before a key that was withdrawn is asked for: the process that did so may not have told this one yet.
        if ids.contains(TOKENS)
            && let Err(error) = platform.load_signing_keys().await
        {
            tracing::debug!(%error, "the keys that tokens are signed with cannot be looked at");
        }
        self.look_at(concerned).await;
    }

    async fn look_around(&self) {
        let mut round = tokio::time::interval(ROUND);
        loop {
            round.tick().await;
            let now = OffsetDateTime::now_utc().unix_timestamp();
            for (socket, peer) in self.connected(|peer| peer.has_ended(now)) {
                self.session_ended(socket, &peer);
            }
            let mut due = self.connected(|peer| peer.checked_at() + SELDOM <= now);
            due.truncate(ROUND_MAX);
            self.look_at(due).await;
        }
    }

    fn connected(&self, which: impl Fn(&Peer) -> bool) -> Vec<Connected> {
        let peers = self.0.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.values().filter(|(_, peer)| which(peer)).cloned().collect()
    }

    async fn look_at(&self, sockets: Vec<Connected>) {
        stream::iter(sockets).for_each_concurrent(LOOKS, |one| self.look_at_one(one)).await;
    }

    async fn look_at_one(&self, (socket, peer): Connected) {
        if peer.is_nobody() {
            return;
        }
        let now = OffsetDateTime::now_utc().unix_timestamp();
        match peer.credential.caller(&self.0.ground.authenticator).await {
            Ok(caller) => {
                if peer.seen(self.shared(caller), now) {
                    self.0.service.changed(socket, &peer).await;
                }
            }
            Err(error) if error.status() == StatusCode::UNAUTHORIZED => {
                tracing::info!(principal = %peer.caller().id, code = error.code(), "a socket's session has ended");
                self.session_ended(socket, &peer);
            }
            // Nobody can tell: a later look does.
            Err(error) => tracing::debug!(%error, "a socket's credential cannot be looked at"),
        }
    }

    fn session_ended(&self, socket: SocketRef, peer: &Peer) {
        if peer.begin_ending() {
            // At once: nothing that comes now is for it.
            self.0.service.closed(peer);
            end(socket, 4001, "the session has ended: log in again");
        }
    }
}
