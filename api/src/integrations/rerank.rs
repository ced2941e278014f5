//! `POST /v1/rerank` as clients of Cohere, Jina and vLLM have it.

use axum::{extract::State, middleware::map_response};
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_events::integrations::{RankedDocument, RerankInput, TaskKind};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{
    Integrations,
    ask::Tagged,
    chat::target,
    errors::{as_openai, refused},
    tasks::{Performed, Wanted},
};
use crate::http::{ApiResult, Caller, Json, RequestScope, routes};

/// Documents of a request at most, and bytes of them all with the question.
const MOST: usize = 2047;
const LONGEST: usize = 1024 * 1024;

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(rerank)).layer(map_response(as_openai))
}

/// What is to be put in order.
#[derive(Debug, Deserialize, ToSchema)]
struct RerankRequest {
    /// `provider/model`, a model, or the name of a route; absent: the embedding model of this machine.
    #[serde(default)]
    model: Option<String>,
    query: String,
    /// 1 to 2 047 texts; each may be an object with a `text`.
    documents: Vec<Document>,
    /// How many to give; all of them when it is not given.
    #[serde(default)]
    top_n: Option<u32>,
    /// Whether to give the texts as well.
    #[serde(default)]
    return_documents: Option<bool>,
    /// A key of the vault to ask with.
    #[serde(default)]
    credential_id: Option<String>,
}

/// A document.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
enum Document {
    Text(String),
    Object { text: String },
}

impl Document {
    fn into_text(self) -> String {
        match self {
            Document::Text(text) | Document::Object { text } => text,
        }
    }
}

fn read(request: RerankRequest) -> ApiResult<RerankInput> {
    let RerankRequest { query, documents, top_n, .. } = request;
    if query.trim().is_empty() {
        return Err(refused("query", "must not be empty"));
    }
    if documents.is_empty() || documents.len() > MOST {
        return Err(refused("documents", format!("must be 1 to {MOST} texts")));
    }
    if top_n == Some(0) {
        return Err(refused("top_n", "must be at least 1"));
    }
    let documents: Vec<String> = documents.into_iter().map(Document::into_text).collect();
    if documents.iter().any(|text| text.trim().is_empty()) {
        return Err(refused("documents", "must not contain empty texts"));
    }
    if query.len() + documents.iter().map(String::len).sum::<usize>() > LONGEST {
        return Err(refused("documents", format!("must be at most {LONGEST} bytes together with the query")));
    }
    Ok(RerankInput { query, documents, top_n })
}

/// Put documents in the order in which they answer a question
///
/// By a model of a server with this path (vLLM, Jina, Cohere, llama.cpp), or by the embedding model of this machine
/// (`symbia-labs`), whose score is the cosine of the angle between the vectors of question and document, −1 to 1.
#[utoipa::path(post, path = "/v1/rerank", tag = "OpenAI-compatible", params(Tagged), request_body = RerankRequest,
    responses((status = 200, description = "The documents' numbers and scores, the best first", body = Object),
        (status = 400, description = "A field is not valid, or the provider does not rerank"),
        (status = 402, description = "A budget is used up"), (status = 404, description = "No such provider or model")))]
async fn rerank(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Json(mut request): Json<RerankRequest>,
) -> ApiResult<axum::Json<Value>> {
    let shows = request.return_documents == Some(true);
    let (target, credential_id) = (target(request.model.take()), request.credential_id.take());
    let input = read(request)?;
    let texts = if shows { input.documents.clone() } else { Vec::new() };
    let task = service.task(&caller, &scope, TaskKind::Rerank).await?;
    let wanted = Wanted { kind: TaskKind::Rerank, target, input, credential_id };
    let performed = service.perform(&task, &scope, wanted).await?;
    Ok(axum::Json(shown(&performed, &texts)))
}

fn shown(performed: &Performed<Vec<RankedDocument>>, texts: &[String]) -> Value {
    let Performed { done, output, .. } = performed;
    let result = |document: &RankedDocument| {
        let mut result = json!({ "index": document.index, "relevance_score": document.score });
        if let Some(text) = texts.get(document.index) {
            result["document"] = json!({ "text": text });
        }
        result
    };
    let results: Vec<Value> = output.iter().map(result).collect();
    let tokens = done.usage.prompt_tokens;
    json!({
        "id": done.request_id,
        "object": "list",
        "model": done.model,
        "results": results,
        "usage": { "prompt_tokens": tokens, "total_tokens": done.usage.total_tokens },
        // As Cohere's clients read it.
        "meta": {
            "api_version": { "version": "2" },
            "billed_units": { "search_units": 1 },
            "tokens": { "input_tokens": tokens },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_texts_or_objects_with_one_and_what_makes_no_sense_is_refused() {
        let request = |more: Value| {
            let mut body = json!({ "query": "q", "documents": ["a", { "text": "b", "title": "x" }] });
            if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
                body.extend(more);
            }
            read(serde_json::from_value(body).unwrap())
        };
        assert_eq!(request(json!({})).unwrap().documents, ["a", "b"]);
        for wrong in [
            json!({ "query": " " }),
            json!({ "documents": [] }),
            json!({ "documents": [""] }),
            json!({ "documents": vec!["x"; MOST + 1] }),
            json!({ "documents": ["x".repeat(LONGEST)] }),
            json!({ "top_n": 0 }),
        ] {
            assert!(request(wrong.clone()).is_err(), "{}", wrong.to_string().get(..60).unwrap_or_default());
        }
    }
}
