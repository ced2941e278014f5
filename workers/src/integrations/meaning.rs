//! Answers to a message of the same meaning (integrations.md §28): the last message of the user is compared by its vector with
//! those that were answered before; all that comes before it, the model, its tools and parameters must be the same.
//!
//! The vector is asked for as any other, on record and counted: of the route `embeddings` where the organization has one, else of
//! the model on this machine. Where there is neither, the model is asked.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::json;
use symbia_commands::integrations::{EmbeddingCommand, RequestEmbedding};
use symbia_events::{
    AggregateRef, CommandId, Service, commit,
    integrations::{CompletionContext, EmbeddingCompleted, EmbeddingEvent, PromptRole},
};
use symbia_nats::{read, topology};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::{
    answers::Question,
    provider::{Answer, Turn},
    router::{LlmRouter, Work, router},
};

/// The route of an organization whose models make such vectors.
const ROUTE: &str = "embeddings";
/// The provider whose models are on this machine.
const OWN: &str = "symbia-labs";
/// How long a vector is waited for: without one, the model is asked.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a message means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Meaning {
    // The provider and model that say so: those of others mean nothing beside it.
    by: String,
    vector: Vec<f32>,
}

impl Meaning {
    /// The cosine of the angle between two vectors; none: they cannot be compared.
    pub fn similarity(&self, other: &Meaning) -> Option<f64> {
        if self.by != other.by || self.vector.len() != other.vector.len() {
            return None;
        }
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let lengths = (dot(&self.vector, &self.vector) * dot(&other.vector, &other.vector)).sqrt();
        (lengths > 0.0).then(|| (dot(&self.vector, &other.vector) / lengths).clamp(-1.0, 1.0))
    }
}

impl Work<'_> {
    /// The last message, when it is text of the user's alone, and those before it.
    pub fn last_message(&self) -> Option<(&str, &[Turn])> {
        let (last, before) = self.asked.turns.split_last()?;
        let plain = last.role == PromptRole::User && last.parts.is_empty() && !last.content.trim().is_empty();
        plain.then_some((last.content.as_str(), before))
    }
}

impl LlmRouter {
    /// An answer of before that will do: to the same question, else to one of the same meaning.
    pub(super) async fn found(&self, work: &Work<'_>, question: &Question) -> Option<(Answer, String)> {
        if let Some(found) = self.answers.find(question).await {
            return Some(found);
        }
        let least = work.asked.options.cache_similarity?;
        let meaning = match tokio::time::timeout(PATIENCE, self.meaning(work)).await {
            Ok(Ok(meaning)) => meaning?,
            Ok(Err(error)) => {
                tracing::warn!(request = work.request.request_id, %error, "no vector for a message");
                return None;
            }
            Err(_) => return None,
        };
        let found = self.answers.near(question, &meaning, least).await;
        work.meaning.get_or_init(|| meaning);
        found
    }

    async fn meaning(&self, work: &Work<'_>) -> anyhow::Result<Option<Meaning>> {
        let Some((text, _)) = work.last_message() else { return Ok(None) };
        let org = work.event.orgid.as_str();
        let of_route = self.accounts.route(org, ROUTE).await?.map(|_| (None, Some(ROUTE)));
        let asked = of_route.unwrap_or((Some(OWN), None));
        let Some(made) = self.embedded(work, asked, text).await? else { return Ok(None) };
        let numbers = BASE64.decode(work.asked.key.open(&made.vectors)?)?;
        let number = |bytes: &[u8]| bytes.try_into().map(f32::from_le_bytes);
        let vector: Vec<f32> = numbers.chunks_exact(4).map(number).collect::<Result<_, _>>()?;
        Ok(Some(Meaning { by: format!("{}/{}", made.provider, made.model), vector }))
    }

    // The vector of a text, as the log has it when it was made.
    async fn embedded(
        &self,
        work: &Work<'_>,
        (provider, model): (Option<&str>, Option<&str>),
        text: &str,
    ) -> anyhow::Result<Option<EmbeddingCompleted>> {
        let asker = work.asker();
        let name = json!(["meaning", work.request.request_id]).to_string();
        let request = RequestEmbedding {
            request_id: Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string(),
            provider: provider.map(str::to_owned),
            model: model.map(str::to_owned),
            inputs: work.asked.key.seal(&json!([text]).to_string()),
            count: 1,
            dimensions: None,
            credential_id: None,
            deadline: Some((OffsetDateTime::now_utc() + PATIENCE).format(&Rfc3339)?),
            context: CompletionContext {
                user_id: Some(asker.principal.to_owned()),
                assistant_id: asker.assistant.map(str::to_owned),
                key_id: asker.key.map(str::to_owned),
                tags: work.request.context.tags.clone(),
                ..CompletionContext::default()
            },
        };
        let to = AggregateRef::new(Service::Integrations, work.event.orgid.clone(), "embedding", &request.request_id)?;
        let (stream, subject) = (to.service.event_stream(), to.event_subject());
        // Heard from now on, and then looked for: nothing falls between.
        let mut notices = self.client.subscribe(topology::stored_subject(&subject)).await?;
        let id = CommandId::derived(work.event.id, "meaning");
        let outcome = self.sender.send(Some(work.event), &to, &EmbeddingCommand::from(request), &router(), id).await?;
        // Whoever worked on the request before has asked.
        if outcome.rejection.is_some_and(|rejection| rejection.code != "CONFLICT") {
            return Ok(None);
        }
        loop {
            if let Some(stored) = read::last(&self.client, &stream, &subject).await? {
                for signed in commit::decode(&self.keys, &stored.payload)? {
                    match signed.event.decode()? {
                        EmbeddingEvent::EmbeddingCompleted(made) => return Ok(Some(made)),
                        EmbeddingEvent::EmbeddingFailed(_) => return Ok(None),
                        EmbeddingEvent::EmbeddingRequested(_) => {}
                    }
                }
            }
            anyhow::ensure!(notices.next().await.is_some(), "the connection is closed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_of_one_model_are_compared_by_their_angle() {
        let meaning = |by: &str, vector: &[f32]| Meaning { by: by.to_owned(), vector: vector.to_owned() };
        let one = meaning("a", &[1.0, 0.0]);
        let near = |other: Meaning| one.similarity(&other);
        assert_eq!(near(meaning("a", &[2.0, 0.0])), Some(1.0));
        assert_eq!(near(meaning("a", &[0.0, 3.0])), Some(0.0));
        assert_eq!(near(meaning("a", &[-1.0, 0.0])), Some(-1.0));
        assert_eq!(near(meaning("b", &[1.0, 0.0])), None);
        assert_eq!((near(meaning("a", &[1.0])), near(meaning("a", &[0.0, 0.0]))), (None, None));
    }
}
