//! What is refused on a mesh is told to its log, in bounded numbers (network.md §13.3).

use std::sync::{Arc, OnceLock};

use symbia_commands::network::RefusalKind;
use symbia_events::network::Candidate;
use symbia_nats::refusals::{Refusals as Noted, Refused};

use super::{Network, access::Place};
use crate::{http::ApiError, platform::Platform};

/// Opened when it is first needed: that is within a runtime.
#[derive(Clone, Default)]
pub(super) struct Refusals(Arc<OnceLock<Noted>>);

impl Refusals {
    pub fn tell(&self, platform: &Platform, refused: Refused<'_>) {
        self.0.get_or_init(|| Noted::open(platform.bus.clone(), Arc::clone(&platform.keys))).tell(refused);
    }
}

impl Network {
    fn note(&self, place: &Place, refused: (RefusalKind, &str), operation: &str, claimed: Option<&str>) {
        let refused = Refused {
            org: &place.org,
            // Who acted, not whom it acted for.
            principal: place.actor.id.as_str(),
            kind: refused.0,
            code: refused.1,
            operation,
            claimed_source: claimed,
        };
        self.refusals.tell(&self.platform, refused);
    }

    /// Has a refusal noted, where it is one that concerns who guards the mesh, and gives it.
    pub(super) fn refused(&self, place: &Place, operation: &str, claimed: Option<&str>, error: ApiError) -> ApiError {
        if let Some(kind) = RefusalKind::of_code(error.code()) {
            self.note(place, (kind, error.code()), operation, claimed);
        }
        error
    }

    /// Has it noted whom an event was not let reach.
    pub(super) fn not_routed(&self, place: &Place, source: &str, candidates: &[Candidate]) {
        for refused in candidates.iter().filter_map(|candidate| RefusalKind::of_verdict(candidate.verdict)) {
            self.note(place, refused, "event:send", Some(source));
        }
    }
}
