//! The log file of a child process.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// At a start, a log beyond this size becomes `<name>.1`, replacing the one before.
const ROTATE_AT: u64 = 16 << 20;
const TAIL: u64 = 2_000;

/// Opens a child's log for appending.
pub(super) fn open(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() > ROTATE_AT) {
        fs::rename(path, path.with_added_extension("1"))?;
    }
    File::options().create(true).append(true).open(path)
}

/// The last lines of a log, for an error message; empty when there are none.
pub fn tail(path: &Path) -> String {
    let read = || {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(TAIL);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        // A tail that starts inside a line loses that line.
        Ok::<_, io::Error>(match text.split_once('\n') {
            Some((_, rest)) if start > 0 => rest.to_owned(),
            _ => text,
        })
    };
    read().unwrap_or_default()
}
