//! Providers and models as resources of the Catalog: written there in the name of who wants it, who must be let by the Catalog
//! as well. What is there already stays, unless it is to be brought up to date.

use std::{collections::HashMap, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE},
};
use futures::{StreamExt, stream};
use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_egress::{Egress, EgressError, Errand, Reply, Rules};
use symbia_events::Service;
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::admin;
use crate::{
    http::{ApiError, ApiResult, Caller, Json, RequestScope, routes},
    integrations::{Integrations, registry::in_callers_name},
    iso,
};

/// How long the Catalog may take over one resource, and over the list of all.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest list of what is there.
const MOST: usize = 16 * 1024 * 1024;
/// Resources that are written at once.
const AT_ONCE: usize = 4;
/// What the keys of such resources begin with.
const PREFIX: &str = "integrations/ai/";

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(sync))
}

/// What is to be written.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Wanted {
    /// Only of these providers; without any, of all.
    providers: Vec<String>,
    /// Nothing is written: only what would be.
    dry_run: bool,
    /// What is there already is replaced.
    force_update: bool,
}

/// What becomes of a resource.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Created,
    Updated,
    Skipped,
    Failed,
}

impl Fate {
    fn name(self) -> &'static str {
        match self {
            Fate::Created => "created",
            Fate::Updated => "updated",
            Fate::Skipped => "skipped",
            Fate::Failed => "failed",
        }
    }
}

/// The Catalog, as somebody sees it.
struct Catalog {
    egress: Egress,
    resources: Url,
    headers: HeaderMap,
}

fn refusing(status: StatusCode, what: &str) -> ApiError {
    let message = format!(
        "The Catalog does not {what} (status {}): see that CATALOG_SERVICE_URL names one, and that you may use it",
        status.as_u16()
    );
    ApiError::new(StatusCode::BAD_GATEWAY, "CATALOG_REFUSED", message)
}

impl Catalog {
    fn of(base: &str, from: &HeaderMap, scope: &RequestScope) -> ApiResult<Self> {
        let resources = Url::parse(&format!("{}/api/resources", base.trim_end_matches('/')));
        let resources = resources.map_err(ApiError::internal)?;
        let egress = Egress::new(Rules::only(&resources)).map_err(ApiError::internal)?;
        let mut headers = HeaderMap::new();
        in_callers_name(&mut headers, from, scope);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(Catalog { egress, resources, headers })
    }

    async fn ask(&self, method: Method, url: Url, body: Option<&Value>) -> ApiResult<Reply> {
        let (headers, body) = (self.headers.clone(), body.map(|body| body.to_string().into()));
        let errand = Errand { method, url, headers, body, patience: PATIENCE, most: MOST };
        self.egress.fetch(errand).await.map_err(|error| match error {
            EgressError::Timeout | EgressError::Unreachable => ApiError::unavailable("The Catalog", 5),
            error => ApiError::internal(error),
        })
    }

    // The ids of what is there, by key.
    async fn present(&self) -> ApiResult<HashMap<String, String>> {
        let mut url = self.resources.clone();
        url.query_pairs_mut().append_pair("type", "integration").append_pair("prefix", PREFIX);
        let reply = self.ask(Method::GET, url, None).await?;
        let listed = reply.data();
        let Some(rows) = listed.as_array().filter(|_| reply.status.is_success()) else {
            return Err(refusing(reply.status, "list its resources"));
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Ok(rows.iter().filter_map(|row| Some((text(&row["key"])?, text(&row["id"])?))).collect())
    }

    // Why it is not written, if it is not.
    async fn write(&self, resource: &Value, there: Option<&str>) -> Option<String> {
        let url = match there {
            None => self.resources.clone(),
            Some(id) => {
                let mut url = self.resources.clone();
                url.path_segments_mut().ok()?.push(id);
                url
            }
        };
        let method = if there.is_some() { Method::PATCH } else { Method::POST };
        match self.ask(method, url, Some(resource)).await {
            Ok(reply) if reply.status.is_success() => None,
            Ok(reply) => {
                let said = reply.data();
                let why =
                    ["message", "error"].iter().find_map(|name| said[*name].as_str()).unwrap_or("it gives no reason");
                Some(format!("the Catalog refuses it with status {}: {why}", reply.status.as_u16()))
            }
            Err(error) => Some(error.message().to_owned()),
        }
    }
}

/// Write providers and models into the Catalog (admins of the organization)
///
/// Each is a resource `integrations/ai/<provider>/config` or `integrations/ai/<provider>/models/<model>`. The Catalog is asked in
/// the caller's name, and decides what they may write there. One that cannot be written is named, and keeps back no other.
#[utoipa::path(post, path = "/model-eval/catalog/sync", tag = "Model evaluation", request_body = Wanted,
    responses((status = 200, description = "What was written, or would be", body = Object),
        (status = 403, description = "Not an admin of the organization"), (status = 404, description = "There is no such provider"),
        (status = 502, description = "The Catalog refuses"), (status = 503, description = "The Catalog does not answer")))]
async fn sync(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    headers: HeaderMap,
    Json(wanted): Json<Wanted>,
) -> ApiResult<axum::Json<Value>> {
    admin(&caller, &scope)?;
    let only: Vec<&str> = wanted.providers.iter().map(String::as_str).collect();
    let (resources, _) = service.resources(&caller, &scope, &only).await?;
    let base = service.registry.base_of(Service::Catalog).ok_or_else(|| ApiError::unavailable("The Catalog", 60))?;
    let catalog = Catalog::of(base, &headers, &scope)?;
    let present = catalog.present().await?;
    let each = |resource: Value| {
        let (catalog, present, wanted) = (&catalog, &present, &wanted);
        async move {
            let key = resource["key"].as_str().unwrap_or_default().to_owned();
            let there = present.get(&key).map(String::as_str);
            let fate = match there {
                None => Fate::Created,
                Some(_) if wanted.force_update => Fate::Updated,
                Some(_) => Fate::Skipped,
            };
            let writes = fate != Fate::Skipped && !wanted.dry_run;
            let error = if writes { catalog.write(&resource, there).await } else { None };
            (key, if error.is_some() { Fate::Failed } else { fate }, error)
        }
    };
    let fates: Vec<(String, Fate, Option<String>)> =
        stream::iter(resources.into_iter().map(each)).buffered(AT_ONCE).collect().await;
    Ok(axum::Json(told(&fates, wanted.dry_run)))
}

fn told(fates: &[(String, Fate, Option<String>)], dry_run: bool) -> Value {
    let count = |wanted: Fate| fates.iter().filter(|(_, fate, _)| *fate == wanted).count();
    let [created, updated, skipped, failed] = [Fate::Created, Fate::Updated, Fate::Skipped, Fate::Failed].map(count);
    let (would, failures) =
        (if dry_run { "would be " } else { "" }, if failed > 0 { format!(", {failed} failed") } else { String::new() });
    let errors = fates.iter().filter_map(|(key, _, error)| Some(json!({ "key": key, "error": error.as_ref()? })));
    let resources = fates.iter().map(|(key, fate, _)| json!({ "key": key, "action": fate.name() }));
    json!({
        "message": format!("{created} {would}created, {updated} {would}updated, {skipped} skipped{failures}"),
        "created": created, "updated": updated, "skipped": skipped,
        "errors": errors.collect::<Value>(), "resources": resources.collect::<Value>(),
        "dryRun": dry_run, "syncedAt": iso(OffsetDateTime::now_utc()),
    })
}
