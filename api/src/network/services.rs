//! The platform's own services as callers of the mesh: each proves itself with a token that it signs, sent where others send
//! theirs (network.md §5.3, 15 F6).

use async_trait::async_trait;
use symbia_commands::{Actor, AssertionError, ServiceToken, identity::AccessKind, network::RefusalKind};
use symbia_events::Service;
use symbia_nats::{
    refusals::Refused,
    witness::{FLOOD, Seen},
};
use time::OffsetDateTime;

use super::refusals::Refusals;
use crate::{
    http::{AuthError, Authenticator, Principal, principal::AuthType, principal::PrincipalKind},
    identity::Directory,
    platform::Platform,
};

/// The directory, and the services.
pub(super) struct ServicesToo {
    pub directory: Directory,
    pub platform: Platform,
    pub refusals: Refusals,
}

#[async_trait]
impl Authenticator for ServicesToo {
    async fn bearer(&self, token: &str) -> Result<Principal, AuthError> {
        match ServiceToken::of_token(&self.platform.keys, token, Service::Network, OffsetDateTime::now_utc()) {
            // In somebody's name it comes with their token.
            Ok(ServiceToken { act: Some(_), .. }) => Err(AuthError::Invalid),
            Ok(ServiceToken { service, .. }) => {
                let id = Actor::service(service.name()).id;
                Ok(Principal::new(id, PrincipalKind::Service, AuthType::Service))
            }
            Err(AssertionError::Expired(_)) => Err(AuthError::Expired),
            // No service's, or forged: then it is no token of the directory's either.
            Err(_) => self.directory.bearer(token).await,
        }
    }

    async fn api_key(&self, key: &str) -> Result<Principal, AuthError> {
        self.directory.api_key(key).await
    }

    // Who asks too much of a mesh is in its log too.
    fn witness(&self, seen: Seen) {
        if let AccessKind::Denied { code } = &seen.kind
            && code == FLOOD
            && let Some(org) = seen.org.as_ref().and_then(|org| org.parse().ok())
        {
            let (principal, operation) = (seen.principal.as_str(), seen.operation.as_str());
            let refused =
                Refused { org: &org, principal, kind: RefusalKind::Rate, code, operation, claimed_source: None };
            self.refusals.tell(&self.platform, refused);
        }
        Authenticator::witness(&self.directory, seen);
    }
}
