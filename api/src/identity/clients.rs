//! Clients that describe themselves at an address of their own, which is their id (OAuth Client ID Metadata Document).
//!
//! The address comes from a stranger: it is fetched for people who are signed in only, from where calls may go, without
//! following redirects, and little of it. In development, clients on this machine count too.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{Method, Url};
use serde::Deserialize;
use symbia_egress::{Blocked, Egress, EgressError, Rules, read};

use super::oauth::refused;
use crate::http::{ApiError, ApiResult};

/// Most bytes of a document.
const LONGEST: usize = 16 * 1024;
/// How long fetching it may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a client says about itself.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Document {
    client_id: String,
    #[serde(default)]
    pub client_name: Option<String>,
    redirect_uris: Vec<String>,
    #[serde(default)]
    token_endpoint_auth_method: Option<String>,
}

impl Document {
    /// Whether the client may be answered there. Native apps listen on a port of their choice (RFC 8252 §7.3).
    pub fn answers_at(&self, asked: &str) -> bool {
        self.redirect_uris.iter().any(|uri| uri == asked || on_this_machine(uri, asked))
    }
}

fn on_this_machine(registered: &str, asked: &str) -> bool {
    let (Ok(mut registered), Ok(mut asked)) = (Url::parse(registered), Url::parse(asked)) else { return false };
    let loopback = matches!(registered.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"));
    loopback
        && registered.scheme() == "http"
        && registered.set_port(None).is_ok()
        && asked.set_port(None).is_ok()
        && registered == asked
}

/// Fetches and checks a client's document.
///
/// # Errors
/// `invalid_client` with what is wrong.
pub(super) async fn fetch(client_id: &str, rules: &Rules) -> ApiResult<Document> {
    let invalid = |what: &str| refused("invalid_client", format!("client_id {what}"));
    let url = Url::parse(client_id).map_err(|_| invalid("is no address of a client metadata document"))?;
    if url.fragment().is_some() || url.path() == "/" || client_id.len() > 500 {
        return Err(invalid("must be an https address with a path, and without user and fragment"));
    }
    let egress = Egress::new(rules.clone()).map_err(ApiError::internal)?;
    let body = body(&egress, url).await.map_err(|error| {
        invalid(match error {
            Some(EgressError::Blocked(Blocked::Scheme | Blocked::Userinfo | Blocked::Port)) => {
                "must be an https address with a path, and without user and fragment"
            }
            Some(EgressError::Blocked(Blocked::Unknown)) => "has a host that does not exist",
            Some(EgressError::Blocked(_)) => "has a host that is not public",
            Some(EgressError::TooLong(_)) => "gives a document of more than 16 KiB",
            Some(_) => "cannot be fetched",
            None => "gives no document",
        })
    })?;
    let document: Document = serde_json::from_slice(&body).map_err(|_| invalid("gives no client metadata document"))?;
    if document.client_id != client_id {
        return Err(invalid("differs from the one in its document"));
    }
    if document.token_endpoint_auth_method.as_deref().is_some_and(|method| method != "none") {
        return Err(invalid("asks for client authentication: only public clients with PKCE are served"));
    }
    Ok(document)
}

// Without an error, the answer is no document.
async fn body(egress: &Egress, url: Url) -> Result<Bytes, Option<EgressError>> {
    let request = egress.request(Method::GET, url).map_err(|blocked| Some(blocked.into()))?;
    let answer = request.header("accept", "application/json").timeout(PATIENCE).send().await;
    let answer = answer.map_err(|error| Some(error.into()))?;
    if !answer.status().is_success() {
        return Err(None);
    }
    read(answer, LONGEST).await.map_err(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_goes_where_the_client_said_and_nowhere_near() {
        let document = Document {
            client_id: String::new(),
            client_name: None,
            redirect_uris: vec!["https://app.example/back".into(), "http://127.0.0.1/back".into()],
            token_endpoint_auth_method: None,
        };
        for (asked, fits) in [
            ("https://app.example/back", true),
            ("http://127.0.0.1:41234/back", true),
            ("https://app.example/back/../evil", false),
            ("https://app.example:444/back", false),
            ("https://app.example.evil/back", false),
            ("http://127.0.0.1:41234/other", false),
            ("http://localhost:41234/back", false),
        ] {
            assert_eq!(document.answers_at(asked), fits, "{asked}");
        }
    }
}
