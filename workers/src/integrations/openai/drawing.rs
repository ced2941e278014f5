//! Pictures as OpenAI's images API asks for them and gives them.

use std::time::Duration;

use serde_json::{Value, json};
use symbia_events::integrations::{Picture, Usage};

use super::super::provider::{Drawing, Drawn};

/// Longest answer in bytes.
pub(super) const MAX_BODY: usize = 32 * 1024 * 1024;
/// How long a model may be silent over its pictures.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// A request. Nothing is sent that was not asked for.
pub(super) fn body(drawing: &Drawing<'_>) -> Value {
    let shape = drawing.shape;
    let mut body = json!({ "model": drawing.model, "prompt": drawing.text, "n": drawing.count });
    // These models give files only, and take the field for a mistake.
    let response_format = shape.response_format.as_ref().filter(|_| !drawing.model.starts_with("gpt-image"));
    for (name, value) in [
        ("size", &shape.size),
        ("quality", &shape.quality),
        ("style", &shape.style),
        ("background", &shape.background),
        ("output_format", &shape.output_format),
        ("response_format", &response_format.cloned()),
    ] {
        if let Some(value) = value {
            body[name] = json!(value);
        }
    }
    if let Some(kept) = shape.output_compression {
        body["output_compression"] = json!(kept);
    }
    body
}

/// What was drawn; none: the answer is none.
pub(super) fn drawn(said: &Value, drawing: &Drawing<'_>) -> Option<Drawn> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let picture = |item: &Value| {
        let (url, b64_json) = (text(&item["url"]), text(&item["b64_json"]));
        (url.is_some() || b64_json.is_some()).then(|| Picture {
            url,
            b64_json,
            revised_prompt: text(&item["revised_prompt"]),
        })
    };
    let pictures: Vec<Picture> = said["data"].as_array()?.iter().map(picture).collect::<Option<_>>()?;
    let tokens = |name: &str| said["usage"][name].as_u64().unwrap_or(0);
    let (prompt_tokens, completion_tokens) = (tokens("input_tokens"), tokens("output_tokens"));
    let total_tokens = prompt_tokens + completion_tokens;
    let usage = Usage { prompt_tokens, completion_tokens, total_tokens, ..Usage::default() };
    (!pictures.is_empty()).then(|| Drawn { model: drawing.model.to_owned(), pictures, usage })
}

#[cfg(test)]
mod tests {
    use symbia_events::integrations::ImageShape;

    use super::*;

    #[test]
    fn what_was_asked_for_is_sent_and_nothing_else() {
        let shape = ImageShape {
            size: Some("1024x1024".into()),
            response_format: Some("url".into()),
            output_compression: Some(50),
            ..ImageShape::default()
        };
        let asked = |model| body(&Drawing { org: "o", model, text: "a kingfisher", count: 2, shape: &shape });
        let expected = json!({ "model": "dall-e-2", "prompt": "a kingfisher", "n": 2, "size": "1024x1024",
            "response_format": "url", "output_compression": 50 });
        assert_eq!(asked("dall-e-2"), expected);
        assert!(asked("gpt-image-1").get("response_format").is_none());
    }

    #[test]
    fn pictures_are_read_by_address_and_whole_and_nothing_is_no_picture() {
        let drawing = Drawing { org: "o", model: "m", text: "x", count: 1, shape: &ImageShape::default() };
        let said = json!({ "data": [{ "url": "https://x/y.png", "revised_prompt": "z" }, { "b64_json": "aGk=" }],
            "usage": { "input_tokens": 10, "output_tokens": 1056, "total_tokens": 1066 } });
        let read = drawn(&said, &drawing);
        assert!(read.is_some_and(|read| read.pictures.len() == 2 && read.usage.total_tokens == 1066));
        for none in [json!({}), json!({ "data": [] }), json!({ "data": [{}] }), json!({ "data": [{ "url": 1 }] })] {
            assert_eq!(drawn(&none, &drawing), None, "{none}");
        }
    }
}
