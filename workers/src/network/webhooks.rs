//! Telling participants from outside of messages and signals by their webhooks, signed as Standard Webhooks (messaging.md §8.12). Where a
//! webhook leads, and its secret, are looked up at each attempt: a later one goes where its owner wants it by then.

use anyhow::Context;
use bytes::Bytes;
use serde_json::{Value, json};
use symbia_commands::network::tells_of_conversation;
use symbia_events::{messaging::webhook_signature, network::EventRouted};
use symbia_projections::{
    ReadPool, Scope,
    messaging::{self as model, Webhook},
    secrets::SecretStore,
};
use time::OffsetDateTime;

use super::Post;
use crate::egress_policies::EgressPolicies;

/// The webhooks of participants.
pub(super) struct Webhooks {
    reader: ReadPool,
    secrets: SecretStore,
    post: Post,
    policies: EgressPolicies,
}

impl Webhooks {
    pub fn new(reader: ReadPool, secrets: SecretStore, post: Post, policies: EgressPolicies) -> Self {
        Webhooks { reader, secrets, post, policies }
    }

    /// Where a target is told of what happens in conversations; none for other events, and for who has named no address.
    pub async fn of(&self, routed: &EventRouted, target: &str) -> anyhow::Result<Option<Webhook>> {
        if !tells_of_conversation(routed) {
            return Ok(None);
        }
        let mut tx = self.reader.read(&Scope::platform()).await?;
        Ok(model::webhooks_of(&mut tx, &routed.org_id, &[target.to_owned()]).await?.pop())
    }

    /// Tells it once. The id is that of the event, at each attempt.
    pub async fn post(&self, to: &Webhook, routed: &EventRouted, data: &Value) -> anyhow::Result<Result<(), String>> {
        // It was removed or replaced just now: the next attempt sees that.
        let Some(secret) = self.secrets.secret(&to.secret_ref).await? else {
            return Ok(Err("no_secret".to_owned()));
        };
        let mut body = json!({
            "type": routed.payload_type, "timestamp": routed.timestamp, "eventId": routed.event_id, "runId": routed.run_id,
        });
        if let (Value::Object(body), Value::Object(data)) = (&mut body, data) {
            body.extend(data.clone());
        }
        let body = Bytes::from(serde_json::to_vec(&body)?);
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let signature = webhook_signature(&secret, &routed.event_id, now, &body).context("the secret of a webhook")?;
        let headers = [
            ("webhook-id", routed.event_id.as_str()),
            ("webhook-timestamp", &now.to_string()),
            ("webhook-signature", &signature),
        ];
        let policy = self.policies.of(&routed.org_id).await?;
        Ok(self.post.send(&to.url, &headers, body, policy).await)
    }
}
