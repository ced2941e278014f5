//! How much of what chats tell is taken in, and how much of what comes along is kept. Whoever says more is refused and counted, and
//! nothing of it is stored: the first time is told to the log at once, what follows within a minute together.

use std::{fmt, sync::Arc, time::Duration};

use async_nats::Client;
use symbia_commands::integrations::{ChannelConnectionCommand, NoteChannelFiles, NoteChannelFlood};
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
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Room for what comes along, in bytes a day.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Of a connection.
    pub connection: u64,
    /// Of an organization.
    pub organization: u64,
}

impl Default for Room {
    fn default() -> Self {
        Room { connection: 500_000_000, organization: 2_000_000_000 }
    }
}

/// Counts. Cheap to clone.
#[derive(Clone)]
pub(super) struct Floods {
    limits: Limits,
    days: Limits,
    room: Room,
    tally: Tally<Turned>,
}

/// What was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum What {
    Messages,
    Files,
}

/// A connection of which something was turned away.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Whose {
    org: OrgId,
    connection: String,
    what: What,
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of channel {} of {}", self.what, self.connection, self.org)
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
        let command = match about.what {
            What::Messages => NoteChannelFlood { connection_id, count, first_at, last_at }.into(),
            What::Files => NoteChannelFiles { connection_id, count, first_at, last_at }.into(),
        };
        Some((to.ok()?, command))
    }
}

impl Floods {
    pub fn new(client: Client, room: Room, bus: CommandBus, keys: Arc<KeyRing>) -> Self {
        let (limits, days) = (Limits::new(client.clone()), Limits::of_days(client));
        Floods { limits, days, room, tally: Tally::open(bus, keys) }
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
                self.turned(of, What::Messages)?;
                return Ok(Some(drawn.enough_in));
            }
        }
        Ok(None)
    }

    fn turned(&self, of: &ChannelConnection, what: What) -> anyhow::Result<()> {
        let at = OffsetDateTime::now_utc().format(&Rfc3339)?;
        let whose = Whose { org: of.org_id.parse()?, connection: of.id.clone(), what };
        self.tally.note(whose, Turned { count: 1, first_at: at.clone(), last_at: at });
        Ok(())
    }

    // The connection first: one that has no room takes none of its organization's.
    fn rooms(&self, of: &ChannelConnection) -> [(String, Bucket); 2] {
        let bucket = |size: u64| Bucket { size, per: DAY };
        let of_connection = (format!("channel files {}", of.id), bucket(self.room.connection));
        [of_connection, (format!("channel files of organization {}", of.org_id), bucket(self.room.organization))]
    }

    /// Sets room aside for so many bytes. False: there is none, and it is told.
    ///
    /// # Errors
    /// It cannot be counted.
    pub async fn has_room(&self, of: &ChannelConnection, bytes: u64) -> anyhow::Result<bool> {
        let [connection, organization] = self.rooms(of);
        let bytes = bytes.max(1);
        if self.days.draw(&connection.0, connection.1, bytes, bytes).await?.tokens == 0 {
            self.turned(of, What::Files)?;
            return Ok(false);
        }
        if self.days.draw(&organization.0, organization.1, bytes, bytes).await?.tokens == 0 {
            self.days.settle(&connection.0, connection.1, bytes, 0).await?;
            self.turned(of, What::Files)?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Gives back what was set aside and is not needed.
    ///
    /// # Errors
    /// It cannot be counted.
    pub async fn needed(&self, of: &ChannelConnection, bytes: u64, needed: u64) -> anyhow::Result<()> {
        for (key, bucket) in self.rooms(of) {
            self.days.settle(&key, bucket, bytes.max(1), needed).await?;
        }
        Ok(())
    }
}
