//! Whom tokens stand for, kept for moments: a service is asked about the same few tokens again and again.
//!
//! What is kept is dropped as soon as the log says that something about it changed: the identity stream is followed for that.
//! An entry counts only while nothing has happened to its user, session, grants or organizations since the read models that it
//! was made of, and while what is followed is no older than they are. Should all of that fail, it is forgotten after [`KEPT`].

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream::{
    self,
    consumer::{DeliverPolicy, pull},
};
use futures::StreamExt;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use symbia_events::{AggregateRef, Position, Service};
use time::OffsetDateTime;

use super::tokens::Claims;
use crate::{http::Principal, platform::Platform};

const KEPT: Duration = Duration::from_secs(5);
const ENTRIES: u64 = 100_000;
/// Changes kept in mind; beyond, all entries are forgotten at once.
const CHANGES: usize = 100_000;
const AGAIN: Duration = Duration::from_secs(1);
const FOLDED_WITHIN: Duration = Duration::from_secs(30);
const PROJECTION: &str = "identity";

/// Principals of tokens that were looked up a moment ago. Cheap to clone.
#[derive(Clone)]
pub(super) struct Recent(Arc<Inner>);

struct Inner {
    entries: moka::sync::Cache<[u8; 32], Arc<Entry>>,
    changes: RwLock<Changes>,
    followed: AtomicBool,
}

struct Entry {
    principal: Principal,
    claims: Claims,
    about: Vec<String>,
    reading: Reading,
}

/// What was known before something was read.
#[derive(Clone, Copy)]
pub(super) struct Reading {
    epoch: u64,
    /// The read models showed at least this sequence.
    as_of: u64,
}

/// What happened to whom, by `<kind>/<id>`.
#[derive(Default)]
struct Changes {
    /// Goes up when all that was known is of no use any more.
    epoch: u64,
    /// Up to where the log was followed; `None` while it is not.
    head: Option<u64>,
    /// What the read models showed when following began.
    folded: u64,
    last: HashMap<String, u64>,
}

impl Changes {
    fn reading(&self, folded: Option<u64>) -> Option<Reading> {
        let as_of = folded.unwrap_or_default().max(self.folded);
        self.head.is_some_and(|head| head >= as_of).then_some(Reading { epoch: self.epoch, as_of })
    }

    fn holds(&self, entry: &Entry) -> bool {
        let unchanged = |what: &String| self.last.get(what).is_none_or(|sequence| *sequence <= entry.reading.as_of);
        entry.reading.epoch == self.epoch && entry.about.iter().all(unchanged)
    }

    fn begin(&mut self, head: u64, folded: u64) {
        *self = Changes { epoch: self.epoch + 1, head: Some(head), folded, last: HashMap::new() };
    }

    fn note(&mut self, sequence: u64, about: Vec<String>) {
        // Another log in its place begins anew.
        if self.last.len() > CHANGES || self.head.is_some_and(|head| sequence < head) {
            self.begin(sequence, 0);
        }
        self.head = Some(sequence);
        self.last.extend(about.into_iter().map(|what| (what, sequence)));
    }
}

impl Default for Recent {
    fn default() -> Self {
        let entries = moka::sync::Cache::builder().max_capacity(ENTRIES).time_to_live(KEPT).build();
        Recent(Arc::new(Inner { entries, changes: RwLock::default(), followed: AtomicBool::new(false) }))
    }
}

impl Recent {
    /// Whom a token stood for a moment ago, when nothing has changed since.
    pub fn find(&self, platform: &Platform, token: &str, audience: Option<&str>) -> Option<(Principal, Claims)> {
        let entry = self.0.entries.get(&hash(token))?;
        let changes = self.0.changes.read().unwrap_or_else(PoisonError::into_inner);
        let current = changes.reading(folded(platform)).is_some() && changes.holds(&entry);
        let live = entry.claims.exp > OffsetDateTime::now_utc().unix_timestamp();
        let fits = audience.is_none_or(|audience| entry.claims.aud == audience);
        // Its key may have been given up since.
        let signed = !platform.tokens.may_be_newer(token);
        (current && live && fits && signed).then(|| (entry.principal.clone(), entry.claims.clone()))
    }

    /// To be asked before the read models are. `None`: what they say now cannot be kept.
    pub fn begin(&self, platform: &Platform) -> Option<Reading> {
        if !self.0.followed.swap(true, Ordering::Relaxed) {
            tokio::spawn(follow(platform.clone(), Arc::downgrade(&self.0)));
        }
        self.0.changes.read().unwrap_or_else(PoisonError::into_inner).reading(folded(platform))
    }

    /// Keeps what was found. Only users' own tokens: agents are seen with each look, and a delegation has more that may change.
    pub fn keep(&self, token: &str, reading: Reading, principal: &Principal, claims: &Claims) {
        let (true, None, Some(session)) = (claims.kind == "user", &claims.delegation, &claims.sid) else { return };
        let orgs = principal.organizations.iter().map(|org| format!("organization/{}", org.id));
        let own = [("user", &claims.sub), ("grants", &claims.sub), ("session", session)];
        let about = own.into_iter().map(|(kind, id)| format!("{kind}/{id}")).chain(orgs).collect();
        let entry = Entry { principal: principal.clone(), claims: claims.clone(), about, reading };
        self.0.entries.insert(hash(token), Arc::new(entry));
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn folded(platform: &Platform) -> Option<u64> {
    platform.positions.latest(PROJECTION, Service::Identity)
}

// Until nobody keeps anything any more.
async fn follow(platform: Platform, inner: std::sync::Weak<Inner>) {
    while inner.strong_count() > 0 {
        if let Err(error) = follow_from_now(&platform, &inner).await {
            tracing::debug!(%error, "principals are not kept: the log cannot be followed");
        }
        let Some(inner) = inner.upgrade() else { return };
        inner.changes.write().unwrap_or_else(PoisonError::into_inner).head = None;
        drop(inner);
        tokio::time::sleep(AGAIN).await;
    }
}

async fn follow_from_now(platform: &Platform, inner: &std::sync::Weak<Inner>) -> Result<(), async_nats::Error> {
    let mut stream = jetstream::new(platform.nats.clone()).get_stream(Service::Identity.event_stream()).await?;
    let head = stream.info().await?.state.last_sequence;
    let deliver_policy = DeliverPolicy::ByStartSequence { start_sequence: head + 1 };
    let consumer = stream.create_consumer(pull::OrderedConfig { deliver_policy, ..Default::default() }).await?;
    let mut messages = consumer.messages().await?;
    let position = Position { service: Service::Identity, sequence: head };
    if !platform.positions.wait_for(PROJECTION, position, FOLDED_WITHIN).await {
        return Err("the read models lie behind".into());
    }
    let Some(kept) = inner.upgrade() else { return Ok(()) };
    kept.changes.write().unwrap_or_else(PoisonError::into_inner).begin(head, head);
    drop(kept);
    while let Some(message) = messages.next().await {
        let message = message?;
        let sequence = message.info()?.stream_sequence;
        let Some(kept) = inner.upgrade() else { return Ok(()) };
        let about = about(&message.subject, &message.payload);
        kept.changes.write().unwrap_or_else(PoisonError::into_inner).note(sequence, about);
    }
    Ok(())
}

// An event whose signature is wrong makes us look anew, which harms nobody.
#[derive(Deserialize)]
#[serde(untagged)]
enum Commit {
    Many(Vec<Happened>),
    One(Happened),
}

#[derive(Deserialize)]
struct Happened {
    data: Member,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    #[serde(default)]
    user_id: Option<String>,
}

// Who is added to an organization has no entry that names it yet.
fn about(subject: &str, payload: &[u8]) -> Vec<String> {
    let Some(address) = AggregateRef::of_subject(subject) else { return Vec::new() };
    let mut about = vec![format!("{}/{}", address.kind, address.id)];
    if address.kind == "organization" {
        let commit: Option<Commit> = serde_json::from_slice(payload).ok();
        let happened = match commit {
            Some(Commit::Many(all)) => all,
            Some(Commit::One(one)) => vec![one],
            None => Vec::new(),
        };
        about.extend(happened.into_iter().filter_map(|happened| Some(format!("user/{}", happened.data.user_id?))));
    }
    about
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::principal::{AuthType, PrincipalKind};

    fn entry(reading: Reading, about: &[&str]) -> Entry {
        Entry {
            principal: Principal::new("ada", PrincipalKind::User, AuthType::Jwt),
            claims: Claims::default(),
            about: about.iter().map(|what| (*what).to_owned()).collect(),
            reading,
        }
    }

    #[test]
    fn an_entry_holds_until_something_happens_to_what_it_is_about() {
        let mut changes = Changes::default();
        assert!(changes.reading(Some(3)).is_none(), "nothing is followed yet");
        changes.begin(5, 5);
        let entry = entry(changes.reading(Some(5)).unwrap(), &["user/ada", "organization/o1"]);
        changes.note(6, vec!["user/bob".to_owned()]);
        assert!(changes.holds(&entry));
        changes.note(7, vec!["organization/o1".to_owned()]);
        assert!(!changes.holds(&entry));
        // Read before the projection had it: it stays of no use.
        let late = Entry { reading: changes.reading(Some(6)).unwrap(), ..entry };
        assert!(!changes.holds(&late));
        let anew = Entry { reading: changes.reading(Some(7)).unwrap(), ..late };
        assert!(changes.holds(&anew));
        // The read models are ahead of what is followed: nothing can be told.
        assert!(changes.reading(Some(8)).is_none());
        changes.note(1, Vec::new());
        assert!(!changes.holds(&anew), "another log");
    }

    #[test]
    fn whoever_is_added_to_an_organization_is_looked_up_anew() {
        let subject = "symbia.evt.identity.o1.organization.o1";
        let one = br#"{"type":"x","data":{"orgId":"o1","userId":"ada"}}"#;
        let many = br#"[{"data":{"name":"x"}},{"data":{"userId":"bob"}}]"#;
        assert_eq!(about(subject, one), ["organization/o1", "user/ada"]);
        assert_eq!(about(subject, many), ["organization/o1", "user/bob"]);
        assert_eq!(about("symbia.evt.identity.global.session.s1", b"?"), ["session/s1"]);
        assert!(about("elsewhere", one).is_empty());
    }
}
