//! JSON schemas without references: what they name is put in their place, as far as there is room.

use serde_json::{Map, Value, json};

/// Deepest schema, and most parts of all schemas of one operation. What goes beyond is any value.
const MAX_DEPTH: usize = 10;
const MAX_PARTS: usize = 400;

/// The schemas of one operation.
pub(super) struct Schemas<'a> {
    document: &'a Value,
    parts: usize,
    // References that are being followed: one within itself is any value.
    open: Vec<&'a str>,
}

impl<'a> Schemas<'a> {
    pub fn new(document: &'a Value) -> Self {
        Schemas { document, parts: 0, open: Vec::new() }
    }

    /// A schema without references.
    pub fn flat(&mut self, schema: &'a Value) -> Value {
        self.part(schema, 0)
    }

    fn part(&mut self, schema: &'a Value, depth: usize) -> Value {
        self.parts += 1;
        if depth > MAX_DEPTH || self.parts > MAX_PARTS {
            return json!({});
        }
        if let Some(pointer) = schema["$ref"].as_str() {
            let target = pointer.strip_prefix('#').and_then(|p| self.document.pointer(p));
            let Some(target) = target.filter(|_| !self.open.contains(&pointer)) else { return json!({}) };
            self.open.push(pointer);
            let flat = self.part(target, depth + 1);
            self.open.pop();
            return flat;
        }
        let Some(members) = schema.as_object() else { return schema.clone() };
        let mut flat = Map::new();
        for (name, value) in members {
            let value = match (name.as_str(), value) {
                ("allOf", _) => continue,
                ("properties" | "patternProperties", Value::Object(properties)) => {
                    let each = properties.iter().map(|(name, schema)| (name.clone(), self.part(schema, depth + 1)));
                    Value::Object(each.collect())
                }
                ("items" | "additionalProperties" | "not", Value::Object(_)) => self.part(value, depth + 1),
                ("oneOf" | "anyOf" | "prefixItems", Value::Array(ways)) => {
                    ways.iter().map(|way| self.part(way, depth + 1)).collect()
                }
                // Long examples are no part of a shape.
                ("example" | "examples" | "xml" | "externalDocs" | "discriminator", _) => continue,
                (extension, _) if extension.starts_with("x-") => continue,
                ("description", Value::String(text)) => json!(super::short(text)),
                _ => value.clone(),
            };
            flat.insert(name.clone(), value);
        }
        for part in members.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            let part = self.part(part, depth + 1);
            merge(&mut flat, part);
        }
        Value::Object(flat)
    }
}

// Both hold: properties and requirements add up; of what is said twice, what was said first stays.
fn merge(into: &mut Map<String, Value>, part: Value) {
    let Value::Object(part) = part else { return };
    for (name, value) in part {
        match (name.as_str(), into.get_mut(&name), value) {
            ("properties", Some(Value::Object(all)), Value::Object(more)) => {
                for (name, schema) in more {
                    all.entry(name).or_insert(schema);
                }
            }
            ("required", Some(Value::Array(all)), Value::Array(more)) => {
                let more: Vec<Value> = more.into_iter().filter(|name| !all.contains(name)).collect();
                all.extend(more);
            }
            (_, None, value) => _ = into.insert(name, value),
            (_, Some(_), _) => {}
        }
    }
}
