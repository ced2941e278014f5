//! Audio as OpenAI's API has it: `POST /audio/speech` gives a file, `/audio/transcriptions` and `/audio/translations` take one.

use std::{fmt::Write, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream};
use reqwest::Body;
use serde_json::{Value, json};
use symbia_events::integrations::{TranscriptFormat, TranscriptionInput, Usage};
use uuid::Uuid;

use super::super::provider::{Speaking, Transcribed, Transcribing};

/// How long a model may be silent over what it speaks or listens to.
pub(super) const PATIENCE: Duration = Duration::from_secs(105);

/// A request to speak. Nothing is sent that was not asked for.
pub(super) fn speech(speaking: &Speaking<'_>) -> Value {
    let input = speaking.input;
    let mut body = json!({ "model": speaking.model, "input": input.text, "voice": input.voice });
    if let Some(instructions) = &input.instructions {
        body["instructions"] = json!(instructions);
    }
    if let Some(format) = &input.format {
        body["response_format"] = json!(format);
    }
    if let Some(speed) = input.speed {
        body["speed"] = json!(speed);
    }
    body
}

/// What a server calls its audio; none: it is no audio. Who says nothing of its kind gave what was asked for.
pub(super) fn audio_type(said: &str, asked: &'static str) -> Option<String> {
    let kind = said.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "" | "application/octet-stream" | "binary/octet-stream" => Some(asked.to_owned()),
        kind if kind.starts_with("audio/")
            && said.len() <= 100
            && said.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) =>
        {
            Some(said.to_owned())
        }
        _ => None,
    }
}

/// A form with a file as its last field: its media type, its length and itself, which is never held as a whole.
pub(super) fn form(transcribing: Transcribing<'_>) -> (String, u64, Body) {
    let boundary = Uuid::new_v4().simple().to_string();
    let (head, tail) = (head(&boundary, &transcribing), format!("\r\n--{boundary}--\r\n"));
    let length = (head.len() + tail.len()) as u64 + transcribing.bytes;
    let before = stream::iter([Ok(Bytes::from(head))]);
    let after = stream::iter([Ok(Bytes::from(tail))]);
    let body = Body::wrap_stream(before.chain(transcribing.audio).chain(after));
    (format!("multipart/form-data; boundary={boundary}"), length, body)
}

// RFC 7578.
fn head(boundary: &str, transcribing: &Transcribing<'_>) -> String {
    let input = transcribing.input;
    let mut head = String::new();
    let first = [("model", Some(transcribing.model)), ("response_format", input.format.map(TranscriptFormat::name))];
    let first = first.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let fields = input.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in first.chain(fields) {
        let _ = write!(
            head,
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"\r\n\r\n{value}\r\n",
            quoted(name)
        );
    }
    let _ = write!(
        head,
        "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{}\"\r\nContent-Type: {}\r\n\r\n",
        quoted(&input.file_name),
        quoted(&input.mime_type)
    );
    head
}

fn quoted(name: &str) -> String {
    name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A")
}

/// What was heard, as it came; none: the answer is none. How long it was, the answer may tell.
pub(super) fn transcribed(said: String, model: &str, input: &TranscriptionInput) -> Option<Transcribed> {
    let json = input.format.unwrap_or_default().is_json().then(|| serde_json::from_str::<Value>(&said));
    let told = match json {
        Some(json) => json.ok().filter(|json| json["text"].is_string())?,
        None => Value::Null,
    };
    let seconds = [&told["duration"], &told["usage"]["seconds"]];
    // Some give it as text.
    let number = |value: &&Value| value.as_f64().or_else(|| value.as_str()?.parse().ok());
    let seconds = seconds.iter().find_map(number).filter(|seconds| (0.0..1e6).contains(seconds));
    let tokens = |name: &str| told["usage"][name].as_u64();
    let (prompt_tokens, completion_tokens) =
        (tokens("input_tokens").unwrap_or(0), tokens("output_tokens").unwrap_or(0));
    let counted = seconds.is_some() || prompt_tokens + completion_tokens > 0;
    let total_tokens = prompt_tokens + completion_tokens;
    let usage = Usage { prompt_tokens, completion_tokens, total_tokens, estimated: !counted, ..Usage::default() };
    let audio_ms = seconds.map_or(input.expected_ms, |seconds| (seconds * 1000.0).ceil() as u64);
    Some(Transcribed { model: model.to_owned(), text: said, usage, audio_ms })
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use symbia_events::integrations::{SpeechInput, TaskKind};

    use super::*;

    #[test]
    fn what_is_to_be_said_is_sent_and_nothing_else() {
        let input = SpeechInput { text: "hi".into(), voice: json!("coral"), ..SpeechInput::default() };
        let body = speech(&Speaking { org: "o", model: "m", input: &input });
        assert_eq!(body, json!({ "model": "m", "input": "hi", "voice": "coral" }));
        let input = SpeechInput {
            instructions: Some("softly".into()),
            format: Some("wav".into()),
            speed: Some(1.5),
            voice: json!({ "id": "voice_1" }),
            ..input
        };
        let body = speech(&Speaking { org: "o", model: "m", input: &input });
        let expected = json!({ "model": "m", "input": "hi", "voice": { "id": "voice_1" }, "instructions": "softly",
            "response_format": "wav", "speed": 1.5 });
        assert_eq!(body, expected);
    }

    #[test]
    fn audio_is_what_its_server_calls_it_and_a_page_is_none() {
        let kind = |said| audio_type(said, "audio/mpeg");
        assert_eq!(kind("audio/L16; rate=24000").as_deref(), Some("audio/L16; rate=24000"));
        assert_eq!(kind("application/octet-stream").as_deref(), Some("audio/mpeg"));
        assert_eq!(kind("").as_deref(), Some("audio/mpeg"));
        for none in ["text/html", "application/json; charset=utf-8", "audio/é"] {
            assert_eq!(kind(none), None, "{none}");
        }
    }

    #[tokio::test]
    async fn a_form_is_as_long_as_it_says_and_its_file_comes_last() {
        let input = TranscriptionInput {
            file: "f1".into(),
            format: Some(TranscriptFormat::VerboseJson),
            file_name: "a \"b\"\r\n.wav".into(),
            mime_type: "audio/wav".into(),
            fields: vec![("language".into(), "en".into()), ("timestamp_granularities[]".into(), "word".into())],
            ..TranscriptionInput::default()
        };
        let parts = [Ok(Bytes::from_static(b"abc")), Ok(Bytes::from_static(b"def"))];
        let audio = stream::iter(parts).boxed();
        let (kind, length, body) =
            form(Transcribing { org: "o", model: "m", kind: TaskKind::Transcription, input: &input, bytes: 6, audio });
        let boundary = kind.strip_prefix("multipart/form-data; boundary=").unwrap().to_owned();
        let sent = reqwest::Response::from(http_response(body));
        let sent: Vec<u8> = sent
            .bytes_stream()
            .try_fold(Vec::new(), |mut all, part| async move {
                all.extend_from_slice(&part);
                Ok(all)
            })
            .await
            .unwrap();
        let expected = "--B\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n\
             --B\r\nContent-Disposition: form-data; name=\"response_format\"\r\n\r\nverbose_json\r\n\
             --B\r\nContent-Disposition: form-data; name=\"language\"\r\n\r\nen\r\n\
             --B\r\nContent-Disposition: form-data; name=\"timestamp_granularities[]\"\r\n\r\nword\r\n\
             --B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a %22b%22%0D%0A.wav\"\r\n\
             Content-Type: audio/wav\r\n\r\nabcdef\r\n--B--\r\n";
        assert_eq!(String::from_utf8(sent.clone()).unwrap().replace(&boundary, "B"), expected);
        assert_eq!(length, sent.len() as u64);
    }

    fn http_response(body: Body) -> axum::http::Response<Body> {
        axum::http::Response::new(body)
    }

    #[test]
    fn a_transcript_tells_how_long_its_audio_was_where_it_does() {
        let read = |said: &str, format| {
            let input =
                TranscriptionInput { format: Some(format), expected_ms: 4_000, ..TranscriptionInput::default() };
            transcribed(said.to_owned(), "m", &input)
        };
        let whisper = read(r#"{"text":"hi","usage":{"type":"duration","seconds":3}}"#, TranscriptFormat::Json).unwrap();
        assert_eq!((whisper.audio_ms, whisper.usage.estimated), (3_000, false));
        let verbose =
            read(r#"{"text":"hi","duration":"2.5001","segments":[]}"#, TranscriptFormat::VerboseJson).unwrap();
        assert_eq!(verbose.audio_ms, 2_501);
        let tokens = r#"{"text":"hi","usage":{"type":"tokens","input_tokens":14,"output_tokens":3,"total_tokens":17}}"#;
        assert_eq!(read(tokens, TranscriptFormat::Json).unwrap().usage.total_tokens, 17);
        let plain = read("hi\n", TranscriptFormat::Text).unwrap();
        assert_eq!((plain.text.as_str(), plain.audio_ms, plain.usage.estimated), ("hi\n", 4_000, true));
        assert_eq!(read("<html>", TranscriptFormat::Json), None);
        assert_eq!(read(r#"{"error":"x"}"#, TranscriptFormat::VerboseJson), None);
    }
}
