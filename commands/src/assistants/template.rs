//! Templates: text with `{{references}}` into a scope (script.md §6). Only what authors write is ever rendered; what
//! people write is data.

use serde_json::Value;
use symbia_events::canonical;

use super::lookup::walk;

/// Longest template, in bytes.
pub const MAX_TEMPLATE: usize = 256 * 1024;
/// Most references in a template.
pub const MAX_REFERENCES: usize = 1000;
/// Longest text that a template may give, in bytes.
pub const MAX_OUTPUT: usize = 1024 * 1024;

/// Names under which a template finds values; anything else is looked up in `context`. Credentials are never in scope.
const ROOTS: [&str; 9] =
    ["message", "user", "org", "orgId", "conversationId", "conversation", "assistant", "context", "steps"];

/// A rendered template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// References that led nowhere and stand blank.
    pub unresolved: Vec<String>,
}

/// A limit of templates is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The template itself.
    #[error("the template is longer than {MAX_TEMPLATE} bytes")]
    Template,
    /// Its references.
    #[error("the template has more than {MAX_REFERENCES} references")]
    References,
    /// What it gives.
    #[error("the template gives more than {MAX_OUTPUT} bytes")]
    Output,
}

/// Renders a template; `{{{{` stands for `{{`.
pub fn render(template: &str, scope: &Value) -> Result<Rendered, TemplateError> {
    if template.len() > MAX_TEMPLATE {
        return Err(TemplateError::Template);
    }
    let (mut rendered, mut rest, mut references) = (Rendered::default(), template, 0);
    while let Some(at) = rest.find("{{") {
        rendered.text.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("{{{{") {
            rendered.text.push_str("{{");
            rest = after;
        } else if let Some((body, after)) = reference(rest) {
            references += 1;
            match resolve(body.trim(), scope) {
                Some(value) => rendered.text.push_str(&text_of(value)),
                None if body.trim().is_empty() => {}
                None => rendered.unresolved.push(body.trim().to_owned()),
            }
            rest = after;
        } else {
            rendered.text.push('{');
            rest = &rest[1..];
        }
        if references > MAX_REFERENCES {
            return Err(TemplateError::References);
        }
        if rendered.text.len() > MAX_OUTPUT {
            return Err(TemplateError::Output);
        }
    }
    rendered.text.push_str(rest);
    if rendered.text.len() > MAX_OUTPUT { Err(TemplateError::Output) } else { Ok(rendered) }
}

// The body of a reference at the start of the text, and what follows it. A body is not empty and has no `}`.
fn reference(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix("{{")?;
    let end = inner.find('}').filter(|end| *end > 0)?;
    Some((&inner[..end], inner[end..].strip_prefix("}}")?))
}

fn resolve<'a>(reference: &str, scope: &'a Value) -> Option<&'a Value> {
    let found = match reference.strip_prefix('@') {
        Some(reference) => {
            let (namespace, path) = reference.split_once('.').unwrap_or((reference, ""));
            let path = path.split_once('?').map_or(path, |(path, _)| path);
            match (namespace, path) {
                ("org", "" | "id") => scope.get("orgId"),
                ("context" | "message" | "user" | "org" | "assistant", _) => {
                    walk(scope.get(namespace)?, segments(path))
                }
                _ => walk(scope.get("context")?.get(namespace)?, segments(path)),
            }
        }
        None => {
            let segments = segments(reference);
            let from = if ROOTS.contains(segments.first()?) { scope } else { scope.get("context")? };
            walk(from, segments)
        }
    };
    found.filter(|value| !value.is_null())
}

// Names between dots; `[a.b]` is one name, whatever it holds.
fn segments(path: &str) -> Vec<&str> {
    let (mut segments, mut rest) = (Vec::new(), path);
    loop {
        rest = rest.trim_start_matches('.');
        let Some(first) = rest.chars().next() else { return segments };
        if let Some((name, after)) = rest.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
            segments.push(name);
            rest = after;
            continue;
        }
        // A bracket without its end is part of the name.
        let end = rest[first.len_utf8()..].find(['.', '[']).map_or(rest.len(), |at| at + first.len_utf8());
        segments.push(&rest[..end]);
        rest = &rest[end..];
    }
}

// As ECMAScript writes it (script.md §6).
fn text_of(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => {
            canonical::to_vec(value).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
        }
        Value::Array(_) | Value::Object(_) => serde_json::to_string_pretty(value).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn scope() -> Value {
        json!({
            "orgId": "o1", "org": { "id": "o2", "name": "Acme" }, "conversationId": "c1", "token": "secret",
            "user": { "id": "u1", "displayName": "Ann" },
            "message": { "id": "m1", "content": "hi", "metadata": { "k": [1, 2, { "z": 3 }] } },
            "context": { "a": { "b": 1 }, "list": ["x", "y"], "key.with": "dot", "custom": { "v": 9.0 }, "off": false },
            "steps": { "s1": { "result": "ok" } },
        })
    }

    fn text(template: &str) -> String {
        render(template, &scope()).unwrap().text
    }

    #[test]
    fn the_vectors_of_the_specification_hold() {
        let vectors = [
            ("Hello {{@user.displayName}}!", "Hello Ann!"),
            ("{{ @user.displayName }}", "Ann"),
            ("{{user.displayName}}", "Ann"),
            ("{{steps.s1.result}}", "ok"),
            ("{{@org}} {{@org.id}} {{@org.name}}", "o1 o1 Acme"),
            ("{{@message.metadata.k.2.z}} {{@message.metadata.k[2].z}}", "3 3"),
            ("{{@context.[key.with]}}", "dot"),
            ("{{@context.a..b}}", "1"),
            ("{{@context.list.1}}", "y"),
            ("{{@custom.v}}", "9"),
            ("{{@context.off}}", "false"),
            ("{{custom.v}}", "9"),
            ("{{@context.a}}", "{\n  \"b\": 1\n}"),
            ("{{@service.x./y}}{{@bogus.z}}{{@message.content.length}}", ""),
            ("{{orgId}} {{conversationId}}", "o1 c1"),
            ("{{}}", "{{}}"),
            ("{{ }}", ""),
            ("{{é}}{{@context.é[}}", ""),
            ("{{a}b}}, {{@context.a", "{{a}b}}, {{@context.a"),
            ("{{{@user.id}}}", "}"),
            ("{{{{user.id}}", "{{user.id}}"),
            ("{{context.queryCount + 1}}", ""),
        ];
        for (template, expected) in vectors {
            assert_eq!(text(template), expected, "{template}");
        }
    }

    #[test]
    fn what_leads_nowhere_is_blank_and_reported_and_secrets_are_out_of_reach() {
        let rendered = render("a{{user.nope}}b{{token}}c{{@env.PATH}}", &scope()).unwrap();
        assert_eq!(rendered.text, "abc");
        assert_eq!(rendered.unresolved, ["user.nope", "token", "@env.PATH"]);
    }

    #[test]
    fn a_value_is_never_a_template() {
        let scope = json!({ "message": { "content": "{{orgId}}" }, "orgId": "o1" });
        assert_eq!(render("{{message.content}}", &scope).unwrap().text, "{{orgId}}");
    }

    #[test]
    fn limits_hold() {
        assert_eq!(render(&"x".repeat(MAX_TEMPLATE + 1), &scope()), Err(TemplateError::Template));
        assert_eq!(render(&"{{orgId}}".repeat(MAX_REFERENCES + 1), &scope()), Err(TemplateError::References));
        let long = json!({ "message": { "content": "x".repeat(MAX_OUTPUT / 2) } });
        assert_eq!(render(&"{{message.content}}".repeat(3), &long), Err(TemplateError::Output));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(template in "[{}@.\\[\\]a?é ]{0,40}") {
            let _ = render(&template, &scope());
        }
    }
}
