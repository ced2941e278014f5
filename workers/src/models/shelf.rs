//! The model directory as it was seen last: looked at again when that is a while ago, or a model is not found.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use symbia_nats::inference::{Failure, FailureKind};

use super::directory::{self, Found};

const FRESH: Duration = Duration::from_secs(1);

/// A file as it was: another length or time is another file.
type Version = (PathBuf, u64, u64);

#[derive(Debug, Default)]
pub(super) struct Shelf {
    directory: PathBuf,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    at: Option<Instant>,
    models: BTreeMap<String, Found>,
    digests: HashMap<Version, String>,
    /// Files that another process has loaded without harm.
    probed: HashSet<Version>,
    /// Files that could not be loaded, and why.
    broken: HashMap<Version, Failure>,
}

fn version(found: &Found) -> Version {
    (found.path.clone(), found.model.bytes, found.model.modified)
}

impl Shelf {
    pub(super) fn new(directory: PathBuf) -> Self {
        Shelf { directory, seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All models, by id. An error when the directory cannot be read.
    pub(super) fn models(&self) -> io::Result<Vec<Found>> {
        let mut seen = self.seen();
        seen.look(&self.directory)?;
        Ok(seen.models.values().cloned().collect())
    }

    /// The model that a name means; a failure when it cannot be used.
    pub(super) fn find(&self, name: &str) -> Result<Found, Failure> {
        let directory = self.directory.display();
        let mut seen = self.seen();
        let fresh = seen.at.is_some_and(|at| at.elapsed() < FRESH) && directory::find(&seen.models, name).is_some();
        if !fresh {
            seen.look(&self.directory).map_err(|error| {
                let message = format!("the model directory {directory} cannot be read: {error}");
                Failure::new(FailureKind::ModelNotFound, message)
            })?;
        }
        let Some(found) = directory::find(&seen.models, name) else {
            let near = seen.nearest(name);
            let near = if near.is_empty() { String::new() } else { format!("; near: {}", near.join(", ")) };
            let message = format!(
                "there is no model {name:?}{near}: `symbia models list` shows those that there are, `symbia models pull` gets others"
            );
            return Err(Failure::new(FailureKind::ModelNotFound, message));
        };
        if let Some(failure) = seen.broken.get(&version(found)) {
            return Err(failure.clone());
        }
        if found.model.details.is_none() {
            let reason = found.model.reason.as_deref().unwrap_or("is no model");
            let message = format!("model {:?} cannot be used: {} {reason}", found.model.id, found.model.filename);
            return Err(Failure::new(FailureKind::ModelCorrupt, message));
        }
        Ok(found.clone())
    }

    /// Whether the file has been loaded without harm by another process.
    pub(super) fn is_probed(&self, path: &Path) -> bool {
        let seen = self.seen();
        seen.at_path(path).is_some_and(|version| seen.probed.contains(&version))
    }

    /// Another process has loaded the file without harm.
    pub(super) fn probed(&self, path: &Path) {
        let mut seen = self.seen();
        if let Some(version) = seen.at_path(path) {
            seen.probed.insert(version);
        }
    }

    /// The model's file cannot be loaded, until it is another.
    pub(super) fn broken(&self, id: &str, failure: &Failure) {
        let mut seen = self.seen();
        if let Some(version) = seen.models.get(id).map(version) {
            seen.broken.insert(version, failure.clone());
        }
    }

    /// Why the model's file cannot be loaded, when that was tried.
    pub(super) fn fault(&self, found: &Found) -> Option<String> {
        self.seen().broken.get(&version(found)).map(|failure| failure.message.clone())
    }

    /// Looks at the directory anew, and gives files another try that could not be used. Gives how many models there are.
    pub(super) fn rescan(&self) -> io::Result<usize> {
        let mut seen = self.seen();
        (seen.models, seen.broken) = (BTreeMap::new(), HashMap::new());
        seen.look(&self.directory)?;
        Ok(seen.models.len())
    }

    /// Deletes the files of the model with this id, if its file has this digest and was not changed after `before`.
    pub(super) fn remove(&self, id: &str, digest: &str, before: u64) -> io::Result<()> {
        let found = {
            let mut seen = self.seen();
            seen.look(&self.directory)?;
            seen.models.get(id).cloned()
        };
        let Some(found) = found.filter(|found| found.model.modified <= before) else { return Ok(()) };
        let known = self.digest(&found).filter(|known| !known.is_empty());
        if known.map_or_else(|| directory::digest(&found.path), Ok)? != digest {
            return Ok(());
        }
        for path in std::iter::once(&found.path).chain(&found.others) {
            std::fs::remove_file(path)?;
        }
        tracing::info!(model = id, "model deleted");
        self.seen().look(&self.directory)
    }

    /// The SHA-256 of the model's file, once it is computed.
    pub(super) fn digest(&self, found: &Found) -> Option<String> {
        self.seen().digests.get(&version(found)).cloned()
    }

    /// Computes one digest that is missing; false when none is. It takes as long as reading the file.
    pub(super) fn hash_one(&self) -> bool {
        let missing = {
            let seen = self.seen();
            let usable = seen.models.values().filter(|found| found.model.details.is_some());
            usable.map(version).find(|version| !seen.digests.contains_key(version))
        };
        let Some(version) = missing else { return false };
        // One that cannot be read is not tried again and again.
        let digest = directory::digest(&version.0).unwrap_or_default();
        self.seen().digests.insert(version, digest);
        true
    }
}

impl Seen {
    fn look(&mut self, directory: &Path) -> io::Result<()> {
        self.models = directory::read(directory, &self.models)?;
        self.at = Some(Instant::now());
        let there: HashSet<Version> = self.models.values().map(version).collect();
        self.digests.retain(|version, _| there.contains(version));
        self.probed.retain(|version| there.contains(version));
        self.broken.retain(|version, _| there.contains(version));
        Ok(())
    }

    fn at_path(&self, path: &Path) -> Option<Version> {
        self.models.values().find(|found| found.path == path).map(version)
    }

    /// Ids that begin like a name, at most three.
    fn nearest(&self, name: &str) -> Vec<String> {
        let wanted = directory::id_of(name);
        let alike = |id: &str| id.bytes().zip(wanted.bytes()).take_while(|(a, b)| a == b).count();
        let mut near: Vec<&String> = self.models.keys().filter(|id| alike(id) >= 3).collect();
        near.sort_by_key(|id| std::cmp::Reverse(alike(id)));
        near.into_iter().take(3).cloned().collect()
    }
}
