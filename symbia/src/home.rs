//! The data directory: secrets made once and kept in files that only the owner can read, and where a running `up` is.

use std::{
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::Context;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde::{Deserialize, Serialize};
use symbia_events::KeyRing;
use symbia_nats::callout::Issuer;
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
            self.save_key_ring(&KeyRing::generate(OffsetDateTime::now_utc()))?;
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
            replace(path, make().as_bytes())?;
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
    let new = path.with_extension("new");
    let write = || {
        let mut file = fs::File::options().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}
