//! Which models are in memory, what they take, and which has to go when another needs the room.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use symbia_nats::inference::{Failure, FailureKind, Load, LoadedModel};
use tokio_util::sync::CancellationToken;

use super::job::Job;
use super::lane::{Kept, Told, kept, told};
use super::totals::Counters;

const MIB: u64 = 1 << 20;

/// The way to the thread of one model.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) id: u64,
    pub(super) jobs: Sender<Job>,
    pub(super) counters: Arc<Counters>,
    pub(super) told: Told,
    /// Bytes that it was expected to take.
    pub(super) needed: u64,
    pub(super) context_tokens: u32,
    pub(super) parallel: u32,
    pub(super) keep: Kept,
    /// Never unloaded by itself, nor for another.
    pub(super) pinned: bool,
    pub(super) stop: CancellationToken,
    pub(super) thread: JoinHandle<()>,
}

impl Opened {
    fn bytes(&self) -> u64 {
        told(&self.told).map_or(self.needed, |loaded| loaded.bytes())
    }

    fn loaded(&self) -> Option<LoadedModel> {
        let loaded = *told(&self.told);
        let (last_used, requests) = (self.counters.last_used(), self.counters.taken() as u64);
        let keep_seconds = kept(&self.keep).map(|keep| keep.as_secs());
        loaded.map(|loaded| LoadedModel { last_used, requests, keep_seconds, ..loaded })
    }
}

/// The models in memory.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    open: HashMap<String, Opened>,
    /// On their way out of memory.
    leaving: Vec<(String, Opened)>,
    ids: u64,
    closed: bool,
}

impl Lanes {
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    pub(super) fn get(&self, name: &str) -> Option<&Opened> {
        self.open.get(name)
    }

    pub(super) fn add(&mut self, name: &str, opened: Opened) {
        self.open.insert(name.to_owned(), opened);
    }

    pub(super) fn names(&self) -> Vec<String> {
        let leaving = self.leaving.iter().filter(|(_, lane)| !lane.thread.is_finished()).map(|(name, _)| name);
        let mut names: Vec<_> = self.open.keys().chain(leaving).cloned().collect();
        names.sort();
        names.dedup();
        names
    }

    /// What a model in memory takes; `Some(None)` while it is being loaded.
    pub(super) fn told(&self, name: &str) -> Option<Option<LoadedModel>> {
        let leaving = || self.leaving.iter().find(|(gone, lane)| gone == name && !lane.thread.is_finished());
        self.open.get(name).or_else(|| leaving().map(|(_, lane)| lane)).map(Opened::loaded)
    }

    /// Bytes that all take.
    pub(super) fn bytes(&self) -> u64 {
        let leaving = self.leaving.iter().map(|(_, lane)| lane).filter(|lane| !lane.thread.is_finished());
        self.open.values().chain(leaving).map(Opened::bytes).sum()
    }

    /// Whether a model is loaded in another way than is asked for.
    pub(super) fn differs(&self, name: &str, load: &Load) -> bool {
        self.open.get(name).is_some_and(|lane| {
            load.context_tokens.is_some_and(|tokens| tokens != lane.context_tokens)
                || load.parallel.is_some_and(|parallel| parallel != lane.parallel)
                || load.keep_alive.is_some_and(|seconds| (seconds < 0) != lane.pinned)
        })
    }

    /// Closes the way to a lane, if it is still the one of that id. Its thread ends with its last request.
    pub(super) fn close(&mut self, name: &str, id: u64) {
        if self.open.get(name).is_some_and(|lane| lane.id == id) {
            self.remove(name);
        }
    }

    /// A lane has given back what it had, and its thread ends with that.
    pub(super) fn left(&mut self, name: &str, id: u64) {
        self.close(name, id);
        self.leaving.retain(|(_, lane)| lane.id != id);
    }

    /// Unloads a model; what is under way ends first, or fails. False when it is not loaded.
    pub(super) fn unload(&mut self, name: &str, drain: bool) -> bool {
        let Some(lane) = self.remove(name) else { return false };
        if !drain {
            lane.stop.cancel();
        }
        true
    }

    // Without its sender, the lane's channel tells the thread that nothing will come.
    fn remove(&mut self, name: &str) -> Option<&Opened> {
        self.leaving.retain(|(_, lane)| !lane.thread.is_finished());
        let mut lane = self.open.remove(name)?;
        lane.jobs = std::sync::mpsc::channel().0;
        self.leaving.push((name.to_owned(), lane));
        self.leaving.last().map(|(_, lane)| lane)
    }

    /// Closes all; gives their threads.
    pub(super) fn close_all(&mut self) -> Vec<JoinHandle<()>> {
        self.closed = true;
        let open = std::mem::take(&mut self.open).into_values();
        let leaving = std::mem::take(&mut self.leaving).into_iter().map(|(_, lane)| lane);
        open.chain(leaving).map(|lane| lane.thread).collect()
    }

    /// Unloads idle models that are not pinned, the least recently used first, until so many bytes fit; gives the threads to
    /// wait for.
    pub(super) fn make_room(
        &mut self,
        name: &str,
        needed: u64,
        (budget, most): (Option<u64>, usize),
        is_pinned: impl Fn(&str) -> bool,
    ) -> Result<Vec<JoinHandle<()>>, Failure> {
        let mut threads = Vec::new();
        loop {
            let used = self.bytes();
            let fits = budget.is_none_or(|budget| used.saturating_add(needed) <= budget);
            if fits && (most == 0 || self.open.len() < most) {
                return Ok(threads);
            }
            let stays = |name: &str, lane: &Opened| lane.counters.taken() > 0 || lane.pinned || is_pinned(name);
            let idle = self.open.iter().filter(|(name, lane)| !stays(name, lane));
            let oldest =
                idle.min_by_key(|(_, lane)| (lane.counters.last_used(), lane.id)).map(|(name, _)| name.clone());
            match oldest.and_then(|oldest| Some((self.open.remove(&oldest)?, oldest))) {
                Some((lane, oldest)) => {
                    tracing::info!(model = oldest, by = name, "unloaded to make room");
                    threads.push(lane.thread);
                }
                None => return Err(no_room(name, needed, used, budget, self.open.len())),
            }
        }
    }
}

fn no_room(name: &str, needed: u64, used: u64, budget: Option<u64>, open: usize) -> Failure {
    let message = match budget.filter(|budget| used.saturating_add(needed) > *budget) {
        Some(budget) => format!(
            "model {name:?} needs {} MiB, and {} MiB of {} MiB are taken by models that are at work or pinned: try again later, load \
             it with fewer slots or a shorter context, or raise MODELS_MEMORY_BUDGET_MB",
            needed.div_ceil(MIB),
            used.div_ceil(MIB),
            budget / MIB
        ),
        None => format!(
            "{open} models are loaded and at work or pinned, and there may be no more: try again later, or raise MAX_LOADED_MODELS"
        ),
    };
    Failure::new(FailureKind::Memory, message)
}
