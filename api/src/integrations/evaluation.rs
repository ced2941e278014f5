//! `/api/model-eval`: models are tried with benchmarks, marked by what came of it, and recommended by their marks
//! (integrations.md §16). Everybody in an organization reads; its admins have models tried, since that is paid for.

mod benchmarks;
mod catalog;
mod models;
mod recommendations;
mod runs;
mod schedules;
mod scores;
mod sync;

use serde_json::Value;
use symbia_events::integrations::TaskType;
use utoipa_axum::router::OpenApiRouter;

pub(super) use self::recommendations::Recommended;
use super::{Integrations, errors::refused, usage::Asker};
use crate::http::{ApiError, ApiResult, Caller, RequestScope};

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new()
        .merge(benchmarks::routes())
        .merge(runs::routes())
        .merge(schedules::routes())
        .merge(scores::routes())
        .merge(recommendations::routes())
        .merge(models::routes())
        .merge(catalog::routes())
        .merge(sync::routes())
}

fn task(name: &str) -> ApiResult<TaskType> {
    serde_json::from_value(Value::String(name.to_owned())).map_err(|_| {
        let names = TaskType::ALL.map(TaskType::name).join(", ");
        refused("taskType", format!("must be one of {names}"))
    })
}

fn admin(caller: &Caller, scope: &RequestScope) -> ApiResult<Asker> {
    let asker = Asker::new(caller, scope)?;
    if asker.sees_all { Ok(asker) } else { Err(ApiError::insufficient_role("admin")) }
}

// Those that are named between commas.
fn named(list: Option<&str>) -> Vec<&str> {
    list.into_iter().flat_map(|list| list.split(',')).map(str::trim).filter(|name| !name.is_empty()).collect()
}
