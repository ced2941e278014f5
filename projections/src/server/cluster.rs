//! Making the cluster: `initdb`, the owner's password, the version that made it.

use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use symbia_nats::process::FoundBinary;

use super::NAME;
use super::error::{Error, io_error};
use super::place::{Account, hand_over};

/// The owner's password, kept in a file that only we can read; made up at the first start.
pub(super) fn password(data_dir: &Path) -> Result<String, Error> {
    let file = data_dir.join("postgres.password");
    match fs::read_to_string(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        kept => return Ok(kept.map_err(io_error("read", &file))?.trim().to_owned()),
    }
    let password = BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 24]>());
    write_private(&file, &password)?;
    Ok(password)
}

fn write_private(file: &Path, text: &str) -> Result<(), Error> {
    let created = File::options().write(true).create_new(true).mode(0o600).open(file);
    created.and_then(|mut created| created.write_all(text.as_bytes())).map_err(io_error("write", file))
}

/// Makes the cluster beside its place and moves it there when complete, so that a crash leaves no half of one.
pub(super) fn initialise(
    binary: &FoundBinary,
    cluster: &Path,
    password: &str,
    account: Option<Account>,
) -> Result<(), Error> {
    let work = cluster.with_added_extension("new");
    let made = work.join("data");
    // Unicode rules for upper and lower case where the system has that locale; the order is by bytes in any case.
    let mut said = String::new();
    for character_types in ["C.UTF-8", "C"] {
        remove_all(&work)?;
        DirBuilder::new().mode(0o700).create(&work).map_err(io_error("create", &work))?;
        let password_file = work.join("password");
        write_private(&password_file, password)?;
        if let Some(account) = account {
            hand_over(&work, account)?;
        }
        let output = initdb(binary, &made, &password_file, character_types, account)?;
        if output.status.success() {
            remove_all(cluster)?;
            fs::rename(&made, cluster).map_err(io_error("move", &made))?;
            return remove_all(&work);
        }
        said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    }
    remove_all(&work)?;
    Err(Error::Initialise { cluster: cluster.to_owned(), said })
}

fn initdb(
    binary: &FoundBinary,
    made: &Path,
    password_file: &Path,
    character_types: &str,
    account: Option<Account>,
) -> Result<Output, Error> {
    let program = binary.path.with_file_name("initdb");
    let mut command = Command::new(&program);
    command
        .arg("-D")
        .arg(made)
        .arg("--pwfile")
        .arg(password_file)
        .args(["-U", NAME, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"])
        .args(["--lc-ctype", character_types, "--no-sync", "--no-instructions"])
        .current_dir("/")
        .stdin(Stdio::null());
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid);
    }
    command.output().map_err(io_error("run", &program))
}

/// A cluster runs only on the major version that made it.
pub(super) fn check_version(cluster: &Path, binary: &FoundBinary) -> Result<(), Error> {
    let file = cluster.join("PG_VERSION");
    let made_by = fs::read_to_string(&file).map_err(io_error("read", &file))?.trim().to_owned();
    if made_by == binary.version.0.to_string() {
        return Ok(());
    }
    Err(Error::OtherVersion { cluster: cluster.to_owned(), made_by, binary: binary.clone() })
}

fn remove_all(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}
