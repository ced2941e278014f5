//! Which entry of the directory lives on a node (network.md §8.14).

use axum::extract::State;
use serde::Deserialize;
use symbia_commands::network::{BindEntityToNode, NodeCommand, UnbindEntityFromNode};
use symbia_events::{CommandId, OrgId};
use symbia_projections::{Scope, identity};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::{
    Network,
    access::{Place, address, with_status},
    nodes::{Done, OK},
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, routes},
    platform::Consistency,
};

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

    /// Says that an entity lives on a node.
    pub(super) async fn bind(
        &self,
        place: &Place,
        scope: &RequestScope,
        node_id: String,
        entity_id: String,
    ) -> ApiResult<()> {
        self.has_entity(place, &entity_id).await?;
        let to = address(&place.org, "node", &node_id)?;
        let command = NodeCommand::from(BindEntityToNode { node_id, entity_id });
        let id = CommandId(Uuid::new_v5(&scope.command_id(&place.actor.id), b"entity"));
        let done = self.platform.submit_as(id, &to, &command, &place.actor, scope, Consistency::Visible).await;
        done.map(|_| ()).map_err(with_status)
    }

    /// Says that an entity lives on a node of the caller's.
    pub(super) async fn bind_own(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        node_id: String,
        entity_id: String,
    ) -> ApiResult<()> {
        let place = self.place(caller, scope)?;
        self.own_node(&place, &node_id).await?;
        self.bind(&place, scope, node_id, entity_id).await
    }

    /// Says that no entity lives on a node.
    pub(super) async fn unbind(&self, caller: &Caller, scope: &RequestScope, id: String) -> ApiResult<()> {
        let command = |_: &OrgId| NodeCommand::from(UnbindEntityFromNode { node_id: id.clone() });
        self.act((caller, scope), None, ("node", &id), command).await
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
    network.bind_own(&caller, &scope, id, binding.entity_id).await?;
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
    network.unbind(&caller, &scope, id).await?;
    Ok(OK)
}
