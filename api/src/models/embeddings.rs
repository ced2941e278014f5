//! Vectors of texts (models.md §14.6).

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_nats::inference::{Embed, encode_vector};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{
    Models,
    body::Body,
    error::{invalid, unanswered},
    request::OneOrMany,
};
use crate::http::{ApiResult, Caller, Json, RequestScope, routes};

/// Texts of a request at most.
const MOST: usize = 2048;

pub(super) fn routes() -> OpenApiRouter<Models> {
    OpenApiRouter::new().routes(routes!(embeddings))
}

/// Texts to make vectors of.
#[derive(Deserialize, ToSchema)]
struct EmbeddingsRequest {
    /// Id of the model, or the beginning of its file's name.
    model: String,
    /// A text, or up to 2 048.
    input: OneOrMany,
    /// `float` or `base64`.
    #[serde(default)]
    encoding_format: Option<String>,
    /// Length of the vectors: only what the model makes.
    #[serde(default)]
    dimensions: Option<usize>,
    /// Cuts off what is longer than the model takes.
    #[serde(default)]
    truncate: bool,
    /// `false` leaves the vectors as the model makes them.
    #[serde(default = "yes")]
    normalize: bool,
}

fn yes() -> bool {
    true
}

/// Make vectors of texts with a local model
#[utoipa::path(post, path = "/v1/embeddings", tag = "Inference", request_body = EmbeddingsRequest,
    responses((status = 200, description = "A vector of length 1 for each text", body = Object),
        (status = 400, description = "Not valid, or longer than the model takes"),
        (status = 404, description = "No such model")))]
async fn embeddings(
    State(models): State<Models>,
    scope: RequestScope,
    caller: Caller,
    Body(body): Body<EmbeddingsRequest>,
) -> ApiResult<Json<Value>> {
    let base64 = match body.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => return Err(invalid("encoding_format", "must be float or base64")),
    };
    let inputs = body.input.into_vec();
    if inputs.is_empty() || inputs.len() > MOST {
        return Err(invalid("input", format!("must have 1 to {MOST} texts")));
    }
    let model = models.admit(&caller, &scope, &body.model).await?;
    let (truncate, raw) = (body.truncate, !body.normalize);
    let embed = Embed { model: Some(model.id), inputs, truncate, raw, org: model.org };
    let (model, vectors, tokens) = models.inference.embed(embed).await.map_err(unanswered)?;
    let length = vectors.first().map_or(0, Vec::len);
    if body.dimensions.is_some_and(|dimensions| dimensions != length) {
        return Err(invalid("dimensions", format!("must be {length}: the vectors of {model} cannot be cut")));
    }
    let vector = |(index, vector): (usize, &Vec<f32>)| {
        let vector = if base64 { json!(encode_vector(vector)) } else { json!(vector) };
        json!({ "object": "embedding", "index": index, "embedding": vector })
    };
    let data: Vec<Value> = vectors.iter().enumerate().map(vector).collect();
    let usage = json!({ "prompt_tokens": tokens, "total_tokens": tokens });
    Ok(Json(json!({ "object": "list", "data": data, "model": model, "usage": usage })))
}
