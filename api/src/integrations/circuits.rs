//! Circuits: which models are left alone for a while, and letting them be asked again (integrations.md §5.7, §17.2).

use axum::extract::State;
use serde::Serialize;
use serde_json::{Map, Value, json};
use symbia_commands::{
    Actor,
    integrations::{CircuitCommand, ResetCircuit},
};
use symbia_events::{AggregateRef, CommandId, OrgId, Service};
use symbia_projections::{Scope, integrations as model};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{Integrations, usage::Asker};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, routes},
    iso,
    platform::Consistency,
};

const DESCRIPTION: &str = "A model that fails several times in a row is left alone for a while; then one request sees whether \
                           it answers again.";

/// What a circuit can be, the best first.
const STATES: [&str; 3] = ["closed", "half-open", "open"];

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(read)).routes(routes!(reset_all)).routes(routes!(reset_one))
}

/// A model that was left alone.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Circuit {
    id: String,
    pub provider: String,
    pub model: String,
    /// Whose key it is about; null: the installation's.
    credential_id: Option<String>,
    /// `open`, `half-open` or `closed`.
    state: &'static str,
    /// In a row.
    failures: i64,
    last_category: String,
    last_failure: String,
    open_until: String,
}

fn state(row: &model::Circuit) -> &'static str {
    match row.is_open {
        false => "closed",
        true if row.open_until > OffsetDateTime::now_utc() => "open",
        true => "half-open",
    }
}

impl From<model::Circuit> for Circuit {
    fn from(row: model::Circuit) -> Self {
        Circuit {
            state: state(&row),
            id: row.id,
            provider: row.provider,
            model: row.model,
            credential_id: row.credential_id,
            failures: row.failures,
            last_category: row.last_category,
            last_failure: iso(row.changed_at),
            open_until: iso(row.open_until),
        }
    }
}

impl Circuit {
    /// The state of the worst of them.
    pub fn worst<'c>(circuits: impl Iterator<Item = &'c Circuit>) -> &'static str {
        let rank = |state: &&str| STATES.iter().position(|s| s == state);
        circuits.map(|circuit| circuit.state).max_by_key(rank).unwrap_or("closed")
    }
}

impl Integrations {
    async fn circuits(&self, asker: &Asker) -> ApiResult<Vec<model::Circuit>> {
        let mut tx = self.platform.read(&Scope::member(asker.org.clone(), &asker.user)).await?;
        Ok(model::circuits(&mut tx, asker.org.as_str()).await?)
    }

    // By provider the worst of its circuits.
    fn by_provider(&self, rows: &[model::Circuit]) -> Map<String, Value> {
        let of = |name: &str| {
            let rank = |row: &&model::Circuit| STATES.iter().position(|s| *s == state(row));
            let worst = rows.iter().filter(|row| row.provider == name).max_by_key(rank);
            let told = worst.map(|row| (state(row), row.failures, iso(row.changed_at)));
            let (state, failures, last) = told.unwrap_or(("closed", 0, "never".to_owned()));
            json!({ "state": state, "failures": failures, "lastFailure": last })
        };
        self.providers.iter().map(|provider| (provider.name.clone(), of(&provider.name))).collect()
    }

    // Those that the caller may reset are, the others stay.
    async fn reset(&self, caller: &Caller, scope: &RequestScope, provider: Option<&str>) -> ApiResult<Json<Value>> {
        let asker = Asker::new(caller, scope)?;
        let operator = caller.is_super_admin;
        if !asker.sees_all && !operator {
            return Err(ApiError::insufficient_role("admin"));
        }
        let theirs = |row: &model::Circuit| match row.org_id.as_str() {
            OrgId::GLOBAL => operator,
            _ => asker.sees_all,
        };
        let chosen = |row: &&model::Circuit| row.is_open && provider.is_none_or(|name| row.provider == name);
        let rows = self.circuits(&asker).await?;
        let (actor, mut count) = (Actor::from(&**caller), 0);
        for row in rows.iter().filter(chosen).filter(|row| theirs(row)) {
            let tenant = row.org_id.parse().map_err(ApiError::internal)?;
            let address = AggregateRef::new(Service::Integrations, tenant, "circuit", &row.id);
            let address = address.map_err(ApiError::internal)?;
            let reset = ResetCircuit { circuit_id: row.id.clone(), org_id: row.org_id.clone() };
            let (command, id) = (CircuitCommand::from(reset), CommandId::random());
            self.platform.submit_as(id, &address, &command, &actor, scope, Consistency::Visible).await?;
            count += 1;
        }
        let status = self.by_provider(&self.circuits(&asker).await?);
        Ok(Json(json!({ "success": true, "message": format!("{count} circuits reset"), "status": status })))
    }
}

/// Tell which models are left alone
#[utoipa::path(get, path = "/integrations/circuit-breaker", tag = "Providers",
    responses((status = 200, description = "By provider the worst, and all that were ever open", body = Object)))]
async fn read(State(service): State<Integrations>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Value>> {
    let rows = service.circuits(&Asker::new(&caller, &scope)?).await?;
    let status = service.by_provider(&rows);
    let circuits: Vec<Circuit> = rows.into_iter().map(Circuit::from).collect();
    Ok(Json(json!({ "status": status, "circuits": circuits, "description": DESCRIPTION })))
}

/// Let all models be asked again (admins: those of the organization's keys; operators: the installation's as well)
#[utoipa::path(post, path = "/integrations/circuit-breaker/reset", tag = "Providers",
    responses((status = 200, description = "How many were reset", body = Object), (status = 403, description = "Not an admin")))]
async fn reset_all(State(service): State<Integrations>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Value>> {
    service.reset(&caller, &scope, None).await
}

/// Let the models of a provider be asked again (admins, as for all)
#[utoipa::path(post, path = "/integrations/circuit-breaker/reset/{provider}", tag = "Providers",
    params(("provider" = String, Path, description = "Its name")),
    responses((status = 200, description = "How many were reset", body = Object), (status = 403, description = "Not an admin"),
        (status = 404, description = "There is no such provider")))]
async fn reset_one(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(provider): Path<String>,
) -> ApiResult<Json<Value>> {
    service.provider(&provider)?;
    service.reset(&caller, &scope, Some(&provider)).await
}
