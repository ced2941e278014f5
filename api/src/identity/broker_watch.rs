//! Who may stay at the broker: a connection outlives the question that let it in, so what it stands on is looked at again when
//! identity's log names it, and now and then in any case.
//!
//! What a connection stands on is its name at the broker. So every process can look at all of them, and a process that begins
//! anew need not have let them in.

use std::{collections::HashSet, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use symbia_events::{Position, Service};
use symbia_nats::connections::{Connection, Connections, ConnectionsError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    authenticator::Directory,
    broker_access::subjects,
    named::{AGENTS, TOKENS, named},
    tokens::Claims,
};
use crate::{
    feed::{
        Feed,
        source::{Chunk, Entry},
    },
    http::{AuthError, Principal},
};

/// Between looks at every connection without a reason.
const SELDOM: Duration = Duration::from_secs(60);
/// A client that was let in a moment ago is among the broker's connections after this: the broker waits two seconds for us.
const ARRIVED: Duration = Duration::from_secs(3);
/// Pause after a look: what is heard meanwhile is looked at together.
const PAUSE: Duration = Duration::from_millis(100);
/// Pause before the log is read again after it could not be.
const AGAIN: Duration = Duration::from_secs(1);
/// Looks at a time.
const LOOKS: usize = 8;
const QUEUE: usize = 1024;
const PROJECTION: &str = "identity";

/// What a connection was let in for. Nothing in it is secret, or personal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Standing {
    /// Who: the id of the principal.
    pub who: String,
    /// The organizations that it reaches.
    orgs: Vec<String>,
    /// Digest of the subjects that are open to it.
    subjects: String,
    #[serde(flatten)]
    by: Credential,
    /// Id of the key that its token is signed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signed_with: Option<String>,
}

/// What a client came with, as it is known after it was verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Credential {
    /// An API key, by its id.
    Key(String),
    /// A token, by what it says.
    Token(Box<Claims>),
}

impl Credential {
    /// That of a token, without what is personal in it.
    pub fn of(claims: Claims) -> Self {
        Credential::Token(Box::new(Claims { email: None, name: None, ..claims }))
    }
}

impl Standing {
    /// That of a principal; `None` when nothing is open to it.
    pub fn new(principal: &Principal, by: Credential) -> Option<Self> {
        let open = subjects(principal)?;
        let digest = Sha256::digest(serde_json::to_vec(&[open.publish, open.subscribe]).unwrap_or_default());
        Some(Standing {
            who: principal.id.clone(),
            orgs: principal.organizations.iter().map(|org| org.id.clone()).collect(),
            subjects: BASE64URL.encode(digest),
            by,
            signed_with: None,
        })
    }

    /// That of a token which is signed with a key.
    pub fn signed_with(self, key: Option<String>) -> Self {
        Standing { signed_with: key, ..self }
    }

    /// As the name of a connection.
    pub fn name(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    // Connections of the platform itself have other names.
    fn of(connection: &Connection) -> Option<Self> {
        serde_json::from_str(&connection.user).ok()
    }

    fn is_among(&self, ids: &HashSet<String>) -> bool {
        let own = match &self.by {
            Credential::Key(id) => ids.contains(id),
            Credential::Token(claims) => {
                let by_agent = claims.agent_id.is_some() || claims.act.is_some();
                let basis = [Some(&claims.sub), claims.sid.as_ref(), claims.delegation.as_ref()];
                (by_agent && ids.contains(AGENTS)) || basis.into_iter().flatten().any(|id| ids.contains(id))
            }
        };
        own || ids.contains(&self.who)
            || self.signed_with.as_ref().is_some_and(|key| ids.contains(key))
            || self.orgs.iter().any(|org| ids.contains(org))
    }
}

/// What there is to look at.
struct News {
    /// Connections that one of these ids stands for; `None`: all.
    about: Option<HashSet<String>>,
    /// Once the read models have come so far.
    after: Option<Position>,
}

/// Tells the watch who has come. Cheap to clone.
#[derive(Clone)]
pub(super) struct Door(mpsc::Sender<News>);

impl Door {
    /// Somebody was let in: what they stand on may have been taken away while they were on their way.
    pub fn let_in(&self, who: String) {
        let door = self.0.clone();
        tokio::spawn(async move {
            tokio::time::sleep(ARRIVED).await;
            let news = News { about: Some(HashSet::from([who])), after: None };
            // No receiver: nobody watches any more.
            let _ = door.send(news).await;
        });
    }
}

/// Watches over the broker's connections until `stop`.
pub(super) fn watch(directory: Directory, connections: Connections, feed: Feed, stop: CancellationToken) -> Door {
    let (door, heard) = mpsc::channel(QUEUE);
    let told = door.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = follow(&feed, &told) => {}
            () = Watch { directory, connections }.run(heard) => {}
        }
    });
    Door(door)
}

// Until nobody listens.
async fn follow(feed: &Feed, door: &mpsc::Sender<News>) {
    loop {
        let subjects = vec![format!("symbia.evt.{}.>", Service::Identity)];
        let Ok((place, mut source)) = feed.tail(Service::Identity, subjects).await else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        // What happened while nobody followed.
        let head = Position { service: Service::Identity, sequence: place.passed };
        let mut news = News { about: None, after: Some(head) };
        loop {
            if door.send(news).await.is_err() {
                return;
            }
            let Ok(chunk) = source.next().await else { break };
            news = told_by(&chunk);
        }
    }
}

fn told_by(chunk: &Chunk) -> News {
    let mut ids = HashSet::new();
    for (_, entry) in &chunk.entries {
        if let Entry::Event(signed, _) = entry {
            named(&signed.event, &mut ids);
        }
    }
    let last = chunk.entries.last();
    let after = last.map(|(sequence, _)| Position { service: chunk.service, sequence: *sequence });
    News { about: Some(ids), after }
}

struct Watch {
    directory: Directory,
    connections: Connections,
}

impl Watch {
    async fn run(self, mut heard: mpsc::Receiver<News>) {
        let mut seldom = tokio::time::interval(SELDOM);
        let mut warned = false;
        loop {
            let mut news = Vec::new();
            tokio::select! {
                _ = heard.recv_many(&mut news, QUEUE) => {}
                _ = seldom.tick() => news.push(News { about: None, after: None }),
            }
            match self.look(news).await {
                Ok(()) => warned = false,
                Err(error) if warned => tracing::debug!(%error, "connections to the broker outlive what they stand on"),
                Err(error) => {
                    tracing::warn!(%error, "connections to the broker outlive what they stand on, until they expire");
                    warned = true;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn look(&self, news: Vec<News>) -> Result<(), ConnectionsError> {
        let after = news.iter().filter_map(|news| news.after).max_by_key(|position| position.sequence);
        let about: Option<Vec<HashSet<String>>> = news.into_iter().map(|news| news.about).collect();
        let about: Option<HashSet<String>> = about.map(|ids| ids.into_iter().flatten().collect());
        if about.as_ref().is_some_and(HashSet::is_empty) {
            return Ok(());
        }
        if let Some(position) = after {
            let platform = self.directory.platform();
            platform.positions.wait_for(PROJECTION, position, platform.settings.visible_within).await;
        }
        // Before a key that was withdrawn is asked for: the process that did so may not have told this one yet.
        if about.as_ref().is_none_or(|ids| ids.contains(TOKENS))
            && let Err(error) = self.directory.platform().load_signing_keys().await
        {
            tracing::debug!(%error, "the keys that tokens are signed with cannot be looked at");
        }
        let open = self.connections.open().await?;
        let known = open.into_iter().filter_map(|connection| Some((Standing::of(&connection)?, connection)));
        let concerned = known.filter(|(standing, _)| about.as_ref().is_none_or(|ids| standing.is_among(ids)));
        stream::iter(concerned).for_each_concurrent(LOOKS, |(standing, it)| self.look_at(standing, it)).await;
        Ok(())
    }

    async fn look_at(&self, standing: Standing, connection: Connection) {
        let why = match self.directory.now(&standing).await {
            Ok(now) if now.as_ref() == Some(&standing) => return,
            Ok(_) => "it may do other things than before",
            // Nobody can tell: a later look does.
            Err(AuthError::Unavailable) => return,
            Err(_) => "its credential is no longer good",
        };
        tracing::info!(principal = standing.who, why, "a connection to the broker is ended");
        if let Err(error) = self.connections.end(&connection).await {
            tracing::warn!(principal = standing.who, %error, "a connection to the broker is not ended");
        }
    }
}

impl Directory {
    // What the same credential would be let in for.
    async fn now(&self, standing: &Standing) -> Result<Option<Standing>, AuthError> {
        if standing.signed_with.as_ref().is_some_and(|key| !self.platform().tokens.verifies(key)) {
            return Err(AuthError::Invalid);
        }
        let principal = match &standing.by {
            Credential::Key(id) => self.owner_of_key(id).await?,
            Credential::Token(claims) => self.principal_of(claims).await?,
        };
        let now = Standing::new(&principal, standing.by.clone());
        Ok(now.map(|now| now.signed_with(standing.signed_with.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::principal::{AuthType, Membership, PrincipalKind};

    fn principal(kind: PrincipalKind, role: &str) -> Principal {
        let org = Membership { id: "o1".into(), name: "Acme".into(), slug: "acme".into(), role: role.into() };
        let personal = Some("ada@example.test".to_owned());
        Principal { organizations: vec![org], email: personal, ..Principal::new("ada", kind, AuthType::Jwt) }
    }

    fn token() -> Claims {
        Claims {
            sub: "ada".into(),
            kind: "user".into(),
            sid: Some("s1".into()),
            email: Some("ada@example.test".into()),
            name: Some("Ada".into()),
            ..Claims::default()
        }
    }

    fn concerned(standing: &Standing, id: &str) -> bool {
        standing.is_among(&HashSet::from([id.to_owned()]))
    }

    #[test]
    fn what_a_connection_stands_on_is_read_from_its_name_by_anybody() {
        let standing = Standing::new(&principal(PrincipalKind::User, "admin"), Credential::of(token())).unwrap();
        let name = standing.name();
        assert!(!name.contains("example.test") && !name.contains("Ada"), "{name}");
        let connection = |user: &str| Connection { server: "S".into(), id: 1, user: user.to_owned() };
        assert_eq!(Standing::of(&connection(&name)), Some(standing.clone()));
        assert_eq!(Standing::of(&connection("symbia")), None);
        for (id, expected) in [("ada", true), ("s1", true), ("o1", true), ("bob", false), (AGENTS, false)] {
            assert_eq!(concerned(&standing, id), expected, "{id}");
        }
        let signed = standing.clone().signed_with(Some("key-1".into()));
        assert_eq!(Standing::of(&connection(&signed.name())), Some(signed.clone()));
        assert!(concerned(&signed, "key-1") && !concerned(&signed, "key-2") && !concerned(&standing, "key-1"));
        let demoted = Standing::new(&principal(PrincipalKind::User, "viewer"), Credential::of(token())).unwrap();
        assert_ne!(demoted, standing);
    }

    #[test]
    fn keys_agents_and_who_acts_for_somebody_are_named_by_what_they_stand_on() {
        let key = Standing::new(&principal(PrincipalKind::User, "member"), Credential::Key("k1".into())).unwrap();
        assert!(concerned(&key, "k1") && concerned(&key, "ada") && !concerned(&key, "s1"));
        let act = Some(crate::identity::Act { sub: "agent:a".into(), act: None });
        let acting = Claims { delegation: Some("d1".into()), sid: None, act, ..token() };
        let acting = Standing::new(&principal(PrincipalKind::User, "member"), Credential::of(acting)).unwrap();
        assert!(concerned(&acting, "d1") && concerned(&acting, AGENTS));
        let agent = Claims { kind: "agent".into(), agent_id: Some("agent:a".into()), ..token() };
        let agent = Standing::new(&principal(PrincipalKind::Agent, "member"), Credential::of(agent)).unwrap();
        assert!(concerned(&agent, AGENTS));
    }
}
