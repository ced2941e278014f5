//! The egress policy: where an organization lets its own calls go (integrations.md §17.4, §28).

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use symbia_commands::{
    Actor,
    integrations::{EgressPolicyCommand, SetEgressPolicy},
};
use symbia_egress::{Blocked, Egress, EgressError, Policy};
use symbia_events::{AggregateRef, Service, integrations::EgressTerms};
use symbia_projections::{Scope, integrations as model};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{Integrations, usage::Asker};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, RequestScope, routes},
    iso,
};

const NARROWS: &str = "It narrows what the operator of the installation allows; it cannot widen that.";

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(read, set))
}

/// Where calls of the organization may go.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct EgressPolicy {
    /// Counts changes; 0 as long as none was set.
    version: i64,
    allow_hosts: Vec<String>,
    deny_hosts: Vec<String>,
    allow_ports: Vec<u16>,
    allow_http: bool,
    updated_by: Option<String>,
    updated_at: Option<String>,
    note: &'static str,
}

/// Where calls of the organization may go. What is left out is not narrowed.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewEgressPolicy {
    /// Hosts that may be called, and no others: a name (`api.example.com`), an address, or all names below one
    /// (`*.example.com`). At most 500.
    #[serde(default)]
    #[schema(example = json!(["api.openai.com", "*.corp.example"]))]
    allow_hosts: Vec<String>,
    /// Hosts that are never called, even where they are allowed. At most 500.
    #[serde(default)]
    deny_hosts: Vec<String>,
    /// Ports that may be called, and no others. At most 100.
    #[serde(default)]
    allow_ports: Vec<u16>,
    /// Whether plain HTTP may be used, where the operator allows it.
    #[serde(default = "yes")]
    allow_http: bool,
}

fn yes() -> bool {
    true
}

impl From<Option<model::EgressPolicy>> for EgressPolicy {
    fn from(row: Option<model::EgressPolicy>) -> Self {
        let (version, by, at) = match &row {
            Some(row) => (row.version, Some(row.set_by.clone()), Some(iso(row.set_at))),
            None => (0, None, None),
        };
        let EgressTerms { allow_hosts, deny_hosts, allow_ports, allow_http } =
            row.map(|row| row.terms.0).unwrap_or_default();
        EgressPolicy {
            version,
            allow_hosts,
            deny_hosts,
            allow_ports,
            allow_http,
            updated_by: by,
            updated_at: at,
            note: NARROWS,
        }
    }
}

/// Why an address that a caller named is not called: by its organization's policy 403, else what `otherwise` says.
pub(super) fn kept_in(error: EgressError, otherwise: impl FnOnce(EgressError) -> ApiError) -> ApiError {
    match error {
        EgressError::Blocked(Blocked::Policy(narrowed)) => {
            let text = format!("The call is not made: {narrowed}");
            ApiError::new(StatusCode::FORBIDDEN, "EGRESS_POLICY", text).with_extra("success", false)
        }
        error => otherwise(error),
    }
}

impl Integrations {
    async fn egress_policy(&self, scope: &Scope, org: &str) -> ApiResult<Option<model::EgressPolicy>> {
        let mut tx = self.platform.read(scope).await?;
        Ok(model::egress_policy(&mut tx, org).await?)
    }

    /// What calls addresses that somebody of an organization chose.
    pub(super) async fn egress_of(&self, caller: &Caller, scope: &RequestScope) -> ApiResult<Egress> {
        let asker = Asker::new(caller, scope)?;
        Ok(self.registry.egress()?.within(self.policy_of(&asker.scope(), asker.org.as_str()).await?))
    }

    /// The policy of an organization, as calls are held against it.
    pub(super) async fn policy_of(&self, scope: &Scope, org: &str) -> ApiResult<Option<Arc<Policy>>> {
        Ok(self.egress_policy(scope, org).await?.map(|row| Arc::new(Policy::new(row.terms.0))))
    }
}

/// Read where calls of the organization may go
#[utoipa::path(get, path = "/integrations/egress-policy", tag = "Egress",
    responses((status = 200, description = "The policy; nothing is narrowed until one is set", body = EgressPolicy)))]
async fn read(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
) -> ApiResult<Json<EgressPolicy>> {
    let asker = Asker::new(&caller, &scope)?;
    Ok(Json(service.egress_policy(&asker.scope(), asker.org.as_str()).await?.into()))
}

/// Say where calls of the organization may go (its admins)
///
/// Holds for all calls of the organization to addresses outside: of providers, registered APIs, MCP servers, linked accounts,
/// channels and webhooks, and for where those redirect to. It counts from the next call on. A call that it keeps in fails with
/// `EGRESS_POLICY`, which names the host and the rule.
#[utoipa::path(put, path = "/integrations/egress-policy", tag = "Egress", request_body = NewEgressPolicy,
    responses((status = 200, description = "The policy", body = EgressPolicy), (status = 400, description = "A field is not valid"),
        (status = 403, description = "Not an admin of the organization")))]
async fn set(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Json(new): Json<NewEgressPolicy>,
) -> ApiResult<Json<EgressPolicy>> {
    let asker = Asker::new(&caller, &scope)?;
    if !asker.sees_all {
        return Err(ApiError::insufficient_role("admin"));
    }
    let NewEgressPolicy { allow_hosts, deny_hosts, allow_ports, allow_http } = new;
    let id = asker.org.to_string();
    let address = AggregateRef::new(Service::Integrations, asker.org.clone(), "egress-policy", &id);
    let command = EgressPolicyCommand::from(SetEgressPolicy {
        policy_id: id.clone(),
        org_id: id,
        terms: EgressTerms { allow_hosts, deny_hosts, allow_ports, allow_http },
    });
    service.platform.submit(&address.map_err(ApiError::internal)?, &command, &Actor::from(&*caller), &scope).await?;
    Ok(Json(service.egress_policy(&asker.scope(), asker.org.as_str()).await?.into()))
}
