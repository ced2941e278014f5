//! Operations as a tree of their names, and looking for them.

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use symbia_events::integrations::Operation;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;

use super::{Integrations, Reader};
use crate::http::{ApiError, ApiResult, Caller, Json, Query, RequestScope, routes};

/// Most results of a search.
const MOST: usize = 200;

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(whole)).routes(routes!(search))
}

/// The tree of operations: a leaf is `{_operation, …}`. Where one path goes on behind another's end, both stand in one place.
pub(super) fn namespace(operations: &[Operation]) -> Value {
    let mut tree = Map::new();
    for operation in operations {
        let mut leaf = Map::from_iter([("_operation".to_owned(), json!(operation.id))]);
        if operation.mcp_tool.is_some() {
            leaf.insert("_mcp".to_owned(), json!(true));
        } else if let (Some(method), Some(path)) = (&operation.method, &operation.path) {
            leaf.extend([("_method".to_owned(), json!(method)), ("_path".to_owned(), json!(path))]);
        }
        for path in [&operation.id].into_iter().chain(&operation.aliases) {
            plant(&mut tree, path, &leaf);
        }
    }
    Value::Object(tree)
}

fn plant(tree: &mut Map<String, Value>, path: &str, leaf: &Map<String, Value>) {
    let mut node = tree;
    for word in path.split('.') {
        let below = node.entry(word).or_insert_with(|| json!({}));
        let Value::Object(below) = below else { return };
        node = below;
    }
    for (name, value) in leaf {
        node.entry(name).or_insert_with(|| value.clone());
    }
}

/// Read all operations as a tree
#[utoipa::path(get, path = "/integrations/namespace", tag = "Registry",
    responses((status = 200, description = "A tree for each integration, its leaves with `_operation`", body = Object)))]
async fn whole(State(service): State<Integrations>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Value>> {
    let entries = service.entries(&Reader::new(&caller, &scope)?).await?;
    let trees: Map<String, Value> =
        entries.iter().map(|entry| (entry.key.clone(), namespace(&entry.operations))).collect();
    Ok(Json(json!({ "integrations": trees })))
}

/// What to look for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Search {
    /// Exactly this tag.
    tag: Option<String>,
    /// These letters in id, summary, description or tags.
    q: Option<String>,
}

/// Look for operations
#[utoipa::path(get, path = "/integrations/operations/search", tag = "Registry", params(Search),
    responses((status = 200, description = "At most 200 operations, each with its integration", body = Object),
        (status = 400, description = "Neither tag nor q")))]
async fn search(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Query(search): Query<Search>,
) -> ApiResult<Json<Value>> {
    let letters = search.q.map(|q| q.to_lowercase());
    if search.tag.is_none() && letters.is_none() {
        return Err(ApiError::invalid("q", "required", "is required, or tag"));
    }
    let matches = |operation: &Operation| match (&search.tag, &letters) {
        (Some(tag), _) => operation.tags.contains(tag),
        (None, Some(letters)) => [&Some(operation.id.clone()), &operation.summary, &operation.description]
            .into_iter()
            .flatten()
            .chain(&operation.tags)
            .any(|text| text.to_lowercase().contains(letters.as_str())),
        (None, None) => false,
    };
    let mut results = Vec::new();
    for entry in service.entries(&Reader::new(&caller, &scope)?).await? {
        for operation in entry.operations.iter().filter(|operation| matches(operation)) {
            results.push(json!({ "integrationKey": entry.key, "integration": entry.key, "operation": operation }));
        }
    }
    results.truncate(MOST);
    Ok(Json(json!({ "results": results })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_an_operation_leads_to_it() {
        let operation = |id: &str, aliases: &[&str]| Operation {
            id: id.to_owned(),
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            method: Some("GET".to_owned()),
            path: Some("/x".to_owned()),
            ..Operation::default()
        };
        let tree = namespace(&[operation("a.b", &["c"]), operation("a.b.d", &[])]);
        assert_eq!(tree["a"]["b"]["_operation"], "a.b");
        assert_eq!(tree["a"]["b"]["d"]["_operation"], "a.b.d");
        assert_eq!(tree["c"], json!({ "_operation": "a.b", "_method": "GET", "_path": "/x" }));
    }
}
