//! What is in a picture (models.md §13.3): said to be refused and why, since no local model sees. The engine has no projectors.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{Models, body::Body, error::invalid};
use crate::http::{ApiResult, Caller, Json, routes};

/// What a model that sees would need.
const MISSING: [&str; 2] = ["VISION_MODEL", "VISION_MMPROJ"];
const REASON: &str = "no local model sees: this engine generates text from text";
const REMEDY: &str = "ask a provider whose models take images: POST /v1/chat/completions of the integrations service";

pub(super) fn routes() -> OpenApiRouter<Models> {
    OpenApiRouter::new().routes(routes!(status)).routes(routes!(classify))
}

/// A picture.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Picture {
    /// The file in base64, or a data URI of it.
    image_base64: String,
}

/// Say whether pictures are understood, and what is missing
#[utoipa::path(get, path = "/vision/status", tag = "Inference",
    responses((status = 200, description = "Whether they are, and what is missing", body = Object)))]
async fn status(_: Caller) -> Json<Value> {
    Json(json!({ "ready": false, "missing": MISSING }))
}

/// Say what is in a picture
///
/// No local model sees: the answer is a refusal that names what it refused, why, and what helps.
#[utoipa::path(post, path = "/vision/classify", tag = "Inference", request_body = Picture,
    responses((status = 200, description = "The refusal", body = Object), (status = 400, description = "Not valid")))]
async fn classify(_: Caller, Body(body): Body<Picture>) -> ApiResult<Json<Value>> {
    let picture = decoded(&body.image_base64)
        .ok_or_else(|| invalid("imageBase64", "must be a file in base64, or a data URI of one"))?;
    let digest: String = Sha256::digest(&picture).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok(Json(json!({
        "ok": false, "arena": "REFUSED", "reason": REASON, "missing": MISSING, "imageDigest": digest,
        "bytes": picture.len(), "remedy": REMEDY,
    })))
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    let encoded = match text.strip_prefix("data:") {
        Some(uri) => uri.split_once(";base64,")?.1,
        None => text,
    };
    BASE64.decode(encoded.trim()).ok().filter(|bytes| !bytes.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_base64_or_a_data_uri_of_it() {
        for given in ["AQI=", " AQI=\n", "data:image/png;base64,AQI="] {
            assert_eq!(decoded(given).as_deref(), Some(&[1, 2][..]), "{given}");
        }
        for given in ["", "data:image/png,AQI=", "not base64!"] {
            assert_eq!(decoded(given), None, "{given}");
        }
    }
}
