//! From a credential to a principal: the token is verified here, its session and the principal's rights are read live
//! (identity.md §4.1, platform.md §4.5). The same for every service.

use async_trait::async_trait;
use symbia_projections::{
    Scope,
    identity::{self as model, OrgRef},
};
use time::{Duration, OffsetDateTime};

use super::tokens::Claims;
use crate::{
    http::{
        ApiError, AuthError, Authenticator, Principal,
        principal::{AuthType, Membership, PrincipalKind},
    },
    platform::Platform,
};

/// For so long after it was issued, a token whose session the read model does not know yet is "not now" and not "no".
const SETTLING: Duration = Duration::seconds(30);

/// Knows the principals of the platform.
#[derive(Clone)]
pub struct Directory(Platform);

impl Directory {
    /// A directory over the platform's read models.
    #[must_use]
    pub fn new(platform: Platform) -> Self {
        Directory(platform)
    }

    /// The principal of a token, and what the token says.
    ///
    /// # Errors
    /// The token is not valid, its session or its user is gone, or the read models cannot be asked.
    pub async fn identify(&self, token: &str) -> Result<(Principal, Claims), AuthError> {
        let claims = self.0.tokens.verify(token)?;
        let now = OffsetDateTime::now_utc();
        let gone = if claims.iat + SETTLING.whole_seconds() > now.unix_timestamp() {
            AuthError::Unavailable
        } else {
            AuthError::Revoked
        };
        let mut tx = self.0.read(&Scope::user(&claims.sub)).await.map_err(unavailable)?;
        let session = model::session(&mut tx, &claims.sid).await.map_err(unavailable)?.ok_or(gone)?;
        if session.principal_id != claims.sub || session.principal_type != claims.kind {
            return Err(AuthError::Invalid);
        }
        if session.revoked_at.is_some() {
            return Err(AuthError::Revoked);
        }
        if !session.is_live(now) {
            return Err(AuthError::Expired);
        }
        let user = model::user(&mut tx, &claims.sub).await.map_err(unavailable)?.ok_or(AuthError::Revoked)?;
        let organizations = model::organizations_of(&mut tx, &user.id).await.map_err(unavailable)?;
        let principal = Principal {
            email: user.email,
            name: user.name,
            is_super_admin: user.is_super_admin,
            organizations: organizations.into_iter().map(membership).collect(),
            session_id: Some(session.id),
            ..Principal::new(user.id, PrincipalKind::User, AuthType::Jwt)
        };
        Ok((principal, claims))
    }
}

fn unavailable(error: impl Into<ApiError>) -> AuthError {
    let error: ApiError = error.into();
    tracing::warn!(%error, "a principal cannot be looked up");
    AuthError::Unavailable
}

fn membership(org: OrgRef) -> Membership {
    Membership { id: org.id, name: org.name, slug: org.slug, role: org.role }
}

#[async_trait]
impl Authenticator for Directory {
    async fn bearer(&self, token: &str) -> Result<Principal, AuthError> {
        Ok(self.identify(token).await?.0)
    }

    async fn api_key(&self, _key: &str) -> Result<Principal, AuthError> {
        // No API key has been issued by anyone yet.
        Err(AuthError::Invalid)
    }
}
