//! Deciding a run again from the log: everything that it was decided from is read back, and no model is called
//! (assistants.md §21.7).

use std::sync::Arc;

use async_nats::Client;
use symbia_commands::{
    Aggregate,
    assistants::{
        Assistant, RuleSet,
        award::rule_set_keys,
        control::routed,
        replay::{Recorded, Replay, RunCommit, redecide},
        rules::Rules,
    },
};
use symbia_events::{
    AggregateRef, DomainEvent, Event, InvalidToken, KeyRing, OrgId, Service,
    assistants::{AssistantEvent, RuleRunEvent, RuleRunStarted, RuleSetEvent},
    integrations::CompletionEvent,
    messaging::{ConversationEvent, conversation_key_of},
};
use symbia_projections::secrets::{SecretError, SecretStore};
use time::OffsetDateTime;

use super::{
    definitions::Definition,
    engine::{addressing, cause},
    log::{LogError, Logged, context, events},
    transcript::Transcript,
};
use crate::content_keys::ContentKeys;

/// A run decided again.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// Its pinned inputs.
    pub started: RuleRunStarted,
    /// The tenant.
    pub tenant: OrgId,
    /// Decisions compared with the log.
    pub replay: Replay,
    /// How often a model had been asked when it was recorded.
    pub completions: usize,
}

/// Why a run cannot be decided again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It is not in the log.
    #[error("there is no run '{0}' in the log; `symbia log show` tells the runs of a conversation")]
    Unknown(String),
    /// What set it off is not in the log.
    #[error("the message {0} that set the run off is not in the log")]
    NoTrigger(String),
    /// The conversation's key was destroyed.
    #[error("key '{0}' of the conversation was destroyed: what was said there cannot be read again")]
    Erased(String),
    /// The log cannot be read, or not be believed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The secret store cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// An id that cannot be an address.
    #[error(transparent)]
    Address(#[from] InvalidToken),
}

struct Reader<'a> {
    client: &'a Client,
    keys: &'a KeyRing,
}

impl Reader<'_> {
    async fn read<E: DomainEvent>(&self, tenant: &OrgId, id: &str) -> Result<Vec<Logged<E>>, ReplayError> {
        let address = AggregateRef::new(E::SERVICE, tenant.clone(), E::AGGREGATE, id)?;
        Ok(events(self.client, self.keys, E::SERVICE, &address.event_subject(), 1).await?)
    }

    // An assistant with its rules as they were when the run was decided; the rule set of the run by its pinned version.
    async fn definition(&self, tenant: &OrgId, key: &str, run: &Run) -> Result<Definition, ReplayError> {
        let mut definition = Definition::default();
        for place in [tenant.clone(), OrgId::global()] {
            let events = self.read::<AssistantEvent>(&place, key).await?;
            let assistant = fold::<Assistant>(&events, |event| event.time <= run.at);
            if definition.assistant.is_none() {
                definition.assistant = assistant.answering().cloned();
            }
        }
        for (place, rule_set) in rule_set_keys(key, tenant) {
            let pinned = run.started.rule_set_version.filter(|_| run.started.rule_set_key == rule_set);
            let until = |event: &Event| pinned.map_or(event.time <= run.at, |v| event.aggregateversion <= v);
            let set = fold::<RuleSet>(&self.read::<RuleSetEvent>(&place, &rule_set).await?, until);
            if definition.rules.is_none() && !set.key().is_empty() {
                definition.rules = Some(Arc::new(Rules::new(&set)));
            }
        }
        Ok(definition)
    }
}

struct Run {
    started: RuleRunStarted,
    at: OffsetDateTime,
    tenant: OrgId,
    commits: Vec<RunCommit>,
    asked: Vec<String>,
}

/// Decides a run again.
pub async fn replay(
    client: &Client,
    keys: &KeyRing,
    secrets: &SecretStore,
    run_id: &str,
) -> Result<Replayed, ReplayError> {
    let reader = Reader { client, keys };
    let run = run(client, keys, run_id).await?;
    let (started, tenant) = (&run.started, &run.tenant);
    let conversation = reader.read::<ConversationEvent>(tenant, &started.conversation_id).await?;
    let no_trigger = || ReplayError::NoTrigger(started.message_id.clone());
    let trigger = conversation.iter().find(|logged| logged.event.id.to_string() == started.event_ref);
    let trigger = trigger.ok_or_else(no_trigger)?.event.clone();
    let scene = Transcript::as_found(&conversation, &started.message_id, trigger.aggregateversion);
    let scene = scene.ok_or_else(no_trigger)?;
    let mut replies = Vec::new();
    for logged in conversation {
        match logged.what {
            ConversationEvent::MessageSent(sent) if sent.run_id.as_deref() == Some(&started.rule_run_id) => {
                replies.push((cause(&logged.event), sent));
            }
            _ => {}
        }
    }
    let (mut requests, mut completions) = (Vec::new(), Vec::new());
    for request in &run.asked {
        for logged in reader.read::<CompletionEvent>(tenant, request).await? {
            match logged.what {
                CompletionEvent::CompletionRequested(e) => requests.push(e),
                end if context(&end).is_some() => completions.push((cause(&logged.event), end)),
                _ => {}
            }
        }
    }
    let mut definitions = Vec::with_capacity(scene.assistants.len());
    for key in &scene.assistants {
        definitions.push(reader.definition(tenant, key, &run).await?);
    }

    let content_keys = ContentKeys::new(secrets.clone());
    let kid = conversation_key_of(&scene.message.content.kid);
    let key = content_keys.key(kid).await?.ok_or_else(|| ReplayError::Erased(kid.to_owned()))?;
    let mut inputs = scene.inputs(&started.conversation_id, &content_keys).await?;
    // One that is unknown here and was no candidate was told outside.
    let here = |(key, d): &(&String, &Definition)| d.assistant.is_some() || started.candidates.contains(key);
    let all = scene.assistants.iter().zip(&definitions).filter(here);
    let candidates = all.map(|(key, d)| d.candidate(key)).collect();
    let candidates = routed(candidates, addressing(&trigger, &inputs), scene.routed_to.as_deref());
    for (_, end) in &completions {
        if let CompletionEvent::CompletionCompleted(e) = end
            && let Ok(text) = key.open(&e.content)
        {
            inputs.answers.insert(e.request_id.clone(), text);
        }
    }
    let cause = cause(&trigger);
    let asked = requests.len();
    let recorded = Recorded { cause, inputs, candidates, commits: run.commits, requests, completions, replies };
    let replay = redecide(&recorded, &key);
    Ok(Replayed { replay, completions: asked, started: run.started, tenant: run.tenant })
}

async fn run(client: &Client, keys: &KeyRing, run_id: &str) -> Result<Run, ReplayError> {
    let unknown = || ReplayError::Unknown(run_id.to_owned());
    symbia_events::check_token(run_id)?;
    // Whose run it is, the log tells.
    let subject = format!("symbia.evt.assistants.*.rule-run.{run_id}");
    let logged = events::<RuleRunEvent>(client, keys, Service::Assistants, &subject, 1).await?;
    let mut run: Option<Run> = None;
    let mut commits: Vec<RunCommit> = Vec::new();
    let mut asked = Vec::new();
    for Logged { event, what, .. } in logged {
        match &what {
            RuleRunEvent::RuleRunStarted(started) => {
                let (started, at, tenant) = (started.clone(), event.time, event.orgid.clone());
                run = Some(Run { started, at, tenant, commits: Vec::new(), asked: Vec::new() });
            }
            RuleRunEvent::ActionRequested(e) => {
                asked.extend(e.resolved_params_ref.strip_prefix("completion/").map(str::to_owned));
            }
            _ => {}
        }
        match commits.last_mut().filter(|commit| commit.command_id == event.commandid) {
            Some(commit) => commit.events.push(what),
            None => commits.push(RunCommit { command_id: event.commandid, at: event.time, events: vec![what] }),
        }
    }
    Ok(Run { commits, asked, ..run.ok_or_else(unknown)? })
}

fn fold<A: Aggregate>(events: &[Logged<A::Event>], until: impl Fn(&Event) -> bool) -> A {
    let mut state = A::default();
    events.iter().filter(|logged| until(&logged.event)).for_each(|logged| state.apply(&logged.what));
    state
}
