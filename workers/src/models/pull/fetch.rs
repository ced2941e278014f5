//! Files over HTTP into the model directory: gone on with after an interruption, within the room there is, held against their
//! digest before they are seen.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use reqwest::{
    Method, Response, StatusCode, Url,
    header::{LOCATION, RANGE},
};
use symbia_egress::EgressError;

use super::super::directory;
use super::{Inner, PullError, Pulled, Reason, Told, WantedFile, part_of};

/// Beyond this without a byte the connection is dead.
const SILENCE: Duration = Duration::from_secs(60);
/// Places that a server may send on to, one after the other.
const HOPS: usize = 5;
/// Attempts in a row that bring nothing.
const ATTEMPTS: u32 = 5;
/// Before the second attempt; twice as long before each that follows.
const PAUSE: Duration = Duration::from_millis(500);
/// What is left free of a disk.
const RESERVE: u64 = 256 << 20;

fn unreachable(url: &Url, why: &dyn std::fmt::Display) -> PullError {
    // Where a server sends on to may hold its secrets.
    let host = url.host_str().unwrap_or_default();
    PullError::new(
        Reason::Unreachable,
        format!("{host}: {why}; what has come is kept, and asking again goes on with it"),
    )
}

fn called(url: &Url, error: EgressError) -> PullError {
    match error {
        EgressError::Blocked(blocked) => {
            let host = url.host_str().unwrap_or_default();
            PullError::new(Reason::Blocked, format!("{host} is not called: {blocked}"))
        }
        other => unreachable(url, &other),
    }
}

/// Asks for a file from a byte on; where a server sends on to is held against the rules as well, and hears no token.
pub(super) async fn get(inner: &Inner, url: Url, from: u64) -> Result<Response, PullError> {
    let (hub, mut url) = (inner.options.hub.origin(), url);
    for _ in 0..=HOPS {
        let at_hub = url.origin() == hub;
        let egress = if at_hub { &inner.hub } else { &inner.open };
        let mut request = egress.request(Method::GET, url.clone()).map_err(|b| called(&url, b.into()))?;
        if let Some(token) = inner.options.hub_token.as_ref().filter(|_| at_hub) {
            request = request.bearer_auth(token.as_str());
        }
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let answer = tokio::time::timeout(SILENCE, request.send()).await;
        let answer = answer.map_err(|_| unreachable(&url, &"no answer"))?.map_err(|e| called(&url, e.into()))?;
        let place = answer.headers().get(LOCATION).filter(|_| answer.status().is_redirection());
        match place.and_then(|place| url.join(place.to_str().ok()?).ok()) {
            Some(next) => url = next,
            None => return Ok(answer),
        }
    }
    Err(unreachable(&url, &"sent on too often"))
}

/// A short answer.
pub(super) async fn read(answer: Response, most: usize) -> Result<Bytes, PullError> {
    let url = answer.url().clone();
    let read = tokio::time::timeout(SILENCE, symbia_egress::read(answer, most)).await;
    read.map_err(|_| unreachable(&url, &"no answer"))?.map_err(|error| called(&url, error))
}

/// Gets files one after the other; the first one describes the model.
pub(super) async fn all(inner: &Inner, files: &[WantedFile], told: &mut impl Told) -> Result<Pulled, PullError> {
    let dir = &inner.options.dir;
    let total: Option<u64> = files.iter().map(|file| file.bytes).sum();
    let (mut before, mut first) = (0, None);
    for file in files {
        let path = dir.join(&file.name);
        let is_there = path.exists();
        let from = if is_there { path.clone() } else { part_of(dir, &file.name) };
        // Held until the file is seen: nobody else writes to it meanwhile.
        let mut part = if is_there { None } else { Some(Part::open(&from)?) };
        if let Some(part) = &mut part {
            let mut told = |bytes: u64, length: Option<u64>| told(before + bytes, total.or(length));
            let fetched = part.fetch(inner, file, &mut told).await;
            // Of what never came, there is nothing to go on with.
            if fetched.is_err() && from.metadata().is_ok_and(|part| part.len() == 0) {
                fs::remove_file(&from)?;
            }
            fetched?;
        }
        let digest = digest_of(from.clone()).await?;
        match (digest == file.sha256, is_there) {
            (true, _) => {}
            (false, true) => {
                let message = format!("{} is there already, and is another file: delete it first", file.name);
                return Err(PullError::new(Reason::Taken, message));
            }
            (false, false) => {
                fs::remove_file(&from)?;
                let message =
                    format!("what came as {} has another digest than it must have, and is removed", file.name);
                return Err(PullError::new(Reason::Digest, message));
            }
        }
        if first.is_none() {
            let described = described(from.clone(), &path, digest).await;
            if described.is_err() && !is_there {
                fs::remove_file(&from)?;
            }
            first = Some(described?);
        }
        if !is_there {
            fs::rename(&from, &path)?;
            // The name lasts as well.
            File::open(dir)?.sync_all()?;
        }
        before += path.metadata()?.len();
        told(before, total.or(Some(before)));
    }
    let first = first.ok_or_else(|| PullError::new(Reason::NotFound, "there is no file to get"))?;
    Ok(Pulled { bytes: before, ..first })
}

pub(super) async fn digest_of(path: PathBuf) -> Result<String, PullError> {
    let digest = tokio::task::spawn_blocking(move || directory::digest(&path)).await;
    Ok(digest.map_err(std::io::Error::other)??)
}

/// What the file at `from` is, which is to be `path`; an error when it is no model.
pub(super) async fn described(from: PathBuf, path: &Path, sha256: String) -> Result<Pulled, PullError> {
    let (bytes, looked_at) = (from.metadata()?.len(), from);
    let details = tokio::task::spawn_blocking(move || directory::check(&looked_at)).await;
    let details = details.map_err(std::io::Error::other)?.map_err(|reason| {
        PullError::new(Reason::NotAModel, format!("the file is no model that can be used: it {reason}"))
    })?;
    let filename = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Pulled { filename, bytes, sha256, license: details.license })
}

/// A file that is not all there.
struct Part {
    file: File,
    room: u64,
    length: u64,
}

impl Part {
    fn open(path: &Path) -> Result<Self, PullError> {
        let mut file = File::options().create(true).append(true).open(path)?;
        if file.try_lock().is_err() {
            return Err(PullError::new(Reason::Taken, "the same file is being got already"));
        }
        let length = file.seek(SeekFrom::End(0))?;
        Ok(Part { file, room: 0, length })
    }

    async fn fetch(&mut self, inner: &Inner, wanted: &WantedFile, told: &mut impl Told) -> Result<(), PullError> {
        self.room = room(&inner.options.dir, inner.options.most_bytes)?;
        let mut failed = 0;
        loop {
            let before = self.length;
            if wanted.bytes == Some(before) {
                return Ok(());
            }
            let broke = match self.attempt(inner, wanted, told).await {
                Ok(()) => return Ok(self.file.sync_all()?),
                Err(error) if error.reason == Reason::Unreachable => error,
                Err(error) => return Err(error),
            };
            failed = if self.length > before { 1 } else { failed + 1 };
            if failed >= ATTEMPTS {
                return Err(broke);
            }
            tracing::info!(file = wanted.name, bytes = self.length, error = %broke, "a download broke off, going on");
            tokio::time::sleep(PAUSE * 2u32.pow(failed - 1)).await;
        }
    }

    async fn attempt(&mut self, inner: &Inner, wanted: &WantedFile, told: &mut impl Told) -> Result<(), PullError> {
        let mut answer = get(inner, wanted.url.clone(), self.length).await?;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT if self.length > 0 => {}
            // All of it is there, or more; its digest tells.
            StatusCode::RANGE_NOT_SATISFIABLE if self.length > 0 => return Ok(()),
            // The server begins anew.
            StatusCode::OK => self.empty()?,
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(unreachable(&wanted.url, &format!("it answers {status}")));
            }
            status => {
                let message = format!("{} answers {status}", wanted.url);
                return Err(PullError::new(Reason::NotFound, message));
            }
        }
        let total = answer.content_length().map(|left| self.length + left);
        let whole = total.or(wanted.bytes);
        self.fits(whole.map_or(0, |whole| whole.saturating_sub(self.length)))?;
        loop {
            let chunk = tokio::time::timeout(SILENCE, answer.chunk()).await;
            let chunk = chunk.map_err(|_| unreachable(&wanted.url, &"it fell silent"))?;
            let Some(chunk) = chunk.map_err(|error| called(&wanted.url, error.into()))? else { break };
            self.fits(chunk.len() as u64)?;
            self.file.write_all(&chunk)?;
            self.room -= chunk.len() as u64;
            self.length += chunk.len() as u64;
            told(self.length, whole);
        }
        if total.is_some_and(|total| self.length < total) {
            return Err(unreachable(&wanted.url, &"it broke off"));
        }
        Ok(())
    }

    fn empty(&mut self) -> Result<(), PullError> {
        self.file.set_len(0)?;
        self.room += self.length;
        self.length = 0;
        Ok(())
    }

    fn fits(&self, bytes: u64) -> Result<(), PullError> {
        if bytes <= self.room {
            return Ok(());
        }
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let message = format!(
            "{} MiB more are needed, and the model directory may grow by {} MiB: delete models, or raise MODELS_DISK_LIMIT_MB",
            mib(bytes),
            self.room >> 20
        );
        Err(PullError::new(Reason::Disk, message))
    }
}

/// Bytes by which the directory may grow.
fn room(dir: &Path, most: Option<u64>) -> Result<u64, PullError> {
    let disk = rustix::fs::statvfs(dir).map_err(std::io::Error::from)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize).saturating_sub(RESERVE);
    let Some(most) = most else { return Ok(free) };
    let used: u64 = fs::read_dir(dir)?.flatten().filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).sum();
    Ok(free.min(most.saturating_sub(used)))
}
