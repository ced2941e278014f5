//! What is not stored: who is writing, who is online. It goes over core NATS to the hubs of all processes, this one included.

use serde_json::value::RawValue;
use socketioxide::socket::Sid;
use symbia_events::OrgId;

use super::{
    hub::Running,
    presence::{Presence, Say, Status, Word},
    told::{Room, Sign, live_subject, of_live_subject, raw},
};
use crate::{
    http::{Caller, principal::PrincipalKind},
    socket::emit,
};

impl Running {
    /// A live message of a conversation.
    pub(super) fn live(&mut self, subject: &str, payload: &[u8]) {
        let Some(room) = of_live_subject(subject).filter(|room| self.rooms.contains_key(room)) else { return };
        if let Ok(sign) = serde_json::from_slice::<Sign>(payload) {
            if let (Some(name), Some(data)) = (sign.name(), sign.data()) {
                self.show(&room, name, &data, |sid| sign.is_of(sid));
            }
            return;
        }
        for (name, data) in self.answers.piece(&room, payload) {
            if let Some(data) = raw(&data) {
                self.show(&room, name, &data, |_| false);
            }
        }
    }

    /// Tells a room what is not stored. Who is too slow for it does without.
    pub(super) fn show(&self, room: &Room, name: &str, data: &RawValue, but: impl Fn(Sid) -> bool) {
        for (sid, _) in self.rooms.get(room).into_iter().flatten().filter(|(sid, _)| !but(**sid)) {
            if let Some(seat) = self.seats.get(sid) {
                let _ = emit(&seat.socket, name, data);
            }
        }
    }

    /// What a process tells of who is connected to it.
    pub(super) async fn presence(&mut self, subject: &str, payload: &[u8]) {
        let tenant = subject.strip_prefix("symbia.live.").and_then(|rest| rest.strip_suffix(".presence"));
        let Some(tenant) = tenant.and_then(|tenant| tenant.parse::<OrgId>().ok()) else { return };
        let Ok(word) = serde_json::from_slice::<Word>(payload) else { return };
        if !self.tenants.contains_key(&tenant) {
            return;
        }
        if word.present.is_empty() {
            if !self.presences.is_own(&word) {
                for word in self.presences.everybody(&tenant) {
                    self.publish_word(&tenant, &word).await;
                }
            }
            return;
        }
        let origin = word.origin.clone();
        for presence in self.presences.heard(&tenant, word) {
            self.tell_presence(&tenant, &presence, origin.as_deref());
        }
    }

    fn tell_presence(&self, tenant: &OrgId, presence: &Presence, origin: Option<&str>) {
        for sid in self.tenants.get(tenant).into_iter().flat_map(|tenant| &tenant.seats) {
            let seat = self.seats.get(sid).filter(|seat| seat.open);
            if let Some(seat) = seat.filter(|_| origin.is_none_or(|origin| *sid.to_string() != *origin)) {
                let _ = emit(&seat.socket, "presence:changed", presence);
            }
        }
    }

    pub(super) async fn says(&mut self, sid: Sid, status: Status) {
        let Some(seat) = self.seats.get(&sid) else { return };
        let (user, tenants) = (seat.peer.caller().id.clone(), seat.tenants.clone());
        for tenant in tenants {
            if let Some(word) = self.presences.says(&tenant, sid, &user, status) {
                self.publish_word(&tenant, &word).await;
            }
        }
    }

    pub(super) async fn announce(&mut self, sid: Sid, conversation: &str) {
        let Some(room) = self.room_of(sid, conversation) else { return };
        if let Some(seat) = self.seats.get(&sid) {
            let presence = presence_of(&seat.peer.caller());
            self.publish_sign(&room, &sign("participant:online", &room, &presence, None)).await;
        }
    }

    pub(super) async fn typed(&mut self, sid: Sid, room: &Room, started: bool) {
        let was = self.typing.stopped(room, sid);
        if started {
            self.typing.started(room.clone(), sid);
        }
        if started || was {
            self.publish_typing(sid, room, started).await;
        }
    }

    pub(super) async fn publish_typing(&self, sid: Sid, room: &Room, started: bool) {
        let Some(seat) = self.seats.get(&sid) else { return };
        let kind = if started { "typing:started" } else { "typing:stopped" };
        let presence = presence_of(&seat.peer.caller());
        self.publish_sign(room, &sign(kind, room, &presence, Some(sid))).await;
    }

    pub(super) async fn publish_word(&self, tenant: &OrgId, word: &Word) {
        if let Ok(word) = serde_json::to_vec(word) {
            // Lost with the connection: it is said again.
            let _ = self.platform.nats.publish(format!("symbia.live.{tenant}.presence"), word.into()).await;
        }
    }

    pub(super) async fn publish_sign(&self, room: &Room, sign: &Sign) {
        if let Ok(sign) = serde_json::to_vec(sign) {
            let subject = live_subject(room.tenant(), room.conversation());
            let _ = self.platform.nats.publish(subject, sign.into()).await;
        }
    }

    /// What is due by the clock.
    pub(super) async fn tick(&mut self) {
        for (room, sid) in self.typing.due() {
            self.publish_typing(sid, &room, false).await;
        }
        let (say, silent) = self.presences.due();
        for one in say {
            match one {
                Say::Word(tenant, word) => {
                    self.publish_word(&tenant, &word).await;
                }
                Say::Offline(presence, rooms) => {
                    for room in rooms {
                        self.publish_sign(&room, &sign("participant:offline", &room, &presence, None)).await;
                    }
                }
            }
        }
        for (tenant, presence) in silent {
            self.tell_presence(&tenant, &presence, None);
        }
    }
}

pub(super) fn presence_of(caller: &Caller) -> Presence {
    let user_type = if caller.kind == PrincipalKind::User { "user" } else { "agent" };
    Presence {
        user_id: caller.id.clone(),
        user_type: user_type.to_owned(),
        agent_id: caller.agent_id.clone(),
        status: Status::Online,
    }
}

pub(super) fn sign(kind: &str, room: &Room, of: &Presence, origin: Option<Sid>) -> Sign {
    Sign {
        kind: kind.to_owned(),
        conversation_id: room.conversation().to_owned(),
        user_id: of.user_id.clone(),
        user_type: of.user_type.clone(),
        agent_id: of.agent_id.clone(),
        origin: origin.map(|sid| sid.to_string()),
    }
}
