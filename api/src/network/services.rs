//! The platform's own services as callers of the mesh: each proves itself with a token that it signs, sent where others send
//! theirs (network.md §5.3, 15 F6).

use std::sync::Arc;

use async_trait::async_trait;
use symbia_commands::{Actor, AssertionError, ServiceToken};
use symbia_events::{KeyRing, Service};
use symbia_nats::witness::Seen;
use time::OffsetDateTime;

use crate::{
    http::{AuthError, Authenticator, Principal, principal::AuthType, principal::PrincipalKind},
    identity::Directory,
};

/// The directory, and the services.
pub(super) struct ServicesToo {
    pub directory: Directory,
    pub keys: Arc<KeyRing>,
}

#[async_trait]
impl Authenticator for ServicesToo {
    async fn bearer(&self, token: &str) -> Result<Principal, AuthError> {
        match ServiceToken::of_token(&self.keys, token, Service::Network, OffsetDateTime::now_utc()) {
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

    fn witness(&self, seen: Seen) {
        Authenticator::witness(&self.directory, seen);
    }
}
