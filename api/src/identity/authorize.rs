//! The authorization endpoint: a person lets a client act in their name (RFC 6749 §4.1, PKCE, RFC 8707, RFC 9207).
//!
//! A browser gets a page without scripts, a program the same as JSON. The answer of the person carries a ticket that only the
//! page could know, so that no other site can say yes for them.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use symbia_commands::{
    Actor,
    identity::{
        AuthorizationCommand, GrantAuthorization, LIFETIME, RedeemCode, RevokeSession, SessionCommand, is_scope,
    },
};
use symbia_events::{AggregateRef, CommandId, OrgId, Service};
use symbia_projections::{Scope, identity as model};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::{
    Identity, clients,
    links::Purpose,
    oauth::{Granted, TokenRequest, narrowed, refused},
    pages::{escaped, hidden, page},
    sessions::{self, Proof},
    tokens::{AUDIENCE, Claims, Subject},
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, OptionalCaller, Query, RequestScope, routes},
    platform::Consistency,
};

/// At the root.
pub(super) fn root() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(ask, answer))
}

/// What a client asks for.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Request {
    /// `code`.
    #[serde(default)]
    response_type: String,
    /// Address of the client's metadata document.
    #[serde(default)]
    pub client_id: String,
    /// Where to answer; one of the document's.
    #[serde(default)]
    redirect_uri: String,
    /// S256 of what the client keeps to itself.
    #[serde(default)]
    code_challenge: String,
    /// `S256`.
    #[serde(default)]
    code_challenge_method: String,
    /// Scopes, separated by spaces.
    #[serde(default)]
    scope: String,
    /// For which resource (RFC 8707); the platform without it.
    #[serde(default)]
    resource: Option<String>,
    /// Comes back as it is.
    #[serde(default)]
    state: Option<String>,
}

/// The person's answer.
#[derive(Deserialize, ToSchema)]
struct Answer {
    #[serde(flatten)]
    request: Request,
    /// `approve` or `deny`.
    #[serde(default)]
    decision: String,
    /// From the page.
    #[serde(default)]
    ticket: String,
}

/// What a program is told.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Question {
    client_id: String,
    client_name: String,
    redirect_uri: String,
    scopes: Vec<String>,
    resource: String,
    /// To be sent with the answer.
    ticket: String,
}

/// Ask the signed-in person whether a client may act in their name
#[utoipa::path(get, path = "/oauth/authorize", tag = "OAuth", params(Request),
    responses((status = 200, description = "The question, as a page or as JSON", body = Question)))]
async fn ask(
    State(identity): State<Identity>,
    headers: HeaderMap,
    OptionalCaller(caller): OptionalCaller,
    Query(request): Query<Request>,
) -> ApiResult<Response> {
    let as_page = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains("text/html"));
    let Some(caller) = caller else {
        if !as_page {
            return Err(ApiError::auth_required());
        }
        // The client is looked at afterwards: nobody in particular makes us fetch its document.
        return Ok(identity.ask_to_sign_in(&headers, &request));
    };
    caller.require_person()?;
    let (client, scopes, resource) = identity.checked(&request).await?;
    let ticket = identity.ticket(&caller.id, &request);
    let client_name = client.client_name.unwrap_or_else(|| request.client_id.clone());
    if !as_page {
        let (client_id, redirect_uri) = (request.client_id, request.redirect_uri);
        let question = Question { client_id, client_name, redirect_uri, scopes, resource, ticket };
        return Ok(Json(question).into_response());
    }
    let list: String = scopes.iter().map(|scope| format!("<li>{}</li>", escaped(scope))).collect();
    let who = caller.email.as_deref().or(caller.name.as_deref()).unwrap_or(&caller.id);
    let text = format!(
        "<h1>{name}</h1><p>{id} asks to act in the name of <b>{who}</b> for <b>{resource}</b>:</p><ul>{list}</ul>\
         <form method=post action=/oauth/authorize>{request}<input type=hidden name=ticket value=\"{ticket}\">\
         <button name=decision value=approve>Allow</button> <button name=decision value=deny>Deny</button></form>\
         <p>The answer goes to {redirect}.</p>",
        request = hidden(&request),
        name = escaped(&client_name),
        id = escaped(&request.client_id),
        who = escaped(who),
        resource = escaped(&resource),
        redirect = escaped(&request.redirect_uri),
    );
    let origin = Url::parse(&request.redirect_uri).map(|url| url.origin().ascii_serialization()).unwrap_or_default();
    Ok(page(&text, &format!("'self' {origin}")).into_response())
}

/// Answer a client: the person allows it, or does not
#[utoipa::path(post, path = "/oauth/authorize", tag = "OAuth",
    request_body(content = Answer, content_type = "application/x-www-form-urlencoded"),
    responses((status = 303, description = "Back to the client, with a code or an error")))]
async fn answer(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Json(answer): Json<Answer>,
) -> ApiResult<Response> {
    caller.require_person()?;
    let request = &answer.request;
    if identity.ticket(&caller.id, request) != answer.ticket {
        return Err(refused("invalid_request", "the answer does not come from the page that asked: open it again"));
    }
    let (_, scopes, resource) = identity.checked(request).await?;
    let mut back = Url::parse(&request.redirect_uri).map_err(|_| refused("invalid_request", "redirect_uri"))?;
    if answer.decision == "approve" {
        let code = identity.code(&caller, request, scopes, resource, &scope).await?;
        back.query_pairs_mut().append_pair("code", &code);
    } else {
        back.query_pairs_mut().append_pair("error", "access_denied");
    }
    if let Some(state) = &request.state {
        back.query_pairs_mut().append_pair("state", state);
    }
    back.query_pairs_mut().append_pair("iss", identity.platform.tokens.issuer());
    Ok((StatusCode::SEE_OTHER, [(header::LOCATION, back.to_string())]).into_response())
}

fn aggregate(id: &str) -> ApiResult<AggregateRef> {
    AggregateRef::new(Service::Identity, OrgId::global(), "authorization", id)
        .map_err(|_| refused("invalid_grant", "the code is not valid"))
}

impl Identity {
    /// The client, and what it asks for. Until the address of the answer is known to be its own, errors stay here.
    async fn checked(&self, request: &Request) -> ApiResult<(clients::Document, Vec<String>, String)> {
        if request.response_type != "code" {
            return Err(refused("unsupported_response_type", "response_type: code"));
        }
        let challenge = request.code_challenge.len() == 43 && BASE64URL.decode(&request.code_challenge).is_ok();
        if request.code_challenge_method != "S256" || !challenge {
            return Err(refused(
                "invalid_request",
                "code_challenge with code_challenge_method S256 is needed (RFC 7636)",
            ));
        }
        let scopes: Vec<String> = request.scope.split_ascii_whitespace().map(str::to_owned).collect();
        if scopes.is_empty() || scopes.len() > 50 || !scopes.iter().all(|scope| is_scope(scope)) {
            return Err(refused("invalid_scope", "1 to 50 capabilities (cap:…) or roles (role:member, role:admin)"));
        }
        let base = self.platform.settings.base_url.trim_end_matches('/');
        let resource = match request.resource.as_deref() {
            None | Some("") => AUDIENCE.to_owned(),
            Some(asked) if asked == AUDIENCE || (!base.is_empty() && asked.trim_end_matches('/') == base) => {
                AUDIENCE.to_owned()
            }
            Some(asked) => match Url::parse(asked) {
                Ok(url) if url.has_host() && url.fragment().is_none() && asked.len() <= 500 => asked.to_owned(),
                _ => return Err(refused("invalid_target", "resource: an absolute address without fragment")),
            },
        };
        let client = clients::fetch(&request.client_id, &self.platform.settings.egress).await?;
        if !client.answers_at(&request.redirect_uri) {
            return Err(refused("invalid_request", "redirect_uri is none of the client's"));
        }
        Ok((client, scopes, resource))
    }

    fn ticket(&self, user: &str, request: &Request) -> String {
        self.platform.keys.lookup_hash("consent", &json!([user, request]).to_string())
    }

    async fn code(
        &self,
        caller: &Caller,
        request: &Request,
        scopes: Vec<String>,
        resource: String,
        scope: &RequestScope,
    ) -> ApiResult<String> {
        let keys = &self.platform.keys;
        let authorization_id = Uuid::new_v4().to_string();
        let code = Purpose::Code.random(keys, &authorization_id);
        let command = AuthorizationCommand::from(GrantAuthorization {
            authorization_id: authorization_id.clone(),
            user_id: caller.id.clone(),
            client_id: request.client_id.clone(),
            redirect_uri: request.redirect_uri.clone(),
            code_hash: Purpose::Code.hash(keys, &code),
            code_challenge: request.code_challenge.clone(),
            scopes,
            resource,
        });
        let (id, address, edge) = (CommandId::random(), aggregate(&authorization_id)?, self.edge_for(&caller.id));
        self.platform.submit_as(id, &address, &command, &edge, scope, Consistency::Visible).await?;
        Ok(code.to_string())
    }

    /// Tokens for a code.
    pub(super) async fn redeemed(
        &self,
        request: &TokenRequest,
        scope: &RequestScope,
        headers: &HeaderMap,
    ) -> ApiResult<Granted> {
        let invalid = || refused("invalid_grant", "the code is not valid, was used, or is too old");
        let (Some(code), Some(verifier)) = (&request.code, &request.code_verifier) else {
            return Err(refused("invalid_request", "code and code_verifier are needed"));
        };
        if !(43..=128).contains(&verifier.len()) {
            return Err(refused("invalid_grant", "code_verifier: 43 to 128 characters"));
        }
        let platform = &self.platform;
        let (id, _) = Purpose::Code.read(&platform.keys, code).ok_or_else(invalid)?;
        let mut tx = platform.read(&Scope::platform()).await?;
        let row = model::authorization_by_id(&mut tx, id).await?.ok_or_else(invalid)?;
        let user = model::user(&mut tx, &row.user_id).await?.ok_or_else(invalid)?;
        let locked = model::security(&mut tx, &user.id).await?.is_locked(OffsetDateTime::now_utc());
        drop(tx);
        if locked {
            return Err(invalid());
        }
        let session_id = Uuid::new_v4().to_string();
        let command = AuthorizationCommand::from(RedeemCode {
            authorization_id: id.to_owned(),
            code_hash: Purpose::Code.hash(&platform.keys, code),
            client_id: request.client_id.clone().unwrap_or_default(),
            redirect_uri: request.redirect_uri.clone().unwrap_or_default(),
            code_challenge: BASE64URL.encode(Sha256::digest(verifier.as_bytes())),
            session_id: session_id.clone(),
        });
        let (command_id, address, edge) = (CommandId::random(), aggregate(id)?, Actor::service("identity"));
        let done = platform.submit_as(command_id, &address, &command, &edge, scope, Consistency::Visible).await;
        let done = done.map_err(|error| if error.code() == "CODE_INVALID" { invalid() } else { error })?;
        if done.has("authorization-reuse-detected") {
            // Somebody else has the code too: what came of it ends (RFC 6749 §4.1.2).
            if let Some(session) = row.session_id {
                let reason = "code-reuse".to_owned();
                let command = SessionCommand::from(RevokeSession { session_id: session.clone(), reason });
                let (command_id, address) = (CommandId::random(), sessions::aggregate(&session)?);
                platform.submit_as(command_id, &address, &command, &edge, scope, Consistency::Visible).await?;
            }
            return Err(invalid());
        }
        let subject = Subject::user(&user.id, None, user.name.as_deref());
        let key = platform.secrets.subject_key(&user.id).await?;
        let proof = Proof { method: "oauth", at: row.created_at };
        let refresh_token = self.begin_session(&session_id, &subject, proof, key.as_ref(), scope, headers).await?;
        self.client_token(
            &row,
            &subject,
            &session_id,
            OffsetDateTime::now_utc() + LIFETIME,
            None,
            refresh_token.to_string(),
        )
    }

    /// The next tokens of a client's session.
    pub(super) async fn renewed(&self, request: &TokenRequest, scope: &RequestScope) -> ApiResult<Granted> {
        let invalid = || refused("invalid_grant", "the refresh token is not valid, was used, or its session has ended");
        let token =
            request.refresh_token.as_ref().ok_or_else(|| refused("invalid_request", "refresh_token is missing"))?;
        let keys = &self.platform.keys;
        let session_id = sessions::session_of(keys, token).ok_or_else(invalid)?.to_owned();
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let row = model::authorization_of(&mut tx, &session_id).await?.ok_or_else(invalid)?;
        drop(tx);
        if request.client_id.as_deref().is_some_and(|client| client != row.client_id) {
            return Err(invalid());
        }
        let next = sessions::refresh_token(keys, &session_id);
        let exchanged = self.exchange(&session_id, token, &next, scope).await;
        exchanged.map_err(|error| if error.status() == StatusCode::UNAUTHORIZED { invalid() } else { error })?;
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let session = model::session(&mut tx, &session_id).await?.filter(|session| !session.is_revoked());
        session.ok_or_else(invalid)?;
        let user = model::user(&mut tx, &row.user_id).await?.ok_or_else(invalid)?;
        drop(tx);
        let subject = Subject::user(&user.id, None, user.name.as_deref());
        let end = OffsetDateTime::now_utc() + LIFETIME;
        self.client_token(&row, &subject, &session_id, end, request.scope.as_deref(), next.to_string())
    }

    fn client_token(
        &self,
        row: &model::Authorization,
        subject: &Subject,
        session: &str,
        end: OffsetDateTime,
        asked: Option<&str>,
        refresh_token: String,
    ) -> ApiResult<Granted> {
        let scopes = narrowed(asked, &row.scopes)?.join(" ");
        let now = OffsetDateTime::now_utc();
        let claims = Claims {
            sub: subject.id.clone(),
            kind: subject.kind().to_owned(),
            name: subject.name.clone(),
            aud: row.resource.clone(),
            sid: Some(session.to_owned()),
            scope: Some(scopes.clone()),
            client_id: Some(row.client_id.clone()),
            ..Claims::default()
        };
        let issued = self.platform.tokens.sign(claims, now, (now + super::oauth::CLIENT_TOKEN).min(end))?;
        Ok(Granted {
            access_token: issued.token,
            token_type: "Bearer",
            expires_in: (issued.expires_at - now).whole_seconds().max(0),
            scope: scopes,
            issued_token_type: None,
            refresh_token: Some(refresh_token),
        })
    }
}
