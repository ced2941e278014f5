//! The image aggregate: a text that one model makes pictures of, and that has exactly one end (integrations.md §28).

use serde::{Deserialize, Serialize};
use symbia_events::{
    Personal,
    integrations::{
        CompletionContext, Cost, ErrorCategory, GuardrailFinding, ImageCompleted, ImageEvent, ImageFailed,
        ImageRequested, ImageShape, Upstream, Usage,
    },
};
use time::OffsetDateTime;

use super::{
    MAX_TEXT, Phase,
    asker::{in_own_name, is_deadline},
};
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

/// Most pictures of one request.
pub const MAX_PICTURES: u32 = 10;
/// Most bytes of pictures: sealed, they must fit into an event.
pub const MAX_PICTURED: usize = 4 * 1024 * 1024;
/// Longest word of a shape.
const LONGEST_WORD: usize = 64;

domain_commands! {
    /// What can be done about an image request.
    ImageCommand: Integrations / "image" {
        /// Has a model make pictures.
        RequestImage = "symbia.cmd.integrations.request-image.v1" {
            request_id: String,
            #[serde(default)]
            provider: Option<String>,
            #[serde(default)]
            model: Option<String>,
            prompt: Personal,
            count: u32,
            #[serde(default)]
            shape: ImageShape,
            #[serde(default)]
            credential_id: Option<String>,
            /// RFC 3339.
            #[serde(default)]
            deadline: Option<String>,
            #[serde(default)]
            context: CompletionContext,
        }
        /// The model has made them.
        CompleteImage = "symbia.cmd.integrations.complete-image.v1" {
            request_id: String,
            provider: String,
            model: String,
            pictures: Personal,
            count: u32,
            usage: Usage,
            #[serde(default)]
            cost: Option<Cost>,
            total_ms: u64,
            #[serde(default)]
            credential_id: Option<String>,
            credential_source: String,
            #[serde(default)]
            budgets: Vec<String>,
            #[serde(default)]
            guarded: Vec<GuardrailFinding>,
        }
        /// There will be none.
        FailImage = "symbia.cmd.integrations.fail-image.v1" {
            request_id: String,
            category: ErrorCategory,
            #[serde(default)]
            code: Option<String>,
            #[serde(default)]
            message: Option<Personal>,
            #[serde(default)]
            upstream: Option<Upstream>,
            #[serde(default)]
            retry_after_ms: Option<u64>,
            /// What it took all the same, and cost.
            #[serde(default)]
            usage: Option<Usage>,
            #[serde(default)]
            cost: Option<Cost>,
            #[serde(default)]
            budgets: Vec<String>,
            #[serde(default)]
            guarded: Vec<GuardrailFinding>,
        }
    }
}

/// An image request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Image {
    requested_by: String,
    context: CompletionContext,
    phase: Phase,
}

impl Image {
    fn request(&self, mut c: RequestImage, by: &Actor) -> Result<Decision<ImageEvent>, Rejection> {
        if self.phase != Phase::Unknown {
            return Err(Rejection::new("CONFLICT", "this request id is in use"));
        }
        in_own_name(&mut c.context, by, ("prompt", &c.prompt))?;
        check(&c)?;
        Ok(Decision::one(ImageRequested {
            request_id: c.request_id,
            provider: c.provider,
            model: c.model,
            prompt: c.prompt,
            count: c.count,
            shape: c.shape,
            credential_id: c.credential_id,
            deadline: c.deadline,
            context: c.context,
            requested_by: by.subject().to_owned(),
        }))
    }

    fn worked_on(&self, by: &Actor) -> Result<(), Rejection> {
        if !by.is_platform() {
            return Err(Rejection::forbidden("image requests are worked on by the platform"));
        }
        match self.phase {
            Phase::Unknown => Err(Rejection::not_found("image request")),
            Phase::Over => Err(Rejection::new("IMAGE_OVER", "the image request has its end already")),
            Phase::Waiting | Phase::Running => Ok(()),
        }
    }

    fn complete(&self, c: CompleteImage) -> Result<Decision<ImageEvent>, Rejection> {
        if c.pictures.text_len() > MAX_PICTURED {
            let text = format!("pictures: {} bytes, the limit is {MAX_PICTURED}", c.pictures.text_len());
            return Err(Rejection::new("TOO_LARGE", text));
        }
        Ok(Decision::one(ImageCompleted {
            request_id: c.request_id,
            provider: c.provider,
            model: c.model,
            pictures: c.pictures,
            count: c.count,
            usage: c.usage,
            cost: c.cost,
            total_ms: c.total_ms,
            credential_id: c.credential_id,
            credential_source: c.credential_source,
            context: self.context.clone(),
            requested_by: self.requested_by.clone(),
            budgets: c.budgets,
            guarded: c.guarded,
        }))
    }

    fn fail(&self, c: FailImage) -> Decision<ImageEvent> {
        Decision::one(ImageFailed {
            request_id: c.request_id,
            category: c.category,
            code: c.code,
            message: c.message,
            retryable: c.category.is_retryable(),
            status_code: c.category.status(),
            upstream: c.upstream,
            retry_after_ms: c.retry_after_ms,
            context: self.context.clone(),
            requested_by: self.requested_by.clone(),
            usage: c.usage,
            cost: c.cost,
            budgets: c.budgets,
            guarded: c.guarded,
        })
    }
}

fn check(c: &RequestImage) -> Result<(), Rejection> {
    let s = &c.shape;
    let words = [&s.size, &s.quality, &s.style, &s.background, &s.output_format, &s.response_format];
    let word = |word: &String| (1..=LONGEST_WORD).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_graphic());
    let limits = [
        ((1..=MAX_PICTURES).contains(&c.count), "count: 1 to 10"),
        (c.prompt.text_len() <= MAX_TEXT, "prompt: at most 131072 bytes"),
        (words.into_iter().flatten().all(word), "shape: words of 1 to 64 visible characters"),
        (s.output_compression.is_none_or(|kept| kept <= 100), "outputCompression: 0 to 100"),
        (is_deadline(c.deadline.as_ref()), "deadline: an RFC 3339 time"),
    ];
    match limits.iter().find(|(kept, _)| !kept) {
        Some((_, limit)) => Err(Rejection::invalid(*limit)),
        None => Ok(()),
    }
}

impl Aggregate for Image {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("requestId");
    type Command = ImageCommand;
    type Event = ImageEvent;

    fn begins(command: &ImageCommand) -> bool {
        matches!(command, ImageCommand::RequestImage(_))
    }

    fn has_ended(&self) -> bool {
        self.phase == Phase::Over
    }

    fn apply(&mut self, event: &ImageEvent) {
        match event {
            ImageEvent::ImageRequested(e) => {
                self.requested_by.clone_from(&e.requested_by);
                self.context.clone_from(&e.context);
                self.phase = Phase::Waiting;
            }
            ImageEvent::ImageCompleted(_) | ImageEvent::ImageFailed(_) => self.phase = Phase::Over,
        }
    }

    fn decide(
        &self,
        command: ImageCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<ImageEvent>, Rejection> {
        match command {
            ImageCommand::RequestImage(c) => self.request(c, by),
            ImageCommand::CompleteImage(c) => {
                self.worked_on(by)?;
                self.complete(c)
            }
            ImageCommand::FailImage(c) => {
                self.worked_on(by)?;
                Ok(self.fail(c))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use symbia_events::{ActorType, SubjectKey};

    use super::*;
    use crate::testing::{AT, given};

    fn ada() -> Actor {
        Actor { id: "ada".into(), kind: ActorType::User, ..Actor::service("x") }
    }

    fn request() -> RequestImage {
        RequestImage {
            request_id: "r1".into(),
            provider: None,
            model: None,
            prompt: SubjectKey::from_bytes("ada", [1; 32]).seal("a kingfisher"),
            count: 1,
            shape: ImageShape::default(),
            credential_id: None,
            deadline: None,
            context: CompletionContext::default(),
        }
    }

    fn fail() -> FailImage {
        FailImage {
            request_id: "r1".into(),
            category: ErrorCategory::ContentFilter,
            code: None,
            message: None,
            upstream: None,
            retry_after_ms: None,
            usage: None,
            cost: None,
            budgets: Vec::new(),
            guarded: Vec::new(),
        }
    }

    #[test]
    fn an_image_request_has_one_end_and_the_platform_gives_it() {
        let requested = Image::default().decide(request().into(), &ada(), AT).unwrap().events;
        given::<Image>(requested.clone()).when(fail(), &ada()).rejected("FORBIDDEN");
        let mut state = Image::default();
        requested.iter().for_each(|event| state.apply(event));
        let failed = state.decide(fail().into(), &Actor::service("x"), AT).unwrap().events;
        given::<Image>(requested.into_iter().chain(failed)).when(fail(), &Actor::service("x")).rejected("IMAGE_OVER");
    }

    #[test]
    fn what_somebody_else_sealed_and_what_makes_no_sense_are_refused() {
        let foreign = RequestImage { prompt: SubjectKey::from_bytes("bob", [2; 32]).seal("x"), ..request() };
        given::<Image>([]).when(foreign, &ada()).rejected("WRONG_KEY");
        let shape = |shape| RequestImage { shape, ..request() };
        for wrong in [
            RequestImage { count: 0, ..request() },
            RequestImage { count: MAX_PICTURES + 1, ..request() },
            RequestImage { deadline: Some("soon".into()), ..request() },
            shape(ImageShape { size: Some("a b".into()), ..ImageShape::default() }),
            shape(ImageShape { output_compression: Some(101), ..ImageShape::default() }),
        ] {
            given::<Image>([]).when(wrong, &ada()).rejected("VALIDATION_FAILED");
        }
        let context = CompletionContext { user_id: Some("bob".into()), ..CompletionContext::default() };
        given::<Image>([]).when(RequestImage { context, ..request() }, &ada()).rejected("FORBIDDEN");
    }
}
