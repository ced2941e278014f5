//! Sessions of the Model Context Protocol: an id that says who began one and when, so that nobody goes on with another's. Nothing
//! is kept of one until it is ended: any process answers any request, and who sends no id is answered all the same.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use symbia_nats::{sessions::SessionsError, topology::SESSION_LASTS};
use utoipa_axum::router::OpenApiRouter;

use crate::{
    http::{ApiError, Caller, RequestScope, routes},
    integrations::Integrations,
};

/// The header that carries it.
const NAME: HeaderName = HeaderName::from_static("mcp-session-id");
/// Characters of the part that tells sessions of one caller apart, and of these, characters that tell when it began.
const NONCE: usize = 32;
const BEGUN: usize = 8;

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(end))
}

/// Who a session belongs to.
pub(super) struct Sessions<'a> {
    pub service: &'a Integrations,
    pub caller: &'a Caller,
    pub scope: &'a RequestScope,
}

/// Why a request is not answered.
pub(super) enum NoSession {
    /// It is none of the caller's, or has ended.
    Unknown,
    /// Nobody can tell.
    Untold(SessionsError),
}

impl From<SessionsError> for NoSession {
    fn from(error: SessionsError) -> Self {
        NoSession::Untold(error)
    }
}

impl IntoResponse for NoSession {
    fn into_response(self) -> Response {
        match self {
            // The client begins another.
            NoSession::Unknown => {
                let error = json!({ "code": -32001, "message": "there is no such session of yours: initialize anew" });
                let error = json!({ "jsonrpc": "2.0", "id": null, "error": error });
                (StatusCode::NOT_FOUND, axum::Json(error)).into_response()
            }
            NoSession::Untold(error) => {
                tracing::warn!(%error, "a session is not gone on with");
                ApiError::unavailable("The broker", 2).into_response()
            }
        }
    }
}

impl Sessions<'_> {
    fn mark(&self, nonce: &str) -> String {
        let org = self.caller.org(self.scope).unwrap_or_default();
        self.service.platform.keys.lookup_hash("mcp-session", &format!("{nonce}\0{}\0{org}", self.caller.id))
    }

    /// Takes the id out of a request, if it has one: the session that the caller goes on with.
    pub async fn taken(&self, headers: &mut HeaderMap) -> Result<Option<String>, NoSession> {
        let Some(id) = headers.remove(NAME) else { return Ok(None) };
        let id = id.to_str().map_err(|_| NoSession::Unknown)?;
        let (nonce, mark) = id.split_at_checked(NONCE).ok_or(NoSession::Unknown)?;
        let begun = nonce.get(..BEGUN).and_then(|begun| u64::from_str_radix(begun, 16).ok());
        let lasts = begun.is_some_and(|begun| now().saturating_sub(begun) < SESSION_LASTS.as_secs());
        if !lasts || self.mark(nonce) != mark || self.service.sessions.has_ended(id).await? {
            return Err(NoSession::Unknown);
        }
        Ok(Some(id.to_owned()))
    }

    /// Gives an answer to `initialize` the id of a session.
    pub fn begun(&self, message: &[u8], response: &mut Response) {
        let begins = || serde_json::from_slice::<Value>(message).is_ok_and(|message| message["method"] == "initialize");
        if !response.status().is_success() || !begins() {
            return;
        }
        let random = rand::random::<[u8; (NONCE - BEGUN) / 2]>().map(|byte| format!("{byte:02x}")).concat();
        let nonce = format!("{:08x}{random}", now());
        if let Ok(id) = HeaderValue::from_str(&format!("{nonce}{}", self.mark(&nonce))) {
            response.headers_mut().insert(NAME, id);
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// End a session
///
/// Its stream ends, and nobody goes on with it.
#[utoipa::path(delete, path = "/integrations/mcp", tag = "MCP",
    params(("Mcp-Session-Id" = String, Header, description = "The session")),
    responses((status = 204, description = "It has ended"), (status = 400, description = "None is named"),
        (status = 404, description = "The session is none of the caller's")))]
async fn end(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    mut headers: HeaderMap,
) -> Response {
    let sessions = Sessions { service: &service, caller: &caller, scope: &scope };
    let ended = async {
        let session = sessions.taken(&mut headers).await?;
        if let Some(id) = &session {
            service.sessions.end(id).await?;
        }
        Ok::<_, NoSession>(session)
    };
    match ended.await {
        Ok(Some(_)) => StatusCode::NO_CONTENT.into_response(),
        Ok(None) => ApiError::invalid("Mcp-Session-Id", "required", "is needed: the session to end").into_response(),
        Err(none) => none.into_response(),
    }
}
