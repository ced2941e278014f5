//! Moderation: whether texts and pictures are harmful, and how.

use async_trait::async_trait;
use symbia_events::{
    SubjectKey,
    integrations::{ErrorCategory, ModerationInput, PromptPart, TaskKind, Usage},
};
use symbia_nats::{files::FilesError, pictures::Pictures};

use super::{
    super::{
        accounts::Taken,
        desk::Wish,
        pictures::brought,
        provider::{ApiKey, Fault, Moderating, Provider},
        routes::Candidate,
    },
    Done, written,
};

/// What is to be looked at.
pub(super) struct Moderation(ModerationInput);

impl Moderation {
    /// With the pictures that are kept in their places.
    pub async fn of(
        mut input: ModerationInput,
        pictures: &Pictures,
        (org, key): (&str, &SubjectKey),
    ) -> Result<Result<Self, Fault>, FilesError> {
        if let ModerationInput::Parts(parts) = &mut input {
            for part in parts {
                let PromptPart::Image { url } = part else { continue };
                if let Err(fault) = brought(pictures, org, Some(key), url).await? {
                    return Ok(Err(fault));
                }
            }
        }
        Ok(Ok(Moderation(input)))
    }

    fn usage(&self) -> Usage {
        let tokens = self.0.estimated_tokens();
        Usage { prompt_tokens: tokens, total_tokens: tokens, estimated: true, ..Usage::default() }
    }
}

#[async_trait]
impl Wish for Moderation {
    type Got = Done;

    fn usual(provider: &dyn Provider) -> String {
        provider.default_model_for(TaskKind::Moderation).unwrap_or_default().to_owned()
    }

    fn able() -> Option<fn(&dyn Provider, bool) -> bool> {
        Some(|provider, named| provider.takes(TaskKind::Moderation, named))
    }

    fn nobody() -> Option<Fault> {
        let message = "no provider at hand moderates: start the platform with OPENAI_API_KEY, or with OPENAI_BASE_URL of a \
                       server that has POST /moderations, or keep a key of OpenAI's with POST /api/credentials";
        Some(Fault::new(ErrorCategory::NotFound, "no_provider", message))
    }

    fn texts(&mut self) -> Vec<&mut String> {
        match &mut self.0 {
            ModerationInput::One(text) => vec![text],
            ModerationInput::Many(texts) => texts.iter_mut().collect(),
            ModerationInput::Parts(parts) => {
                let text = |part| match part {
                    &mut PromptPart::Text { ref mut text } => Some(text),
                    PromptPart::Image { .. } => None,
                };
                parts.iter_mut().filter_map(text).collect()
            }
        }
    }

    fn expected(&self) -> Taken {
        Taken { is_task: true, ..self.usage().into() }
    }

    fn took(got: &Done) -> Taken {
        got.taken
    }

    async fn ask(&self, org: &str, target: &Candidate, key: Option<&ApiKey>) -> Result<Done, Fault> {
        let moderated = target.provider.moderate(Moderating { org, model: &target.model, input: &self.0 }, key).await?;
        let output = written(&moderated.output)?;
        Ok(Done { model: moderated.model, output, taken: Taken { is_task: true, ..self.usage().into() } })
    }
}
