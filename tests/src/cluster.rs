//! A broker and a database of a test's own, on free ports and with data that vanishes with them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use symbia_nats::broker::{Broker, BrokerOptions};
use symbia_projections::server::{DatabaseServer, DatabaseServerOptions};
use tempfile::TempDir;

/// A running broker and database server. Dropping it ends both and removes their data.
pub struct TestServers {
    // Fields drop in this order: the servers end before their directory is removed.
    /// The broker, which syncs each write like the platform's own.
    pub broker: Broker,
    /// The database server, with an empty database.
    pub database: DatabaseServer,
    dir: TempDir,
}

impl TestServers {
    /// Starts both; about two seconds, nearly all of it for making the database cluster.
    pub async fn start() -> anyhow::Result<Self> {
        let dir = TempDir::with_prefix("symbia-test-")?;
        let broker = dir.path().join("nats");
        Self::start_in(dir, &broker).await
    }

    /// The same with the broker's data elsewhere.
    pub async fn with_broker_in(broker: &Path) -> anyhow::Result<Self> {
        Self::start_in(TempDir::with_prefix("symbia-test-")?, broker).await
    }

    async fn start_in(dir: TempDir, broker: &Path) -> anyhow::Result<Self> {
        // For root the database runs as another account, which must get in.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711))?;
        let broker = Broker::start(BrokerOptions::new(broker));
        let database = DatabaseServer::start(DatabaseServerOptions::new(dir.path().join("postgres")));
        let (broker, database) = tokio::join!(broker, database);
        Ok(Self { broker: broker?, database: database?, dir })
    }

    /// The directory of both servers' data, and a place for the test's own files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where NATS clients connect.
    pub fn nats_url(&self) -> String {
        self.broker.url()
    }

    /// Where PostgreSQL clients connect, as the owner of the database.
    pub fn database_url(&self) -> String {
        self.database.url()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use sqlx::{Connection, PgConnection};

    use super::*;

    #[tokio::test]
    async fn both_servers_answer_and_vanish_when_dropped() -> anyhow::Result<()> {
        let servers = TestServers::start().await?;
        async_nats::connect(servers.nats_url()).await?.flush().await?;
        PgConnection::connect(&servers.database_url()).await?.ping().await?;

        let ports = [servers.broker.port(), servers.database.port()];
        let dir = servers.dir().to_owned();
        drop(servers);
        assert!(ports.iter().all(|port| TcpStream::connect(("127.0.0.1", *port)).is_err()));
        assert!(!dir.exists());
        Ok(())
    }
}
