//! Moderation as OpenAI's API has it: `POST /moderations`.

use serde_json::{Value, json};
use symbia_events::integrations::{ModerationInput, ModerationOutput, PromptPart};

use super::super::provider::{Moderated, Moderating};

/// A request.
pub(super) fn body(moderating: &Moderating<'_>) -> Value {
    let part = |part: &PromptPart| match part {
        PromptPart::Text { text } => json!({ "type": "text", "text": text }),
        PromptPart::Image { url } => json!({ "type": "image_url", "image_url": { "url": url } }),
    };
    let input = match moderating.input {
        ModerationInput::One(text) => json!(text),
        ModerationInput::Many(texts) => json!(texts),
        ModerationInput::Parts(parts) => parts.iter().map(part).collect(),
    };
    json!({ "model": moderating.model, "input": input })
}

/// What was found, in the provider's own words; none: the answer is none.
pub(super) fn moderated(said: &Value, moderating: &Moderating<'_>) -> Option<Moderated> {
    let results = said["results"].as_array()?;
    let expected = match moderating.input {
        ModerationInput::Many(texts) => texts.len(),
        // All parts are one thing to look at.
        ModerationInput::One(_) | ModerationInput::Parts(_) => 1,
    };
    if results.len() != expected || !results.iter().all(|result| result["flagged"].is_boolean()) {
        return None;
    }
    Some(Moderated {
        model: said["model"].as_str().unwrap_or(moderating.model).to_owned(),
        output: ModerationOutput { id: said["id"].as_str().map(str::to_owned), results: results.clone() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_pictures_are_sent_as_they_came_and_an_answer_has_a_result_for_each() {
        let picture = "https://example.test/1.png";
        let parts = ModerationInput::Parts(vec![
            PromptPart::Text { text: "x".into() },
            PromptPart::Image { url: picture.into() },
        ]);
        let many = ModerationInput::Many(vec!["x".into(), "y".into()]);
        let of = |input| Moderating { org: "o", model: "m", input };
        let sent = json!([{ "type": "text", "text": "x" }, { "type": "image_url", "image_url": { "url": picture } }]);
        assert_eq!(body(&of(&parts)), json!({ "model": "m", "input": sent }));
        assert_eq!(body(&of(&many)), json!({ "model": "m", "input": ["x", "y"] }));
        let result = json!({ "flagged": true, "categories": { "hate": true } });
        let said = json!({ "id": "modr-1", "model": "omni", "results": [result] });
        assert_eq!(moderated(&said, &of(&parts)).unwrap().output.results, [result]);
        assert_eq!(moderated(&said, &of(&many)), None);
        for none in [json!({}), json!({ "results": [] }), json!({ "results": [{ "flagged": "yes" }] })] {
            assert_eq!(moderated(&none, &of(&parts)), None, "{none}");
        }
    }
}
