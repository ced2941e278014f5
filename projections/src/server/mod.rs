//! A PostgreSQL of our own: found, initialised, started, supervised and stopped.

mod cluster;
mod error;
mod find;
mod place;

pub use error::DatabaseServerError;
pub use find::{MINIMUM_VERSION, find_postgres};

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use symbia_nats::process::{
    self, DirectoryLock, FoundBinary, Launch, Signal, Supervised, end_leftover, free_port, port_is_free,
};

use error::{Error, io_error};

/// Owner of the cluster, and name of the database.
const NAME: &str = "symbia";
/// Recovery after a crash takes as long as the work since the last checkpoint.
const READY_WITHIN: Duration = Duration::from_secs(120);
const STOP_GRACE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(25);

/// Where and how our PostgreSQL runs.
#[derive(Debug, Clone)]
pub struct DatabaseServerOptions {
    /// Holds the cluster, its password and its logs; made when missing.
    pub data_dir: PathBuf,
    /// Port on 127.0.0.1; 0 takes a free one.
    pub port: u16,
    /// Directory of `initdb` and `postgres`; without it, [`find_postgres`] looks for one.
    pub bin_dir: Option<PathBuf>,
    /// Directories to look in after the system's own.
    pub extra_bin_dirs: Vec<PathBuf>,
}

impl DatabaseServerOptions {
    /// A server with its data in `data_dir`, on a free port.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), port: 0, bin_dir: None, extra_bin_dirs: Vec::new() }
    }
}

/// A running PostgreSQL with an empty or kept database `symbia`, on 127.0.0.1 only. It is started again on the same
/// port and data when it dies, until [`stop`](Self::stop) or drop.
pub struct DatabaseServer {
    server: Supervised,
    port: u16,
    password: String,
    log: PathBuf,
    binary: FoundBinary,
    _lock: DirectoryLock,
}

impl DatabaseServer {
    /// Starts the server, which initialises the cluster at the first time, and returns when the database takes
    /// connections. A server that a crash of an earlier process left on this data directory is ended first.
    ///
    /// PostgreSQL refuses to run as root: for root it runs as `postgres` or `nobody`, and when that account cannot
    /// reach the data directory the cluster is kept under `SYMBIA_POSTGRES_DIR` [default: `/var/tmp`], as the file
    /// `postgres.location` says.
    pub async fn start(options: DatabaseServerOptions) -> Result<Self, Error> {
        let binary = match &options.bin_dir {
            Some(directory) => find::check(directory)?,
            None => find_postgres(&options.extra_bin_dirs)?,
        };
        let logs = options.data_dir.join("logs");
        fs::create_dir_all(&logs).map_err(io_error("create", &logs))?;
        let data_dir = options.data_dir.canonicalize().map_err(io_error("resolve", &options.data_dir))?;
        let log = data_dir.join("logs").join("postgres.log");

        let lock_file = data_dir.join("postgres.lock");
        let lock = DirectoryLock::take(&lock_file).map_err(io_error("lock", &lock_file))?;
        let lock = lock.ok_or_else(|| Error::AlreadyRunning(data_dir.clone()))?;

        let account = place::account()?;
        place::check_reachable(&binary.path, account)?;
        let place = place::prepare(&data_dir, account)?;
        let cluster = place.join("postgres");
        let postmaster = cluster.join("postmaster.pid");
        end_leftover(&postmaster, &cluster, Signal::INT).await.map_err(io_error("end the server of", &postmaster))?;
        // A pid file whose process is not ours would stop the start if its number is in use again. The server's own
        // second guard, the shared memory of the cluster, stays.
        remove_if_there(&postmaster)?;

        let port = match options.port {
            0 => free_port().map_err(io_error("find a free port for", &data_dir))?,
            port if port_is_free(port).map_err(io_error("listen for", &data_dir))? => port,
            port => return Err(Error::PortInUse(port)),
        };
        let password = cluster::password(&data_dir)?;
        if !cluster.join("PG_VERSION").exists() {
            cluster::initialise(&binary, &cluster, &password, account)?;
        }
        cluster::check_version(&cluster, &binary)?;
        place::own(&cluster, account)?;

        let launch = Launch {
            name: "postgres",
            program: binary.path.clone(),
            args: arguments(&cluster, port),
            env: Vec::new(),
            account: account.map(|account| (account.uid, account.gid)),
            directory: place,
            log: log.clone(),
            pid_file: data_dir.join("postgres.pid"),
            // Immediate shutdown: unlike SIGKILL it takes the backends along.
            quit: Signal::QUIT,
        };
        let server = Supervised::start(launch).map_err(io_error("start", &binary.path))?;
        let server = Self { server, port, password, log, binary, _lock: lock };
        server.create_database().await?;
        server.server.supervise();
        tracing::info!(port, version = %server.binary.version, pid = server.pid(), "database server is ready");
        Ok(server)
    }

    /// Waits until the server takes connections: at start, or after a crash.
    pub async fn ready(&self) -> Result<(), Error> {
        self.connect().await?.close().await.map_err(Error::Database)
    }

    async fn create_database(&self) -> Result<(), Error> {
        let mut connection = self.connect().await?;
        let exists = sqlx::query("SELECT FROM pg_database WHERE datname = $1").bind(NAME);
        if exists.fetch_optional(&mut connection).await?.is_none() {
            sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {NAME}"))).execute(&mut connection).await?;
        }
        Ok(connection.close().await?)
    }

    async fn connect(&self) -> Result<PgConnection, Error> {
        let began = Instant::now();
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username(NAME)
            .password(&self.password)
            .database("postgres")
            .ssl_mode(PgSslMode::Disable);
        loop {
            let error = match PgConnection::connect_with(&options).await {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            let log = self.log.clone();
            if let Some(exit) = self.server.ended() {
                let exit = exit.map_or_else(|| "unknown status".to_owned(), |status| status.to_string());
                return Err(Error::Ended { exit, tail: process::tail(&log), log });
            }
            // Class 28: the server is up and does not know us. Time does not help.
            let code = error.as_database_error().and_then(|error| error.code());
            if code.is_some_and(|code| code.starts_with("28")) {
                return Err(Error::Database(error));
            }
            if began.elapsed() > READY_WITHIN {
                return Err(Error::NotReady { source: error, tail: process::tail(&log), log });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Where clients connect, with the password of the owner.
    pub fn url(&self) -> String {
        format!("postgres://{NAME}:{}@127.0.0.1:{}/{NAME}?sslmode=disable", self.password, self.port)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The executable that runs.
    pub fn binary(&self) -> &FoundBinary {
        &self.binary
    }

    /// The log file of the server.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The server's process id, or `None` while it is down.
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// How often the server was started again after it died.
    pub fn restarts(&self) -> u64 {
        self.server.restarts()
    }

    /// Kills the server as a crash would (SIGKILL); supervision brings it back.
    pub fn kill(&self) {
        self.server.signal(Signal::KILL);
    }

    /// Ends the server in order (fast shutdown) and returns when it is gone.
    pub async fn stop(&self) {
        self.server.stop(Signal::INT, STOP_GRACE).await;
        tracing::info!(port = self.port, "database server is stopped");
    }
}

fn arguments(cluster: &Path, port: u16) -> Vec<OsString> {
    // A socket file would meet the 107 bytes that its path may have; TCP needs none.
    let settings = [
        "listen_addresses=127.0.0.1".to_owned(),
        format!("port={port}"),
        "unix_socket_directories=".to_owned(),
        "max_connections=100".to_owned(),
        "shared_buffers=128MB".to_owned(),
        "fsync=on".to_owned(),
        "logging_collector=off".to_owned(),
        "log_destination=stderr".to_owned(),
        "timezone=UTC".to_owned(),
        "log_timezone=UTC".to_owned(),
        "cluster_name=symbia".to_owned(),
    ];
    let settings = settings.into_iter().flat_map(|setting| [OsString::from("-c"), setting.into()]);
    [OsString::from("-D"), cluster.into()].into_iter().chain(settings).collect()
}

fn remove_if_there(file: &Path) -> Result<(), Error> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error("remove", file)(error)),
        _ => Ok(()),
    }
}
