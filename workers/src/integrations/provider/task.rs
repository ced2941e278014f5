//! What a provider is given to do besides answers, vectors and pictures, and what it gives.

use std::io;

use bytes::Bytes;
use futures::stream::BoxStream;
use symbia_events::integrations::{
    ErrorCategory, ModerationInput, ModerationOutput, RankedDocument, RerankInput, SpeechInput, TaskKind,
    TranscriptionInput, Usage,
};

use super::Fault;

/// Documents for a model that puts them in order.
#[derive(Clone, Copy, Debug)]
pub struct Ranking<'a> {
    /// The organization that asks.
    pub org: &'a str,
    /// The model, as the provider names it.
    pub model: &'a str,
    /// The question, and what may answer it.
    pub input: &'a RerankInput,
}

/// Documents in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// The model that did it, as the provider names it.
    pub model: String,
    /// The best first, as many as were asked for.
    pub documents: Vec<RankedDocument>,
    /// Tokens.
    pub usage: Usage,
}

/// Texts and pictures for a model that says whether they are harmful.
#[derive(Clone, Copy, Debug)]
pub struct Moderating<'a> {
    /// The organization that asks.
    pub org: &'a str,
    /// The model, as the provider names it.
    pub model: &'a str,
    /// What is to be looked at, with its pictures.
    pub input: &'a ModerationInput,
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Moderated {
    /// The model that found it, as the provider names it.
    pub model: String,
    /// What it says.
    pub output: ModerationOutput,
}

/// A text for a model that speaks.
#[derive(Clone, Copy, Debug)]
pub struct Speaking<'a> {
    /// The organization that asks.
    pub org: &'a str,
    /// The model, as the provider names it.
    pub model: &'a str,
    /// What is to be said, and how.
    pub input: &'a SpeechInput,
}

/// What a model speaks, while it does.
pub struct Spoken<'a> {
    /// Its media type.
    pub media_type: String,
    /// The audio, as it comes.
    pub audio: BoxStream<'a, Result<Bytes, Fault>>,
}

/// Audio for a model that writes down what is said in it.
pub struct Transcribing<'a> {
    /// The organization that asks.
    pub org: &'a str,
    /// The model, as the provider names it.
    pub model: &'a str,
    /// In its own language, or in English.
    pub kind: TaskKind,
    /// What is told with it.
    pub input: &'a TranscriptionInput,
    /// How long the audio is.
    pub bytes: u64,
    /// The audio, as it is read.
    pub audio: BoxStream<'static, io::Result<Bytes>>,
}

/// What was heard.
#[derive(Clone, Debug, PartialEq)]
pub struct Transcribed {
    /// The model that heard it, as the provider names it.
    pub model: String,
    /// It, in the format that was asked for.
    pub text: String,
    /// Tokens, where it counts any.
    pub usage: Usage,
    /// How long the audio is, in milliseconds, as far as it is known.
    pub audio_ms: u64,
}

/// A provider does no tasks of a kind.
pub(in crate::integrations) fn not_done(provider: &str, kind: TaskKind) -> Fault {
    let (code, what) = match kind {
        TaskKind::Rerank => ("no_rerank", "does not rerank; name another provider, e.g. symbia-labs"),
        TaskKind::Moderation => ("no_moderation", "does not moderate; name another provider, e.g. openai"),
        TaskKind::Speech => ("no_speech", "does not speak; name another provider, e.g. openai"),
        TaskKind::Transcription | TaskKind::Translation => {
            ("no_transcription", "does not listen to audio; name another provider, e.g. openai")
        }
    };
    Fault::new(ErrorCategory::Validation, code, format!("provider '{provider}' {what}"))
}
