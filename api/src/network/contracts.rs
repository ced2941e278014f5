//! Contracts: who may send what to whom (network.md §6.3).

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use symbia_commands::network::{CONTRACTS_WRITE, ContractCommand, CreateContract, DeleteContract, contract_id};
use symbia_events::{OrgId, network::Boundary};
use symbia_projections::network as model;
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use super::{
    Network,
    access::address,
    nodes::{Done, OK},
    shapes,
};
use crate::http::{ApiError, ApiResult, Caller, Json, Path, Query, RequestScope, routes};

pub(super) fn routes() -> OpenApiRouter<Network> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(delete))
}

/// A contract to be made.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewContract {
    /// A registered node, or `bridge:<id>`.
    from: String,
    /// A node, which may come later, or `*` for every other one.
    to: String,
    /// Names, `*`, or prefixes like `message.*`.
    allowed_event_types: Vec<String>,
    /// `intra`, `inter`, `extra`.
    #[schema(value_type = Vec<String>)]
    boundaries: Vec<Boundary>,
    /// RFC 3339; it counts for no call after that.
    #[serde(default)]
    expires_at: Option<String>,
    /// At most so many events in a second, 1 to 10000; more are refused.
    #[serde(default)]
    max_events_per_second: Option<u32>,
    /// Dotted paths in the data that neither the target nor who reads events is shown.
    #[serde(default)]
    redact: Vec<String>,
}

impl Network {
    /// Lets a node send to another.
    pub(super) async fn make_contract(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        new: NewContract,
    ) -> ApiResult<shapes::Contract> {
        let place = self.place_for(caller, scope, CONTRACTS_WRITE)?;
        let org = place.org.as_str();
        let mut tx = self.platform.read(&place.reading).await?;
        let known = match new.from.strip_prefix("bridge:") {
            Some(bridge) => model::bridge(&mut tx, org, bridge).await?.is_some(),
            None => model::node(&mut tx, org, &new.from).await?.is_some(),
        };
        drop(tx);
        if !known {
            let text = "from: the source is not registered";
            return Err(ApiError::new(StatusCode::BAD_REQUEST, "SOURCE_UNKNOWN", text));
        }
        let id = contract_id(org, &new.from, &new.to, &new.allowed_event_types, &new.boundaries);
        let command = ContractCommand::from(CreateContract {
            contract_id: id.clone(),
            org_id: org.to_owned(),
            from: new.from,
            to: new.to,
            allowed_event_types: new.allowed_event_types,
            boundaries: new.boundaries,
            expires_at: new.expires_at,
            max_events_per_second: new.max_events_per_second,
            redact: new.redact,
        });
        self.submit(&place, &address(&place.org, "contract", &id)?, &command, scope).await?;
        let mut tx = self.platform.read(&place.reading).await?;
        let found = model::contract(&mut tx, org, &id).await?;
        let found = found.ok_or_else(|| ApiError::not_found("Contract"))?;
        Ok(shapes::Contract::of(found, OffsetDateTime::now_utc()))
    }

    /// Ends a contract.
    pub(super) async fn end_contract(&self, caller: &Caller, scope: &RequestScope, id: String) -> ApiResult<()> {
        let command = |_: &OrgId| ContractCommand::from(DeleteContract { contract_id: id.clone() });
        self.act((caller, scope), Some(CONTRACTS_WRITE), ("contract", &id), command).await
    }
}

/// Let a node send to another (`cap:network.contracts.write`); the same permission again is the contract that there is
#[utoipa::path(post, path = "/registry/contracts", tag = "Contracts", request_body = NewContract,
    responses((status = 201, description = "The contract", body = shapes::Contract),
        (status = 400, description = "A field is not valid, or the source is not registered"),
        (status = 403, description = "Not allowed")))]
async fn create(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Json(new): Json<NewContract>,
) -> ApiResult<(StatusCode, Json<shapes::Contract>)> {
    Ok((StatusCode::CREATED, Json(network.make_contract(&caller, &scope, new).await?)))
}

/// Which contracts.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Only those from or to this node.
    node_id: Option<String>,
}

/// Contracts.
#[derive(Serialize, ToSchema)]
struct Contracts {
    contracts: Vec<shapes::Contract>,
    count: usize,
}

/// List the contracts of the organization
#[utoipa::path(get, path = "/registry/contracts", tag = "Contracts", params(Filter),
    responses((status = 200, description = "The oldest first", body = Contracts), (status = 403, description = "No access")))]
async fn list(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Query(filter): Query<Filter>,
) -> ApiResult<Json<Contracts>> {
    let place = network.place(&caller, &scope)?;
    let mut tx = network.platform.read(&place.reading).await?;
    let found = model::contracts(&mut tx, place.org.as_str()).await?;
    let of = |c: &model::Contract| filter.node_id.as_ref().is_none_or(|id| c.source == *id || c.target == *id);
    let now = OffsetDateTime::now_utc();
    let contracts: Vec<_> = found.into_iter().filter(of).map(|row| shapes::Contract::of(row, now)).collect();
    Ok(Json(Contracts { count: contracts.len(), contracts }))
}

/// End a contract (`cap:network.contracts.write`): it counts for no further call
#[utoipa::path(delete, path = "/registry/contracts/{id}", tag = "Contracts",
    params(("id" = String, Path, description = "Id of the contract")),
    responses((status = 200, description = "It has ended", body = Done), (status = 403, description = "Not allowed"),
        (status = 404, description = "There is none")))]
async fn delete(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Done>> {
    network.end_contract(&caller, &scope, id).await?;
    Ok(OK)
}
