//! Clients that describe themselves at an address of their own, which is their id (OAuth Client ID Metadata Document).
//!
//! The address comes from a stranger: it is fetched for people who are signed in only, over HTTPS, from public addresses
//! that were looked up once, without following redirects, and little of it. In development, clients on this machine count too.

use std::{net::SocketAddr, time::Duration};

use futures::StreamExt;
use reqwest::{Client, Url, redirect::Policy};
use serde::Deserialize;
use symbia_commands::network::is_public;

use super::oauth::refused;
use crate::http::ApiResult;

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
pub(super) async fn fetch(client_id: &str, local: bool) -> ApiResult<Document> {
    let invalid = |what: &str| refused("invalid_client", format!("client_id {what}"));
    let url = Url::parse(client_id).map_err(|_| invalid("is no address of a client metadata document"))?;
    let host = url.host_str().unwrap_or_default().to_owned();
    let here = local && url.scheme() == "http" && matches!(host.as_str(), "127.0.0.1" | "localhost");
    let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    if !(url.scheme() == "https" || here) || !plain || url.path() == "/" || client_id.len() > 500 {
        return Err(invalid("must be an https address with a path, and without user and fragment"));
    }
    let port = url.port_or_known_default().unwrap_or(443);
    let looked_up = tokio::net::lookup_host((host.trim_matches(['[', ']']), port)).await;
    let addresses: Vec<SocketAddr> = looked_up.map_err(|_| invalid("has a host that does not exist"))?.collect();
    if addresses.is_empty() || !(here || addresses.iter().all(|address| is_public(address.ip()))) {
        return Err(invalid("has a host that is not public"));
    }
    let http =
        Client::builder().redirect(Policy::none()).timeout(PATIENCE).no_proxy().resolve_to_addrs(&host, &addresses);
    let http = http.build().map_err(crate::http::ApiError::internal)?;
    let answer = http.get(url).header("accept", "application/json").send().await;
    let answer = answer.map_err(|_| invalid("cannot be fetched"))?;
    if !answer.status().is_success() {
        return Err(invalid("gives no document"));
    }
    let (mut body, mut chunks) = (Vec::new(), answer.bytes_stream());
    while let Some(chunk) = chunks.next().await {
        body.extend_from_slice(&chunk.map_err(|_| invalid("cannot be fetched"))?);
        if body.len() > LONGEST {
            return Err(invalid("gives a document of more than 16 KiB"));
        }
    }
    let document: Document = serde_json::from_slice(&body).map_err(|_| invalid("gives no client metadata document"))?;
    if document.client_id != client_id {
        return Err(invalid("differs from the one in its document"));
    }
    if document.token_endpoint_auth_method.as_deref().is_some_and(|method| method != "none") {
        return Err(invalid("asks for client authentication: only public clients with PKCE are served"));
    }
    Ok(document)
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
