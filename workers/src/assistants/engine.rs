//! The rule engine worker: around the pure reactions of `symbia_commands::assistants::reactions` it loads what they need,
//! and sends what follows.
//!
//! Error policy: retry for ever. What follows from an event is sent under ids derived from it, so that handling it again,
//! here or elsewhere, changes nothing that was done.

use std::{sync::Arc, time::Duration};

use async_nats::Client;
use async_trait::async_trait;
use moka::sync::Cache;
use symbia_commands::{
    Outcome, OutcomeStatus,
    assistants::{
        RuleRun,
        control::{on_partial, routed},
        reactions::{Cause, Inputs, Reaction, on_cancelled, on_completion, on_message, on_refused, on_reply, run_id},
        rules::LLM_INVOKE,
    },
};
use symbia_events::{
    AggregateRef, Event, KeyRing, OrgId, Position, Service, SubjectKey,
    assistants::{RuleRunEvent, RuleRunStarted},
    integrations::{CompletionEvent, CompletionPartialKept},
    messaging::{ConversationEvent, MessageSent, SenderType, content_key_id, conversation_key_of},
};
use symbia_nats::store::{EventStore, StoreOptions};

use super::{
    Outside,
    definitions::Definitions,
    log::{self, context},
    outside::is_here,
    transcript::{Transcripts, When},
};
use crate::{
    content_keys::{ContentKeys, kids},
    integrations::ChannelForwarder,
    reactor::{OnError, Reactor, holds},
    sender::Sender,
};

const MOST_RUNS: u64 = 50_000;

/// The rule engine.
pub struct RuleEngine {
    client: Client,
    keys: Arc<KeyRing>,
    pub(super) store: EventStore,
    sender: Sender,
    content_keys: ContentKeys,
    definitions: Definitions,
    pub(super) transcripts: Transcripts,
    pub(super) outside: Option<Outside>,
    pub(crate) forwarder: Option<ChannelForwarder>,
    // The pinned inputs of runs under way; they never change.
    runs: Cache<String, Arc<RuleRunStarted>>,
}

impl RuleEngine {
    /// An engine over a connection, which sends what follows.
    pub async fn open(
        client: Client,
        keys: Arc<KeyRing>,
        sender: Sender,
        content_keys: ContentKeys,
    ) -> Result<Self, async_nats::SubscribeError> {
        // A store that decides nothing: what it loads is always read from the log.
        let store = EventStore::new(client.clone(), Arc::clone(&keys), &StoreOptions::default());
        Ok(RuleEngine {
            definitions: Definitions::open(&client, store.clone()).await?,
            transcripts: Transcripts::new(client.clone(), Arc::clone(&keys)),
            sender,
            runs: Cache::new(MOST_RUNS),
            outside: None,
            forwarder: None,
            client,
            keys,
            store,
            content_keys,
        })
    }

    async fn conversation(&self, event: &Event, at: Position) -> anyhow::Result<()> {
        let what: ConversationEvent = event.decode()?;
        self.transcripts.take_in(&event.aggregate()?, at.sequence, event, &what).await;
        match what {
            ConversationEvent::MessageSent(sent) if matches!(sent.sender_type, SenderType::User | SenderType::Bot) => {
                self.asked(event, &sent).await
            }
            ConversationEvent::MessageSent(sent) => {
                self.replied(event, &sent).await?;
                self.forwarded(event, &sent, at).await
            }
            ConversationEvent::ControlIssued(issued) => {
                self.told_outside(event, &issued).await?;
                self.signalled(event, &issued).await
            }
            ConversationEvent::ConversationRouted(routed) => match &routed.message_id {
                // One that lies too far back is not taken up again.
                Some(question) => self.offered(event, question).await.map(drop),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    async fn asked(&self, event: &Event, sent: &MessageSent) -> anyhow::Result<()> {
        self.preempted(event, sent).await?;
        let known = self.offered(event, &sent.message_id).await?;
        anyhow::ensure!(known, "message {} is not in the log yet", sent.message_id);
        Ok(())
    }

    /// A message is to be answered by whoever may, as a run that follows from this event; false when it is not to be found.
    pub(super) async fn offered(&self, event: &Event, message_id: &str) -> anyhow::Result<bool> {
        let (cause, conversation) = (cause(event), event.aggregate()?);
        let when = When::At(event.aggregateversion);
        let Some(scene) = self.transcripts.scene(&conversation, message_id, when).await? else {
            return Ok(false);
        };
        let told = match &self.outside {
            Some(outside) => outside.tell(event, &conversation.id, &scene).await?,
            None => Vec::new(),
        };
        if scene.assistants.is_empty() {
            return Ok(true);
        }
        let sent = &scene.message;
        let kid = content_key_id(cause.tenant.as_str(), &conversation.id);
        if conversation_key_of(&sent.content.kid) != kid {
            tracing::warn!(event = %event.id, kid = sent.content.kid, "a text under another conversation's key: no answer");
            return Ok(true);
        }
        // What was erased asks nothing any more, be it all of the conversation or what its author said.
        let Some(key) = self.content_key(event, &kid).await? else { return Ok(true) };
        if self.content_key(event, &sent.content.kid).await?.is_none() {
            return Ok(true);
        }
        let definitions = self.definitions.of(&cause.tenant, &scene.assistants).await?;
        let all = scene.assistants.iter().zip(&definitions).filter(|(key, d)| is_here(&told, key, d));
        let candidates = all.map(|(key, definition)| definition.candidate(key)).collect();
        let inputs = scene.inputs(&conversation.id, &self.content_keys).await?;
        let candidates = routed(candidates, addressing(event, &inputs), scene.routed_to.as_deref());
        let mut reactions = on_message(&cause, &inputs, &candidates, None, &key).into_iter();
        let Some(start) = reactions.next() else { return Ok(true) };
        let outcome = self.send(event, &start).await?;
        if !outcome.repeated && outcome.status == OutcomeStatus::Accepted {
            return self.follow(event, None, reactions.collect(), &key).await.map(|()| true);
        }
        // It has started before: what it pinned then counts.
        let Some(started) = self.started(&cause.tenant, &run_id(&cause).to_string()).await? else {
            tracing::error!(event = %event.id, rejection = ?outcome.rejection, "a run could not be started");
            return Ok(true);
        };
        let assistant = candidates.iter().find(|c| c.key == started.assistant_key).and_then(|c| c.definition);
        let inputs = Inputs { assistant: assistant.cloned(), ..inputs };
        let reactions = on_message(&cause, &inputs, &[], Some(&started), &key);
        self.follow(event, Some(&started), reactions, &key).await.map(|()| true)
    }

    async fn replied(&self, event: &Event, sent: &MessageSent) -> anyhow::Result<()> {
        let cause = cause(event);
        let Some(run_id) = &sent.run_id else { return Ok(()) };
        let Some(started) = self.started(&cause.tenant, run_id).await? else { return Ok(()) };
        let kid = conversation_key_of(&sent.content.kid);
        let Some(key) = self.content_key(event, kid).await? else { return Ok(()) };
        let reactions = match on_reply(&cause, &started, sent, None, &key) {
            Ok(reactions) => reactions,
            Err(_) => {
                let Some(inputs) = self.inputs_of(&cause, &started, None).await? else { return Ok(()) };
                on_reply(&cause, &started, sent, Some(&inputs), &key)?
            }
        };
        self.follow(event, Some(&started), reactions, &key).await
    }

    async fn completion(&self, event: &Event) -> anyhow::Result<()> {
        let what: CompletionEvent = event.decode()?;
        let Some(run_id) = context(&what).and_then(|c| c.rule_run_id.as_deref()) else { return Ok(()) };
        let cause = cause(event);
        let Some(started) = self.started(&cause.tenant, run_id).await? else { return Ok(()) };
        if let CompletionEvent::CompletionPartialKept(kept) = &what {
            return self.kept(event, &started, kept).await;
        }
        let Some(inputs) = self.inputs_of(&cause, &started, Some(&what)).await? else { return Ok(()) };
        let Some(key) = self.key_of(event, &started).await? else { return Ok(()) };
        let reactions = on_completion(&cause, &started, &what, &inputs, &key);
        self.follow(event, Some(&started), reactions, &key).await
    }

    // A run that was stopped leaves what was said.
    async fn kept(&self, event: &Event, started: &RuleRunStarted, e: &CompletionPartialKept) -> anyhow::Result<()> {
        let Some(key) = self.key_of(event, started).await? else { return Ok(()) };
        let Ok(text) = key.open(&e.content) else { return Ok(()) };
        let run = AggregateRef::new(Service::Assistants, event.orgid.clone(), "rule-run", &started.rule_run_id)?;
        let run = self.store.load::<RuleRun>(&run).await?.state;
        let message = on_partial(&cause(event), &run, &e.context, &text, &key);
        self.follow(event, Some(started), message.into_iter().collect(), &key).await
    }

    async fn run(&self, event: &Event) -> anyhow::Result<()> {
        match event.decode()? {
            RuleRunEvent::RuleRunStarted(started) => {
                self.runs.insert(event.aggregate()?.event_subject(), Arc::new(started));
                Ok(())
            }
            RuleRunEvent::RuleRunCancelled(cancelled) => {
                let run = self.store.load::<RuleRun>(&event.aggregate()?).await?.state;
                for reaction in on_cancelled(&cause(event), &run, &cancelled.reason) {
                    // One that is over needs no cancellation.
                    self.send(event, &reaction).await?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    // Sends what follows, in order; what is refused has consequences of its own.
    async fn follow(
        &self,
        event: &Event,
        started: Option<&RuleRunStarted>,
        reactions: Vec<Reaction>,
        key: &SubjectKey,
    ) -> anyhow::Result<()> {
        let cause = cause(event);
        for reaction in reactions {
            let outcome = self.send(event, &reaction).await?;
            let Some(rejection) = outcome.rejection else { continue };
            let loaded;
            let started = match started {
                Some(started) => started,
                None => {
                    loaded = self.started(&cause.tenant, &run_id(&cause).to_string()).await?;
                    let Some(started) = &loaded else { return Ok(()) };
                    started
                }
            };
            for last in on_refused(&cause, started, &reaction.command, &rejection, key) {
                self.send(event, &last).await?;
            }
            return Ok(());
        }
        Ok(())
    }

    pub(super) async fn send(&self, event: &Event, reaction: &Reaction) -> anyhow::Result<Outcome> {
        let Reaction { to, command, by, id } = reaction;
        let outcome = self.sender.send(Some(event), to, command, by, *id).await?;
        if let Some(rejection) = &outcome.rejection {
            tracing::info!(command = %id, aggregate = %to, %rejection, "what follows was refused");
        }
        Ok(outcome)
    }

    // A conversation whose key was destroyed is a conversation that nobody can read or answer.
    async fn content_key(&self, event: &Event, kid: &str) -> anyhow::Result<Option<SubjectKey>> {
        let key = self.content_keys.key(kid).await?;
        if key.is_none() {
            tracing::warn!(event = %event.id, kid, "the key of a conversation is gone: no answer");
        }
        Ok(key)
    }

    async fn key_of(&self, event: &Event, started: &RuleRunStarted) -> anyhow::Result<Option<SubjectKey>> {
        let conversation = conversation(&event.orgid, started)?;
        let scene = self.transcripts.scene(&conversation, &started.message_id, When::Since).await?;
        match scene {
            Some(scene) => self.content_key(event, conversation_key_of(&scene.message.content.kid)).await,
            None => Ok(None),
        }
    }

    pub(super) async fn started(&self, tenant: &OrgId, run_id: &str) -> anyhow::Result<Option<Arc<RuleRunStarted>>> {
        // An id that somebody made up.
        let Ok(run) = AggregateRef::new(Service::Assistants, tenant.clone(), "rule-run", run_id) else {
            return Ok(None);
        };
        let subject = run.event_subject();
        if let Some(started) = self.runs.get(&subject) {
            return Ok(Some(started));
        }
        let events = log::events::<RuleRunEvent>(&self.client, &self.keys, Service::Assistants, &subject, 1).await?;
        let started = events.into_iter().find_map(|logged| match logged.what {
            RuleRunEvent::RuleRunStarted(started) => Some(Arc::new(started)),
            _ => None,
        });
        if let Some(started) = &started {
            self.runs.insert(subject, Arc::clone(started));
        }
        Ok(started)
    }

    // The inputs of a run under way, with the answers that it has got; `ended` is the completion that is handled now.
    async fn inputs_of(
        &self,
        cause: &Cause,
        started: &RuleRunStarted,
        ended: Option<&CompletionEvent>,
    ) -> anyhow::Result<Option<Inputs>> {
        let conversation = conversation(&cause.tenant, started)?;
        let scene = self.transcripts.scene(&conversation, &started.message_id, When::Since).await?;
        let Some(scene) = scene else { return Ok(None) };
        let mut inputs = scene.inputs(&conversation.id, &self.content_keys).await?;
        let keys = [started.assistant_key.clone()];
        inputs.assistant = self.definitions.of(&cause.tenant, &keys).await?.remove(0).assistant;
        let mut completed = Vec::new();
        if let Some(CompletionEvent::CompletionCompleted(e)) = ended {
            completed.push(e.clone());
        }
        let asks =
            started.rule.as_ref().map_or(0, |r| r.actions.iter().filter(|a| a.action_type == LLM_INVOKE).count());
        if asks > completed.len() {
            for request_id in self.asked_before(cause, started).await? {
                let to = AggregateRef::new(Service::Integrations, cause.tenant.clone(), "completion", request_id)?;
                let subject = to.event_subject();
                let events = log::events(&self.client, &self.keys, Service::Integrations, &subject, 1).await?;
                completed.extend(events.into_iter().filter_map(|logged| match logged.what {
                    CompletionEvent::CompletionCompleted(e) => Some(e),
                    _ => None,
                }));
            }
        }
        let opener = self.content_keys.opener(kids(completed.iter().map(|e| &e.content))).await?;
        let answers = completed.iter().filter_map(|e| Some((e.request_id.clone(), opener.open(&e.content).ok()?)));
        inputs.answers = answers.collect();
        Ok(Some(inputs))
    }

    async fn asked_before(&self, cause: &Cause, started: &RuleRunStarted) -> anyhow::Result<Vec<String>> {
        let run = AggregateRef::new(Service::Assistants, cause.tenant.clone(), "rule-run", &started.rule_run_id)?;
        let subject = run.event_subject();
        let events = log::events(&self.client, &self.keys, Service::Assistants, &subject, 1).await?;
        let asked = events.into_iter().filter_map(|logged| match logged.what {
            RuleRunEvent::ActionCompleted(e) => e.output_ref.strip_prefix("completion/").map(str::to_owned),
            _ => None,
        });
        Ok(asked.collect())
    }
}

#[async_trait]
impl Reactor for RuleEngine {
    fn name(&self) -> &'static str {
        "rule-engine"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![
            (Service::Messaging, &["*.conversation.*"]),
            (Service::Assistants, &["*.rule-run.*"]),
            (Service::Integrations, &["*.completion.*"]),
        ]
    }

    fn acts_on(&self) -> &'static [&'static str] {
        &[
            "symbia.messaging.conversation.",
            "symbia.assistants.rule-run.rule-run-started.",
            "symbia.assistants.rule-run.rule-run-cancelled.",
            "symbia.integrations.completion.completion-completed.",
            "symbia.integrations.completion.completion-failed.",
            "symbia.integrations.completion.completion-cancelled.",
            "symbia.integrations.completion.completion-partial-kept.",
        ]
    }

    // Most requests to models are no rule's.
    fn is_concerned(&self, subject: &str, payload: &[u8]) -> bool {
        let of_a_rule = subject.split('.').nth(4) != Some("completion") || holds(payload, &["\"ruleRunId\":\""]);
        of_a_rule && holds(payload, self.acts_on())
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(3)
    }

    async fn react(&self, event: &Event, at: Position) -> anyhow::Result<()> {
        match event.aggregatetype.as_str() {
            "conversation" => self.conversation(event, at).await,
            "completion" => self.completion(event).await,
            _ => self.run(event).await,
        }
    }
}

/// The text by which a message chooses its assistant; `None` when a signal has chosen.
pub(super) fn addressing<'i>(event: &Event, inputs: &'i Inputs) -> Option<&'i str> {
    let chosen = event.event_type.contains(".conversation-routed.");
    (!chosen).then_some(inputs.message.text.as_str())
}

/// What follows from an event is derived from this.
pub(super) fn cause(event: &Event) -> Cause {
    Cause { event_id: event.id, at: event.time, tenant: event.orgid.clone() }
}

fn conversation(tenant: &OrgId, started: &RuleRunStarted) -> anyhow::Result<AggregateRef> {
    Ok(AggregateRef::new(Service::Messaging, tenant.clone(), "conversation", &started.conversation_id)?)
}
