//! Which tools of which servers a request wants, as clients write it: in few words, or in those of OpenAI's API.

use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{http::ApiResult, integrations::errors::refused};

/// Most rounds of calls, and those of a request that says nothing about it.
const MOST_ROUNDS: u32 = 16;
const USUAL_ROUNDS: u32 = 8;

/// A tool of type `mcp`: a server that was registered.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[schema(as = McpServerTools)]
pub(in crate::integrations) struct ServerOf {
    /// With `type` `mcp`: key of an MCP server that the organization registered.
    #[serde(default)]
    server: Option<String>,
    /// The same.
    #[serde(default)]
    server_label: Option<String>,
    /// Its tools that may be called: names, or `{"tool_names": […], "read_only": true}`; all, when there are none.
    #[serde(default)]
    allowed: Option<Allowed>,
    /// The same.
    #[serde(default)]
    allowed_tools: Option<Allowed>,
    /// Only `never`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    require_approval: Option<Value>,
    /// Not here: register the server.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    server_url: Option<IgnoredAny>,
    /// Not here: register the server.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    connector_id: Option<IgnoredAny>,
    /// Not here: register the server.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    tunnel_id: Option<IgnoredAny>,
    /// Not here: keep the key in the vault.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    authorization: Option<IgnoredAny>,
    /// Not here: keep the key in the vault.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    headers: Option<IgnoredAny>,
}

/// Tools that may be called.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = McpAllowedTools)]
#[serde(untagged)]
enum Allowed {
    Names(Vec<String>),
    Filter(Filter),
}

/// The same as a filter.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[schema(as = McpToolFilter)]
#[serde(deny_unknown_fields)]
struct Filter {
    #[serde(default)]
    tool_names: Option<Vec<String>>,
    /// Only those that say that they change nothing.
    #[serde(default)]
    read_only: bool,
}

/// A server whose tools are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::integrations) struct WantedServer {
    /// The field that names it, and its key.
    pub server: (String, String),
    /// The field that names its tools, and their names.
    pub tools: Option<(String, Vec<String>)>,
    pub read_only: bool,
}

/// What a request wants of servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::integrations) struct Wanted {
    pub servers: Vec<WantedServer>,
    /// The tool that must be called first: its server and its name.
    pub first: Option<(String, String)>,
    /// Most rounds of calls.
    pub most: u32,
}

impl ServerOf {
    /// What is wanted; `at` is the tool's place in the request.
    pub fn read(self, at: &str) -> ApiResult<WantedServer> {
        let register = "is not taken here: register the server (POST /api/integrations/mcp/register), and name its key";
        let keep = "is not taken here: keep the server's key in the vault (POST /api/credentials)";
        for (given, field, message) in [
            (self.server_url, "server_url", register),
            (self.connector_id, "connector_id", register),
            (self.tunnel_id, "tunnel_id", register),
            (self.authorization, "authorization", keep),
            (self.headers, "headers", keep),
        ] {
            if given.is_some() {
                return Err(refused(&format!("{at}.{field}"), message));
            }
        }
        if self.require_approval.is_some_and(|approval| approval != "never") {
            let message =
                "must be never: nobody is asked before a tool is called; what may be called, allowed_tools says";
            return Err(refused(&format!("{at}.require_approval"), message));
        }
        let server = match (self.server, self.server_label) {
            (Some(key), label) if label.as_ref().is_none_or(|label| *label == key) => (format!("{at}.server"), key),
            (None, Some(label)) => (format!("{at}.server_label"), label),
            (Some(_), _) => {
                return Err(refused(&format!("{at}.server_label"), "must be the same as server, or not be there"));
            }
            (None, None) => {
                return Err(refused(&format!("{at}.server"), "is required: the key of a registered server"));
            }
        };
        let (field, allowed) = match (self.allowed, self.allowed_tools) {
            (Some(_), Some(_)) => {
                return Err(refused(&format!("{at}.allowed_tools"), "cannot be given together with allowed"));
            }
            (Some(allowed), None) => ("allowed", Some(allowed)),
            (None, allowed) => ("allowed_tools", allowed),
        };
        let Filter { tool_names, read_only } = match allowed {
            Some(Allowed::Names(names)) => Filter { tool_names: Some(names), read_only: false },
            Some(Allowed::Filter(filter)) => filter,
            None => Filter::default(),
        };
        let tools = tool_names.map(|names| (format!("{at}.{field}"), names));
        Ok(WantedServer { server, tools, read_only })
    }
}

impl Wanted {
    /// Whether it wants nothing of any server.
    pub fn is_nothing(&self) -> bool {
        self.servers.is_empty()
    }

    /// The same, where only functions can be given.
    pub fn functions_alone(&self) -> ApiResult<()> {
        match self.servers.first() {
            None => Ok(()),
            Some(WantedServer { server: (at, _), .. }) => {
                let at = at.rsplit_once('.').map_or(at.as_str(), |(tool, _)| tool);
                let message =
                    "must be function: tools of servers are called by POST /v1/chat/completions and /v1/responses";
                Err(refused(&format!("{at}.type"), message))
            }
        }
    }
}

/// How many rounds of calls there may be.
pub(in crate::integrations) fn most_rounds(given: Option<u32>) -> ApiResult<u32> {
    let most = given.unwrap_or(USUAL_ROUNDS);
    if !(1..=MOST_ROUNDS).contains(&most) {
        return Err(refused("max_tool_rounds", format!("must be 1 to {MOST_ROUNDS}")));
    }
    Ok(most)
}

/// The server and the tool that a `tool_choice` names; none where it is about something else.
pub(in crate::integrations) fn first_tool(choice: &Value) -> ApiResult<Option<(String, String)>> {
    if choice["type"] != "mcp" {
        return Ok(None);
    }
    let server = choice["server"].as_str().or(choice["server_label"].as_str());
    match (server, choice["name"].as_str()) {
        (Some(server), Some(name)) => Ok(Some((server.to_owned(), name.to_owned()))),
        _ => Err(refused(
            "tool_choice",
            "must name a server and one of its tools: {\"type\":\"mcp\",\"server\":…,\"name\":…}",
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(tool: Value) -> ApiResult<WantedServer> {
        serde_json::from_value::<ServerOf>(tool).unwrap().read("tools[1]")
    }

    #[test]
    fn both_spellings_say_the_same() {
        let names = |field: &str| Some((format!("tools[1].{field}"), vec!["get".to_owned()]));
        let of = |field: &str| (format!("tools[1].{field}"), "weather".to_owned());
        let ours = read(json!({ "type": "mcp", "server": "weather", "allowed": ["get"] })).unwrap();
        assert_eq!(ours, WantedServer { server: of("server"), tools: names("allowed"), read_only: false });
        let theirs = json!({ "type": "mcp", "server_label": "weather", "require_approval": "never",
            "allowed_tools": { "tool_names": ["get"], "read_only": true }, "server_description": "what it is" });
        let theirs = read(theirs).unwrap();
        let expected = WantedServer { server: of("server_label"), tools: names("allowed_tools"), read_only: true };
        assert_eq!(theirs, expected);
        assert_eq!(read(json!({ "server": "weather", "server_label": "weather" })).unwrap().tools, None);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_its_name() {
        for (more, field, says) in [
            (json!({ "server_url": "https://x.example/mcp" }), "server_url", "mcp/register"),
            (json!({ "connector_id": "connector_gmail" }), "connector_id", "mcp/register"),
            (json!({ "tunnel_id": "t" }), "tunnel_id", "mcp/register"),
            (json!({ "authorization": "secret-of-ada" }), "authorization", "/api/credentials"),
            (json!({ "headers": { "x": "secret-of-ada" } }), "headers", "/api/credentials"),
            (json!({ "require_approval": "always" }), "require_approval", "never"),
            (json!({ "require_approval": { "never": { "tool_names": ["get"] } } }), "require_approval", "never"),
            (json!({ "server_label": "other" }), "server_label", "same"),
            (json!({ "allowed": [], "allowed_tools": [] }), "allowed_tools", "allowed"),
        ] {
            let mut tool = json!({ "type": "mcp", "server": "weather" });
            tool.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let error = read(tool).unwrap_err();
            let detail = &error.details()[0];
            assert_eq!(detail.path, format!("tools[1].{field}"));
            assert!(detail.message.contains(says) && !detail.message.contains("secret"), "{}", detail.message);
        }
        assert_eq!(read(json!({ "type": "mcp" })).unwrap_err().details()[0].path, "tools[1].server");
        assert_eq!((most_rounds(None).unwrap(), most_rounds(Some(16)).unwrap()), (8, 16));
        assert!(most_rounds(Some(0)).is_err() && most_rounds(Some(17)).is_err());
        assert!(first_tool(&json!({ "type": "mcp", "server_label": "weather" })).is_err());
        assert_eq!(first_tool(&json!("auto")).unwrap(), None);
    }

    #[test]
    fn where_only_functions_can_be_given_the_tool_is_named() {
        let wanted = Wanted { servers: vec![read(json!({ "server": "weather" })).unwrap()], first: None, most: 8 };
        assert_eq!(wanted.functions_alone().unwrap_err().details()[0].path, "tools[1].type");
        assert!(Wanted::default().functions_alone().is_ok() && Wanted::default().is_nothing());
    }
}
