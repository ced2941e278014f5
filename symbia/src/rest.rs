//! A service's REST API, for the subcommands that are clients of it like any other.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use reqwest::{Method, Response};
use serde_json::Value;
use symbia_events::Service;

use crate::{
    config::Config,
    session::{self, Credential, checked},
};

/// Answers of models may take long; beyond this the connection is dead.
const SILENCE: Duration = Duration::from_secs(600);

/// Who asks, and where.
#[derive(Clone, Debug, Args)]
// The one it holds is a group of the same name.
#[group(skip)]
pub struct SignIn {
    #[command(flatten)]
    pub sign_in: session::SignIn,
    /// Organization, for those who have several
    #[arg(long)]
    pub org: Option<String>,
    /// Address of the identity service [default: this machine]
    #[arg(long)]
    pub identity_url: Option<String>,
    /// Address of the models service [default: this machine]
    #[arg(long)]
    pub models_url: Option<String>,
}

/// A service, as somebody who is signed in.
pub struct Rest {
    http: reqwest::Client,
    base: String,
    credential: Credential,
    org: Option<String>,
}

impl Rest {
    /// The models service.
    pub async fn models(config: &Config, who: &SignIn) -> anyhow::Result<Self> {
        let url = |given: &Option<String>, service: Service| {
            let here = || format!("http://127.0.0.1:{}", config.port(service));
            given.as_deref().map_or_else(here, |url| url.trim_end_matches('/').to_owned())
        };
        let identity = url(&who.identity_url, Service::Identity);
        let credential = session::Sessions::at(&identity)?.credential(&who.sign_in).await?;
        let http = reqwest::Client::builder().read_timeout(SILENCE).build()?;
        Ok(Rest { http, base: url(&who.models_url, Service::Models), credential, org: who.org.clone() })
    }

    /// The body of an answer; an error says what the service says.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        Ok(self.send(Method::GET, path, None).await?.json().await?)
    }

    /// The same of a request with a body.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        Ok(self.stream(path, body).await?.json().await?)
    }

    /// The same of a change.
    pub async fn patch(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        Ok(self.send(Method::PATCH, path, Some(body)).await?.json().await?)
    }

    /// The same of a deletion.
    pub async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        Ok(self.send(Method::DELETE, path, None).await?.json().await?)
    }

    /// What happens, as it comes.
    pub async fn follow(&self, path: &str) -> anyhow::Result<Response> {
        self.send(Method::GET, path, None).await
    }

    /// An answer whose body comes in parts.
    pub async fn stream(&self, path: &str, body: &Value) -> anyhow::Result<Response> {
        self.send(Method::POST, path, Some(body)).await
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Response> {
        let mut request = self.credential.on(self.http.request(method, format!("{}{path}", self.base)));
        if let Some(org) = &self.org {
            request = request.header("x-org-id", org);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer =
            request.send().await.with_context(|| format!("the models service at {} does not answer", self.base));
        checked(answer?).await
    }
}
