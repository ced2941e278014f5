//! Servers of the Model Context Protocol, over streamable HTTP (integrations.md §13.2): asked for their tools and prompts, and
//! to run one.
//!
//! Each call is a session of its own: handshake, question, end. Servers that want to start processes here are not spoken to.

use std::{collections::HashMap, time::Duration};

use reqwest::{Url, header::HeaderMap};
use rmcp::{
    RoleClient, ServiceExt,
    model::{
        CallToolRequestParams, ClientCapabilities, ClientConfig, GetPromptRequestParams, Implementation,
        PaginatedRequestParams, ProtocolVersion,
    },
    service::{ClientInitializeError, RunningService, ServiceError},
    transport::{
        StreamableHttpClientTransport,
        streamable_http_client::{StreamableHttpClientTransportConfig, StreamableHttpError},
    },
};
use serde_json::{Map, Value};

use crate::{Egress, EgressError};

/// Pages of a list that are read, and most bytes of an answer.
const MAX_PAGES: usize = 50;
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
            let capabilities = session.peer_info().map(|info| serde_json::to_value(&info.capabilities));
            let (mut tools, mut cursor) = (Vec::new(), None);
            for _ in 0..MAX_PAGES {
                let page = session.list_tools(Some(PaginatedRequestParams::default().with_cursor(cursor))).await?;
                tools.extend(page.tools.into_iter().map(RemoteTool::from));
                cursor = page.next_cursor;
                if cursor.is_none() {
                    break;
                }
            }
            let prompts = prompts(&session).await?;
            close(session).await;
            Ok(Offer { tools, prompts, capabilities: capabilities.and_then(Result::ok).unwrap_or_default() })
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

async fn prompts(session: &Session) -> Result<Vec<RemotePrompt>, McpError> {
    let (mut prompts, mut cursor) = (Vec::new(), None);
    if session.peer_info().is_none_or(|info| info.capabilities.prompts.is_none()) {
        return Ok(prompts);
    }
    for _ in 0..MAX_PAGES {
        let page = session.list_prompts(Some(PaginatedRequestParams::default().with_cursor(cursor))).await?;
        prompts.extend(page.prompts.into_iter().map(RemotePrompt::from));
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    Ok(prompts)
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
