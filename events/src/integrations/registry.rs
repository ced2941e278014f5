//! Events of the registry: APIs that an organization registered, and what can be called of them (integrations.md §3.6, §12).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::domain_events;

/// What kind of API it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IntegrationKind {
    /// Described by an OpenAPI document.
    OpenApi,
    /// A server of the Model Context Protocol.
    Mcp,
    /// Part of the platform.
    Builtin,
    /// Its operations are listed by who registers it.
    Custom,
}

/// How calls are authenticated, with a key of the vault that is kept for `credential_key`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum IntegrationAuth {
    /// Not at all.
    #[default]
    None,
    /// `Authorization: Bearer <key>`.
    Bearer {
        /// The provider that the key is kept for; absent: the integration's own key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credential_key: Option<String>,
    },
    /// A header that holds the key.
    ApiKey {
        /// Its name; absent: `X-API-Key`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        header: Option<String>,
        /// As with `bearer`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credential_key: Option<String>,
    },
    /// `Authorization: Basic`, the key being `user:password`.
    Basic {
        /// As with `bearer`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credential_key: Option<String>,
    },
    /// As `bearer`, with a token that OAuth gave.
    Oauth2 {
        /// As with `bearer`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credential_key: Option<String>,
    },
    /// The key takes the place of `{token}` in the URL.
    Path {
        /// As with `bearer`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credential_key: Option<String>,
    },
}

impl IntegrationAuth {
    /// The provider whose key is asked for; none when no key is needed.
    #[must_use]
    pub fn credential_key<'a>(&'a self, integration: &'a str) -> Option<&'a str> {
        match self {
            IntegrationAuth::None => None,
            IntegrationAuth::Bearer { credential_key }
            | IntegrationAuth::ApiKey { credential_key, .. }
            | IntegrationAuth::Basic { credential_key }
            | IntegrationAuth::Oauth2 { credential_key }
            | IntegrationAuth::Path { credential_key } => Some(credential_key.as_deref().unwrap_or(integration)),
        }
    }
}

/// How often something may be called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CallRate {
    /// At most so often in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u32>,
    /// At most so often in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// At most so many tokens in a minute: what answers say that they took, else what their length is worth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u32>,
    /// At most so many calls at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent_requests: Option<u32>,
}

/// How often an integration may be called by its organization.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct IntegrationRateLimit {
    /// All of its operations together, in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u32>,
    /// All of its operations together, in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// Tokens of all of its operations together, in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u32>,
    /// All of its operations together, at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent_requests: Option<u32>,
    /// Single operations, by id.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub operations: BTreeMap<String, CallRate>,
}

impl IntegrationRateLimit {
    /// How often all of its operations together may be called.
    #[must_use]
    pub fn all(&self) -> CallRate {
        let Self { requests_per_second, requests_per_minute, tokens_per_minute, concurrent_requests, .. } = *self;
        CallRate { requests_per_second, requests_per_minute, tokens_per_minute, concurrent_requests }
    }
}

/// How calls that failed are tried again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct IntegrationRetry {
    /// 0 to 10.
    pub max_retries: u32,
    /// Before the first; each further one waits longer.
    pub backoff_ms: u64,
    /// By this factor.
    pub backoff_multiplier: f64,
}

impl Default for IntegrationRetry {
    fn default() -> Self {
        IntegrationRetry { max_retries: 3, backoff_ms: 1000, backoff_multiplier: 2.0 }
    }
}

/// Where a parameter goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Location {
    Path,
    Query,
    Header,
    Cookie,
    Body,
}

/// A parameter of an operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "named as in integrations.md §3.6")]
pub struct Parameter {
    pub name: String,
    pub location: Location,
    #[serde(default)]
    pub required: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
}

/// The body of an operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "named as in integrations.md §3.6")]
pub struct RequestBody {
    #[serde(default)]
    pub required: bool,
    /// `application/json`, `multipart/form-data` or `application/x-www-form-urlencoded`, or another that is sent as text.
    pub content_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
}

/// The tool of a Model Context Protocol server that an operation is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "named as in integrations.md §3.6")]
pub struct McpTool {
    pub name: String,
    pub input_schema: Value,
    /// It is a prompt: asked for, it gives turns of a conversation.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prompt: bool,
    /// It is a resource, which is read: its URI at the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The kind of what a resource holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mime_type: Option<String>,
}

/// What can be called.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Operation {
    /// Its path within the integration: words with dots between them.
    pub id: String,
    /// Other paths that lead to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// As its source names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation_id: Option<String>,
    /// HTTP method, in capitals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// URL path with `{name}`s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// In a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// At length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// For searching.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Not to be used any more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub deprecated: bool,
    /// What it takes besides a body.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<Parameter>,
    /// What it takes as a body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_body: Option<RequestBody>,
    /// JSON schema of its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_schema: Option<Value>,
    /// It is a tool of an MCP server, or a prompt or a resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mcp_tool: Option<McpTool>,
}

domain_events! {
    /// What can have happened to an integration.
    IntegrationEvent: Integrations / "integration" {
        /// It is known; what it can do is still to be found out, unless its operations came with it.
        IntegrationRegistered = "symbia.integrations.integration.integration-registered.v1" {
            key: String,
            name: String,
            description: Option<String>,
            kind: IntegrationKind,
            /// Where its document is.
            spec_url: Option<String>,
            /// Where it is called; absent: as its document says.
            server_url: Option<String>,
            auth: IntegrationAuth,
            retry: Option<IntegrationRetry>,
            rate_limit: Option<IntegrationRateLimit>,
            /// Absent: to be discovered.
            operations: Option<Vec<Operation>>,
            tags: Vec<String>,
            metadata: Map<String, Value>,
            /// Counts registrations and refreshes, from 1.
            version: u64,
            by: String,
        }
        /// What it can do is to be found out anew.
        IntegrationRefreshRequested = "symbia.integrations.integration.integration-refresh-requested.v1" {
            key: String,
            kind: IntegrationKind,
            spec_url: Option<String>,
            server_url: Option<String>,
            auth: IntegrationAuth,
            version: u64,
            by: String,
        }
        /// It can do this.
        IntegrationDiscovered = "symbia.integrations.integration.integration-discovered.v1" {
            key: String,
            version: u64,
            server_url: Option<String>,
            operations: Vec<Operation>,
            /// SHA-256 of the document, or of the list of tools.
            spec_digest: String,
        }
        /// It could not be found out.
        IntegrationDiscoveryFailed = "symbia.integrations.integration.integration-discovery-failed.v1" {
            key: String,
            version: u64,
            code: String,
            error: String,
        }
        /// It is known no longer.
        IntegrationRemoved = "symbia.integrations.integration.integration-removed.v1" { key: String, by: String }
    }
}
