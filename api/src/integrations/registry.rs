//! The registry: which APIs can be called, what of them, and calling it (integrations.md §5.3, §12). What an organization
//! registered is in the log; what everybody has, providers and the platform's own services, is added to it here.

mod entry;
mod internal;
mod invocations;
mod invoke;
mod parse;
mod routes;
mod tree;

use std::sync::Arc;

use symbia_commands::integrations::{CONFIGURE_CAPABILITY, builtin::BUILTINS};
use symbia_egress::Egress;
use symbia_events::{OrgId, Service, integrations::Operation};
use symbia_projections::{Scope, integrations as model};
use utoipa_axum::router::OpenApiRouter;

use self::internal::Internals;
pub(super) use self::{
    entry::Entry,
    internal::in_callers_name,
    invoke::{Call, Called},
};
use super::Integrations;
use crate::{
    http::{ApiError, ApiResult, Caller, RequestScope},
    platform::{Platform, Settings},
};

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new()
        .merge(routes::routes())
        .merge(tree::routes())
        .merge(parse::routes())
        .merge(invoke::routes())
        .merge(invocations::routes())
}

/// What the registry stands on, besides the platform.
#[derive(Clone)]
pub(super) struct Registry {
    internals: Arc<Internals>,
    identity: String,
    // None when this machine can make no HTTP client: then documents of others cannot be read, and nothing else.
    egress: Option<Egress>,
}

impl Registry {
    pub fn new(platform: &Platform, services: Vec<(Service, String)>) -> Self {
        let egress = Egress::new(platform.settings.egress.clone());
        let egress = egress.inspect_err(|error| tracing::error!(%error, "no HTTP client")).ok();
        let identity = services.iter().find(|(service, _)| *service == Service::Identity);
        let identity = identity.map(|(_, base)| base.clone()).unwrap_or_default();
        Registry { identity, internals: Arc::new(Internals::new(services)), egress }
    }

    /// Where another service of the platform is.
    pub fn base_of(&self, service: Service) -> Option<&str> {
        self.internals.base_of(service)
    }

    /// Where people sign in.
    pub fn identity<'a>(&'a self, settings: &'a Settings) -> &'a str {
        let public = settings.base_url.trim_end_matches('/');
        if public.is_empty() { &self.identity } else { public }
    }

    /// What calls addresses that others chose.
    pub fn egress(&self) -> ApiResult<&Egress> {
        self.egress.as_ref().ok_or_else(|| ApiError::unavailable("The HTTP client", 60))
    }
}

/// Who uses the registry of which organization.
pub(super) struct Reader {
    pub org: OrgId,
    pub user: String,
    configures: bool,
}

impl Reader {
    pub fn new(caller: &Caller, scope: &RequestScope) -> ApiResult<Self> {
        let org = caller.org(scope)?;
        let configures = caller.role_in(&org) == Some("admin") || caller.has_capability(CONFIGURE_CAPABILITY);
        let org = org.parse().map_err(|_| ApiError::org_access_denied())?;
        Ok(Reader { org, user: caller.id.clone(), configures })
    }

    /// Only who may register.
    pub fn configuring(caller: &Caller, scope: &RequestScope) -> ApiResult<Self> {
        let reader = Self::new(caller, scope)?;
        if !reader.configures {
            caller.require_capability(&[CONFIGURE_CAPABILITY])?;
        }
        Ok(reader)
    }
}

impl Integrations {
    /// All that can be called: the organization's own, the providers, and the platform's services.
    pub(super) async fn entries(&self, reader: &Reader) -> ApiResult<Vec<Entry>> {
        let mut tx = self.platform.read(&Scope::member(reader.org.clone(), &reader.user)).await?;
        let own = model::integrations(&mut tx, reader.org.as_str()).await?;
        drop(tx);
        let own = own.into_iter().map(Entry::registered);
        Ok(own.chain(self.own_entries().await).collect())
    }

    /// What everybody can call: the providers, and the platform's services.
    pub(super) async fn own_entries(&self) -> Vec<Entry> {
        let internal = self.registry.internals.entries().await;
        BUILTINS.iter().map(Entry::builtin).chain(internal).collect()
    }

    /// One of them.
    pub(super) async fn entry(&self, reader: &Reader, key: &str) -> ApiResult<Entry> {
        if let Some(builtin) = BUILTINS.iter().find(|builtin| builtin.key == key) {
            return Ok(Entry::builtin(builtin));
        }
        if let Some(internal) = self.registry.internals.entry(key).await {
            return Ok(internal);
        }
        let mut tx = self.platform.read(&Scope::member(reader.org.clone(), &reader.user)).await?;
        let own = model::integration(&mut tx, reader.org.as_str(), key).await?;
        own.map(Entry::registered).ok_or_else(|| ApiError::not_found("Integration"))
    }

    /// What a path leads to: `[integrations.]<key>.<operation>`.
    pub(super) async fn resolve(&self, reader: &Reader, path: &str) -> ApiResult<(Entry, Operation)> {
        let unknown = |hint: String| ApiError::not_found("Operation").with_hint(hint);
        let path = path.strip_prefix("integrations.").unwrap_or(path);
        let Some((key, rest)) = path.split_once('.') else {
            return Err(unknown("Write <integration>.<operation>, as in openai.chat.completions.create.".to_owned()));
        };
        let entry = self.entry(reader, key).await.map_err(|error| match error.code() {
            "NOT_FOUND" => unknown(format!("No integration '{key}' is registered: GET /api/integrations/registry.")),
            _ => error,
        })?;
        let operation = entry.operation(rest).cloned().ok_or_else(|| {
            unknown(format!("GET /api/integrations/registry/{key}/operations lists those of '{key}'."))
        })?;
        Ok((entry, operation))
    }
}
