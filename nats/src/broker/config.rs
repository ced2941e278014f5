//! The configuration file of our `nats-server`.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::BrokerOptions;

/// Largest message in bytes: a commit of many events, or one with a large body.
const MAX_PAYLOAD: u32 = 8 << 20;
const KEY_VARIABLE: &str = "SYMBIA_BROKER_STORE_KEY";

/// What a JetStream acknowledgement means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// The message is synced to disk: nothing acknowledged is lost, even when the operating system crashes.
    #[default]
    Fsync,
    /// The message is written, and synced within 100 ms: a crash of the server loses nothing acknowledged, a crash of
    /// the operating system up to 0.1 s.
    Interval,
}

/// The key that encrypts the broker's store. It cannot be printed.
#[derive(Clone)]
pub struct StoreKey(String);

impl StoreKey {
    /// Takes the key; any text will do, 32 random bytes in hex are a good one.
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreKey(…)")
    }
}

/// A name that tells this data directory's server from any other.
pub(super) fn server_name(data_dir: &Path) -> String {
    let digest = Sha256::digest(data_dir.as_os_str().as_bytes());
    let short: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("symbia-{short}")
}

pub(super) fn render(options: &BrokerOptions, name: &str, data_dir: &Path, port: u16) -> String {
    let store = quoted(&data_dir.join("jetstream").to_string_lossy());
    let sync = match options.durability {
        Durability::Fsync => "always",
        Durability::Interval => "\"100ms\"",
    };
    let encryption = match options.encryption_key {
        Some(_) => format!("  cipher: aes\n  key: ${KEY_VARIABLE}\n"),
        None => String::new(),
    };
    let extra = &options.extra_config;
    format!(
        "# Written at each start; changes are lost.\n\
         server_name: {name}\n\
         listen: \"127.0.0.1:{port}\"\n\
         max_payload: {MAX_PAYLOAD}\n\
         write_deadline: \"10s\"\n\
         lame_duck_duration: \"30s\"\n\
         jetstream {{\n  store_dir: {store}\n  sync_interval: {sync}\n{encryption}}}\n\
         {extra}\n"
    )
}

/// The store key goes by the environment, not by the file: a key beside the data would protect nothing. The server
/// parses the value like one in the file, hence the quotes.
pub(super) fn environment(options: &BrokerOptions) -> Vec<(OsString, OsString)> {
    let key = options.encryption_key.iter();
    key.map(|StoreKey(key)| (KEY_VARIABLE.into(), quoted(key).into())).collect()
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// Writes a file that only we can read, whatever stood there before.
pub(super) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file: File = File::options().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())
}
