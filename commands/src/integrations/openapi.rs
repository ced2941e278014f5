//! From an OpenAPI document to operations (integrations.md §12.1): 3.x, and Swagger 2 read as such.
//!
//! Pure, and lenient towards what it does not need: vendors' documents are seldom valid throughout. What it takes is bounded,
//! since a document of a few lines can describe a tree without end.

mod names;
mod schemas;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use symbia_events::integrations::{Location, Operation, Parameter, RequestBody};

pub use self::names::{operation_of_path, operation_path};
use self::schemas::Schemas;
use super::{MAX_OPERATION_BYTES, MAX_OPERATIONS};

/// The methods of operations.
pub const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
/// Longest text that is kept of a description.
const MAX_TEXT: usize = 1000;

/// Largest document.
pub const MAX_DOCUMENT: usize = 10 * 1024 * 1024;

/// Why a document cannot be imported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// It is neither JSON nor YAML, or too deep.
    #[error("it is neither JSON nor YAML that can be read: {0}")]
    Unreadable(String),
    /// It is longer than what is read.
    #[error("it is longer than {MAX_DOCUMENT} bytes")]
    TooLong,
    /// It is something else.
    #[error("this is no OpenAPI document: it has neither 'openapi' nor 'swagger', or no 'paths'")]
    NotOpenApi,
    /// A version that is not read.
    #[error("OpenAPI {0} is not read: 3.0, 3.1 and Swagger 2.0 are")]
    Version(String),
    /// Too many operations.
    #[error("it describes more than {MAX_OPERATIONS} operations: register a part of it")]
    TooMany,
    /// Too much to keep.
    #[error("its operations take {0} bytes, the limit is {MAX_OPERATION_BYTES}: register a part of it")]
    TooLarge(usize),
}

/// What a document describes.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// `info.title`.
    pub title: String,
    /// `info.version`.
    pub version: String,
    /// `info.description`.
    pub description: Option<String>,
    /// Where it is called: an absolute URL, or a path when nothing tells the host.
    pub server_url: Option<String>,
    /// `bearer`, `apiKey`, `basic`, `oauth2` or `none`: the first scheme that is one of these.
    pub auth_type: &'static str,
    /// What can be called.
    pub operations: Vec<Operation>,
}

/// Reads a document: JSON when it begins like it, else YAML. Depth, aliases and anchors are bounded by the parsers.
///
/// # Errors
/// It is neither, or too long.
pub fn parse(document: &[u8]) -> Result<Value, ImportError> {
    if document.len() > MAX_DOCUMENT {
        return Err(ImportError::TooLong);
    }
    let unreadable = |error: &dyn std::fmt::Display| {
        let error = error.to_string();
        ImportError::Unreadable(error.lines().next().unwrap_or_default().chars().take(200).collect())
    };
    let text = str::from_utf8(document).map_err(|e| unreadable(&e))?;
    let text = text.trim_start_matches('\u{feff}');
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|e| unreadable(&e));
    }
    serde_saphyr::from_str(text).map_err(|e| unreadable(&e))
}

/// Imports a document. `server` is a server of the caller's choice, `came_from` the URL that the document was read from.
///
/// # Errors
/// It is no OpenAPI document, of a version that is not read, or too large.
pub fn import(document: &Value, server: Option<&str>, came_from: Option<&str>) -> Result<Imported, ImportError> {
    let legacy = match (document["openapi"].as_str(), document["swagger"].as_str()) {
        (Some(version), _) if version.starts_with("3.") => false,
        (_, Some("2.0")) => true,
        (Some(other), _) | (_, Some(other)) => return Err(ImportError::Version(other.chars().take(20).collect())),
        (None, None) => return Err(ImportError::NotOpenApi),
    };
    let paths = document["paths"].as_object().ok_or(ImportError::NotOpenApi)?;
    let (mut operations, mut taken) = (Vec::new(), BTreeSet::new());
    for (path, item) in paths {
        let reading = Reading { document, legacy };
        let item = reading.resolved(item);
        for method in METHODS {
            let Some(described) = item.get(method.to_lowercase()).filter(|described| described.is_object()) else {
                continue;
            };
            if operations.len() == MAX_OPERATIONS {
                return Err(ImportError::TooMany);
            }
            let mut operation = reading.operation(path, method, item, described);
            operation.id = names::free(&operation.id, &mut taken);
            operations.push(operation);
        }
    }
    let bytes = serde_json::to_vec(&operations).map_or(usize::MAX, |json| json.len());
    if bytes > MAX_OPERATION_BYTES {
        return Err(ImportError::TooLarge(bytes));
    }
    let info = |name: &str| document["info"][name].as_str().map(short);
    Ok(Imported {
        title: info("title").unwrap_or_default(),
        version: info("version").unwrap_or_default(),
        description: info("description"),
        server_url: names::server(document, legacy, server, came_from),
        auth_type: auth_type(document, legacy),
        operations,
    })
}

fn short(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn auth_type(document: &Value, legacy: bool) -> &'static str {
    let schemes = if legacy { &document["securityDefinitions"] } else { &document["components"]["securitySchemes"] };
    let known = |scheme: &Value| {
        let how = scheme["scheme"].as_str().unwrap_or_default().to_lowercase();
        match (scheme["type"].as_str().unwrap_or_default(), how.as_str()) {
            ("http", "bearer") => Some("bearer"),
            ("apiKey", _) => Some("apiKey"),
            ("http", "basic") | ("basic", _) => Some("basic"),
            ("oauth2", _) => Some("oauth2"),
            _ => None,
        }
    };
    let found: BTreeSet<&str> =
        schemes.as_object().into_iter().flat_map(|all| all.values()).filter_map(known).collect();
    ["bearer", "apiKey", "basic", "oauth2"].into_iter().find(|kind| found.contains(kind)).unwrap_or("none")
}

/// A document that is being read.
struct Reading<'a> {
    document: &'a Value,
    legacy: bool,
}

impl<'a> Reading<'a> {
    // What a reference within the document leads to; one that leads nowhere is nothing.
    fn resolved(&self, mut value: &'a Value) -> &'a Value {
        for _ in 0..16 {
            let Some(pointer) = value["$ref"].as_str() else { return value };
            value = pointer.strip_prefix('#').and_then(|p| self.document.pointer(p)).unwrap_or(&Value::Null);
        }
        &Value::Null
    }

    fn operation(&self, path: &str, method: &str, item: &'a Value, described: &'a Value) -> Operation {
        let mut schemas = Schemas::new(self.document);
        let source_id = described["operationId"].as_str();
        let text = |name: &str| described[name].as_str().map(short);
        let tags = described["tags"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let parameters = self.parameters(item, described, &mut schemas);
        let request_body = match self.legacy {
            true => self.legacy_body(item, described, &mut schemas),
            false => self.body(described, &mut schemas),
        };
        Operation {
            id: source_id.map_or_else(|| operation_of_path(path, method), operation_path),
            aliases: Vec::new(),
            operation_id: source_id.map(str::to_owned),
            method: Some(method.to_owned()),
            path: Some(path.split(['?', '#']).next().unwrap_or_default().to_owned()),
            summary: text("summary"),
            description: text("description"),
            tags: tags.map(str::to_owned).collect(),
            deprecated: described["deprecated"] == true,
            parameters,
            request_body,
            response_schema: self.response(described, &mut schemas),
            mcp_tool: None,
        }
    }

    // Those of the path, then those of the operation, which win.
    fn described_parameters(&self, item: &'a Value, described: &'a Value) -> Vec<&'a Value> {
        let mut found = BTreeMap::new();
        let mut order = Vec::new();
        for parameter in [item, described].into_iter().filter_map(|of| of["parameters"].as_array()).flatten() {
            let parameter = self.resolved(parameter);
            let (Some(name), Some(place)) = (parameter["name"].as_str(), parameter["in"].as_str()) else { continue };
            if found.insert((place, name), parameter).is_none() {
                order.push((place, name));
            }
        }
        order.into_iter().filter_map(|key| found.get(&key).copied()).collect()
    }

    fn parameters(&self, item: &'a Value, described: &'a Value, schemas: &mut Schemas<'a>) -> Vec<Parameter> {
        let parameter = |parameter: &'a Value| {
            let location = match parameter["in"].as_str()? {
                "path" => Location::Path,
                "query" => Location::Query,
                "header" => Location::Header,
                "cookie" => Location::Cookie,
                _ => return None,
            };
            let schema = match parameter.get("schema") {
                Some(schema) => Some(schemas.flat(schema)),
                // In Swagger 2 a parameter is its own schema.
                None => self.legacy.then(|| own_schema(parameter)),
            };
            Some(Parameter {
                name: parameter["name"].as_str()?.to_owned(),
                location,
                required: location == Location::Path || parameter["required"] == true,
                description: parameter["description"].as_str().map(short),
                schema,
            })
        };
        self.described_parameters(item, described).into_iter().filter_map(parameter).collect()
    }

    fn body(&self, described: &'a Value, schemas: &mut Schemas<'a>) -> Option<RequestBody> {
        let body = self.resolved(&described["requestBody"]);
        let content = body["content"].as_object()?;
        let kinds = ["application/json", "multipart/form-data", "application/x-www-form-urlencoded"];
        let preferred = kinds.into_iter().find_map(|kind| content.get_key_value(kind));
        let json = || content.iter().find(|(kind, _)| kind.split(';').next().is_some_and(|k| k.ends_with("+json")));
        let (content_type, media) = preferred.or_else(json).or_else(|| content.iter().next())?;
        let schema = media.get("schema").map(|schema| schemas.flat(schema));
        Some(RequestBody { required: body["required"] == true, content_type: content_type.clone(), schema })
    }

    // In Swagger 2 the body is a parameter, and a form several.
    fn legacy_body(&self, item: &'a Value, described: &'a Value, schemas: &mut Schemas<'a>) -> Option<RequestBody> {
        let parameters = self.described_parameters(item, described);
        if let Some(body) = parameters.iter().find(|parameter| parameter["in"] == "body") {
            let schema = Some(schemas.flat(&body["schema"]));
            return Some(RequestBody { required: body["required"] == true, content_type: JSON.to_owned(), schema });
        }
        let fields: Vec<&&Value> = parameters.iter().filter(|parameter| parameter["in"] == "formData").collect();
        if fields.is_empty() {
            return None;
        }
        let named = |field: &&&Value| Some((field["name"].as_str()?.to_owned(), own_schema(field)));
        let properties: serde_json::Map<String, Value> = fields.iter().filter_map(named).collect();
        let required: Vec<&Value> = fields.iter().filter(|f| f["required"] == true).map(|f| &f["name"]).collect();
        let files = fields.iter().any(|field| field["type"] == "file");
        let content_type = if files { "multipart/form-data" } else { "application/x-www-form-urlencoded" };
        let schema = serde_json::json!({ "type": "object", "properties": properties, "required": required });
        Some(RequestBody {
            required: !required.is_empty(),
            content_type: content_type.to_owned(),
            schema: Some(schema),
        })
    }

    fn response(&self, described: &'a Value, schemas: &mut Schemas<'a>) -> Option<Value> {
        let good =
            ["200", "201", "2XX", "default"].into_iter().find_map(|status| described["responses"].get(status))?;
        let response = self.resolved(good);
        let schema = if self.legacy { response.get("schema") } else { response["content"][JSON].get("schema") };
        schema.map(|schema| schemas.flat(schema))
    }
}

const JSON: &str = "application/json";

fn own_schema(parameter: &Value) -> Value {
    let kept = ["type", "format", "enum", "items", "default", "minimum", "maximum", "pattern", "description"];
    let kept = kept.into_iter().filter_map(|name| Some((name.to_owned(), parameter.get(name)?.clone())));
    Value::Object(kept.collect())
}
