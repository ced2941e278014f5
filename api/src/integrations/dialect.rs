//! What the lines of batches are written in: the bodies of OpenAI's API, read and written as where they are posted.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use symbia_commands::{
    Rejection,
    integrations::{BatchDialect, LineAnswer, LineQuestion, MAX_INPUTS, Question},
};
use symbia_events::{
    SubjectKey,
    integrations::{BatchEndpoint, CompletionEvent, EmbeddingEvent},
};
use time::OffsetDateTime;

use super::{
    ask::with_status,
    chat::{ChatRequest, CompletionRequest, completion, text_completion},
    embeddings::{EmbeddingRequest, checked, embedding_list, end},
    errors::{openai_error, refused, shaped_as_openai},
    responses::{Echo, Head, ResponsesRequest, response},
    said::{Failure, Said, ended},
};
use crate::http::{ApiError, ApiResult};

/// OpenAI's API.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenAiDialect;

fn parsed<T: DeserializeOwned>(body: Value) -> ApiResult<T> {
    serde_json::from_value(body).map_err(|wrong| refused("body", format!("not a request of this endpoint: {wrong}")))
}

fn refusal(error: &ApiError) -> LineAnswer {
    LineAnswer { status: error.status().as_u16(), body: json!({ "error": shaped_as_openai(error) }) }
}

fn failed(failure: &Failure) -> LineAnswer {
    LineAnswer { status: failure.status().as_u16(), body: openai_error(failure) }
}

// The results of a batch are a file: nobody listens.
fn whole(question: Question) -> ApiResult<LineQuestion> {
    if question.stream {
        return Err(refused("stream", "must be false in a batch"));
    }
    Ok(LineQuestion::Completion(Box::new(question)))
}

fn read(endpoint: BatchEndpoint, body: Value) -> ApiResult<LineQuestion> {
    match endpoint {
        BatchEndpoint::Chat => whole(parsed::<ChatRequest>(body)?.question()?),
        BatchEndpoint::Text => whole(parsed::<CompletionRequest>(body)?.question()?),
        BatchEndpoint::Responses => {
            let request = parsed::<ResponsesRequest>(body)?;
            if request.previous_response_id.is_some() {
                let message = "is not supported in a batch: send what was said before as input";
                return Err(refused("previous_response_id", message));
            }
            let mut question = request.question(Vec::new())?;
            // Its result is in the output file, and nowhere else.
            question.options.unstored = true;
            whole(question)
        }
        BatchEndpoint::Embeddings => {
            let request = parsed::<EmbeddingRequest>(body)?;
            request.as_base64()?;
            let texts = request.texts();
            // One request in the log for each line.
            checked(&texts.texts, MAX_INPUTS as usize)?;
            Ok(LineQuestion::Embedding(texts))
        }
    }
}

impl BatchDialect for OpenAiDialect {
    fn read(&self, endpoint: BatchEndpoint, body: Value) -> Result<LineQuestion, LineAnswer> {
        read(endpoint, body).map_err(|error| refusal(&error))
    }

    fn refusal(&self, rejection: Rejection) -> LineAnswer {
        refusal(&with_status(rejection.into()))
    }

    fn completed(
        &self,
        endpoint: BatchEndpoint,
        asked: Value,
        asked_at: OffsetDateTime,
        key: &SubjectKey,
        end: CompletionEvent,
    ) -> Option<LineAnswer> {
        let request_id = match &end {
            CompletionEvent::CompletionCompleted(e) => e.request_id.clone(),
            _ => String::new(),
        };
        let answer = match ended(key, end)? {
            Said::Completed(answer) => answer,
            Said::Failed(failure) => return Some(failed(&failure)),
            Said::Started { .. } | Said::Piece { .. } | Said::Reset { .. } => return None,
        };
        let body = match endpoint {
            BatchEndpoint::Text => text_completion(&request_id, asked_at, &answer),
            BatchEndpoint::Responses => {
                let request = match parsed::<ResponsesRequest>(asked) {
                    Ok(request) => request,
                    Err(error) => return Some(refusal(&error)),
                };
                response(&Head::new(&request_id, asked_at), &Echo::of(&request), &answer)
            }
            BatchEndpoint::Chat | BatchEndpoint::Embeddings => completion(&request_id, asked_at, &answer),
        };
        Some(LineAnswer { status: 200, body })
    }

    fn embedded(&self, asked: Value, key: &SubjectKey, event: EmbeddingEvent) -> Option<LineAnswer> {
        let base64 = asked["encoding_format"] == "base64";
        Some(match end(key, event)? {
            Ok(embedded) => LineAnswer { status: 200, body: embedding_list(&embedded, base64) },
            Err(failure) => failed(&failure),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_before_has_the_status_that_it_has_over_http() {
        let status = |code| OpenAiDialect.refusal(Rejection::new(code, "no")).status;
        assert_eq!((status("TOO_LARGE"), status("VALIDATION_FAILED")), (413, 400));
    }

    #[test]
    fn a_line_is_read_and_refused_as_where_it_would_be_posted() {
        let user = json!([{ "role": "user", "content": "hi" }]);
        let dialect = OpenAiDialect;
        for (endpoint, body) in [
            (BatchEndpoint::Chat, json!({ "model": "m", "messages": user })),
            (BatchEndpoint::Text, json!({ "model": "m", "prompt": "hi" })),
            (BatchEndpoint::Responses, json!({ "model": "m", "input": "hi" })),
        ] {
            let read = dialect.read(endpoint, body);
            assert!(matches!(read, Ok(LineQuestion::Completion(_))), "{endpoint:?}: {read:?}");
        }
        let texts = dialect.read(BatchEndpoint::Embeddings, json!({ "model": "m", "input": ["a", "b"] }));
        assert!(matches!(texts, Ok(LineQuestion::Embedding(texts)) if texts.texts.len() == 2));
        for (endpoint, body, param) in [
            (BatchEndpoint::Chat, json!({ "messages": user, "stream": true }), "stream"),
            (BatchEndpoint::Chat, json!({ "messages": "hi" }), "body"),
            (BatchEndpoint::Chat, json!({ "messages": user, "n": 9 }), "n"),
            (
                BatchEndpoint::Responses,
                json!({ "input": "x", "previous_response_id": "resp_1" }),
                "previous_response_id",
            ),
            (BatchEndpoint::Embeddings, json!({ "input": vec!["x"; 65] }), "input"),
            (BatchEndpoint::Embeddings, json!({ "input": "x", "encoding_format": "hex" }), "encoding_format"),
        ] {
            let Err(answer) = dialect.read(endpoint, body.clone()) else { panic!("{body} is read") };
            let told = (answer.status, &answer.body["error"]["param"], &answer.body["error"]["type"]);
            assert_eq!(told, (400, &json!(param), &json!("invalid_request_error")), "{body}");
        }
    }
}
