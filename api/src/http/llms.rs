//! `llms.txt` and `llms-full.txt`: the OpenAPI document as text for language models (platform.md §11).

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::discovery::ServiceInfo;

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];
const LINKS: &str = "## Documentation\n\n\
    - OpenAPI: /docs/openapi.json\n- Summary: /docs/llms.txt\n- Complete documentation: /docs/llms-full.txt\n";
/// Bounds the expansion of schemas that contain themselves.
const DEPTH_MAX: usize = 5;

/// One operation of the document.
struct Operation<'d> {
    method: String,
    path: String,
    tag: &'d str,
    item: &'d Value,
    value: &'d Value,
}

/// The short document: what the service is and one line per operation.
pub(super) fn short(info: &ServiceInfo, document: &Value) -> String {
    let mut out = format!("# {}\n\n> {}\n\n", info.title, info.description.lines().next().unwrap_or_default());
    overview(&mut out, info);
    out.push_str("## API Base URL\n\n`/api`\n\n## Quick Reference\n\n");
    for Operation { method, path, value, .. } in operations(document) {
        let _ = writeln!(out, "- {method} {path} - {}", text(value, "summary"));
    }
    out.push('\n');
    list(&mut out, "Authentication", &info.authentication);
    headers(&mut out, document);
    list(&mut out, "Rate Limits", &info.rate_limits);
    out + LINKS
}

/// The complete document: every operation with parameters and examples, and the data models.
pub(super) fn full(info: &ServiceInfo, document: &Value) -> String {
    let mut out = format!("# {} - Complete Documentation\n\n{}\n\n", info.title, info.description);
    overview(&mut out, info);
    headers(&mut out, document);
    out.push_str("## API Reference\n\n");
    let operations: Vec<_> = operations(document).collect();
    for tag in tags(document, &operations) {
        let _ = writeln!(out, "### {tag}\n");
        operations.iter().filter(|o| o.tag == tag).for_each(|o| operation(&mut out, document, o));
    }
    out.push_str("## Data Models\n\n");
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        let body = match schema.get("properties") {
            Some(_) => format!("interface {name} {}", typescript(schema)),
            None => format!("type {name} = {};", typescript(schema)),
        };
        let _ = writeln!(out, "```typescript\n{body}\n```\n");
    }
    list(&mut out, "Rate Limits", &info.rate_limits);
    list(&mut out, "Authentication", &info.authentication);
    for (title, text) in &info.sections {
        let _ = writeln!(out, "## {title}\n\n{text}\n");
    }
    out + LINKS
}

fn overview(out: &mut String, info: &ServiceInfo) {
    let _ = writeln!(out, "## Overview\n\n{}\n", info.description);
    bullets(out, &info.highlights);
}

fn list(out: &mut String, title: &str, lines: &[String]) {
    if !lines.is_empty() {
        let _ = writeln!(out, "## {title}\n");
        bullets(out, lines);
    }
}

fn bullets(out: &mut String, lines: &[String]) {
    for line in lines {
        let _ = writeln!(out, "- {line}");
    }
    if !lines.is_empty() {
        out.push('\n');
    }
}

fn headers(out: &mut String, document: &Value) {
    let lines: Vec<_> = document["components"]["parameters"]
        .as_object()
        .into_iter()
        .flat_map(Map::values)
        .filter(|p| p["in"] == "header")
        .map(|p| format!("`{}`: {}", text(p, "name"), text(p, "description")))
        .collect();
    list(out, "Custom Headers", &lines);
}

fn operations(document: &Value) -> impl Iterator<Item = Operation<'_>> {
    document["paths"].as_object().into_iter().flatten().flat_map(|(path, item)| {
        let prefix = if item.get("servers").is_some() { "" } else { "/api" };
        METHODS.into_iter().filter_map(move |method| {
            let value = item.get(method)?;
            let tag = value["tags"][0].as_str().unwrap_or("General");
            Some(Operation { method: method.to_uppercase(), path: format!("{prefix}{path}"), tag, item, value })
        })
    })
}

/// Tags in their declared order, then the rest alphabetically.
fn tags<'d>(document: &'d Value, operations: &[Operation<'d>]) -> Vec<&'d str> {
    let mut used: Vec<_> = operations.iter().map(|o| o.tag).collect();
    used.sort_unstable();
    used.dedup();
    let declared: Vec<_> =
        document["tags"].as_array().into_iter().flatten().filter_map(|t| t["name"].as_str()).collect();
    used.sort_by_key(|tag| declared.iter().position(|d| d == tag).unwrap_or(declared.len()));
    used
}

fn operation(out: &mut String, document: &Value, Operation { method, path, item, value, .. }: &Operation<'_>) {
    let _ = writeln!(out, "#### {method} {path}\n");
    for key in ["summary", "description"] {
        let text = text(value, key);
        if !text.is_empty() {
            let _ = writeln!(out, "{text}\n");
        }
    }
    let parameters: Vec<_> = [&value["parameters"], &item["parameters"]]
        .into_iter()
        .flat_map(|list| list.as_array().into_iter().flatten())
        .map(|p| resolve(document, p))
        .collect();
    for (place, title) in [("path", "Path parameters"), ("query", "Query parameters")] {
        let lines: Vec<_> = parameters.iter().filter(|p| p["in"] == place).map(|p| parameter(p)).collect();
        if !lines.is_empty() {
            let _ = writeln!(out, "{title}:\n");
            bullets(out, &lines);
        }
    }
    let body = resolve(document, &value["requestBody"]);
    if let Some(schema) = body["content"]["application/json"].get("schema") {
        let example = serde_json::to_string_pretty(&example(document, schema, 0)).unwrap_or_default();
        let _ = writeln!(out, "Request body:\n\n```json\n{example}\n```\n");
    }
    for (status, response) in value["responses"].as_object().into_iter().flatten().filter(|(s, _)| s.starts_with('2')) {
        let _ = writeln!(out, "Response {status}: {}\n", text(resolve(document, response), "description"));
    }
}

fn parameter(parameter: &Value) -> String {
    let optional = if parameter["required"] == true { "" } else { ", optional" };
    let described = text(parameter, "description");
    let separator = if described.is_empty() { "" } else { ": " };
    format!("`{}` ({}{optional}){separator}{described}", text(parameter, "name"), typescript(&parameter["schema"]))
}

/// Follows a reference within the document.
fn resolve<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    let target = value.get("$ref").and_then(Value::as_str).and_then(|r| document.pointer(r.strip_prefix('#')?));
    target.unwrap_or(value)
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

/// The first type that is not null.
fn kind(schema: &Value) -> &str {
    match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).find(|k| *k != "null").unwrap_or_default(),
        other => other.as_str().unwrap_or(if schema.get("properties").is_some() { "object" } else { "" }),
    }
}

fn alternatives(schema: &Value) -> Option<&Vec<Value>> {
    ["oneOf", "anyOf"].into_iter().find_map(|key| schema[key].as_array())
}

fn example(document: &Value, schema: &Value, depth: usize) -> Value {
    let schema = resolve(document, schema);
    let given = schema.get("example").or_else(|| schema["examples"].get(0)).or_else(|| schema.get("default"));
    if let Some(given) = given.or_else(|| schema["enum"].get(0)).or_else(|| schema.get("const")) {
        return given.clone();
    }
    if depth == DEPTH_MAX {
        return Value::Null;
    }
    let nested = |inner: &Value| example(document, inner, depth + 1);
    if let Some(options) = alternatives(schema) {
        return options.iter().find(|o| o["type"] != "null").map_or(Value::Null, nested);
    }
    if let Some(parts) = schema["allOf"].as_array() {
        let objects = parts.iter().map(nested).filter_map(|v| v.as_object().cloned());
        return Value::Object(objects.flatten().collect());
    }
    match (kind(schema), text(schema, "format")) {
        ("object", _) => {
            let fields = schema["properties"].as_object().into_iter().flatten();
            Value::Object(fields.map(|(name, inner)| (name.clone(), nested(inner))).collect())
        }
        ("array", _) => json!([nested(&schema["items"])]),
        ("integer", _) => schema.get("minimum").cloned().unwrap_or(json!(1)),
        ("number", _) => json!(1.0),
        ("boolean", _) => json!(true),
        ("string", "uuid") => json!("00000000-0000-0000-0000-000000000000"),
        ("string", "date-time") => json!("2026-01-01T00:00:00Z"),
        ("string", "email") => json!("user@example.com"),
        ("string", "uri") => json!("https://example.com"),
        ("string", _) => json!("string"),
        _ => json!({}),
    }
}

/// The schema in TypeScript's notation; references by name.
fn typescript(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        return reference.rsplit('/').next().unwrap_or("unknown").to_owned();
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(Value::to_string).collect::<Vec<_>>().join(" | ");
    }
    if let Some(options) = alternatives(schema) {
        return options.iter().map(typescript).collect::<Vec<_>>().join(" | ");
    }
    if let Some(parts) = schema["allOf"].as_array() {
        return parts.iter().map(typescript).collect::<Vec<_>>().join(" & ");
    }
    let base = match kind(schema) {
        "object" => object(schema),
        "array" => format!("Array<{}>", typescript(&schema["items"])),
        "integer" | "number" => "number".to_owned(),
        known @ ("string" | "boolean" | "null") => known.to_owned(),
        _ => "unknown".to_owned(),
    };
    let nullable = schema["type"].as_array().is_some_and(|kinds| kinds.iter().any(|k| k == "null"));
    if nullable { format!("{base} | null") } else { base }
}

fn object(schema: &Value) -> String {
    let Some(properties) = schema["properties"].as_object() else {
        let values = schema.get("additionalProperties").filter(|v| v.is_object());
        return format!("Record<string, {}>", values.map_or("unknown".to_owned(), typescript));
    };
    let required = |name: &String| schema["required"].as_array().is_some_and(|r| r.iter().any(|n| n == name));
    let mut out = String::from("{\n");
    for (name, inner) in properties {
        let comment = text(inner, "description").lines().next().unwrap_or_default();
        let comment = if comment.is_empty() { String::new() } else { format!(" // {comment}") };
        let mark = if required(name) { "" } else { "?" };
        let _ = writeln!(out, "  {name}{mark}: {};{comment}", typescript(inner).replace('\n', "\n  "));
    }
    out + "}"
}
