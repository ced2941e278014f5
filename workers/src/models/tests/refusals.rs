//! What cannot be answered is refused with what is wrong with it, and the engine goes on.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_beyond_the_context_is_told_how_many_tokens_it_has_too_many() {
    let (_service, handle) = start(|options| options.context_tokens = 128);
    let refused = async |words: usize| failure(answer(&handle, ask(&"word ".repeat(words))).await.1);
    let told = async |words: usize| {
        let refused = refused(words).await;
        let FailureKind::PromptTooLong { tokens, limit } = refused.kind else { panic!("{refused:?}") };
        let says = format!("the prompt has {tokens} tokens, {} more than the {limit}", tokens - limit);
        assert!(limit == 127 && refused.message.contains(&says), "{refused}");
        tokens
    };
    // Exact: each word more is as many tokens more.
    let (first, second, third) = (told(200).await, told(201).await, told(202).await);
    assert!(first < second && second - first == third - second, "{first} {second} {third}");
    let endless = refused(1_000_000).await;
    assert!(endless.message.contains("at least"), "far too much is not counted to its end: {endless}");
    assert_eq!(answer(&handle, ask("what is 2+2?")).await.0, "2 + 2 = 4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grammar_or_schema_that_nothing_can_match_is_refused() {
    let (_service, handle) = start(|_| {});
    for format in [
        Format::Grammar("root ::= root \"a\"".into()),
        Format::Schema(serde_json::json!({ "type": "integer", "minimum": 5, "maximum": 3 })),
        Format::Schema(serde_json::json!({ "allOf": [{ "type": "string" }, { "type": "integer" }] })),
        Format::Schema(serde_json::json!({ "enum": [] })),
    ] {
        let request = Request { format: format.clone(), max_tokens: Some(40), ..ask("hello") };
        let ended = tokio::time::timeout(Duration::from_secs(60), answer(&handle, request)).await.unwrap().1;
        let refused = failure(ended);
        assert_eq!(refused.kind, FailureKind::InvalidFormat, "{format:?}: {refused}");
        assert!(!refused.message.is_empty() && handle.status().await.totals.active == 0, "{refused}");
    }
    assert_eq!(answer(&handle, ask("what is 2+2?")).await.0, "2 + 2 = 4");
}
