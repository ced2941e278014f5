//! Bodies whose errors are in the object form.

use axum::extract::{FromRequest, Request};
use serde::de::DeserializeOwned;

use super::error::shaped;
use crate::http::{ApiError, Json};

/// A JSON body.
pub(super) struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Json(body) = Json::from_request(request, state).await.map_err(shaped)?;
        Ok(Body(body))
    }
}
