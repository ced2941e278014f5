//! Asks messengers that cannot call us, and listens to those that tell over a connection. Each connection is asked by one process at a time: who asks holds an entry of a bucket,
//! with the place up to which was asked, and writes it only over what it wrote last. A process that dies holds it no longer than
//! its time; the next one goes on at that place, and what comes twice is taken in once.

use std::{collections::HashSet, time::Duration};

use anyhow::Context;
use async_nats::jetstream::{self, kv};
use serde::{Deserialize, Serialize};
use symbia_commands::integrations::{RecordChannelError, RecordChannelRecovery};
use symbia_events::CommandId;
use symbia_nats::{channels::Said, topology::POLLERS_BUCKET};
use symbia_projections::{
    Scope,
    integrations::{self as model, ChannelConnection},
};
use time::OffsetDateTime;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Channels, gateway::Session, line::Account, messenger::Refused};

/// Between two looks at what is to be asked, and at who asks.
const LOOK: Duration = Duration::from_secs(1);
/// How long a question may wait for something to be said.
const WAITS: Duration = Duration::from_secs(25);
/// How long a process holds a connection that it does not write about.
pub(super) const HOLDS: time::Duration = time::Duration::seconds(60);
/// Pause after something went wrong.
const PAUSE: Duration = Duration::from_secs(5);

/// Who asks, and where they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    holder: String,
    /// Seconds since 1970.
    until: i64,
    /// What was said from here on is asked for.
    offset: i64,
    /// What is listened to, and up to where was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
}

/// A connection that this process holds.
pub(super) struct Hold<'h> {
    bucket: &'h kv::Store,
    key: &'h str,
    pub held: Held,
    revision: u64,
}

impl<'h> Hold<'h> {
    /// None while another process holds it.
    async fn take(bucket: &'h kv::Store, key: &'h str, holder: &str) -> anyhow::Result<Option<Self>> {
        let entry = bucket.entry(key).await?.filter(|entry| entry.operation == kv::Operation::Put);
        let (former, revision) = match &entry {
            Some(entry) => (serde_json::from_slice::<Held>(&entry.value).unwrap_or_default(), entry.revision),
            None => (Held::default(), 0),
        };
        if former.holder != holder && former.until > OffsetDateTime::now_utc().unix_timestamp() {
            return Ok(None);
        }
        let held = Held { holder: holder.to_owned(), ..former };
        let mut hold = Hold { bucket, key, held, revision };
        Ok(hold.write(HOLDS).await?.then_some(hold))
    }

    /// False when somebody else has written meanwhile.
    pub(super) async fn write(&mut self, holds: time::Duration) -> anyhow::Result<bool> {
        self.held.until = (OffsetDateTime::now_utc() + holds).unix_timestamp();
        let value = serde_json::to_vec(&self.held)?;
        match self.bucket.update(self.key, value.into(), self.revision).await {
            Ok(revision) => {
                self.revision = revision;
                Ok(true)
            }
            Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Channels {
    /// Asks until `stop`.
    pub async fn poll(self, stop: CancellationToken) {
        let (holder, mut asking, mut asked) = (Uuid::new_v4().to_string(), JoinSet::new(), HashSet::new());
        while !stop.is_cancelled() {
            match self.polled().await {
                Ok(found) => {
                    for connection in found {
                        if asked.insert(connection.id.clone()) {
                            let (channels, holder, stop) = (self.clone(), holder.clone(), stop.clone());
                            asking.spawn(async move { channels.keep_asking(connection.id, &holder, &stop).await });
                        }
                    }
                }
                Err(error) => tracing::warn!(error = format!("{error:#}"), "it is not known whom to ask"),
            }
            let next = Instant::now() + LOOK;
            while let Ok(Some(ended)) = tokio::time::timeout_at(next, asking.join_next()).await {
                match ended {
                    Ok(id) => _ = asked.remove(&id),
                    Err(error) => tracing::error!(%error, "asking a messenger ended"),
                }
            }
            tokio::select! { () = stop.cancelled() => {}, () = tokio::time::sleep_until(next) => {} }
        }
        while asking.join_next().await.is_some() {}
    }

    async fn polled(&self) -> anyhow::Result<Vec<ChannelConnection>> {
        let mut tx = self.0.reader.read(&Scope::platform()).await?;
        Ok(model::polled_connections(&mut tx).await?)
    }

    // Until it is not to be asked any more, or somebody else asks it. Gives the id back.
    async fn keep_asking(&self, id: String, holder: &str, stop: &CancellationToken) -> String {
        let asking = async {
            let bucket = jetstream::new(self.0.client.clone()).get_key_value(POLLERS_BUCKET).await?;
            let Some(mut hold) = Hold::take(&bucket, &id, holder).await? else { return Ok(()) };
            let asked = tokio::select! {
                asked = self.ask(&id, &mut hold) => asked,
                () = stop.cancelled() => Ok(()),
            };
            // Whoever comes next need not wait.
            hold.write(time::Duration::ZERO).await?;
            asked
        };
        if let Err(error) = asking.await {
            let error: anyhow::Error = error;
            tracing::warn!(connection = id, error = format!("{error:#}"), "a messenger is not asked, trying again");
            tokio::select! { () = stop.cancelled() => {}, () = tokio::time::sleep(PAUSE) => {} }
        }
        id
    }

    async fn ask(&self, id: &str, hold: &mut Hold<'_>) -> anyhow::Result<()> {
        loop {
            let connection = self.connection(id).await?.filter(ChannelConnection::is_used);
            let Some(connection) = connection else { return Ok(()) };
            match connection.mode.as_str() {
                "polling" => {}
                "gateway" => return self.listen(id, hold).await,
                _ => return Ok(()),
            }
            let line = self.line(Account::from(&connection)).await?;
            let updates = match line {
                Ok(line) => line.updates(hold.held.offset, WAITS).await,
                Err(refused) => Err(refused),
            };
            match updates {
                Ok(updates) => {
                    for update in updates {
                        let next = update["update_id"].as_i64().context("an update without an id")? + 1;
                        let said = self.take_in(&connection, &update.to_string(), None).await?;
                        anyhow::ensure!(said != Said::Unavailable, "an update was not taken in");
                        hold.held.offset = next;
                    }
                    self.goes_well(&connection).await?;
                }
                Err(refused) => self.goes_wrong(&connection, refused).await?,
            }
            if !hold.write(HOLDS).await? {
                return Ok(());
            }
        }
    }

    pub(super) async fn goes_well(&self, connection: &ChannelConnection) -> anyhow::Result<()> {
        if connection.consecutive_errors == 0 {
            return Ok(());
        }
        let recovery = RecordChannelRecovery { connection_id: connection.id.clone() };
        self.note(None, &connection.org_id.parse()?, &connection.id, recovery, CommandId::random()).await
    }

    pub(super) async fn goes_wrong(&self, connection: &ChannelConnection, refused: Refused) -> anyhow::Result<()> {
        tracing::info!(connection = connection.id, code = refused.code, "a messenger does not tell what was said");
        let (connection_id, pause) =
            (connection.id.clone(), refused.after.unwrap_or(PAUSE).min(HOLDS.unsigned_abs() / 2));
        let error = RecordChannelError { connection_id, code: refused.code, fatal: refused.fatal };
        self.note(None, &connection.org_id.parse()?, &connection.id, error, CommandId::random()).await?;
        tokio::time::sleep(pause).await;
        Ok(())
    }
}
