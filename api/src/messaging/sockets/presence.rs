//! Who is online, in whichever process: each tells the others on core NATS who is connected to it, on changes and again and
//! again; what a process that died told ends by itself. Nothing is stored.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use socketioxide::socket::Sid;
use symbia_events::OrgId;
use tokio::time::Instant;

use super::told::Room;

/// How long a word counts, and how often it is said again.
const LASTS: Duration = Duration::from_secs(90);
const AGAIN: Duration = Duration::from_secs(30);
/// Who comes back within this time was not away.
const GRACE: Duration = Duration::from_secs(5);
/// Principals in one message.
const TOGETHER: usize = 200;

/// What somebody says of themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Online,
    Away,
    Busy,
    Offline,
}

/// Somebody, and how they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Presence {
    pub user_id: String,
    pub user_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    pub status: Status,
}

/// What a process tells of a tenant. Without anybody: a question, to which the others answer with who is there.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Word {
    pub process: String,
    pub present: Vec<Presence>,
    /// The socket that it comes from, which is not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}

type Who = (OrgId, String);

struct Local {
    sockets: HashSet<Sid>,
    presence: Presence,
    rooms: HashSet<Room>,
    /// Since when nobody is connected.
    left_at: Option<Instant>,
}

struct Known {
    presence: Presence,
    /// What each process said last, and until when it counts.
    said: HashMap<String, (Status, Instant)>,
}

/// Everybody that is known to be there.
pub(super) struct Presences {
    process: String,
    local: HashMap<Who, Local>,
    known: HashMap<Who, Known>,
    say_again: Instant,
}

/// Something that the other processes are to hear.
pub(super) enum Say {
    Word(OrgId, Word),
    /// Somebody has gone from these rooms.
    Offline(Presence, Vec<Room>),
}

impl Presences {
    pub fn new() -> Self {
        Presences {
            process: uuid::Uuid::now_v7().to_string(),
            local: HashMap::new(),
            known: HashMap::new(),
            say_again: Instant::now() + AGAIN,
        }
    }

    fn word(&self, present: Vec<Presence>, origin: Option<Sid>) -> Word {
        Word { process: self.process.clone(), present, origin: origin.map(|sid| sid.to_string()) }
    }

    /// A question to the other processes.
    pub fn question(&self) -> Word {
        self.word(Vec::new(), None)
    }

    /// A socket of somebody is connected here. A word when they were not online anywhere.
    pub fn came(&mut self, tenant: &OrgId, sid: Sid, presence: Presence, rooms: &HashSet<Room>) -> Option<Word> {
        let who = (tenant.clone(), presence.user_id.clone());
        let elsewhere = self.known.contains_key(&who);
        let local = self.local.entry(who).or_insert_with(|| Local {
            sockets: HashSet::new(),
            presence,
            rooms: HashSet::new(),
            left_at: None,
        });
        let first = local.sockets.is_empty() && local.left_at.is_none();
        local.sockets.insert(sid);
        local.left_at = None;
        local.rooms.extend(rooms.iter().filter(|room| room.tenant() == tenant.as_str()).cloned());
        let presence = local.presence.clone();
        // Also when they are known elsewhere: that process may end before this one.
        first.then(|| self.word(vec![presence], elsewhere.then_some(sid)))
    }

    /// Whether somebody is online, as far as is known.
    pub fn is_online(&self, tenant: &OrgId, user: &str) -> bool {
        let known = self.known.get(&(tenant.clone(), user.to_owned()));
        known.is_some_and(|known| known.presence.status != Status::Offline)
    }

    /// Somebody who is connected here says how they are.
    pub fn says(&mut self, tenant: &OrgId, sid: Sid, user: &str, status: Status) -> Option<Word> {
        let local = self.local.get_mut(&(tenant.clone(), user.to_owned()))?;
        local.presence.status = status;
        let presence = local.presence.clone();
        Some(self.word(vec![presence], Some(sid)))
    }

    /// A socket is gone.
    pub fn went(&mut self, tenant: &OrgId, sid: Sid, user: &str) {
        let Some(local) = self.local.get_mut(&(tenant.clone(), user.to_owned())) else { return };
        local.sockets.remove(&sid);
        if local.sockets.is_empty() {
            local.left_at = Some(Instant::now());
        }
    }

    /// What a process said. Gives who is another way than before.
    pub fn heard(&mut self, tenant: &OrgId, word: Word) -> Vec<Presence> {
        let now = Instant::now();
        let mut changes = Vec::new();
        for presence in word.present {
            let who = (tenant.clone(), presence.user_id.clone());
            if presence.status == Status::Offline {
                let Some(known) = self.known.get_mut(&who) else { continue };
                known.said.remove(&word.process);
                if known.said.is_empty() {
                    self.known.remove(&who);
                    changes.push(presence);
                }
                continue;
            }
            let new = !self.known.contains_key(&who);
            let known = self.known.entry(who);
            let known = known.or_insert_with(|| Known { presence: presence.clone(), said: HashMap::new() });
            let before = known.said.insert(word.process.clone(), (presence.status, now + LASTS));
            // Another process saying for the first time what is known already is no news.
            if new || before.is_some_and(|(status, _)| status != presence.status) {
                known.presence = presence.clone();
                changes.push(presence);
            }
        }
        changes
    }

    /// Answers a question: who is connected here.
    pub fn everybody(&self, tenant: &OrgId) -> Vec<Word> {
        let here: Vec<_> =
            self.local.iter().filter(|((t, _), _)| t == tenant).map(|(_, l)| l.presence.clone()).collect();
        here.chunks(TOGETHER).map(|some| self.word(some.to_vec(), None)).collect()
    }

    /// Whether a word comes from this process.
    pub fn is_own(&self, word: &Word) -> bool {
        word.process == self.process
    }

    /// What is due: who has been away for long enough, what is said again, and whose word counts no more.
    pub fn due(&mut self) -> (Vec<Say>, Vec<(OrgId, Presence)>) {
        let now = Instant::now();
        let mut say = Vec::new();
        let gone = self.local.extract_if(|_, local| local.left_at.is_some_and(|at| at + GRACE <= now));
        let gone: Vec<_> = gone.collect();
        for ((tenant, user), local) in gone {
            let presence = Presence { status: Status::Offline, ..local.presence };
            let known = self.known.get(&(tenant.clone(), user));
            if known.is_none_or(|known| known.said.keys().all(|process| *process == self.process)) {
                say.push(Say::Offline(presence.clone(), local.rooms.into_iter().collect()));
            }
            let word = self.word(vec![presence], None);
            say.push(Say::Word(tenant, word));
        }
        if self.say_again <= now {
            self.say_again = now + AGAIN;
            let tenants: HashSet<OrgId> = self.local.keys().map(|(tenant, _)| tenant.clone()).collect();
            for tenant in tenants {
                say.extend(self.everybody(&tenant).into_iter().map(|word| Say::Word(tenant.clone(), word)));
            }
        }
        let mut silent = Vec::new();
        self.known.retain(|(tenant, _), known| {
            known.said.retain(|_, (_, until)| *until > now);
            if known.said.is_empty() {
                silent.push((tenant.clone(), Presence { status: Status::Offline, ..known.presence.clone() }));
            }
            !known.said.is_empty()
        });
        (say, silent)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{collections::HashSet, time::Duration};

    use socketioxide::socket::Sid;
    use symbia_events::OrgId;

    use super::{Presence, Presences, Say, Status};

    fn ada() -> Presence {
        Presence { user_id: "ada".into(), user_type: "user".into(), agent_id: None, status: Status::Online }
    }

    fn told_away(say: &[Say]) -> bool {
        let away = |say: &Say| matches!(say, Say::Word(_, word) if word.present[0].status == Status::Offline);
        say.iter().any(away)
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_back_in_time_was_not_away_and_the_word_of_a_dead_process_ends() {
        let org: OrgId = "acme".parse().unwrap();
        let (mut here, mut there, sid, rooms) = (Presences::new(), Presences::new(), Sid::new(), HashSet::new());
        let word = here.came(&org, sid, ada(), &rooms).unwrap();
        assert_eq!(there.heard(&org, word), [ada()]);
        assert!(there.is_online(&org, "ada"));

        here.went(&org, sid, "ada");
        tokio::time::advance(Duration::from_secs(4)).await;
        assert!(!told_away(&here.due().0));
        assert!(here.came(&org, sid, ada(), &rooms).is_none(), "she was not away");
        here.went(&org, sid, "ada");
        tokio::time::advance(Duration::from_secs(6)).await;
        let (say, _) = here.due();
        assert!(told_away(&say));

        // Its last words are lost.
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(there.due().1, []);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(there.due().1, [(org.clone(), Presence { status: Status::Offline, ..ada() })]);
        assert!(!there.is_online(&org, "ada"));
    }
}
