//! From a credential to a principal: the token is verified here, its session and the principal's rights are read live
//! (identity.md §4.1, platform.md §4.5). The same for every service.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicI64, Ordering},
};

use async_trait::async_trait;
use sqlx::PgConnection;
use symbia_commands::Level;
use symbia_commands::identity::{
    AgentCommand, ApiKeyCommand, ObserveAgentPresence, PRESENCE_INTERVAL, RecordApiKeyUse, USE_INTERVAL,
};
use symbia_nats::witness::{Seen, Witness};
use symbia_projections::{
    Scope,
    identity::{self as model, Agent, ApiKey, OrgRef, Organization, Session},
};
use time::{Duration, OffsetDateTime};

use super::{
    acting::within_scopes,
    agent_auth::aggregate as agent_aggregate,
    api_keys::aggregate as key_aggregate,
    cache::Recent,
    key_scopes::narrowed,
    presence::Sightings,
    tokens::{AUDIENCE, Claims},
};
use crate::{
    http::{
        ApiError, AuthError, Authenticator, Principal,
        principal::{Acting, AuthType, Membership, PrincipalKind},
    },
    platform::{Parts, Platform},
};

/// For so long after it was issued, a token whose session the read model does not know yet is "not now" and not "no".
const SETTLING: Duration = Duration::seconds(30);

/// Knows the principals of the platform.
#[derive(Clone)]
pub struct Directory {
    platform: Platform,
    sightings: Sightings,
    looks: Arc<Throttle>,
    witness: Arc<OnceLock<Witness>>,
    recent: Recent,
}

impl Directory {
    /// A directory over the platform's read models.
    #[must_use]
    pub fn new(platform: Platform) -> Self {
        Directory {
            platform,
            sightings: Sightings::default(),
            looks: Arc::default(),
            witness: Arc::default(),
            recent: Recent::default(),
        }
    }

    /// The principal of a token, and what the token says.
    ///
    /// # Errors
    /// The token is not valid, its session or its principal is gone, or the read models cannot be asked.
    pub async fn identify(&self, token: &str) -> Result<(Principal, Claims), AuthError> {
        self.look_up(token, Some(AUDIENCE)).await
    }

    /// The same for a token of any audience: it is the caller's to hold that against its own name.
    ///
    /// # Errors
    /// Those of [`Directory::identify`].
    pub async fn introspect(&self, token: &str) -> Result<(Principal, Claims), AuthError> {
        self.look_up(token, None).await
    }

    /// The same for a token of the platform's, or one for a resource of it.
    ///
    /// # Errors
    /// Those of [`Directory::identify`].
    pub async fn identify_at(&self, token: &str, resource: &str) -> Result<Principal, AuthError> {
        let (principal, claims) = self.look_up(token, None).await?;
        let is_ours = claims.aud == AUDIENCE || claims.aud.trim_end_matches('/') == resource;
        if is_ours { Ok(principal) } else { Err(AuthError::Invalid) }
    }

    async fn look_up(&self, token: &str, audience: Option<&str>) -> Result<(Principal, Claims), AuthError> {
        if let Some(found) = self.recent.find(&self.platform, token, audience) {
            return Ok(found);
        }
        let reading = self.recent.begin(&self.platform);
        let claims = self.verified(token, audience).await?;
        let principal = self.principal_of(&claims).await?;
        if let Some(reading) = reading {
            self.recent.keep(token, reading, &principal, &claims);
        }
        Ok((principal, claims))
    }

    pub(super) fn platform(&self) -> &Platform {
        &self.platform
    }

    async fn verified(&self, token: &str, audience: Option<&str>) -> Result<Claims, AuthError> {
        match self.platform.tokens.verify_for(token, audience) {
            Err(AuthError::Invalid) if self.platform.tokens.may_be_newer(token) && self.looks.passes() => {
                self.platform.load_signing_keys().await.map_err(unavailable)?;
                self.platform.tokens.verify_for(token, audience)
            }
            verified => verified,
        }
    }

    /// Whom a verified token stands for now.
    pub(super) async fn principal_of(&self, claims: &Claims) -> Result<Principal, AuthError> {
        let now = OffsetDateTime::now_utc();
        let gone = if claims.iat + SETTLING.whole_seconds() > now.unix_timestamp() {
            AuthError::Unavailable
        } else {
            AuthError::Revoked
        };
        if let Some(delegation) = &claims.delegation {
            return self.acting(claims, delegation, gone).await;
        }
        let sid = claims.sid.as_deref().ok_or(AuthError::Invalid)?;
        // The session of an agent is kept under its handle.
        let subject = claims.agent_id.as_ref().unwrap_or(&claims.sub);
        let mut tx = self.platform.read(&Scope::user(subject)).await.map_err(unavailable)?;
        let session = model::session(&mut tx, sid).await.map_err(unavailable)?.ok_or(gone)?;
        if session.principal_id != *subject || session.principal_type != claims.kind {
            return Err(AuthError::Invalid);
        }
        if session.is_revoked() {
            return Err(AuthError::Revoked);
        }
        if !session.is_live(now) {
            return Err(AuthError::Expired);
        }
        if claims.kind == "agent" {
            drop(tx);
            return self.agent(claims, session).await;
        }
        let principal = user(&mut tx, &claims.sub).await?;
        // A client's: it acts in the person's name, within what they agreed to.
        if let (Some(scope), Some(client)) = (&claims.scope, &claims.client_id) {
            let acting = Acting {
                agent: client.clone(),
                chain: Vec::new(),
                delegation: String::new(),
                limit: Level::Ordinary,
                approved: None,
            };
            let scopes = scope.split_ascii_whitespace().map(str::to_owned).collect();
            return Ok(within_scopes(principal, scopes, acting));
        }
        Ok(Principal { session_id: Some(session.id), ..principal })
    }

    /// The principal that an API key stands for, and the key: its creator, with the rights that the key leaves (§4.9).
    ///
    /// # Errors
    /// The key is unknown, revoked or expired, its creator is gone or has left its organization, or the read models
    /// cannot be asked.
    pub async fn identify_key(&self, key: &str) -> Result<(Principal, ApiKey), AuthError> {
        let mut tx = self.platform.read(&Scope::platform()).await.map_err(unavailable)?;
        let found = model::api_key_by_hash(&mut tx, &self.key_hash(key)).await.map_err(unavailable)?;
        let key = found.ok_or(AuthError::Invalid)?;
        let principal = owner(&mut tx, &key).await?;
        drop(tx);
        self.used(&key);
        Ok((principal, key))
    }

    /// The principal of a key that was verified before, by the key's id.
    pub(super) async fn owner_of_key(&self, id: &str) -> Result<Principal, AuthError> {
        let mut tx = self.platform.read(&Scope::platform()).await.map_err(unavailable)?;
        let key = model::api_key(&mut tx, id).await.map_err(unavailable)?.ok_or(AuthError::Revoked)?;
        owner(&mut tx, &key).await
    }

    /// Hash under which a key is found.
    pub(super) fn key_hash(&self, key: &str) -> String {
        self.platform.keys.lookup_hash("api-key", key)
    }

    fn used(&self, key: &ApiKey) {
        let recently = key.last_used_at.is_some_and(|used| OffsetDateTime::now_utc() - used < USE_INTERVAL);
        let Some(count) = self.sightings.of(&key.id).filter(|_| !recently) else { return };
        let Ok(address) = key_aggregate(key.organization(), &key.id) else { return };
        self.platform.submit_later(address, ApiKeyCommand::from(RecordApiKeyUse { key_id: key.id.clone(), count }));
    }

    /// The agent of a live session. An inactive one, or one whose sessions were ended, is refused at once.
    async fn agent(&self, claims: &Claims, session: Session) -> Result<Principal, AuthError> {
        let mut tx = self.platform.read(&Scope::platform()).await.map_err(unavailable)?;
        let agent = model::agent(&mut tx, &claims.sub).await.map_err(unavailable)?.ok_or(AuthError::Revoked)?;
        let ended = agent.sessions_after.is_some_and(|after| session.created_at <= after);
        if agent.agent_id != session.principal_id || !agent.is_active || ended {
            return Err(AuthError::Revoked);
        }
        let organization = match agent.organization() {
            Some(org) => model::organization(&mut tx, org).await.map_err(unavailable)?,
            None => None,
        };
        drop(tx);
        self.seen(&agent);
        Ok(Principal {
            agent_id: Some(agent.agent_id.clone()),
            org_id: agent.organization().map(str::to_owned),
            organizations: organization.into_iter().map(|o| of_organization(o, "member")).collect(),
            name: Some(agent.name),
            entitlements: agent.capabilities,
            session_id: Some(session.id),
            ..Principal::new(agent.agent_id, PrincipalKind::Agent, AuthType::Jwt)
        })
    }

    // Nobody waits for it.
    fn seen(&self, agent: &Agent) {
        let recently = agent.last_seen_at.is_some_and(|seen| OffsetDateTime::now_utc() - seen < PRESENCE_INTERVAL);
        if recently || self.sightings.of(&agent.id).is_none() {
            return;
        }
        let Ok(address) = agent_aggregate(agent.organization(), &agent.id) else { return };
        let command = AgentCommand::from(ObserveAgentPresence { agent_row_id: agent.id.clone() });
        self.platform.submit_later(address, command);
    }
}

/// Lets one look at the keys pass per second: garbage must not turn into database load.
#[derive(Default)]
struct Throttle(AtomicI64);

impl Throttle {
    fn passes(&self) -> bool {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let last = self.0.load(Ordering::Relaxed);
        last < now && self.0.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

async fn owner(conn: &mut PgConnection, key: &ApiKey) -> Result<Principal, AuthError> {
    let now = OffsetDateTime::now_utc();
    if key.is_revoked(now) {
        return Err(AuthError::Revoked);
    }
    if key.is_expired(now) {
        return Err(AuthError::Expired);
    }
    narrowed(user(conn, &key.created_by).await?, key).ok_or(AuthError::Revoked)
}

/// A user with what they may do, as a principal.
pub(super) async fn user(conn: &mut PgConnection, id: &str) -> Result<Principal, AuthError> {
    let found = model::entitled(conn, id, OffsetDateTime::now_utc()).await.map_err(unavailable)?;
    let model::Entitled { user, entitlements, roles } = found.ok_or(AuthError::Revoked)?;
    let organizations = model::organizations_of(conn, &user.id).await.map_err(unavailable)?;
    Ok(Principal {
        entitlements,
        roles,
        email: user.email,
        name: user.name,
        is_super_admin: user.is_super_admin,
        organizations: organizations.into_iter().map(membership).collect(),
        ..Principal::new(user.id, PrincipalKind::User, AuthType::Jwt)
    })
}

pub(super) fn unavailable(error: impl Into<ApiError>) -> AuthError {
    let error: ApiError = error.into();
    tracing::warn!(%error, "a principal cannot be looked up");
    AuthError::Unavailable
}

fn of_organization(org: Organization, role: &str) -> Membership {
    Membership { id: org.id, name: org.name, slug: org.slug, role: role.to_owned() }
}

fn membership(org: OrgRef) -> Membership {
    Membership { id: org.id, name: org.name, slug: org.slug, role: org.role }
}

#[async_trait]
impl Authenticator for Directory {
    async fn bearer(&self, token: &str) -> Result<Principal, AuthError> {
        Ok(self.identify(token).await?.0)
    }

    async fn api_key(&self, key: &str) -> Result<Principal, AuthError> {
        match self.identify_key(key).await {
            Ok((principal, _)) => Ok(principal),
            Err(AuthError::Unavailable) => Err(AuthError::Unavailable),
            Err(_) => Err(AuthError::Invalid),
        }
    }

    // Opened when it is first needed: that is within a runtime.
    fn witness(&self, seen: Seen) {
        let Parts { bus, keys, .. } = &*self.platform;
        self.witness.get_or_init(|| Witness::open(bus.clone(), Arc::clone(keys))).tell(seen);
    }
}

/// A directory that takes API keys as bearer tokens, too: clients of other APIs know no other way to send one.
#[derive(Clone)]
pub struct ApiKeysAsBearer(pub Directory);

#[async_trait]
impl Authenticator for ApiKeysAsBearer {
    async fn bearer(&self, token: &str) -> Result<Principal, AuthError> {
        // Tokens have three parts, keys one.
        if token.contains('.') { self.0.bearer(token).await } else { self.0.api_key(token).await }
    }

    async fn api_key(&self, key: &str) -> Result<Principal, AuthError> {
        // Anthropic's clients send whatever they have this way.
        if key.contains('.') { self.0.bearer(key).await } else { self.0.api_key(key).await }
    }

    fn witness(&self, seen: Seen) {
        Authenticator::witness(&self.0, seen);
    }
}
