//! Joining one conversation's room, with what was said since a sequence (messaging.md §7.7).

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use socketioxide::extract::SocketRef;
use symbia_projections::messaging::{self as model, Anchor, Page};

use super::{
    MessagingSockets,
    catch_up::{Unseated, patiently, range},
    order::{Seated, Seating, Whole},
    seating::OBSERVE,
    told::{Room, frames, position},
};
use crate::{
    http::{ApiError, Caller, principal::PrincipalKind},
    messaging::{
        Messaging,
        access::Place,
        shapes::MessageRow,
        words::{CONTROL, MESSAGE},
    },
    socket::{Peer, emit, refused},
};

/// Messages that a client is given when it joins; what is older it fetches.
const MOST: i64 = 500;

/// What a client may say when it joins.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Since {
    /// Sequence of the last message that it has.
    #[serde(default)]
    since_sequence: Option<u32>,
}

impl MessagingSockets {
    pub(super) async fn join(&self, peer: &Arc<Peer>, socket: &SocketRef, id: &str, since: Since) -> Value {
        match self.joined(peer, socket, id, since.since_sequence.map(i64::from)).await {
            Ok(answer) => answer,
            Err(Unseated::Failed(error)) if matches!(error.code(), "NOT_PARTICIPANT" | "CONVERSATION_NOT_FOUND") => {
                refused("Not a participant", "NOT_PARTICIPANT")
            }
            Err(Unseated::Failed(error)) => refused("Failed to join", error.code()),
            Err(Unseated::Slow | Unseated::Gone) => refused("Not a participant", "NOT_PARTICIPANT"),
        }
    }

    async fn joined(
        &self,
        peer: &Arc<Peer>,
        socket: &SocketRef,
        id: &str,
        since: Option<i64>,
    ) -> Result<Value, Unseated> {
        let (hub, caller) = (self.hub(), peer.caller());
        let place = self.messaging.place(&caller, id).await?;
        let room = Room::new(place.tenant.as_str(), id);
        // What was said meanwhile waits in the hub's memory, so that nothing of it comes before what is older.
        let (mut after, first) = hub.hold(peer.id, room.clone()).await?;
        self.shown(after).await?;
        let mut above = 0;
        if let Some(since) = since {
            let place = self.messaging.place(&caller, id).await?;
            // Without what was told here already.
            let before = (first > 0).then(|| i64::try_from(first).unwrap_or(i64::MAX));
            above = self.tell_since(socket, &caller, &place, since, before).await?.unsigned_abs();
        }
        loop {
            self.shown(after).await?;
            let place = self.messaging.place(&caller, id).await?;
            let seating = Seating { sid: peer.id, rooms: vec![room.clone()], after, above, whole: Whole::One };
            match hub.seat(seating).await? {
                Seated::Done(at) => return self.greeting(&caller, &place, position(at)).await,
                Seated::Refused => return Err(Unseated::Gone),
                Seated::Missed(told, place) => {
                    for one in told {
                        patiently(|| one.send(socket)).await?;
                    }
                    after = place;
                }
                // More happened meanwhile than is remembered.
                Seated::Past(_) => return Err(Unseated::Failed(ApiError::unavailable("The conversation", 1))),
            }
        }
    }

    async fn greeting(&self, caller: &Caller, place: &Place, position: String) -> Result<Value, Unseated> {
        let conversation = &place.conversation;
        let mut tx = self.messaging.platform.read(&Messaging::scope(place, caller)).await?;
        let participants = model::participants(&mut tx, place.tenant.as_str(), &conversation.id).await;
        drop(tx);
        let users = participants.map_err(ApiError::from)?.into_iter().map(|p| p.user_id).collect();
        let online = self.hub().online(place.tenant.clone(), users).await?;
        Ok(json!({ "success": true, "lastSequence": conversation.last_sequence, "position": position,
            "online": online }))
    }

    /// The messages behind a sequence, in order. Gives the last one's.
    async fn tell_since(
        &self,
        socket: &SocketRef,
        caller: &Caller,
        place: &Place,
        since: i64,
        before: Option<i64>,
    ) -> Result<i64, Unseated> {
        let (org, id) = (place.tenant.as_str(), place.conversation.id.as_str());
        let end = before.unwrap_or(place.conversation.last_sequence + 1);
        let from = since.max(end - 1 - MOST);
        if from > since {
            let missed = model::Missed { conversation_id: id.to_owned(), from_sequence: since + 1, to_sequence: from };
            let gap = json!({ "from": null, "to": null, "conversations": [range(missed)] });
            patiently(|| emit(socket, "gap", &gap)).await?;
        }
        let page = Page { after: Some(Anchor::Sequence(from)), limit: MOST, ..Page::default() };
        let mut tx = self.messaging.platform.read(&Messaging::scope(place, caller)).await?;
        let found = model::messages(&mut tx, org, id, &page).await.map_err(ApiError::from)?;
        drop(tx);
        let mut last = since;
        for row in found.unwrap_or_default().into_iter().map(MessageRow::from) {
            if before.is_some_and(|before| row.sequence >= before) {
                break;
            }
            last = row.sequence;
            let name = if row.content_type == "event" { CONTROL } else { MESSAGE };
            for frame in frames(name, &json!(row)) {
                patiently(|| emit(socket, frame.name, &*frame.data)).await?;
            }
        }
        Ok(last)
    }

    /// Lets an agent listen to a conversation of its organization in which it takes no part.
    pub(super) async fn watch(&self, peer: &Arc<Peer>, id: &str) -> Value {
        let caller = peer.caller();
        if caller.kind == PrincipalKind::User || !caller.has_capability(OBSERVE) {
            return refused("Only agents with cap:messaging.observe may watch", "MISSING_CAPABILITY");
        }
        let seated = async {
            let place = self.messaging.found(&caller, id).await?;
            let room = Room::new(place.tenant.as_str(), id);
            let (after, _) = self.hub().hold(peer.id, room.clone()).await?;
            let seating = Seating { sid: peer.id, rooms: vec![room], after, above: 0, whole: Whole::Watched };
            Ok::<_, Unseated>(matches!(self.hub().seat(seating).await?, Seated::Done(_)))
        };
        match seated.await {
            Ok(true) => {
                tracing::info!(principal = %caller.id, conversation = id, "an agent watches a conversation");
                json!({ "success": true })
            }
            Ok(false) | Err(Unseated::Gone | Unseated::Slow) => refused("Failed to watch", "UNAVAILABLE"),
            Err(Unseated::Failed(error)) => refused(error.message(), error.code()),
        }
    }
}
