//! Getting a model, in the words of Ollama's API: the same download as `POST /api/models/download` begins, with the same checks.

use std::convert::Infallible;

use axum::{
    body::Body as Lines,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_commands::models::MANAGE;
use symbia_events::models::ModelSource;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{
    super::{
        Models,
        body::Body,
        downloads::Following,
        error::{error, invalid, shaped},
    },
    plain,
    request::named,
};
use crate::http::{ApiError, ApiResult, Caller, Json, RequestScope, routes};

/// The names that the hub of models goes by in what these clients ask for.
const HUB: [&str; 3] = ["hf.co/", "huggingface.co/", "hf:"];

pub(super) fn routes() -> OpenApiRouter<Models> {
    OpenApiRouter::new().routes(routes!(pull))
}

/// What is to be got.
#[derive(Deserialize, ToSchema)]
struct PullRequest {
    /// `smollm2`, or a repository of the hub with a file of it or a part of its name: `ORG/NAME:Q4_K_M`.
    #[serde(alias = "name")]
    model: String,
    #[serde(default)]
    stream: Option<bool>,
}

fn source(model: &str) -> ApiResult<ModelSource> {
    if ["smollm2", "smollm2:135m"].contains(&model) {
        return Ok(ModelSource::Package { name: "smollm2".to_owned() });
    }
    let path = HUB.iter().find_map(|hub| model.strip_prefix(hub)).unwrap_or(model);
    let (repo, file) = path.split_once(':').map_or((path, None), |(repo, file)| (repo, Some(file.to_owned())));
    if repo.split('/').count() != 2 {
        return Err(invalid("model", "must be smollm2, or a repository of the hub: ORG/NAME or ORG/NAME:FILE"));
    }
    Ok(ModelSource::Hub { repo: repo.to_owned(), file, revision: None, sha256: None })
}

/// Get a model into the model directory
///
/// Streams its progress as lines of JSON unless `stream` is false. Who leaves does not stop it.
#[utoipa::path(post, path = "/pull", tag = "Models", request_body = PullRequest,
    responses((status = 200, description = "It is there, or its progress", body = Object),
        (status = 400, description = "Not valid"), (status = 403, description = "Not allowed"),
        (status = 502, description = "It could not be got")))]
async fn pull(
    State(models): State<Models>,
    scope: RequestScope,
    caller: Caller,
    body: Result<Body<PullRequest>, ApiError>,
) -> ApiResult<Response> {
    let pulled = async {
        let Body(PullRequest { model, stream }) = body?;
        caller.require_capability(&MANAGE).map_err(shaped)?;
        let id = models.get_model(source(named(&model))?, &caller, &scope).await?;
        let mut following = models.follow_download(&id).await?;
        if stream.unwrap_or(true) {
            return Ok(progress(following));
        }
        let mut last = Value::Null;
        while let Some(state) = following.next().await {
            last = state;
        }
        match fault(&last) {
            None => Ok(Json(json!({ "status": "success" })).into_response()),
            Some(fault) => Err(error(StatusCode::BAD_GATEWAY, "pull_failed", fault)),
        }
    };
    pulled.await.map_err(plain)
}

/// Why a download has not come to a good end; none when it has.
fn fault(state: &Value) -> Option<String> {
    match state["status"].as_str() {
        Some("completed") => None,
        Some("cancelled") => Some("it was given up".to_owned()),
        Some("failed") => Some(state["error"].as_str().unwrap_or("it could not be got").to_owned()),
        _ => Some("it cannot be followed; `symbia models downloads` shows what becomes of it".to_owned()),
    }
}

fn progress(following: Following) -> Response {
    let lines = stream::unfold(Some(following), |following| async {
        let mut following = following?;
        let (lines, goes_on) = match following.next().await {
            Some(state) => told(&state),
            None => (vec![json!({ "error": fault(&Value::Null) })], false),
        };
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        Some((Ok::<_, Infallible>(text), goes_on.then_some(following)))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Lines::from_stream(lines)).into_response()
}

/// The lines that tell of a state, and whether others follow.
fn told(state: &Value) -> (Vec<Value>, bool) {
    match (state["status"].as_str(), state["filename"].as_str()) {
        (Some("completed"), _) => {
            let digest = format!("sha256:{}", state["sha256"].as_str().unwrap_or_default());
            let mut whole = json!({ "status": "verifying sha256 digest", "digest": digest });
            (whole["total"], whole["completed"]) = (state["total"].clone(), state["bytes"].clone());
            (vec![whole, json!({ "status": "success" })], false)
        }
        (Some("failed" | "cancelled"), _) => (vec![json!({ "error": fault(state) })], false),
        (_, Some(file)) => {
            let mut line = json!({ "status": format!("pulling {file}") });
            for (theirs, ours) in [("total", "total"), ("completed", "bytes")] {
                if state[ours].is_u64() || state[ours].is_i64() {
                    line[theirs] = state[ours].clone();
                }
            }
            (vec![line], true)
        }
        _ => (vec![json!({ "status": "pulling manifest" })], true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_the_package_or_to_the_hub() {
        let hub = |repo: &str, file: Option<&str>| ModelSource::Hub {
            repo: repo.to_owned(),
            file: file.map(str::to_owned),
            revision: None,
            sha256: None,
        };
        for (name, expected) in [
            ("smollm2", Some(ModelSource::Package { name: "smollm2".to_owned() })),
            ("smollm2:135m", Some(ModelSource::Package { name: "smollm2".to_owned() })),
            ("org/name", Some(hub("org/name", None))),
            ("org/name:Q4_K_M", Some(hub("org/name", Some("Q4_K_M")))),
            ("hf.co/org/name:Q4_K_M", Some(hub("org/name", Some("Q4_K_M")))),
            ("llama3", None),
            ("elsewhere.example/org/name", None),
            ("https://elsewhere.example/m.gguf", None),
        ] {
            assert_eq!(source(name).ok(), expected, "{name}");
        }
    }

    #[test]
    fn states_are_told_as_those_clients_read_them() {
        let lines = |state: Value| told(&state);
        assert_eq!(lines(json!({ "status": "requested" })), (vec![json!({ "status": "pulling manifest" })], true));
        let started = json!({ "status": "started", "filename": "m.gguf", "bytes": 5, "total": null });
        assert_eq!(lines(started), (vec![json!({ "status": "pulling m.gguf", "completed": 5 })], true));
        let (ended, goes_on) =
            lines(json!({ "status": "completed", "filename": "m.gguf", "bytes": 9, "total": 9, "sha256": "ab" }));
        assert_eq!((ended.len(), goes_on, &ended[1]), (2, false, &json!({ "status": "success" })));
        assert_eq!((&ended[0]["digest"], &ended[0]["completed"]), (&json!("sha256:ab"), &json!(9)));
        let failed = lines(json!({ "status": "failed", "error": "no such file" }));
        assert_eq!(failed, (vec![json!({ "error": "no such file" })], false));
    }
}
