//! Bridges to the outside (network.md §6.4, 8.13).

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use symbia_commands::network::{BridgeCommand, DeleteBridge, NODES_ADMIN, RegisterBridge, SetBridgeActive};
use symbia_events::{OrgId, network::BridgeType};
use symbia_projections::network as model;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::{
    Network,
    access::{Place, address},
    nodes::{Done, OK},
    shapes,
};
use crate::http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, routes};

pub(super) fn routes() -> OpenApiRouter<Network> {
    OpenApiRouter::new().routes(routes!(list, register)).routes(routes!(read, switch, delete))
}

/// How a bridge authenticates.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Config {
    /// A credential of the identity service. Secrets themselves are not taken here.
    #[serde(default)]
    credential_ref: Option<String>,
}

/// A bridge to be registered.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewBridge {
    name: String,
    /// `webhook`; `websocket`, `grpc` and `custom` can be registered and forward nothing yet.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    bridge_type: BridgeType,
    endpoint: String,
    /// What it forwards: names, `*`, or prefixes like `message.*`.
    event_types: Vec<String>,
    #[serde(default)]
    config: Option<Config>,
}

impl Network {
    async fn bridge(&self, place: &Place, id: &str) -> ApiResult<model::Bridge> {
        let mut tx = self.platform.read(&place.reading).await?;
        model::bridge(&mut tx, place.org.as_str(), id).await?.ok_or_else(|| ApiError::not_found("Bridge"))
    }

    /// Registers a bridge.
    pub(super) async fn make_bridge(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        new: NewBridge,
    ) -> ApiResult<shapes::Bridge> {
        let place = self.place_for(caller, scope, NODES_ADMIN)?;
        let id = Uuid::new_v5(&scope.command_id(&place.actor.id), b"bridge").to_string();
        let command = BridgeCommand::from(RegisterBridge {
            bridge_id: id.clone(),
            org_id: place.org.to_string(),
            name: new.name,
            bridge_type: new.bridge_type,
            endpoint: new.endpoint,
            event_types: new.event_types,
            credential_ref: new.config.and_then(|config| config.credential_ref),
        });
        self.submit(&place, &address(&place.org, "bridge", &id)?, &command, scope).await?;
        Ok(self.bridge(&place, &id).await?.into())
    }

    /// Switches a bridge on or off.
    pub(super) async fn switch_bridge(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        id: String,
        active: bool,
    ) -> ApiResult<shapes::Bridge> {
        let place = self.place_for(caller, scope, NODES_ADMIN)?;
        let to = address(&place.org, "bridge", &id)?;
        let command = BridgeCommand::from(SetBridgeActive { bridge_id: id.clone(), active });
        self.submit(&place, &to, &command, scope).await?;
        Ok(self.bridge(&place, &id).await?.into())
    }

    /// Removes a bridge.
    pub(super) async fn remove_bridge(&self, caller: &Caller, scope: &RequestScope, id: String) -> ApiResult<()> {
        let command = |_: &OrgId| BridgeCommand::from(DeleteBridge { bridge_id: id.clone() });
        self.act((caller, scope), Some(NODES_ADMIN), ("bridge", &id), command).await
    }
}

/// Register a bridge (`cap:network.nodes.admin`); contracts and events name it as `bridge:<id>`
#[utoipa::path(post, path = "/registry/bridges", tag = "Bridges", request_body = NewBridge,
    responses((status = 201, description = "The bridge", body = shapes::Bridge),
        (status = 400, description = "A field is not valid"), (status = 403, description = "Not allowed")))]
async fn register(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Json(new): Json<NewBridge>,
) -> ApiResult<(StatusCode, Json<shapes::Bridge>)> {
    Ok((StatusCode::CREATED, Json(network.make_bridge(&caller, &scope, new).await?)))
}

/// Bridges.
#[derive(Serialize, ToSchema)]
struct Bridges {
    bridges: Vec<shapes::Bridge>,
    count: usize,
}

/// List the bridges of the organization
#[utoipa::path(get, path = "/registry/bridges", tag = "Bridges",
    responses((status = 200, description = "The oldest first", body = Bridges), (status = 403, description = "No access")))]
async fn list(State(network): State<Network>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Bridges>> {
    let place = network.place(&caller, &scope)?;
    let mut tx = network.platform.read(&place.reading).await?;
    let found = model::bridges(&mut tx, place.org.as_str()).await?;
    let bridges: Vec<_> = found.into_iter().map(shapes::Bridge::from).collect();
    Ok(Json(Bridges { count: bridges.len(), bridges }))
}

/// Read a bridge
#[utoipa::path(get, path = "/registry/bridges/{id}", tag = "Bridges",
    params(("id" = String, Path, description = "Id of the bridge")),
    responses((status = 200, description = "The bridge", body = shapes::Bridge), (status = 404, description = "There is none")))]
async fn read(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<shapes::Bridge>> {
    let place = network.place(&caller, &scope)?;
    Ok(Json(network.bridge(&place, &id).await?.into()))
}

/// Whether a bridge forwards.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Switch {
    active: bool,
}

/// Switch a bridge on or off (`cap:network.nodes.admin`)
#[utoipa::path(patch, path = "/registry/bridges/{id}", tag = "Bridges", request_body = Switch,
    params(("id" = String, Path, description = "Id of the bridge")),
    responses((status = 200, description = "The bridge", body = shapes::Bridge), (status = 403, description = "Not allowed"),
        (status = 404, description = "There is none")))]
async fn switch(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(Switch { active }): Json<Switch>,
) -> ApiResult<Json<shapes::Bridge>> {
    Ok(Json(network.switch_bridge(&caller, &scope, id, active).await?))
}

/// Remove a bridge (`cap:network.nodes.admin`)
#[utoipa::path(delete, path = "/registry/bridges/{id}", tag = "Bridges",
    params(("id" = String, Path, description = "Id of the bridge")),
    responses((status = 200, description = "It is removed", body = Done), (status = 403, description = "Not allowed"),
        (status = 404, description = "There is none")))]
async fn delete(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Done>> {
    network.remove_bridge(&caller, &scope, id).await?;
    Ok(OK)
}
