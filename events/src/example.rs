//! Example payloads made from a schema: for golden files and the published documents. The same every time.

use serde_json::{Map, Value, json};

/// The time in examples.
pub const TIME: &str = "2026-01-01T00:00:00Z";
/// The id in examples.
pub const ID: &str = "019b76da-a800-7000-8000-000000000001";
// Nesting beyond this is left out: a schema may contain itself.
const DEEPEST: usize = 16;

/// A value that fits the schema of a message's data.
#[must_use]
pub fn example(schema: &schemars::Schema) -> Value {
    let root = schema.as_value();
    of(root, root, "", 0)
}

fn of(root: &Value, schema: &Value, name: &str, depth: usize) -> Value {
    if depth > DEEPEST {
        return Value::Null;
    }
    if let Some(target) = schema["$ref"].as_str() {
        let target = target.trim_start_matches('#');
        return root.pointer(target).map_or(Value::Null, |target| of(root, target, name, depth + 1));
    }
    if let Some(constant) = schema.get("const") {
        return constant.clone();
    }
    if let Some(first) = schema["enum"].as_array().and_then(|values| values.first()) {
        return first.clone();
    }
    for choice in ["anyOf", "oneOf", "allOf"] {
        let some = |choices: &'_ Vec<Value>| choices.iter().find(|c| c["type"] != "null").cloned();
        if let Some(first) = schema[choice].as_array().and_then(some) {
            return of(root, &first, name, depth + 1);
        }
    }
    let kinds = schema["type"].as_array().map_or_else(|| vec![&schema["type"]], |kinds| kinds.iter().collect());
    match kinds.into_iter().filter_map(Value::as_str).find(|kind| *kind != "null") {
        Some("object") => object(root, schema, depth),
        Some("array") => match schema.get("items") {
            Some(items) => json!([of(root, items, name, depth + 1)]),
            None => json!([]),
        },
        Some("integer") => schema["minimum"].as_i64().filter(|least| *least > 7).map_or(json!(7), |least| json!(least)),
        Some("number") => json!(0.5),
        Some("boolean") => json!(true),
        Some("string") => text(schema, name),
        _ => json!({}),
    }
}

fn object(root: &Value, schema: &Value, depth: usize) -> Value {
    let mut object = Map::new();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        object.insert(name.clone(), of(root, field, name, depth + 1));
    }
    if let Some(values) = schema.get("additionalProperties").filter(|v| v.is_object()) {
        object.insert("key".to_owned(), of(root, values, "value", depth + 1));
    }
    Value::Object(object)
}

fn text(schema: &Value, name: &str) -> Value {
    match schema["format"].as_str() {
        Some("uuid") => json!(ID),
        Some("date-time") => json!(TIME),
        Some("date") => json!("2026-01-01"),
        Some("uri") => json!("https://example.com/"),
        // A sealed field: "Ada Lovelace" under the key `subject-1` of 32 bytes 7.
        _ => match name {
            "kid" => json!("subject-1"),
            "alg" => json!("A256GCM"),
            "nonce" => json!("tbY5cJ6xXOeEb3Ee"),
            "ct" => json!("C_pSj2DXwqWXi4tdq3F3BtGCKpJbVnZrNckMsQ"),
            name if name.ends_with("At") || name.ends_with("Through") => json!(TIME),
            name => json!(name),
        },
    }
}
