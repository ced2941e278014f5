//! What a request says about itself besides its body: ids, trace, tenant and scope headers, client address (platform.md §3).
//! Tenant, service and policy headers are *claims*; [`super::caller::Caller`] holds them against the principal.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::Deref,
    str::FromStr,
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, Method, request::Parts},
};
use ipnet::IpNet;
use tracing::Span;
use uuid::Uuid;

use super::{error::ApiError, trace::TraceContext};

/// Classification of the data in a request (platform.md §8), in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataClass {
    /// Nothing to protect.
    None,
    /// Personal data.
    Pii,
    /// Health data.
    Phi,
    /// Secrets; never leave the vault.
    Secret,
}

impl FromStr for DataClass {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.to_ascii_lowercase().as_str() {
            "none" => Ok(Self::None),
            "pii" => Ok(Self::Pii),
            "phi" => Ok(Self::Phi),
            "secret" => Ok(Self::Secret),
            _ => Err(()),
        }
    }
}

/// Addresses whose `X-Forwarded-For` is believed. Default: this machine only.
#[derive(Clone, Debug)]
pub struct TrustedProxies(Vec<IpNet>);

impl Default for TrustedProxies {
    fn default() -> Self {
        Self(vec![IpNet::from(IpAddr::from([127, 0, 0, 1])), IpNet::from(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]))])
    }
}

impl TrustedProxies {
    /// Believes these networks.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The nearest address that is not one of our proxies: the peer, or the last entry of `X-Forwarded-For` that a trusted
    /// proxy vouches for.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let forwarded: Vec<&str> = headers
            .get_all("x-forwarded-for")
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .collect();
        for entry in forwarded.into_iter().rev() {
            if !self.trusts(client) {
                break;
            }
            let Ok(next) = entry.trim().parse::<IpAddr>() else { break };
            client = next.to_canonical();
        }
        client
    }
}

/// The scope of one request; cheap to clone, and an extractor.
#[derive(Clone, Debug)]
pub struct RequestScope(Arc<Scope>);

/// The fields of a [`RequestScope`].
#[derive(Debug)]
pub struct Scope {
    /// `X-Request-Id`, the caller's when it is well-formed, else a UUIDv7.
    pub request_id: String,
    /// Trace and span.
    pub trace: TraceContext,
    /// `Idempotency-Key`, 1–255 visible characters.
    pub idempotency_key: Option<String>,
    /// `X-Org-Id`, unverified: use [`super::caller::Caller::org`].
    pub org_id: Option<String>,
    /// `X-Service-Id`, unverified.
    pub service_id: Option<String>,
    /// `X-Env`, alias `X-Environment`: a label.
    pub env: Option<String>,
    /// `X-Data-Class`; absent or unknown means the service's default.
    pub data_class: Option<DataClass>,
    /// `X-Policy-Ref`.
    pub policy_ref: Option<String>,
    /// `X-Symbia-Tags`: words of the caller's own, by which requests to models are found again.
    pub tags: Option<String>,
    /// `X-Access-Reason`: why an operator acts in an organization that is not theirs.
    pub access_reason: Option<String>,
    /// Address of the client behind our own proxies.
    pub client_ip: IpAddr,
    /// Method and path, e.g. `GET /api/users`; what an idempotency key is bound to.
    pub operation: String,
}

impl Deref for RequestScope {
    type Target = Scope;

    fn deref(&self) -> &Scope {
        &self.0
    }
}

const REQUEST_ID: std::ops::RangeInclusive<usize> = 8..=64;
const LABEL_MAX: usize = 256;
const IDEMPOTENCY_KEY_MAX: usize = 255;

impl RequestScope {
    /// Reads the scope of a request.
    #[must_use]
    pub fn new(parts: &Parts, proxies: &TrustedProxies) -> Self {
        let headers = &parts.headers;
        let label = |name| text(headers, name).filter(|v| (1..=LABEL_MAX).contains(&v.len())).map(str::to_owned);
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |info| info.0.ip());
        Self(Arc::new(Scope {
            request_id: text(headers, "x-request-id")
                .filter(|id| is_request_id(id))
                .map_or_else(|| Uuid::now_v7().to_string(), str::to_owned),
            trace: TraceContext::from_headers(headers),
            idempotency_key: text(headers, "idempotency-key").filter(|key| is_idempotency_key(key)).map(str::to_owned),
            org_id: label("x-org-id"),
            service_id: label("x-service-id"),
            env: label("x-env").or_else(|| label("x-environment")),
            data_class: text(headers, "x-data-class").and_then(|v| v.parse().ok()),
            policy_ref: label("x-policy-ref"),
            tags: text(headers, "x-symbia-tags").map(str::to_owned),
            access_reason: label("x-access-reason"),
            client_ip: proxies.client(peer, headers),
            operation: format!("{} {}", parts.method, parts.uri.path()),
        }))
    }

    /// The scope of one of the calls that come over a connection: ids of its own, the labels of the request that opened it; the
    /// organization that the connection named counts before the request's.
    #[must_use]
    pub fn of_call(&self, call: &str, org: Option<&str>) -> Self {
        Self(Arc::new(Scope {
            request_id: Uuid::now_v7().to_string(),
            trace: TraceContext::from_headers(&HeaderMap::new()),
            idempotency_key: None,
            org_id: org.map(str::to_owned).or_else(|| self.org_id.clone()),
            service_id: self.service_id.clone(),
            env: self.env.clone(),
            data_class: self.data_class,
            policy_ref: self.policy_ref.clone(),
            tags: self.tags.clone(),
            access_reason: self.access_reason.clone(),
            client_ip: self.client_ip,
            operation: format!("CALL {call}"),
        }))
    }

    /// The same scope, with the span that the request is answered in.
    pub(super) fn within(mut self, span: &Span) -> Self {
        if let Some(scope) = Arc::get_mut(&mut self.0) {
            scope.trace.join(span);
        }
        self
    }

    /// The id of the command that this request causes: from the idempotency key, so that a repetition by the same principal
    /// on the same route is the same command; else a new one.
    #[must_use]
    pub fn command_id(&self, principal: &str) -> Uuid {
        match &self.idempotency_key {
            Some(key) => {
                let name = serde_json::json!([principal, self.operation, key]).to_string();
                Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
            }
            None => Uuid::now_v7(),
        }
    }

    /// The `traceparent` header for what this request causes.
    #[must_use]
    pub fn traceparent(&self) -> String {
        self.trace.traceparent()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for RequestScope {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        if let Some(scope) = parts.extensions.get::<RequestScope>() {
            return Ok(scope.clone());
        }
        let scope = Self::new(parts, &TrustedProxies::default());
        parts.extensions.insert(scope.clone());
        Ok(scope)
    }
}

/// Refuses a mutating request whose idempotency key cannot be kept: doing it without one could do it twice.
pub(super) fn check_idempotency_key(method: &Method, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(()) };
    if method.is_safe() || key.to_str().is_ok_and(is_idempotency_key) {
        return Ok(());
    }
    Err(ApiError::invalid("Idempotency-Key", "format", "must have 1 to 255 visible ASCII characters"))
}

fn is_idempotency_key(key: &str) -> bool {
    (1..=IDEMPOTENCY_KEY_MAX).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic())
}

fn is_request_id(id: &str) -> bool {
    REQUEST_ID.contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

#[cfg(test)]
#[allow(clippy::expect_used, reason = "tests")]
mod tests {
    use std::net::IpAddr;

    use axum::http::{HeaderMap, HeaderValue};

    use super::TrustedProxies;

    #[test]
    fn the_client_is_the_nearest_address_that_is_not_our_proxy() {
        let proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().expect("a network")]);
        for (peer, forwarded, client) in [
            ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
            ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", "6.6.6.6, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
            ("10.0.0.1", "198.51.100.1, nonsense", "10.0.0.1"),
            ("::ffff:10.0.0.1", "2001:db8::1", "2001:db8::1"),
            ("10.0.0.1", "", "10.0.0.1"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", HeaderValue::from_static(forwarded));
            let peer: IpAddr = peer.parse().expect("an address");
            assert_eq!(proxies.client(peer, &headers).to_string(), client, "{peer} {forwarded}");
        }
    }
}
