//! Opening a conversation, and who takes part in it (messaging.md §8.10, §13.2).

use symbia_events::messaging::{
    ConversationCreated, ConversationEvent, ConversationType, OwnershipTransferred, ParticipantAdded,
    ParticipantRemoved, ParticipantRole, ParticipantRoleChanged, ParticipantType,
};

use super::{
    ASSISTANT_PREFIX, ChangeParticipantRole, Conversation, CreateConversation, MAX_METADATA, MAX_PARTICIPANTS,
    NewParticipant, Participant, RemoveParticipant, conversation::sealed_with,
};
use crate::{Actor, Decision, Rejection};

/// Longest name and principal id.
pub(super) const MAX_NAME: usize = 255;

fn usable(participant: &NewParticipant) -> Result<(), Rejection> {
    let id = &participant.principal_id;
    if id.is_empty() || id.len() > MAX_NAME || participant.participant_id.is_empty() {
        return Err(Rejection::invalid("a participant has a participantId, and a principalId of 1 to 255 bytes"));
    }
    if id.starts_with(ASSISTANT_PREFIX) && participant.principal_type != ParticipantType::Agent {
        return Err(Rejection::invalid(format!("'{id}' is an assistant: its principalType is 'agent'")));
    }
    Ok(())
}

pub(super) fn added(participant: NewParticipant, role: ParticipantRole, by: &Actor, via: &str) -> ParticipantAdded {
    ParticipantAdded {
        participant_id: participant.participant_id,
        principal_id: participant.principal_id,
        principal_type: participant.principal_type,
        role,
        entity_id: participant.entity_id,
        added_by: by.subject().to_owned(),
        via: via.to_owned(),
    }
}

fn full() -> Rejection {
    Rejection::new("PRIVATE_CONVERSATION", "a private conversation is for at most two people: make it a group")
}

impl Conversation {
    pub(super) fn create(&self, c: CreateConversation, by: &Actor) -> Result<Decision<ConversationEvent>, Rejection> {
        if !self.conversation_id.is_empty() {
            return Err(Rejection::new("CONFLICT", "this conversation id is in use"));
        }
        let member = by.orgs.iter().any(|m| m.id.as_str() == c.org_id);
        if !by.is_platform() && !by.super_admin && !member {
            return Err(Rejection::new("ORG_ACCESS_DENIED", "conversations are opened in one's own organization"));
        }
        if !by.is_platform() && by.subject() != c.owner.principal_id {
            return Err(Rejection::forbidden("a conversation is opened in one's own name"));
        }
        if c.conversation_id.is_empty() || c.content_key_id.is_empty() {
            return Err(Rejection::invalid("conversationId and contentKeyId must not be empty"));
        }
        sealed_with(&c.content_key_id, [c.name.as_ref(), c.description.as_ref(), c.metadata.as_ref()])?;
        let name = c.name.as_ref().map_or(0, |n| n.text_len());
        if c.conversation_type == ConversationType::Group && name == 0 {
            return Err(Rejection::invalid("name: a group has one"));
        }
        if name > MAX_NAME {
            return Err(Rejection::invalid("name: at most 255 bytes"));
        }
        if c.metadata.as_ref().is_some_and(|m| m.text_len() > MAX_METADATA) {
            return Err(Rejection::new("TOO_LARGE", "metadata: at most 32 kB"));
        }
        if c.participants.len() >= MAX_PARTICIPANTS {
            return Err(Rejection::invalid(format!("participants: at most {MAX_PARTICIPANTS} with the owner")));
        }
        usable(&c.owner)?;
        let mut others: Vec<NewParticipant> = Vec::with_capacity(c.participants.len());
        for participant in c.participants {
            usable(&participant)?;
            let id = &participant.principal_id;
            if *id != c.owner.principal_id && others.iter().all(|o| o.principal_id != *id) {
                others.push(participant);
            }
        }
        let people = others.iter().chain([&c.owner]).filter(|p| p.principal_type == ParticipantType::User);
        let people = people.count();
        if c.conversation_type == ConversationType::Private && people > 2 {
            return Err(full());
        }
        let created = ConversationCreated {
            conversation_id: c.conversation_id,
            conversation_type: c.conversation_type,
            name: c.name,
            description: c.description,
            org_id: c.org_id,
            created_by: c.owner.principal_id.clone(),
            metadata: c.metadata,
            content_key_id: c.content_key_id,
        };
        let decision = Decision::one(created).and(added(c.owner, ParticipantRole::Owner, by, "create"));
        let member = |d: Decision<ConversationEvent>, p| d.and(added(p, ParticipantRole::Member, by, "create"));
        Ok(others.into_iter().fold(decision, member))
    }

    pub(super) fn add(
        &self,
        new: NewParticipant,
        role: Option<ParticipantRole>,
        by: &Actor,
    ) -> Result<Decision<ConversationEvent>, Rejection> {
        if !self.is_above(by) {
            self.led_by(by)?;
        }
        self.exists()?;
        usable(&new)?;
        if let Some(known) = self.participant(&new.principal_id) {
            return match role {
                Some(ParticipantRole::Owner) => self.transfer(new.principal_id, by),
                Some(role) if role != known.role => {
                    self.change_role(ChangeParticipantRole { principal_id: new.principal_id, role }, by)
                }
                _ => Ok(Decision::nothing()),
            };
        }
        let role = role.unwrap_or(ParticipantRole::Member);
        if role != ParticipantRole::Member {
            self.owned_by(by)?;
        }
        if self.participants.len() >= MAX_PARTICIPANTS {
            return Err(Rejection::invalid(format!("a conversation has at most {MAX_PARTICIPANTS} participants")));
        }
        let people = self.participants.iter().filter(|p| p.principal_type == ParticipantType::User).count();
        let person = new.principal_type == ParticipantType::User;
        if self.conversation_type == ConversationType::Private && person && people >= 2 {
            return Err(full());
        }
        if role != ParticipantRole::Owner {
            return Ok(Decision::one(added(new, role, by, "invite")));
        }
        if !person {
            return Err(owned_by_people());
        }
        let transferred = self.transferred(new.principal_id.clone(), by);
        Ok(Decision::one(added(new, ParticipantRole::Member, by, "invite")).and(transferred))
    }

    pub(super) fn remove(&self, c: RemoveParticipant, by: &Actor) -> Result<Decision<ConversationEvent>, Rejection> {
        let above = self.is_above(by);
        if !above {
            self.led_by(by)?;
        }
        self.exists()?;
        let target = self.participant(&c.principal_id).ok_or_else(|| Rejection::not_found("participant"))?;
        let succession = match target.role {
            ParticipantRole::Owner if above && c.even_owner => self.heir(target).map(|heir| self.transferred(heir, by)),
            _ => {
                stays_owned_without(target)?;
                None
            }
        };
        let (principal_id, removed_by) = (c.principal_id, by.subject().to_owned());
        let removed = ParticipantRemoved { principal_id, removed_by, via: "remove".to_owned() };
        Ok(succession.map_or_else(Decision::nothing, Decision::one).and(removed))
    }

    // Who owns it after the owner: whoever leads it, else whoever has taken part the longest.
    fn heir(&self, owner: &Participant) -> Option<String> {
        let others = || self.participants.iter().filter(|p| p.principal_id != owner.principal_id);
        let people = || others().filter(|p| p.principal_type == ParticipantType::User);
        let heir = people().find(|p| p.role == ParticipantRole::Admin).or_else(|| people().next());
        heir.map(|p| p.principal_id.clone())
    }

    fn transferred(&self, to: String, by: &Actor) -> OwnershipTransferred {
        let owner = self.participants.iter().find(|p| p.role == ParticipantRole::Owner);
        let from = owner.map_or_else(String::new, |p| p.principal_id.clone());
        OwnershipTransferred { from, to, transferred_by: by.subject().to_owned() }
    }

    pub(super) fn leave(&self, by: &Actor) -> Result<Decision<ConversationEvent>, Rejection> {
        stays_owned_without(self.as_participant(by)?)?;
        let (principal_id, removed_by) = (by.subject().to_owned(), by.subject().to_owned());
        Ok(Decision::one(ParticipantRemoved { principal_id, removed_by, via: "leave".to_owned() }))
    }

    pub(super) fn join(&self, new: NewParticipant, by: &Actor) -> Result<Decision<ConversationEvent>, Rejection> {
        self.exists()?;
        usable(&new)?;
        if new.principal_id != by.subject() {
            return Err(Rejection::forbidden("one joins a conversation in one's own name"));
        }
        if self.participant(by.subject()).is_some() {
            return Ok(Decision::nothing());
        }
        if self.conversation_type == ConversationType::Private {
            return Err(Rejection::new("PRIVATE_CONVERSATION", "a private conversation is entered by invitation"));
        }
        if self.participants.len() >= MAX_PARTICIPANTS {
            return Err(Rejection::invalid(format!("a conversation has at most {MAX_PARTICIPANTS} participants")));
        }
        Ok(Decision::one(added(new, ParticipantRole::Member, by, "join")))
    }

    pub(super) fn change_role(
        &self,
        c: ChangeParticipantRole,
        by: &Actor,
    ) -> Result<Decision<ConversationEvent>, Rejection> {
        self.owned_by(by)?;
        let target = self.participant(&c.principal_id).ok_or_else(|| Rejection::not_found("participant"))?;
        if target.role == c.role {
            return Ok(Decision::nothing());
        }
        if c.role == ParticipantRole::Owner {
            return Err(Rejection::invalid("role: 'admin' or 'member'; a new owner is made by a transfer"));
        }
        stays_owned_without(target)?;
        Ok(Decision::one(ParticipantRoleChanged {
            from: target.role,
            to: c.role,
            principal_id: c.principal_id,
            changed_by: by.subject().to_owned(),
        }))
    }

    pub(super) fn transfer(&self, to: String, by: &Actor) -> Result<Decision<ConversationEvent>, Rejection> {
        self.owned_by(by)?;
        let target = self.participant(&to).ok_or_else(|| Rejection::not_found("participant"))?;
        if target.principal_type != ParticipantType::User {
            return Err(owned_by_people());
        }
        if target.role == ParticipantRole::Owner {
            return Ok(Decision::nothing());
        }
        Ok(Decision::one(self.transferred(to, by)))
    }

    pub(super) fn led_by(&self, by: &Actor) -> Result<(), Rejection> {
        self.exists()?;
        if self.is_led_by(by) {
            return Ok(());
        }
        self.as_participant(by)?;
        Err(Rejection::new("INSUFFICIENT_ROLE", "only an owner or admin of the conversation may do this"))
    }
}

fn owned_by_people() -> Rejection {
    Rejection::invalid("toPrincipalId: a conversation is owned by a person")
}

fn stays_owned_without(participant: &Participant) -> Result<(), Rejection> {
    if participant.role == ParticipantRole::Owner {
        return Err(Rejection::new("OWNER_MUST_TRANSFER", "the owner stays until somebody else owns the conversation"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::messages::testing::{ada, created, entered, people};
    use super::*;
    use crate::{
        Membership, Role,
        messaging::{AddParticipant, JoinConversation, LeaveConversation, TransferOwnership},
        testing::given,
    };
    use symbia_events::SubjectKey;

    fn new(id: &str) -> NewParticipant {
        let principal_type = if id.contains(':') { ParticipantType::Agent } else { ParticipantType::User };
        NewParticipant { participant_id: format!("p-{id}"), principal_id: id.into(), principal_type, entity_id: None }
    }

    fn create(kind: ConversationType, others: &[&str]) -> CreateConversation {
        CreateConversation {
            conversation_id: "c1".into(),
            conversation_type: kind,
            name: None,
            description: None,
            org_id: "org".into(),
            metadata: None,
            content_key_id: "k1".into(),
            owner: new("ada"),
            participants: others.iter().map(|id| new(id)).collect(),
        }
    }

    #[test]
    fn a_conversation_opens_with_its_owner_and_whoever_is_named_once() {
        let command = create(ConversationType::Private, &["assistant:symbia", "ada", "assistant:symbia"]);
        given::<Conversation>([]).when(command, &ada()).then(created());
    }

    #[test]
    fn a_conversation_is_opened_in_ones_own_name_and_organization() {
        let private = || create(ConversationType::Private, &[]);
        given::<Conversation>([]).when(private(), &people("bob", "org")).rejected("FORBIDDEN");
        given::<Conversation>([]).when(private(), &people("ada", "other")).rejected("ORG_ACCESS_DENIED");
        given::<Conversation>(created()).when(private(), &ada()).rejected("CONFLICT");
    }

    #[test]
    fn a_private_conversation_is_for_two_and_a_group_has_a_name() {
        let three = create(ConversationType::Private, &["bob", "eve"]);
        given::<Conversation>([]).when(three.clone(), &ada()).rejected("PRIVATE_CONVERSATION");
        let mut group = CreateConversation { conversation_type: ConversationType::Group, ..three };
        given::<Conversation>([]).when(group.clone(), &ada()).rejected("VALIDATION_FAILED");
        let key = SubjectKey::from_bytes("k1", [1; 32]);
        group.name = Some(key.seal(&"x".repeat(256)));
        given::<Conversation>([]).when(group, &ada()).rejected("VALIDATION_FAILED");
        let bob = AddParticipant { participant: new("bob"), role: None };
        given::<Conversation>(created()).when(bob, &ada()).then([entered("bob", "invite")]);
        let eve = AddParticipant { participant: new("eve"), role: None };
        let history = created().into_iter().chain([entered("bob", "invite")]);
        given::<Conversation>(history).when(eve, &ada()).rejected("PRIVATE_CONVERSATION");
    }

    #[test]
    fn an_assistant_is_an_agent() {
        let mut assistant = new("assistant:x");
        assistant.principal_type = ParticipantType::User;
        let add = AddParticipant { participant: assistant, role: None };
        given::<Conversation>(created()).when(add, &ada()).rejected("VALIDATION_FAILED");
    }

    #[test]
    fn members_are_managed_by_those_who_lead() {
        let history = || created().into_iter().chain([entered("bob", "invite")]);
        let bob = people("bob", "org");
        let add = AddParticipant { participant: new("assistant:other"), role: None };
        given::<Conversation>(history()).when(add.clone(), &bob).rejected("INSUFFICIENT_ROLE");
        given::<Conversation>(history()).when(add, &people("eve", "org")).rejected("NOT_PARTICIPANT");
        let again = AddParticipant { participant: new("bob"), role: None };
        given::<Conversation>(history()).when(again, &ada()).then([]);
        let remove = |id: &str| RemoveParticipant { principal_id: id.into(), even_owner: false };
        given::<Conversation>(history()).when(remove("ada"), &ada()).rejected("OWNER_MUST_TRANSFER");
        given::<Conversation>(history()).when(remove("eve"), &ada()).rejected("NOT_FOUND");
        let gone = |by: &str, via: &str| ParticipantRemoved {
            principal_id: "bob".into(),
            removed_by: by.into(),
            via: via.into(),
        };
        given::<Conversation>(history()).when(remove("bob"), &ada()).then([gone("ada", "remove").into()]);
        given::<Conversation>(history()).when(LeaveConversation {}, &bob).then([gone("bob", "leave").into()]);
        given::<Conversation>(history()).when(LeaveConversation {}, &ada()).rejected("OWNER_MUST_TRANSFER");
        given::<Conversation>([]).when(remove("bob"), &ada()).rejected("CONVERSATION_NOT_FOUND");
    }

    #[test]
    fn an_admin_of_the_organization_gives_any_role_and_removes_anyone_but_leaves_an_owner() {
        let history = || created().into_iter().chain([entered("bob", "invite")]);
        let orgs = vec![Membership { id: "org".parse().unwrap(), role: Role::Admin }];
        let above = Actor { orgs, ..people("root", "org") };
        let (admin, owner) = (ParticipantRole::Admin, ParticipantRole::Owner);
        let add = |id: &str, role| AddParticipant { participant: new(id), role: Some(role) };
        let group = || {
            let mut events: Vec<_> = history().collect();
            let ConversationEvent::ConversationCreated(e) = &mut events[0] else { unreachable!() };
            e.conversation_type = ConversationType::Group;
            events
        };
        let entered = |role| added(new("eve"), role, &above, "invite").into();
        let given_away = |to: &str| -> ConversationEvent {
            OwnershipTransferred { from: "ada".into(), to: to.into(), transferred_by: "root".into() }.into()
        };
        given::<Conversation>(group()).when(add("eve", admin), &above).then([entered(admin)]);
        let owned = [entered(ParticipantRole::Member), given_away("eve")];
        given::<Conversation>(group()).when(add("eve", owner), &above).then(owned);
        given::<Conversation>(group()).when(add("assistant:x", owner), &above).rejected("VALIDATION_FAILED");
        let raised = ParticipantRoleChanged {
            principal_id: "bob".into(),
            from: ParticipantRole::Member,
            to: admin,
            changed_by: "root".into(),
        };
        given::<Conversation>(group()).when(add("bob", admin), &above).then([raised.clone().into()]);
        // An admin of the conversation adds members, and no more.
        let led = || group().into_iter().chain([raised.clone().into()]);
        given::<Conversation>(led()).when(add("eve", admin), &people("bob", "org")).rejected("INSUFFICIENT_ROLE");

        let remove = |even_owner| RemoveParticipant { principal_id: "ada".into(), even_owner };
        let removed = |by: &str| -> ConversationEvent {
            ParticipantRemoved { principal_id: "ada".into(), removed_by: by.into(), via: "remove".into() }.into()
        };
        given::<Conversation>(group()).when(remove(false), &above).rejected("OWNER_MUST_TRANSFER");
        given::<Conversation>(group()).when(remove(true), &ada()).rejected("OWNER_MUST_TRANSFER");
        given::<Conversation>(group()).when(remove(true), &above).then([given_away("bob"), removed("root")]);
        given::<Conversation>(created()).when(remove(true), &above).then([removed("root")]);
    }

    #[test]
    fn a_group_is_open_to_its_organization_and_whoever_is_in_stays_what_they_are() {
        let group = || {
            let mut events = created();
            let ConversationEvent::ConversationCreated(e) = &mut events[0] else { unreachable!() };
            e.conversation_type = ConversationType::Group;
            events
        };
        let join = |id: &str| JoinConversation { participant: new(id) };
        let bob = people("bob", "org");
        let joined = added(new("bob"), ParticipantRole::Member, &bob, "join");
        given::<Conversation>(group()).when(join("bob"), &bob).then([joined.into()]);
        given::<Conversation>(group()).when(join("eve"), &bob).rejected("FORBIDDEN");
        given::<Conversation>(group()).when(join("ada"), &ada()).then([]);
        given::<Conversation>(created()).when(join("bob"), &bob).rejected("PRIVATE_CONVERSATION");
    }

    #[test]
    fn roles_are_given_by_the_owner_and_there_is_always_one() {
        let history = || created().into_iter().chain([entered("bob", "invite")]);
        let (bob, to) = (people("bob", "org"), |id: &str| TransferOwnership { to_principal_id: id.into() });
        let role = |id: &str, role| ChangeParticipantRole { principal_id: id.into(), role };
        let (admin, member, owner) = (ParticipantRole::Admin, ParticipantRole::Member, ParticipantRole::Owner);
        given::<Conversation>(history()).when(role("bob", admin), &bob).rejected("INSUFFICIENT_ROLE");
        given::<Conversation>(history()).when(role("bob", owner), &ada()).rejected("VALIDATION_FAILED");
        given::<Conversation>(history()).when(role("ada", member), &ada()).rejected("OWNER_MUST_TRANSFER");
        given::<Conversation>(history()).when(role("eve", admin), &ada()).rejected("NOT_FOUND");
        given::<Conversation>(history()).when(role("bob", member), &ada()).then([]);
        let changed =
            ParticipantRoleChanged { principal_id: "bob".into(), from: member, to: admin, changed_by: "ada".into() };
        given::<Conversation>(history()).when(role("bob", admin), &ada()).then([changed.into()]);
        given::<Conversation>(history()).when(to("assistant:symbia"), &ada()).rejected("VALIDATION_FAILED");
        given::<Conversation>(history()).when(to("bob"), &bob).rejected("INSUFFICIENT_ROLE");
        let given_away = OwnershipTransferred { from: "ada".into(), to: "bob".into(), transferred_by: "ada".into() };
        given::<Conversation>(history()).when(to("bob"), &ada()).then([given_away.clone().into()]);
        let after = || history().chain([given_away.clone().into()]);
        given::<Conversation>(after()).when(to("ada"), &ada()).rejected("INSUFFICIENT_ROLE");
        given::<Conversation>(after()).when(LeaveConversation {}, &bob).rejected("OWNER_MUST_TRANSFER");
        let left = ParticipantRemoved { principal_id: "ada".into(), removed_by: "ada".into(), via: "leave".into() };
        given::<Conversation>(after()).when(LeaveConversation {}, &ada()).then([left.into()]);
    }
}
