//! The input file of a batch: where its lines are, and what stands in one.

use std::sync::Arc;

use futures::TryStreamExt;
use moka::sync::Cache;
use symbia_commands::integrations::{BatchLine, MAX_LINE};
use symbia_events::{Event, integrations::BatchEndpoint};
use symbia_nats::files::{FilesError, Found, Place};
use tokio::sync::OnceCell;

use super::{BatchRunner, Run, unavailable};

/// Bytes of what is remembered of where lines begin.
const REMEMBERED: u64 = 64 * 1024 * 1024;

/// Where lines begin, and how long they are.
#[derive(Default)]
pub(super) struct Lines(Vec<(u64, u32)>);

impl Lines {
    pub fn push(&mut self, offset: u64, text: &[u8]) {
        self.0.push((offset, u32::try_from(text.len()).unwrap_or(u32::MAX)));
    }
}

/// Where the lines of batches begin; read once for all who ask at a time, by organization and batch.
pub(super) type Known = Cache<(String, String), Arc<OnceCell<Lines>>>;

pub(super) fn known() -> Known {
    let size = |name: &(String, String), lines: &Arc<OnceCell<Lines>>| {
        let lines = lines.get().map_or(0, |lines| lines.0.len() * size_of::<(u64, u32)>());
        u32::try_from(name.0.len() + name.1.len() + lines).unwrap_or(u32::MAX)
    };
    Cache::builder().weigher(size).max_capacity(REMEMBERED).build()
}

/// A file, with its lines.
pub(super) struct Input {
    found: Found,
    endpoint: BatchEndpoint,
    lines: Arc<OnceCell<Lines>>,
}

/// Why it is not known where lines begin.
enum Unread {
    Gone,
    NotNow(anyhow::Error),
}

impl Input {
    /// A line by its place, from 0; none when the file cannot be read.
    pub async fn line(&self, line: u32) -> Result<Option<BatchLine>, FilesError> {
        let place = self.lines.get().and_then(|lines| lines.0.get(line as usize));
        let Some((offset, length)) = place else { return Ok(None) };
        match self.found.range(*offset, *length as usize).await {
            Ok(text) => Ok(BatchLine::read(self.endpoint, &text)),
            Err(error @ FilesError::Broker(_)) => Err(error),
            Err(_) => Ok(None),
        }
    }
}

impl BatchRunner {
    /// The file of a batch; none when there is none of whose batch it is.
    pub(super) async fn found(&self, run: &Run) -> Result<Option<Found>, FilesError> {
        let at = Place::stored(run.org(), &run.created.input_file_id);
        match self.files.find(&at, &run.key).await {
            Err(error @ FilesError::Broker(_)) => Err(error),
            Err(_) => Ok(None),
            found => found,
        }
    }

    /// The same with its lines; where it is gone the batch fails.
    pub(super) async fn input(&self, event: &Event, run: &Run) -> anyhow::Result<Option<Input>> {
        if let Some(found) = self.found(run).await? {
            let lines = self.known.get_with(run.name(), Arc::default);
            let is_new = !lines.initialized();
            match lines.get_or_try_init(|| self.lines(run)).await {
                Ok(_) => {
                    if is_new {
                        // Weighed once more, with what is in it now.
                        self.known.insert(run.name(), Arc::clone(&lines));
                    }
                    return Ok(Some(Input { found, endpoint: run.created.endpoint, lines }));
                }
                Err(Unread::NotNow(error)) => return Err(error),
                Err(Unread::Gone) => {}
            }
        }
        self.fail(event, &run.to, vec![unavailable()]).await?;
        Ok(None)
    }

    async fn lines(&self, run: &Run) -> Result<Lines, Unread> {
        let not_now = |error: FilesError| Unread::NotNow(error.into());
        let _reading = self.reading.acquire().await.map_err(|closed| Unread::NotNow(closed.into()))?;
        let found = self.found(run).await.map_err(not_now)?.ok_or(Unread::Gone)?;
        let mut lines = Lines::default();
        let read = each_line(found, |_, offset, text| {
            lines.push(offset, text);
            true
        });
        if readable(read.await).map_err(not_now)? { Ok(lines) } else { Err(Unread::Gone) }
    }
}

/// Whether a file could be read to its end; a broker that is away is asked again.
pub(super) fn readable(read: Result<(), FilesError>) -> Result<bool, FilesError> {
    match read {
        Ok(()) => Ok(true),
        Err(error @ FilesError::Broker(_)) => Err(error),
        Err(_) => Ok(false),
    }
}

/// Shows the lines that are not empty: each with its number, from 1, and where it begins, until that gives false or a line is
/// longer than any may be.
pub(super) async fn each_line(
    found: Found,
    mut see: impl FnMut(u32, u64, &[u8]) -> bool + Send,
) -> Result<(), FilesError> {
    let mut parts = Box::pin(found.bytes());
    let (mut held, mut begins, mut number) = (Vec::new(), 0, 1);
    let mut shown = |number: u32, begins: u64, line: &[u8]| {
        let text = line.trim_ascii_start();
        let begins = begins + (line.len() - text.len()) as u64;
        let text = text.trim_ascii_end();
        text.is_empty() || see(number, begins, text)
    };
    while let Some(part) = parts.try_next().await? {
        for piece in part.split_inclusive(|byte| *byte == b'\n') {
            held.extend_from_slice(piece);
            let whole = piece.ends_with(b"\n");
            if !whole && held.len() <= MAX_LINE {
                continue;
            }
            if !shown(number, begins, &held) || !whole {
                return Ok(());
            }
            begins += held.len() as u64;
            number += 1;
            held.clear();
        }
    }
    shown(number, begins, &held);
    Ok(())
}
