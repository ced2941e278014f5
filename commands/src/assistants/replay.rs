//! Deciding a run again from the log, without calling any model: every recorded decision of the run is made anew from its
//! recorded inputs and compared (assistants.md §21.7).

use symbia_events::{
    CommandId, DomainEvent, SubjectKey,
    assistants::RuleRunEvent,
    integrations::{CompletionEvent, CompletionRequested},
    messaging::MessageSent,
};
use time::OffsetDateTime;

use super::{
    RuleRun, RunEnd,
    award::Candidate,
    reactions::{Cause, Command, Inputs, Reaction, on_completion, on_message, on_reply},
};
use crate::{Aggregate, integrations::CompletionCommand, messaging::ConversationCommand};

/// A run as the log has it. Definitions and rules of the candidates are those at the time of the message.
#[derive(Clone, Debug)]
pub struct Recorded<'a> {
    /// The message that set it off.
    pub cause: Cause,
    /// Its inputs, with the answers of all its completions.
    pub inputs: Inputs,
    /// The assistants of the conversation.
    pub candidates: Vec<Candidate<'a>>,
    /// The commits of the run, in order.
    pub commits: Vec<RunCommit>,
    /// What it asked models.
    pub requests: Vec<CompletionRequested>,
    /// The ends of its completions.
    pub completions: Vec<(Cause, CompletionEvent)>,
    /// The messages it sent.
    pub replies: Vec<(Cause, MessageSent)>,
}

/// The events of one decision.
#[derive(Clone, Debug)]
pub struct RunCommit {
    /// The command decided.
    pub command_id: CommandId,
    /// When.
    pub at: OffsetDateTime,
    /// The events.
    pub events: Vec<RuleRunEvent>,
}

/// The comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// Decisions of the run that came out as recorded.
    pub same: usize,
    /// Messages and prompts that came out as recorded.
    pub effects: usize,
    /// Commits that somebody outside caused: a person who stopped the run, a refusal.
    pub outside: usize,
    /// What came out differently.
    pub divergences: Vec<Divergence>,
}

/// A difference between the log and the decision made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// Which decision or effect.
    pub what: String,
    /// As the log has it.
    pub recorded: String,
    /// As it is decided now.
    pub decided: String,
}

/// Decides a run again.
#[must_use]
pub fn redecide(recorded: &Recorded, key: &SubjectKey) -> Replay {
    let mut replay = Replay::default();
    let Recorded { cause, inputs, candidates, commits, .. } = recorded;
    let mut decided = on_message(cause, inputs, candidates, None, key);
    let mut state = RuleRun::default();
    for (index, commit) in commits.iter().enumerate() {
        compare_commit(&state, commit, &decided, &mut replay);
        commit.events.iter().for_each(|event| state.apply(event));
        // What follows later is decided from the run as it is recorded: one difference is not told twice.
        if let (0, Some(started)) = (index, state.started()) {
            let known = candidates.iter().find(|c| c.key == started.assistant_key).and_then(|c| c.definition);
            let inputs = Inputs { assistant: known.cloned(), ..inputs.clone() };
            for (cause, event) in &recorded.completions {
                decided.extend(on_completion(cause, started, event, &inputs, key));
            }
            for (cause, sent) in &recorded.replies {
                decided.extend(on_reply(cause, started, sent, Some(&inputs), key).unwrap_or_default());
            }
        }
    }
    let ids: Vec<CommandId> = commits.iter().map(|c| c.command_id).collect();
    for reaction in &decided {
        compare_effect(reaction, recorded, &state, &mut replay);
        if let (false, Command::RuleRun(command)) = (ids.contains(&reaction.id), &reaction.command) {
            // One that the run would refuse by now came too late then, too.
            let at = commits.last().map_or(cause.at, |c| c.at);
            if let Ok(decision) = state.decide(command.clone(), &reaction.by, at) {
                replay.differs(format!("command {}", reaction.id), "nothing", names(&decision.events));
            }
        }
    }
    replay
}

impl Replay {
    fn differs(&mut self, what: String, recorded: impl Into<String>, decided: impl Into<String>) {
        self.divergences.push(Divergence { what, recorded: recorded.into(), decided: decided.into() });
    }
}

fn compare_commit(state: &RuleRun, commit: &RunCommit, decided: &[Reaction], replay: &mut Replay) {
    let what = || format!("command {}", commit.command_id);
    let Some(reaction) = decided.iter().find(|r| r.id == commit.command_id) else {
        let ends = |e: &RuleRunEvent| matches!(e, RuleRunEvent::RuleRunCancelled(_) | RuleRunEvent::RuleRunFailed(_));
        if commit.events.iter().all(ends) {
            replay.outside += 1;
        } else {
            replay.differs(what(), names(&commit.events), "nothing");
        }
        return;
    };
    let Command::RuleRun(command) = &reaction.command else {
        return replay.differs(what(), names(&commit.events), "a command to another aggregate");
    };
    match state.decide(command.clone(), &reaction.by, commit.at) {
        Ok(decision) if decision.events == commit.events => replay.same += 1,
        Ok(decision) => match commit.events.iter().zip(&decision.events).find(|(a, b)| a != b) {
            Some((a, b)) => replay.differs(what(), json(a), json(b)),
            None => replay.differs(what(), names(&commit.events), names(&decision.events)),
        },
        Err(rejection) => replay.differs(what(), names(&commit.events), rejection.to_string()),
    }
}

fn compare_effect(reaction: &Reaction, recorded: &Recorded, state: &RuleRun, replay: &mut Replay) {
    let (what, decided, found) = match &reaction.command {
        Command::Conversation(ConversationCommand::SendMessage(c)) => {
            let sent = recorded.replies.iter().find(|(_, sent)| sent.message_id == c.message_id);
            (format!("message {}", c.message_id), &c.content_digest, sent.map(|(_, sent)| &sent.content_digest))
        }
        Command::Completion(CompletionCommand::RequestCompletion(c)) => {
            let asked = recorded.requests.iter().find(|asked| asked.request_id == c.request_id);
            (
                format!("prompt of completion {}", c.request_id),
                &c.prompt_digest,
                asked.map(|asked| &asked.prompt_digest),
            )
        }
        _ => return,
    };
    match found {
        Some(digest) if digest == decided => replay.effects += 1,
        Some(digest) => replay.differs(what, digest, decided),
        // A run under way has not done everything yet, and one that is over may have been refused or stopped.
        None if state.end() != Some(RunEnd::Completed) => {}
        None => replay.differs(what, "nothing", decided),
    }
}

fn names(events: &[RuleRunEvent]) -> String {
    events.iter().map(DomainEvent::event_type).collect::<Vec<_>>().join(", ")
}

fn json(event: &RuleRunEvent) -> String {
    event.to_data().map_or_else(|e| e.to_string(), |data| format!("{} {}", event.event_type(), data.get()))
}
