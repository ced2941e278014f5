//! Requests to the identity service as whoever is signed in.

use anyhow::Context;
use reqwest::Method;
use serde_json::Value;

use crate::{
    session::{Credential, checked},
    table,
};

/// The identity service.
pub struct Client {
    http: reqwest::Client,
    base: String,
    credential: Credential,
    org: Option<String>,
    access_reason: Option<String>,
    json: bool,
}

impl Client {
    /// It, as somebody.
    pub fn new(
        base: String,
        credential: Credential,
        org: Option<String>,
        access_reason: Option<String>,
        json: bool,
    ) -> Self {
        Client { http: reqwest::Client::new(), base, credential, org, access_reason, json }
    }

    /// The organization of `--org`.
    pub fn org(&self) -> Option<&str> {
        self.org.as_deref()
    }

    /// Sends a request and gives the answer.
    ///
    /// # Errors
    /// `Refused` when the platform says no.
    pub async fn call(&self, method: Method, path: &[&str], body: Option<&Value>) -> anyhow::Result<Value> {
        self.call_with(method, path, &[], body).await
    }

    /// The same with a query.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub async fn call_with(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let mut url = reqwest::Url::parse(&self.base)
            .with_context(|| format!("{} is no URL: write --identity-url http://host:port", self.base))?;
        // Ids come from the command line: each is one segment, whatever it holds.
        url.path_segments_mut()
            .map_err(|()| anyhow::anyhow!("{} cannot be the base of a URL", self.base))?
            .pop_if_empty()
            .push("api")
            .extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.credential.on(self.http.request(method, url));
        for (name, value) in [("x-org-id", &self.org), ("x-access-reason", &self.access_reason)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await;
        let answer = answer.with_context(|| format!("the identity service at {} does not answer", self.base))?;
        Ok(checked(answer).await?.json().await.unwrap_or_default())
    }

    /// Prints an answer, whose rows are behind a JSON pointer.
    pub fn show(&self, answer: &Value, rows: &str, columns: &[(&str, &str)]) {
        table::show(self.json, answer, answer.pointer(rows).unwrap_or(&Value::Null), columns);
    }

    /// Prints that something is done.
    pub fn done(&self, answer: &Value, what: &str) {
        table::done(self.json, answer, what);
    }
}
