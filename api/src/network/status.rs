//! How the services of the platform are, all at once (network.md §6.1).

use std::time::{Duration, Instant};

use axum::{extract::State, http::StatusCode};
use futures::future::join_all;
use serde::Serialize;
use symbia_events::Service;
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::Network;
use crate::http::{ApiResult, Json, OptionalCaller, routes};

/// How long a service may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn routes() -> OpenApiRouter<Network> {
    OpenApiRouter::new().routes(routes!(health))
}

/// How a service is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ServiceHealth {
    service: String,
    service_id: &'static str,
    /// For those who are signed in.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    /// `healthy`, `unhealthy` or `unreachable`.
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    latency_ms: u64,
}

/// How the platform is.
#[derive(Serialize, ToSchema)]
struct PlatformHealth {
    /// `healthy` or `degraded`.
    platform: &'static str,
    summary: String,
    services: Vec<ServiceHealth>,
    timestamp: String,
}

impl Network {
    async fn ask(&self, service: Service, url: &str, signed_in: bool) -> ServiceHealth {
        let since = Instant::now();
        let asked = self.http.get(format!("{url}/health")).timeout(PATIENCE).send().await;
        let name = service.name();
        let (status, status_code, error) = match asked {
            Ok(answer) if answer.status().is_success() => ("healthy", None, None),
            Ok(answer) => ("unhealthy", Some(answer.status().as_u16()), None),
            Err(error) if error.is_timeout() => ("unreachable", None, Some("no answer within 3 s")),
            Err(_) => ("unreachable", None, Some("cannot be reached")),
        };
        ServiceHealth {
            service: name[..1].to_uppercase() + &name[1..],
            service_id: name,
            url: signed_in.then(|| url.to_owned()),
            status,
            status_code,
            error,
            latency_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// Ask every service of the platform how it is
#[utoipa::path(get, path = "/platform/health", tag = "Platform", security(()),
    responses((status = 200, description = "All are healthy", body = PlatformHealth),
        (status = 503, description = "Some are not", body = PlatformHealth)))]
async fn health(
    State(network): State<Network>,
    OptionalCaller(caller): OptionalCaller,
) -> ApiResult<(StatusCode, Json<PlatformHealth>)> {
    let signed_in = caller.is_some();
    let services = network.options.services.iter();
    let services = join_all(services.map(|(service, url)| network.ask(*service, url, signed_in))).await;
    let healthy = services.iter().filter(|service| service.status == "healthy").count();
    let all = healthy == services.len();
    let body = PlatformHealth {
        platform: if all { "healthy" } else { "degraded" },
        summary: format!("{healthy}/{} services healthy", services.len()),
        services,
        timestamp: crate::iso(OffsetDateTime::now_utc()),
    };
    Ok((if all { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(body)))
}
