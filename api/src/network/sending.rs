//! Sending an event over the mesh (network.md §6.5, 8.4 to 8.6): who sends is held against the source's owner, what it signs
//! against its key, its clock against ours; then routing decides, and the log keeps the decision.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;
use symbia_commands::{
    Actor,
    network::{
        EVENT_MAX, EVENTS_WRITE, MeshEvent, MeshView, RouteEvent, RoutingCommand, is_ephemeral, is_pattern, is_reply,
        route,
    },
};
use symbia_events::{
    SubjectKey, check_token,
    messaging::content_key_id,
    network::{Boundary, HashedEvent, RoutingEvent, is_event_hash, node_key, service_hash, verify_service_hash},
};
use symbia_projections::network as model;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::{
    Network,
    access::{Place, address, forbidden, no_event, with_status},
    metrics,
    shapes::Trace,
};
use crate::http::{ApiError, ApiResult, Caller, Json, RequestScope, routes};

/// Deepest nesting of an event's data.
const DEEPEST: usize = 32;
/// Longest run id, in bytes.
const RUN_MAX: usize = 256;
/// Largest body: the data, escaped, and what is around it.
pub(super) const BODY_MAX: usize = 2 * EVENT_MAX;
/// Members that hold credentials. Events are kept, and read by many.
const CREDENTIALS: [&str; 14] = [
    "authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "password",
    "secret",
    "token",
    "accesstoken",
    "refreshtoken",
    "apikey",
    "api_key",
    "clientsecret",
    "client_secret",
    "_auth",
];

pub(super) fn routes() -> OpenApiRouter<Network> {
    OpenApiRouter::new().routes(routes!(send)).layer(DefaultBodyLimit::max(BODY_MAX))
}

/// What an event says.
#[derive(Clone, Deserialize, ToSchema)]
pub(super) struct Payload {
    /// Dotted name.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Any JSON of at most 128 kB, nested at most 32 levels deep. Credentials in it are not kept.
    #[serde(default)]
    pub data: Value,
}

/// An event to be sent, or to be thought through.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewEvent {
    pub payload: Payload,
    /// A node that the caller owns.
    pub source: String,
    pub run_id: String,
    /// Without it, the event goes to everyone whom a contract names.
    #[serde(default)]
    pub target: Option<String>,
    /// The event that it answers or follows.
    #[serde(default)]
    pub caused_by: Option<String>,
    /// `intra` (default), `inter` or `extra`; raised when the nodes are farther apart.
    #[serde(default)]
    #[schema(value_type = String)]
    pub boundary: Boundary,
    #[serde(default)]
    pub source_entity_id: Option<String>,
    #[serde(default)]
    pub target_entity_id: Option<String>,
    /// A UUID of the caller's choice: sending it again gives the first trace.
    #[serde(default)]
    pub id: Option<Uuid>,
    /// RFC 3339; at most five minutes off.
    #[serde(default)]
    pub timestamp: Option<String>,
    /// HMAC-SHA-256 in hexadecimal under the node's signing key, over the canonical JSON of the event. Needs `id` and
    /// `timestamp`.
    #[serde(default)]
    pub signature: Option<String>,
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

impl NewEvent {
    /// Refuses what cannot be an event.
    pub(super) fn check(&self) -> ApiResult<()> {
        let invalid = |path: &str, rule: &str, message: &str| Err(ApiError::invalid(path, rule, message));
        let event_type = self.payload.event_type.as_str();
        if event_type.contains('*') || !is_pattern(event_type) {
            return invalid("payload.type", "format", "must be a dotted name of at most 200 characters");
        }
        if depth(&self.payload.data) > DEEPEST {
            return invalid("payload.data", "depth", "must not be nested more than 32 levels deep");
        }
        if self.run_id.is_empty() || self.run_id.len() > RUN_MAX || self.run_id.chars().any(char::is_control) {
            return invalid("runId", "length", "must have 1 to 256 characters");
        }
        for (path, id) in [
            ("source", Some(&self.source)),
            ("target", self.target.as_ref()),
            ("causedBy", self.caused_by.as_ref()),
            ("sourceEntityId", self.source_entity_id.as_ref()),
            ("targetEntityId", self.target_entity_id.as_ref()),
        ] {
            if id.is_some_and(|id| check_token(id).is_err()) {
                return invalid(path, "format", "must have 1 to 128 of A-Z a-z 0-9 _ - : @ =");
            }
        }
        Ok(())
    }

    pub(super) fn routed<'e>(&'e self, reply_to: Option<&'e str>) -> MeshEvent<'e> {
        MeshEvent {
            event_type: &self.payload.event_type,
            source: &self.source,
            target: self.target.as_deref(),
            target_entity: self.target_entity_id.as_deref(),
            run_id: &self.run_id,
            boundary: self.boundary,
            reply_to,
        }
    }

    /// The event as it would be sent. Its hash is none: nobody can pass it off as one that was.
    pub(super) fn unsent(&self) -> Value {
        let mut wrapper = json!({
            "id": self.id.unwrap_or_else(Uuid::now_v7), "runId": self.run_id,
            "timestamp": crate::iso(OffsetDateTime::now_utc()), "source": self.source, "path": [self.source],
            "boundary": self.boundary,
        });
        if let Some(target) = &self.target {
            wrapper["target"] = json!(target);
        }
        let payload = json!({ "type": self.payload.event_type, "data": kept(&self.payload.data) });
        json!({ "payload": payload, "wrapper": wrapper, "hash": "0".repeat(64) })
    }

    /// What its hash covers, with data that may differ from what was sent.
    pub(super) fn bytes(&self, org: &str, id: &str, timestamp: &str, data: &Value) -> ApiResult<Vec<u8>> {
        let hashed = HashedEvent {
            v: 1,
            id,
            event_type: &self.payload.event_type,
            data,
            source: &self.source,
            target: self.target.as_deref(),
            run_id: &self.run_id,
            timestamp,
            boundary: self.boundary,
            caused_by: self.caused_by.as_deref(),
            source_entity_id: self.source_entity_id.as_deref(),
            target_entity_id: self.target_entity_id.as_deref(),
            org_id: Some(org),
        };
        hashed.bytes().map_err(ApiError::internal)
    }
}

// The data without credentials.
fn kept(data: &Value) -> Value {
    match data {
        Value::Array(items) => items.iter().map(kept).collect(),
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| {
                let secret = CREDENTIALS.contains(&name.to_ascii_lowercase().as_str()) && !value.is_number();
                (name.clone(), if secret { Value::from("[redacted]") } else { kept(value) })
            };
            Value::Object(members.iter().map(member).collect())
        }
        other => other.clone(),
    }
}

/// What an event answers: the source of the event that caused it, if that was delivered to this one's source in the same run.
pub(super) async fn reply_to(conn: &mut PgConnection, org: &str, event: &NewEvent) -> ApiResult<Option<String>> {
    let Some(cause) = &event.caused_by else { return Ok(None) };
    let cause = model::event(conn, org, cause).await?.filter(|cause| cause.run_id == event.run_id);
    Ok(cause.filter(|cause| cause.deliveries.contains_key(&event.source)).map(|cause| cause.source))
}

/// What is known of the mesh when an event comes.
struct Seen {
    view: Arc<MeshView>,
    earlier: Option<model::RoutedEvent>,
    reply_to: Option<String>,
}

/// What became of an event.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sent {
    pub event_id: String,
    pub trace: Trace,
}

impl Network {
    async fn seen(&self, place: &Place, event: &NewEvent, id: &str) -> ApiResult<Seen> {
        let org = place.org.as_str();
        let seen = self.seeing.ask(&place.org, id).await;
        if let Some((version, false)) = seen
            && event.caused_by.is_none()
            && let Some(view) = self.meshes.kept(org, version)
        {
            return Ok(Seen { view, earlier: None, reply_to: None });
        }
        let mut tx = self.platform.read(&place.reading).await?;
        let (version, was_sent) = match seen {
            Some(seen) => seen,
            None => {
                let (version, sent) = model::mesh_version_and_sent(&mut tx, org, &[id]).await?;
                (version, !sent.is_empty())
            }
        };
        Ok(Seen {
            view: self.meshes.of(&mut tx, org, version).await?,
            earlier: if was_sent { model::event(&mut tx, org, id).await? } else { None },
            reply_to: reply_to(&mut tx, org, event).await?,
        })
    }

    // The time of the event, and whether its publisher signed it.
    fn proved(&self, place: &Place, event: &NewEvent, id: &str, now: OffsetDateTime) -> ApiResult<(String, bool)> {
        if let Some(timestamp) = &event.timestamp {
            let at = OffsetDateTime::parse(timestamp, &Rfc3339)
                .map_err(|_| ApiError::invalid("timestamp", "format", "must be a time in RFC 3339"))?;
            let off = Duration::try_from((now - at).abs()).unwrap_or(Duration::MAX);
            if off > self.options.tolerance {
                let text = "timestamp: too far from the time here; set the clock";
                return Err(ApiError::new(StatusCode::BAD_REQUEST, "STALE_TIMESTAMP", text));
            }
        }
        let Some(signature) = &event.signature else {
            return Ok((event.timestamp.clone().unwrap_or_else(|| crate::iso(now)), false));
        };
        let (Some(timestamp), Some(_)) = (&event.timestamp, event.id) else {
            return Err(ApiError::invalid("signature", "required", "needs id and timestamp, which it covers"));
        };
        let key = node_key(&self.platform.keys, place.org.as_str(), &event.source, place.actor.subject());
        let bytes = event.bytes(place.org.as_str(), id, timestamp, &event.payload.data)?;
        if !is_event_hash(key.as_bytes(), &bytes, signature) {
            tracing::warn!(principal = %place.actor.id, org = %place.org, "a wrongly signed event is refused");
            return Err(forbidden("SIGNATURE_INVALID", "The signature is not that of this event"));
        }
        metrics::verified();
        Ok((timestamp.clone(), true))
    }

    async fn sent(&self, place: &Place, id: String) -> ApiResult<Sent> {
        let mut tx = self.platform.read(&place.reading).await?;
        let row = model::event(&mut tx, place.org.as_str(), &id).await?.ok_or_else(no_event)?;
        Ok(Sent { event_id: id, trace: Trace::from(&row) })
    }

    /// Sends an event: routes it, and has the log keep what was decided, unless it is of a kind that is not kept.
    pub(super) async fn send(&self, caller: &Caller, scope: &RequestScope, event: NewEvent) -> ApiResult<Sent> {
        let place = self.place_for(caller, scope, EVENTS_WRITE)?;
        event.check()?;
        let source = event.source.clone();
        let sent = self.send_from(&place, scope, event).await;
        sent.map_err(|error| self.refused(&place, "event:send", Some(&source), error))
    }

    async fn send_from(&self, place: &Place, scope: &RequestScope, event: NewEvent) -> ApiResult<Sent> {
        let org = place.org.as_str();
        let request = scope.command_id(&place.actor.id);
        let id = event.id.unwrap_or_else(|| Uuid::new_v5(&request, b"event")).to_string();
        let seen = self.seen(place, &event, &id).await?;
        let owner = seen.view.node(&event.source).map(|node| node.owner_id.as_str());
        Network::owned_source(place, owner)?;
        let now = OffsetDateTime::now_utc();
        let (timestamp, signed) = self.proved(place, &event, &id, now)?;
        let data = kept(&event.payload.data);
        if let Some(earlier) = &seen.earlier {
            self.repeats(place, &event, &data, earlier)?;
            return self.sent(place, id).await;
        }
        let text = data.to_string();
        if text.len() > EVENT_MAX {
            let text = "payload.data: at most 128 kB of JSON";
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "TOO_LARGE", text));
        }
        let (key_id, hash) = service_hash(&self.platform.keys, &event.bytes(org, &id, &timestamp, &data)?);
        let since = Instant::now();
        let mut decided = route(&event.routed(seen.reply_to.as_deref()), &seen.view, self.options.routing, now);
        metrics::evaluated(since.elapsed());
        self.limit(&place.org, &event.source, &seen.view, &mut decided.candidates).await;
        self.not_routed(place, &event.source, &decided.candidates);
        let key = match self.conversation_key(org, &event, &data).await? {
            Some(key) => key,
            None => self.mesh_key(&place.org).await?,
        };
        let command = RouteEvent {
            event_id: id.clone(),
            org_id: org.to_owned(),
            run_id: event.run_id,
            payload_type: event.payload.event_type,
            data: key.seal(&text),
            source: event.source,
            target: event.target,
            caused_by: event.caused_by,
            source_entity_id: event.source_entity_id,
            target_entity_id: event.target_entity_id,
            boundary: event.boundary,
            timestamp,
            hash,
            key_id,
            signed,
            sender_id: place.actor.subject().to_owned(),
            policy_set: seen.view.policies.digest().to_owned(),
            candidates: decided.candidates,
        };
        if is_ephemeral(&command.payload_type) {
            return self.pass(command.into(), &data, &key, now).await;
        }
        let by = Actor { on_behalf_of: Some(place.actor.id.clone()), ..Actor::service("network") };
        let to = address(&place.org, "routed-event", &id)?;
        let done = self.platform.submit_for_events(&to, &RoutingCommand::from(command), &by, scope).await;
        let stored = done.map_err(with_status)?.outcome.stored.into_iter().next();
        if let Some(event) = stored
            && let RoutingEvent::EventRouted(routed) = event.decode().map_err(ApiError::internal)?
        {
            let row = model::RoutedEvent::accepted(routed, 0, event.id, event.time);
            return Ok(Sent { event_id: id, trace: Trace::from(&row) });
        }
        // Sent before: as it is now.
        self.sent(place, id).await
    }

    // What goes into a conversation is erased with it.
    async fn conversation_key(&self, org: &str, event: &NewEvent, data: &Value) -> ApiResult<Option<SubjectKey>> {
        let target = event.target.as_deref().unwrap_or_default();
        let conversation = data["conversationId"].as_str().filter(|_| is_reply(target, &event.payload.event_type));
        let Some(conversation) = conversation else { return Ok(None) };
        Ok(self.platform.secrets.subject_key(&content_key_id(org, conversation)).await?)
    }

    // Refuses an event that is not the one which has its id already.
    fn repeats(&self, place: &Place, event: &NewEvent, data: &Value, earlier: &model::RoutedEvent) -> ApiResult<()> {
        // With the time of the first, the same event has the same hash.
        let time = event.timestamp.as_ref().unwrap_or(&earlier.timestamp);
        let bytes = event.bytes(place.org.as_str(), &earlier.id, time, data)?;
        let same = verify_service_hash(&self.platform.keys, &earlier.key_id, &bytes, &earlier.hash);
        if same.is_ok() && earlier.sender_id == place.actor.subject() {
            return Ok(());
        }
        Err(ApiError::new(StatusCode::CONFLICT, "EVENT_ID_CONFLICT", "Another event has this id"))
    }
}

/// Send an event from a node of one's own (`cap:network.events.write`)
///
/// It is routed at once, and delivered from then on: the trace says `pending` until a target has it. Events of the types
/// `obs.*`, `typing.*`, `agent.ping`, `agent.pong`, `stream.chunk` and `capture.frame` reach a socket of their target, else
/// its address, once or not at all, and are not kept.
#[utoipa::path(post, path = "/events", tag = "Events", request_body = NewEvent,
    responses((status = 202, description = "It is routed", body = Sent),
        (status = 400, description = "A field is not valid, the source is unknown, or its clock is off"),
        (status = 403, description = "Not allowed, another's node, or wrongly signed"),
        (status = 409, description = "Another event has this id"), (status = 413, description = "Too large")))]
async fn send(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Json(event): Json<NewEvent>,
) -> ApiResult<(StatusCode, Json<Sent>)> {
    Ok((StatusCode::ACCEPTED, Json(network.send(&caller, &scope, event).await?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_kept_wherever_they_stand() {
        let data =
            json!({ "a": [{ "Authorization": "Bearer x" }], "_auth": { "token": "x" }, "token": 7, "tokens": "y" });
        let expected =
            json!({ "a": [{ "Authorization": "[redacted]" }], "_auth": "[redacted]", "token": 7, "tokens": "y" });
        assert_eq!(kept(&data), expected);
    }
}
