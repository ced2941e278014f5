//! Posts events to the addresses of nodes, signed under each one's key and with what a bridge presents: those that the
//! deliverer gives to no socket, and those that are not kept, which the services hand over (network.md §8.8, 8.9).

use std::convert::Infallible;

use async_nats::Client;
use futures::StreamExt;
use symbia_nats::mesh::{COURIERS, PARCELS, Parcel};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::{
    Post,
    bridges::{Bridges, Presented},
};
use crate::{again, egress_policies::EgressPolicies};

/// Parcels that are on their way at once.
const AT_ONCE: usize = 256;

/// Posts. Cheap to clone.
#[derive(Clone)]
pub struct Courier {
    pub(super) client: Client,
    pub(super) bridges: Bridges,
    pub(super) post: Post,
    pub(super) policies: EgressPolicies,
}

impl Courier {
    /// Posts a parcel once. The error within is a code.
    pub(super) async fn send(&self, parcel: &Parcel) -> anyhow::Result<Result<(), String>> {
        let bearer = match self.bridges.presented(&parcel.org, &parcel.node).await? {
            Presented::Nothing => None,
            Presented::Bearer(secret) => Some(Zeroizing::new(format!("Bearer {}", *secret))),
            Presented::Denied => return Ok(Err("credential_denied".to_owned())),
        };
        let mut headers = vec![
            ("x-symbia-event-id", parcel.event_id.as_str()),
            ("x-symbia-run-id", &parcel.run_id),
            ("x-symbia-timestamp", &parcel.timestamp),
            ("x-symbia-hash", &parcel.hash),
            ("x-symbia-signature", &parcel.signature),
        ];
        headers.extend(bearer.as_ref().map(|bearer| ("authorization", bearer.as_str())));
        let policy = self.policies.of(&parcel.org).await?;
        Ok(self.post.send(&parcel.endpoint, &headers, serde_json::to_vec(&parcel.body)?.into(), policy).await)
    }

    /// Posts what the services hand over, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        again::consume(&stop, "events that are not kept", || self.follow()).await;
    }

    async fn follow(&self) -> Result<Infallible, async_nats::Error> {
        let handed = self.client.queue_subscribe(PARCELS, COURIERS.to_owned()).await?;
        let each = async |message: async_nats::Message| {
            let (Some(reply), Ok(parcel)) = (message.reply, serde_json::from_slice::<Parcel>(&message.payload)) else {
                return;
            };
            let answer = match self.send(&parcel).await {
                Ok(posted) => posted.err().unwrap_or_default(),
                Err(error) => {
                    tracing::warn!(
                        node = parcel.node,
                        error = format!("{error:#}"),
                        "an event that is not kept is lost"
                    );
                    "unavailable".to_owned()
                }
            };
            // Who handed it over waits no longer than it takes.
            let _ = self.client.publish(reply, answer.into()).await;
        };
        handed.for_each_concurrent(AT_ONCE, each).await;
        Err("the subscription ended".into())
    }
}
