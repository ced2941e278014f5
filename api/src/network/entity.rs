//! Which entry of the directory lives on a node (network.md §8.14).

use axum::extract::State;
use serde::Deserialize;
use symbia_commands::network::{BindEntityToNode, NodeCommand, UnbindEntityFromNode};
use symbia_projections::{Scope, identity};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Network,
    access::{Place, address},
    nodes::{Done, OK},
};
use crate::http::{ApiError, ApiResult, Caller, Json, Path, RequestScope};

pub(super) fn routes() -> OpenApiRouter<Network> {
    OpenApiRouter::new().routes(routes!(bind, unbind))
}

/// An entity.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Binding {
    /// `ent_…`, an entry of the organization's directory.
    entity_id: String,
}

impl Network {
    /// Refuses an entity that is not in the directory of the organization.
    ///
    /// # Errors
    /// 404, also for another organization's.
    pub(super) async fn has_entity(&self, place: &Place, id: &str) -> ApiResult<()> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let found = identity::entity(&mut tx, id).await?.filter(|entity| entity.org_id == place.org.as_str());
        found.map(|_| ()).ok_or_else(|| ApiError::not_found("Entity"))
    }
}

/// Say which entity lives on a node (its owner, and who manages nodes): events for it go there
#[utoipa::path(put, path = "/registry/nodes/{id}/entity", tag = "Nodes", request_body = Binding,
    params(("id" = String, Path, description = "Id of the node")),
    responses((status = 200, description = "It lives there", body = Done), (status = 403, description = "It is another's"),
        (status = 404, description = "There is no such node, or no such entity")))]
async fn bind(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(binding): Json<Binding>,
) -> ApiResult<Json<Done>> {
    let place = network.place(&caller, &scope)?;
    network.own_node(&place, &id).await?;
    network.has_entity(&place, &binding.entity_id).await?;
    let command = NodeCommand::from(BindEntityToNode { node_id: id.clone(), entity_id: binding.entity_id });
    network.submit(&place, &address(&place.org, "node", &id)?, &command, &scope).await?;
    Ok(OK)
}

/// Say that no entity lives on a node (its owner, and who manages nodes)
#[utoipa::path(delete, path = "/registry/nodes/{id}/entity", tag = "Nodes",
    params(("id" = String, Path, description = "Id of the node")),
    responses((status = 200, description = "None does", body = Done), (status = 403, description = "It is another's"),
        (status = 404, description = "There is no such node")))]
async fn unbind(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Done>> {
    let place = network.place(&caller, &scope)?;
    let command = NodeCommand::from(UnbindEntityFromNode { node_id: id.clone() });
    network.submit(&place, &address(&place.org, "node", &id)?, &command, &scope).await?;
    Ok(OK)
}
