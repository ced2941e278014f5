//! Answers that may be given again: to the same prompt of the same organization, for as long as its askers allow. All processes
//! share them, in a KV bucket, sealed with the key of whose prompt it was: with that key they are gone.

use std::{sync::Arc, time::Duration};

use async_nats::{
    Client, HeaderMap,
    jetstream::{self, consumer::pull, kv},
};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::json;
use symbia_events::{
    KeyRing, OrgId, Personal,
    integrations::{FinishReason, PromptOptions, Usage},
};
use symbia_nats::topology::ANSWERS_BUCKET;
use time::OffsetDateTime;
use tokio::sync::OnceCell;

use super::{
    meaning::Meaning,
    provider::{Answer, Turn},
    router::Work,
};
use crate::content_keys::ContentKeys;

/// Longest entry in bytes.
const ROOM: usize = 1 << 20;
/// The same of one that may be given to what means the same: those around a question are all read.
const ROOM_AROUND: usize = 32 * 1024;
/// Most answers that are compared with a question, and how many come at a time.
const MOST_AROUND: usize = 5_000;
const AT_ONCE: usize = 256;
/// How long the reader that was made for it stays.
const LOOKED_THROUGH: Duration = Duration::from_secs(5);
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
    // What the message means that it was given to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    meaning: Option<Meaning>,
}

/// What tells prompts apart, and how old an answer may be.
pub(super) struct Question {
    place: String,
    // Where those are that differ from it in the last message alone.
    around: Option<String>,
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
        let turn =
            |turn: &Turn| json!([turn.role, turn.content, turn.name, turn.parts, turn.tool_calls, turn.tool_call_id]);
        let similar = asked.cache_similarity.is_some();
        let options = PromptOptions { cache_seconds: None, cache_similarity: None, ..asked.clone() };
        let request = work.request;
        let about = |turns: &[Turn]| {
            json!({
                "provider": request.provider, "model": request.model, "fallbacks": request.fallbacks,
                "turns": turns.iter().map(turn).collect::<Vec<_>>(), "sampling": request.sampling, "options": options,
                "credential": request.credential_id,
            })
        };
        let org = &work.event.orgid;
        let whole = self.hash(org, &about(&work.asked.turns).to_string());
        // Those of a meaning stand together, apart from those that are to be the same.
        // Who says it is not in what it means.
        let who = work.asked.turns.last().and_then(|turn| turn.name.as_ref());
        let before = work.last_message().filter(|_| similar).map(|(_, before)| json!([about(before), who]));
        let around = before.map(|before| format!("{org}.{}", self.hash(org, &json!(["around", before]).to_string())));
        let place = format!("{}.{whole}", around.as_deref().unwrap_or(org.as_str()));
        Some(Question { place, around, lasts })
    }

    // Subjects are seen by operators of the broker, who must not be able to guess prompts.
    fn hash(&self, org: &OrgId, asked: &str) -> String {
        self.0.keys.lookup_hash(&format!("{PURPOSE} {org}"), asked)
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

    /// The answer to the nearest message around a question that is near enough, and who gave it.
    pub async fn near(&self, question: &Question, meaning: &Meaning, least: f64) -> Option<(Answer, String)> {
        let mut nearest = None;
        let looked = tokio::time::timeout(PATIENCE, self.look_around(question, meaning, least, &mut nearest)).await;
        if let Ok(Err(error)) = looked {
            tracing::warn!(%error, "answers of before are not looked for");
        }
        // What was found until then will do.
        let (similarity, kept) = nearest?;
        let answer = Answer { usage: Usage::default(), cached: true, similarity: Some(similarity), ..kept.answer };
        Some((answer, kept.by))
    }

    async fn look_around(
        &self,
        question: &Question,
        meaning: &Meaning,
        least: f64,
        nearest: &mut Option<(f64, Kept)>,
    ) -> anyhow::Result<()> {
        let Some(around) = &question.around else { return Ok(()) };
        let prefix = format!("$KV.{ANSWERS_BUCKET}.");
        let config = pull::Config {
            filter_subject: format!("{prefix}{around}.*"),
            deliver_policy: jetstream::consumer::DeliverPolicy::LastPerSubject,
            ack_policy: jetstream::consumer::AckPolicy::None,
            inactive_threshold: LOOKED_THROUGH,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let entries = self.store().await?.stream.create_consumer(config).await?;
        let most = usize::try_from(entries.cached_info().num_pending).unwrap_or(MOST_AROUND).min(MOST_AROUND);
        if most == 0 {
            return Ok(());
        }
        let mut entries = entries.stream().max_messages_per_batch(AT_ONCE).messages().await?.take(most);
        while let Some(entry) = entries.next().await {
            let entry = entry.map_err(|error| anyhow::anyhow!(error))?;
            let Some(place) = entry.subject.strip_prefix(&prefix) else { continue };
            let kept = self.opened(place, &entry.payload, question.lasts).await;
            // One that cannot be read any more is none.
            let Ok(Some(kept)) = kept else { continue };
            let Some(similarity) = kept.meaning.as_ref().and_then(|other| other.similarity(meaning)) else { continue };
            if similarity >= least && nearest.as_ref().is_none_or(|(other, _)| similarity > *other) {
                *nearest = Some((similarity, kept));
            }
        }
        Ok(())
    }

    async fn kept(&self, question: &Question) -> anyhow::Result<Option<Kept>> {
        let Some(entry) = self.store().await?.get(question.place.as_str()).await? else { return Ok(None) };
        self.opened(&question.place, &entry, question.lasts).await
    }

    // What is kept at a place, as long as it is young enough and its key is there.
    async fn opened(&self, place: &str, entry: &[u8], lasts: Duration) -> anyhow::Result<Option<Kept>> {
        let sealed: Personal = serde_json::from_slice(entry)?;
        let Some(key) = self.0.content_keys.key(&sealed.kid).await? else { return Ok(None) };
        let kept: Kept = serde_json::from_str(&key.open(&sealed)?)?;
        let age = OffsetDateTime::now_utc().unix_timestamp().saturating_sub(kept.since);
        let young = u64::try_from(age).is_ok_and(|age| age < lasts.as_secs());
        Ok((young && kept.place == place).then_some(kept))
    }

    /// Keeps an answer that came to its end, for as long as its asker would take it.
    pub async fn keep(
        &self,
        question: Question,
        work: &Work<'_>,
        answer: &Answer,
        (by, meaning): (String, Option<Meaning>),
    ) {
        if answer.cached || !matches!(answer.finish_reason, FinishReason::Stop | FinishReason::ToolCalls) {
            return;
        }
        let since = OffsetDateTime::now_utc().unix_timestamp();
        let kept = Kept { place: question.place, answer: answer.clone(), by, since, meaning };
        let keeping = tokio::time::timeout(PATIENCE, self.put(&kept, work, question.lasts)).await;
        let kept = keeping.unwrap_or_else(|_| Err(anyhow::anyhow!("the broker does not answer")));
        if let Err(error) = kept {
            tracing::warn!(%error, "an answer is not kept");
        }
    }

    async fn put(&self, kept: &Kept, work: &Work<'_>, lasts: Duration) -> anyhow::Result<()> {
        let sealed = serde_json::to_vec(&work.asked.key.seal(&serde_json::to_string(kept)?))?;
        if sealed.len() > if kept.meaning.is_some() { ROOM_AROUND } else { ROOM } {
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
