//! The embedding aggregate: texts, and exactly one end (integrations.md §25.4).
//!
//! There are no attempts: to read the same texts twice gives the same vectors, so a worker that takes a request over
//! simply asks again, and whose answer comes first is the end.

use serde::{Deserialize, Serialize};
use symbia_events::{
    Personal,
    integrations::{
        CompletionContext, Cost, EmbeddingCompleted, EmbeddingEvent, EmbeddingFailed, EmbeddingRequested,
        ErrorCategory, GuardrailFinding, Upstream, Usage,
    },
};
use time::OffsetDateTime;

use super::{
    Phase,
    asker::{in_own_name, is_deadline},
};
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

/// Most texts of one embedding; who has more asks several times.
pub const MAX_INPUTS: u32 = 64;
/// Most bytes of texts, and of vectors: sealed, each must fit into an event.
pub const MAX_EMBEDDED: usize = 2 * 1024 * 1024;

domain_commands! {
    /// What an embedding can be asked to do. All but the request come from workers.
    EmbeddingCommand: Integrations / "embedding" {
        /// Asks a model.
        RequestEmbedding = "symbia.cmd.integrations.request-embedding.v1" {
            request_id: String,
            #[serde(default)]
            provider: Option<String>,
            #[serde(default)]
            model: Option<String>,
            /// A JSON array of texts.
            inputs: Personal,
            count: u32,
            #[serde(default)]
            dimensions: Option<u32>,
            #[serde(default)]
            credential_id: Option<String>,
            /// RFC 3339.
            #[serde(default)]
            deadline: Option<String>,
            #[serde(default)]
            context: CompletionContext,
        }
        /// The model has read them.
        CompleteEmbedding = "symbia.cmd.integrations.complete-embedding.v1" {
            request_id: String,
            provider: String,
            model: String,
            vectors: Personal,
            dimensions: u32,
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
        /// There will be no vectors.
        FailEmbedding = "symbia.cmd.integrations.fail-embedding.v1" {
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
            #[serde(default)]
            budgets: Vec<String>,
            #[serde(default)]
            guarded: Vec<GuardrailFinding>,
        }
    }
}

/// An embedding.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Embedding {
    requested_by: String,
    count: u32,
    context: CompletionContext,
    phase: Phase,
}

impl Embedding {
    fn request(&self, mut c: RequestEmbedding, by: &Actor) -> Result<Decision<EmbeddingEvent>, Rejection> {
        if self.phase != Phase::Unknown {
            return Err(Rejection::new("CONFLICT", "this request id is in use"));
        }
        in_own_name(&mut c.context, by, ("inputs", &c.inputs))?;
        if !(1..=MAX_INPUTS).contains(&c.count) {
            return Err(Rejection::invalid(format!("count: 1 to {MAX_INPUTS}")));
        }
        if c.inputs.text_len() > MAX_EMBEDDED {
            return Err(too_large("inputs", c.inputs.text_len()));
        }
        if c.dimensions == Some(0) {
            return Err(Rejection::invalid("dimensions: at least 1"));
        }
        if !is_deadline(c.deadline.as_ref()) {
            return Err(Rejection::invalid("deadline: an RFC 3339 time"));
        }
        Ok(Decision::one(EmbeddingRequested {
            request_id: c.request_id,
            provider: c.provider,
            model: c.model,
            inputs: c.inputs,
            count: c.count,
            dimensions: c.dimensions,
            credential_id: c.credential_id,
            deadline: c.deadline,
            context: c.context,
            requested_by: by.subject().to_owned(),
        }))
    }

    fn worked_on(&self, by: &Actor) -> Result<(), Rejection> {
        if !by.is_platform() {
            return Err(Rejection::forbidden("embeddings are worked on by the platform"));
        }
        match self.phase {
            Phase::Unknown => Err(Rejection::not_found("embedding")),
            Phase::Over => Err(Rejection::new("EMBEDDING_OVER", "the embedding has its end already")),
            Phase::Waiting | Phase::Running => Ok(()),
        }
    }
}

fn too_large(what: &str, length: usize) -> Rejection {
    Rejection::new("TOO_LARGE", format!("{what}: {length} bytes, the limit is {MAX_EMBEDDED}"))
}

impl Aggregate for Embedding {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("requestId");
    type Command = EmbeddingCommand;
    type Event = EmbeddingEvent;

    fn begins(command: &EmbeddingCommand) -> bool {
        matches!(command, EmbeddingCommand::RequestEmbedding(_))
    }

    fn has_ended(&self) -> bool {
        self.phase == Phase::Over
    }

    fn apply(&mut self, event: &EmbeddingEvent) {
        match event {
            EmbeddingEvent::EmbeddingRequested(e) => {
                self.requested_by.clone_from(&e.requested_by);
                self.count = e.count;
                self.context.clone_from(&e.context);
                self.phase = Phase::Waiting;
            }
            EmbeddingEvent::EmbeddingCompleted(_) | EmbeddingEvent::EmbeddingFailed(_) => self.phase = Phase::Over,
        }
    }

    fn decide(
        &self,
        command: EmbeddingCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<EmbeddingEvent>, Rejection> {
        match command {
            EmbeddingCommand::RequestEmbedding(c) => self.request(c, by),
            EmbeddingCommand::CompleteEmbedding(c) => {
                self.worked_on(by)?;
                if c.vectors.text_len() > MAX_EMBEDDED {
                    return Err(too_large("vectors", c.vectors.text_len()));
                }
                Ok(Decision::one(EmbeddingCompleted {
                    request_id: c.request_id,
                    provider: c.provider,
                    model: c.model,
                    vectors: c.vectors,
                    count: self.count,
                    dimensions: c.dimensions,
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
            EmbeddingCommand::FailEmbedding(c) => {
                self.worked_on(by)?;
                Ok(Decision::one(EmbeddingFailed {
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
                    budgets: c.budgets,
                    guarded: c.guarded,
                }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use symbia_events::{ActorType, SubjectKey};

    use super::*;
    use crate::testing::given;

    fn ada() -> Actor {
        Actor { id: "ada".into(), kind: ActorType::User, ..Actor::service("x") }
    }

    fn request() -> RequestEmbedding {
        RequestEmbedding {
            request_id: "r1".into(),
            provider: None,
            model: None,
            inputs: SubjectKey::from_bytes("ada", [1; 32]).seal("[\"hi\"]"),
            count: 1,
            dimensions: None,
            credential_id: None,
            deadline: None,
            context: CompletionContext::default(),
        }
    }

    fn fail() -> FailEmbedding {
        FailEmbedding {
            request_id: "r1".into(),
            category: ErrorCategory::Timeout,
            code: None,
            message: None,
            upstream: None,
            retry_after_ms: None,
            budgets: Vec::new(),
            guarded: Vec::new(),
        }
    }

    #[test]
    fn an_embedding_has_one_end_and_the_platform_gives_it() {
        let requested = Embedding::default().decide(request().into(), &ada(), crate::testing::AT).unwrap().events;
        given::<Embedding>(requested.clone()).when(fail(), &ada()).rejected("FORBIDDEN");
        let mut state = Embedding::default();
        requested.iter().for_each(|event| state.apply(event));
        let failed = state.decide(fail().into(), &Actor::service("x"), crate::testing::AT).unwrap().events;
        let over = requested.into_iter().chain(failed);
        given::<Embedding>(over).when(fail(), &Actor::service("x")).rejected("EMBEDDING_OVER");
    }

    #[test]
    fn what_somebody_else_sealed_and_what_is_too_much_are_refused() {
        let foreign = RequestEmbedding { inputs: SubjectKey::from_bytes("bob", [2; 32]).seal("[]"), ..request() };
        given::<Embedding>([]).when(foreign, &ada()).rejected("WRONG_KEY");
        given::<Embedding>([]).when(RequestEmbedding { count: 65, ..request() }, &ada()).rejected("VALIDATION_FAILED");
        let context = CompletionContext { user_id: Some("bob".into()), ..CompletionContext::default() };
        given::<Embedding>([]).when(RequestEmbedding { context, ..request() }, &ada()).rejected("FORBIDDEN");
    }
}
