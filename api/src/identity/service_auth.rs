//! Who calls an internal route: a service of the platform that proves itself in `X-Service-Auth`, and the principal it
//! acts for. `X-Service-Id` proves nothing and is not looked at (identity.md §18, 1).

use axum::http::{HeaderMap, StatusCode};
use symbia_commands::{Actor, Membership, Role, ServiceToken};
use symbia_events::{ActorType, KeyRing, Service};
use symbia_projections::{Scope, identity as model};
use time::OffsetDateTime;

use super::Identity;
use crate::http::{ApiError, ApiResult, Caller, OptionalCaller};

/// A service, in the name of a principal.
pub(super) struct Acting {
    /// The service, acting for the principal, with the principal's live organizations.
    pub actor: Actor,
    /// The principal.
    pub principal: String,
    /// What for.
    pub purpose: Option<String>,
}

/// The service that sent a request to this one.
///
/// # Errors
/// 401 without any credential; 403 SERVICE_PRINCIPAL_REQUIRED when it is not a service's.
pub(crate) fn service_of(
    keys: &KeyRing,
    audience: Service,
    headers: &HeaderMap,
    caller: Option<&Caller>,
) -> ApiResult<ServiceToken> {
    let required = || {
        let message = "Only a service of the platform can do this";
        ApiError::new(StatusCode::FORBIDDEN, "SERVICE_PRINCIPAL_REQUIRED", message)
            .with_hint("Send the service's signed token in X-Service-Auth.")
    };
    let Some(token) = headers.get("x-service-auth") else {
        return Err(caller.map_or_else(ApiError::auth_required, |_| required()));
    };
    let token = token.to_str().unwrap_or_default();
    ServiceToken::of_token(keys, token, audience, OffsetDateTime::now_utc()).map_err(|error| {
        tracing::warn!(%error, "a service's token is refused");
        if matches!(error, symbia_commands::AssertionError::Expired(_)) {
            ApiError::token_expired()
        } else {
            ApiError::token_invalid()
        }
    })
}

impl Identity {
    /// The service that sent a request.
    ///
    /// # Errors
    /// 401 without any credential; 403 SERVICE_PRINCIPAL_REQUIRED when it is not a service's.
    pub(super) fn service(&self, headers: &HeaderMap, caller: Option<&Caller>) -> ApiResult<ServiceToken> {
        service_of(&self.platform.keys, Service::Identity, headers, caller)
    }

    /// The service that sent a request, and the verified principal it acts for: that of the request's own token, or of the
    /// assertion in the service's.
    ///
    /// # Errors
    /// Those of [`Identity::service`]; 403 when it acts for nobody.
    pub(super) async fn acting(
        &self,
        headers: &HeaderMap,
        caller: Result<OptionalCaller, ApiError>,
    ) -> ApiResult<Acting> {
        let caller = caller?.0;
        let token = self.service(headers, caller.as_ref())?;
        let (principal, kind) = match (&caller, &token.act) {
            (Some(caller), _) => (caller.id.clone(), Actor::from(&**caller).kind),
            (None, Some(assertion)) => {
                let actor = Actor::of_assertion(&self.platform.keys, assertion, OffsetDateTime::now_utc());
                let actor = actor.map_err(|_| ApiError::token_invalid())?;
                (actor.id, actor.kind)
            }
            (None, None) => {
                let message = "The service does not say for whom it acts";
                return Err(ApiError::new(StatusCode::FORBIDDEN, "PRINCIPAL_REQUIRED", message));
            }
        };
        let orgs = match &caller {
            // As narrow as the credential of the request makes it.
            Some(caller) => Actor::from(&**caller).orgs,
            None => self.memberships(&principal, kind).await?,
        };
        let service = Actor::service(token.service.name());
        let actor = Actor { orgs, on_behalf_of: Some(principal.clone()), ..service };
        Ok(Acting { actor, principal, purpose: token.purpose })
    }

    async fn memberships(&self, principal: &str, kind: ActorType) -> ApiResult<Vec<Membership>> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let gone = ApiError::session_revoked;
        let orgs: Vec<(String, Role)> = match kind {
            ActorType::User => {
                model::user(&mut tx, principal).await?.ok_or_else(gone)?;
                let role = |role: &str| serde_json::from_value(role.into()).ok();
                let orgs = model::organizations_of(&mut tx, principal).await?;
                orgs.into_iter().filter_map(|o| Some((o.id, role(&o.role)?))).collect()
            }
            ActorType::Agent => {
                let agent = model::agent_by_handle(&mut tx, principal).await?.filter(|agent| agent.is_active);
                agent.ok_or_else(gone)?.organization().map(|org| (org.to_owned(), Role::Member)).into_iter().collect()
            }
            _ => Vec::new(),
        };
        Ok(orgs.into_iter().filter_map(|(id, role)| Some(Membership { id: id.parse().ok()?, role })).collect())
    }
}
