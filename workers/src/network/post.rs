//! Posting to an address that a tenant named: only where it may lead, without redirects, within a time.

use std::time::Duration;

use reqwest::{
    Url,
    header::{HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
use serde_json::Value;

use super::Allowed;

/// Posts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Post {
    /// Where it may go besides public addresses.
    pub allowed: Allowed,
    /// How long a target may take.
    pub patience: Duration,
}

impl Post {
    /// Posts a body once; any 2xx is success.
    ///
    /// # Errors
    /// A code, without anything that the target said: `bad_endpoint`, `unknown_host`, `address_not_allowed`, `timeout`,
    /// `unreachable`, `transport`, or `http_<status>`.
    pub async fn send(&self, endpoint: &str, headers: &[(&'static str, &str)], body: &Value) -> Result<(), String> {
        let url = Url::parse(endpoint).map_err(|_| "bad_endpoint".to_owned())?;
        let (host, addresses) = self.allowed.resolve(&url).await?;
        let http = reqwest::Client::builder().redirect(Policy::none()).no_proxy().resolve_to_addrs(&host, &addresses);
        let http = http.timeout(self.patience).build().map_err(|_| "no_client".to_owned())?;
        let mut given = HeaderMap::new();
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).map_err(|_| "bad_header".to_owned())?;
            given.insert(HeaderName::from_static(name), value);
        }
        match http.post(url).headers(given).json(body).send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("http_{}", answer.status().as_u16())),
            Err(error) if error.is_timeout() => Err("timeout".to_owned()),
            Err(error) if error.is_connect() => Err("unreachable".to_owned()),
            Err(_) => Err("transport".to_owned()),
        }
    }
}
