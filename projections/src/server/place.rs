//! Where the cluster lies and which account runs it.

use std::env;
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::{Error, io_error};

/// Names the directory that holds the cluster when it is not the data directory.
const LOCATION: &str = "postgres.location";

/// Variable that names the directory for clusters that cannot lie in their data directory.
const ELSEWHERE: &str = "SYMBIA_POSTGRES_DIR";
const USUALLY: &str = "/var/tmp";

/// An account other than ours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Account {
    pub name: &'static str,
    pub uid: u32,
    pub gid: u32,
}

/// `None` when PostgreSQL runs as ourselves, which it does for everybody but root.
pub(super) fn account() -> Result<Option<Account>, Error> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let file = Path::new("/etc/passwd");
    let passwd = fs::read_to_string(file).map_err(io_error("read", file))?;
    let find = |name| {
        let line = passwd.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let mut ids = line.split(':').skip(1).map_while(|id| id.parse().ok());
        Some(Account { name, uid: ids.next()?, gid: ids.next()? })
    };
    find("postgres").or_else(|| find("nobody")).map(Some).ok_or(Error::NoAccount)
}

/// The directory that the cluster lies in, made and enterable by the account: the data directory, or one under
/// [`ELSEWHERE`] when the account cannot get there (a checkout below `/root`).
pub(super) fn prepare(data_dir: &Path, account: Option<Account>) -> Result<PathBuf, Error> {
    let Some(account) = account else { return Ok(data_dir.to_owned()) };
    let location = data_dir.join(LOCATION);
    if blocked(data_dir, account)?.is_none() {
        return Ok(data_dir.to_owned());
    }
    let digest = Sha256::digest(data_dir.as_os_str().as_bytes());
    let short: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let elsewhere = env::var_os(ELSEWHERE).map_or_else(|| PathBuf::from(USUALLY), PathBuf::from);
    let place = elsewhere.join(format!("symbia-{}-{short}", account.uid));
    // Without our note it is what a removed data directory left, and its password is lost.
    if !location.exists() && fs::symlink_metadata(&place).is_ok_and(|metadata| metadata.uid() == 0) {
        fs::remove_dir_all(&place).map_err(io_error("remove", &place))?;
    }
    match DirBuilder::new().mode(0o711).create(&place) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        made => made.map_err(io_error("create", &place))?,
    }
    // Everybody may be able to write there: only a directory of root's own is safe to hand to the server.
    let metadata = fs::symlink_metadata(&place).map_err(io_error("look at", &place))?;
    if !metadata.is_dir() || metadata.uid() != 0 {
        return Err(Error::Foreign(place));
    }
    fs::set_permissions(&place, fs::Permissions::from_mode(0o711)).map_err(io_error("open", &place))?;
    if !location.exists() {
        tracing::info!(place = %place.display(), account = account.name, "the database lies outside the data directory");
    }
    fs::write(&location, place.as_os_str().as_bytes()).map_err(io_error("write", &location))?;
    check_reachable(&place, Some(account))?;
    Ok(place)
}

/// Whether the account can get to a path.
pub(super) fn check_reachable(path: &Path, account: Option<Account>) -> Result<(), Error> {
    let Some(account) = account else { return Ok(()) };
    match blocked(path, account)? {
        Some(blocked) => Err(Error::Unreachable { account: account.name, path: path.to_owned(), blocked }),
        None => Ok(()),
    }
}

/// The first directory on the way to a path, or the path itself, that the account may not enter (or execute).
fn blocked(path: &Path, account: Account) -> Result<Option<PathBuf>, Error> {
    let path = path.canonicalize().map_err(io_error("resolve", path))?;
    let mut way: Vec<_> = path.ancestors().collect();
    way.reverse();
    for step in way {
        let metadata = fs::metadata(step).map_err(io_error("look at", step))?;
        let execute = match () {
            () if metadata.uid() == account.uid => 0o100,
            () if metadata.gid() == account.gid => 0o010,
            () => 0o001,
        };
        if metadata.mode() & execute == 0 {
            return Ok(Some(step.to_owned()));
        }
    }
    Ok(None)
}

/// Gives a directory and all in it to the account, if it is not its own yet.
pub(super) fn own(path: &Path, account: Option<Account>) -> Result<(), Error> {
    let owner = fs::metadata(path).map_err(io_error("look at", path))?.uid();
    match account {
        Some(account) if account.uid != owner => hand_over(path, account),
        _ => Ok(()),
    }
}

/// Gives a directory and all in it to the account. Links are not followed: they may lead out of it.
pub(super) fn hand_over(path: &Path, account: Account) -> Result<(), Error> {
    lchown(path, Some(account.uid), Some(account.gid)).map_err(io_error("change the owner of", path))?;
    if fs::symlink_metadata(path).map_err(io_error("look at", path))?.is_dir() {
        for entry in fs::read_dir(path).map_err(io_error("list", path))? {
            hand_over(&entry.map_err(io_error("list", path))?.path(), account)?;
        }
    }
    Ok(())
}
