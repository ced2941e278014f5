//! The read-cursor aggregate: how far a principal has read a conversation; it only moves forward (messaging.md §8.11).

use serde::{Deserialize, Serialize};
use symbia_events::{
    AggregateRef,
    messaging::{ConversationRead, ReadCursorEvent, read_cursor_id},
};
use time::OffsetDateTime;

use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

domain_commands! {
    /// What a read cursor can be asked to do.
    ReadCursorCommand: Messaging / "read-cursor" {
        /// Moves one's own cursor.
        MarkRead = "symbia.cmd.messaging.mark-read.v1" {
            conversation_id: String,
            /// Whose; nobody reads for somebody else.
            principal_id: String,
            /// Sequence of the last message read.
            up_to_sequence: u64,
        }
    }
}

/// A read cursor. It tells nobody but its principal anything, so that it need not know who takes part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadCursor {
    up_to: u64,
}

impl Aggregate for ReadCursor {
    const STATE_VERSION: u32 = 1;
    type Command = ReadCursorCommand;
    type Event = ReadCursorEvent;

    fn belongs(command: &ReadCursorCommand, to: &AggregateRef) -> Result<(), Rejection> {
        let ReadCursorCommand::MarkRead(c) = command;
        if read_cursor_id(&c.conversation_id, &c.principal_id) != to.id {
            return Err(Rejection::misaddressed(to));
        }
        Ok(())
    }

    fn apply(&mut self, event: &ReadCursorEvent) {
        let ReadCursorEvent::ConversationRead(e) = event;
        self.up_to = e.up_to_sequence;
    }

    fn decide(
        &self,
        command: ReadCursorCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<ReadCursorEvent>, Rejection> {
        let ReadCursorCommand::MarkRead(c) = command;
        if by.subject() != c.principal_id {
            return Err(Rejection::forbidden("one marks as read in one's own name"));
        }
        if i64::try_from(c.up_to_sequence).is_err() {
            return Err(Rejection::invalid("upToSequence: the sequence of a message"));
        }
        if c.up_to_sequence <= self.up_to {
            return Ok(Decision::nothing());
        }
        let (conversation_id, principal_id, up_to_sequence) = (c.conversation_id, c.principal_id, c.up_to_sequence);
        Ok(Decision::one(ConversationRead { conversation_id, principal_id, up_to_sequence }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::given;
    use symbia_events::Service;

    fn read(up_to_sequence: u64) -> ConversationRead {
        ConversationRead { conversation_id: "c1".into(), principal_id: "ada".into(), up_to_sequence }
    }

    fn mark(up_to_sequence: u64) -> MarkRead {
        MarkRead { conversation_id: "c1".into(), principal_id: "ada".into(), up_to_sequence }
    }

    #[test]
    fn it_moves_forward_only_and_for_its_principal_only() {
        let person = |id: &str| Actor { id: id.into(), kind: symbia_events::ActorType::User, ..Actor::service("x") };
        given::<ReadCursor>([]).when(mark(3), &person("ada")).then([read(3).into()]);
        for seen in [2, 3] {
            given::<ReadCursor>([read(3).into()]).when(mark(seen), &person("ada")).then([]);
        }
        given::<ReadCursor>([]).when(mark(3), &person("eve")).rejected("FORBIDDEN");
        given::<ReadCursor>([]).when(mark(u64::MAX), &person("ada")).rejected("VALIDATION_FAILED");
        let at = |id: String| AggregateRef::new(Service::Messaging, "org".parse().unwrap(), "read-cursor", id).unwrap();
        assert!(ReadCursor::belongs(&mark(1).into(), &at(read_cursor_id("c1", "ada"))).is_ok());
        assert!(ReadCursor::belongs(&mark(1).into(), &at(read_cursor_id("c1", "eve"))).is_err());
    }
}
