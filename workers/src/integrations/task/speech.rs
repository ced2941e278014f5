//! Speech: a text that is spoken. What comes is kept beside the log part by part, and never held as a whole.

use async_trait::async_trait;
use symbia_events::{
    SubjectKey,
    integrations::{ErrorCategory, SpeechInput, SpeechOutput, TaskKind, TaskUnits, Usage},
};
use symbia_nats::files::{About, Files, KeepError, Place};
use uuid::Uuid;

use super::{
    super::{
        accounts::Taken,
        desk::Wish,
        provider::{ApiKey, Fault, Provider, Speaking},
        routes::Candidate,
    },
    Done, written,
};

/// Longest audio in bytes: several minutes of it, uncompressed.
const LONGEST: u64 = 64 * 1024 * 1024;

/// A text to speak.
pub(super) struct Speech<'a> {
    pub input: SpeechInput,
    pub request_id: &'a str,
    pub key: &'a SubjectKey,
    pub files: &'a Files,
}

impl Speech<'_> {
    fn taken(&self) -> Taken {
        let tokens = (self.input.text.len() as u64).div_ceil(4);
        let usage = Usage { prompt_tokens: tokens, total_tokens: tokens, estimated: true, ..Usage::default() };
        let units = TaskUnits { characters: Some(self.input.text.chars().count() as u64), audio_ms: None };
        Taken { is_task: true, units, ..usage.into() }
    }
}

#[async_trait]
impl Wish for Speech<'_> {
    type Got = Done;

    fn usual(provider: &dyn Provider) -> String {
        provider.default_model_for(TaskKind::Speech).unwrap_or_default().to_owned()
    }

    fn able() -> Option<fn(&dyn Provider, bool) -> bool> {
        Some(|provider, named| provider.takes(TaskKind::Speech, named))
    }

    fn texts(&mut self) -> Vec<&mut String> {
        std::iter::once(&mut self.input.text).chain(&mut self.input.instructions).collect()
    }

    fn expected(&self) -> Taken {
        self.taken()
    }

    fn took(got: &Done) -> Taken {
        got.taken
    }

    async fn ask(&self, org: &str, target: &Candidate, key: Option<&ApiKey>) -> Result<Done, Fault> {
        let spoken = target.provider.speak(Speaking { org, model: &target.model, input: &self.input }, key).await?;
        // Another try, or another worker, has another file: parts of the two are never mixed.
        let file = Uuid::new_v4().to_string();
        let at = Place { org, conversation: self.request_id, id: &file };
        let (message, mime_type) = (self.request_id.to_owned(), Some(spoken.media_type.clone()));
        let about = About { message, name: None, mime_type };
        let kept = self.files.keep_from(&at, self.key, about, LONGEST, spoken.audio).await;
        let fault = match kept {
            Ok(0) => Fault::new(ErrorCategory::Provider, "invalid_response", "the provider gave audio without a sound"),
            Ok(bytes) => {
                let output = written(&SpeechOutput { file, bytes, media_type: spoken.media_type })?;
                return Ok(Done { model: target.model.clone(), output, taken: self.taken() });
            }
            Err(KeepError::Source(fault)) => fault,
            Err(KeepError::TooLong) => {
                let message = format!("the audio is longer than {LONGEST} bytes: have less said, or a smaller format");
                Fault::new(ErrorCategory::Validation, "too_long", message)
            }
            Err(KeepError::Files(error)) => {
                tracing::warn!(request = self.request_id, %error, "audio is not kept");
                let message = "the audio was made and could not be kept: the broker does not take it";
                Fault::new(ErrorCategory::Internal, "not_stored", message)
            }
        };
        self.files.discard(&at).await;
        Err(fault)
    }
}
