//! Health, documents, discovery and CORS of all nine services (platform.md §10–13), and the committed OpenAPI documents.
//!
//! `UPDATE_DOCS=1` writes the documents anew.
#![allow(missing_docs, reason = "tests")]

#[path = "documents/openapi.rs"]
mod openapi;
#[path = "documents/routes.rs"]
mod routes;

use anyhow::{Context, ensure};
use reqwest::{Client, redirect::Policy};
use serde_json::Value;
use symbia_events::Service;
use symbia_tests::binary::Installation;

type Tested = anyhow::Result<()>;

/// A running platform, asked without following redirects.
struct Platform {
    http: Client,
    services: Value,
    _house: Installation,
}

impl Platform {
    fn start() -> anyhow::Result<Self> {
        let mut house = Installation::new()?;
        let trusted = ("SYMBIA_TRUSTED_PROXIES", "127.0.0.1/32");
        let ready = house.start_with(&["--memory", "--skip-admin"], &[trusted])?;
        let http = Client::builder().redirect(Policy::none()).build()?;
        Ok(Platform { http, services: ready["services"].clone(), _house: house })
    }

    fn url(&self, service: Service, path: &str) -> anyhow::Result<String> {
        Ok(format!("{}{path}", self.services[service.name()].as_str().context("a service without address")?))
    }

    async fn get(&self, service: Service, path: &str) -> anyhow::Result<reqwest::Response> {
        Ok(self.http.get(self.url(service, path)?).send().await?)
    }

    async fn json(&self, service: Service, path: &str) -> anyhow::Result<Value> {
        let answer = self.get(service, path).await?;
        ensure!(answer.status() == 200, "{service} {path}: {}", answer.status());
        Ok(answer.json().await?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nine_services_tell_the_same_way_how_they_are_and_what_they_offer() -> Tested {
    let platform = Platform::start()?;
    for service in Service::ALL {
        routes::health(&platform, service).await?;
        routes::documents(&platform, service).await?;
        routes::discovery(&platform, service).await?;
        routes::cors(&platform, service).await?;
        openapi::check(&platform, service).await?;
    }
    routes::identity(&platform).await
}
