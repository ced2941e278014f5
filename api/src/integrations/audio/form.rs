//! A form with a file of audio, read as it comes: the file is kept while it arrives.

use axum::{RequestExt, extract::Request, http::header};
use bytes::Bytes;
use futures::StreamExt;
use multer::{Constraints, Field, Multipart, SizeLimit, parse_boundary};
use symbia_events::integrations::TranscriptFormat;
use symbia_nats::files::{About, Files, KeepError, Place};

use super::super::{errors::refused, pictures::unavailable, tasks::Task};
use crate::http::{ApiError, ApiResult};

/// Largest file in bytes.
pub(super) const MOST: u64 = 25 * 1024 * 1024;
/// Longest other field, longest name of a file or a kind.
const LONGEST: u64 = 64 * 1024;
const NAME: usize = 255;
/// Most fields.
const FIELDS: usize = 32;
/// What is passed on besides.
const KNOWN: [&str; 8] = [
    "language",
    "prompt",
    "temperature",
    "timestamp_granularities[]",
    "include[]",
    "chunking_strategy",
    "keywords[]",
    "languages[]",
];

/// What a form says.
#[derive(Debug)]
pub(super) struct Form {
    pub recorded: Recorded,
    pub model: Option<String>,
    pub credential_id: Option<String>,
    pub format: Option<TranscriptFormat>,
    /// The other fields, in the order in which they came.
    pub fields: Vec<(String, String)>,
}

/// Its file, which is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recorded {
    pub bytes: u64,
    pub file_name: String,
    pub mime_type: String,
    /// How long it is likely to be, in milliseconds.
    pub expected_ms: u64,
}

/// Reads a form, and keeps its file.
pub(super) async fn read(request: Request, (task, at): (&Task, &Place<'_>), files: &Files) -> ApiResult<Form> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let boundary =
        parse_boundary(kind).map_err(|_| refused("Content-Type", "must be multipart/form-data with a boundary"))?;
    let limits = Constraints::new().size_limit(SizeLimit::new().per_field(LONGEST).for_field("file", MOST));
    let body = request.into_limited_body().into_data_stream();
    let mut form = Multipart::with_constraints(body, boundary, limits);
    let (mut recorded, mut model, mut credential_id, mut format) = (None, None, None, None);
    let mut fields = Vec::new();
    while let Some(field) = form.next_field().await.map_err(broken)? {
        let name = field.name().unwrap_or_default().to_owned();
        if name == "file" {
            if recorded.is_some() {
                return Err(refused("file", "must be one"));
            }
            recorded = Some(record(field, (task, at), files).await?);
            continue;
        }
        let value = field.text().await.map_err(broken)?;
        match name.as_str() {
            "model" => model = Some(value),
            "credential_id" => credential_id = Some(value),
            "response_format" => {
                let formats = "must be json, text, srt, verbose_json, vtt or diarized_json";
                format = Some(TranscriptFormat::named(&value).ok_or_else(|| refused("response_format", formats))?);
            }
            "stream" if value == "false" => {}
            "stream" => return Err(refused("stream", "must be false: a transcript is given whole")),
            _ => {
                check(&name, &value)?;
                if fields.len() == FIELDS {
                    return Err(refused(&name, format!("there are more than {FIELDS} fields")));
                }
                fields.push((name, value));
            }
        }
    }
    let recorded = recorded.ok_or_else(|| refused("file", "is required"))?;
    Ok(Form { recorded, model, credential_id, format, fields })
}

fn check(name: &str, value: &str) -> ApiResult<()> {
    if !KNOWN.contains(&name) {
        return Err(refused(name, "is not a known field"));
    }
    let (holds, rule) = match name {
        "temperature" => (value.parse::<f64>().is_ok_and(|t| (0.0..=1.0).contains(&t)), "must be 0 to 1"),
        "timestamp_granularities[]" => (["word", "segment"].contains(&value), "must be word or segment"),
        "language" | "languages[]" => (
            (1..=32).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_graphic()),
            "must be a language, e.g. en",
        ),
        _ => (true, ""),
    };
    if holds { Ok(()) } else { Err(refused(name, rule)) }
}

async fn record(field: Field<'_>, (task, at): (&Task, &Place<'_>), files: &Files) -> ApiResult<Recorded> {
    let shown = |text: &str| -> String { text.chars().filter(|c| !c.is_control()).take(NAME).collect() };
    let file_name = shown(field.file_name().unwrap_or("audio"));
    let mime_type = field.content_type().map_or_else(|| "application/octet-stream".to_owned(), ToString::to_string);
    let (name, kind) = (Some(file_name.clone()), Some(mime_type.clone()));
    let about = About { message: task.request_id.clone(), name, mime_type: kind };
    let mut first = Vec::new();
    let pieces = field.inspect(|piece: &multer::Result<Bytes>| {
        if let Ok(piece) = piece {
            first.extend(piece.iter().take(HEADER - first.len().min(HEADER)));
        }
    });
    let kept = files.keep_from(at, &task.key, about, MOST, pieces).await;
    let bytes = kept.map_err(|error| match error {
        KeepError::Source(error) => broken(error),
        KeepError::TooLong => ApiError::body_too_large(),
        KeepError::Files(error) => unavailable(error),
    })?;
    if bytes == 0 {
        return Err(refused("file", "must not be empty"));
    }
    Ok(Recorded { bytes, file_name, mime_type, expected_ms: expected_ms(&first, bytes) })
}

fn broken(error: multer::Error) -> ApiError {
    use multer::Error::{FieldSizeExceeded, StreamReadFailed, StreamSizeExceeded};
    let too_large = |source: &(dyn std::error::Error + 'static)| {
        let mut cause = Some(source);
        while let Some(error) = cause {
            if error.to_string().contains("length limit exceeded") {
                return true;
            }
            cause = error.source();
        }
        false
    };
    match &error {
        FieldSizeExceeded { field_name, .. } if field_name.as_deref() != Some("file") => {
            let name = field_name.as_deref().unwrap_or_default();
            refused(name, format!("must be at most {LONGEST} bytes"))
        }
        FieldSizeExceeded { .. } | StreamSizeExceeded { .. } => ApiError::body_too_large(),
        StreamReadFailed(source) if too_large(&**source) => ApiError::body_too_large(),
        _ => refused("", format!("the form cannot be read: {error}")),
    }
}

/// Of the beginning of a file, what tells how long it is.
const HEADER: usize = 44;

// How long audio is: of a plain WAV file as it says, else as if it had 128 kbit/s, as most has that is compressed.
fn expected_ms(first: &[u8], bytes: u64) -> u64 {
    const USUAL: u64 = 16_000;
    let rate = match first {
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', b'f', b'm', b't', b' ', rest @ ..] => {
            // By what players go: samples a second, and the bytes of each.
            let number = |at: usize| rest.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
            number(8).zip(number(16)).map(|(samples, size)| u64::from(samples) * u64::from(size & 0xffff))
        }
        _ => None,
    };
    let rate = rate.unwrap_or(USUAL).max(1);
    bytes.saturating_mul(1000).div_ceil(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_audio_is_a_plain_file_tells_and_of_others_it_is_guessed() {
        let mut wav = b"RIFF....WAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
        wav.extend(8_000_u32.to_le_bytes());
        // Bytes a second, which nobody goes by.
        wav.extend(u32::MAX.to_le_bytes());
        wav.extend([2, 0, 16, 0]);
        assert_eq!(expected_ms(&wav, 32_000), 2_000);
        assert_eq!(expected_ms(b"ID3", 16_001), 1_001);
        wav.truncate(20);
        assert_eq!(expected_ms(&wav, 16_000), 1_000);
    }

    #[test]
    fn fields_are_known_and_have_values_that_make_sense() {
        for (name, value) in
            [("language", "en"), ("temperature", "0.5"), ("timestamp_granularities[]", "word"), ("prompt", "")]
        {
            assert!(check(name, value).is_ok(), "{name}");
        }
        for (name, value) in [
            ("language", ""),
            ("language", "a b"),
            ("temperature", "2"),
            ("temperature", "NaN"),
            ("timestamp_granularities[]", "day"),
            ("url", "https://example.test/"),
        ] {
            assert!(check(name, value).is_err(), "{name}");
        }
    }
}
