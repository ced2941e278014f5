//! Having the meaning of an answer looked at: by an embedding model, the one on this machine where there is one, or by a judge.
//! Both are requests like any other, in the name of who has the model tried; where neither is to be had, words are graded.

use anyhow::Context;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::json;
use symbia_commands::integrations::{
    CHAT, CompletionCommand, EmbeddingCommand, Grade, Meaning, Output, RequestCompletion, RequestEmbedding, TestCase,
    grade, near, to_judge, verdict, verdict_format,
};
use symbia_events::{
    AggregateRef, CommandId, Event, Service, SubjectKey, commit,
    integrations::{
        CompletionCompleted, CompletionContext, CompletionEvent, EmbeddingCompleted, EmbeddingFailed,
        EvaluationStarted, PromptMessage, PromptOptions, Sampling, Target,
    },
};
use symbia_nats::read;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::{Answered, Evaluator, Tried, told};
use crate::integrations::router::router;

/// Whose vectors are asked for, in turn; none: the default model's.
const VECTORS: [Option<&str>; 2] = [Some("symbia-labs"), None];
/// Longest verdict in tokens.
const VERDICT: u32 = 300;

impl Evaluator {
    /// Has the meaning of an answer looked at; false: its words are all that there is to grade.
    pub(super) async fn looked_at(
        &self,
        event: &Event,
        started: &EvaluationStarted,
        (benchmark, case): Tried,
        key: &SubjectKey,
        answered: &Answered,
    ) -> anyhow::Result<bool> {
        let (Some(meaning), Some(graded)) = (case.meaning(), &answered.request_id) else { return Ok(false) };
        if answered.text.trim().is_empty() {
            return Ok(false);
        }
        match meaning {
            Meaning::Vectors(wanted) => {
                let texts = [wanted, answered.text.as_str()];
                self.ask_vectors(event, started, &case.id, (graded, 0), key.seal(&json!(texts).to_string())).await
            }
            Meaning::Judge(wanted) => {
                let said = to_judge(benchmark, case, wanted, &answered.text);
                self.ask_judge(event, started, &case.id, graded, (key, &said)).await
            }
        }
    }

    async fn ask_vectors(
        &self,
        event: &Event,
        started: &EvaluationStarted,
        case: &str,
        (graded, turn): (&str, usize),
        inputs: symbia_events::Personal,
    ) -> anyhow::Result<bool> {
        let Some(provider) = VECTORS.get(turn) else { return Ok(false) };
        let request = RequestEmbedding {
            request_id: looked_at_by("vectors", graded, turn),
            provider: provider.map(str::to_owned),
            model: None,
            inputs,
            count: 2,
            dimensions: None,
            credential_id: None,
            deadline: Some(deadline(started)?),
            context: context(started, case, graded),
        };
        let to = AggregateRef::new(Service::Integrations, event.orgid.clone(), "embedding", &request.request_id)?;
        let id = CommandId::derived(event.id, &format!("vectors-{turn}"));
        let outcome = self.sender.send(Some(event), &to, &EmbeddingCommand::from(request), &router(), id).await?;
        Ok(outcome.rejection.is_none_or(|rejection| rejection.code == "CONFLICT"))
    }

    async fn ask_judge(
        &self,
        event: &Event,
        started: &EvaluationStarted,
        case: &str,
        graded: &str,
        (key, said): (&SubjectKey, &[(symbia_events::integrations::PromptRole, String)]),
    ) -> anyhow::Result<bool> {
        let judge = started.judge.clone().unwrap_or(Target { provider: None, model: None });
        let options = PromptOptions { format: Some(verdict_format()), ..PromptOptions::default() };
        let texts: Vec<&str> = said.iter().map(|(_, text)| text.as_str()).collect();
        let request = RequestCompletion {
            request_id: looked_at_by("judge", graded, 0),
            provider: judge.provider,
            model: judge.model,
            operation: CHAT.to_owned(),
            messages: said.iter().map(|(role, text)| PromptMessage::text(*role, key.seal(text))).collect(),
            sampling: Sampling { temperature: Some(0.0), max_tokens: Some(VERDICT), ..Sampling::default() },
            stream: false,
            credential_id: None,
            idempotency_key: None,
            deadline: Some(deadline(started)?),
            context: context(started, case, graded),
            prompt_digest: key.digest(&json!(texts).to_string()),
            options: Some(key.seal(&serde_json::to_string(&options)?)),
            fallbacks: Vec::new(),
        };
        let to = AggregateRef::new(Service::Integrations, event.orgid.clone(), "completion", &request.request_id)?;
        let id = CommandId::derived(event.id, "judge");
        let outcome = self.sender.send(Some(event), &to, &CompletionCommand::from(request), &router(), id).await?;
        Ok(outcome.rejection.is_none_or(|rejection| rejection.code == "CONFLICT"))
    }

    /// A judge has spoken.
    pub(super) async fn judged(&self, event: &Event, done: &CompletionCompleted) -> anyhow::Result<()> {
        let said = match self.content_keys.key(&done.content.kid).await? {
            Some(key) => key.open(&done.content).ok(),
            None => None,
        };
        let given = said.as_deref().and_then(verdict).ok_or("the judge gave no score");
        self.graded(event, &done.context, |_, _| given.map_err(str::to_owned)).await
    }

    /// Here are the vectors.
    pub(super) async fn measured(&self, event: &Event, done: &EmbeddingCompleted) -> anyhow::Result<()> {
        let opened = match self.content_keys.key(&done.vectors.kid).await? {
            Some(key) => key.open(&done.vectors).ok().and_then(|text| BASE64.decode(text).ok()),
            None => None,
        };
        let number = |four: &[u8]| f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
        let numbers: Vec<f32> = opened.unwrap_or_default().chunks_exact(4).map(number).collect();
        let (expected, answered) = numbers.split_at(numbers.len() / 2);
        let there = !numbers.is_empty() && expected.len() == done.dimensions as usize;
        let graded = |case: &TestCase, text: &str| match there {
            true => Ok(near(case, text, expected, answered)),
            false => Err("its vectors cannot be read".to_owned()),
        };
        self.graded(event, &done.context, graded).await
    }

    /// There are none: the next model is asked, and after the last one words are graded.
    pub(super) async fn unmeasured(&self, event: &Event, failed: &EmbeddingFailed) -> anyhow::Result<()> {
        let context = &failed.context;
        let Some(graded) = &context.graded_id else { return Ok(()) };
        let turn = (0..VECTORS.len()).find(|turn| looked_at_by("vectors", graded, *turn) == failed.request_id);
        if let Some((started, (_, case))) = self.case_of(event, context).await?
            && let Some(Meaning::Vectors(wanted)) = case.meaning()
            && let Some((key, answered)) = self.answer(event, graded).await?
        {
            let inputs = key.seal(&json!([wanted, answered.text]).to_string());
            let next = (graded.as_str(), turn.map_or(VECTORS.len(), |turn| turn + 1));
            if self.ask_vectors(event, &started, &case.id, next, inputs).await? {
                return Ok(());
            }
        }
        self.graded(event, context, |_, _| Err("no model makes vectors".to_owned())).await
    }

    /// What the request of a case was answered is graded, by its words where `by_meaning` says why not otherwise.
    pub(super) async fn graded(
        &self,
        event: &Event,
        context: &CompletionContext,
        by_meaning: impl FnOnce(&TestCase, &str) -> Result<Grade, String>,
    ) -> anyhow::Result<()> {
        let Some((started, (_, case))) = self.case_of(event, context).await? else { return Ok(()) };
        let graded = context.graded_id.as_deref().context("a look at no answer")?;
        let Some((key, answered)) = self.answer(event, graded).await? else {
            return self.unanswered(event, &started, case, "the answer cannot be read any more", None).await;
        };
        let grade = match by_meaning(case, &answered.text) {
            Ok(grade) => grade,
            Err(why) if case.has_words() => {
                let words = grade(case, Output { text: &answered.text, calls: &answered.calls });
                Grade { reason: told(&format!("graded by its words, since {why}: {}", words.reason)), ..words }
            }
            Err(why) => return self.unanswered(event, &started, case, &why, answered.request_id).await,
        };
        self.score(event, &started, case, &key, answered, grade).await
    }

    // The answer to a request, as the log has it.
    async fn answer(&self, event: &Event, request_id: &str) -> anyhow::Result<Option<(SubjectKey, Answered)>> {
        let address = AggregateRef::new(Service::Integrations, event.orgid.clone(), "completion", request_id)?;
        let (stream, subject) = (address.service.event_stream(), address.event_subject());
        let Some(stored) = read::last(&self.client, &stream, &subject).await? else { return Ok(None) };
        let events = commit::decode(&self.keys, &stored.payload)?;
        let done = events.into_iter().rev().find_map(|signed| match signed.event.decode() {
            Ok(CompletionEvent::CompletionCompleted(done)) => Some(done),
            _ => None,
        });
        let Some(done) = done else { return Ok(None) };
        let Some(key) = self.content_keys.key(&done.content.kid).await? else { return Ok(None) };
        let answered = Answered::of(done, &key);
        Ok(Some((key, answered)))
    }
}

// The same for whoever asks, so that an answer is looked at once.
fn looked_at_by(how: &str, graded: &str, turn: usize) -> String {
    let name = json!(["evaluation", how, graded, turn]).to_string();
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string()
}

fn context(started: &EvaluationStarted, case: &str, graded: &str) -> CompletionContext {
    CompletionContext {
        user_id: Some(started.started_by.clone()),
        key_id: started.key_id.clone(),
        evaluation_id: Some(started.evaluation_id.clone()),
        case_id: Some(case.to_owned()),
        graded_id: Some(graded.to_owned()),
        ..CompletionContext::default()
    }
}

fn deadline(started: &EvaluationStarted) -> anyhow::Result<String> {
    let until = OffsetDateTime::now_utc() + std::time::Duration::from_millis(started.run_config.timeout_ms);
    Ok(until.format(&Rfc3339)?)
}
