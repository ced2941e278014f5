//! Schedules: models that are tried again and again.

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use symbia_commands::{
    Actor,
    integrations::{EvalScheduleCommand, RemoveEvalSchedule, SetEvalSchedule, schedule_id},
};
use symbia_events::{
    AggregateRef, Service,
    integrations::{Target, Trial},
};
use symbia_projections::integrations as model;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::admin;
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, routes},
    integrations::{Integrations, chat::target, usage::Asker},
    iso,
};

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(set, remove))
}

/// A schedule.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Schedule {
    name: String,
    /// Counts changes, from 1.
    version: i64,
    provider: String,
    model_id: String,
    benchmark_id: String,
    test_case_ids: Vec<String>,
    #[schema(value_type = Option<Object>)]
    judge: Option<Target>,
    cron: Option<String>,
    interval_hours: Option<i32>,
    enabled: bool,
    next_run_at: Option<String>,
    last_run_at: Option<String>,
    last_evaluation_id: Option<String>,
    /// Why it stopped, or what the last evaluation failed at.
    last_error: Option<String>,
    updated_by: String,
    updated_at: String,
}

impl From<model::EvalSchedule> for Schedule {
    fn from(row: model::EvalSchedule) -> Self {
        let Trial { provider, model_id, benchmark_id, test_case_ids, judge } = row.trial.0;
        Schedule {
            name: row.name,
            version: row.version,
            provider,
            model_id,
            benchmark_id,
            test_case_ids,
            judge,
            cron: row.cron,
            interval_hours: row.interval_hours,
            enabled: row.enabled,
            next_run_at: row.next_run_at.map(iso),
            last_run_at: row.last_run_at.map(iso),
            last_evaluation_id: row.last_evaluation_id,
            last_error: row.last_error,
            updated_by: row.set_by,
            updated_at: iso(row.set_at),
        }
    }
}

/// When which model is to be tried with what.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewSchedule {
    #[schema(example = "openai")]
    provider: String,
    #[schema(example = "gpt-4o-mini")]
    model_id: String,
    #[schema(example = "routing.intent-classification")]
    benchmark_id: String,
    /// Only these cases.
    #[serde(default)]
    test_case_ids: Vec<String>,
    /// Who judges answers whose meaning counts, as `provider/model`.
    #[serde(default)]
    judge: Option<String>,
    /// Minute, hour, day, month, day of the week, in UTC. Either this or an interval.
    #[serde(default)]
    #[schema(example = "0 3 * * *")]
    cron: Option<String>,
    /// 1 to 8784.
    #[serde(default)]
    interval_hours: Option<u32>,
    #[serde(default = "yes")]
    enabled: bool,
}

fn yes() -> bool {
    true
}

fn unknown() -> ApiError {
    ApiError::not_found("Schedule")
}

fn of_admin(caller: &Caller, scope: &RequestScope, name: &str) -> ApiResult<(Asker, AggregateRef)> {
    let asker = admin(caller, scope)?;
    let id = schedule_id(asker.org.as_str(), name);
    let address = AggregateRef::new(Service::Integrations, asker.org.clone(), "eval-schedule", &id);
    Ok((asker, address.map_err(ApiError::internal)?))
}

/// List the schedules of the organization
#[utoipa::path(get, path = "/model-eval/schedules", tag = "Model evaluation",
    responses((status = 200, description = "The schedules, by their names", body = Vec<Schedule>)))]
async fn list(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
) -> ApiResult<Json<Vec<Schedule>>> {
    let asker = Asker::new(&caller, &scope)?;
    let mut tx = service.platform.read(&asker.scope()).await?;
    let found = model::eval_schedules(&mut tx, asker.org.as_str()).await?;
    Ok(Json(found.into_iter().map(Schedule::from).collect()))
}

/// Have a model tried again and again (admins of the organization)
///
/// In the caller's name, with their keys and budgets, as long as they are an admin. What was missed is not made up for.
#[utoipa::path(put, path = "/model-eval/schedules/{name}", tag = "Model evaluation", request_body = NewSchedule,
    params(("name" = String, Path, description = "1 to 64 letters, digits, dots, dashes and underscores")),
    responses((status = 200, description = "The schedule", body = Schedule), (status = 400, description = "A field is not valid"),
        (status = 403, description = "Not an admin of the organization"), (status = 404, description = "No such provider")))]
async fn set(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(name): Path<String>,
    Json(new): Json<NewSchedule>,
) -> ApiResult<Json<Schedule>> {
    let (asker, address) = of_admin(&caller, &scope, &name)?;
    let actor = Actor::from(&*caller);
    service.provider(&new.provider)?;
    // What will be asked in somebody's name is sealed with their key.
    service.key_of(&actor).await?;
    let command = EvalScheduleCommand::from(SetEvalSchedule {
        schedule_id: address.id.clone(),
        org_id: asker.org.to_string(),
        name,
        trial: Trial {
            provider: new.provider,
            model_id: new.model_id,
            benchmark_id: new.benchmark_id,
            test_case_ids: new.test_case_ids,
            judge: new.judge.map(|judge| target(Some(judge))),
        },
        cron: new.cron,
        interval_hours: new.interval_hours,
        enabled: new.enabled,
    });
    service.platform.submit(&address, &command, &actor, &scope).await?;
    let mut tx = service.platform.read(&asker.scope()).await?;
    let found = model::eval_schedule(&mut tx, asker.org.as_str(), &address.id).await?;
    Ok(Json(found.ok_or_else(unknown)?.into()))
}

/// Have it tried no more (admins of the organization)
#[utoipa::path(delete, path = "/model-eval/schedules/{name}", tag = "Model evaluation",
    params(("name" = String, Path, description = "Its name")),
    responses((status = 204, description = "Removed"), (status = 404, description = "There is none"),
        (status = 403, description = "Not an admin of the organization")))]
async fn remove(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(name): Path<String>,
) -> ApiResult<StatusCode> {
    let (asker, address) = of_admin(&caller, &scope, &name)?;
    let remove = RemoveEvalSchedule { schedule_id: address.id.clone(), org_id: asker.org.to_string() };
    let command = EvalScheduleCommand::from(remove);
    service.platform.submit(&address, &command, &Actor::from(&*caller), &scope).await?;
    Ok(StatusCode::NO_CONTENT)
}
