//! Extractors for who asks, and for which organization (platform.md §4.3, 7.2).

use std::{fmt, ops::Deref, sync::Arc};

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};

use symbia_commands::identity::AccessKind;
use symbia_nats::witness::Seen;

use super::{
    auth::{Authenticator, resolve},
    error::ApiError,
    principal::{Principal, PrincipalKind},
    request::RequestScope,
};

/// An authenticated caller; a route that takes it answers 401 to everyone else.
#[derive(Clone)]
pub struct Caller {
    principal: Arc<Principal>,
    /// Takes note of what is for the audit trail.
    authenticator: Option<Arc<dyn Authenticator>>,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.principal.fmt(f)
    }
}

/// A caller, if there is one. A bearer token or API key that is not valid is still 401, and an unavailable directory 503.
#[derive(Clone, Debug)]
pub struct OptionalCaller(pub Option<Caller>);

impl Deref for Caller {
    type Target = Principal;

    fn deref(&self) -> &Principal {
        &self.principal
    }
}

impl From<Arc<Principal>> for Caller {
    fn from(principal: Arc<Principal>) -> Self {
        Self { principal, authenticator: None }
    }
}

impl From<Caller> for Arc<Principal> {
    fn from(caller: Caller) -> Self {
        caller.principal
    }
}

impl From<Principal> for Caller {
    fn from(principal: Principal) -> Self {
        Self { principal: Arc::new(principal), authenticator: None }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        OptionalCaller::from_request_parts(parts, &()).await?.0.ok_or_else(ApiError::auth_required)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for OptionalCaller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let found = resolve(parts).await?;
        let authenticator = parts.extensions.get().cloned();
        Ok(Self(found.map(|principal| Caller { principal, authenticator })))
    }
}

impl Caller {
    /// The same caller with the principal that is made of its own.
    pub(crate) fn sharing(self, share: impl FnOnce(Arc<Principal>) -> Arc<Principal>) -> Self {
        Caller { principal: share(self.principal), ..self }
    }

    /// Has it noted that the caller was refused something outside a request, where that is noted at all.
    pub(crate) fn was_refused(&self, org: Option<String>, operation: &str, error: &ApiError) {
        if let Some(authenticator) = self.authenticator.as_ref().filter(|_| error.is_denial()) {
            let principal = self.acting.as_ref().map_or(&self.id, |acting| &acting.agent).clone();
            let kind = AccessKind::Denied { code: error.code().to_owned() };
            authenticator.witness(Seen { principal, org, operation: operation.to_owned(), kind, address: None });
        }
    }

    /// The organization that the request acts in: `X-Org-Id` if the caller belongs there or may act anywhere; without it
    /// the caller's only organization beside the operators', else its default.
    ///
    /// # Errors
    /// 403 ORG_ACCESS_DENIED, also for an organization that does not exist, and for one that an operator enters without a reason;
    /// 400 ORG_REQUIRED.
    pub fn org(&self, scope: &RequestScope) -> Result<String, ApiError> {
        if let Some(org) = &scope.org_id {
            if self.belongs_to(org) {
                return Ok(org.clone());
            }
            if self.bypasses_org_filter() {
                self.enters(org, scope)?;
                return Ok(org.clone());
            }
            return Err(ApiError::org_access_denied());
        }
        self.home().map(str::to_owned).ok_or_else(ApiError::org_required)
    }

    /// Lets the caller, by an operator's right, into an organization that it does not belong to (`global`: into all of them),
    /// and has that noted with the reason that the request gives.
    ///
    /// # Errors
    /// 403 ORG_ACCESS_DENIED without an `X-Access-Reason`.
    pub fn enters(&self, org: &str, scope: &RequestScope) -> Result<(), ApiError> {
        if self.belongs_to(org) {
            return Ok(());
        }
        let reason = scope.access_reason.clone().ok_or_else(ApiError::access_reason_required)?;
        tracing::info!(principal = %self.id, org, "cross-tenant access");
        if let Some(authenticator) = &self.authenticator {
            authenticator.witness(Seen {
                principal: self.id.clone(),
                org: Some(org.to_owned()),
                operation: scope.operation.clone(),
                kind: AccessKind::CrossTenant { reason },
                address: None,
            });
        }
        Ok(())
    }

    /// Only users.
    ///
    /// # Errors
    /// 403 USER_PRINCIPAL_REQUIRED.
    pub fn require_user(&self) -> Result<(), ApiError> {
        if self.kind == PrincipalKind::User { Ok(()) } else { Err(ApiError::user_principal_required()) }
    }

    /// Only a user in person: not an agent in its name, and not a key that it gave away.
    ///
    /// # Errors
    /// 403 USER_PRINCIPAL_REQUIRED.
    pub fn require_person(&self) -> Result<(), ApiError> {
        self.require_user()?;
        if self.acting.is_none() && !self.via_api_key { Ok(()) } else { Err(ApiError::user_principal_required()) }
    }

    /// Whoever acts in their own name: nobody in somebody else's.
    ///
    /// # Errors
    /// 403 FORBIDDEN.
    pub fn require_itself(&self) -> Result<(), ApiError> {
        if self.acting.is_none() && !self.via_api_key {
            return Ok(());
        }
        Err(ApiError::new(StatusCode::FORBIDDEN, "FORBIDDEN", "This cannot be done in somebody else's name"))
    }

    /// Only agents.
    ///
    /// # Errors
    /// 403 AGENT_PRINCIPAL_REQUIRED.
    pub fn require_agent(&self) -> Result<(), ApiError> {
        if self.kind == PrincipalKind::Agent { Ok(()) } else { Err(ApiError::agent_principal_required()) }
    }

    /// Only super admins.
    ///
    /// # Errors
    /// 403 SUPERADMIN_REQUIRED.
    pub fn require_super_admin(&self) -> Result<(), ApiError> {
        if self.is_super_admin { Ok(()) } else { Err(ApiError::superadmin_required()) }
    }

    /// Super admins and holders of the role.
    ///
    /// # Errors
    /// 403 INSUFFICIENT_ROLE.
    pub fn require_role(&self, role: &str) -> Result<(), ApiError> {
        if self.has_role(role) { Ok(()) } else { Err(ApiError::insufficient_role(role)) }
    }

    /// Super admins and holders of one of the capabilities; the error names the first.
    ///
    /// # Errors
    /// 403 MISSING_CAPABILITY.
    pub fn require_capability(&self, any_of: &[&str]) -> Result<(), ApiError> {
        if self.is_super_admin || any_of.iter().any(|c| self.has_capability(c)) {
            return Ok(());
        }
        Err(ApiError::missing_capability(any_of.first().copied().unwrap_or_default()))
    }
}
