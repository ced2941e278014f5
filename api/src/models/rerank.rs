//! Documents in the order in which they answer a question, by the vectors of an embedding model (models.md §14.6).

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_nats::inference::{Embed, nearest};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{
    Models,
    body::Body,
    error::{invalid, unanswered},
};
use crate::http::{ApiResult, Caller, Json, RequestScope, routes};

/// Documents of a request at most.
const MOST: usize = 2047;

pub(super) fn routes() -> OpenApiRouter<Models> {
    OpenApiRouter::new().routes(routes!(rerank))
}

/// What is to be put in order.
#[derive(Deserialize, ToSchema)]
struct RerankRequest {
    /// Id of an embedding model, or the beginning of its file's name.
    model: String,
    query: String,
    /// 1 to 2 047 texts; each may be an object with a `text`.
    documents: Vec<Document>,
    /// How many to give; all of them when it is not given.
    #[serde(default)]
    top_n: Option<usize>,
    /// Whether to give the texts as well.
    #[serde(default)]
    return_documents: bool,
}

/// A document.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
enum Document {
    Text(String),
    Object { text: String },
}

impl Document {
    fn text(&self) -> &str {
        match self {
            Document::Text(text) | Document::Object { text } => text,
        }
    }
}

/// Put documents in the order in which they answer a question
///
/// The score is the cosine of the angle between the vectors of the question and the document, −1 to 1. Documents that are longer
/// than the model takes are cut off.
#[utoipa::path(post, path = "/v1/rerank", tag = "Inference", request_body = RerankRequest,
    responses((status = 200, description = "The documents' numbers and scores, the best first", body = Object),
        (status = 400, description = "Not valid, or the model makes no vectors"),
        (status = 404, description = "No such model")))]
async fn rerank(
    State(models): State<Models>,
    scope: RequestScope,
    caller: Caller,
    Body(body): Body<RerankRequest>,
) -> ApiResult<Json<Value>> {
    if body.documents.is_empty() || body.documents.len() > MOST {
        return Err(invalid("documents", format!("must have 1 to {MOST} texts")));
    }
    let model = models.admit(&caller, &scope, &body.model).await?;
    let texts = std::iter::once(body.query.as_str()).chain(body.documents.iter().map(Document::text));
    let inputs = texts.map(str::to_owned).collect();
    let embed = Embed { model: Some(model.id), inputs, truncate: true, raw: false, org: model.org };
    let (model, vectors, tokens) = models.inference.embed(embed).await.map_err(unanswered)?;
    let scores = nearest(&vectors);
    let result = |(index, score): &(usize, f32)| {
        let mut result = json!({ "index": index, "relevance_score": score });
        if body.return_documents {
            result["document"] = json!({ "text": body.documents[*index].text() });
        }
        result
    };
    let results: Vec<Value> = scores.iter().take(body.top_n.unwrap_or(scores.len())).map(result).collect();
    let usage = json!({ "prompt_tokens": tokens, "total_tokens": tokens });
    Ok(Json(json!({ "object": "list", "model": model, "results": results, "usage": usage })))
}
