//! Connections and chats, as they are decided.

use symbia_events::{
    ActorType, Personal, SubjectKey,
    integrations::{
        ChannelChatEvent, ChannelConnectRequested, ChannelConnected, ChannelConnectionEvent, ChannelErrorRecorded,
        ChannelMode, ChannelReceipt, ChannelStatus, ChannelStatusChanged,
    },
};

use super::*;
use crate::{Aggregate, Claim, ClaimChange, Decision, Membership, Role, testing::AT, testing::given};

fn person(role: Role) -> Actor {
    let orgs = vec![Membership { id: "org".parse().unwrap(), role }];
    Actor { id: "ada".into(), kind: ActorType::User, orgs, ..Actor::service("x") }
}

fn platform() -> Actor {
    Actor::service("integrations")
}

fn connect() -> ConnectChannel {
    ConnectChannel {
        connection_id: "k1".into(),
        org_id: "org".into(),
        channel_type: TELEGRAM.into(),
        credential_id: Some("c1".into()),
        mode: ChannelMode::Webhook,
        webhook_url: "https://x.example/hook".into(),
        target_url: None,
        secret_ref: "channel:org:k1:s".into(),
        secret_hash: "a".repeat(64),
        drop_pending_updates: false,
        assistants: vec!["symbia".into()],
        account: None,
        login: None,
    }
}

fn requested(attempt: u32) -> ChannelConnectRequested {
    let c = connect();
    ChannelConnectRequested {
        connection_id: c.connection_id,
        org_id: c.org_id,
        channel_type: c.channel_type,
        owner_id: "ada".into(),
        credential_id: c.credential_id,
        mode: c.mode,
        webhook_url: c.webhook_url,
        target_url: c.target_url,
        secret_ref: c.secret_ref,
        secret_hash: c.secret_hash,
        drop_pending_updates: c.drop_pending_updates,
        assistants: c.assistants,
        attempt,
        account: c.account,
        login: c.login,
    }
}

fn connected() -> [ChannelConnectionEvent; 2] {
    let connected = ChannelConnected {
        connection_id: "k1".into(),
        attempt: 1,
        account_id: "7".into(),
        account_name: "@ada_bot".into(),
    };
    [requested(1).into(), connected.into()]
}

#[test]
fn a_channel_is_connected_by_who_configures_and_holds_its_token() {
    let admin = person(Role::Admin);
    let claim = |holder: &str| Claim {
        tenant: "org".parse().unwrap(),
        name: "channel:c1".into(),
        holder: holder.into(),
        taken: "CHANNEL_CONNECTED",
    };
    let decided = Decision::one(requested(1)).claiming(claim("k1"));
    given::<ChannelConnection>([]).when(connect(), &admin).then_decision(decided);
    given::<ChannelConnection>([]).when(connect(), &person(Role::Member)).rejected("MISSING_CAPABILITY");
    given::<ChannelConnection>(connected()).when(connect(), &admin).rejected("CHANNEL_CONNECTED");
    let foreign = ConnectChannel { secret_ref: "channel:org:k2:s".into(), ..connect() };
    given::<ChannelConnection>([]).when(foreign, &admin).rejected("VALIDATION_FAILED");
    let tokenless = ConnectChannel { credential_id: None, ..connect() };
    given::<ChannelConnection>([]).when(tokenless, &admin).rejected("VALIDATION_FAILED");
    let remove = RemoveChannel { connection_id: "k1".into(), org_id: "org".into() };
    given::<ChannelConnection>(connected()).when(remove.clone(), &person(Role::Member)).rejected("MISSING_CAPABILITY");
    let removed = given::<ChannelConnection>([]).when(remove, &admin);
    removed.rejected("NOT_FOUND");
}

#[test]
fn a_channel_that_only_fails_is_used_no_more_until_it_is_connected_anew() {
    let mut state = ChannelConnection::default();
    connected().iter().for_each(|event| state.apply(event));
    let error = RecordChannelError { connection_id: "k1".into(), code: "timeout".into(), fatal: false };
    let decide = |state: &mut ChannelConnection| {
        let events = state.decide(error.clone().into(), &platform(), AT).unwrap().events;
        events.iter().for_each(|event| state.apply(event));
        events
    };
    for _ in 1..MOST_ERRORS {
        assert_eq!(decide(&mut state).len(), 1);
    }
    let recorded =
        ChannelErrorRecorded { connection_id: "k1".into(), code: "timeout".into(), consecutive: MOST_ERRORS };
    let changed = ChannelStatusChanged {
        connection_id: "k1".into(),
        previous_status: ChannelStatus::Connected,
        new_status: ChannelStatus::Error,
        reason: Some("too many errors in a row".into()),
        error: Some("timeout".into()),
        disabled: true,
    };
    assert_eq!(decide(&mut state), [recorded.into(), changed.into()]);
    assert_eq!(decide(&mut state), [], "it is told no more of");
    assert!(!state.decide(connect().into(), &person(Role::Admin), AT).unwrap().events.is_empty());
}

fn sealed(text: &str) -> Personal {
    SubjectKey::from_bytes("k", [1; 32]).seal(text)
}

fn chat(commands: impl IntoIterator<Item = ChannelChatCommand>) -> (ChannelChat, Vec<ChannelChatEvent>) {
    let (mut state, mut events) = (ChannelChat::default(), Vec::new());
    for command in commands {
        for event in state.decide(command, &platform(), AT).unwrap().events {
            state.apply(&event);
            events.push(event);
        }
    }
    (state, events)
}

fn said(update: &str) -> ChannelChatCommand {
    IngestChannelUpdate {
        chat_key: "h".into(),
        org_id: "org".into(),
        connection_id: "k1".into(),
        update_id: update.into(),
        vendor_message_id: "5".into(),
        change: ChannelChange::Said,
        conversation_id: "c".into(),
        message_id: uuid::Uuid::from_u128(5).to_string(),
        content_type: "text".into(),
        body: Some(sealed("{}")),
        thread: None,
    }
    .into()
}

#[test]
fn an_update_that_comes_twice_is_taken_in_once_and_the_first_is_said_first() {
    let posted = RecordChannelPosted { chat_key: "h".into(), update_id: "1".into() };
    let (state, events) = chat([said("1"), said("2"), said("1"), posted.clone().into(), posted.into(), said("1")]);
    assert_eq!(events.len(), 3, "{events:?}");
    assert_eq!(state.next_in().map(|next| next.update_id.as_str()), Some("2"));
    given::<ChannelChat>([]).when(said("1"), &person(Role::Admin)).rejected("FORBIDDEN");
}

#[test]
fn what_is_taken_back_waits_its_turn_and_what_says_nothing_is_not_taken_in() {
    let ChannelChatCommand::IngestChannelUpdate(c) = said("2") else { panic!("another command") };
    let back = IngestChannelUpdate { change: ChannelChange::Withdrawn, content_type: String::new(), body: None, ..c };
    let posted = RecordChannelPosted { chat_key: "h".into(), update_id: "1".into() };
    let (state, _) = chat([said("1"), back.clone().into(), posted.into()]);
    assert_eq!(state.next_in().map(|next| next.change), Some(ChannelChange::Withdrawn));
    let empty = IngestChannelUpdate { change: ChannelChange::Said, content_type: "text".into(), ..back };
    given::<ChannelChat>([]).when(empty, &platform()).rejected("VALIDATION_FAILED");
}

fn send(n: u128) -> SendChannelMessage {
    SendChannelMessage {
        chat_key: "h".into(),
        org_id: "org".into(),
        connection_id: "k1".into(),
        delivery_id: uuid::Uuid::from_u128(n).to_string(),
        conversation_id: None,
        message_id: None,
        content: sealed("{}"),
    }
}

#[test]
fn one_thing_is_said_at_a_time_and_its_end_begins_the_next() {
    let [first, second] = [1, 2].map(|n| uuid::Uuid::from_u128(n).to_string());
    let part = |part: u32| RecordChannelPart {
        chat_key: "h".into(),
        delivery_id: first.clone(),
        part,
        parts: 2,
        vendor_message_id: format!("v{part}"),
    };
    let retry = |attempt: u32| RetryChannelDelivery { chat_key: "h".into(), delivery_id: first.clone(), attempt };
    let defer = DeferChannelDelivery {
        chat_key: "h".into(),
        delivery_id: first.clone(),
        attempt: 1,
        code: "429".into(),
        retry_at: "2026-01-01T00:00:01Z".into(),
    };
    let done = RecordChannelDelivered { chat_key: "h".into(), delivery_id: first.clone() };
    let begun: Vec<ChannelChatCommand> = vec![
        send(1).into(),
        send(2).into(),
        send(1).into(),
        part(1).into(),
        part(1).into(),
        retry(2).into(),
        defer.into(),
        retry(3).into(),
        retry(2).into(),
    ];
    let (state, _) = chat(begun.clone());
    assert_eq!(state.under_way(&first, 2).map(|first| first.sent.clone()), Some(vec!["v1".to_owned()]));
    assert_eq!((state.under_way(&first, 1), state.under_way(&second, 1)), (None, None));
    let (state, events) = chat(begun.into_iter().chain([part(2).into(), done.into()]));
    assert!(state.under_way(&second, 1).is_some());
    let ids = events.iter().find_map(|event| match event {
        ChannelChatEvent::ChannelMessageDelivered(e) => Some(e.vendor_message_ids.clone()),
        _ => None,
    });
    assert_eq!(ids, Some(vec!["v1".to_owned(), "v2".to_owned()]));
}

#[test]
fn who_configures_nothing_says_nothing_in_a_chat() {
    given::<ChannelChat>([]).when(send(1), &person(Role::Member)).rejected("MISSING_CAPABILITY");
    let (_, events) = chat([said("1"), send(1).into()]);
    let elsewhere = SendChannelMessage { connection_id: "k2".into(), ..send(2) };
    given::<ChannelChat>(events).when(elsewhere, &person(Role::Admin)).rejected("VALIDATION_FAILED");
}

#[test]
fn an_account_has_one_connection_and_a_token_may_speak_for_several() {
    let admin = person(Role::Admin);
    let number = ConnectChannel { channel_type: WHATSAPP.into(), account: Some("106540352242922".into()), ..connect() };
    let claims = ChannelConnection::default().decide(number.into(), &admin, AT).unwrap().claims;
    let names = claims.iter().map(|change| match change {
        ClaimChange::Take(claim) | ClaimChange::Release(claim) => claim.name.as_str(),
    });
    let id = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, b"106540352242922");
    assert_eq!(names.collect::<Vec<_>>(), [format!("channel:whatsapp:{id}")]);
    for (channel_type, account, target) in [
        (WHATSAPP, Some("+49 1"), None),
        (WHATSAPP, None, None),
        (EMAIL, Some("bot"), Some("smtp://mail.example")),
        (EMAIL, Some("bot@mail.example"), Some("https://mail.example")),
        (DISCORD, Some("1"), None),
        ("pigeon", None, None),
    ] {
        let account = account.map(str::to_owned);
        let wrong = ConnectChannel {
            channel_type: channel_type.into(),
            account,
            target_url: target.map(str::to_owned),
            ..connect()
        };
        given::<ChannelConnection>([]).when(wrong, &admin).rejected("VALIDATION_FAILED");
    }
}

#[test]
fn what_became_of_a_part_is_noted_in_its_order_and_of_what_was_said_alone() {
    let first = uuid::Uuid::from_u128(1).to_string();
    let note = |id: &str, receipt| NoteChannelReceipt {
        chat_key: "h".into(),
        vendor_message_id: id.into(),
        receipt,
        code: None,
    };
    let (state, _) = chat([send(1).into()]);
    let early = note("v1", ChannelReceipt::Sent);
    let refused = state.decide(early.clone().into(), &platform(), AT).unwrap_err();
    assert_eq!(refused.code, "CONFLICT", "what is being said may be known in a moment");
    let part = RecordChannelPart {
        chat_key: "h".into(),
        delivery_id: first.clone(),
        part: 1,
        parts: 1,
        vendor_message_id: "v1".into(),
    };
    let done = RecordChannelDelivered { chat_key: "h".into(), delivery_id: first };
    let notes = [
        note("v1", ChannelReceipt::Delivered),
        early,
        note("v2", ChannelReceipt::Read),
        note("v1", ChannelReceipt::Read),
        note("v1", ChannelReceipt::Delivered),
    ];
    let told = notes.into_iter().map(ChannelChatCommand::from);
    let (_, events) = chat([send(1).into(), part.into(), done.into()].into_iter().chain(told));
    let noted: Vec<ChannelReceipt> = events
        .iter()
        .filter_map(|event| match event {
            ChannelChatEvent::ChannelReceiptNoted(e) => Some(e.receipt),
            _ => None,
        })
        .collect();
    assert_eq!(noted, [ChannelReceipt::Delivered, ChannelReceipt::Read]);
}
