//! What only the router can tell: it has the keys of providers.

use std::time::Duration;

use symbia_commands::Actor;
use symbia_nats::enquiry::{Enquiry, Found, What};

use super::{Integrations, said::Failure};
use crate::http::{ApiError, ApiResult};

/// Longest time for an answer.
const PATIENCE: Duration = Duration::from_secs(12);

impl Integrations {
    /// Asks a router in the name of whom an actor acts for.
    pub(super) async fn enquire(&self, actor: &Actor, org: String, what: What) -> ApiResult<Found> {
        let principal = actor.on_behalf_of.clone().unwrap_or_else(|| actor.id.clone());
        let enquiry = Enquiry { org, principal, what };
        let found = enquiry.ask(&self.platform.nats, PATIENCE).await.map_err(|error| {
            tracing::warn!(%error, "an enquiry is not answered");
            ApiError::unavailable("The router", 2)
        })?;
        match found {
            Found::Failed { category, code, message } => {
                let failure = Failure { code, ..Failure::new(category, "", message) };
                Err(failure.refusal())
            }
            found => Ok(found),
        }
    }
}
