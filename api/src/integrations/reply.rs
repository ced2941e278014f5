//! From a question to the response, in whatever API it came.

use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::{
    Integrations,
    ask::{Asked, Question},
    said::Answer,
    stream::{self, Dialect},
};
use crate::http::{ApiResult, Caller, RequestScope};

impl Integrations {
    /// Asks, and answers: as a stream in its dialect, or whole.
    pub(super) async fn reply<D: Dialect>(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        question: Question,
        dialect: impl FnOnce(&Asked) -> D,
        body: impl FnOnce(&Asked, &Answer) -> Value,
    ) -> ApiResult<Response> {
        let streams = question.stream;
        let mut asked = self.ask(caller, scope, question).await?;
        if streams {
            let dialect = dialect(&asked);
            return stream::answer(asked, dialect).await;
        }
        let answer = asked.end().await.map_err(|failure| failure.error(&asked.request_id))?;
        let response = axum::Json(body(&asked, &answer)).into_response();
        Ok(with_headers(&asked.request_id, &answer, response))
    }
}

/// What it took, beside the body.
pub(super) fn with_headers(request_id: &str, answer: &Answer, mut response: Response) -> Response {
    let cost = answer.cost.map(|cost| cost.total_micros.to_string());
    let headers = [
        ("x-symbia-request-id", Some(request_id.to_owned())),
        ("x-symbia-provider", Some(answer.provider.clone())),
        ("x-symbia-model", Some(answer.model.clone())),
        ("x-symbia-attempts", Some(answer.attempts.to_string())),
        ("x-symbia-latency-ms", Some(answer.timing.total_ms.to_string())),
        ("x-symbia-cost-micros", cost),
        ("x-symbia-cache", answer.cached.then(|| "hit".to_owned())),
        ("x-symbia-cache-similarity", answer.similarity.map(|similarity| format!("{similarity:.4}"))),
    ];
    for (name, value) in headers {
        // A model may have a name that is no header.
        if let Some(value) = value.and_then(|value| value.parse().ok()) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
