//! Tools, prompts and resources of Model Context Protocol servers as operations (integrations.md §13.2).

use std::collections::HashSet;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use symbia_events::integrations::{Location, McpTool, Operation, Parameter};

/// Characters of a resource's name that go into its id.
const LONGEST_NAME: usize = 100;

/// The operation that a tool is: `tool.<name>`, also found as its name, and as its name with dots between its words.
#[must_use]
pub fn tool_operation(
    name: &str,
    description: Option<String>,
    input_schema: Value,
    output_schema: Option<Value>,
    read_only: bool,
) -> Operation {
    let required = input_schema["required"].as_array().cloned().unwrap_or_default();
    let properties = input_schema["properties"].as_object();
    let parameter = |(name, schema): (&String, &Value)| Parameter {
        name: name.clone(),
        location: Location::Body,
        required: required.iter().any(|required| required == name.as_str()),
        description: schema["description"].as_str().map(str::to_owned),
        schema: Some(schema.clone()),
    };
    let dotted = name.replace('_', ".");
    let mut aliases = vec![name.to_owned()];
    if dotted != name {
        aliases.extend([format!("tool.{dotted}"), dotted]);
    }
    Operation {
        id: format!("tool.{name}"),
        aliases,
        operation_id: Some(name.to_owned()),
        summary: description.as_deref().and_then(|text| text.lines().next()).map(str::to_owned),
        description,
        tags: if read_only { vec!["read-only".to_owned()] } else { Vec::new() },
        parameters: properties.into_iter().flatten().map(parameter).collect(),
        response_schema: output_schema,
        mcp_tool: Some(McpTool { name: name.to_owned(), input_schema, ..McpTool::default() }),
        ..Operation::default()
    }
}

/// The operation that a prompt is, `prompt.<name>`; its arguments are texts, each with what it is for and whether it is needed.
#[must_use]
pub fn prompt_operation(
    name: &str,
    description: Option<String>,
    arguments: Vec<(String, Option<String>, bool)>,
) -> Operation {
    let required: Vec<&String> = arguments.iter().filter(|(.., required)| *required).map(|(name, ..)| name).collect();
    let properties: Map<String, Value> =
        arguments.iter().map(|(name, ..)| (name.clone(), json!({ "type": "string" }))).collect();
    let input_schema = json!({ "type": "object", "properties": properties, "required": required });
    let parameter = |(name, description, required): (String, Option<String>, bool)| Parameter {
        name,
        location: Location::Body,
        required,
        description,
        schema: Some(json!({ "type": "string" })),
    };
    Operation {
        id: format!("prompt.{name}"),
        operation_id: Some(name.to_owned()),
        summary: description.as_deref().and_then(|text| text.lines().next()).map(str::to_owned),
        description,
        tags: vec!["prompt".to_owned(), "read-only".to_owned()],
        parameters: arguments.into_iter().map(parameter).collect(),
        mcp_tool: Some(McpTool { name: name.to_owned(), input_schema, prompt: true, ..McpTool::default() }),
        ..Operation::default()
    }
}

/// The operations that resources are, `resource.<name>` each, with a dash for what an id may not hold. Of several that would have
/// the same id, the later ones end in a digest of where they are.
#[must_use]
pub fn resource_operations(resources: Vec<(McpTool, Option<String>)>) -> Vec<Operation> {
    let mut taken = HashSet::new();
    let operation = |(resource, description): (McpTool, Option<String>)| {
        let uri = resource.resource.as_deref().unwrap_or_default();
        let fits = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
        let mut id: String = "resource.".chars().chain(resource.name.chars().take(LONGEST_NAME).map(fits)).collect();
        if !taken.insert(id.clone()) {
            let digest = Sha256::digest(uri.as_bytes());
            id.extend(std::iter::once("-".to_owned()).chain(digest.iter().take(8).map(|byte| format!("{byte:02x}"))));
            taken.insert(id.clone());
        }
        Operation {
            id,
            operation_id: resource.resource.clone(),
            summary: description.as_deref().and_then(|text| text.lines().next()).map(str::to_owned),
            description,
            tags: vec!["resource".to_owned(), "read-only".to_owned()],
            mcp_tool: Some(resource),
            ..Operation::default()
        }
    };
    resources.into_iter().map(operation).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_of_one_name_have_ids_of_their_own() {
        let of = |uri: &str, name: &str| {
            (
                McpTool { name: name.into(), resource: Some(uri.into()), ..McpTool::default() },
                Some("One.\nMore.".into()),
            )
        };
        let all = resource_operations(vec![of("file:///a", "read me.md"), of("file:///b", "read me.md")]);
        assert_eq!(all[0].id, "resource.read-me.md");
        assert!(all[1].id.starts_with("resource.read-me.md-") && all[1].id.len() == 36, "{}", all[1].id);
        let resource = all[1].mcp_tool.clone().unwrap_or_default();
        assert_eq!((resource.resource.as_deref(), resource.name.as_str()), (Some("file:///b"), "read me.md"));
        assert_eq!((all[1].summary.as_deref(), all[1].description.as_deref()), (Some("One."), Some("One.\nMore.")));
    }

    #[test]
    fn a_tool_is_found_by_each_of_its_names() {
        let schema =
            json!({ "type": "object", "required": ["city"], "properties": { "city": { "type": "string" }, "n": {} } });
        let operation = tool_operation("get_weather", Some("Tells.\nMore.".into()), schema, None, true);
        assert_eq!(operation.id, "tool.get_weather");
        assert_eq!(operation.aliases, ["get_weather", "tool.get.weather", "get.weather"]);
        let parameters: Vec<_> = operation.parameters.iter().map(|p| (p.name.as_str(), p.required)).collect();
        assert_eq!(parameters, [("city", true), ("n", false)]);
        assert_eq!(operation.summary.as_deref(), Some("Tells."));
    }
}
