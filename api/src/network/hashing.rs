//! The hash of an event: the signature that its publisher needs, or the original's for clients that compare it (network.md
//! §8.5).

use axum::extract::{DefaultBodyLimit, State};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use symbia_commands::network::{EVENTS_READ, EVENTS_WRITE};
use symbia_events::network::{Boundary, event_hash, legacy_hash, node_key};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::{
    Network,
    sending::{BODY_MAX, NewEvent, Payload},
};
use crate::http::{ApiError, ApiResult, Caller, Json, RequestScope, routes};

pub(super) fn routes() -> OpenApiRouter<Network> {
    OpenApiRouter::new().routes(routes!(hash)).layer(DefaultBodyLimit::max(BODY_MAX))
}

/// An event to be hashed.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Hashed {
    payload: RawPayload,
    source: String,
    run_id: String,
    #[serde(default)]
    #[schema(value_type = String)]
    boundary: Boundary,
    /// Absent or null is not the same for the original's hash.
    #[serde(default, deserialize_with = "symbia_commands::identity::present")]
    #[schema(value_type = Option<String>)]
    target: Option<Option<String>>,
    #[serde(default)]
    caused_by: Option<String>,
    #[serde(default)]
    source_entity_id: Option<String>,
    #[serde(default)]
    target_entity_id: Option<String>,
    #[serde(default)]
    id: Option<Uuid>,
    #[serde(default)]
    timestamp: Option<String>,
}

/// A payload as it came: the original's hash depends on the order of its members.
#[derive(Deserialize, ToSchema)]
struct RawPayload {
    #[serde(rename = "type")]
    event_type: String,
    #[schema(value_type = Object)]
    data: Box<RawValue>,
}

/// A hash.
#[derive(Serialize, ToSchema)]
struct HashOf {
    /// 64 hexadecimal digits.
    hash: String,
}

/// Get the signature that an event of one's own node needs (the node's owner)
///
/// Where the deployment has the original's secret, this is the original's hash instead, for who may read events.
#[utoipa::path(post, path = "/events/hash", tag = "Events", request_body = Hashed,
    responses((status = 200, description = "The hash", body = HashOf), (status = 400, description = "A field is not valid"),
        (status = 403, description = "Not allowed, or another's node")))]
async fn hash(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Json(event): Json<Hashed>,
) -> ApiResult<Json<HashOf>> {
    if let Some(secret) = &network.options.legacy_hash {
        network.place_for(&caller, &scope, EVENTS_READ)?;
        let target = event.target.map(|target| target.map_or(Value::Null, Value::from));
        let payload = (event.payload.event_type.as_str(), event.payload.data.get());
        let hash =
            |secret: &str| legacy_hash(secret, payload, &event.source, &event.run_id, event.boundary, target.as_ref());
        return Ok(Json(HashOf { hash: secret.with(hash) }));
    }
    let place = network.place_for(&caller, &scope, EVENTS_WRITE)?;
    let data: Value = serde_json::from_str(event.payload.data.get()).map_err(ApiError::internal)?;
    let (Some(id), Some(timestamp)) = (event.id, event.timestamp) else {
        return Err(ApiError::invalid("id, timestamp", "required", "are covered by the hash, and required"));
    };
    let whole = NewEvent {
        payload: Payload { event_type: event.payload.event_type, data },
        source: event.source,
        run_id: event.run_id,
        target: event.target.flatten(),
        caused_by: event.caused_by,
        boundary: event.boundary,
        source_entity_id: event.source_entity_id,
        target_entity_id: event.target_entity_id,
        id: Some(id),
        timestamp: Some(timestamp.clone()),
        signature: None,
    };
    whole.check()?;
    let node = network.node(&place, &whole.source).await?;
    Network::owned_source(&place, Some(&node.owner_id))?;
    let key = node_key(&network.platform.keys, place.org.as_str(), &node.id, &node.owner_id);
    let bytes = whole.bytes(place.org.as_str(), &id.to_string(), &timestamp, &whole.payload.data)?;
    Ok(Json(HashOf { hash: event_hash(key.as_bytes(), &bytes) }))
}
