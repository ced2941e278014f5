//! Agents registering, signing in and refreshing (identity.md §4.6, 6.3).

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbia_commands::{
    Actor,
    identity::{AgentCommand, LIFETIME, RegisterAgent, SessionCommand, StartSession, is_handle},
};
use symbia_events::{AggregateRef, CommandId};
use symbia_projections::{Scope, identity as model};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    Identity,
    access::owned_address,
    accounts::Ids,
    agent_enrolment::Terms,
    sessions::{self, SignedIn},
    shapes::{epoch_ms, iso},
    tokens::Subject,
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, OptionalCaller, RequestScope, Validation, rate::RateLimits, routes},
    platform::Consistency,
};

/// Fewest characters of a credential.
pub(super) const CREDENTIAL_MIN: usize = 32;
/// Most bytes of metadata, as JSON.
const METADATA_MAX: usize = 16 * 1024;

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(register)).routes(routes!(login)).routes(routes!(me)).routes(routes!(refresh))
}

/// The address of an agent: in its organization, or in none.
pub(super) fn aggregate(org: Option<&str>, id: &str) -> ApiResult<AggregateRef> {
    owned_address(org, "agent", id, "Agent")
}

/// A new agent.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewAgent {
    /// Its handle: 1 to 100 of a-z, 0-9, ':', '_' and '-'. Never given to another.
    pub agent_id: String,
    /// 32 characters at least.
    #[schema(value_type = String, format = Password)]
    pub credential: Zeroizing<String>,
    /// Display name.
    pub name: String,
    /// The organization it belongs to.
    #[serde(default)]
    pub org_id: Option<String>,
    /// What it would like to do; granted is what the one who lets it in says.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Free data.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
}

impl NewAgent {
    pub fn check(&self) -> ApiResult<()> {
        let mut rules = Validation::new();
        let handle = "must be 1 to 100 of a-z, 0-9, ':', '_' and '-'";
        rules.check(is_handle(&self.agent_id), "agentId", "format", handle);
        check_credential(&mut rules, &self.credential);
        rules.required("name", &self.name).length("name", &self.name, 1, 200);
        rules.check(self.capabilities.len() <= 200, "capabilities", "length", "must be at most 200");
        check_metadata(&mut rules, &self.metadata);
        rules.finish()
    }
}

pub(super) fn check_credential(rules: &mut Validation, credential: &str) {
    let long = credential.chars().count() >= CREDENTIAL_MIN && credential.len() <= 1024;
    rules.check(long, "credential", "length", "must have 32 to 1024 characters");
}

pub(super) fn check_metadata(rules: &mut Validation, metadata: &Map<String, Value>) {
    let short = serde_json::to_vec(metadata).is_ok_and(|json| json.len() <= METADATA_MAX);
    rules.check(short, "metadata", "length", "must have at most 16 KiB");
}

/// An agent, shortly.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AgentRef {
    /// Id.
    id: String,
    /// Handle.
    agent_id: String,
    /// Display name.
    name: String,
    /// Its organization.
    org_id: Option<String>,
    /// What it may do.
    #[serde(skip_serializing_if = "Option::is_none")]
    capabilities: Option<Vec<String>>,
}

impl From<model::Agent> for AgentRef {
    fn from(agent: model::Agent) -> Self {
        AgentRef {
            org_id: agent.organization().map(str::to_owned),
            id: agent.id,
            agent_id: agent.agent_id,
            name: agent.name,
            capabilities: Some(agent.capabilities),
        }
    }
}

/// An agent, signed in.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SignedInAgent {
    /// `agent`, where a user could be meant.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    agent: AgentRef,
    /// The access token.
    token: String,
    /// The refresh token; it works once. Absent when an access token was exchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    /// When the access token expires, in milliseconds since 1970.
    expires_at: i64,
}

impl Identity {
    /// The text whose bcrypt hash is kept: of one length, so that bcrypt cuts nothing off.
    pub(super) fn stretched(&self, credential: &str) -> Zeroizing<String> {
        Zeroizing::new(self.platform.keys.lookup_hash("agent-credential", credential))
    }

    /// Keeps a credential's hash under a new reference of an agent.
    pub(super) async fn keep_credential(&self, agent: &str, purpose: &str, credential: &str) -> ApiResult<String> {
        let reference = format!("agent:{agent}:{purpose}");
        if self.platform.secrets.secret(&reference).await?.is_none() {
            let hash = self.passwords.hash(self.stretched(credential)).await?;
            match self.platform.secrets.put_secret(&reference, &hash).await {
                // The same request, at the same time.
                Ok(()) | Err(symbia_projections::secrets::SecretError::Taken(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(reference)
    }

    /// Registers an agent on the terms of whoever lets it in, and gives it as it was registered.
    pub(super) async fn register_agent(
        &self,
        new: &NewAgent,
        terms: Terms,
        actor: &Actor,
        scope: &RequestScope,
    ) -> ApiResult<String> {
        // A repetition is one for the same handle with the same credential.
        let secret = self.platform.keys.lookup_hash("agent-request", &format!("{}\0{}", new.agent_id, *new.credential));
        let ids = Ids(scope.command_id(&secret));
        let row_id = ids.of("agent");
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let holder = model::agent_by_handle(&mut tx, &new.agent_id).await?;
        drop(tx);
        let taken = || ApiError::handle_taken().with_status(StatusCode::BAD_REQUEST);
        if holder.is_some_and(|agent| agent.id != row_id) {
            return Err(taken());
        }
        let credential_ref = self.keep_credential(&row_id, "first", &new.credential).await?;
        let address = aggregate(terms.org.as_deref(), &row_id)?;
        let command = AgentCommand::from(RegisterAgent {
            agent_row_id: row_id.clone(),
            agent_id: new.agent_id.clone(),
            name: new.name.trim().to_owned(),
            org_id: terms.org,
            capabilities: terms.capabilities,
            requested_capabilities: new.capabilities.clone(),
            metadata: new.metadata.clone(),
            credential_ref: credential_ref.clone(),
            enrolled_by: terms.enrolled_by,
            enrolment_id: terms.enrolment_id,
        });
        let id = ids.command("agent");
        let done = self.platform.submit_as(id, &address, &command, actor, scope, Consistency::Visible).await;
        match done {
            Ok(_) => Ok(row_id),
            Err(error) => {
                // Only a refusal is final: what is pending may still be done and needs its secret.
                if error.status().is_client_error() {
                    self.platform.secrets.destroy_secret(&credential_ref).await?;
                }
                Err(match error.code() {
                    "HANDLE_TAKEN" => taken(),
                    "ENROLMENT_TOKEN_TAKEN" => {
                        ApiError::new(StatusCode::FORBIDDEN, "ENROLMENT_TOKEN_INVALID", "The enrolment token was used")
                    }
                    _ => error,
                })
            }
        }
    }

    async fn sign_in_agent(
        &self,
        agent: &model::Agent,
        (method, proved): (&str, OffsetDateTime),
        scope: &RequestScope,
    ) -> ApiResult<SignedIn> {
        let session_id = Uuid::new_v4().to_string();
        let refresh_token = sessions::refresh_token(&self.platform.keys, &session_id);
        let command = SessionCommand::from(StartSession {
            session_id: session_id.clone(),
            principal_id: agent.agent_id.clone(),
            principal_type: "agent".to_owned(),
            method: method.to_owned(),
            refresh_hash: self.platform.keys.lookup_hash("refresh", &refresh_token),
            client_ip: None,
            user_agent: None,
            authenticated_at: proved.format(&Rfc3339).ok(),
        });
        let (id, address, edge) = (CommandId::random(), sessions::aggregate(&session_id)?, Actor::service("identity"));
        let at = OffsetDateTime::now_utc();
        let done = self.platform.submit_as(id, &address, &command, &edge, scope, Consistency::Eventual).await?;
        self.platform.visible(&done).await;
        Ok(SignedIn { issued: self.issue_to_agent(agent, &session_id, at, at + LIFETIME)?, refresh_token })
    }

    fn issue_to_agent(
        &self,
        agent: &model::Agent,
        session: &str,
        at: OffsetDateTime,
        end: OffsetDateTime,
    ) -> ApiResult<super::Issued> {
        let subject = Subject::agent(&agent.id, &agent.agent_id, &agent.name, agent.organization());
        Ok(self.platform.tokens.issue(&subject, session, at, end)?)
    }

    fn answer(&self, agent: model::Agent, signed_in: SignedIn) -> Response {
        let cookie = self.cookie(&signed_in.issued);
        let body = SignedInAgent {
            kind: None,
            agent: agent.into(),
            expires_at: epoch_ms(signed_in.issued.expires_at),
            token: signed_in.issued.token,
            refresh_token: Some(signed_in.refresh_token.to_string()),
        };
        (cookie, Json(body)).into_response()
    }

    /// New tokens for an agent, when the refresh token or, without one, the caller is an agent's.
    ///
    /// # Errors
    /// The token was used before; the agent is gone or inactive.
    pub(super) async fn refreshed_agent(
        &self,
        presented: Option<&Zeroizing<String>>,
        caller: Option<&Caller>,
        scope: &RequestScope,
    ) -> ApiResult<Option<Response>> {
        let at = OffsetDateTime::now_utc();
        let session_id = match presented {
            Some(token) => sessions::session_of(&self.platform.keys, token),
            None => caller.filter(|c| c.agent_id.is_some()).and_then(|c| c.session_id.as_deref()),
        };
        let Some(session_id) = session_id else { return Ok(None) };
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let session = model::session(&mut tx, session_id).await?.filter(|s| s.principal_type == "agent");
        let Some(session) = session else { return Ok(None) };
        let agent = model::agent_by_handle(&mut tx, &session.principal_id).await?;
        drop(tx);
        let began_before = |a: &model::Agent| a.sessions_after.is_some_and(|after| session.created_at <= after);
        let agent = agent.filter(|a| a.is_active && !began_before(a)).ok_or_else(ApiError::session_revoked)?;
        let (end, next) = match presented {
            Some(token) => {
                let next = sessions::refresh_token(&self.platform.keys, session_id);
                self.exchange(session_id, token, &next, scope).await?;
                (at + LIFETIME, Some(next))
            }
            None => (session.expires_at.unwrap_or(at), None),
        };
        let issued = self.issue_to_agent(&agent, session_id, at, end)?;
        let cookie = self.cookie(&issued);
        let body = SignedInAgent {
            kind: Some("agent"),
            agent: AgentRef { capabilities: None, ..agent.into() },
            expires_at: epoch_ms(issued.expires_at),
            token: issued.token,
            refresh_token: next.map(|token| token.to_string()),
        };
        Ok(Some((cookie, Json(body)).into_response()))
    }
}

/// Register an agent, with an enrolment token unless the platform is open
///
/// What it may do is what the token grants; what else it asks for is listed as requested until an admin approves.
#[utoipa::path(post, path = "/auth/agent/register", tag = "Agents", security(()), request_body = NewAgent,
    params(("X-Enrolment-Token" = Option<String>, Header, description = "Issued by an admin of the organization")),
    responses((status = 200, description = "Registered and signed in", body = SignedInAgent),
        (status = 400, description = "A field is not valid, or the handle is taken"),
        (status = 403, description = "Nobody lets it in")))]
async fn register(
    State(identity): State<Identity>,
    scope: RequestScope,
    headers: HeaderMap,
    Json(new): Json<NewAgent>,
) -> ApiResult<Response> {
    new.check()?;
    let terms = identity.terms(&headers, new.org_id.as_deref(), &new.capabilities).await?;
    let edge = Actor::service("identity");
    let id = identity.register_agent(&new, terms, &edge, &scope).await?;
    let mut tx = identity.platform.read(&Scope::platform()).await?;
    let agent = model::agent(&mut tx, &id).await?.ok_or_else(|| ApiError::not_found("Agent"))?;
    drop(tx);
    let signed_in = identity.sign_in_agent(&agent, ("register", OffsetDateTime::now_utc()), &scope).await?;
    Ok(identity.answer(agent, signed_in))
}

/// Who signs in.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Login {
    agent_id: String,
    #[schema(value_type = String, format = Password)]
    credential: Zeroizing<String>,
}

/// Log an agent in with its handle and credential
#[utoipa::path(post, path = "/auth/agent/login", tag = "Agents", security(()), request_body = Login,
    responses((status = 200, description = "Signed in", body = SignedInAgent),
        (status = 401, description = "Unknown, inactive or wrong credential, which one is not told")))]
async fn login(
    State(identity): State<Identity>,
    Extension(limits): Extension<RateLimits>,
    scope: RequestScope,
    Json(body): Json<Login>,
) -> ApiResult<Response> {
    let mut rules = Validation::new();
    rules.required("agentId", &body.agent_id);
    rules.check(!body.credential.is_empty(), "credential", "required", "is required").finish()?;
    limits.attempt(&format!("agent:{}", body.agent_id)).await?;
    let (platform, proved) = (&identity.platform, OffsetDateTime::now_utc());
    let mut tx = platform.read(&Scope::platform()).await?;
    let agent = model::agent_by_handle(&mut tx, &body.agent_id).await?;
    drop(tx);
    // An unknown handle takes the same steps.
    let stretched = identity.stretched(&body.credential);
    let reference = agent.as_ref().map_or("agent:nobody", |agent| agent.credential_ref.as_str());
    let mut right = identity.passwords.verify(stretched.clone(), platform.secrets.secret(reference).await?).await?;
    let now = OffsetDateTime::now_utc();
    let before = agent.as_ref().filter(|a| a.previous_until.is_some_and(|end| end > now));
    if let Some(reference) = before.and_then(|a| a.previous_ref.as_deref()).filter(|_| !right) {
        right = identity.passwords.verify(stretched, platform.secrets.secret(reference).await?).await?;
    }
    let Some(agent) = agent.filter(|agent| right && agent.is_active) else {
        tracing::info!(ip = %scope.client_ip, "an agent's sign-in was refused");
        return Err(ApiError::new(StatusCode::UNAUTHORIZED, "CREDENTIALS_INVALID", "Invalid agent id or credential"));
    };
    let signed_in = identity.sign_in_agent(&agent, ("credential", proved), &scope).await?;
    Ok(identity.answer(agent, signed_in))
}

/// The caller, an agent.
#[derive(Serialize, ToSchema)]
struct Me {
    agent: OwnDetails,
}

/// An agent as it sees itself.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct OwnDetails {
    #[serde(flatten)]
    agent: AgentRef,
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
    last_seen_at: Option<String>,
    created_at: String,
}

/// Read who the caller is (agents only)
#[utoipa::path(get, path = "/auth/agent/me", tag = "Agents",
    responses((status = 200, description = "The caller", body = Me)))]
async fn me(State(identity): State<Identity>, caller: Caller) -> ApiResult<Json<Me>> {
    caller.require_agent()?;
    let mut tx = identity.platform.read(&Scope::user(&caller.id)).await?;
    let found = model::agent_by_handle(&mut tx, &caller.id).await?;
    let mut agent = found.ok_or_else(|| ApiError::not_found("Agent"))?;
    let (metadata, last_seen_at) = (std::mem::take(&mut agent.metadata), agent.last_seen_at.map(iso));
    let created_at = iso(agent.created_at);
    Ok(Json(Me { agent: OwnDetails { agent: agent.into(), metadata, last_seen_at, created_at } }))
}

/// What may be refreshed with.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Refresh {
    /// The refresh token; it is replaced. Without it, a still valid access token of the request is exchanged.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    refresh_token: Option<Zeroizing<String>>,
}

/// Exchange an agent's refresh token, or its still valid access token, for a new access token
#[utoipa::path(post, path = "/auth/agent/refresh", tag = "Agents", security(()), request_body = Refresh,
    responses((status = 200, description = "New tokens", body = SignedInAgent)))]
async fn refresh(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Result<OptionalCaller, ApiError>,
    Json(body): Json<Refresh>,
) -> ApiResult<Response> {
    let caller = if body.refresh_token.is_some() { None } else { caller?.0 };
    match identity.refreshed_agent(body.refresh_token.as_ref(), caller.as_ref(), &scope).await? {
        Some(answer) => Ok(answer),
        None if body.refresh_token.is_some() => Err(ApiError::token_invalid()),
        None => Err(caller.map_or_else(ApiError::auth_required, |_| ApiError::agent_principal_required())),
    }
}
