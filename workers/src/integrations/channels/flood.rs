//! How much of what chats tell is taken in. Whoever says more is refused and counted, and nothing of it is stored: the first time
//! is told to the log at once, what follows within a minute together.

use std::{fmt, sync::Arc, time::Duration};

use symbia_commands::integrations::{ChannelConnectionCommand, NoteChannelFlood};
use symbia_events::{AggregateRef, KeyRing, OrgId, Service};
use symbia_nats::{
    bus::CommandBus,
    limits::{Bucket, Limits},
    tally::{Note, Tally},
};
use symbia_projections::integrations::ChannelConnection;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Of one chat, and of all chats of a connection, in a minute.
const OF_CHAT: Bucket = Bucket { size: 60, per: Duration::from_secs(60) };
const OF_CONNECTION: Bucket = Bucket { size: 1200, per: Duration::from_secs(60) };

/// Counts. Cheap to clone.
#[derive(Clone)]
pub(super) struct Floods {
    limits: Limits,
    tally: Tally<Turned>,
}

/// A connection of which something was turned away.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Whose {
    org: OrgId,
    connection: String,
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "channel {} of {}", self.connection, self.org)
    }
}

/// How much was turned away, and when.
#[derive(Clone, Debug)]
struct Turned {
    count: u32,
    first_at: String,
    last_at: String,
}

impl Note for Turned {
    type About = Whose;
    type Command = ChannelConnectionCommand;
    const DIFFERENT: usize = 1;
    const BY: &'static str = "integrations";

    fn is_same(&self, _: &Self) -> bool {
        true
    }

    fn again(&mut self, later: &Self) {
        self.count = self.count.saturating_add(later.count);
        self.last_at.clone_from(&later.last_at);
    }

    fn unspecific(&self) -> Self {
        self.clone()
    }

    fn command(about: &Whose, notes: Vec<Self>) -> Option<(AggregateRef, ChannelConnectionCommand)> {
        let Turned { count, first_at, last_at } = notes.into_iter().next()?;
        let connection_id = about.connection.clone();
        let to = AggregateRef::new(Service::Integrations, about.org.clone(), "channel-connection", &connection_id);
        Some((to.ok()?, NoteChannelFlood { connection_id, count, first_at, last_at }.into()))
    }
}

impl Floods {
    pub fn new(limits: Limits, bus: CommandBus, keys: Arc<KeyRing>) -> Self {
        Floods { limits, tally: Tally::open(bus, keys) }
    }

    /// None: it is taken in. Else it is not, and for how long nothing more will be.
    ///
    /// # Errors
    /// It cannot be counted.
    pub async fn refuses(&self, of: &ChannelConnection, chat_key: &str) -> anyhow::Result<Option<Duration>> {
        // The chat first: one that says too much takes nothing from the others.
        for (name, bucket) in [("chat", OF_CHAT), ("connection", OF_CONNECTION)] {
            let key = format!("channel {name} {} {}", of.id, if name == "chat" { chat_key } else { "" });
            let drawn = self.limits.draw(&key, bucket, 1, 1).await?;
            if drawn.tokens == 0 {
                let at = OffsetDateTime::now_utc().format(&Rfc3339)?;
                let whose = Whose { org: of.org_id.parse()?, connection: of.id.clone() };
                self.tally.note(whose, Turned { count: 1, first_at: at.clone(), last_at: at });
                return Ok(Some(drawn.enough_in));
            }
        }
        Ok(None)
    }
}
