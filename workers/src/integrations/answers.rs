//! Answers that may be given again: to the same prompt of the same organization, for as long as its askers allow. All processes
//! share them, in a KV bucket, sealed with the key of whose prompt it was: with that key they are gone.

use std::{sync::Arc, time::Duration};

use async_nats::{
    Client, HeaderMap,
    jetstream::{self, kv},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use symbia_events::{
    KeyRing, OrgId, Personal,
    integrations::{FinishReason, PromptOptions, Usage},
};
use symbia_nats::topology::ANSWERS_BUCKET;
use time::OffsetDateTime;
use tokio::sync::OnceCell;

use super::{provider::Answer, router::Work};
use crate::content_keys::ContentKeys;

/// Longest entry in bytes.
const ROOM: usize = 1 << 20;
/// How long the broker may take: without it, the model is asked.
const PATIENCE: Duration = Duration::from_millis(500);
/// What the keyed hash of a question is of.
const PURPOSE: &str = "integrations.answer";

/// The answers. Cheap to clone.
#[derive(Clone)]
pub(super) struct Answers(Arc<Inner>);

struct Inner {
    js: jetstream::Context,
    store: OnceCell<kv::Store>,
    keys: Arc<KeyRing>,
    content_keys: ContentKeys,
}

/// What is sealed. It names its place, so that it counts nowhere else.
#[derive(Serialize, Deserialize)]
struct Kept {
    place: String,
    answer: Answer,
    // Who gave it: provider and model.
    by: String,
    // Seconds since 1970.
    since: i64,
}

/// What tells prompts apart, and how old an answer may be.
pub(super) struct Question {
    place: String,
    lasts: Duration,
}

impl Answers {
    /// The answers that all processes of a broker share.
    pub fn new(client: Client, keys: Arc<KeyRing>, content_keys: ContentKeys) -> Self {
        let js = jetstream::new(client);
        Answers(Arc::new(Inner { js, store: OnceCell::new(), keys, content_keys }))
    }

    /// What a request asks; none: it wants an answer of its own.
    pub fn question(&self, work: &Work<'_>) -> Option<Question> {
        let asked = &work.asked.options;
        let lasts = Duration::from_secs(asked.cache_seconds?.into());
        if asked.unstored {
            return None;
        }
        let turn = |turn: &super::provider::Turn| {
            json!([turn.role, turn.content, turn.name, turn.parts, turn.tool_calls, turn.tool_call_id])
        };
        let options = PromptOptions { cache_seconds: None, ..asked.clone() };
        let request = work.request;
        let asked = json!({
            "provider": request.provider, "model": request.model, "fallbacks": request.fallbacks,
            "turns": work.asked.turns.iter().map(turn).collect::<Vec<_>>(), "sampling": request.sampling, "options": options,
            "credential": request.credential_id,
        });
        Some(Question { place: self.place(&work.event.orgid, &asked.to_string()), lasts })
    }

    // Subjects are seen by operators of the broker, who must not be able to guess prompts.
    fn place(&self, org: &OrgId, asked: &str) -> String {
        let purpose = format!("{PURPOSE} {org}");
        format!("{org}.{}", self.0.keys.lookup_hash(&purpose, asked))
    }

    /// The answer that was given, if it is young enough and can be read, and who gave it. It takes no tokens.
    pub async fn find(&self, question: &Question) -> Option<(Answer, String)> {
        let found = tokio::time::timeout(PATIENCE, self.kept(question)).await;
        let found = found.unwrap_or_else(|_| Err(anyhow::anyhow!("the broker does not answer")));
        let kept = found.unwrap_or_else(|error| {
            tracing::warn!(%error, "answers of before are not looked for");
            None
        })?;
        Some((Answer { usage: Usage::default(), cached: true, ..kept.answer }, kept.by))
    }

    async fn kept(&self, question: &Question) -> anyhow::Result<Option<Kept>> {
        let Some(entry) = self.store().await?.get(question.place.as_str()).await? else { return Ok(None) };
        let sealed: Personal = serde_json::from_slice(&entry)?;
        let Some(key) = self.0.content_keys.key(&sealed.kid).await? else { return Ok(None) };
        let kept: Kept = serde_json::from_str(&key.open(&sealed)?)?;
        let age = OffsetDateTime::now_utc().unix_timestamp().saturating_sub(kept.since);
        let young = u64::try_from(age).is_ok_and(|age| age < question.lasts.as_secs());
        Ok((young && kept.place == question.place).then_some(kept))
    }

    /// Keeps an answer that came to its end, for as long as its asker would take it.
    pub async fn keep(&self, question: Question, work: &Work<'_>, answer: &Answer, by: String) {
        if answer.cached || !matches!(answer.finish_reason, FinishReason::Stop | FinishReason::ToolCalls) {
            return;
        }
        let since = OffsetDateTime::now_utc().unix_timestamp();
        let kept = Kept { place: question.place, answer: answer.clone(), by, since };
        let keeping = tokio::time::timeout(PATIENCE, self.put(&kept, work, question.lasts)).await;
        let kept = keeping.unwrap_or_else(|_| Err(anyhow::anyhow!("the broker does not answer")));
        if let Err(error) = kept {
            tracing::warn!(%error, "an answer is not kept");
        }
    }

    async fn put(&self, kept: &Kept, work: &Work<'_>, lasts: Duration) -> anyhow::Result<()> {
        let sealed = serde_json::to_vec(&work.asked.key.seal(&serde_json::to_string(kept)?))?;
        if sealed.len() > ROOM {
            return Ok(());
        }
        let mut headers = HeaderMap::new();
        headers.insert("Nats-TTL", lasts.as_secs().max(1).to_string());
        let subject = format!("$KV.{ANSWERS_BUCKET}.{}", kept.place);
        self.0.js.publish_with_headers(subject, headers, sealed.into()).await?.await?;
        Ok(())
    }

    async fn store(&self) -> anyhow::Result<&kv::Store> {
        Ok(self.0.store.get_or_try_init(|| self.0.js.get_key_value(ANSWERS_BUCKET)).await?)
    }
}
