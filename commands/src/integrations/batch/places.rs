//! So many batches of an organization are under way at a time: each holds one of its places from before its file is looked through
//! until its end. A place is a claim, which two batches that come at once cannot both have.

use symbia_events::{
    OrgId,
    integrations::{BatchAdmitted, BatchEvent},
};

use super::{AdmitBatch, Batch, BatchPhase};
use crate::{Claim, Decision, Rejection};

/// Most batches of an organization that are under way at a time.
pub const MAX_BATCHES: u32 = 20;
/// Why a place is not given: another batch has it.
pub const PLACE_TAKEN: &str = "BATCH_PLACE_TAKEN";

fn claim(org_id: &str, place: u32, batch_id: &str) -> Option<Claim> {
    let tenant: OrgId = org_id.parse().ok()?;
    Some(Claim { tenant, name: format!("batch:{place}"), holder: batch_id.to_owned(), taken: PLACE_TAKEN })
}

impl Batch {
    /// Whether it has a place among those of its organization.
    #[must_use]
    pub fn is_admitted(&self) -> bool {
        self.admitted.is_some()
    }

    pub(super) fn admit(&self, c: AdmitBatch) -> Result<Decision<BatchEvent>, Rejection> {
        self.known()?;
        if self.phase != BatchPhase::Validating {
            return Err(self.conflict());
        }
        if self.is_admitted() {
            return Ok(Decision::nothing());
        }
        let AdmitBatch { batch_id, org_id, place } = c;
        let claim = claim(&org_id, place, &batch_id).filter(|_| place < MAX_BATCHES);
        let claim = claim.ok_or_else(|| Rejection::invalid(format!("orgId; place: less than {MAX_BATCHES}")))?;
        Ok(Decision::one(BatchAdmitted { batch_id, org_id, place }).claiming(claim))
    }

    /// Its end, with which its place is free.
    pub(super) fn over(&self, end: impl Into<BatchEvent>) -> Decision<BatchEvent> {
        let decision = Decision::one(end);
        let held = self.admitted.as_deref().and_then(|at| claim(&at.org_id, at.place, &at.batch_id));
        match held {
            Some(claim) => decision.releasing(claim),
            None => decision,
        }
    }
}
