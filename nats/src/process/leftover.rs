//! What a crash of ours leaves behind: telling a live owner of a data directory from a leftover server in it.

use std::fs::{File, TryLockError};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io};

use rustix::process::{Pid, Signal, kill_process};

const POLL: Duration = Duration::from_millis(20);
const GRACE: Duration = Duration::from_secs(10);

/// Held while a process of ours owns a data directory; the system releases it when that process ends in any way.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock, or gives `None` when another live process holds it.
    pub fn take(file: &Path) -> io::Result<Option<Self>> {
        let lock = File::options().create(true).truncate(false).write(true).open(file)?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { _file: lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// Ends the process named by the first word of `pid_file` if `marker`, a path that only our child is given, is one of
/// its arguments. Sends `signal`, then SIGKILL. Returns whether there was one. Call it only under the [`DirectoryLock`]: then its owner is dead. Where there is no
/// `/proc`, nothing is ended.
pub async fn end_leftover(pid_file: &Path, marker: &Path, signal: Signal) -> io::Result<bool> {
    let text = match fs::read_to_string(pid_file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        text => text?,
    };
    let Some(pid) = text.split_whitespace().next().and_then(|word| word.parse().ok()).and_then(Pid::from_raw) else {
        return Ok(false);
    };
    if !mentions(pid, marker) {
        return Ok(false);
    }
    tracing::warn!(pid = pid.as_raw_nonzero(), data = %marker.display(), "ending the server of an earlier run");
    let began = Instant::now();
    let mut insisted = false;
    let _ = kill_process(pid, signal);
    while mentions(pid, marker) {
        if began.elapsed() > GRACE && !insisted {
            insisted = true;
            kill_process(pid, Signal::KILL)?;
        }
        if began.elapsed() > GRACE * 2 {
            return Err(io::Error::other(format!("process {} does not end", pid.as_raw_nonzero())));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(true)
}

/// A zombie has no command line, so it counts as gone.
fn mentions(pid: Pid, marker: &Path) -> bool {
    let marker = marker.as_os_str().as_bytes();
    let command_line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    command_line.split(|byte| *byte == 0).any(|argument| argument == marker)
}
