//! The servers under test: a broker of the benchmark's own, with the platform's streams.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use async_nats::Client;
use symbia_events::KeyRing;
use symbia_nats::{
    append::Grouping,
    broker::{Broker, BrokerOptions, Durability},
    store::{EventStore, StoreOptions},
    topology,
};
use symbia_workers::command::{CommandWorker, Decider, Handlers, Options};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A broker with the platform's streams. Dropping it ends it and removes its data.
pub struct Ground {
    broker: Broker,
    /// Signs and verifies.
    pub keys: Arc<KeyRing>,
    durability: Durability,
    dir: TempDir,
}

impl Ground {
    /// Starts a broker in a directory of its own.
    pub async fn open(durability: Durability) -> Result<Self> {
        let dir = directory()?;
        let broker = start(dir.path().join("nats"), durability).await?;
        let keys = Arc::new(KeyRing::generate(OffsetDateTime::now_utc()));
        let ground = Ground { broker, keys, durability, dir };
        topology::ensure(&async_nats::jetstream::new(ground.connect().await?), 1).await?;
        Ok(ground)
    }

    /// The directory of its data, and a place for another server's.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where the broker is.
    pub fn url(&self) -> String {
        self.broker.url()
    }

    /// A connection of its own, as each role has.
    pub async fn connect(&self) -> Result<Client> {
        Ok(async_nats::connect(self.broker.url()).await?)
    }

    /// An event store over a connection of its own, set up as the durability asks.
    pub async fn store(&self) -> Result<EventStore> {
        Ok(self.store_over(self.connect().await?))
    }

    fn store_over(&self, client: Client) -> EventStore {
        let grouping = if self.durability == Durability::Fsync { Grouping::Group } else { Grouping::Single };
        let options = StoreOptions { grouping, ..StoreOptions::default() };
        EventStore::new(client, Arc::clone(&self.keys), &options)
    }

    /// Stops the broker and starts it on the same data.
    pub async fn restart(self) -> Result<Self> {
        self.broker.stop().await;
        // It keeps its data locked until it is dropped.
        drop(self.broker);
        let broker = start(self.dir.path().join("nats"), self.durability).await?;
        Ok(Ground { broker, ..self })
    }

    /// Starts a command worker, its store over the same connection.
    pub async fn worker(&self, handlers: Handlers) -> Result<Worker> {
        let client = self.connect().await?;
        let decider = Decider::new(self.store_over(client.clone()), handlers);
        let worker = CommandWorker::new(client, decider.clone(), Options::default());
        let stop = CancellationToken::new();
        let token = stop.clone();
        Ok(Worker { decider, stop, task: tokio::spawn(worker.run(token)) })
    }
}

/// A temporary directory for servers.
pub fn directory() -> Result<TempDir> {
    let dir = TempDir::with_prefix("symbia-bench-")?;
    // For root the database runs as another account, which must get in.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711))?;
    Ok(dir)
}

async fn start(data_dir: PathBuf, durability: Durability) -> Result<Broker> {
    let options = BrokerOptions { durability, ..BrokerOptions::new(data_dir) };
    Ok(Broker::start(options).await?)
}

/// A running command worker.
pub struct Worker {
    /// What it decides with.
    pub decider: Decider,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Worker {
    /// Lets it finish and end.
    pub async fn stop(self) -> Result<()> {
        self.stop.cancel();
        Ok(tokio::time::timeout(Duration::from_secs(30), self.task).await??)
    }
}
