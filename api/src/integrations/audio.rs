//! `POST /v1/audio/speech`, `/v1/audio/transcriptions` and `/v1/audio/translations` as OpenAI has them. Audio is kept beside the
//! log, sealed, on its way in and out, and passes through part by part.

mod form;

use axum::{
    body::Body,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderValue, header},
    middleware::map_response,
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::Value;
use symbia_events::integrations::{
    ErrorCategory, SpeechInput, SpeechOutput, TaskKind, TranscriptFormat, TranscriptionInput, TranscriptionOutput,
};
use symbia_nats::files::{Files, FilesError, Place};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use self::form::{MOST, Recorded};
use super::{
    Integrations,
    ask::Tagged,
    chat::target,
    errors::{as_openai, refused},
    leftover::Leftover,
    said::Failure,
    tasks::{Performed, Task, Wanted},
};
use crate::http::{ApiResult, Caller, Json, RequestScope, routes};

/// Longest text to speak, longest word of a shape, in bytes.
const LONGEST: usize = 64 * 1024;
const WORD: usize = 256;
/// What a form has besides its file.
const FORM: u64 = 1024 * 1024;
const FORMATS: [&str; 6] = ["mp3", "opus", "aac", "flac", "wav", "pcm"];

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    let limit = DefaultBodyLimit::max(usize::try_from(MOST + FORM).unwrap_or(usize::MAX));
    let listening = OpenApiRouter::new().routes(routes!(transcribe)).routes(routes!(translate)).layer(limit);
    OpenApiRouter::new().routes(routes!(speak)).merge(listening).layer(map_response(as_openai))
}

/// What is to be said.
#[derive(Debug, Deserialize, ToSchema)]
struct SpeechRequest {
    /// `provider/model`, a model, or the name of a route; absent: the provider's default.
    #[serde(default)]
    model: Option<String>,
    /// At most 65 536 bytes; models have limits of their own.
    input: String,
    /// A name, or an object with the `id` of a voice of one's own.
    #[schema(value_type = Object)]
    voice: Value,
    #[serde(default)]
    instructions: Option<String>,
    /// `mp3` (default), `opus`, `aac`, `flac`, `wav` or `pcm`.
    #[serde(default)]
    response_format: Option<String>,
    /// 0.25 to 4, 1 being usual.
    #[serde(default)]
    speed: Option<f64>,
    /// `audio`: there are no events.
    #[serde(default)]
    stream_format: Option<String>,
    /// A key of the vault to ask with.
    #[serde(default)]
    credential_id: Option<String>,
}

impl SpeechRequest {
    fn read(self) -> ApiResult<SpeechInput> {
        if self.input.trim().is_empty() || self.input.len() > LONGEST {
            return Err(refused("input", format!("must be 1 to {LONGEST} bytes of text")));
        }
        let named = |name: &str| (1..=WORD).contains(&name.len());
        let is_voice = match &self.voice {
            Value::String(name) => named(name),
            Value::Object(voice) => voice.len() == 1 && voice.get("id").and_then(Value::as_str).is_some_and(named),
            _ => false,
        };
        if !is_voice {
            return Err(refused("voice", "must be the name of a voice, or an object with its id"));
        }
        if self.instructions.as_ref().is_some_and(|text| text.len() > LONGEST) {
            return Err(refused("instructions", format!("must be at most {LONGEST} bytes")));
        }
        if self.response_format.as_deref().is_some_and(|format| !FORMATS.contains(&format)) {
            return Err(refused("response_format", format!("must be one of {}", FORMATS.join(", "))));
        }
        if self.speed.is_some_and(|speed| !(0.25..=4.0).contains(&speed)) {
            return Err(refused("speed", "must be 0.25 to 4"));
        }
        if self.stream_format.as_deref().is_some_and(|format| format != "audio") {
            return Err(refused("stream_format", "must be audio: there are no events"));
        }
        let (text, voice, format) = (self.input, self.voice, self.response_format);
        Ok(SpeechInput { text, voice, instructions: self.instructions, format, speed: self.speed })
    }
}

/// Have a text spoken, as OpenAI's API has it
///
/// The audio is given when all of it is there, and then part by part. It is kept for who asks again with the same
/// `Idempotency-Key`, and without one removed as soon as it was given.
#[utoipa::path(post, path = "/v1/audio/speech", tag = "OpenAI-compatible", params(Tagged), request_body = SpeechRequest,
    responses((status = 200, description = "The audio", body = Vec<u8>, content_type = "audio/mpeg"),
        (status = 400, description = "A field is not valid, or the provider does not speak"),
        (status = 401, description = "There is no key for the provider"),
        (status = 402, description = "A budget is used up"), (status = 404, description = "No such provider or model")))]
async fn speak(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Json(mut request): Json<SpeechRequest>,
) -> ApiResult<Response> {
    let (target, credential_id) = (target(request.model.take()), request.credential_id.take());
    let input = request.read()?;
    let task = service.task(&caller, &scope, TaskKind::Speech).await?;
    let wanted = Wanted { kind: TaskKind::Speech, target, input, credential_id };
    let Performed { output, .. } = service.perform::<_, SpeechOutput>(&task, &scope, wanted).await?;
    let again = scope.idempotency_key.is_some();
    service.audio(&task, output, again).await.map_err(|failure| failure.error(&task.request_id))
}

/// What is to be written down.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only described: the form is read as it comes")]
struct TranscriptionRequest {
    /// The audio, at most 25 MiB: flac, mp3, mp4, mpeg, mpga, m4a, ogg, wav or webm.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// `provider/model`, a model, or the name of a route; absent: the provider's default.
    model: Option<String>,
    /// The language that is spoken, e.g. `en`.
    language: Option<String>,
    /// What was said before, or how words are written.
    prompt: Option<String>,
    /// `json` (default), `text`, `srt`, `verbose_json`, `vtt` or `diarized_json`.
    response_format: Option<String>,
    /// 0 to 1.
    temperature: Option<f64>,
    /// `word`, `segment`.
    #[schema(rename = "timestamp_granularities[]")]
    timestamp_granularities: Option<Vec<String>>,
    /// `logprobs`.
    #[schema(rename = "include[]")]
    include: Option<Vec<String>>,
    /// `auto`, or an object.
    chunking_strategy: Option<String>,
    /// A transcript is not given piece by piece.
    stream: Option<bool>,
    /// A key of the vault to ask with.
    credential_id: Option<String>,
}

/// Have it written down what is said in audio, as OpenAI's API has it
#[utoipa::path(post, path = "/v1/audio/transcriptions", tag = "OpenAI-compatible", params(Tagged),
    request_body(content = TranscriptionRequest, content_type = "multipart/form-data"),
    responses((status = 200, description = "What is said: JSON, or text", body = Object),
        (status = 400, description = "A field is not valid, or the provider does not listen to audio"),
        (status = 401, description = "There is no key for the provider"),
        (status = 402, description = "A budget is used up"), (status = 404, description = "No such provider or model"),
        (status = 413, description = "The audio is larger than 25 MiB")))]
async fn transcribe(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    request: Request,
) -> ApiResult<Response> {
    service.listen(&caller, &scope, TaskKind::Transcription, request).await
}

/// The same in English, whatever is spoken
#[utoipa::path(post, path = "/v1/audio/translations", tag = "OpenAI-compatible", params(Tagged),
    request_body(content = TranscriptionRequest, content_type = "multipart/form-data"),
    responses((status = 200, description = "What is said, in English: JSON, or text", body = Object),
        (status = 400, description = "A field is not valid, or the provider does not listen to audio"),
        (status = 401, description = "There is no key for the provider"),
        (status = 402, description = "A budget is used up"), (status = 404, description = "No such provider or model"),
        (status = 413, description = "The audio is larger than 25 MiB")))]
async fn translate(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    request: Request,
) -> ApiResult<Response> {
    service.listen(&caller, &scope, TaskKind::Translation, request).await
}

impl Integrations {
    // A file that was made for a task, as it is read; whoever may ask for it again finds it again.
    async fn audio(&self, task: &Task, made: SpeechOutput, again: bool) -> Result<Response, Failure> {
        let at = Place { org: &task.org, conversation: &task.request_id, id: &made.file };
        let files = self.files();
        let mut leftover = Leftover::new(&files, &at);
        leftover.kept = again;
        let found = match files.find(&at, &task.key).await {
            Ok(Some(found)) => found,
            Ok(None) | Err(FilesError::Broken | FilesError::Sealed(_) | FilesError::Address(_)) => {
                return Err(Failure::new(ErrorCategory::NotFound, "audio_gone", "the audio is not kept any more"));
            }
            Err(error @ FilesError::Broker(_)) => {
                tracing::warn!(request_id = task.request_id, %error, "kept audio cannot be read");
                let message = "the audio cannot be read just now: ask again with the same Idempotency-Key";
                return Err(Failure::new(ErrorCategory::Internal, "audio_unavailable", message));
            }
        };
        let kind = HeaderValue::from_str(&made.media_type).unwrap_or(HeaderValue::from_static("audio/mpeg"));
        let headers = [
            (header::CONTENT_TYPE, kind),
            // So that whoever gets less knows it.
            (header::CONTENT_LENGTH, HeaderValue::from(made.bytes)),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        ];
        let given = found.bytes().inspect(move |_| _ = &leftover);
        Ok((headers, Body::from_stream(given)).into_response())
    }

    async fn listen(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        kind: TaskKind,
        request: Request,
    ) -> ApiResult<Response> {
        let task = self.task(caller, scope, kind).await?;
        let id = Uuid::new_v4().to_string();
        let at = Place { org: &task.org, conversation: &task.request_id, id: &id };
        let files = self.files();
        let mut leftover = Leftover::new(&files, &at);
        let done = self.heard(&task, scope, (kind, &at), (&files, &mut leftover), request).await;
        // A worker removes what it has listened to; what none was told of is removed here.
        leftover.kept = done.as_ref().is_ok_and(|(_, performed)| !performed.repeated);
        let (format, Performed { output, .. }) = done?;
        let kind = if format.is_json() { "application/json" } else { "text/plain; charset=utf-8" };
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        ];
        Ok((headers, output.text).into_response())
    }

    async fn heard(
        &self,
        task: &Task,
        scope: &RequestScope,
        (kind, at): (TaskKind, &Place<'_>),
        (files, leftover): (&Files, &mut Leftover),
        request: Request,
    ) -> ApiResult<(TranscriptFormat, Performed<TranscriptionOutput>)> {
        let form = form::read(request, (task, at), files).await?;
        let Recorded { bytes, file_name, mime_type, expected_ms } = form.recorded;
        let format = form.format;
        let input = TranscriptionInput {
            file: at.id.to_owned(),
            bytes,
            file_name,
            mime_type,
            expected_ms,
            format,
            fields: form.fields,
        };
        let wanted = Wanted { kind, target: target(form.model), input, credential_id: form.credential_id };
        // From here on a worker may be told of it, whoever waits for what it says.
        leftover.kept = true;
        Ok((format.unwrap_or_default(), self.perform(task, scope, wanted).await?))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_to_be_said_is_read_and_what_makes_no_sense_is_refused() {
        let request = |more: Value| {
            let mut body = json!({ "input": "hi", "voice": "coral", "stream_format": "audio" });
            if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
                body.extend(more);
            }
            serde_json::from_value::<SpeechRequest>(body).unwrap().read()
        };
        assert_eq!(request(json!({ "response_format": "wav" })).unwrap().media_type(), "audio/wav");
        assert_eq!(request(json!({ "voice": { "id": "voice_1" } })).unwrap().media_type(), "audio/mpeg");
        for wrong in [
            json!({ "input": " " }),
            json!({ "input": "x".repeat(LONGEST + 1) }),
            json!({ "voice": "" }),
            json!({ "voice": { "id": 1 } }),
            json!({ "voice": { "id": "x", "y": 1 } }),
            json!({ "response_format": "midi" }),
            json!({ "speed": 5 }),
            json!({ "stream_format": "sse" }),
        ] {
            assert!(request(wrong.clone()).is_err(), "{}", wrong.to_string().get(..60).unwrap_or_default());
        }
    }
}
