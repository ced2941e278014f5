//! How much may be sent: by a contract in a second, and by a principal over its sockets, in all processes together (network.md
//! §8.10).

use std::{collections::BTreeMap, time::Duration};

use axum::http::StatusCode;
use symbia_commands::network::MeshView;
use symbia_events::{
    OrgId,
    network::{Candidate, Verdict},
};
use symbia_nats::witness::FLOOD;

use super::Network;
use crate::http::{ApiError, ApiResult, Caller, rate::Quota};

/// Calls of one principal over its sockets: a service sends many.
const CALLS: Quota = Quota { burst: 1000, per: Duration::from_secs(1) };

impl Network {
    /// Refuses what goes beyond what contracts let pass. An event counts once for each contract.
    pub(super) async fn limit(&self, org: &OrgId, source: &str, view: &MeshView, candidates: &mut [Candidate]) {
        let mut allowed: BTreeMap<String, bool> = BTreeMap::new();
        for candidate in candidates.iter_mut().filter(|candidate| candidate.verdict.delivers()) {
            let Some(contract) = &candidate.contract_id else { continue };
            let Some(most) = view.limit(source, contract) else { continue };
            if !allowed.contains_key(contract) {
                let quota = Quota { burst: most, per: Duration::from_secs(1) };
                let taken = self.flood.take(&format!("mesh:{org}:{contract}"), quota).await;
                allowed.insert(contract.clone(), taken.allowed);
            }
            if allowed.get(contract) == Some(&false) {
                (candidate.verdict, candidate.reason) = (Verdict::RateLimited, Some("rate_limited".to_owned()));
            }
        }
    }

    /// Counts a call over a socket.
    ///
    /// # Errors
    /// 429 RATE_LIMIT_EXCEEDED.
    pub(super) async fn admits_call(&self, caller: &Caller) -> ApiResult<()> {
        let bucket = format!("network:calls:{}", caller.id);
        if self.flood.take(&bucket, CALLS).await.allowed {
            return Ok(());
        }
        let text = "Too many calls: wait, then go on";
        Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, FLOOD, text))
    }
}
