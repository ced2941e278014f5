//! The connections of the broker's clients, on all servers of a cluster: seen and ended over its system account. The user that
//! answers the auth callout may do so; see the broker's configuration.

use std::time::Duration;

use async_nats::{Client, StatusCode, SubscribeError, Subscriber};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::json;

/// Where all servers are asked.
pub const OF_ALL: &str = "$SYS.REQ.SERVER.PING.CONNZ";
/// Where one is; `*` stands for its id.
pub const OF_ONE: &str = "$SYS.REQ.SERVER.*.CONNZ";
/// Where one is told to end a connection.
pub const END: &str = "$SYS.REQ.SERVER.*.KICK";
/// Connections in one answer.
const PAGE: usize = 1000;
/// The first server answers within this time.
const FIRST_WITHIN: Duration = Duration::from_secs(2);
/// So long after an answer of one server, no other one comes.
const NEXT_WITHIN: Duration = Duration::from_millis(200);

/// The servers cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionsError {
    /// Nobody may ask, or there is no broker.
    #[error(
        "the broker does not tell its connections; give the user that answers it the system account, as docs/COMMANDS.md shows"
    )]
    NoAnswer,
    /// An answer that is none.
    #[error("the broker's answer cannot be read: {0}")]
    Answer(#[from] serde_json::Error),
    /// No connection of our own.
    #[error("the broker cannot be asked: {0}")]
    Subscribe(#[from] SubscribeError),
    /// The same.
    #[error("the broker cannot be asked: {0}")]
    Publish(#[from] async_nats::PublishError),
}

/// A client's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Id of its server.
    pub server: String,
    /// Its id there; no other one has had it.
    pub id: u64,
    /// Who it is: the name in what let it in.
    pub user: String,
}

#[derive(Deserialize)]
struct Answer {
    server: Server,
    #[serde(default)]
    data: Page,
}

#[derive(Deserialize)]
struct Server {
    id: String,
    #[serde(default)]
    cluster: Option<String>,
}

#[derive(Default, Deserialize)]
struct Page {
    #[serde(default)]
    offset: usize,
    #[serde(default)]
    total: usize,
    #[serde(default)]
    connections: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    cid: u64,
    #[serde(default)]
    authorized_user: String,
}

/// Sees and ends connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connections(Client);

impl Connections {
    /// Over a connection to the system account.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Connections(client)
    }

    /// Those that are open now. The broker's answers are not one moment's: who has just come may be missing.
    ///
    /// # Errors
    /// No server tells.
    pub async fn open(&self) -> Result<Vec<Connection>, ConnectionsError> {
        let (mut open, mut more) = (Vec::new(), Vec::new());
        let mut answers = self.ask(OF_ALL, 0).await?;
        let mut patience = FIRST_WITHIN;
        while let Some(answer) = next(&mut answers, patience).await? {
            let alone = answer.server.cluster.is_none();
            more.extend(taken(answer, &mut open));
            if alone {
                break;
            }
            patience = NEXT_WITHIN;
        }
        // Our own is among them.
        if open.is_empty() {
            return Err(ConnectionsError::NoAnswer);
        }
        while let Some((server, offset)) = more.pop() {
            let mut answers = self.ask(&OF_ONE.replace('*', &server), offset).await?;
            let answer = next(&mut answers, FIRST_WITHIN).await?.ok_or(ConnectionsError::NoAnswer)?;
            more.extend(taken(answer, &mut open));
        }
        Ok(open)
    }

    /// Ends a connection; one that has ended by itself stays so.
    ///
    /// # Errors
    /// We have no connection ourselves.
    pub async fn end(&self, connection: &Connection) -> Result<(), ConnectionsError> {
        let request = json!({ "cid": connection.id }).to_string();
        // A server does nothing for who wants no answer.
        let inbox = self.0.new_inbox();
        Ok(self.0.publish_with_reply(END.replace('*', &connection.server), inbox, request.into()).await?)
    }

    async fn ask(&self, subject: &str, offset: usize) -> Result<Subscriber, ConnectionsError> {
        let inbox = self.0.new_inbox();
        let answers = self.0.subscribe(inbox.clone()).await?;
        let request = json!({ "auth": true, "limit": PAGE, "offset": offset }).to_string();
        self.0.publish_with_reply(subject.to_owned(), inbox, request.into()).await?;
        Ok(answers)
    }
}

async fn next(answers: &mut Subscriber, within: Duration) -> Result<Option<Answer>, ConnectionsError> {
    match tokio::time::timeout(within, answers.next()).await {
        Ok(Some(answer)) if answer.status == Some(StatusCode::NO_RESPONDERS) => Err(ConnectionsError::NoAnswer),
        Ok(Some(answer)) => Ok(Some(serde_json::from_slice(&answer.payload)?)),
        Ok(None) | Err(_) => Ok(None),
    }
}

// Gives the server with the offset of its next page, where there is one.
fn taken(answer: Answer, open: &mut Vec<Connection>) -> Option<(String, usize)> {
    let Answer { server, data: Page { offset, total, connections } } = answer;
    let next = offset + connections.len();
    let rest = !connections.is_empty() && next < total;
    let of_server = |c: Listed| Connection { server: server.id.clone(), id: c.cid, user: c.authorized_user };
    open.extend(connections.into_iter().map(of_server));
    rest.then_some((server.id, next))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_server_with_more_connections_than_a_page_is_asked_again() {
        let page = |offset: usize, ids: &[u64]| -> Answer {
            let connections: Vec<_> = ids.iter().map(|id| json!({ "cid": id, "authorized_user": "ada" })).collect();
            let data = json!({ "offset": offset, "total": 3, "connections": connections });
            serde_json::from_value(json!({ "server": { "id": "S" }, "data": data })).unwrap()
        };
        let mut open = Vec::new();
        assert_eq!(taken(page(0, &[5, 6]), &mut open), Some(("S".to_owned(), 2)));
        assert_eq!(taken(page(2, &[9]), &mut open), None);
        assert_eq!(taken(page(3, &[]), &mut open), None, "some have gone meanwhile");
        assert_eq!(open.iter().map(|c| c.id).collect::<Vec<_>>(), [5, 6, 9]);
        assert!(open.iter().all(|c| c.server == "S" && c.user == "ada"));
    }
}
