//! Posting to an address that a tenant named: only where it may lead, without redirects, within a time.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::{
    Method, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use symbia_egress::{Egress, EgressError, Policy, Rules};

/// Posts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Post {
    /// Where it may go.
    pub rules: Rules,
    /// How long a target may take.
    pub patience: Duration,
}

impl Post {
    /// Posts JSON once, for an organization with this policy; any 2xx is success.
    ///
    /// # Errors
    /// A code, without anything that the target said: `bad_endpoint`, `unknown_host`, `address_not_allowed`,
    /// `egress_policy`, `timeout`, `unreachable`, `transport`, or `http_<status>`.
    pub async fn send(
        &self,
        endpoint: &str,
        headers: &[(&'static str, &str)],
        json: Bytes,
        policy: Option<Arc<Policy>>,
    ) -> Result<(), String> {
        let url = Url::parse(endpoint).map_err(|_| "bad_endpoint".to_owned())?;
        let egress = Egress::new(self.rules.clone()).map_err(|_| "no_client".to_owned())?.within(policy);
        let request = egress.request(Method::POST, url).map_err(|blocked| blocked.code().to_owned())?;
        let mut given = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        for (name, value) in headers {
            let mut value = HeaderValue::from_str(value).map_err(|_| "bad_header".to_owned())?;
            value.set_sensitive(*name == "authorization");
            given.insert(HeaderName::from_static(name), value);
        }
        match request.timeout(self.patience).headers(given).body(json).send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("http_{}", answer.status().as_u16())),
            Err(error) => Err(EgressError::from(error).code().to_owned()),
        }
    }
}
