//! What a signal means for the runs of a conversation, as pure functions (messaging.md §8.8).
//!
//! A run that is to stop is cancelled; a question that is to be answered again is offered anew, as a run of the signal's own
//! event. A pause is both, one after the other: what was begun is given up, and answered when the conversation goes on.
//! What was said when something more urgent came stays as a message, and so it does where whoever cancels says so.

use symbia_events::{
    CommandId, SubjectKey,
    assistants::KeepPartial,
    integrations::CompletionContext,
    messaging::{ControlIssued, MessageSent, Priority, Signal},
};
use uuid::Uuid;

use super::{
    CancelRuleRun, RuleRun,
    award::{Candidate, without_mention},
    plan::{address, clipped, origin, reply},
    reactions::{Cause, Command, Reaction, run_command, speaker},
};
use crate::messaging::{ASSISTANT_PREFIX, SendMessage};

/// A run that may be under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Its id.
    pub run_id: Uuid,
    /// Whose question it answers.
    pub asker: String,
    /// Which assistant answers.
    pub assistant_key: String,
    /// Whether the question said that it may be interrupted.
    pub interruptible: bool,
}

/// Which runs are to stop, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    asker: Option<String>,
    assistant: Option<String>,
    run: Option<String>,
    interruptible: bool,
    reason: &'static str,
    keep_partial: Option<KeepPartial>,
}

impl Stop {
    /// What a signal stops; `None` when it stops nothing.
    #[must_use]
    pub fn of(issued: &ControlIssued) -> Option<Self> {
        let named = issued.target.as_ref().map(|target| target.principal_id.clone());
        let (target, everything) = match issued.event {
            Signal::Resume | Signal::Priority => return None,
            Signal::Pause | Signal::Cancel => (named, true),
            Signal::Preempt => (named, issued.priority == Some(Priority::Critical)),
            // The target is who takes over.
            Signal::Route | Signal::Handoff => (None, true),
        };
        Some(Stop {
            asker: issued.asker.clone(),
            assistant: target,
            run: issued.run_id.clone(),
            interruptible: !everything,
            reason: issued.event.name(),
            keep_partial: kept(issued),
        })
    }

    /// What a message stops by being urgent: everything that may be interrupted.
    #[must_use]
    pub fn before(sent: &MessageSent) -> Option<Self> {
        let urgent = matches!(sent.priority, Priority::High | Priority::Critical);
        urgent.then(|| Stop {
            asker: None,
            assistant: None,
            run: None,
            interruptible: true,
            reason: Signal::Preempt.name(),
            keep_partial: Some(KeepPartial { preempted_by: Some(sent.message_id.clone()) }),
        })
    }

    fn concerns(&self, begun: &Begun) -> bool {
        let speaker = format!("{ASSISTANT_PREFIX}{}", begun.assistant_key);
        self.asker.as_ref().is_none_or(|asker| *asker == begun.asker)
            && self.assistant.as_ref().is_none_or(|assistant| *assistant == speaker)
            && self.run.as_ref().is_none_or(|run| *run == begun.run_id.to_string())
            && (begun.interruptible || !self.interruptible)
    }
}

// What of the answers that it stops stays.
fn kept(issued: &ControlIssued) -> Option<KeepPartial> {
    match issued.event {
        Signal::Preempt => {
            let cause = issued.preempted_by.as_ref().unwrap_or(&issued.control_id);
            Some(KeepPartial { preempted_by: Some(cause.clone()) })
        }
        Signal::Cancel if issued.keep_partial => Some(KeepPartial::default()),
        _ => None,
    }
}

/// The runs that are to stop do; one that has its end already refuses, and nothing follows from that.
#[must_use]
pub fn stop(cause: &Cause, stop: &Stop, begun: &[Begun]) -> Vec<Reaction> {
    let cancel = |run: &Begun| {
        let command = CancelRuleRun { reason: stop.reason.to_owned(), keep_partial: stop.keep_partial.clone() };
        run_command(cause, &run.run_id.to_string(), command, &format!("stop {}", run.run_id))
    };
    begun.iter().filter(|run| stop.concerns(run)).filter_map(cancel).collect()
}

/// What a model had said when its run was stopped becomes the message that its pieces named; nothing does where the run is not
/// one that keeps it, or nothing was said.
#[must_use]
pub fn on_partial(
    cause: &Cause,
    run: &RuleRun,
    context: &CompletionContext,
    text: &str,
    key: &SubjectKey,
) -> Option<Reaction> {
    let (started, kept) = (run.started()?, run.keeps_partial()?);
    let text = clipped(text.trim_end());
    let message_id = context.reply_message_id.clone().filter(|_| !text.is_empty())?;
    let mut metadata = origin(started);
    metadata["partial"] = true.into();
    let message = SendMessage {
        preempted_by: kept.preempted_by.clone(),
        metadata: Some(key.seal(&metadata.to_string())),
        ..reply(started, message_id, text, key)
    };
    let command = Command::Conversation(message.into());
    let to = address(cause, &command, "conversation", &started.conversation_id)?;
    let by = speaker(&started.assistant_key, &cause.tenant);
    Some(Reaction { to, command, by, id: CommandId::derived(cause.event_id, "keep-partial") })
}

/// Who may answer in a conversation that is routed to an assistant: that one, unless the text addresses another one. Without
/// a text that one in any case: the question was given to it.
#[must_use]
pub fn routed<'a>(candidates: Vec<Candidate<'a>>, text: Option<&str>, to: Option<&str>) -> Vec<Candidate<'a>> {
    let Some(to) = to else { return candidates };
    let addressed = text.is_some_and(|text| candidates.iter().any(|c| without_mention(text, c).is_some()));
    let speaks = |c: &Candidate| to.strip_prefix(ASSISTANT_PREFIX) == Some(c.key);
    if addressed || !candidates.iter().any(speaks) {
        return candidates;
    }
    candidates.into_iter().filter(speaks).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DomainCommand;
    use symbia_events::messaging::{ControlTarget, SenderType};
    use time::OffsetDateTime;

    fn cause() -> Cause {
        Cause { event_id: Uuid::from_u128(1), at: OffsetDateTime::UNIX_EPOCH, tenant: "org".parse().unwrap() }
    }

    fn begun() -> Vec<Begun> {
        let run = |n: u128, asker: &str, assistant: &str, interruptible| Begun {
            run_id: Uuid::from_u128(n),
            asker: asker.into(),
            assistant_key: assistant.into(),
            interruptible,
        };
        vec![run(10, "ada", "a", true), run(11, "bob", "b", true), run(12, "ada", "b", false)]
    }

    fn issued(event: Signal) -> ControlIssued {
        ControlIssued {
            control_id: "c".into(),
            sequence: 1,
            event,
            issued_by: "ada".into(),
            sender_type: SenderType::User,
            target: None,
            asker: None,
            reason: None,
            priority: None,
            run_id: None,
            trace_id: None,
            preempted_by: None,
            metadata: None,
            keep_partial: false,
            at_ms: None,
        }
    }

    fn stopped(issued: &ControlIssued) -> Vec<String> {
        let Some(which) = Stop::of(issued) else { return Vec::new() };
        let reactions = stop(&cause(), &which, &begun());
        assert!(reactions.iter().all(|r| r.command.command_type() == "symbia.cmd.assistants.cancel-rule-run.v1"));
        reactions.iter().map(|r| r.to.id[34..].to_owned()).collect()
    }

    #[test]
    fn each_signal_stops_what_it_is_about() {
        let b = ControlTarget { principal_id: "assistant:b".into(), principal_type: SenderType::Agent };
        assert_eq!(stopped(&issued(Signal::Pause)), ["0a", "0b", "0c"]);
        assert_eq!(stopped(&issued(Signal::Cancel)), ["0a", "0b", "0c"]);
        assert_eq!(stopped(&issued(Signal::Preempt)), ["0a", "0b"]);
        let critical = ControlIssued { priority: Some(Priority::Critical), ..issued(Signal::Preempt) };
        assert_eq!(stopped(&critical), ["0a", "0b", "0c"]);
        assert_eq!(stopped(&ControlIssued { asker: Some("bob".into()), ..issued(Signal::Cancel) }), ["0b"]);
        assert_eq!(stopped(&ControlIssued { target: Some(b.clone()), ..issued(Signal::Cancel) }), ["0b", "0c"]);
        let one = ControlIssued { run_id: Some(Uuid::from_u128(12).to_string()), ..issued(Signal::Cancel) };
        assert_eq!(stopped(&one), ["0c"]);
        assert_eq!(stopped(&ControlIssued { target: Some(b), ..issued(Signal::Route) }), ["0a", "0b", "0c"]);
        assert!(stopped(&issued(Signal::Resume)).is_empty() && stopped(&issued(Signal::Priority)).is_empty());
    }

    #[test]
    fn a_repeated_signal_stops_by_the_same_commands() {
        let which = Stop::of(&issued(Signal::Cancel)).unwrap();
        let reactions = stop(&cause(), &which, &begun());
        assert_eq!(reactions, stop(&cause(), &which, &begun()));
        assert_ne!(reactions[0].id, reactions[1].id);
    }

    #[test]
    fn a_routed_conversation_is_answered_by_one_unless_another_is_addressed() {
        let candidate = |key| Candidate { key, definition: None, rules: None };
        let keys = |text: Option<&str>, to: Option<&str>| -> Vec<String> {
            routed(vec![candidate("a"), candidate("b")], text, to).iter().map(|c| c.key.to_owned()).collect()
        };
        assert_eq!(keys(Some("hi"), None), ["a", "b"]);
        assert_eq!(keys(Some("hi"), Some("assistant:b")), ["b"]);
        assert_eq!(keys(Some("@a hi"), Some("assistant:b")), ["a", "b"]);
        assert_eq!(keys(None, Some("assistant:b")), ["b"]);
        assert_eq!(keys(Some("hi"), Some("assistant:gone")), ["a", "b"]);
    }
}
