//! Who may let an agent in: nobody, the holder of an enrolment token, or anyone (identity.md §4.6).
//!
//! An enrolment token is `<claims>.<mac>`, both base64url. The admin who issued it is looked up again when it is used: it
//! is worth what its issuer may do then. It works once: its id is claimed by the registration.

use axum::http::{HeaderMap, StatusCode};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde::{Deserialize, Serialize};
use symbia_commands::identity::BASELINE;
use symbia_events::KeyRing;
use symbia_projections::{Scope, identity as model};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::Identity;
use crate::{
    http::{ApiError, ApiResult},
    platform::EnrolmentMode,
};

/// What an enrolment token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EnrolmentClaims {
    pub id: String,
    /// The organization the agent will belong to.
    pub org: String,
    /// What the agent may do.
    pub capabilities: Vec<String>,
    /// The user who issued it.
    pub by: String,
    /// In seconds.
    pub exp: i64,
}

impl EnrolmentClaims {
    pub fn token(&self, keys: &KeyRing) -> Zeroizing<String> {
        let claims = BASE64URL.encode(serde_json::to_vec(self).unwrap_or_default());
        Zeroizing::new(format!("{claims}.{}", keys.lookup_hash("enrolment", &claims)))
    }

    fn of_token(keys: &KeyRing, token: &str, now: OffsetDateTime) -> Option<Self> {
        let (claims, mac) = token.trim().split_once('.')?;
        // Equal digests: the time tells nothing about the mac.
        let digest = |mac: &str| keys.lookup_hash("enrolment-mac", mac);
        if digest(mac) != digest(&keys.lookup_hash("enrolment", claims)) {
            return None;
        }
        let claims: Self = serde_json::from_slice(&BASE64URL.decode(claims).ok()?).ok()?;
        (claims.exp > now.unix_timestamp()).then_some(claims)
    }
}

/// On what terms an agent is let in.
pub(super) struct Terms {
    pub org: Option<String>,
    pub capabilities: Vec<String>,
    pub enrolled_by: String,
    pub enrolment_id: Option<String>,
}

fn refused(code: &'static str, message: &'static str) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, code, message)
}

impl Identity {
    /// The terms for a registration that names an organization and asks for capabilities.
    pub(super) async fn terms(&self, headers: &HeaderMap, org: Option<&str>, requested: &[String]) -> ApiResult<Terms> {
        let settings = &self.platform.settings;
        if settings.enrolment == EnrolmentMode::Closed {
            return Err(refused("ENROLMENT_CLOSED", "Agents are registered by admins only")
                .with_hint("An admin of the organization adds it with POST /api/agents."));
        }
        match headers.get("x-enrolment-token").map(|v| v.to_str().unwrap_or_default()) {
            Some(token) if settings.enrolment_token.as_ref().is_some_and(|t| t.matches(token)) => {
                self.operators_terms(org, requested).await
            }
            Some(token) => self.admins_terms(token, org).await,
            None if settings.enrolment == EnrolmentMode::Open => match org {
                Some(_) => Err(refused("ENROLMENT_TOKEN_REQUIRED", "An organization lets in whom its admin invited")),
                None => Ok(Terms {
                    org: None,
                    capabilities: BASELINE.map(str::to_owned).to_vec(),
                    enrolled_by: "open".to_owned(),
                    enrolment_id: None,
                }),
            },
            None => Err(refused("ENROLMENT_TOKEN_REQUIRED", "Agents register with an enrolment token")
                .with_hint("Send the token of an organization's admin in X-Enrolment-Token.")),
        }
    }

    // The installation's own token: its holder can read the keys of the platform anyway.
    async fn operators_terms(&self, org: Option<&str>, requested: &[String]) -> ApiResult<Terms> {
        if let Some(org) = org {
            let mut tx = self.platform.read(&Scope::platform()).await?;
            if model::organization(&mut tx, org).await?.is_none() {
                return Err(ApiError::new(StatusCode::BAD_REQUEST, "ORG_UNKNOWN", "There is no such organization"));
            }
        }
        let (org, enrolled_by) = (org.map(str::to_owned), "operator".to_owned());
        Ok(Terms { org, capabilities: requested.to_vec(), enrolled_by, enrolment_id: None })
    }

    async fn admins_terms(&self, token: &str, org: Option<&str>) -> ApiResult<Terms> {
        let invalid = || refused("ENROLMENT_TOKEN_INVALID", "The enrolment token is not valid, or no longer");
        let claims = EnrolmentClaims::of_token(&self.platform.keys, token, OffsetDateTime::now_utc());
        let claims = claims.ok_or_else(invalid)?;
        if org.is_some_and(|org| org != claims.org) {
            return Err(ApiError::org_access_denied());
        }
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let issuer = model::user(&mut tx, &claims.by).await?.ok_or_else(invalid)?;
        let membership = model::membership_of(&mut tx, &claims.org, &claims.by).await?;
        let exists = model::organization(&mut tx, &claims.org).await?.is_some();
        if !exists || !(issuer.is_super_admin || membership.is_some_and(|m| m.role == "admin")) {
            return Err(invalid());
        }
        Ok(Terms {
            org: Some(claims.org),
            capabilities: claims.capabilities,
            enrolled_by: claims.by,
            enrolment_id: Some(claims.id),
        })
    }
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;

    #[test]
    fn a_token_is_read_until_it_expires_and_a_changed_one_never() {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::days(20_000);
        let keys = KeyRing::generate(now);
        let exp = (now + Duration::hours(1)).unix_timestamp();
        let claims = EnrolmentClaims { id: "t1".into(), org: "o1".into(), capabilities: vec![], by: "ada".into(), exp };
        let token = claims.token(&keys);
        assert_eq!(EnrolmentClaims::of_token(&keys, &token, now), Some(claims.clone()));
        assert_eq!(EnrolmentClaims::of_token(&keys, &token, now + Duration::hours(1)), None);
        let foreign = EnrolmentClaims { org: "o2".into(), ..claims }.token(&keys);
        let mixed = format!("{}.{}", foreign.split('.').next().unwrap_or_default(), &token[token.len() - 43..]);
        for forged in [mixed.as_str(), "", ".", "x.y"] {
            assert_eq!(EnrolmentClaims::of_token(&keys, forged, now), None, "{forged}");
        }
    }
}
