//! Signing in on the way to the authorization endpoint: a person whose browser has no session does so here, with the second factor
//! where there is one, and comes back to the question.
//!
//! The form carries a ticket that only this browser's page could know, so that no other site signs anybody in as somebody else.

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{AppendHeaders, IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use zeroize::Zeroizing;

use super::{
    Identity,
    authorize::Request,
    login::Proved,
    oauth::refused,
    pages::{escaped, hidden, page},
};
use crate::http::{ApiError, ApiResult, Json, RequestScope, auth::cookie, rate::RateLimits, routes};

/// Holds what the ticket is made from; only pages of this server send it along.
const COOKIE: &str = "oauth_sign_in";
/// So long a page waits for its person, in seconds.
const PATIENCE: u32 = 600;
/// What goes on inside is not for a page.
const OUR_OWN: StatusCode = StatusCode::INTERNAL_SERVER_ERROR;

/// At the root.
pub(super) fn root() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(sign_in))
}

/// What the person types, and what the page knows.
#[derive(Deserialize, ToSchema)]
struct Form {
    #[serde(flatten)]
    request: Request,
    /// From the page.
    #[serde(default)]
    ticket: String,
    #[serde(default)]
    email: String,
    #[serde(default)]
    #[schema(value_type = String, format = Password)]
    password: Zeroizing<String>,
    /// From the page that asks for the second factor.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    mfa_token: Option<Zeroizing<String>>,
    /// A code of the second factor, or a recovery code.
    #[serde(default)]
    #[schema(value_type = String)]
    code: Zeroizing<String>,
}

/// What a page asks for.
enum Step<'a> {
    Password { email: &'a str },
    SecondFactor { token: &'a str },
}

/// Sign in in a browser that an app has sent here, and go on to the app's question
#[utoipa::path(post, path = "/oauth/sign-in", tag = "OAuth", security(()),
    request_body(content = Form, content_type = "application/x-www-form-urlencoded"),
    responses((status = 303, description = "Signed in: back to the question"),
        (status = 401, description = "Not yet: the page once more, or the one for the second factor")))]
async fn sign_in(
    State(identity): State<Identity>,
    Extension(limits): Extension<RateLimits>,
    scope: RequestScope,
    headers: HeaderMap,
    Json(form): Json<Form>,
) -> ApiResult<Response> {
    let request = &form.request;
    let browser = cookie(&headers, COOKIE).unwrap_or_default();
    if browser.is_empty() || identity.sign_in_ticket(browser, request) != form.ticket {
        return Err(refused(
            "invalid_request",
            "the form does not come from this browser's page: open the address again",
        ));
    }
    let again = match &form.mfa_token {
        Some(token) => Step::SecondFactor { token },
        None => Step::Password { email: &form.email },
    };
    let proved = match &form.mfa_token {
        Some(token) => {
            let proved = identity.by_second_factor(&limits, token, &form.code, &scope).await;
            proved.map(|(user, proof)| Proved::Wholly(user, proof))
        }
        None => identity.proved(&limits, &form.email, form.password.clone(), None, &scope).await,
    };
    match proved {
        Ok(Proved::Wholly(user, proof)) => {
            let signed_in = identity.begin(&user, proof, &scope, &headers).await?;
            let back =
                format!("/oauth/authorize?{}", serde_urlencoded::to_string(request).map_err(ApiError::internal)?);
            let cookie = identity.cookie(&signed_in.issued);
            Ok((StatusCode::SEE_OTHER, cookie, AppendHeaders([(header::LOCATION, back)])).into_response())
        }
        Ok(Proved::ByPassword(token)) => {
            Ok(identity.sign_in_page(browser, request, &Step::SecondFactor { token: &token }, None))
        }
        Err(error) if error.status() >= OUR_OWN => Err(error),
        Err(error) => Ok(identity.sign_in_page(browser, request, &again, Some(&error))),
    }
}

impl Identity {
    /// The page that lets a person sign in, and comes back to the request then.
    pub(super) fn ask_to_sign_in(&self, headers: &HeaderMap, request: &Request) -> Response {
        let known = cookie(headers, COOKIE).map(str::to_owned);
        let browser = known.unwrap_or_else(|| BASE64URL.encode(rand::random::<[u8; 32]>()));
        self.sign_in_page(&browser, request, &Step::Password { email: "" }, None)
    }

    fn sign_in_page(&self, browser: &str, request: &Request, step: &Step<'_>, error: Option<&ApiError>) -> Response {
        let fields = match step {
            Step::Password { email } => format!(
                "<p><label>E-mail <input type=email name=email value=\"{}\" autocomplete=username required autofocus></label>\
                 <p><label>Password <input type=password name=password autocomplete=current-password required></label>",
                escaped(email)
            ),
            Step::SecondFactor { token } => format!(
                "<input type=hidden name=mfa_token value=\"{}\">\
                 <p><label>Code of your authenticator app, or a recovery code \
                 <input name=code autocomplete=one-time-code required autofocus></label>",
                escaped(token)
            ),
        };
        let text = format!(
            "<h1>Sign in</h1><p>{app} asks for your permission. Sign in to answer.</p>{why}\
             <form method=post action=/oauth/sign-in>{request}<input type=hidden name=ticket value=\"{ticket}\">\
             {fields}<p><button>Sign in</button></form>",
            app = escaped(&request.client_id),
            why = error.map(|error| format!("<p role=alert>{}.</p>", escaped(error.message()))).unwrap_or_default(),
            request = hidden(request),
            ticket = self.sign_in_ticket(browser, request),
        );
        let secure = if self.platform.settings.cookie_secure { "; Secure" } else { "" };
        let cookie = format!("{COOKIE}={browser}; Path=/oauth; HttpOnly; SameSite=Strict; Max-Age={PATIENCE}{secure}");
        let status = error.map_or(StatusCode::UNAUTHORIZED, ApiError::status);
        let cookie = HeaderValue::from_str(&cookie).map(|cookie| AppendHeaders([(header::SET_COOKIE, cookie)]));
        (status, cookie.ok(), page(&text, "'self'")).into_response()
    }

    fn sign_in_ticket(&self, browser: &str, request: &Request) -> String {
        self.platform.keys.lookup_hash("sign-in-form", &json!([browser, request]).to_string())
    }
}
