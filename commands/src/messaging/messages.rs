//! Saying, correcting and taking back (messaging.md §8.1 to §8.5).

use symbia_events::{
    ActorType, AuthMethod, Personal,
    messaging::{ConversationEvent, MessageDeleted, MessageEdited, MessageSent, SenderType},
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    ASSISTANT_PREFIX, Conversation, DeleteMessage, EditMessage, MAX_CONTENT, MAX_METADATA, SendMessage, clock,
    conversation::{Message, sealed_with},
};
use crate::{Actor, Decision, Rejection};

/// Longest content type, run id and trace id.
const MAX_LABEL: usize = 255;
/// Content type of control events, which have commands of their own.
const RESERVED: &str = "event";
/// What software needs to write.
const SEND: &str = "cap:messaging.send";

fn says_something(content: &Personal) -> Result<(), Rejection> {
    match content.text_len() {
        0 => Err(Rejection::invalid("content: at least one character")),
        1..=MAX_CONTENT => Ok(()),
        length => Err(Rejection::new("TOO_LARGE", format!("content: {length} bytes, the limit is {MAX_CONTENT}"))),
    }
}

impl Conversation {
    pub(super) fn send(
        &self,
        c: SendMessage,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<ConversationEvent>, Rejection> {
        if !by.is_platform() {
            self.as_participant(by)?;
        }
        self.is_readable()?;
        let sender_type = SenderType::of(by.subject_kind()).ok_or_else(|| Rejection::forbidden("sign in to write"))?;
        // Assistants of the platform speak through its own services; other software needs leave to.
        if by.subject_kind() == ActorType::Agent && by.auth != AuthMethod::Service && !by.holds(SEND) {
            return Err(Rejection::new("MISSING_CAPABILITY", format!("the capability '{SEND}' is required to write")));
        }
        if Uuid::try_parse(&c.message_id).is_err() {
            return Err(Rejection::invalid("messageId: a UUID"));
        }
        if let Some(message) = self.messages.get(&c.message_id) {
            return self.repeated(&c, message, by);
        }
        // Whoever writes, not in whose name: a pause is no pause when software goes on as somebody else.
        if self.answering.silences(&by.id) && by.id.starts_with(ASSISTANT_PREFIX) {
            return Err(Rejection::new(
                "CONVERSATION_PAUSED",
                "assistants are silent here until the conversation is resumed",
            ));
        }
        if c.content_type == RESERVED {
            return Err(Rejection::invalid("contentType: 'event' is for control events; send a control command"));
        }
        let labels = [Some(&c.content_type), c.run_id.as_ref(), c.trace_id.as_ref()];
        if c.content_type.is_empty() || labels.into_iter().flatten().any(|label| label.len() > MAX_LABEL) {
            return Err(Rejection::invalid("contentType, runId and traceId: 1 to 255 bytes"));
        }
        self.is_said_by(by, &[Some(&c.content), c.metadata.as_ref()])?;
        says_something(&c.content)?;
        if c.metadata.as_ref().is_some_and(|m| m.text_len() > MAX_METADATA) {
            return Err(Rejection::new("TOO_LARGE", "metadata: at most 32 kB"));
        }
        if let Some(target) = &c.reply_to {
            self.standing(target)?;
        }
        Ok(Decision::one(MessageSent {
            message_id: c.message_id,
            sequence: self.last_sequence + 1,
            sender_id: by.subject().to_owned(),
            sender_type,
            content: c.content,
            content_digest: c.content_digest,
            content_type: c.content_type,
            reply_to: c.reply_to,
            run_id: c.run_id,
            trace_id: c.trace_id,
            priority: c.priority,
            interruptible: c.interruptible,
            preempted_by: c.preempted_by,
            metadata: c.metadata,
            at_ms: Some(clock::next(self.last_at_ms, at)),
        }))
    }

    // The same message once more changes nothing; another one under its id is refused and told nothing.
    fn repeated(&self, c: &SendMessage, m: &Message, by: &Actor) -> Result<Decision<ConversationEvent>, Rejection> {
        let digest = self.newest.iter().find(|(id, _)| *id == c.message_id).map(|(_, digest)| digest);
        if !m.control && self.is_sender(m, by) && digest.is_none_or(|digest| *digest == c.content_digest) {
            return Ok(Decision::nothing());
        }
        Err(Rejection::new("MESSAGE_ID_CONFLICT", "this message id is in use: send the message under a new one"))
    }

    pub(super) fn edit(&self, c: EditMessage, by: &Actor) -> Result<Decision<ConversationEvent>, Rejection> {
        self.as_participant(by)?;
        self.is_readable()?;
        let message = self.text(&c.message_id)?;
        if !self.is_sender(message, by) {
            return Err(Rejection::forbidden("only its sender may edit a message"));
        }
        if c.expected_version.is_some_and(|version| version != message.version) {
            let text = format!("the message is at version {}: read it and edit again", message.version);
            return Err(Rejection::new("VERSION_CONFLICT", text));
        }
        self.is_said_by(by, &[Some(&c.content)])?;
        says_something(&c.content)?;
        Ok(Decision::one(MessageEdited {
            message_id: c.message_id,
            version: message.version + 1,
            content: c.content,
            content_digest: c.content_digest,
        }))
    }

    pub(super) fn delete(&self, c: DeleteMessage, by: &Actor) -> Result<Decision<ConversationEvent>, Rejection> {
        if !by.is_platform() {
            self.as_participant(by)?;
        }
        let message = self.text(&c.message_id)?;
        if !self.is_sender(message, by) && !self.is_led_by(by) {
            let text = "only its sender, or an owner or admin of the conversation, may delete a message";
            return Err(Rejection::new("INSUFFICIENT_ROLE", text));
        }
        self.is_sealed([c.reason.as_ref()])?;
        Ok(Decision::one(MessageDeleted {
            message_id: c.message_id,
            deleted_by: by.subject().to_owned(),
            reason: c.reason,
        }))
    }

    // Sealed under the author's own key in the conversation, or under the conversation's; all of it under one.
    pub(super) fn is_said_by(&self, by: &Actor, texts: &[Option<&Personal>]) -> Result<(), Rejection> {
        let own = |kid: &&String| {
            let named = kid.strip_prefix(&self.content_key_id).and_then(|rest| rest.strip_prefix('>'));
            named.and_then(|named| named.split('>').next()) == Some(by.subject())
        };
        let first = texts.iter().flatten().next().map(|text| &text.kid);
        sealed_with(first.filter(own).unwrap_or(&self.content_key_id), texts.iter().copied())
    }

    fn standing(&self, message_id: &str) -> Result<&Message, Rejection> {
        let found = self.messages.get(message_id).filter(|m| !m.deleted);
        let missing = || Rejection::new("MESSAGE_NOT_FOUND", "there is no such message in this conversation");
        found.ok_or_else(missing)
    }

    // A signal is a record: it is neither edited nor taken back.
    fn text(&self, message_id: &str) -> Result<&Message, Rejection> {
        let message = self.standing(message_id)?;
        if message.control {
            return Err(Rejection::invalid("messageId: a control event can be neither edited nor deleted"));
        }
        Ok(message)
    }

    fn is_sender(&self, message: &Message, by: &Actor) -> bool {
        self.senders.get(message.sender).is_some_and(|sender| *sender == by.subject())
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! A private conversation of Ada with an assistant.

    use super::*;
    use crate::{Membership, Role};
    use symbia_events::{
        ActorType, SubjectKey,
        messaging::{
            ConversationCreated, ConversationType, ParticipantAdded, ParticipantRole, ParticipantType, Priority,
        },
    };

    pub(crate) fn people(id: &str, org: &str) -> Actor {
        let kind = if id.contains(':') { ActorType::Agent } else { ActorType::User };
        let orgs = vec![Membership { id: org.parse().unwrap(), role: Role::Member }];
        Actor { id: id.into(), kind, orgs, ..Actor::service("x") }
    }

    pub(crate) fn ada() -> Actor {
        people("ada", "org")
    }

    pub(crate) fn key() -> SubjectKey {
        SubjectKey::from_bytes("k1", [1; 32])
    }

    /// What says a text as the message of a number.
    pub(crate) fn say(n: u128, text: &str) -> SendMessage {
        SendMessage {
            message_id: Uuid::from_u128(n).to_string(),
            content: key().seal(text),
            content_digest: key().digest(text),
            content_type: "text".into(),
            reply_to: None,
            run_id: None,
            trace_id: None,
            priority: Priority::Normal,
            interruptible: true,
            preempted_by: None,
            metadata: None,
        }
    }

    pub(crate) fn entered(id: &str, via: &str) -> ConversationEvent {
        let agent = id.contains(':');
        ParticipantAdded {
            participant_id: format!("p-{id}"),
            principal_id: id.into(),
            principal_type: if agent { ParticipantType::Agent } else { ParticipantType::User },
            role: if id == "ada" { ParticipantRole::Owner } else { ParticipantRole::Member },
            entity_id: None,
            added_by: "ada".into(),
            via: via.into(),
        }
        .into()
    }

    pub(crate) fn created() -> Vec<ConversationEvent> {
        let created = ConversationCreated {
            conversation_id: "c1".into(),
            conversation_type: ConversationType::Private,
            name: None,
            description: None,
            org_id: "org".into(),
            created_by: "ada".into(),
            metadata: None,
            content_key_id: "k1".into(),
        };
        vec![created.into(), entered("ada", "create"), entered("assistant:symbia", "create")]
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{ada, created, key, people, say};
    use super::*;
    use crate::{Aggregate, messaging::ConversationCommand, testing::given};
    use proptest::prelude::*;
    use symbia_events::SubjectKey;

    fn id(n: u128) -> String {
        Uuid::from_u128(n).to_string()
    }

    fn history(said: impl IntoIterator<Item = (SendMessage, Actor)>) -> Vec<ConversationEvent> {
        let (mut state, mut events) = (Conversation::default(), created());
        events.iter().for_each(|e| state.apply(e));
        for (command, by) in said {
            let event = state.send(command, &by, crate::testing::AT).unwrap().events.remove(0);
            state.apply(&event);
            events.push(event);
        }
        events
    }

    fn sequences(events: &[ConversationEvent]) -> Vec<u64> {
        let sent =
            |e: &ConversationEvent| if let ConversationEvent::MessageSent(m) = e { Some(m.sequence) } else { None };
        events.iter().filter_map(sent).collect()
    }

    #[test]
    fn messages_are_numbered_without_gaps_and_everyone_speaks_as_themselves() {
        let assistant = people("assistant:symbia", "org");
        let events = history([(say(1, "hi"), ada()), (say(2, "hello"), assistant), (say(3, "bye"), ada())]);
        assert_eq!(sequences(&events), [1, 2, 3]);
        let times = events.iter().filter_map(|e| match e {
            ConversationEvent::MessageSent(m) => m.at_ms,
            _ => None,
        });
        let times: Vec<i64> = times.collect();
        assert_eq!((times[1] - times[0], times[2] - times[1]), (1, 1), "said at once, each has a time of its own");
        let ConversationEvent::MessageSent(reply) = &events[4] else { unreachable!() };
        assert_eq!((reply.sender_id.as_str(), reply.sender_type), ("assistant:symbia", SenderType::Agent));
        assert_eq!(key().open(&reply.content).unwrap(), "hello");
    }

    #[test]
    fn strangers_and_other_assistants_are_not_heard() {
        given::<Conversation>(created()).when(say(1, "x"), &people("eve", "org")).rejected("NOT_PARTICIPANT");
        let other = people("assistant:other", "org");
        given::<Conversation>(created()).when(say(1, "x"), &other).rejected("NOT_PARTICIPANT");
        given::<Conversation>([]).when(say(1, "x"), &ada()).rejected("CONVERSATION_NOT_FOUND");
    }

    #[test]
    fn a_repeated_message_changes_nothing_and_another_under_its_id_is_refused() {
        let events = || history([(say(1, "hi"), ada())]);
        given::<Conversation>(events()).when(say(1, "hi"), &ada()).then([]);
        given::<Conversation>(events()).when(say(1, "ho"), &ada()).rejected("MESSAGE_ID_CONFLICT");
        let assistant = people("assistant:symbia", "org");
        given::<Conversation>(events()).when(say(1, "hi"), &assistant).rejected("MESSAGE_ID_CONFLICT");
    }

    #[test]
    fn what_cannot_be_a_message_is_refused() {
        let refused = |c: SendMessage, code: &str| given::<Conversation>(created()).when(c, &ada()).rejected(code);
        refused(SendMessage { message_id: "1".into(), ..say(1, "x") }, "VALIDATION_FAILED");
        refused(SendMessage { content_type: "event".into(), ..say(1, "x") }, "VALIDATION_FAILED");
        refused(SendMessage { run_id: Some("x".repeat(256)), ..say(1, "x") }, "VALIDATION_FAILED");
        refused(SendMessage { reply_to: Some(id(9)), ..say(1, "x") }, "MESSAGE_NOT_FOUND");
        refused(say(1, ""), "VALIDATION_FAILED");
        refused(say(1, &"x".repeat(MAX_CONTENT + 1)), "TOO_LARGE");
        refused(SendMessage { metadata: Some(key().seal(&"x".repeat(MAX_METADATA + 1))), ..say(1, "x") }, "TOO_LARGE");
        let largest = say(1, &"x".repeat(MAX_CONTENT));
        assert!(given_state(created()).send(largest, &ada(), crate::testing::AT).is_ok());
    }

    fn given_state(events: Vec<ConversationEvent>) -> Conversation {
        let mut state = Conversation::default();
        events.iter().for_each(|e| state.apply(e));
        state
    }

    #[test]
    fn a_text_under_another_conversations_key_is_refused() {
        let foreign = SubjectKey::from_bytes("k2", [1; 32]);
        let refused = |c: ConversationCommand| {
            given::<Conversation>(history([(say(1, "hi"), ada())])).when(c, &ada()).rejected("WRONG_KEY");
        };
        refused(SendMessage { content: foreign.seal("x"), ..say(2, "x") }.into());
        refused(SendMessage { metadata: Some(foreign.seal("{}")), ..say(2, "x") }.into());
        let edit = EditMessage {
            message_id: id(1),
            content: foreign.seal("x"),
            content_digest: "".into(),
            expected_version: None,
        };
        refused(edit.into());
        refused(DeleteMessage { message_id: id(1), reason: Some(foreign.seal("x")) }.into());
    }

    #[test]
    fn what_is_said_is_sealed_under_the_authors_own_key_or_the_conversations() {
        let under = |kid: &str| SubjectKey::from_bytes(kid, [2; 32]);
        let says = |kid: &str| SendMessage { content: under(kid).seal("hi"), ..say(1, "hi") };
        let accepted = |c: SendMessage| {
            let state: Conversation = given_state(created());
            state.decide(c.into(), &ada(), crate::testing::AT).map(drop).map_err(|r| r.code.into_owned())
        };
        for own in ["k1", "k1>ada", "k1>ada>2"] {
            assert_eq!(accepted(says(own)), Ok(()), "{own}");
        }
        for foreign in ["k1>bob", "k1>adam", "k2>ada", "k1ada", "k1>"] {
            assert_eq!(accepted(says(foreign)), Err("WRONG_KEY".to_owned()), "{foreign}");
        }
        let mixed = SendMessage { metadata: Some(key().seal("{}")), ..says("k1>ada") };
        assert_eq!(accepted(mixed), Err("WRONG_KEY".to_owned()));
    }

    #[test]
    fn only_the_sender_edits_and_each_edit_has_a_version() {
        let events = || history([(say(1, "hi"), ada())]);
        let edit = |expected_version| EditMessage {
            message_id: id(1),
            content: key().seal("ho"),
            content_digest: key().digest("ho"),
            expected_version,
        };
        given::<Conversation>(events()).when(edit(None), &people("assistant:symbia", "org")).rejected("FORBIDDEN");
        given::<Conversation>(events()).when(edit(Some(2)), &ada()).rejected("VERSION_CONFLICT");
        let command = edit(Some(1));
        let edited = MessageEdited {
            message_id: id(1),
            version: 2,
            content: command.content.clone(),
            content_digest: key().digest("ho"),
        };
        given::<Conversation>(events()).when(command, &ada()).then([edited.into()]);
    }

    #[test]
    fn a_deleted_message_cannot_be_edited_answered_or_deleted_again() {
        let delete = DeleteMessage { message_id: id(1), reason: None };
        let assistant = people("assistant:symbia", "org");
        let by_ada = history([(say(1, "hi"), ada())]);
        given::<Conversation>(by_ada).when(delete.clone(), &assistant).rejected("INSUFFICIENT_ROLE");
        let by_assistant = history([(say(1, "hi"), assistant)]);
        let deleted = MessageDeleted { message_id: id(1), deleted_by: "ada".into(), reason: None };
        given::<Conversation>(by_assistant.clone()).when(delete.clone(), &ada()).then([deleted.clone().into()]);
        let after = || by_assistant.clone().into_iter().chain([deleted.clone().into()]);
        given::<Conversation>(after()).when(delete, &ada()).rejected("MESSAGE_NOT_FOUND");
        let answer = SendMessage { reply_to: Some(id(1)), ..say(2, "x") };
        given::<Conversation>(after()).when(answer, &ada()).rejected("MESSAGE_NOT_FOUND");
    }

    proptest! {
        #[test]
        fn the_sequence_is_dense_whatever_is_said(said in proptest::collection::vec((0u128..12, 0usize..3, "[a-b]?"), 0..60)) {
            let speakers = [ada(), people("assistant:symbia", "org"), people("eve", "org")];
            let mut state = given_state(created());
            let mut events = Vec::new();
            for (n, who, text) in said {
                if let Ok(decision) = state.decide(say(n, &text).into(), &speakers[who], crate::testing::AT) {
                    decision.events.iter().for_each(|e| state.apply(e));
                    events.extend(decision.events);
                }
            }
            let expected: Vec<u64> = (1..=events.len() as u64).collect();
            prop_assert_eq!(sequences(&events), expected);
        }
    }
}
