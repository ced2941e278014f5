//! Agents in people's names: they may do what the person may, and what they do is the person's.

use symbia_events::{
    ActorType,
    messaging::{ConversationEvent, ConversationType, ParticipantRole, ParticipantType, Signal},
};
use uuid::Uuid;

use super::{
    ChangeParticipantRole, Conversation, ConversationCommand, CreateConversation, DeleteMessage, EditMessage,
    JoinConversation, LeaveConversation, MarkRead, NewParticipant, ReadCursor, SendControl, TransferOwnership,
    messages::testing::{created, entered, key, people, say},
};
use crate::{Actor, Aggregate, Authority, testing::AT};

fn in_the_name_of(person: &Actor) -> Actor {
    let authority = Authority { scopes: vec!["cap:messaging.send".into()], ..Authority::default() };
    Actor {
        id: "agent:a".into(),
        kind: ActorType::Agent,
        on_behalf_of: Some(person.id.clone()),
        authority: Some(Box::new(authority)),
        ..person.clone()
    }
}

fn cancel() -> SendControl {
    SendControl {
        keep_partial: false,
        control_id: Uuid::from_u128(9).to_string(),
        event: Signal::Cancel,
        target: None,
        reason: None,
        priority: None,
        run_id: None,
        trace_id: None,
        preempted_by: None,
        metadata: None,
    }
}

fn new(id: &str) -> NewParticipant {
    let principal_type = ParticipantType::User;
    NewParticipant { participant_id: format!("p-{id}"), principal_id: id.into(), principal_type, entity_id: None }
}

// A group of Ada, Bob and an assistant, in which both have said something.
fn group() -> Conversation {
    let mut state = Conversation::default();
    let mut opened = created();
    if let ConversationEvent::ConversationCreated(e) = &mut opened[0] {
        e.conversation_type = ConversationType::Group;
    }
    opened.push(entered("bob", "invite"));
    opened.iter().for_each(|event| state.apply(event));
    for (n, who) in [(1, "ada"), (2, "bob")] {
        let decided = state.decide(say(n, "hi").into(), &people(who, "org"), AT).unwrap();
        decided.events.iter().for_each(|event| state.apply(event));
    }
    state
}

fn commands() -> Vec<(&'static str, ConversationCommand)> {
    let message_id = |n| Uuid::from_u128(n).to_string();
    let edit = |n| EditMessage {
        message_id: message_id(n),
        content: key().seal("ho"),
        content_digest: key().digest("ho"),
        expected_version: None,
    };
    let role = ChangeParticipantRole { principal_id: "bob".into(), role: ParticipantRole::Admin };
    vec![
        ("send", say(3, "hi").into()),
        ("send the same again", say(2, "hi").into()),
        ("edit Ada's", edit(1).into()),
        ("edit Bob's", edit(2).into()),
        ("delete Ada's", DeleteMessage { message_id: message_id(1), reason: None }.into()),
        ("cancel", cancel().into()),
        ("join", JoinConversation { participant: new("eve") }.into()),
        ("leave", LeaveConversation {}.into()),
        ("give a role", role.into()),
        ("give it away", TransferOwnership { to_principal_id: "bob".into() }.into()),
    ]
}

#[test]
fn an_agent_in_somebodys_name_may_what_they_may_and_what_follows_is_theirs() {
    for person in ["ada", "bob", "eve"].map(|id| people(id, "org")) {
        let agent = in_the_name_of(&person);
        for (what, command) in commands() {
            let theirs = group().decide(command.clone(), &person, AT);
            assert_eq!(group().decide(command, &agent, AT), theirs, "{what}, in the name of {}", person.id);
        }
        let open = CreateConversation {
            conversation_id: "c2".into(),
            conversation_type: ConversationType::Private,
            name: None,
            description: None,
            org_id: "org".into(),
            metadata: None,
            content_key_id: "k1".into(),
            owner: new("ada"),
            participants: Vec::new(),
        };
        let theirs = Conversation::default().decide(open.clone().into(), &person, AT);
        assert_eq!(Conversation::default().decide(open.into(), &agent, AT), theirs);
        let read = MarkRead { conversation_id: "c1".into(), principal_id: "ada".into(), up_to_sequence: 1 };
        let theirs = ReadCursor::default().decide(read.clone().into(), &person, AT);
        assert_eq!(ReadCursor::default().decide(read.into(), &agent, AT), theirs);
    }
}

#[test]
fn the_agent_itself_is_nobody_there() {
    let agent = Actor { id: "agent:a".into(), kind: ActorType::Agent, ..people("ada", "org") };
    let refused = group().decide(say(3, "hi").into(), &agent, AT).map_err(|rejection| rejection.code.into_owned());
    assert_eq!(refused.map(|decided| decided.events), Err("NOT_PARTICIPANT".to_owned()));
}
