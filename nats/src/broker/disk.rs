//! A full disk: nats-server does not write to a stream again on which a write failed, until it is restarted. So that it heals
//! without a hand, it is restarted once there is space again.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::process::Signal;

/// How often its log is looked at; only what is new is read.
const LOOK: Duration = Duration::from_secs(1);
/// What the server logs at each write to a stream that it gave up, also when there is space again: before, its log may have
/// been on the full disk itself.
const GIVEN_UP: [&str; 2] = ["no space left on device", "disk quota exceeded"];
/// Free bytes that make a restart worth it.
const ENOUGH: u64 = 16 << 20;

/// Watches the server's log until the guard is dropped.
pub(super) fn watch(log: PathBuf, signal: impl Fn(Signal) + Send + 'static) -> DropGuard {
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        let (mut read, mut given_up) = (log.metadata().map_or(0, |file| file.len()), false);
        loop {
            tokio::select! {
                () = stopped.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            if news(&log, &mut read).is_ok_and(|text| GIVEN_UP.iter().any(|mark| text.contains(mark))) && !given_up {
                given_up = true;
                tracing::error!(log = %log.display(), "the broker cannot write: free disk space, then it goes on by itself");
            }
            if given_up && free(&log).is_ok_and(|free| free >= ENOUGH) {
                given_up = false;
                tracing::warn!("there is disk space again, restarting the broker");
                signal(Signal::TERM);
            }
        }
    });
    stop.drop_guard()
}

// What was logged behind `read`; the log begins anew when it has grown large.
fn news(log: &Path, read: &mut u64) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(if length < *read { 0 } else { *read }))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    *read = length;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn free(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail * disk.f_frsize)
}
