//! Trying deliveries again: when a node comes back, and when an operator wishes it (network.md §8.8, 13.2).

use axum::extract::State;
use serde::Deserialize;
use symbia_commands::network::{NODES_ADMIN, RedriveEvent, RoutingCommand};
use symbia_events::{CommandId, OrgId, Position};
use symbia_projections::{Scope, network as model};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{
    Network,
    access::{address, with_status},
    shapes::Trace,
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, routes},
    platform::Consistency,
};

pub(super) fn routes() -> OpenApiRouter<Network> {
    OpenApiRouter::new().routes(routes!(redrive))
}

/// Which delivery.
#[derive(Deserialize, ToSchema)]
struct Delivery {
    /// Who is to get it; without it, everyone who did not.
    #[serde(default)]
    target: Option<String>,
}

impl Network {
    /// Tries again what waits for a node that has just come, once it is known what happened before `at`.
    pub(super) async fn catch_up(&self, (org, node): &(OrgId, String), at: Position) {
        let waiting = async {
            let platform = &self.platform;
            platform.positions.wait_for(at.service.name(), at, platform.settings.visible_within).await;
            let mut tx = platform.read(&Scope::platform()).await?;
            Ok::<_, ApiError>(model::waiting_for(&mut tx, org.as_str(), node).await?)
        };
        match waiting.await {
            Ok(events) => {
                for id in events {
                    self.redrive_for(org, id, node).await;
                }
            }
            // Their timers try them again.
            Err(error) => tracing::warn!(%org, node, %error, "what waits for a node stays where it is"),
        }
    }

    /// Tries one event again for a node that is there now.
    pub(super) async fn redrive_for(&self, org: &OrgId, event_id: String, node: &str) {
        let Ok(to) = address(org, "routed-event", &event_id) else { return };
        let command = RoutingCommand::from(RedriveEvent { event_id, target: node.to_owned() });
        if let Err(error) = self.platform.tell("network", &to, &command).await {
            tracing::warn!(%to, node, %error, "an event waits on, until its timer tries it again");
        }
    }

    async fn redrive(&self, caller: &Caller, scope: &RequestScope, id: &str, wish: Delivery) -> ApiResult<Trace> {
        let place = self.place_for(caller, scope, NODES_ADMIN)?;
        let row = self.event(&place, id).await?;
        let open = |target: &String| row.deliveries[target].status != "delivered";
        let targets: Vec<String> = match wish.target {
            Some(target) if row.deliveries.contains_key(&target) => vec![target],
            Some(_) => return Err(ApiError::not_found("Delivery")),
            None => row.deliveries.keys().filter(|target| open(target)).cloned().collect(),
        };
        let (to, request) = (address(&place.org, "routed-event", id)?, CommandId(scope.command_id(&place.actor.id)));
        for target in targets {
            let command_id = CommandId::derived(request.0, &target);
            let command = RoutingCommand::from(RedriveEvent { event_id: id.to_owned(), target });
            let sent =
                self.platform.submit_as(command_id, &to, &command, &place.actor, scope, Consistency::Visible).await;
            sent.map_err(with_status)?;
        }
        Ok(Trace::from(&self.event(&place, id).await?))
    }
}

/// Try again to deliver an event, also one that was given up (`cap:network.nodes.admin`)
#[utoipa::path(post, path = "/events/{id}/redrive", tag = "Events", request_body = Delivery,
    params(("id" = String, Path, description = "Id of the event")),
    responses((status = 200, description = "The trace", body = Trace), (status = 403, description = "Not allowed"),
        (status = 404, description = "There is no such event, or it does not go there")))]
async fn redrive(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(wish): Json<Delivery>,
) -> ApiResult<Json<Trace>> {
    Ok(Json(network.redrive(&caller, &scope, &id, wish).await?))
}
