//! Reranking as servers with OpenAI's API have it (vLLM, Jina, Cohere, llama.cpp): `POST /rerank`.

use serde_json::{Value, json};
use symbia_events::integrations::{RankedDocument, Usage};

use super::super::provider::{Ranked, Ranking};

/// A request. Nothing is sent that was not asked for.
pub(super) fn body(ranking: &Ranking<'_>) -> Value {
    let input = ranking.input;
    let mut body = json!({ "model": ranking.model, "query": input.query, "documents": input.documents });
    if let Some(top) = input.top_n {
        body["top_n"] = json!(top);
    }
    body
}

/// The order; none: the answer is none, or is one of other documents.
pub(super) fn ranked(said: &Value, ranking: &Ranking<'_>) -> Option<Ranked> {
    let input = ranking.input;
    let document = |item: &Value| {
        let score = item["relevance_score"].as_f64().or_else(|| item["score"].as_f64())?;
        Some(RankedDocument { index: usize::try_from(item["index"].as_u64()?).ok()?, score })
    };
    let results = said["results"].as_array().or_else(|| said["data"].as_array())?;
    let mut documents: Vec<RankedDocument> = results.iter().map(document).collect::<Option<_>>()?;
    let mut seen = vec![false; input.documents.len()];
    for document in &documents {
        let seen = seen.get_mut(document.index)?;
        if std::mem::replace(seen, true) {
            return None;
        }
    }
    documents.sort_by(|a, b| b.score.total_cmp(&a.score));
    documents.truncate(input.top_n.map_or(usize::MAX, |top| top as usize));
    Some(Ranked {
        model: said["model"].as_str().unwrap_or(ranking.model).to_owned(),
        documents,
        usage: usage(said, ranking),
    })
}

// Jina and vLLM count in `usage`, Cohere in `meta`.
fn usage(said: &Value, ranking: &Ranking<'_>) -> Usage {
    let counted =
        [&said["usage"]["prompt_tokens"], &said["usage"]["total_tokens"], &said["meta"]["tokens"]["input_tokens"]];
    let counted = counted.into_iter().find_map(|tokens| tokens.as_f64().filter(|tokens| *tokens >= 0.0));
    let tokens = counted.map_or_else(|| ranking.input.estimated_tokens(), |tokens| tokens as u64);
    Usage { prompt_tokens: tokens, total_tokens: tokens, estimated: counted.is_none(), ..Usage::default() }
}

#[cfg(test)]
mod tests {
    use symbia_events::integrations::RerankInput;

    use super::*;

    fn input(top_n: Option<u32>) -> RerankInput {
        RerankInput { query: "which?".into(), documents: vec!["a".into(), "b".into(), "c".into()], top_n }
    }

    #[test]
    fn what_was_asked_for_is_sent_and_nothing_else() {
        let all = input(None);
        let asked = body(&Ranking { org: "o", model: "m", input: &all });
        assert_eq!(asked, json!({ "model": "m", "query": "which?", "documents": ["a", "b", "c"] }));
        let some = input(Some(2));
        assert_eq!(body(&Ranking { org: "o", model: "m", input: &some })["top_n"], 2);
    }

    #[test]
    fn the_order_is_read_from_every_dialect_and_foreign_documents_are_none() {
        let (all, one) = (input(None), input(Some(1)));
        let of = |input| Ranking { org: "o", model: "m", input };
        let vllm = json!({ "id": "x", "model": "bge", "usage": { "total_tokens": 9 }, "results": [
            { "index": 1, "relevance_score": 0.1, "document": { "text": "b" } }, { "index": 0, "relevance_score": 0.9 }] });
        let read = ranked(&vllm, &of(&all)).unwrap();
        let order: Vec<_> = read.documents.iter().map(|document| document.index).collect();
        assert_eq!(
            (order, read.model.as_str(), read.usage.total_tokens, read.usage.estimated),
            (vec![0, 1], "bge", 9, false)
        );
        assert_eq!(ranked(&vllm, &of(&one)).unwrap().documents.len(), 1);
        let cohere = json!({ "results": [{ "index": 2, "relevance_score": 1 }],
            "meta": { "billed_units": { "search_units": 1 }, "tokens": { "input_tokens": 7.0 } } });
        let read = ranked(&cohere, &of(&all)).unwrap();
        assert_eq!((read.model.as_str(), read.usage.total_tokens), ("m", 7));
        let silent = json!({ "data": [{ "index": 0, "score": 0.5 }] });
        assert!(ranked(&silent, &of(&all)).unwrap().usage.estimated);
        for none in [
            json!({}),
            json!({ "results": [{ "index": 3, "relevance_score": 1 }] }),
            json!({ "results": [{ "index": 0, "relevance_score": 1 }, { "index": 0, "relevance_score": 2 }] }),
            json!({ "results": [{ "index": 0 }] }),
        ] {
            assert_eq!(ranked(&none, &of(&all)), None, "{none}");
        }
    }
}
