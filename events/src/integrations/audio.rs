//! What tasks of audio are about, and what comes of them. They are content: they travel sealed, as JSON. The audio itself is kept
//! beside the log, sealed under the same key, and named here.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a task of kind [`TaskKind::Speech`](super::TaskKind::Speech) seals.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpeechInput {
    /// What is to be said.
    pub text: String,
    /// By whom: a name, or an object with an `id`.
    pub voice: Value,
    /// How.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// `mp3`, `opus`, `aac`, `flac`, `wav` or `pcm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// How fast, 1 being usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<f64>,
}

impl SpeechInput {
    /// The media type of what was asked for.
    #[must_use]
    pub fn media_type(&self) -> &'static str {
        match self.format.as_deref() {
            Some("opus") => "audio/ogg; codecs=opus",
            Some("aac") => "audio/aac",
            Some("flac") => "audio/flac",
            Some("wav") => "audio/wav",
            Some("pcm") => "audio/pcm",
            _ => "audio/mpeg",
        }
    }
}

/// What comes of such a task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpeechOutput {
    /// The id of the file, among those of the request.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// Its media type, as the provider calls it.
    pub media_type: String,
}

/// What a task of kind [`TaskKind::Transcription`](super::TaskKind::Transcription) or of
/// [`TaskKind::Translation`](super::TaskKind::Translation) seals.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TranscriptionInput {
    /// The id of the audio, among the files of the request.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// As its sender called it: providers tell its kind by that.
    pub file_name: String,
    /// As its sender said.
    pub mime_type: String,
    /// How long it is likely to be, in milliseconds.
    pub expected_ms: u64,
    /// How what is heard is to be given; absent: as an object with the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<TranscriptFormat>,
    /// What else is to be told to the provider, in the order in which it came.
    #[serde(default)]
    pub fields: Vec<(String, String)>,
}

/// How what is heard is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TranscriptFormat {
    /// An object with the text.
    #[default]
    Json,
    /// The text alone.
    Text,
    /// An object with the text, and when what of it is said.
    VerboseJson,
    /// An object with the text, and who says what of it.
    DiarizedJson,
    /// Subtitles, as `SubRip` has them.
    Srt,
    /// Subtitles, as the web has them.
    Vtt,
}

impl TranscriptFormat {
    /// The format of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        use TranscriptFormat::{DiarizedJson, Json, Srt, Text, VerboseJson, Vtt};
        [Json, Text, VerboseJson, DiarizedJson, Srt, Vtt].into_iter().find(|format| format.name() == name)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            TranscriptFormat::Json => "json",
            TranscriptFormat::Text => "text",
            TranscriptFormat::VerboseJson => "verbose_json",
            TranscriptFormat::DiarizedJson => "diarized_json",
            TranscriptFormat::Srt => "srt",
            TranscriptFormat::Vtt => "vtt",
        }
    }

    /// Whether it is JSON.
    #[must_use]
    pub fn is_json(self) -> bool {
        matches!(self, TranscriptFormat::Json | TranscriptFormat::VerboseJson | TranscriptFormat::DiarizedJson)
    }
}

/// What comes of such a task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranscriptionOutput {
    /// What was heard, in its format.
    pub text: String,
}
