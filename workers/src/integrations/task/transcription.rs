//! Transcription and translation: what is heard in audio, in its own language or in English.

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use symbia_events::{
    SubjectKey,
    integrations::{ErrorCategory, TaskKind, TaskUnits, TranscriptionInput, TranscriptionOutput, Usage},
};
use symbia_nats::files::{Files, FilesError, Place};

use super::{
    super::{
        accounts::Taken,
        desk::Wish,
        provider::{ApiKey, Fault, Provider, Transcribing},
        routes::Candidate,
    },
    Done, written,
};

/// Audio to listen to.
pub(super) struct Listening<'a> {
    pub input: TranscriptionInput,
    pub kind: TaskKind,
    pub request_id: &'a str,
    pub key: &'a SubjectKey,
    pub files: &'a Files,
}

fn taken(usage: Usage, audio_ms: u64) -> Taken {
    let units = TaskUnits { characters: None, audio_ms: Some(audio_ms) };
    Taken { is_task: true, units, ..usage.into() }
}

#[async_trait]
impl Wish for Listening<'_> {
    type Got = Done;

    // Translations are made by the same models.
    fn usual(provider: &dyn Provider) -> String {
        provider.default_model_for(TaskKind::Transcription).unwrap_or_default().to_owned()
    }

    fn able() -> Option<fn(&dyn Provider, bool) -> bool> {
        Some(|provider, named| provider.takes(TaskKind::Transcription, named))
    }

    fn texts(&mut self) -> Vec<&mut String> {
        self.input.fields.iter_mut().map(|(_, value)| value).collect()
    }

    fn expected(&self) -> Taken {
        taken(Usage::default(), self.input.expected_ms)
    }

    fn took(got: &Done) -> Taken {
        got.taken
    }

    async fn ask(&self, org: &str, target: &Candidate, key: Option<&ApiKey>) -> Result<Done, Fault> {
        let at = Place { org, conversation: self.request_id, id: &self.input.file };
        let found = self.files.find(&at, self.key).await.or_else(|error| match error {
            FilesError::Broken | FilesError::Sealed(_) | FilesError::Address(_) => Ok(None),
            FilesError::Broker(_) => {
                tracing::warn!(request = self.request_id, %error, "audio cannot be read");
                let message = "the audio cannot be read just now: ask again";
                Err(Fault::new(ErrorCategory::Internal, "audio_unavailable", message))
            }
        })?;
        let Some(found) = found else {
            let message = "the audio is not kept any more, or is none of whose request it is: send it again";
            return Err(Fault::new(ErrorCategory::NotFound, "audio_gone", message));
        };
        let bytes = found.size.unwrap_or(self.input.bytes);
        let audio = found.bytes().map_err(|error| std::io::Error::other(error.to_string())).boxed();
        let transcribing =
            Transcribing { org, model: &target.model, kind: self.kind, input: &self.input, bytes, audio };
        let transcribed = target.provider.transcribe(transcribing, key).await?;
        let output = written(&TranscriptionOutput { text: transcribed.text })?;
        Ok(Done { model: transcribed.model, output, taken: taken(transcribed.usage, transcribed.audio_ms) })
    }
}
