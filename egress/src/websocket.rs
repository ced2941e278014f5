//! WebSockets (RFC 6455) to addresses that others chose: opened over the same client as other calls, so that the same rules count.

use std::time::Duration;

use reqwest::{
    Method, StatusCode, Upgraded, Url,
    header::{
        CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::{client::generate_key, derive_accept_key},
        protocol::{Role, WebSocketConfig},
    },
};

use crate::{Blocked, Egress, EgressError};

/// A WebSocket that is open.
pub type Socket = WebSocketStream<Upgraded>;

impl Egress {
    /// Opens a WebSocket at a `ws`, `wss`, `http` or `https` address; no message of it is longer than `most` bytes.
    ///
    /// # Errors
    /// It may not be opened, or the other side opens none, or not in time.
    pub async fn websocket(
        &self,
        mut url: Url,
        headers: HeaderMap,
        patience: Duration,
        most: usize,
    ) -> Result<Socket, EgressError> {
        let scheme = match url.scheme() {
            "ws" | "http" => "http",
            "wss" | "https" => "https",
            _ => return Err(Blocked::Scheme.into()),
        };
        // Between these, nothing but the name of the scheme changes.
        url.set_scheme(scheme).map_err(|()| Blocked::Scheme)?;
        let opening = self.upgraded(url, headers);
        let upgraded = tokio::time::timeout(patience, opening).await.unwrap_or(Err(EgressError::Timeout))?;
        let config = WebSocketConfig::default().max_message_size(Some(most)).max_frame_size(Some(most));
        Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await)
    }

    async fn upgraded(&self, url: Url, headers: HeaderMap) -> Result<Upgraded, EgressError> {
        let key = generate_key();
        let request = self.request(Method::GET, url)?.headers(headers);
        let request = request
            .header(CONNECTION, HeaderValue::from_static("Upgrade"))
            .header(UPGRADE, HeaderValue::from_static("websocket"))
            .header(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"))
            .header(SEC_WEBSOCKET_KEY, &key);
        let response = request.send().await?;
        let accepted = response.headers().get(SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
        let proven = accepted == Some(derive_accept_key(key.as_bytes()).as_bytes());
        if response.status() != StatusCode::SWITCHING_PROTOCOLS || !proven {
            return Err(EgressError::Transport);
        }
        Ok(response.upgrade().await?)
    }
}
