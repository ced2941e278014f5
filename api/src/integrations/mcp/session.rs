//! Sessions of the Model Context Protocol: an id that says who began one, so that nobody goes on with another's. Nothing is kept of
//! them: any process answers any request, and who sends no id is answered all the same.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::{
    http::{Caller, RequestScope},
    integrations::Integrations,
};

/// The header that carries it.
const NAME: HeaderName = HeaderName::from_static("mcp-session-id");
/// Characters of the part that tells sessions of one caller apart.
const NONCE: usize = 32;

/// Who a session belongs to.
pub(super) struct Sessions<'a> {
    pub service: &'a Integrations,
    pub caller: &'a Caller,
    pub scope: &'a RequestScope,
}

impl Sessions<'_> {
    fn mark(&self, nonce: &str) -> String {
        let org = self.caller.org(self.scope).unwrap_or_default();
        self.service.platform.keys.lookup_hash("mcp-session", &format!("{nonce}\0{}\0{org}", self.caller.id))
    }

    /// Takes the id out of a request; the answer, when it is none of the caller's.
    pub fn checked(&self, headers: &mut HeaderMap) -> Option<Response> {
        let id = headers.remove(NAME)?;
        let is_theirs = id.to_str().ok().and_then(|id| id.split_at_checked(NONCE)).is_some_and(|(nonce, mark)| {
            nonce.bytes().all(|byte| byte.is_ascii_hexdigit()) && self.mark(nonce) == mark
        });
        if is_theirs {
            return None;
        }
        // As for one that has ended: the client begins another.
        let error = json!({ "code": -32001, "message": "there is no such session of yours: initialize anew" });
        let error = json!({ "jsonrpc": "2.0", "id": null, "error": error });
        Some((StatusCode::NOT_FOUND, axum::Json(error)).into_response())
    }

    /// Gives an answer to `initialize` the id of a session.
    pub fn begun(&self, message: &[u8], response: &mut Response) {
        let begins = || serde_json::from_slice::<Value>(message).is_ok_and(|message| message["method"] == "initialize");
        if !response.status().is_success() || !begins() {
            return;
        }
        let nonce: String = rand::random::<[u8; NONCE / 2]>().iter().map(|byte| format!("{byte:02x}")).collect();
        if let Ok(id) = HeaderValue::from_str(&format!("{nonce}{}", self.mark(&nonce))) {
            response.headers_mut().insert(NAME, id);
        }
    }
}
