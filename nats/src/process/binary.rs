//! Finding an executable and asking it for its version.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fmt, io};

/// A version as programs print it; missing parts are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Version {
    /// The first version number in a text: `nats-server: v2.15.1` or `postgres (PostgreSQL) 17beta1`.
    pub fn find_in(text: &str) -> Option<Self> {
        let digits = &text[text.find(|c: char| c.is_ascii_digit())?..];
        let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
        let mut parts = digits[..end].split('.').map(|part| part.parse().unwrap_or(0));
        Some(Self(parts.next()?, parts.next().unwrap_or(0), parts.next().unwrap_or(0)))
    }
}

/// An executable that was found and asked for its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundBinary {
    /// Where it is.
    pub path: PathBuf,
    /// What it says it is.
    pub version: Version,
}

/// The executables of this name in the directories of `PATH`, in their order.
pub fn on_path(name: &str) -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|directory| directory.join(name)).filter(|candidate| candidate.is_file()).collect()
}

/// Runs `<binary> --version` and reads the answer.
pub fn version_of(binary: &Path) -> io::Result<Version> {
    let output = Command::new(binary).arg("--version").stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = output.status.success().then(|| Version::find_in(&text)).flatten();
    version.ok_or_else(|| {
        let said = if text.trim().is_empty() { String::from_utf8_lossy(&output.stderr) } else { text };
        io::Error::other(format!("`--version` ended with {} and said {:?}", output.status, said.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_programs_print_them() {
        assert_eq!(Version::find_in("nats-server: v2.15.1"), Some(Version(2, 15, 1)));
        assert_eq!(Version::find_in("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)"), Some(Version(15, 14, 0)));
        assert_eq!(Version::find_in("postgres (PostgreSQL) 17beta1"), Some(Version(17, 0, 0)));
        assert_eq!(Version::find_in("no number"), None);
        assert!(Version(2, 9, 0) < Version(2, 14, 0));
    }
}
