//! Holds a connection to Discord's gateway open (Discord, "Gateway"), over which it tells what is said. One process does, as with
//! messengers that are asked: the entry that it holds says which session it is and up to where it was told, so that another one
//! goes on there, and what comes twice is taken in once.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use symbia_egress::Socket;
use symbia_nats::channels::Said;
use symbia_projections::integrations::ChannelConnection;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};

use super::{
    Channels,
    discord::DiscordBot,
    line::Account,
    messenger::{PATIENCE, Refused},
    poller::{HOLDS, Hold},
};

/// How often it is looked whether the connection is still to be held.
const LOOK: Duration = Duration::from_secs(5);
/// Pause before the first attempt after something went wrong; each further one is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A session there, with which another process can go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Session {
    id: String,
    /// Where it is gone on with.
    url: String,
    /// Up to where was told.
    sequence: u64,
}

/// How a connection ended.
enum Ended {
    /// It is another process' now, or nobody's.
    Left,
    /// It broke; what was not told is told when the session is gone on with.
    Broke,
    /// The session is over.
    Over,
    /// It is refused.
    Refused(Refused),
}

impl From<Refused> for Ended {
    fn from(refused: Refused) -> Self {
        Ended::Refused(refused)
    }
}

/// One connection, while it is open.
struct Open<'c, 'h> {
    channels: &'c Channels,
    connection: ChannelConnection,
    hold: &'c mut Hold<'h>,
    socket: Socket,
    /// The other side has answered to the last sign of life.
    alive: bool,
    /// The session has begun, or is gone on with.
    stands: bool,
}

impl Channels {
    /// Listens until the connection is not to be held any more, or another process holds it.
    pub(super) async fn listen(&self, id: &str, hold: &mut Hold<'_>) -> anyhow::Result<()> {
        let mut failures = 0;
        loop {
            let connection = self.connection(id).await?.filter(is_held);
            let Some(connection) = connection else { return Ok(()) };
            let (stood, ended) = self.session(connection.clone(), hold).await?;
            failures = if stood { 0 } else { failures + 1 };
            let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(10)).min(LONGEST_PAUSE);
            let pause = pause.mul_f64(rand::random_range(0.5..1.0));
            match ended {
                Ended::Left => return Ok(()),
                Ended::Over => hold.held.session = None,
                Ended::Broke => {}
                Ended::Refused(refused) => {
                    let after = refused.after.or(Some(pause));
                    self.goes_wrong(&connection, Refused { after, ..refused }).await?;
                    continue;
                }
            }
            if stood {
                tokio::time::sleep(pause).await;
            } else {
                self.goes_wrong(&connection, Refused::passing("gateway_broke", Some(pause))).await?;
            }
            if !hold.write(HOLDS).await? {
                return Ok(());
            }
        }
    }

    // Whether it stood, and how it ended.
    async fn session(&self, connection: ChannelConnection, hold: &mut Hold<'_>) -> anyhow::Result<(bool, Ended)> {
        let key = match self.token(&Account::from(&connection)).await? {
            Ok(key) => key,
            Err(refused) => return Ok((false, refused.into())),
        };
        let policy = self.0.egress.policy(&connection.org_id).await?;
        let bot = DiscordBot::new(&self.0.discord.within(policy), key);
        let former = hold.held.session.clone();
        let opening = async {
            let at = match &former {
                Some(session) => session.url.clone(),
                None => bot.gateway().await?,
            };
            bot.socket(&at).await
        };
        let socket = match opening.await {
            Ok(socket) => socket,
            // It may be that its place alone is gone.
            Err(refused) if former.is_some() && !refused.fatal => return Ok((false, Ended::Over)),
            Err(refused) => return Ok((false, refused.into())),
        };
        let begins = match &former {
            Some(session) => bot.resume(&session.id, session.sequence),
            None => bot.identify(),
        };
        let mut open = Open { channels: self, connection, hold, socket, alive: true, stands: false };
        let ended = open.run(begins).await?;
        Ok((open.stands, ended))
    }
}

fn is_held(connection: &ChannelConnection) -> bool {
    connection.is_used() && connection.mode == "gateway"
}

// What it means that the other side closes (Discord, "Gateway Close Event Codes").
fn closed(frame: Option<&CloseFrame>) -> Ended {
    match frame.map_or(0, |frame| u16::from(frame.code)) {
        4004 => Refused::fatal("unauthorized").into(),
        // The bot may not read what is said until its page allows it the "Message Content Intent".
        4013 | 4014 => Refused::fatal("disallowed_intents").into(),
        4010..=4012 => Refused::fatal("bad_request").into(),
        1000 | 1001 | 4003 | 4007 | 4009 => Ended::Over,
        _ => Ended::Broke,
    }
}

fn beats(every: Duration) -> Interval {
    // Not all at once after Discord has come back.
    let first = Instant::now() + every.mul_f64(rand::random_range(0.0..1.0));
    let mut beats = tokio::time::interval_at(first, every);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beats
}

impl Open<'_, '_> {
    async fn run(&mut self, begins: Value) -> anyhow::Result<Ended> {
        let Ok(Some(hello)) = tokio::time::timeout(PATIENCE, self.told()).await else { return Ok(Ended::Broke) };
        let every = match hello {
            Ok(hello) if hello["op"] == 10 => hello["d"]["heartbeat_interval"].as_u64().filter(|every| *every > 0),
            Ok(_) => None,
            Err(ended) => return Ok(ended),
        };
        let Some(every) = every else { return Ok(Ended::Broke) };
        if !self.tells(begins).await {
            return Ok(Ended::Broke);
        }
        let (mut beats, mut looks) = (beats(Duration::from_millis(every)), tokio::time::interval(LOOK));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let ended = tokio::select! {
                told = self.told() => match told {
                    Some(Ok(told)) => self.heard(&told).await?,
                    Some(Err(ended)) => Some(ended),
                    None => Some(Ended::Broke),
                },
                _ = beats.tick() => self.beat().await,
                _ = looks.tick() => self.look().await?,
            };
            if let Some(ended) = ended {
                return Ok(ended);
            }
        }
    }

    // The next thing that is told; none when the connection broke.
    async fn told(&mut self) -> Option<Result<Value, Ended>> {
        loop {
            match self.socket.next().await?.ok()? {
                Message::Text(text) => return Some(serde_json::from_str(&text).map_err(|_| Ended::Broke)),
                Message::Close(frame) => return Some(Err(closed(frame.as_ref()))),
                _ => {}
            }
        }
    }

    async fn tells(&mut self, what: Value) -> bool {
        self.socket.send(Message::text(what.to_string())).await.is_ok()
    }

    async fn beat(&mut self) -> Option<Ended> {
        // A connection that nobody answers on is gone, whatever the network says.
        if !std::mem::replace(&mut self.alive, false) {
            return Some(Ended::Broke);
        }
        let sequence = self.hold.held.session.as_ref().map(|session| session.sequence);
        (!self.tells(json!({ "op": 1, "d": sequence })).await).then_some(Ended::Broke)
    }

    async fn look(&mut self) -> anyhow::Result<Option<Ended>> {
        let found = self.channels.connection(&self.connection.id).await?.filter(is_held);
        let Some(found) = found else {
            // With it, the session is over.
            self.hold.held.session = None;
            let _ = self.socket.close(None).await;
            return Ok(Some(Ended::Left));
        };
        self.connection = found;
        self.kept().await
    }

    async fn kept(&mut self) -> anyhow::Result<Option<Ended>> {
        Ok((!self.hold.write(HOLDS).await?).then_some(Ended::Left))
    }

    async fn heard(&mut self, told: &Value) -> anyhow::Result<Option<Ended>> {
        match told["op"].as_u64() {
            Some(0) => self.dispatched(told).await,
            Some(1) => {
                self.alive = true;
                Ok(self.beat().await)
            }
            Some(7) => Ok(Some(Ended::Broke)),
            Some(9) => Ok(Some(if told["d"] == true { Ended::Broke } else { Ended::Over })),
            Some(11) => {
                self.alive = true;
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    async fn dispatched(&mut self, told: &Value) -> anyhow::Result<Option<Ended>> {
        let (kind, data) = (told["t"].as_str().unwrap_or_default(), &told["d"]);
        match kind {
            "READY" => {
                let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
                self.hold.held.session =
                    Some(Session { id: text("session_id"), url: text("resume_gateway_url"), sequence: 0 });
            }
            // Not taken in: the session is gone on with before it.
            _ if kind.starts_with("MESSAGE_") => {
                let said = self.channels.take_in(&self.connection, &told.to_string(), None).await?;
                anyhow::ensure!(said != Said::Unavailable, "what was said is not taken in");
            }
            _ => {}
        }
        if matches!(kind, "READY" | "RESUMED") {
            self.stands = true;
            self.channels.goes_well(&self.connection).await?;
        }
        let (session, sequence) = (self.hold.held.session.as_mut(), told["s"].as_u64());
        if let (Some(session), Some(sequence)) = (session, sequence) {
            session.sequence = sequence;
        }
        if kind == "READY" || kind.starts_with("MESSAGE_") { self.kept().await } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_close_means_is_told() {
        let close = |code: u16| closed(Some(&CloseFrame { code: code.into(), reason: "".into() }));
        assert!(matches!(close(4004), Ended::Refused(refused) if refused == Refused::fatal("unauthorized")));
        assert!(matches!(close(4014), Ended::Refused(refused) if refused.fatal));
        assert!(matches!(close(4009), Ended::Over));
        assert!(matches!((close(4000), close(1006), closed(None)), (Ended::Broke, Ended::Broke, Ended::Broke)));
    }
}
