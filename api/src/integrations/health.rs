//! How the providers fare (integrations.md §28): by what is known of the organization's own requests of the last minutes, by the
//! circuits, and by probes where somebody wants them.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use symbia_commands::{
    Actor,
    integrations::{ProviderProbesCommand, SetProviderProbes},
};
use symbia_events::{AggregateRef, OrgId, Service};
use symbia_nats::probes::{Finding, Probes};
use symbia_projections::integrations::{self as model, ModelHealth};
use time::{Duration, OffsetDateTime};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use super::{Integrations, circuits::Circuit, errors::refused, usage::Asker};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Query, RequestScope, routes},
    iso,
};

const MINUTES: i64 = 15;
const MOST_MINUTES: i64 = 1440;

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(providers)).routes(routes!(probes, set_probes))
}

/// Of which time.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Window {
    /// The last so many minutes, 1 to 1440; 15 when it is not given.
    minutes: Option<i64>,
}

/// Which providers are asked whether they are there.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ProbeSettings {
    /// Counts changes; 0 as long as nothing was set.
    version: i64,
    providers: Vec<String>,
    every_seconds: i32,
    updated_by: Option<String>,
    updated_at: Option<String>,
}

/// Which providers are to be asked whether they are there; none: no more.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewProbes {
    #[schema(example = json!(["openai"]))]
    providers: Vec<String>,
    /// How long between two, 60 to 86400; 300 when it is not given.
    #[serde(default = "usual")]
    every_seconds: u32,
}

fn usual() -> u32 {
    300
}

impl From<Option<model::ProviderProbes>> for ProbeSettings {
    fn from(row: Option<model::ProviderProbes>) -> Self {
        match row {
            Some(row) => ProbeSettings {
                version: row.version,
                providers: row.providers.0,
                every_seconds: row.every_seconds,
                updated_by: Some(row.set_by),
                updated_at: Some(iso(row.set_at)),
            },
            None => ProbeSettings {
                version: 0,
                providers: Vec::new(),
                every_seconds: 0,
                updated_by: None,
                updated_at: None,
            },
        }
    }
}

/// The value below which so many of a hundred lie: the nearest rank.
fn percentile(sorted: &[f64], of_hundred: usize) -> Option<f64> {
    let rank = (sorted.len() * of_hundred).div_ceil(100).max(1);
    sorted.get(rank - 1).map(|ms| ms.round())
}

// Sums of several models, or one.
#[derive(Default)]
struct Sum {
    requests: i64,
    succeeded: i64,
    cancelled: i64,
    attempts: i64,
    failures: BTreeMap<String, i64>,
    latencies_ms: Vec<f64>,
    last_at: Option<OffsetDateTime>,
}

impl Sum {
    fn of<'r>(rows: impl IntoIterator<Item = &'r ModelHealth>) -> Self {
        let mut sum = Sum::default();
        for row in rows {
            sum.requests += row.requests;
            sum.succeeded += row.succeeded;
            sum.cancelled += row.cancelled;
            sum.attempts += row.attempts;
            for (category, count) in &row.failures.0 {
                *sum.failures.entry(category.clone()).or_default() += count;
            }
            sum.latencies_ms.extend(&row.latencies_ms);
            sum.last_at = sum.last_at.max(Some(row.last_at));
        }
        sum.latencies_ms.sort_by(f64::total_cmp);
        sum
    }

    fn told(self) -> Value {
        json!({
            "requests": self.requests,
            "succeeded": self.succeeded,
            "failed": self.failures.values().sum::<i64>(),
            "cancelled": self.cancelled,
            "attempts": self.attempts,
            "failuresByCategory": self.failures,
            "latencyMs": { "p50": percentile(&self.latencies_ms, 50), "p95": percentile(&self.latencies_ms, 95) },
            "lastAt": self.last_at.map(iso),
        })
    }
}

fn found(finding: &Finding, by: &str) -> Value {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(finding.at_ms) * 1_000_000);
    json!({
        "by": by,
        "at": at.ok().map(iso),
        "outcome": if finding.models.is_some() { "available" } else { "failed" },
        "latencyMs": finding.latency_ms,
        "models": finding.models.as_ref().map(Vec::len),
        "category": finding.category,
        "code": finding.code,
    })
}

impl Integrations {
    async fn probe_settings(&self, asker: &Asker) -> ApiResult<Option<model::ProviderProbes>> {
        let mut tx = self.platform.read(&asker.scope()).await?;
        Ok(model::provider_probes(&mut tx, asker.org.as_str()).await?)
    }

    // What was found last, for the organization and with the installation's own key.
    async fn findings(&self, asker: &Asker, provider: &str) -> Vec<(&'static str, Finding)> {
        let probes = Probes::new(self.platform.nats.clone());
        let mut findings = Vec::new();
        for (by, tenant) in [("organization", asker.org.as_str()), ("operator", OrgId::GLOBAL)] {
            match probes.last(tenant, provider).await {
                Ok(finding) => findings.extend(finding.map(|finding| (by, finding))),
                Err(error) => tracing::warn!(%error, "probes are not told of"),
            }
        }
        findings
    }
}

/// Tell how the providers fare
///
/// Requests are the caller's own, and all of the organization for its admins; never another organization's. A request counts for
/// the provider and model that had it last, a failure by its last category. Probes are made where they are set.
#[utoipa::path(get, path = "/integrations/health/providers", tag = "Providers", params(Window),
    responses((status = 200, description = "Each provider with its models, circuits and probes", body = Object),
        (status = 400, description = "minutes is not valid")))]
async fn providers(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Query(window): Query<Window>,
) -> ApiResult<Json<Value>> {
    let asker = Asker::new(&caller, &scope)?;
    let minutes = window.minutes.unwrap_or(MINUTES);
    if !(1..=MOST_MINUTES).contains(&minutes) {
        return Err(ApiError::invalid("minutes", "range", "must be 1 to 1440"));
    }
    let user = (!asker.sees_all).then_some(asker.user.as_str());
    let since = OffsetDateTime::now_utc() - Duration::minutes(minutes);
    let mut tx = service.platform.read(&asker.scope()).await?;
    let fared = model::model_health(&mut tx, asker.org.as_str(), user, since).await?;
    let circuits = model::circuits(&mut tx, asker.org.as_str()).await?;
    let settings = model::provider_probes(&mut tx, asker.org.as_str()).await?;
    drop(tx);
    let circuits: Vec<Circuit> = circuits.into_iter().map(Circuit::from).collect();
    let mut told = Vec::new();
    for provider in service.providers.iter() {
        let name = provider.name.as_str();
        let of: Vec<&ModelHealth> = fared.iter().filter(|row| row.provider == name).collect();
        let mut named: Vec<&str> = of.iter().filter_map(|row| row.model.as_deref()).collect();
        named.extend(circuits.iter().filter(|circuit| circuit.provider == name).map(|circuit| circuit.model.as_str()));
        named.sort_unstable();
        named.dedup();
        let findings = service.findings(&asker, name).await;
        let models: Vec<Value> = named
            .into_iter()
            .map(|model| {
                let mut of_model = Sum::of(of.iter().copied().filter(|row| row.model.as_deref() == Some(model))).told();
                let its = circuits.iter().filter(|circuit| circuit.provider == name && circuit.model == model);
                let listed = findings.iter().find_map(|(_, finding)| finding.models.as_ref());
                of_model["model"] = json!(model);
                of_model["circuit"] = json!(Circuit::worst(its));
                of_model["listed"] = json!(listed.map(|models| models.iter().any(|listed| listed == model)));
                of_model
            })
            .collect();
        let mut of_provider = Sum::of(of).told();
        let every = settings.as_ref().filter(|settings| settings.providers.iter().any(|probed| probed == name));
        of_provider["provider"] = json!(name);
        of_provider["configured"] = json!(provider.configured);
        of_provider["circuit"] = json!(Circuit::worst(circuits.iter().filter(|circuit| circuit.provider == name)));
        of_provider["models"] = json!(models);
        of_provider["probeEverySeconds"] = json!(every.map(|settings| settings.every_seconds));
        of_provider["probes"] = findings.iter().map(|(by, finding)| found(finding, by)).collect();
        told.push(of_provider);
    }
    Ok(Json(json!({ "minutes": minutes, "since": iso(since), "providers": told })))
}

/// Read which providers are asked now and then whether they are there
#[utoipa::path(get, path = "/integrations/health/probes", tag = "Providers",
    responses((status = 200, description = "The settings; nothing is probed until some are set", body = ProbeSettings)))]
async fn probes(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
) -> ApiResult<Json<ProbeSettings>> {
    let asker = Asker::new(&caller, &scope)?;
    Ok(Json(service.probe_settings(&asker).await?.into()))
}

/// Have providers asked now and then whether they are there (admins of the organization)
///
/// Each is asked for its models, which costs nothing, with the key of who sets this or one shared with the organization, and with
/// the installation's where there is none.
#[utoipa::path(put, path = "/integrations/health/probes", tag = "Providers", request_body = NewProbes,
    responses((status = 200, description = "The settings", body = ProbeSettings), (status = 400, description = "A field is not valid"),
        (status = 403, description = "Not an admin of the organization")))]
async fn set_probes(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Json(new): Json<NewProbes>,
) -> ApiResult<Json<ProbeSettings>> {
    let asker = Asker::new(&caller, &scope)?;
    if !asker.sees_all {
        return Err(ApiError::insufficient_role("admin"));
    }
    if let Some(unknown) = new.providers.iter().find(|provider| service.provider(provider).is_err()) {
        return Err(refused("providers", format!("there is no provider '{unknown}' here")));
    }
    let id = asker.org.to_string();
    let address = AggregateRef::new(Service::Integrations, asker.org.clone(), "provider-probes", &id);
    let command = ProviderProbesCommand::from(SetProviderProbes {
        probes_id: id.clone(),
        org_id: id,
        providers: new.providers,
        every_seconds: new.every_seconds,
    });
    service.platform.submit(&address.map_err(ApiError::internal)?, &command, &Actor::from(&*caller), &scope).await?;
    Ok(Json(service.probe_settings(&asker).await?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_nearest_rank() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((percentile(&hundred, 50), percentile(&hundred, 95)), (Some(50.0), Some(95.0)));
        assert_eq!((percentile(&[7.4], 50), percentile(&[7.4], 95)), (Some(7.0), Some(7.0)));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn sums_are_over_all_models() {
        let row = |model: &str, failures: &[(&str, i64)], latencies_ms: &[f64]| ModelHealth {
            provider: "p".into(),
            model: Some(model.into()),
            requests: 3,
            succeeded: 1,
            cancelled: 0,
            attempts: 4,
            failures: failures.iter().map(|(c, n)| ((*c).to_owned(), *n)).collect::<BTreeMap<_, _>>().into(),
            latencies_ms: latencies_ms.to_vec(),
            last_at: OffsetDateTime::UNIX_EPOCH,
        };
        let rows = [row("a", &[("timeout", 1), ("auth", 1)], &[30.0]), row("b", &[("timeout", 2)], &[10.0, 20.0])];
        let told = Sum::of(&rows).told();
        assert_eq!((&told["requests"], &told["failed"], &told["attempts"]), (&json!(6), &json!(4), &json!(8)));
        assert_eq!(told["failuresByCategory"], json!({ "auth": 1, "timeout": 3 }));
        assert_eq!(told["latencyMs"], json!({ "p50": 20.0, "p95": 30.0 }));
    }
}
