//! Files that came with what was said in a conversation.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use symbia_nats::files::{Files, FilesError, Found, Place};
use utoipa_axum::router::OpenApiRouter;

use super::Messaging;
use crate::http::{ApiError, ApiResult, Caller, Path, routes};

/// What a file is of which nobody said what it is.
const ANYTHING: &str = "application/octet-stream";

pub(super) fn routes() -> OpenApiRouter<Messaging> {
    OpenApiRouter::new().routes(routes!(read))
}

fn no_file() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "FILE_NOT_FOUND", "There is no such file in this conversation")
}

// Whoever sent it chose its name and kind: a browser is to save it, and to run nothing.
fn served(mut file: Found) -> Response {
    let name = file.name.take().unwrap_or_else(|| "file".to_owned());
    let name: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
    let disposition = format!("attachment; filename*=UTF-8''{}", name.replace('+', "%20"));
    let kind = file.mime_type.take().and_then(|kind| HeaderValue::from_str(&kind).ok());
    let headers = [
        (header::CONTENT_TYPE, kind.unwrap_or(HeaderValue::from_static(ANYTHING))),
        (
            header::CONTENT_DISPOSITION,
            HeaderValue::from_str(&disposition).unwrap_or(HeaderValue::from_static("attachment")),
        ),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'")),
        (header::CACHE_CONTROL, HeaderValue::from_static("private, no-store")),
    ];
    let size = file.size;
    let mut response = (headers, Body::from_stream(file.bytes())).into_response();
    // So that whoever gets less knows it.
    if let Some(size) = size {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    }
    response
}

/// Get a file that came with a message (who takes part in the conversation)
///
/// The metadata of the message name it: `attachments[].fileId`.
#[utoipa::path(get, path = "/conversations/{id}/files/{fileId}", tag = "Messages",
    params(("id" = String, Path, description = "Id of the conversation"),
        ("fileId" = String, Path, description = "Id of the file")),
    responses((status = 200, description = "The file", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 403, description = "The caller takes no part in it"),
        (status = 404, description = "There is no such conversation, or no such file in it"),
        (status = 410, description = "The conversation was erased")))]
async fn read(
    State(messaging): State<Messaging>,
    caller: Caller,
    Path((id, file)): Path<(String, String)>,
) -> ApiResult<Response> {
    let place = messaging.place(&caller, &id).await?;
    let key = messaging.key(&place.address).await?;
    let files = Files::new(messaging.platform.nats.clone());
    let at = Place { org: place.tenant.as_str(), conversation: &place.conversation.id, id: &file };
    match files.find(&at, &key).await {
        // It goes with what was said.
        Ok(Some(file)) if messaging.message(&place, &caller, &file.message).await?.deleted_at.is_some() => {
            Err(no_file())
        }
        Ok(Some(file)) => Ok(served(file)),
        Ok(None) | Err(FilesError::Address(_)) => Err(no_file()),
        Err(error) => Err(ApiError::internal(error)),
    }
}
