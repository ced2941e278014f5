//! What a conversation is called, and its end (messaging.md §8.6, §13.2, §14.3).

use symbia_events::{
    Personal,
    messaging::{
        ConversationDeleted, ConversationErased, ConversationEvent, ConversationSettingsChanged, ConversationType,
        RetentionScheduled,
    },
};

use super::{
    Conversation, ExpireConversation, MAX_METADATA, UpdateConversationSettings, conversation::Ending,
    membership::MAX_NAME,
};
use crate::{Actor, Decision, Rejection};

/// Longest time, in days, for which what was said may be kept; for ever is longer.
pub(super) const MAX_RETENTION: u32 = 36_500;

impl Conversation {
    pub(super) fn update(
        &self,
        c: UpdateConversationSettings,
        by: &Actor,
    ) -> Result<Decision<ConversationEvent>, Rejection> {
        self.led_by(by)?;
        self.is_readable()?;
        self.is_sealed([c.name.as_ref(), c.description.as_ref(), c.metadata.as_ref()])?;
        if let Some(name) = &c.name {
            if name.text_len() == 0 && self.conversation_type == ConversationType::Group {
                return Err(Rejection::invalid("name: a group has one"));
            }
            if name.text_len() > MAX_NAME {
                return Err(Rejection::invalid("name: at most 255 bytes"));
            }
        }
        if [&c.metadata, &c.description].into_iter().flatten().any(|text| text.text_len() > MAX_METADATA) {
            return Err(Rejection::new("TOO_LARGE", "metadata and description: at most 32 kB"));
        }
        if c.name.is_none() && c.description.is_none() && c.metadata.is_none() {
            return Ok(Decision::nothing());
        }
        let UpdateConversationSettings { name, description, metadata } = c;
        Ok(Decision::one(ConversationSettingsChanged { name, description, metadata }))
    }

    pub(super) fn end(&self, reason: Option<Personal>, by: &Actor) -> Result<Decision<ConversationEvent>, Rejection> {
        self.owned_by(by)?;
        self.is_sealed([reason.as_ref()])?;
        Ok(Decision::one(ConversationDeleted { deleted_by: by.subject().to_owned(), reason }))
    }

    pub(super) fn erase(&self, by: &Actor) -> Result<Decision<ConversationEvent>, Rejection> {
        // What was deleted is erased when its time has come, by the platform alone.
        if self.end != Some(Ending::Deleted) || !by.is_platform() {
            self.owned_by(by)?;
        }
        if self.end == Some(Ending::Erased) {
            return Ok(Decision::nothing());
        }
        Ok(Decision::one(self.erased(by)))
    }

    fn erased(&self, by: &Actor) -> ConversationErased {
        ConversationErased { erased_by: by.subject().to_owned(), content_key_id: self.content_key_id.clone() }
    }

    pub(super) fn retain(&self, days: u32, by: &Actor) -> Result<Decision<ConversationEvent>, Rejection> {
        self.owned_by(by)?;
        self.is_readable()?;
        if days > MAX_RETENTION {
            return Err(Rejection::invalid(format!("days: at most {MAX_RETENTION}; 0 keeps it for ever")));
        }
        if days == self.retention {
            return Ok(Decision::nothing());
        }
        Ok(Decision::one(self.scheduled(days, by)))
    }

    fn scheduled(&self, days: u32, by: &Actor) -> RetentionScheduled {
        RetentionScheduled { days, last_sequence: self.last_sequence, by: by.subject().to_owned() }
    }

    // A timer knows what was last said when it was set: whatever was said since puts the end off.
    pub(super) fn expire(&self, c: &ExpireConversation, by: &Actor) -> Result<Decision<ConversationEvent>, Rejection> {
        if !by.is_platform() {
            return Err(Rejection::forbidden("conversations expire by a timer; erase it to have it gone now"));
        }
        if c.by_policy {
            let over = self.is_readable().is_err() || self.last_sequence > c.last_sequence;
            return Ok(if over { Decision::nothing() } else { Decision::one(self.erased(by)) });
        }
        if self.is_readable().is_err() || self.retention == 0 || c.days != self.retention {
            return Ok(Decision::nothing());
        }
        if self.last_sequence > c.last_sequence {
            return Ok(Decision::one(self.scheduled(self.retention, by)));
        }
        Ok(Decision::one(self.erased(by)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::testing::{ada, created, entered, key, people};
    use super::*;
    use crate::{
        Membership, Role,
        messaging::{
            AddParticipant, DeleteConversation, EraseConversation, JoinConversation, NewParticipant, SetRetention,
        },
        testing::given,
    };
    use symbia_events::{
        SubjectKey,
        messaging::{MessageSent, ParticipantType, Priority, SenderType},
    };

    #[test]
    fn what_an_organization_keeps_no_longer_is_erased_unless_something_was_said_since() {
        let timer = Actor::service("messaging");
        let expire = |last_sequence| ExpireConversation { days: 30, last_sequence, by_policy: true };
        let erased = ConversationErased { erased_by: timer.id.clone(), content_key_id: key().kid().to_owned() };
        given::<Conversation>(created()).when(expire(0), &timer).then([erased.clone().into()]);
        let gone = created().into_iter().chain([erased.into()]);
        given::<Conversation>(gone).when(expire(0), &timer).then([]);
        let mut said = created();
        said.push(sent(1));
        given::<Conversation>(said).when(expire(0), &timer).then([]);
        given::<Conversation>(created()).when(expire(0), &ada()).rejected("FORBIDDEN");
    }

    fn rename(name: &str) -> UpdateConversationSettings {
        UpdateConversationSettings { name: Some(key().seal(name)), description: None, metadata: None }
    }

    fn group() -> Vec<ConversationEvent> {
        let mut events = created();
        let ConversationEvent::ConversationCreated(e) = &mut events[0] else { unreachable!() };
        e.conversation_type = ConversationType::Group;
        events.push(entered("bob", "invite"));
        events
    }

    #[test]
    fn those_who_lead_change_the_settings_and_a_group_keeps_a_name() {
        let command = rename("Plans");
        let UpdateConversationSettings { name, description, metadata } = command.clone();
        let changed = ConversationSettingsChanged { name, description, metadata };
        given::<Conversation>(group()).when(command, &ada()).then([changed.into()]);
        given::<Conversation>(group()).when(rename(""), &ada()).rejected("VALIDATION_FAILED");
        assert!(Conversation::default().update(rename("x"), &ada()).is_err());
        given::<Conversation>(group()).when(rename(&"x".repeat(256)), &ada()).rejected("VALIDATION_FAILED");
        given::<Conversation>(group()).when(rename("x"), &people("bob", "org")).rejected("INSUFFICIENT_ROLE");
        given::<Conversation>(group()).when(rename("x"), &people("eve", "org")).rejected("NOT_PARTICIPANT");
        let none = UpdateConversationSettings { name: None, description: None, metadata: None };
        given::<Conversation>(group()).when(none.clone(), &ada()).then([]);
        let large = UpdateConversationSettings { metadata: Some(key().seal(&"x".repeat(MAX_METADATA + 1))), ..none };
        given::<Conversation>(group()).when(large, &ada()).rejected("TOO_LARGE");
        let foreign = SubjectKey::from_bytes("k2", [1; 32]);
        let foreign = UpdateConversationSettings { name: Some(foreign.seal("x")), ..rename("x") };
        given::<Conversation>(group()).when(foreign, &ada()).rejected("WRONG_KEY");
    }

    #[test]
    fn its_owner_or_an_admin_of_the_organization_ends_it_and_then_it_is_gone() {
        let delete = || DeleteConversation { reason: None };
        given::<Conversation>(group()).when(delete(), &people("bob", "org")).rejected("INSUFFICIENT_ROLE");
        given::<Conversation>(group()).when(delete(), &people("eve", "org")).rejected("NOT_PARTICIPANT");
        let admin = |org: &str| Actor {
            orgs: vec![Membership { id: org.parse().unwrap(), role: Role::Admin }],
            ..people("eve", org)
        };
        let deleted = |by: &str| ConversationDeleted { deleted_by: by.into(), reason: None };
        given::<Conversation>(group()).when(delete(), &admin("org")).then([deleted("eve").into()]);
        given::<Conversation>(group()).when(delete(), &admin("other")).rejected("NOT_PARTICIPANT");
        given::<Conversation>(group()).when(delete(), &ada()).then([deleted("ada").into()]);
        let after = || group().into_iter().chain([deleted("ada").into()]);
        given::<Conversation>(after()).when(delete(), &ada()).rejected("CONVERSATION_NOT_FOUND");
        given::<Conversation>(after()).when(rename("x"), &ada()).rejected("CONVERSATION_NOT_FOUND");
        let bob = NewParticipant {
            participant_id: "p".into(),
            principal_id: "eve".into(),
            principal_type: ParticipantType::User,
            entity_id: None,
        };
        let join = JoinConversation { participant: bob.clone() };
        given::<Conversation>(after()).when(join, &people("eve", "org")).rejected("CONVERSATION_NOT_FOUND");
        let add = AddParticipant { participant: bob, role: None };
        given::<Conversation>(after()).when(add, &ada()).rejected("CONVERSATION_NOT_FOUND");
    }

    #[test]
    fn what_is_erased_is_erased_once_and_nothing_is_said_there_any_more() {
        let erase = || EraseConversation {};
        given::<Conversation>(group()).when(erase(), &people("bob", "org")).rejected("INSUFFICIENT_ROLE");
        let erased = ConversationErased { erased_by: "ada".into(), content_key_id: "k1".into() };
        given::<Conversation>(group()).when(erase(), &ada()).then([erased.clone().into()]);
        let after = || group().into_iter().chain([erased.clone().into()]);
        given::<Conversation>(after()).when(erase(), &ada()).then([]);
        given::<Conversation>(after()).when(rename("x"), &ada()).rejected("CONVERSATION_ERASED");
        let deleted = ConversationDeleted { deleted_by: "ada".into(), reason: None };
        let gone = || group().into_iter().chain([deleted.clone().into()]);
        given::<Conversation>(gone()).when(erase(), &ada()).rejected("CONVERSATION_NOT_FOUND");
        let due = ConversationErased { erased_by: "system:timer".into(), content_key_id: "k1".into() };
        given::<Conversation>(gone()).when(erase(), &Actor::system("timer")).then([due.clone().into()]);
        let done = gone().chain([due.into()]);
        given::<Conversation>(done).when(rename("x"), &ada()).rejected("CONVERSATION_NOT_FOUND");
    }
    #[test]
    fn what_nobody_adds_to_is_erased_after_its_days_and_whatever_is_said_puts_that_off() {
        let scheduled = |days, last_sequence, by: &str| RetentionScheduled { days, last_sequence, by: by.into() };
        let set = |days| SetRetention { days };
        given::<Conversation>(group()).when(set(30), &ada()).then([scheduled(30, 0, "ada").into()]);
        given::<Conversation>(group()).when(set(0), &ada()).then([]);
        given::<Conversation>(group()).when(set(40_000), &ada()).rejected("VALIDATION_FAILED");
        given::<Conversation>(group()).when(set(30), &people("bob", "org")).rejected("INSUFFICIENT_ROLE");
        let kept = || group().into_iter().chain([scheduled(30, 0, "ada").into()]);
        let (timer, due) = (Actor::system("timer"), |days, last_sequence| ExpireConversation {
            days,
            last_sequence,
            by_policy: false,
        });
        given::<Conversation>(kept()).when(due(30, 0), &ada()).rejected("FORBIDDEN");
        let erased = ConversationErased { erased_by: timer.id.clone(), content_key_id: "k1".into() };
        given::<Conversation>(kept()).when(due(30, 0), &timer).then([erased.clone().into()]);
        given::<Conversation>(kept()).when(due(7, 0), &timer).then([]);
        let said = || kept().chain([sent(1)]);
        given::<Conversation>(said()).when(due(30, 0), &timer).then([scheduled(30, 1, &timer.id).into()]);
        given::<Conversation>(said()).when(due(30, 1), &timer).then([erased.into()]);
        let for_ever = said().chain([scheduled(0, 1, "ada").into()]);
        given::<Conversation>(for_ever).when(due(30, 1), &timer).then([]);
    }

    fn sent(sequence: u64) -> ConversationEvent {
        MessageSent {
            message_id: format!("m{sequence}"),
            sequence,
            sender_id: "ada".into(),
            sender_type: SenderType::User,
            content: key().seal("hi"),
            content_digest: key().digest("hi"),
            content_type: "text".into(),
            reply_to: None,
            run_id: None,
            trace_id: None,
            priority: Priority::Normal,
            interruptible: true,
            preempted_by: None,
            metadata: None,
            at_ms: None,
        }
        .into()
    }
}
