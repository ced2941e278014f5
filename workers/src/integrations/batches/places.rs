//! So many batches of an organization are under way: one more is looked at no further.

use std::hash::{DefaultHasher, Hash, Hasher};

use symbia_commands::integrations::{AdmitBatch, MAX_BATCHES, PLACE_TAKEN};
use symbia_events::{Event, integrations::BatchError};

use super::{BatchRunner, Run, error};

/// Why a batch is one too many.
pub(super) fn too_many() -> BatchError {
    let message = format!(
        "the organization has {MAX_BATCHES} batches under way, and may have no more: wait for one of them, or cancel one"
    );
    error("too_many_batches", &message)
}

impl BatchRunner {
    /// Takes a place for a batch; false where all are taken.
    pub(super) async fn admitted(&self, event: &Event, run: &Run) -> anyhow::Result<bool> {
        if run.state.is_admitted() {
            return Ok(true);
        }
        // Not all of them look at the same one first.
        let mut hasher = DefaultHasher::new();
        run.id().hash(&mut hasher);
        let first = hasher.finish() % u64::from(MAX_BATCHES);
        for place in (0..u64::from(MAX_BATCHES)).map(|next| (first + next) % u64::from(MAX_BATCHES)) {
            let place = u32::try_from(place)?;
            let admit = AdmitBatch { batch_id: run.id().to_owned(), org_id: run.org().to_owned(), place };
            let outcome = self.record(event, &run.to, admit, &format!("admit-{place}")).await?;
            // What is refused for anything else was stopped meanwhile, and is not started.
            if outcome.rejection.is_none_or(|rejection| rejection.code != PLACE_TAKEN) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
