//! Who may answer in a conversation, folded from signals: the aggregate refuses by it, the rule engine asks by it
//! (messaging.md §8.8).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use symbia_events::messaging::{ControlTarget, ConversationEvent, Signal};

use super::ASSISTANT_PREFIX;

/// Who may answer in a conversation just now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answering {
    paused: bool,
    muted: bool,
    held: BTreeSet<String>,
    routed_to: Option<String>,
}

impl Answering {
    /// Folds what a signal led to.
    pub fn apply(&mut self, event: &ConversationEvent) {
        let assistant = |target: &ControlTarget| target.principal_id.starts_with(ASSISTANT_PREFIX);
        match event {
            ConversationEvent::ControlIssued(e) => match (e.event, &e.target) {
                (Signal::Pause, Some(target)) => _ = self.held.insert(target.principal_id.clone()),
                (Signal::Pause, None) => self.paused = true,
                (Signal::Resume, Some(target)) => _ = self.held.remove(&target.principal_id),
                (Signal::Resume, None) => (self.paused, self.muted, self.held) = (false, false, BTreeSet::new()),
                _ => {}
            },
            ConversationEvent::ConversationRouted(e) => {
                self.muted = false;
                self.routed_to = Some(e.to.principal_id.clone());
            }
            ConversationEvent::HandoffRecorded(e) => {
                self.muted = e.assistants_muted;
                self.routed_to = Some(e.to.principal_id.clone()).filter(|_| assistant(&e.to));
            }
            ConversationEvent::ParticipantRemoved(e) => {
                self.held.remove(&e.principal_id);
                self.routed_to.take_if(|to| *to == e.principal_id);
            }
            _ => {}
        }
    }

    /// Whether an assistant is to be silent.
    #[must_use]
    pub fn silences(&self, principal_id: &str) -> bool {
        self.paused || self.muted || self.held.contains(principal_id)
    }

    /// Whether an assistant is to be silent until it is resumed.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused || !self.held.is_empty()
    }

    /// The assistant that answers unless another one is addressed.
    #[must_use]
    pub fn routed_to(&self) -> Option<&str> {
        self.routed_to.as_deref()
    }
}
