//! Operations as tools: their names, what they take, and back.

use std::collections::{BTreeMap, HashMap};

use rmcp::model::{Tool, ToolAnnotations};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use symbia_events::integrations::{InvocationInput, Location, Operation};

use crate::integrations::registry::Entry;

/// Longest name that clients take.
const LONGEST: usize = 64;
/// Longest description.
const MAX_TEXT: usize = 1000;
/// The argument that is the whole body, where that is no object.
const BODY: &str = "body";

/// The tools of a caller, in a lasting order.
pub(super) struct Toolbox {
    entries: Vec<Entry>,
    // Name, and where the operation stands.
    tools: Vec<(String, usize, usize)>,
}

impl Toolbox {
    /// Of these integrations, if they are named, and with one of these tags.
    pub fn new(mut entries: Vec<Entry>, integrations: Option<&str>, tags: Option<&str>) -> Self {
        entries.retain(|entry| among(integrations, |key| key == entry.key));
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        let (mut tools, mut taken) = (Vec::new(), HashMap::new());
        for (i, entry) in entries.iter().enumerate() {
            let all = entry.operations.iter().enumerate().filter(|(_, operation)| is_tool(operation));
            for (j, operation) in all {
                // Names are given before the choice, which must not change them.
                let name = name(&entry.key, &operation.id, &mut taken);
                if among(tags, |tag| operation.tags.iter().any(|t| t == tag)) {
                    tools.push((name, i, j));
                }
            }
        }
        Toolbox { entries, tools }
    }

    pub fn len(&self) -> usize {
        self.tools.len()
    }

    /// So many tools from a place on.
    pub fn page(&self, from: usize, most: usize) -> Vec<Tool> {
        let of = |(name, i, j): &(String, usize, usize)| tool(name, &self.entries[*i].operations[*j]);
        self.tools.iter().skip(from).take(most).map(of).collect()
    }

    /// The operation of a tool: by its name, else by `<integration>.<operation>` as older clients have it, with dots or with
    /// underscores for them.
    pub fn find(&self, name: &str) -> Option<(&Entry, &Operation)> {
        let by_name = self.tools.iter().find(|(tool, ..)| tool == name);
        let older = || {
            self.tools.iter().find(|(_, i, j)| {
                let (entry, operation) = (&self.entries[*i], &self.entries[*i].operations[*j]);
                let names = [&operation.id].into_iter().chain(&operation.aliases);
                let mut full = names.map(|id| format!("{}.{id}", entry.key));
                full.any(|full| full == name || full.replace('.', "_") == name)
            })
        };
        let (_, i, j) = by_name.or_else(older)?;
        Some((&self.entries[*i], &self.entries[*i].operations[*j]))
    }
}

/// Whether one of a list with commas is meant; without a list all are.
pub(super) fn among(list: Option<&str>, is: impl Fn(&str) -> bool) -> bool {
    list.is_none_or(|list| list.split(',').any(|one| is(one.trim())))
}

/// Whether an operation is a tool, and neither a prompt nor a resource.
pub(in crate::integrations) fn is_tool(operation: &Operation) -> bool {
    operation.mcp_tool.as_ref().is_none_or(|tool| !tool.prompt && tool.resource.is_none())
}

/// Whether an operation is a prompt.
pub(super) fn is_prompt(operation: &Operation) -> bool {
    operation.mcp_tool.as_ref().is_some_and(|tool| tool.prompt)
}

/// `<key>_<id>` with underscores for whatever a name may not hold. What is too long, or taken, ends in a digest of the whole; where
/// somebody took even that, in one of the whole and a number.
pub(in crate::integrations) fn name(key: &str, id: &str, taken: &mut HashMap<String, ()>) -> String {
    let full = format!("{key}.{id}");
    let fits = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let plain: String = full.chars().map(fits).collect();
    if plain.len() <= LONGEST && taken.insert(plain.clone(), ()).is_none() {
        return plain;
    }
    let kept: String = plain.chars().take(LONGEST - 9).collect();
    let (mut whole, mut number) = (full.clone(), 0_u32);
    loop {
        let digest =
            Sha256::digest(whole.as_bytes()).iter().take(4).map(|byte| format!("{byte:02x}")).collect::<String>();
        let name = format!("{kept}_{digest}");
        if taken.insert(name.clone(), ()).is_none() {
            return name;
        }
        number += 1;
        whole = format!("{full} {number}");
    }
}

fn tool(name: &str, operation: &Operation) -> Tool {
    let text = operation.description.as_deref().or(operation.summary.as_deref()).unwrap_or(&operation.id);
    let text: String = text.chars().take(MAX_TEXT).collect();
    let method = operation.method.as_deref().unwrap_or("POST");
    let reads = matches!(method, "GET" | "HEAD" | "OPTIONS") || operation.tags.iter().any(|tag| tag == "read-only");
    let annotations = ToolAnnotations::from_raw(
        operation.summary.clone(),
        Some(reads),
        Some(!reads && matches!(method, "DELETE" | "PUT" | "PATCH")),
        Some(reads || matches!(method, "PUT" | "DELETE")),
        Some(true),
    );
    Tool::new(name.to_owned(), text, takes(operation)).with_annotations(annotations)
}

/// The properties of a body that are arguments of their own; none when the body is one argument.
fn body_properties(operation: &Operation) -> Option<&Map<String, Value>> {
    operation.request_body.as_ref()?.schema.as_ref()?["properties"].as_object().filter(|fields| !fields.is_empty())
}

/// JSON schema of the arguments.
pub(in crate::integrations) fn takes(operation: &Operation) -> Map<String, Value> {
    if let Some(tool) = &operation.mcp_tool {
        let schema = tool.input_schema.as_object().cloned().unwrap_or_default();
        return if schema.is_empty() { Map::from_iter([("type".to_owned(), json!("object"))]) } else { schema };
    }
    let (mut properties, mut required) = (Map::new(), Vec::new());
    if let Some(body) = &operation.request_body {
        let schema = body.schema.clone().unwrap_or_else(|| json!({}));
        match body_properties(operation) {
            Some(fields) => {
                properties.extend(fields.clone());
                required.extend(schema["required"].as_array().cloned().unwrap_or_default());
            }
            None => {
                properties.insert(BODY.to_owned(), schema);
                required.extend(body.required.then(|| json!(BODY)));
            }
        }
    }
    for parameter in &operation.parameters {
        let mut schema = parameter.schema.clone().unwrap_or_else(|| json!({ "type": "string" }));
        if let (Some(text), Value::Object(schema)) = (&parameter.description, &mut schema) {
            schema.entry("description").or_insert_with(|| json!(text));
        }
        properties.insert(parameter.name.clone(), schema);
        let name = json!(parameter.name);
        if parameter.required && !required.contains(&name) {
            required.push(name);
        }
    }
    let schema = json!({ "type": "object", "properties": properties, "required": required });
    schema.as_object().cloned().unwrap_or_default()
}

/// What an operation is called with, from a tool's arguments.
pub(super) fn inputs(operation: &Operation, arguments: Map<String, Value>) -> InvocationInput {
    let mut input = InvocationInput { headers: BTreeMap::new(), ..InvocationInput::default() };
    let mut body = Map::new();
    for (name, value) in arguments {
        let is_parameter = operation.parameters.iter().any(|p| p.name == name && p.location != Location::Body);
        if is_parameter {
            input.params.insert(name, value);
        } else if name == BODY && operation.mcp_tool.is_none() && body_properties(operation).is_none() {
            input.body = value;
        } else {
            body.insert(name, value);
        }
    }
    if !body.is_empty() {
        input.body = Value::Object(body);
    }
    input
}

#[cfg(test)]
mod tests {
    use symbia_commands::integrations::{builtin::BUILTINS, tool_operation};
    use symbia_events::integrations::{Parameter, RequestBody};

    use super::*;

    fn entry(key: &str, operations: Vec<Operation>) -> Entry {
        Entry { key: key.to_owned(), operations, ..Entry::builtin(&BUILTINS[0]) }
    }

    fn with_id(id: &str) -> Operation {
        Operation { id: id.to_owned(), method: Some("GET".to_owned()), ..Operation::default() }
    }

    #[test]
    fn every_tool_has_a_name_of_its_own_that_clients_take() {
        let long = "x".repeat(100);
        let tool = tool_operation("get_weather", None, json!({ "type": "object" }), None, false);
        let operations = vec![with_id("a.b"), with_id("a_b"), with_id(&long), tool];
        let toolbox = Toolbox::new(vec![entry("my_api", operations)], None, None);
        let names: Vec<&str> = toolbox.tools.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names[0], "my_api_a_b");
        assert!(names[1].starts_with("my_api_a_b_") && names[2].len() <= LONGEST, "{names:?}");
        for (name, _, j) in &toolbox.tools {
            assert_eq!(toolbox.find(name).unwrap().1.id, toolbox.entries[0].operations[*j].id);
        }
        // As older clients have it.
        for older in ["my_api.tool.get_weather", "my_api_tool_get_weather", "my_api_get_weather"] {
            assert_eq!(toolbox.find(older).unwrap().1.id, "tool.get_weather", "{older}");
        }
        assert!(toolbox.find("my_api_none").is_none());
        // Not even that of a digest is given twice.
        let mut taken = HashMap::new();
        let first = name("my_api", &long, &mut taken);
        let second = name("my_api", &long, &mut taken);
        assert!(first != second && second.len() <= LONGEST, "{first} {second}");
    }

    #[test]
    fn a_choice_and_pages_leave_names_as_they_are() {
        let tagged = |id: &str, tag: &str| Operation { tags: vec![tag.to_owned()], ..with_id(id) };
        let entries = || vec![entry("b", vec![tagged("x", "t"), tagged("y", "u")]), entry("a", vec![tagged("x", "u")])];
        let all = Toolbox::new(entries(), None, None);
        let names = |page: Vec<Tool>| page.into_iter().map(|tool| tool.name.into_owned()).collect::<Vec<_>>();
        assert_eq!(names(all.page(0, 2)), ["a_x", "b_x"]);
        assert_eq!(names(all.page(2, 2)), ["b_y"]);
        assert_eq!(names(Toolbox::new(entries(), Some("b"), Some("u, v")).page(0, 9)), ["b_y"]);
        assert_eq!(Toolbox::new(entries(), Some("c"), None).len(), 0);
    }

    #[test]
    fn arguments_go_where_their_operation_wants_them() {
        let parameter = Parameter {
            name: "id".to_owned(),
            location: Location::Path,
            required: true,
            description: None,
            schema: None,
        };
        let body = |schema: Value| RequestBody {
            required: true,
            content_type: "application/json".to_owned(),
            schema: Some(schema),
        };
        let fields = json!({ "type": "object", "required": ["name"], "properties": { "name": { "type": "string" } } });
        let with = |schema| Operation {
            parameters: vec![parameter.clone()],
            request_body: Some(body(schema)),
            ..with_id("x")
        };
        let named = with(fields);
        assert_eq!(Value::Object(takes(&named))["required"], json!(["name", "id"]));
        let given = |value: Value| value.as_object().cloned().unwrap();
        let input = inputs(&named, given(json!({ "id": 1, "name": "n" })));
        assert_eq!((Value::Object(input.params), input.body), (json!({ "id": 1 }), json!({ "name": "n" })));
        let whole = with(json!({ "type": "array" }));
        assert_eq!(Value::Object(takes(&whole))["required"], json!(["body", "id"]));
        assert_eq!(inputs(&whole, given(json!({ "id": 1, "body": [2] }))).body, json!([2]));
    }
}
