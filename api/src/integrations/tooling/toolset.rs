//! The tools of servers that a request may use: looked up in the organization's registry, and named for a model.

use std::collections::HashMap;

use axum::http::StatusCode;
use serde_json::{Value, json};
use symbia_events::integrations::{Operation, Tool, ToolChoice};

use super::{
    names::{NamedServer, NamedTool, ToolNames},
    wanted::{Wanted, WantedServer},
};
use crate::{
    http::{ApiError, ApiResult, Caller, RequestScope},
    integrations::{
        Integrations,
        ask::Question,
        errors::refused,
        mcp::{is_tool, name, takes},
        registry::{Entry, Reader},
    },
};

/// Longest description that a model is given.
const LONGEST_TEXT: usize = 1000;
/// The tag of tools that say that they change nothing.
const READ_ONLY: &str = "read-only";

/// Tools of servers, for who may call them.
pub(in crate::integrations) struct Toolset {
    pub names: ToolNames,
    pub(super) reader: Reader,
    // Of each server the tools that may be called, by function.
    servers: Vec<(Entry, HashMap<String, usize>)>,
}

/// A server's name for one of its tools.
fn named(operation: &Operation) -> &str {
    operation.mcp_tool.as_ref().map_or(&operation.id, |tool| &tool.name)
}

fn is_read_only(operation: &Operation) -> bool {
    operation.tags.iter().any(|tag| tag == READ_ONLY)
}

fn function(name: &str, operation: &Operation) -> Tool {
    let text = operation.description.as_deref().or(operation.summary.as_deref());
    let mut parameters = Value::Object(takes(operation));
    // Some providers take no schema of an object without them.
    if parameters["properties"].is_null() {
        parameters["properties"] = json!({});
    }
    Tool {
        name: name.to_owned(),
        description: text.map(|text| text.chars().take(LONGEST_TEXT).collect()),
        parameters,
        strict: None,
    }
}

impl Integrations {
    /// Looks up what a request wants of servers, and gives it to the model.
    pub(in crate::integrations) async fn toolset(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        wanted: &Wanted,
        question: &mut Question,
    ) -> ApiResult<Toolset> {
        let reader = Reader::new(caller, scope)?;
        let mut toolset =
            Toolset { names: ToolNames { most: wanted.most, servers: Vec::new() }, reader, servers: Vec::new() };
        // A function of the caller's own keeps its name.
        let mut taken = question.options.tools.iter().map(|tool| (tool.name.clone(), ())).collect();
        for server in &wanted.servers {
            let (at, key) = &server.server;
            if toolset.names.servers.iter().any(|other| other.key == *key) {
                return Err(refused(at, format!("names '{key}' again: name each server once, with all its tools")));
            }
            let unknown = |error: ApiError| match error.status() {
                StatusCode::NOT_FOUND => {
                    let message = format!("names '{key}', which is not registered with your organization");
                    ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", format!("{at} {message}"))
                        .with_detail(at, "exists", message)
                        .with_hint("GET /api/integrations/registry lists what is.")
                }
                _ => error,
            };
            let entry = self.entry(&toolset.reader, key).await.map_err(unknown)?;
            question.options.tools.extend(toolset.add(entry, server, &mut taken)?);
        }
        if let Some((key, tool)) = &wanted.first {
            let function = toolset.names.function(key, tool).ok_or_else(|| {
                refused("tool_choice", format!("names '{tool}' of '{key}', which is none of the tools of this request"))
            })?;
            question.options.tool_choice = Some(ToolChoice::Named(function.to_owned()));
        }
        Ok(toolset)
    }
}

impl Toolset {
    fn add(&mut self, entry: Entry, wanted: &WantedServer, taken: &mut HashMap<String, ()>) -> ApiResult<Vec<Tool>> {
        let (at, key) = &wanted.server;
        let Some(row) = entry.mcp_server() else {
            return Err(refused(
                at,
                format!("names '{key}', which is no MCP server: its operations are no tools here"),
            ));
        };
        let tools: Vec<(usize, &Operation)> =
            entry.operations.iter().enumerate().filter(|(_, operation)| is_tool(operation)).collect();
        if tools.is_empty() {
            let why = row.sync_error.clone().unwrap_or_else(|| "it has not told of any yet".to_owned());
            let again = format!("POST /api/integrations/registry/{key}/refresh asks it again");
            return Err(refused(at, format!("names '{key}', of which no tools are known: {why}; {again}")));
        }
        if let Some((at, names)) = &wanted.tools
            && let Some(none) = names.iter().find(|name| !tools.iter().any(|(_, operation)| named(operation) == **name))
        {
            let known: Vec<&str> = tools.iter().take(20).map(|(_, operation)| named(operation)).collect();
            return Err(refused(at, format!("has '{none}', which is no tool of '{key}': it has {}", known.join(", "))));
        }
        let (mut functions, mut named_tools, mut places) = (Vec::new(), Vec::new(), HashMap::new());
        for (place, operation) in tools {
            // Names are given before the choice, which must not change them.
            let (tool, read_only) = (named(operation), is_read_only(operation));
            let name = name(key, tool, taken);
            let allowed = wanted.tools.as_ref().is_none_or(|(_, names)| names.iter().any(|name| name == tool));
            if !allowed || (wanted.read_only && !read_only) {
                continue;
            }
            functions.push(function(&name, operation));
            places.insert(name.clone(), place);
            named_tools.push(NamedTool { function: name, tool: tool.to_owned(), read_only });
        }
        if functions.is_empty() {
            return Err(refused(at, format!("names '{key}', of which no tool may be called as the request has it")));
        }
        self.names.servers.push(NamedServer { key: key.clone(), tools: named_tools });
        self.servers.push((entry, places));
        Ok(functions)
    }

    /// The operation that a function is.
    pub(super) fn operation(&self, function: &str) -> Option<(&Entry, &Operation)> {
        self.servers.iter().find_map(|(entry, places)| Some((entry, entry.operations.get(*places.get(function)?)?)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use symbia_commands::integrations::tool_operation;

    use super::*;

    #[test]
    fn a_function_has_a_schema_that_every_provider_takes() {
        let operation = tool_operation("now", Some("x".repeat(2000)), json!({ "type": "object" }), None, true);
        let function = function("clock_now", &operation);
        assert_eq!(function.parameters, json!({ "type": "object", "properties": {} }));
        assert_eq!(function.description.unwrap().len(), LONGEST_TEXT);
        assert!(is_read_only(&operation) && named(&operation) == "now");
        let with = json!({ "type": "object", "required": ["city"], "properties": { "city": { "type": "string" } } });
        let operation = tool_operation("get", None, with.clone(), None, false);
        assert_eq!(super::function("weather_get", &operation).parameters, with);
    }

    #[test]
    fn names_fit_and_are_no_others_even_where_the_caller_took_them() {
        let long = "a.very long tool/name ".repeat(5);
        let mut taken: HashMap<String, ()> = HashMap::from([("weather_get".to_owned(), ())]);
        let mut all = vec!["weather_get".to_owned()];
        for (key, tool) in
            [("weather", "get"), ("weather", &long), ("weather", &format!("{long}2")), ("weather", "g.et")]
        {
            all.push(name(key, tool, &mut taken));
        }
        // The two ways to cut `a_b_c` in two.
        all.extend([name("a_b", "c", &mut taken), name("a", "b_c", &mut taken)]);
        let fits = |name: &String| {
            (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
        };
        assert!(all.iter().all(fits), "{all:?}");
        let (count, distinct) = (all.len(), all.iter().collect::<std::collections::HashSet<_>>().len());
        assert_eq!(count, distinct, "{all:?}");
    }
}
