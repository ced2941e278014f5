//! Pictures that are too large for an event: kept beside the log before a request names them, and given whole to who may have
//! them.

use axum::http::StatusCode;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use symbia_events::{
    SubjectKey,
    integrations::{ErrorCategory, KeptPicture, Picture},
};
use symbia_nats::{
    files::FilesError,
    pictures::{KeepError, Pictures},
};

use super::{Integrations, ask::Message, errors::refused, said::Failure};
use crate::http::{ApiError, ApiResult};

/// Largest body of a request: a prompt with its pictures (integrations.md §24).
pub(super) const BODY: usize = 20 * 1024 * 1024;

impl Integrations {
    pub(super) fn pictures(&self) -> Pictures {
        Pictures::new(self.platform.nats.clone())
    }

    /// Keeps what of a prompt is too large for an event, and names it there. Gives whether anything was.
    pub(super) async fn keep_pictures(
        &self,
        (org, request_id): (&str, &str),
        key: &SubjectKey,
        messages: &mut [Message],
    ) -> ApiResult<bool> {
        // Of most prompts there is nothing to keep.
        let mut kept_any = false;
        for (index, message) in messages.iter_mut().enumerate() {
            let parts = &mut message.more.parts;
            let kept = self.pictures().keep_large((org, request_id), key, parts).await;
            kept_any |= kept.map_err(|wrong| not_kept(&format!("messages[{index}].content"), wrong))?;
        }
        Ok(kept_any)
    }

    /// Keeps one picture that is too large for an event. Gives whether it was.
    pub(super) async fn keep_picture(
        &self,
        (org, request_id): (&str, &str),
        key: &SubjectKey,
        at: &str,
        url: &mut String,
    ) -> ApiResult<bool> {
        self.pictures().keep_one((org, request_id), key, url).await.map_err(|wrong| not_kept(at, wrong))
    }

    /// Forgets what was kept for a request; who may not, or cannot just now, leaves it sealed.
    pub(super) async fn forget_pictures(&self, org: &str, request_id: &str) {
        if let Err(error) = self.pictures().forget(org, request_id).await {
            tracing::warn!(request_id, %error, "the pictures of a request are not forgotten");
        }
    }

    /// Pictures that were made, whole where they are kept.
    pub(super) async fn whole_pictures(
        &self,
        org: &str,
        key: &SubjectKey,
        mut made: Vec<Picture>,
    ) -> Result<Vec<Picture>, Failure> {
        let pictures = self.pictures();
        for picture in &mut made {
            let Some(kept) = picture.url.as_ref().and_then(|url| url.parse::<KeptPicture>().ok()) else { continue };
            match pictures.find(org, &kept, key).await {
                Ok(Some(file)) => (picture.url, picture.b64_json) = (None, Some(BASE64.encode(file))),
                Ok(None) => {
                    let message = "the pictures are not kept any more";
                    return Err(Failure::new(ErrorCategory::NotFound, "pictures_gone", message));
                }
                Err(error) => {
                    tracing::warn!(request_id = kept.request_id, %error, "a kept picture cannot be read");
                    let message = "the pictures cannot be read just now: ask again with the same Idempotency-Key";
                    return Err(Failure::new(ErrorCategory::Internal, "pictures_unavailable", message));
                }
            }
        }
        Ok(made)
    }
}

fn not_kept(at: &str, wrong: KeepError) -> ApiError {
    match wrong {
        KeepError::Files(error) => unavailable(error),
        wrong => refused(at, wrong.to_string()),
    }
}

pub(super) fn unavailable(error: FilesError) -> ApiError {
    tracing::warn!(%error, "a picture cannot be kept");
    let message = "The pictures of the request cannot be kept just now: ask again";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "PICTURES_UNAVAILABLE", message)
}
