//! Finding PostgreSQL's executables.

use std::path::{Path, PathBuf};
use std::{fs, io};

use symbia_nats::process::{FoundBinary, Version, on_path, version_of};

use super::error::Error;

/// The oldest PostgreSQL that the read models are tested on.
pub const MINIMUM_VERSION: Version = Version(15, 0, 0);

/// The newest `postgres` with an `initdb` beside it in the system's own directories, else the first that is new enough
/// on `PATH`, then in `extra_bin_dirs`. Distributions keep servers off `PATH`, one directory per major version.
pub fn find_postgres(extra_bin_dirs: &[PathBuf]) -> Result<FoundBinary, Error> {
    let on_path = on_path("postgres").into_iter().filter_map(|path| path.parent().map(Path::to_owned));
    let mut first_error = None;
    for directory in versioned().into_iter().chain(on_path).chain(extra_bin_dirs.iter().cloned()) {
        if !directory.join("postgres").is_file() {
            continue;
        }
        match check(&directory) {
            Ok(found) => return Ok(found),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or_else(|| Error::NotFound { searched: extra_bin_dirs.to_vec() }))
}

/// `/usr/lib/postgresql/<version>/bin` (Debian) and `/usr/pgsql-<version>/bin` (Red Hat), newest first.
fn versioned() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (parent, prefix) in [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")] {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let version = name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse::<u32>().ok());
            found.extend(version.map(|version| (version, entry.path().join("bin"))));
        }
    }
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, directory)| directory).collect()
}

/// The executable of one directory, when it is new enough.
pub(super) fn check(directory: &Path) -> Result<FoundBinary, Error> {
    let path = directory.join("postgres");
    let initdb = directory.join("initdb");
    let found = version_of(&path).and_then(|version| match initdb.is_file() {
        true => Ok(version),
        false => Err(io::Error::new(io::ErrorKind::NotFound, format!("{} is missing", initdb.display()))),
    });
    match found {
        Ok(version) if version < MINIMUM_VERSION => Err(Error::TooOld(FoundBinary { path, version })),
        Ok(version) => Ok(FoundBinary { path, version }),
        Err(source) => Err(Error::BadBinary { path, source }),
    }
}
