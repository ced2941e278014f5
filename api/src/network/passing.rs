//! The ephemeral lane: events that reach a socket of their target or its address, at most once, and are not stored (network.md
//! §8.9).

use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use symbia_commands::network::Letter;
use symbia_events::{
    SubjectKey,
    network::{Candidate, EventRouted},
};
use symbia_nats::mesh::{self, Offered, Parcel, Word};
use symbia_projections::network as model;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Network,
    sending::Sent,
    shapes::{self, Trace},
};
use crate::http::{ApiError, ApiResult};

/// How long a target may take.
const PATIENCE: Duration = Duration::from_secs(6);

impl Network {
    /// Offers an event to those it was routed to, once, and tells it to those who watch.
    pub(super) async fn pass(
        &self,
        routed: EventRouted,
        data: &Value,
        key: &SubjectKey,
        now: OffsetDateTime,
    ) -> ApiResult<Sent> {
        let mut row = model::RoutedEvent::accepted(routed.clone(), 0, Uuid::nil(), now);
        let offered = row.deliveries.keys().map(|target| self.offer(&routed, data, target));
        let offered: Vec<ApiResult<Offered>> = join_all(offered).await;
        let at = OffsetDateTime::now_utc();
        for (delivery, offered) in row.deliveries.values_mut().zip(offered) {
            delivery.at = at;
            delivery.duration_ms = u64::try_from((at - now).whole_milliseconds()).unwrap_or(0);
            (delivery.status, delivery.error_code) = match offered? {
                Offered::Taken => ("delivered".to_owned(), None),
                Offered::Absent => ("dead".to_owned(), Some("not_connected".to_owned())),
                Offered::Refused(code) => ("dead".to_owned(), Some(code)),
            };
        }
        row.settle(at);
        let trace = Trace::from(&row);
        let word = Word::Passing { event: shapes::event(&row, Some(key)), trace: json!(trace) };
        if let Err(error) = mesh::tell(&self.platform.nats, &routed.org_id, &word).await {
            tracing::debug!(%error, "those who watch are not told of an event that is not kept");
        }
        Ok(Sent { event_id: row.id, trace })
    }

    async fn offer(&self, routed: &EventRouted, data: &Value, target: &str) -> ApiResult<Offered> {
        let to = |c: &&Candidate| c.verdict.delivers() && c.final_target == target;
        let Some(candidate) = routed.candidates.iter().find(to) else { return Ok(Offered::Absent) };
        let letter = Letter::of(&self.platform.keys, routed, data, candidate).map_err(ApiError::internal)?;
        let body = letter.body.to_string().into();
        let offered = match mesh::offer(&self.platform.nats, &routed.org_id, target, body, PATIENCE).await {
            Ok(Offered::Absent) if !candidate.endpoint.is_empty() => {
                mesh::post(&self.platform.nats, &Parcel::of(routed, candidate, letter), PATIENCE).await
            }
            offered => offered,
        };
        offered.map_err(|error| {
            tracing::warn!(%error, "an event that is not kept is lost");
            ApiError::unavailable("The event bus", 2)
        })
    }
}
