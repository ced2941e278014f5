//! Who follows, and for how long: a feed outlives the request that opened it, so its credential is asked about again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, Request, StatusCode, header, request::Parts},
};
use symbia_events::OrgId;

use crate::http::{ApiError, ApiResult, Authenticator, Caller, RequestScope, request::TrustedProxies};

/// In `Sec-WebSocket-Protocol`, before a token: for browsers, which can set no other header on a WebSocket.
const BEARER_PROTOCOL: &str = "bearer.";
const X_ORG_ID: &str = "x-org-id";
const X_ACCESS_REASON: &str = "x-access-reason";

/// An authenticated follower with the credential it came with. 401 to everyone else.
pub(crate) struct Access {
    pub caller: Caller,
    headers: HeaderMap,
    authenticator: Arc<dyn Authenticator>,
}

impl<S: Send + Sync> FromRequestParts<S> for Access {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let authenticator = parts.extensions.get::<Arc<dyn Authenticator>>().cloned();
        let authenticator =
            authenticator.ok_or_else(|| ApiError::internal("the service was built without an authenticator"))?;
        let mut headers = HeaderMap::new();
        for name in ["authorization", "x-api-key", "cookie", X_ORG_ID, X_ACCESS_REASON] {
            for value in parts.headers.get_all(name) {
                headers.append(name, value.clone());
            }
        }
        let named = headers.contains_key(header::AUTHORIZATION) || headers.contains_key("x-api-key");
        if let Some(token) = protocol_token(&parts.headers).filter(|_| !named) {
            headers.insert(header::AUTHORIZATION, token);
        }
        let caller = authenticate(&headers, &authenticator).await?;
        Ok(Self { caller, headers, authenticator })
    }
}

impl Access {
    /// The tenant to follow: the one asked for by name, else as for every request. An operator says why it is another's.
    pub fn tenant(&self, asked: Option<&str>, reason: Option<&str>) -> ApiResult<OrgId> {
        let named = asked.or_else(|| self.headers.get(X_ORG_ID)?.to_str().ok());
        if named == Some(OrgId::GLOBAL) {
            self.caller.require_super_admin()?;
            return Ok(OrgId::global());
        }
        let mut headers = self.headers.clone();
        if let Some(reason) = reason.and_then(|reason| HeaderValue::from_str(reason).ok()) {
            headers.insert(X_ACCESS_REASON, reason);
        }
        if let Some(asked) = asked {
            let value = HeaderValue::from_str(asked).map_err(|_| ApiError::org_access_denied())?;
            headers.insert(X_ORG_ID, value);
        }
        let org =
            self.caller.org(&RequestScope::new(&parts(&headers, &self.authenticator), &TrustedProxies::default()))?;
        org.parse().map_err(|_| ApiError::org_access_denied())
    }

    /// The caller as it is now. 401 when the credential is no longer good, 403 when it no longer opens this tenant, 503 when
    /// nobody can tell.
    pub async fn check(&self, tenant: &OrgId) -> ApiResult<Caller> {
        let caller = authenticate(&self.headers, &self.authenticator).await?;
        let admitted = match tenant.as_str() {
            OrgId::GLOBAL => caller.is_super_admin,
            org => caller.belongs_to(org) || caller.bypasses_org_filter(),
        };
        if admitted { Ok(caller) } else { Err(ApiError::org_access_denied()) }
    }
}

/// Who presents these headers. 401 to nobody.
pub(crate) async fn authenticate(headers: &HeaderMap, authenticator: &Arc<dyn Authenticator>) -> ApiResult<Caller> {
    Caller::from_request_parts(&mut parts(headers, authenticator), &()).await
}

fn parts(headers: &HeaderMap, authenticator: &Arc<dyn Authenticator>) -> Parts {
    let mut request = Request::new(());
    headers.clone_into(request.headers_mut());
    request.extensions_mut().insert(Arc::clone(authenticator));
    request.into_parts().0
}

fn protocol_token(headers: &HeaderMap) -> Option<HeaderValue> {
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    let token = offered.flat_map(|v| v.split(',')).find_map(|p| p.trim().strip_prefix(BEARER_PROTOCOL))?;
    HeaderValue::from_str(&format!("Bearer {token}")).ok()
}

/// How many feeds each principal has open.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots(Arc<Mutex<HashMap<String, usize>>>);

/// One open feed; gives its place back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Slots,
    principal: String,
}

impl Slots {
    /// A place for one more feed, of at most `most`.
    pub fn take(&self, principal: &str, most: usize) -> ApiResult<Slot> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(principal.to_owned()).or_default();
        if *count >= most {
            let message = format!("This principal has {most} feeds open, which is the most allowed");
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, "QUOTA_EXCEEDED", message)
                .with_hint("Close one first, or follow more services and aggregates on one feed."));
        }
        *count += 1;
        Ok(Slot { slots: self.clone(), principal: principal.to_owned() })
    }

    pub fn open(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.principal) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.principal);
            }
        }
    }
}
