//! Servers of the Model Context Protocol, over streamable HTTP (integrations.md §13.2): asked for their tools, prompts
//! and resources, and to run or read one.
//!
//! Each call is a session of its own: handshake, question, end. Servers that want to start processes here are not spoken to.

use std::{collections::HashMap, time::Duration};

use reqwest::{Url, header::HeaderMap};
use rmcp::{
    RoleClient, ServiceExt,
    model::{
        CallToolRequestParams, ClientCapabilities, ClientConfig, GetPromptRequestParams, Implementation,
        PaginatedRequestParams, ProtocolVersion, ReadResourceRequestParams,
    },
    service::{ClientInitializeError, RunningService, ServiceError},
    transport::{
        StreamableHttpClientTransport,
        streamable_http_client::{StreamableHttpClientTransportConfig, StreamableHttpError},
    },
};
use serde_json::{Map, Value, json};
use symbia_events::integrations::McpTool;

use crate::{Egress, EgressError};

/// Pages of a list that are read, resources that are told of, and most bytes of an answer.
const MAX_PAGES: usize = 50;
const MAX_RESOURCES: usize = 500;
const MOST: usize = 4 * 1024 * 1024;

/// What a server did not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum McpError {
    /// It was not reached.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// It wants to know who asks.
    #[error("it wants a key, or another one: keep one with POST /api/credentials and name it in 'auth'")]
    Unauthorized,
    /// It answered with an error of the protocol.
    #[error("it refuses with {0}")]
    Refused(i32),
    /// It speaks something else.
    #[error("it does not speak the Model Context Protocol over streamable HTTP")]
    Protocol,
}

impl McpError {
    /// A stable code for records.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            McpError::Egress(error) => error.code(),
            McpError::Unauthorized => "key_refused",
            McpError::Refused(_) => "refused",
            McpError::Protocol => "protocol",
        }
    }
}

/// A tool of a server.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteTool {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// JSON schema of its arguments.
    pub input_schema: Value,
    /// JSON schema of its answer.
    pub output_schema: Option<Value>,
    /// It says that it changes nothing.
    pub read_only: bool,
}

/// A prompt of a server.
#[derive(Clone, Debug, PartialEq)]
pub struct RemotePrompt {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// What it takes: name, what that is for, and whether it is needed.
    pub arguments: Vec<(String, Option<String>, bool)>,
}

/// What a server can do.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// Its tools.
    pub tools: Vec<RemoteTool>,
    /// Its prompts, where it has any.
    pub prompts: Vec<RemotePrompt>,
    /// The first of its resources, where it has any, each with what it is.
    pub resources: Vec<(McpTool, Option<String>)>,
    /// What it says of itself: the JSON of its capabilities.
    pub capabilities: Value,
}

/// A server.
#[derive(Clone, Debug)]
pub struct McpServer<'a> {
    /// The way out.
    pub egress: &'a Egress,
    /// Where it is.
    pub url: Url,
    /// What every request carries, a key above all.
    pub headers: HeaderMap,
    /// How long a call may take.
    pub patience: Duration,
}

type Session = RunningService<RoleClient, ClientConfig>;

impl McpServer<'_> {
    /// Asks what it can do.
    ///
    /// # Errors
    /// It may not be called, is not there, or speaks something else.
    pub async fn offer(&self) -> Result<Offer, McpError> {
        let asked = async {
            let session = self.open().await?;
            let said = session.peer_info().map(|info| info.capabilities.clone()).unwrap_or_default();
            let (of, capabilities) = (&session, serde_json::to_value(&said).unwrap_or_default());
            let tools =
                pages(true, |at| async move { of.list_tools(at).await.map(|page| (page.tools, page.next_cursor)) });
            let tools = tools.await?.into_iter().map(RemoteTool::from).collect();
            let prompts = pages(said.prompts.is_some(), |at| async move {
                of.list_prompts(at).await.map(|page| (page.prompts, page.next_cursor))
            });
            let prompts = prompts.await?.into_iter().map(RemotePrompt::from).collect();
            let resources = pages(said.resources.is_some(), |at| async move {
                of.list_resources(at).await.map(|page| (page.resources, page.next_cursor))
            });
            // Of a server that lists without end, what else it can do still finds its place.
            let resources = resources.await?.into_iter().take(MAX_RESOURCES).map(resource).collect();
            close(session).await;
            Ok(Offer { tools, prompts, resources, capabilities })
        };
        self.patiently(asked).await
    }

    /// Runs a tool; its answer is `{content, isError, …}`.
    ///
    /// # Errors
    /// It may not be called, is not there, or does not know the tool.
    pub async fn call(&self, tool: &str, arguments: Map<String, Value>) -> Result<Value, McpError> {
        let asked = async {
            let session = self.open().await?;
            let call = CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments);
            let result = session.call_tool(call).await?;
            close(session).await;
            serde_json::to_value(&result).map_err(|_| McpError::Protocol)
        };
        self.patiently(asked).await
    }

    /// Asks for a prompt; its answer is `{description?, messages}`.
    ///
    /// # Errors
    /// It may not be called, is not there, or does not know the prompt.
    pub async fn prompt(&self, prompt: &str, arguments: Map<String, Value>) -> Result<Value, McpError> {
        let asked = async {
            let session = self.open().await?;
            let asked = GetPromptRequestParams::new(prompt).with_arguments(arguments);
            let result = session.get_prompt(asked).await?;
            close(session).await;
            serde_json::to_value(&result).map_err(|_| McpError::Protocol)
        };
        self.patiently(asked).await
    }

    /// Reads a resource; its answer is `{contents}`.
    ///
    /// # Errors
    /// It may not be called, is not there, or does not know the resource.
    pub async fn resource(&self, uri: &str) -> Result<Value, McpError> {
        let asked = async {
            let session = self.open().await?;
            let result = session.read_resource(ReadResourceRequestParams::new(uri)).await?;
            close(session).await;
            serde_json::to_value(&result).map_err(|_| McpError::Protocol)
        };
        self.patiently(asked).await
    }

    async fn patiently<T>(&self, work: impl Future<Output = Result<T, McpError>>) -> Result<T, McpError> {
        tokio::time::timeout(self.patience, work).await.unwrap_or(Err(EgressError::Timeout.into()))
    }

    async fn open(&self) -> Result<Session, McpError> {
        let client = self.egress.client_for(&self.url).map_err(EgressError::from)?;
        let headers: HashMap<_, _> = self.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let config = StreamableHttpClientTransportConfig::with_uri(self.url.as_str())
            .custom_headers(headers)
            .max_json_response_size(MOST)
            .max_sse_event_size(MOST);
        let transport = StreamableHttpClientTransport::with_client(client, config);
        let us = Implementation::new("symbia-integrations", env!("CARGO_PKG_VERSION"));
        let us = ClientConfig::new(ClientCapabilities::default(), us)
            .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE);
        Ok(us.serve(transport).await?)
    }
}

// All of a list, page by page; nothing of one that the server does not have.
async fn pages<T, P>(has: bool, page: impl Fn(Option<PaginatedRequestParams>) -> P) -> Result<Vec<T>, McpError>
where
    P: Future<Output = Result<(Vec<T>, Option<String>), ServiceError>>,
{
    let (mut all, mut cursor) = (Vec::new(), None);
    for _ in 0..if has { MAX_PAGES } else { 0 } {
        let (items, next) = page(Some(PaginatedRequestParams::default().with_cursor(cursor))).await?;
        all.extend(items);
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    Ok(all)
}

// Ends the session at the server too, if it takes the trouble.
async fn close(session: Session) {
    let _ = session.cancel().await;
}

impl From<rmcp::model::Prompt> for RemotePrompt {
    fn from(prompt: rmcp::model::Prompt) -> Self {
        let arguments = prompt.arguments.unwrap_or_default().into_iter();
        let arguments = arguments.map(|a| (a.name, a.description, a.required.unwrap_or_default())).collect();
        RemotePrompt { name: prompt.name, description: prompt.description, arguments }
    }
}

fn resource(resource: rmcp::model::Resource) -> (McpTool, Option<String>) {
    let rmcp::model::Resource { uri, name, description, mime_type, .. } = resource;
    let input_schema = json!({ "type": "object" });
    (McpTool { name, input_schema, prompt: false, resource: Some(uri), mime_type }, description)
}

impl From<rmcp::model::Tool> for RemoteTool {
    fn from(tool: rmcp::model::Tool) -> Self {
        RemoteTool {
            input_schema: tool.schema_as_json_value(),
            output_schema: tool.output_schema.map(|schema| Value::Object(schema.as_ref().clone())),
            read_only: tool.annotations.and_then(|said| said.read_only_hint).unwrap_or(false),
            description: tool.description.map(|text| text.into_owned()),
            name: tool.name.into_owned(),
        }
    }
}

impl From<ClientInitializeError> for McpError {
    fn from(error: ClientInitializeError) -> Self {
        match error {
            ClientInitializeError::TransportError { error, .. } => of_transport(error.error.as_ref()),
            ClientInitializeError::JsonRpcError(error) => McpError::Refused(error.code.0),
            _ => McpError::Protocol,
        }
    }
}

impl From<ServiceError> for McpError {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::McpError(error) => McpError::Refused(error.code.0),
            ServiceError::TransportSend(error) => of_transport(error.error.as_ref()),
            ServiceError::TransportClosed => McpError::Egress(EgressError::Transport),
            ServiceError::Timeout { .. } => McpError::Egress(EgressError::Timeout),
            _ => McpError::Protocol,
        }
    }
}

fn of_transport(error: &(dyn std::error::Error + Send + Sync + 'static)) -> McpError {
    match error.downcast_ref::<StreamableHttpError<reqwest::Error>>() {
        Some(StreamableHttpError::Client(error)) => McpError::Egress(EgressError::of(error)),
        Some(StreamableHttpError::AuthRequired(_) | StreamableHttpError::InsufficientScope(_)) => {
            McpError::Unauthorized
        }
        Some(StreamableHttpError::ResponseBodyTooLarge { max_size }) => {
            McpError::Egress(EgressError::TooLong(*max_size))
        }
        Some(_) => McpError::Protocol,
        None => McpError::Egress(EgressError::Transport),
    }
}
