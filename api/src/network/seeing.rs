//! What sending an event asks of the read models: who asks while a question is under way is answered by the next one, all of an
//! organization together, so that many who send at once cost the database one question.

use std::collections::{HashMap, HashSet};

use futures::future::join_all;
use symbia_events::OrgId;
use symbia_projections::{ReadError, ReadPool, Scope, network as model};
use tokio::sync::{mpsc, oneshot};

/// Askers that go together at most.
const TOGETHER: usize = 256;

/// What an asker is told: the version of the organization's mesh, and whether the event was sent before.
type Seen = (i64, bool);

struct Asked {
    org: OrgId,
    event: String,
    seen: oneshot::Sender<Seen>,
}

/// Asks for many. Cheap to clone.
#[derive(Clone)]
pub(super) struct Seeing(mpsc::UnboundedSender<Asked>);

impl Seeing {
    /// Asks on connections of this pool.
    pub fn open(reader: ReadPool) -> Self {
        let (sender, asked) = mpsc::unbounded_channel();
        tokio::spawn(run(reader, asked));
        Seeing(sender)
    }

    /// The version of an organization's mesh, and whether an event was sent before, as they are after this was asked. None: it
    /// could not be found out; who asks again alone hears why.
    pub async fn ask(&self, org: &OrgId, event: &str) -> Option<Seen> {
        let (seen, answer) = oneshot::channel();
        self.0.send(Asked { org: org.clone(), event: event.to_owned(), seen }).ok()?;
        answer.await.ok()
    }
}

async fn run(reader: ReadPool, mut asked: mpsc::UnboundedReceiver<Asked>) {
    let mut together = Vec::new();
    while asked.recv_many(&mut together, TOGETHER).await > 0 {
        let mut organizations: HashMap<OrgId, Vec<Asked>> = HashMap::new();
        for one in together.drain(..) {
            organizations.entry(one.org.clone()).or_default().push(one);
        }
        join_all(organizations.into_iter().map(|(org, askers)| answer(&reader, org, askers))).await;
    }
}

async fn answer(reader: &ReadPool, org: OrgId, askers: Vec<Asked>) {
    let events: Vec<&str> = askers.iter().map(|asker| asker.event.as_str()).collect();
    let seen = match look(reader, &org, &events).await {
        Ok(seen) => seen,
        Err(error) => {
            tracing::debug!(%org, %error, "the mesh's state was not read: each asks alone");
            return;
        }
    };
    for Asked { event, seen: asker, .. } in askers {
        // Whoever does not wait any more needs no answer.
        _ = asker.send((seen.0, seen.1.contains(&event)));
    }
}

async fn look(reader: &ReadPool, org: &OrgId, events: &[&str]) -> Result<(i64, HashSet<String>), ReadError> {
    let scope = Scope { org: Some(org.clone()), ..Scope::default() };
    let mut reading = reader.read(&scope).await?;
    let (version, sent) = model::mesh_version_and_sent(&mut reading, org.as_str(), events).await?;
    Ok((version, sent.into_iter().collect()))
}
