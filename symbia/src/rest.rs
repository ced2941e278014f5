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

/// Who asks.
#[derive(Clone, Debug, Args)]
// The one it holds is a group of the same name.
#[group(skip)]
pub struct Who {
    #[command(flatten)]
    pub sign_in: session::SignIn,
    /// Organization, for those who have several
    #[arg(long)]
    pub org: Option<String>,
    /// Address of the identity service [default: this machine]
    #[arg(long)]
    pub identity_url: Option<String>,
}

/// Who asks the models service, and where it is.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct SignIn {
    #[command(flatten)]
    pub who: Who,
    /// Address of the models service [default: this machine]
    #[arg(long)]
    pub models_url: Option<String>,
}

/// Who asks the gateway, and where it is.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct AtGateway {
    #[command(flatten)]
    pub who: Who,
    /// Address of the integrations service [default: this machine]
    #[arg(long)]
    pub integrations_url: Option<String>,
}

/// A service, as somebody who is signed in.
pub struct Rest {
    http: reqwest::Client,
    service: Service,
    base: String,
    credential: Credential,
    org: Option<String>,
}

impl Rest {
    /// The models service.
    pub async fn models(config: &Config, who: &SignIn) -> anyhow::Result<Self> {
        Self::open(config, &who.who, Service::Models, who.models_url.as_deref()).await
    }

    /// The integrations service.
    pub async fn gateway(config: &Config, at: &AtGateway) -> anyhow::Result<Self> {
        Self::open(config, &at.who, Service::Integrations, at.integrations_url.as_deref()).await
    }

    async fn open(config: &Config, who: &Who, service: Service, given: Option<&str>) -> anyhow::Result<Self> {
        let url = |given: Option<&str>, service: Service| {
            let here = || format!("http://127.0.0.1:{}", config.port(service));
            given.map_or_else(here, |url| url.trim_end_matches('/').to_owned())
        };
        let identity = url(who.identity_url.as_deref(), Service::Identity);
        let credential = session::Sessions::at(&identity)?.credential(&who.sign_in).await?;
        let http = reqwest::Client::builder().read_timeout(SILENCE).build()?;
        Ok(Rest { http, service, base: url(given, service), credential, org: who.org.clone() })
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

    /// The same of what is set.
    pub async fn put(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        Ok(self.send(Method::PUT, path, Some(body)).await?.json().await?)
    }

    /// The same of a deletion.
    pub async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        Ok(self.send(Method::DELETE, path, None).await?.json().await?)
    }

    /// A deletion that is answered with nothing.
    pub async fn remove(&self, path: &str) -> anyhow::Result<()> {
        self.send(Method::DELETE, path, None).await.map(|_| ())
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
        let answer = request
            .send()
            .await
            .with_context(|| format!("the {} service at {} does not answer", self.service, self.base));
        checked(answer?).await
    }
}

/// A segment of a path: what comes from the command line is one, whatever it holds.
pub fn segment(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

/// A query of those fields that are given.
pub fn query(fields: &[(&str, Option<String>)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(fields.iter().filter_map(|(name, value)| Some((name, value.as_ref()?))));
    let query = query.finish();
    if query.is_empty() { query } else { format!("?{query}") }
}
