//! What happens in two conversations, one of whose key is gone: also what no aggregate would decide.

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use symbia_events::{
    KeyRing, Position, Service, SubjectKey,
    messaging::{
        AuthorErased, AuthorEvent, ChannelLinkEvent, ChannelLinked, ChannelUnlinked, ControlIssued,
        ConversationCreated, ConversationDeleted, ConversationErased, ConversationEvent, ConversationRead,
        ConversationSettingsChanged, ConversationType, MessageDeleted, MessageEdited, MessageSent,
        OwnershipTransferred, ParticipantAdded, ParticipantRemoved, ParticipantRole, ParticipantRoleChanged,
        ParticipantType, Priority, ReadCursorEvent, RetentionScheduled, SenderType, Signal, author_id, read_cursor_id,
    },
};
use symbia_projections::{
    FoldEvent,
    messaging::{Messaging, content_key_id},
    migrate, schema,
    secrets::SecretStore,
};

use super::{
    folded, sign,
    support::{AT, database, kek, pool},
};

const ORG: &str = "org";

#[derive(Clone, Copy, Debug)]
enum Step {
    Open(u8),
    Join(u8, u8),
    Leave(u8, u8),
    Role(u8, u8),
    Owner(u8, u8),
    Say(u8, u8),
    Edit(u8, u8),
    Hide(u8, u8),
    Settings(u8),
    Signal(u8),
    Read(u8, u8),
    Erase(u8),
    Delete(u8),
    Retain(u8),
    Forget(u8),
    Link(u8, u8),
    Unlink(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let (one, two, said) = (0..2u8, (0..2u8, 0..3u8), (0..2u8, 0..40u8));
    prop_oneof![
        6 => one.clone().prop_map(Step::Open),
        5 => two.clone().prop_map(|(c, u)| Step::Join(c, u)),
        1 => two.clone().prop_map(|(c, u)| Step::Leave(c, u)),
        2 => two.clone().prop_map(|(c, u)| Step::Role(c, u)),
        1 => two.clone().prop_map(|(c, u)| Step::Owner(c, u)),
        9 => two.clone().prop_map(|(c, u)| Step::Say(c, u)),
        4 => said.clone().prop_map(|(c, n)| Step::Edit(c, n)),
        2 => said.prop_map(|(c, n)| Step::Hide(c, n)),
        2 => one.clone().prop_map(Step::Settings),
        2 => one.clone().prop_map(Step::Signal),
        3 => two.clone().prop_map(|(c, u)| Step::Read(c, u)),
        1 => two.clone().prop_map(|(_, u)| Step::Forget(u)),
        1 => two.clone().prop_map(|(c, l)| Step::Link(c, l)),
        1 => two.prop_map(|(c, l)| Step::Unlink(c, l)),
        1 => one.clone().prop_map(Step::Retain),
        1 => one.clone().prop_map(Step::Erase),
        1 => one.prop_map(Step::Delete),
    ]
}

fn conversation_event(step: Step, n: u32, key: &SubjectKey) -> Option<(u8, ConversationEvent)> {
    let (by, user) = (|| "t".to_owned(), |u: u8| format!("u{u}"));
    let message = |m: u8| format!("m{m}");
    Some(match step {
        Step::Open(c) => {
            let created = ConversationCreated {
                conversation_id: format!("c{c}"),
                conversation_type: ConversationType::Group,
                name: Some(key.seal("name")),
                description: Some(key.seal("description")),
                org_id: ORG.into(),
                created_by: by(),
                metadata: Some(key.seal("{\"a\":1}")),
                content_key_id: key.kid().to_owned(),
            };
            (c, created.into())
        }
        Step::Join(c, u) => {
            let added = ParticipantAdded {
                participant_id: format!("p{n}"),
                principal_id: user(u),
                principal_type: ParticipantType::User,
                role: ParticipantRole::Member,
                entity_id: None,
                added_by: by(),
                via: "invite".into(),
            };
            (c, added.into())
        }
        Step::Leave(c, u) => {
            (c, ParticipantRemoved { principal_id: user(u), removed_by: by(), via: "leave".into() }.into())
        }
        Step::Role(c, u) => {
            let (from, to) = (ParticipantRole::Member, ParticipantRole::Admin);
            (c, ParticipantRoleChanged { principal_id: user(u), from, to, changed_by: by() }.into())
        }
        Step::Owner(c, u) => {
            (c, OwnershipTransferred { from: user((u + 1) % 3), to: user(u), transferred_by: by() }.into())
        }
        Step::Say(c, u) => {
            let sent = MessageSent {
                message_id: format!("m{n}"),
                sequence: u64::from(n),
                sender_id: user(u),
                sender_type: SenderType::User,
                content: key.seal("said\0"),
                content_digest: "d".into(),
                content_type: "text".into(),
                reply_to: None,
                run_id: None,
                trace_id: None,
                priority: Priority::Normal,
                interruptible: true,
                preempted_by: None,
                metadata: None,
                at_ms: n.is_multiple_of(2).then_some(i64::from(n)),
            };
            (c, sent.into())
        }
        Step::Edit(c, m) => {
            let (version, content) = (n, key.seal(&format!("edited {n}")));
            (c, MessageEdited { message_id: message(m), version, content, content_digest: "d".into() }.into())
        }
        Step::Hide(c, m) => (c, MessageDeleted { message_id: message(m), deleted_by: by(), reason: None }.into()),
        Step::Settings(c) => {
            let description = Some(key.seal(""));
            (
                c,
                ConversationSettingsChanged { name: Some(key.seal(&format!("n{n}"))), description, metadata: None }
                    .into(),
            )
        }
        Step::Signal(c) => {
            let issued = ControlIssued {
                control_id: format!("m{n}"),
                sequence: u64::from(n),
                event: Signal::Pause,
                issued_by: by(),
                sender_type: SenderType::User,
                target: None,
                asker: None,
                reason: Some(key.seal("why")),
                priority: None,
                run_id: None,
                trace_id: None,
                preempted_by: None,
                metadata: None,
                keep_partial: false,
                at_ms: None,
            };
            (c, issued.into())
        }
        Step::Erase(c) => (c, ConversationErased { erased_by: by(), content_key_id: key.kid().to_owned() }.into()),
        Step::Delete(c) => (c, ConversationDeleted { deleted_by: by(), reason: None }.into()),
        Step::Retain(c) => (c, RetentionScheduled { days: n, last_sequence: 0, by: by() }.into()),
        Step::Read(..) | Step::Forget(_) | Step::Link(..) | Step::Unlink(..) => return None,
    })
}

fn events(ring: &KeyRing, keys: &[SubjectKey], steps: &[Step]) -> Vec<FoldEvent> {
    let mut log = Vec::new();
    for (number, step) in (1u32..).zip(steps) {
        let of = |c: u8| &keys[usize::from(c)];
        let key = match *step {
            Step::Open(c) | Step::Settings(c) | Step::Signal(c) | Step::Erase(c) | Step::Delete(c) => of(c),
            Step::Retain(c) | Step::Link(c, _) | Step::Unlink(c, _) => of(c),
            Step::Forget(_) => of(0),
            Step::Join(c, _) | Step::Leave(c, _) | Step::Role(c, _) | Step::Owner(c, _) => of(c),
            Step::Say(c, _) | Step::Edit(c, _) | Step::Hide(c, _) | Step::Read(c, _) => of(c),
        };
        match (conversation_event(*step, number, key), *step) {
            (Some((c, event)), _) => log.extend(sign(ring, ORG, &format!("c{c}"), number, &[event])),
            (None, Step::Read(c, u)) => {
                let (conversation_id, principal_id) = (format!("c{c}"), format!("u{u}"));
                let id = read_cursor_id(&conversation_id, &principal_id);
                let read = ConversationRead { conversation_id, principal_id, up_to_sequence: number.into() };
                log.extend(sign(ring, ORG, &id, number, &[ReadCursorEvent::from(read)]));
            }
            (None, Step::Forget(u)) => {
                let (principal_id, org_id, erased_by) = (format!("u{u}"), ORG.into(), "t".into());
                let id = author_id(&principal_id);
                let erased = AuthorErased { principal_id, org_id, erased_by, generation: number };
                log.extend(sign(ring, ORG, &id, number, &[AuthorEvent::from(erased)]));
            }
            (None, Step::Link(c, l)) => {
                let linked = ChannelLinked {
                    link_id: format!("l{l}"),
                    org_id: ORG.into(),
                    channel_type: "telegram".into(),
                    connection_id: format!("k{number}"),
                    chat_id: key.seal("chat"),
                    conversation_id: format!("c{c}"),
                    linked_by: "t".into(),
                };
                log.extend(sign(ring, ORG, &format!("l{l}"), number, &[ChannelLinkEvent::from(linked)]));
            }
            (None, Step::Unlink(c, l)) => {
                let (link_id, conversation_id, unlinked_by) = (format!("l{l}"), format!("c{c}"), "t".into());
                let unlinked = ChannelUnlinked { link_id, conversation_id, unlinked_by };
                log.extend(sign(ring, ORG, &format!("l{l}"), number, &[ChannelLinkEvent::from(unlinked)]));
            }
            _ => {}
        }
    }
    for (sequence, event) in (1u64..).zip(&mut log) {
        event.position = Position { service: Service::Messaging, sequence };
    }
    log
}

#[test]
fn conversations_come_go_and_fall_silent_alike_in_batches_of_any_size() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (pool, messaging, keys, _server) = runtime.block_on(async {
        let server = database().await;
        let pool = pool(&server.0).await;
        migrate(&pool, &[]).await.unwrap();
        let secrets = SecretStore::open(pool.clone(), kek()).await.unwrap();
        let keys: Vec<_> = (0..2).map(|c| SubjectKey::generate(content_key_id(ORG, &format!("c{c}")))).collect();
        secrets.put_subject_key(&keys[0]).await.unwrap();
        let messaging = Messaging::new(secrets);
        schema::create_shadow(&mut pool.acquire().await.unwrap(), &messaging, "scratch").await.unwrap();
        (pool, messaging, keys, server)
    });
    let ring = KeyRing::generate(AT);
    let cases = (prop::collection::vec(step(), 1..80), prop::collection::vec(1..20usize, 1..6));
    let mut runner = TestRunner::new(Config { cases: 32, failure_persistence: None, ..Config::default() });
    let result = runner.run(&cases, |(steps, sizes)| {
        let events = events(&ring, &keys, &steps);
        let (one, all, some, found) = runtime.block_on(async {
            let one = folded(&pool, &messaging, &events, &[1]).await;
            let all = folded(&pool, &messaging, &events, &[events.len()]).await;
            let some = folded(&pool, &messaging, &events, &sizes).await;
            let silent = "SELECT count(*) FROM scratch.messages
                          WHERE words IS NOT NULL AND (erased OR deleted_at IS NOT NULL OR content_type = 'event')";
            let found: i64 = sqlx::query_scalar(silent).fetch_one(&pool).await.unwrap();
            (one, all, some, found)
        });
        prop_assert_eq!(&one, &all);
        prop_assert_eq!(&one, &some);
        prop_assert_eq!(found, 0, "what is silent has no words to be found by");
        Ok(())
    });
    result.unwrap();
}
