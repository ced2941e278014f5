//! An open house for tools: what is configured or runs already, else the data directory's own servers for as long as it takes.

use std::sync::Arc;

use symbia_events::KeyRing;

use crate::{
    cli::DurabilityOption,
    config::Config,
    connect::{Addresses, Connected},
    home::Home,
    up::Servers,
};

/// An open house. Close it: servers that were started for it end with it.
pub struct Opened {
    /// The data directory.
    pub home: Home,
    /// Broker, database, keys.
    pub house: Connected,
    servers: Option<Servers>,
}

impl Opened {
    /// Connects, or starts the servers of the data directory.
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        let home = Home::open(config)?;
        let keys = Arc::new(home.key_ring()?);
        if Self::runs_elsewhere(config, &home) {
            let house = Connected::to(&Addresses::find(config, &home)?, keys).await?;
            return Ok(Opened { home, house, servers: None });
        }
        let servers = Servers::start(config, &home, DurabilityOption::Fsync, Some(0)).await?;
        match Self::connect(config, &servers, keys).await {
            Ok(house) => Ok(Opened { home, house, servers: Some(servers) }),
            Err(error) => {
                servers.stop().await;
                Err(error)
            }
        }
    }

    async fn connect(config: &Config, servers: &Servers, keys: Arc<KeyRing>) -> anyhow::Result<Connected> {
        Connected::to(&servers.addresses(config)?, keys).await
    }

    fn runs_elsewhere(config: &Config, home: &Home) -> bool {
        home.running().is_some() || (config.nats_url.is_some() && config.database_url.is_some())
    }

    /// Does the work and closes the house, however it ends.
    pub async fn with<T>(config: &Config, work: impl AsyncFnOnce(&Opened) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let opened = Self::open(config).await?;
        let result = work(&opened).await;
        opened.house.pool.close().await;
        if let Some(servers) = opened.servers {
            servers.stop().await;
        }
        result
    }
}
