//! Opening accounts: register, the first super admin (identity.md §6.3, 6.14).

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
};
use serde::{Deserialize, Serialize};
use symbia_events::CommandId;
use symbia_projections::{Scope, identity as model};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use zeroize::Zeroizing;

use super::{
    Identity, email,
    enrolment::{Account, Admission},
    passwords::Passwords,
    sessions::{Proof, SignedIn},
    shapes::{UserRef, epoch_ms},
    tokens::Subject,
};
use crate::http::{ApiError, ApiResult, Json, RequestScope, Validation, routes};

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new()
        .routes(routes!(register))
        .route("/auth/user/register", axum::routing::post(register))
        .routes(routes!(claim))
        .routes(routes!(state))
}

/// A new account.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Registration {
    /// Address; one account each, however it is capitalised.
    pub email: String,
    /// 8 characters to 72 bytes.
    #[schema(value_type = String, format = Password)]
    pub password: Zeroizing<String>,
    /// Display name.
    pub name: String,
    /// Also founds an organization of this name.
    #[serde(default)]
    pub org_name: Option<String>,
    /// For the claim of the first super admin; the `X-Setup-Token` header does as well.
    #[serde(default, alias = "token")]
    #[schema(value_type = Option<String>)]
    setup_token: Option<Zeroizing<String>>,
}

impl Registration {
    fn check(&self) -> ApiResult<()> {
        let mut rules = Validation::new();
        email::check(&mut rules, "email", &self.email);
        Passwords::check(&mut rules, "password", &self.password);
        rules.required("name", &self.name).length("name", &self.name, 1, 200);
        if let Some(name) = &self.org_name {
            rules.required("orgName", name).length("orgName", name, 1, 200);
        }
        rules.finish()
    }
}

/// An organization, shortly.
#[derive(Serialize, ToSchema)]
pub(super) struct OrgName {
    /// Id.
    pub id: String,
    /// Display name.
    pub name: String,
    /// Unique short name.
    pub slug: String,
}

/// A new account, signed in.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Registered {
    user: UserRef,
    /// The organization that was founded with it.
    organization: Option<OrgName>,
    /// The access token.
    token: String,
    /// The refresh token; it works once.
    refresh_token: String,
    /// When the access token expires, in milliseconds since 1970.
    expires_at: i64,
}

/// Register an account, and with `orgName` an organization
///
/// With the setup token in `X-Setup-Token`, the account becomes the first super admin.
#[utoipa::path(post, path = "/auth/register", tag = "Authentication", security(()), request_body = Registration,
    params(("X-Setup-Token" = Option<String>, Header, description = "Makes the first super admin")),
    responses((status = 200, description = "Registered and signed in", body = Registered)))]
async fn register(
    State(identity): State<Identity>,
    scope: RequestScope,
    headers: HeaderMap,
    Json(registration): Json<Registration>,
) -> ApiResult<impl IntoResponse> {
    let settings = &identity.platform.settings;
    let admission = match presented(&headers, &registration) {
        Some(token) => identity.holder_of_setup_token(token)?,
        None if settings.open_bootstrap && !settings.production => Admission::FirstComer,
        None => Admission::Anyone,
    };
    identity.register(registration, admission, &scope, &headers).await
}

/// Become the first super admin, with the setup token that the start prints
#[utoipa::path(post, path = "/bootstrap/claim", tag = "Bootstrap", security(()), request_body = Registration,
    params(("X-Setup-Token" = Option<String>, Header, description = "The setup token, unless it is in the body")),
    responses((status = 200, description = "Registered and signed in", body = Registered),
        (status = 409, description = "The platform has its first super admin already")))]
async fn claim(
    State(identity): State<Identity>,
    scope: RequestScope,
    headers: HeaderMap,
    Json(registration): Json<Registration>,
) -> ApiResult<impl IntoResponse> {
    let settings = &identity.platform.settings;
    let admission = match presented(&headers, &registration) {
        None if settings.open_bootstrap && !settings.production => Admission::SuperAdmin,
        token => identity.holder_of_setup_token(token.unwrap_or_default())?,
    };
    identity.register(registration, admission, &scope, &headers).await
}

fn presented<'r>(headers: &'r HeaderMap, registration: &'r Registration) -> Option<&'r str> {
    let header = headers.get("x-setup-token").map(|v| v.to_str().unwrap_or_default());
    header.or(registration.setup_token.as_ref().map(|token| token.as_str()))
}

impl Identity {
    fn holder_of_setup_token(&self, token: &str) -> ApiResult<Admission> {
        if self.platform.settings.setup_token.as_ref().is_some_and(|t| t.matches(token)) {
            return Ok(Admission::SuperAdmin);
        }
        let refused = "The setup token is missing or not the one of this platform";
        Err(ApiError::new(StatusCode::FORBIDDEN, "SETUP_TOKEN_INVALID", refused)
            .with_hint("The start script printed it; start again to see it."))
    }

    async fn register(
        &self,
        registration: Registration,
        admission: Admission,
        scope: &RequestScope,
        headers: &HeaderMap,
    ) -> ApiResult<impl IntoResponse + use<>> {
        registration.check()?;
        let account = self.enrol(&registration, admission, scope).await?;
        let Account { user_id, key, super_admin, organization } = account;
        let (email, name) = (registration.email.trim(), registration.name.trim());
        let subject = Subject::user(&user_id, Some(email), Some(name));
        let proof = Proof { method: "register", at: OffsetDateTime::now_utc() };
        let signed_in = self.sign_in(&subject, proof, Some(&key), scope, headers).await?;
        let cookie = self.cookie(&signed_in.issued);
        let SignedIn { issued, refresh_token } = signed_in;
        let user = UserRef {
            email: Some(email.to_owned()),
            name: Some(name.to_owned()),
            id: user_id,
            is_super_admin: Some(super_admin),
            organizations: None,
        };
        if self.platform.settings.mailer.is_some() {
            let (identity, id, to, scope) = (self.clone(), user.id.clone(), email.to_owned(), scope.clone());
            tokio::spawn(async move {
                if let Err(error) = identity.send_confirmation(&id, &to, &scope).await {
                    tracing::warn!(error = error.message(), "a new address is not asked for its confirmation");
                }
            });
        }
        let expires_at = epoch_ms(issued.expires_at);
        let refresh_token = refresh_token.to_string();
        Ok((cookie, Json(Registered { user, organization, token: issued.token, refresh_token, expires_at })))
    }
}

/// Whether the platform has its first super admin.
#[derive(Serialize, ToSchema)]
struct Bootstrap {
    initialized: bool,
}

/// Ask whether the platform has its first super admin
#[utoipa::path(get, path = "/bootstrap/state", tag = "Bootstrap", security(()),
    responses((status = 200, description = "The answer", body = Bootstrap)))]
async fn state(State(identity): State<Identity>) -> ApiResult<Json<Bootstrap>> {
    let mut tx = identity.platform.read(&Scope::platform()).await?;
    Ok(Json(Bootstrap { initialized: model::initialized(&mut tx).await? }))
}

/// The ids of a request's commands and of what they make: the same again for a repetition.
pub(super) struct Ids(pub uuid::Uuid);

impl Ids {
    /// Id of the command for a purpose.
    pub fn command(&self, purpose: &str) -> CommandId {
        CommandId::derived(self.0, purpose)
    }

    /// Id of the thing for a purpose.
    pub fn of(&self, purpose: &str) -> String {
        CommandId::derived(self.0, &format!("id:{purpose}")).to_string()
    }
}
