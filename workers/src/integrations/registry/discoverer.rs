//! Finds out what an integration can do: reads its OpenAPI document, or asks its server for tools.
//!
//! Error policy: retry for ever what the log or the vault keep from being done. A document that cannot be read is no error of
//! the reactor's: it is recorded.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::{
    Method, Url,
    header::{ACCEPT, HeaderMap, HeaderValue},
};
use serde_json::json;
use sha2::{Digest, Sha256};
use symbia_commands::{
    Actor,
    integrations::{
        FailDiscovery, IntegrationCommand, RecordDiscovery,
        openapi::{self, MAX_DOCUMENT},
        prompt_operation, resource_operations, tool_operation,
    },
};
use symbia_egress::{Egress, Errand, Request, mcp::McpServer, references::gathered};
use symbia_events::{
    CommandId, Event, Position, Service,
    integrations::{ErrorCategory, IntegrationAuth, IntegrationEvent, IntegrationKind, Operation},
};

use super::Vault;
use crate::{
    egress_policies::WayOut,
    integrations::{accounts::Asker, provider::Fault},
    reactor::{OnError, Reactor},
    sender::Sender,
};

/// How long reading a document, or asking a server, may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The reactor.
pub struct Discoverer {
    sender: Sender,
    egress: WayOut,
    vault: Arc<dyn Vault>,
}

/// What is to be found out.
struct Unknown {
    key: String,
    kind: IntegrationKind,
    spec_url: Option<String>,
    server_url: Option<String>,
    auth: IntegrationAuth,
    version: u64,
    by: String,
}

/// What was found out.
struct Found {
    server_url: Option<String>,
    operations: Vec<Operation>,
    digest: String,
}

impl Discoverer {
    /// Sends what it finds out.
    #[must_use]
    pub fn new(sender: Sender, egress: WayOut, vault: Arc<dyn Vault>) -> Self {
        Discoverer { sender, egress, vault }
    }

    async fn discover(&self, event: &Event, unknown: Unknown) -> anyhow::Result<()> {
        let found = match unknown.kind {
            IntegrationKind::Mcp => self.ask(event, &unknown).await?,
            _ => self.read(&self.egress.of(event.orgid.as_str()).await?, &unknown).await,
        };
        let (key, version) = (unknown.key, unknown.version);
        let command = match found {
            Ok(found) => {
                tracing::info!(key, operations = found.operations.len(), "an integration is known");
                IntegrationCommand::from(RecordDiscovery {
                    key: key.clone(),
                    version,
                    server_url: found.server_url,
                    operations: found.operations,
                    spec_digest: found.digest,
                })
            }
            Err(fault) => failed(&key, version, &fault),
        };
        let rejection = self.send(event, &command, "discovered").await?;
        if let Some(rejection) = rejection {
            let fault = Fault::new(ErrorCategory::Validation, "not_accepted", rejection.message);
            self.send(event, &failed(&key, version, &fault), "not accepted").await?;
        }
        Ok(())
    }

    async fn send(
        &self,
        event: &Event,
        command: &IntegrationCommand,
        purpose: &str,
    ) -> anyhow::Result<Option<symbia_commands::Rejection>> {
        let (id, by) = (CommandId::derived(event.id, purpose), Actor::service("integrations"));
        Ok(self.sender.send(Some(event), &event.aggregate()?, command, &by, id).await?.rejection)
    }

    async fn read(&self, egress: &Egress, unknown: &Unknown) -> Result<Found, Fault> {
        let spec_url = unknown.spec_url.as_deref().unwrap_or_default();
        let body = document(egress, spec_url).await?;
        let (digest, came_from, server) = (digest(&body), spec_url.to_owned(), unknown.server_url.clone());
        // Long documents take a while.
        let parsed = tokio::task::spawn_blocking(move || openapi::parse(&body)).await;
        let parsed = parsed.map_err(|_| unreadable("its document could not be read".to_owned()))?;
        let parsed = parsed.map_err(|error| unreadable(error.to_string()))?;
        let whole = gathered(egress, parsed, Some(spec_url), |bytes| openapi::parse(bytes).ok()).await;
        let whole = whole.map_err(|error| unreadable(error.to_string()))?;
        let imported =
            tokio::task::spawn_blocking(move || openapi::import(&whole, server.as_deref(), Some(&came_from)));
        let imported = imported.await.map_err(|_| unreadable("its document could not be read".to_owned()))?;
        let imported = imported.map_err(|error| unreadable(error.to_string()))?;
        Ok(Found { server_url: imported.server_url, operations: imported.operations, digest })
    }

    // An error means that nobody could be asked for a key.
    async fn ask(&self, event: &Event, unknown: &Unknown) -> anyhow::Result<Result<Found, Fault>> {
        let server_url = unknown.server_url.clone().unwrap_or_default();
        let mut request = match Request::to(&server_url) {
            Ok(request) => request,
            Err(invalid) => return Ok(Err(invalid.into())),
        };
        if let Some(provider) = unknown.auth.credential_key(&unknown.key) {
            let asker = Asker { org: event.orgid.as_str(), principal: &unknown.by, assistant: None, key: None };
            let lending = self.vault.lend(&asker, provider, &request.url).await?;
            let lent = lending.or_fault(provider, &request.url);
            let keyed = lent.and_then(|lease| Ok(request.with_key(&unknown.auth, lease.key.reveal())?));
            request = match keyed {
                Ok(request) => request,
                Err(fault) => return Ok(Err(fault)),
            };
        }
        let Request { url, headers, .. } = request;
        let egress = self.egress.of(event.orgid.as_str()).await?;
        let server = McpServer { egress: &egress, url, headers, patience: PATIENCE };
        let offer = server.offer().await;
        Ok(offer.map_err(Fault::from).map(|offer| {
            let operations: Vec<Operation> = offer
                .tools
                .into_iter()
                .map(|t| tool_operation(&t.name, t.description, t.input_schema, t.output_schema, t.read_only))
                .chain(offer.prompts.into_iter().map(|p| prompt_operation(&p.name, p.description, p.arguments)))
                .chain(resource_operations(offer.resources))
                .collect();
            let digest = digest(json!(operations).to_string().as_bytes());
            Found { server_url: Some(server_url), operations, digest }
        }))
    }
}

async fn document(egress: &Egress, spec_url: &str) -> Result<Bytes, Fault> {
    let url = Url::parse(spec_url).map_err(|error| unreadable(format!("specUrl: {error}")))?;
    let accept = HeaderValue::from_static("application/json, application/yaml, text/yaml, */*;q=0.5");
    let errand = Errand {
        method: Method::GET,
        url,
        headers: HeaderMap::from_iter([(ACCEPT, accept)]),
        body: None,
        patience: PATIENCE,
        most: MAX_DOCUMENT,
    };
    let reply = egress.fetch(errand).await?;
    if !reply.status.is_success() {
        return Err(unreadable(format!("there is no document: HTTP {}", reply.status.as_u16())));
    }
    Ok(reply.body)
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unreadable(text: String) -> Fault {
    Fault::new(ErrorCategory::Validation, "unreadable", text)
}

fn failed(key: &str, version: u64, fault: &Fault) -> IntegrationCommand {
    tracing::info!(key, %fault, "an integration stays unknown");
    let (key, code) = (key.to_owned(), fault.code.clone().unwrap_or_default());
    IntegrationCommand::from(FailDiscovery { key, version, code, error: fault.message.clone() })
}

#[async_trait]
impl Reactor for Discoverer {
    fn name(&self) -> &'static str {
        "discoverer"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(Service::Integrations, &["*.integration.*"])]
    }

    fn acts_on(&self) -> &'static [&'static str] {
        &[
            "symbia.integrations.integration.integration-registered.",
            "symbia.integrations.integration.integration-refresh-requested.",
        ]
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    async fn react(&self, event: &Event, _at: Position) -> anyhow::Result<()> {
        let unknown = match event.decode()? {
            IntegrationEvent::IntegrationRegistered(e) if e.operations.is_none() => Unknown {
                key: e.key,
                kind: e.kind,
                spec_url: e.spec_url,
                server_url: e.server_url,
                auth: e.auth,
                version: e.version,
                by: e.by,
            },
            IntegrationEvent::IntegrationRefreshRequested(e) => Unknown {
                key: e.key,
                kind: e.kind,
                spec_url: e.spec_url,
                server_url: e.server_url,
                auth: e.auth,
                version: e.version,
                by: e.by,
            },
            _ => return Ok(()),
        };
        self.discover(event, unknown).await
    }
}
