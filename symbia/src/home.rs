//! The data directory: secrets made once and kept in files that only the owner can read, and where a running `up` is.

use std::{
    fs,
    io::{self, ErrorKind, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde::{Deserialize, Serialize};
use symbia_events::KeyRing;
use symbia_nats::callout::Issuer;
use tempfile::NamedTempFile;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::config::Config;

/// Where a running `symbia up` can be reached; written for the tools that work beside it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Running {
    /// Process id of `up`.
    pub pid: u32,
    /// Broker, with credentials.
    pub nats_url: Zeroizing<String>,
    /// Broker, with the credentials of who answers it when it asks about clients.
    #[serde(default)]
    pub callout_url: Option<Zeroizing<String>>,
    /// Database, with credentials.
    pub database_url: Zeroizing<String>,
    /// Whether the broker syncs before it acknowledges.
    #[serde(default)]
    pub durability: String,
}

/// A data directory.
#[derive(Clone, Debug)]
pub struct Home {
    dir: PathBuf,
    ring: PathBuf,
    kek: PathBuf,
}

impl Home {
    /// The directory, made when missing (mode 0700).
    pub fn open(config: &Config) -> anyhow::Result<Self> {
        let keys = config.data_dir.join("keys");
        let private = fs::DirBuilder::new().recursive(true).mode(0o700).create(&keys);
        private.with_context(|| format!("the data directory {} cannot be made", config.data_dir.display()))?;
        let dir = config.data_dir.canonicalize()?;
        Ok(Home {
            ring: config.key_ring.clone().unwrap_or_else(|| dir.join("keys/ring.json")),
            kek: config.kek.clone().unwrap_or_else(|| dir.join("keys/kek")),
            dir,
        })
    }

    /// The directory's path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether a key ring was made.
    pub fn has_key_ring(&self) -> bool {
        self.ring.exists()
    }

    /// The key ring; fails when there is none.
    pub fn key_ring(&self) -> anyhow::Result<KeyRing> {
        let text = fs::read_to_string(&self.ring)
            .with_context(|| format!("no key ring at {}; `symbia migrate` makes one", self.ring.display()))?;
        KeyRing::from_json(&text).with_context(|| self.ring.display().to_string())
    }

    /// The key ring, made when there is none.
    pub fn ensure_key_ring(&self) -> anyhow::Result<KeyRing> {
        if !self.ring.exists() {
            create(&self.ring, KeyRing::generate(OffsetDateTime::now_utc()).to_json().as_bytes())?;
        }
        self.key_ring()
    }

    /// Replaces the key ring's file in one step.
    pub fn save_key_ring(&self, ring: &KeyRing) -> anyhow::Result<()> {
        replace(&self.ring, ring.to_json().as_bytes())
    }

    /// The key-encryption keys, a line each, the active one first; one is made when there is none.
    pub fn keks(&self) -> anyhow::Result<Vec<Zeroizing<[u8; 32]>>> {
        let text = self.ensure(&self.kek, random_key)?;
        text.lines().filter(|line| !line.trim().is_empty()).map(|line| key_of(line, &self.kek)).collect()
    }

    /// Puts a new key-encryption key before the others.
    pub fn rotate_kek(&self) -> anyhow::Result<()> {
        let text = self.ensure(&self.kek, random_key)?;
        replace(&self.kek, Zeroizing::new(format!("{}\n{}", *random_key(), *text)).as_bytes())
    }

    /// A secret of this directory, made at random when there is none.
    pub fn secret(&self, name: &str) -> anyhow::Result<Zeroizing<String>> {
        self.ensure(&self.dir.join("keys").join(name), random_key)
    }

    /// The key that signs what clients of the broker may do.
    pub fn broker_issuer(&self) -> anyhow::Result<Issuer> {
        let path = self.dir.join("keys").join("nats-issuer");
        let text = self.ensure(&path, random_key)?;
        Ok(Issuer::new(*key_of(&text, &path)?)?)
    }

    /// Notes where a running `up` is.
    pub fn note_running(&self, running: &Running) -> anyhow::Result<()> {
        replace(&self.dir.join("run.json"), &serde_json::to_vec_pretty(running)?)
    }

    /// Forgets it.
    pub fn forget_running(&self) {
        let _ = fs::remove_file(self.dir.join("run.json"));
    }

    /// Where a running `up` is, when there is one.
    pub fn running(&self) -> Option<Running> {
        let running: Running = serde_json::from_slice(&fs::read(self.dir.join("run.json")).ok()?).ok()?;
        Path::new("/proc").join(running.pid.to_string()).exists().then_some(running)
    }

    fn ensure(&self, path: &Path, make: impl FnOnce() -> Zeroizing<String>) -> anyhow::Result<Zeroizing<String>> {
        if !path.exists() {
            create(path, make().as_bytes())?;
        }
        crate::config::secret_file(path)
    }
}

fn key_of(line: &str, file: &Path) -> anyhow::Result<Zeroizing<[u8; 32]>> {
    let bytes = Zeroizing::new(BASE64URL.decode(line.trim()).with_context(|| file.display().to_string())?);
    let key: [u8; 32] = bytes
        .as_slice()
        .try_into()
        .with_context(|| format!("{} holds {} bytes instead of 32", file.display(), bytes.len()))?;
    Ok(Zeroizing::new(key))
}

/// 32 random bytes, base64url.
pub fn random_key() -> Zeroizing<String> {
    Zeroizing::new(BASE64URL.encode(rand::random::<[u8; 32]>()))
}

/// Writes a file beside and renames it: a crash leaves the old one or the new one, never half.
pub fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let written = beside(path, bytes).and_then(|new| Ok(new.persist(path).map(drop)?));
    written.with_context(|| format!("{} cannot be written", path.display()))
}

/// Makes a file where there is none. Of several processes that start at once, the first one's stays, and all read that.
fn create(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let made = beside(path, bytes).and_then(|new| match new.persist_noclobber(path) {
        Err(there) if there.error.kind() != ErrorKind::AlreadyExists => Err(there.error),
        _ => Ok(()),
    });
    made.with_context(|| format!("{} cannot be written", path.display()))
}

// Whole, for the owner alone, and under a name that no other process uses.
fn beside(path: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut new = NamedTempFile::new_in(directory)?;
    new.write_all(bytes)?;
    new.as_file().sync_all()?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, thread};

    use super::*;

    #[test]
    fn of_those_who_start_at_once_one_makes_the_secrets_and_all_have_the_same() {
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str| dir.path().join("keys").join(name);
            fs::create_dir(at("")).unwrap();
            let home = Home { dir: dir.path().to_owned(), ring: at("ring.json"), kek: at("kek") };
            let secrets = || {
                let (secret, keks, ring) = (home.secret("setup-token"), home.keks(), home.ensure_key_ring());
                (secret.unwrap(), keks.unwrap(), ring.unwrap().to_json())
            };
            let all = thread::scope(|scope| {
                let started: Vec<_> = (0..8).map(|_| scope.spawn(secrets)).collect();
                started.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
            });
            assert!(all.iter().all(|one| *one == all[0]));
            let files = fs::read_dir(at("")).unwrap().map(|file| file.unwrap());
            let modes: Vec<u32> = files.map(|file| file.metadata().unwrap().permissions().mode() & 0o777).collect();
            assert_eq!(modes, [0o600; 3], "nothing else is left, and nobody else reads them");
        }
    }
}
