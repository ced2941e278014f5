//! Sockets that come back: what was missed, once and in order, in whichever process; or which part is to be fetched.

use std::{sync::Arc, time::Duration};

use rand::RngExt;
use serde_json::{Value, json};
use symbia_events::Service;
use symbia_tests::socketio::{Options, SocketClient, Told};
use tokio::{sync::watch, task::JoinSet};

use super::stage::{House, Person};

fn sequences(told: &[Told]) -> Vec<u64> {
    told.iter().filter(|t| t.name == "message:new").filter_map(|t| t.data["sequence"].as_u64()).collect()
}

fn last_position(told: &[Told]) -> String {
    told.iter().rev().find_map(|t| t.position.clone()).expect("something stored was told")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_gets_what_was_missed_from_any_process() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let grace = house.colleague(&ada, "grace").await;
    let id = house.talk(&ada, &[&grace.id]).await;
    let here = house.base(Service::Messaging).to_owned();
    let mut graces = house.socket(&grace).await;
    house.say(&ada, &id, "one").await;
    let position = last_position(&graces.until(|t| t.data["content"] == "one").await.unwrap());
    drop(graces);

    let two = house.say(&ada, &id, "two").await["id"].as_str().unwrap().to_owned();
    let path = format!("/api/conversations/{id}/messages/{two}");
    house.ask(&ada, "PATCH", &path, &[], Some(json!({ "content": "deux" }))).await.with(200);
    let later = house.talk(&ada, &[&grace.id]).await;
    house.say(&ada, &later, "elsewhere").await;
    house.say(&ada, &id, "three").await;
    let foreign = house.talk(&ada, &[]).await;
    house.say(&ada, &foreign, "not for grace").await;

    // From the memory of a process that listened; and from the log, in one that begins to listen now.
    for base in [here, house.another().await] {
        let mut graces = house.socket_at(&base, &grace, Some(&position)).await;
        let told = graces.until(|t| t.name == "opened").await.unwrap();
        let missed: Vec<(&str, &Value)> =
            told.iter().filter(|t| t.position.is_some()).map(|t| (t.name.as_str(), &t.data["content"])).collect();
        let expected = [
            ("message:new", json!("two")),
            ("message:updated", json!("deux")),
            ("participant:added", Value::Null),
            ("participant:added", Value::Null),
            ("message:new", json!("elsewhere")),
            ("message:new", json!("three")),
        ];
        assert_eq!(missed, expected.iter().map(|(name, text)| (*name, text)).collect::<Vec<_>>(), "{base}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_is_too_old_or_of_another_log_gives_the_range_to_fetch() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let id = house.talk(&ada, &[]).await;
    for n in 1..=3 {
        house.say(&ada, &id, &format!("message {n}")).await;
    }
    let base = house.base(Service::Messaging);
    let mut hers = house.socket_at(base, &ada, Some("messaging:999999")).await;
    let gap = hers.event("gap").await.unwrap().data;
    assert_eq!(gap["conversations"], json!([{ "conversationId": id, "fromSequence": 1, "toSequence": 3 }]), "{gap}");
    // What comes afterwards is told.
    hers.event("opened").await.unwrap();
    house.say(&ada, &id, "message 4").await;
    assert_eq!(hers.event("message:new").await.unwrap().data["sequence"], 4);
    drop(hers);

    // By sequence: what was said since, and once only what is told anyway.
    let mut hers = house.socket(&ada).await;
    house.say(&ada, &id, "message 5").await;
    hers.event("message:new").await.unwrap();
    let join = hers.call("join:conversation", &[json!(id), json!({ "sinceSequence": 2 })]).await.unwrap();
    assert_eq!((&join["success"], &join["lastSequence"]), (&json!(true), &json!(5)));
    house.say(&ada, &id, "message 6").await;
    let told = hers.until(|t| t.data["sequence"] == 6).await.unwrap();
    assert_eq!(sequences(&told), [3, 4, 6], "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_is_cut_and_slows_nobody() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let grace = house.colleague(&ada, "grace").await;
    let id = house.talk(&ada, &[&grace.id]).await;
    let base = house.base(Service::Messaging);
    let options = Options { auth: json!({ "token": grace.token }), receive_buffer: Some(4096), ..Options::default() };
    let mut slow = SocketClient::connect(base, options).await.unwrap();
    slow.event("opened").await.unwrap();
    slow.reads(false);
    let mut hers = house.socket(&ada).await;
    let large = "x".repeat(60_000);
    for n in 1..=700 {
        house.say(&ada, &id, &large).await;
        assert_eq!(hers.event("message:new").await.unwrap().data["sequence"], n);
    }
    slow.reads(true);
    let told = slow.until(|t| t.name == "disconnect").await.unwrap();
    let close = told.iter().find(|t| t.name == "close").expect("it is told why");
    assert_eq!(close.data["code"], 4008);
    let seen = sequences(&told);
    assert_eq!(seen, (1..=seen.len() as u64).collect::<Vec<_>>());
    assert!(seen.len() < 700, "it was not slow");
    // It goes on from where it was.
    let position = last_position(&told);
    let mut again = house.socket_at(base, &grace, Some(&position)).await;
    let told = again.until(|t| t.name == "opened").await.unwrap();
    assert_eq!(sequences(&told), (seen.len() as u64 + 1..=700).collect::<Vec<_>>());
}

/// Follows a conversation with a client that loses its connection again and again, until it has the last message.
async fn come_and_go(bases: Arc<[String]>, who: Person, last: watch::Receiver<Option<u64>>) -> Vec<u64> {
    let (mut seen, mut position) = (Vec::new(), "messaging:0".to_owned());
    loop {
        let (base, stays) = {
            let mut rng = rand::rng();
            (bases[rng.random_range(0..bases.len())].clone(), Duration::from_millis(rng.random_range(1..400)))
        };
        let mut socket = SocketClient::open(&base, &who.token, Some(&position)).await.unwrap();
        let leaves = tokio::time::Instant::now() + stays;
        while let Ok(told) = tokio::time::timeout_at(leaves, socket.next()).await {
            let told = told.unwrap();
            assert!(!["gap", "close", "disconnect"].contains(&told.name.as_str()), "{told:?}");
            if let Some(at) = told.position {
                position = at;
            }
            if told.name == "message:new" {
                seen.push(told.data["sequence"].as_u64().unwrap());
            }
        }
        if last.borrow().is_some_and(|last| seen.last() >= Some(&last)) {
            return seen;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_come_and_go_see_every_message_once_and_in_order() {
    let long = std::env::var_os("SYMBIA_TEST_LONG").is_some();
    let (clients, lasts) = if long { (100, Duration::from_secs(60)) } else { (20, Duration::from_secs(5)) };
    let house = House::open().await;
    let ada = house.register("ada").await;
    let grace = house.colleague(&ada, "grace").await;
    let id = house.talk(&ada, &[&grace.id]).await;
    let bases: Arc<[String]> = [house.base(Service::Messaging).to_owned(), house.another().await].into();
    let (end, last) = watch::channel(None);
    let mut following = JoinSet::new();
    for n in 0..clients {
        let who = if n % 2 == 0 { ada.clone() } else { grace.clone() };
        following.spawn(come_and_go(Arc::clone(&bases), who, last.clone()));
    }
    let began = tokio::time::Instant::now();
    let mut written = 0;
    while began.elapsed() < lasts {
        let writer = if written % 3 == 0 { &grace } else { &ada };
        written = house.say(writer, &id, "said").await["sequence"].as_u64().unwrap();
    }
    end.send_replace(Some(written));
    let expected: Vec<u64> = (1..=written).collect();
    while let Some(seen) = following.join_next().await {
        assert_eq!(seen.unwrap(), expected);
    }
}
