//! What a follower gets: every event once and in order, whatever breaks in between.

use std::collections::HashSet;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use symbia_api::feed::FeedConfig;
use symbia_events::Service;
use symbia_nats::broker::Durability;

use crate::stage::{Stage, lost, note, numbers, sent, stored};

fn of<'e>(events: &'e [Value], source: &str) -> Vec<Value> {
    events.iter().filter(|e: &&'e Value| e["source"] == source).cloned().collect()
}

#[tokio::test]
async fn all_events_of_two_services_come_in_the_order_of_each() {
    let stage = Stage::new().await;
    stage.append("org-a", "1", &[sent(0)]).await;
    let server = stage.serve(FeedConfig::default()).await;
    let mut live = server.follow("a", "").await;
    let (mut parcels, mut notes) = (Vec::new(), Vec::new());
    for i in 0..40 {
        parcels.extend(stored(&stage.append("org-a", "1", &[sent(3 * i), lost(3 * i + 1), sent(3 * i + 2)]).await));
        notes.extend(stored(&stage.append("org-a", "2", &[note(i)]).await));
    }
    let got = live.events(160).await;
    assert_eq!(of(&got, "symbia/identity"), parcels);
    assert_eq!(of(&got, "symbia/messaging"), notes);

    let mut history = server.follow("a", "from=earliest&service=identity,messaging").await;
    assert_eq!(history.cursor, "identity:0,messaging:0");
    let got = history.events(161).await;
    assert_eq!(of(&got, "symbia/identity")[1..], parcels);
    assert_eq!(of(&got, "symbia/messaging"), notes);
    assert_eq!(history.cursor, "identity:41,messaging:40");
}

#[tokio::test]
async fn a_cursor_passes_a_message_after_its_last_event() {
    let stage = Stage::new().await;
    let server = stage.serve(FeedConfig::default()).await;
    stage.append("org-a", "1", &[sent(0), sent(1), sent(2)]).await;
    let mut follower = server.follow("a", "service=identity&from=earliest").await;
    let mut cursors = Vec::new();
    for _ in 0..3 {
        let item = follower.item().await;
        assert_eq!(item["position"], "identity:1");
        cursors.push(item["cursor"].as_str().unwrap().to_owned());
    }
    assert_eq!(cursors, ["identity:1.1", "identity:1.2", "identity:1"]);
    stage.append("org-a", "1", &[sent(3)]).await;
    for (from, expected) in [("identity:1.1", vec![1, 2, 3]), ("identity:1.2", vec![2, 3]), ("identity:1", vec![3])] {
        let mut follower = server.follow("a", &format!("from={from}")).await;
        assert_eq!(numbers(&follower.events(expected.len()).await), expected, "{from}");
    }
}

#[tokio::test]
async fn fifty_cuts_and_a_new_api_process_leave_neither_gap_nor_repetition() {
    const COMMITS: u64 = 120;
    let stage = Stage::new().await;
    let mut random = StdRng::seed_from_u64(7);
    let mut server = stage.serve(FeedConfig::default()).await;
    let (mut parcel, mut written) = (0, 0);
    let sizes: Vec<u64> = (0..COMMITS).map(|_| random.random_range(1..=4)).collect();
    let total: usize = sizes.iter().map(|size| usize::try_from(*size).unwrap() + 1).sum();
    let writing = async {
        for size in &sizes {
            let events: Vec<_> = (parcel..parcel + size).map(sent).collect();
            stage.append("org-a", "1", &events).await;
            stage.append("org-a", "2", &[note(written)]).await;
            stage.append("org-b", "1", &[sent(1_000_000)]).await;
            parcel += size;
            written += 1;
        }
    };
    let reading = async {
        let (mut got, mut cuts) = (Vec::new(), 0);
        let mut follower = server.follow("a", "from=earliest").await;
        while got.len() < total {
            let some = random.random_range(0..=9).min(total - got.len());
            got.extend(follower.events(some).await);
            let cursor = follower.cursor.clone();
            cuts += 1;
            if cuts == 25 {
                server.shutdown.cancel();
                server = stage.serve(FeedConfig::default()).await;
            }
            follower = server.follow("a", &format!("from={cursor}")).await;
        }
        (got, cuts)
    };
    let ((got, cuts), ()) = tokio::join!(reading, writing);
    assert!(cuts >= 50, "{cuts}");
    assert_eq!(numbers(&of(&got, "symbia/identity")), (0..parcel).collect::<Vec<_>>());
    assert_eq!(numbers(&of(&got, "symbia/messaging")), (0..written).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_killed_broker_interrupts_but_loses_and_repeats_nothing() {
    let stage = Stage::with(Durability::Fsync, None).await;
    let server = stage.serve(FeedConfig::default()).await;
    let mut follower = server.follow("a", "service=identity,messaging").await;
    let writing = async {
        for i in 0..60 {
            if i % 20 == 10 {
                stage.broker.kill();
            }
            stage.append("org-a", "1", &[sent(2 * i), sent(2 * i + 1)]).await;
            stage.append("org-a", "2", &[note(i)]).await;
        }
    };
    let (got, ()) = tokio::join!(follower.events(180), writing);
    assert_eq!(stage.broker.restarts(), 3);
    assert_eq!(numbers(&of(&got, "symbia/identity")), (0..120).collect::<Vec<_>>());
    assert_eq!(numbers(&of(&got, "symbia/messaging")), (0..60).collect::<Vec<_>>());
}

#[tokio::test]
async fn filters_choose_by_service_aggregate_and_type() {
    let stage = Stage::new().await;
    let server = stage.serve(FeedConfig::default()).await;
    stage.append("org-a", "1", &[sent(0), lost(1), sent(2)]).await;
    stage.append("org-a", "2", &[sent(3)]).await;
    stage.append("org-a", "1", &[note(4)]).await;
    stage.append("org-a", "3", &[lost(5)]).await;
    for (filter, expected) in [
        ("service=identity", vec![0, 1, 2, 3, 5]),
        ("service=messaging", vec![4]),
        ("aggregate=parcel/1", vec![0, 1, 2]),
        ("aggregate=parcel/2,parcel/3", vec![3, 5]),
        ("aggregate=parcel/2,parcel", vec![0, 1, 2, 3, 5]),
        ("aggregate=note", vec![4]),
        ("type=symbia.identity.parcel.parcel-lost.v1", vec![1, 5]),
        ("type=symbia.messaging.*,symbia.identity.parcel.parcel-lost.*", vec![1, 4, 5]),
        ("type=symbia.identity.parcel.parcel-sent.v1&aggregate=parcel/1", vec![0, 2]),
    ] {
        let mut follower = server.follow("a", &format!("from=earliest&{filter}")).await;
        let mut got = numbers(&follower.events(expected.len()).await);
        got.sort_unstable();
        assert_eq!(got, expected, "{filter}");
    }
    // What the filters leave out does not come later either.
    let mut follower = server.follow("a", "from=earliest&type=symbia.identity.parcel.parcel-lost.v1").await;
    assert_eq!(numbers(&follower.events(2).await), [1, 5]);
    stage.append("org-a", "1", &[sent(6), lost(7)]).await;
    assert_eq!(numbers(&follower.events(1).await), [7]);
}

#[tokio::test]
async fn what_does_not_verify_is_named_and_not_shown() {
    let stage = Stage::new().await;
    let server = stage.serve(FeedConfig::default()).await;
    let good = stage.sign("org-a", "1", &[sent(1)]).remove(0);
    let tampered = String::from_utf8(good.bytes.to_vec()).unwrap().replace("\"number\":1", "\"number\":2");
    stage.store("symbia.evt.identity.org-a.parcel.1", tampered.into_bytes()).await;
    stage.store("symbia.evt.identity.org-a.parcel.1", b"nonsense".to_vec()).await;
    // Genuine, but another aggregate's.
    stage.store("symbia.evt.identity.org-a.parcel.2", good.bytes.into()).await;
    stage.append("org-a", "1", &[sent(3)]).await;
    let mut follower = server.follow("a", "service=identity&from=earliest").await;
    for sequence in 1..=3 {
        let position = format!("identity:{sequence}");
        let expected = json!({ "type": "quarantined", "position": position, "cursor": position });
        assert_eq!(follower.item().await, expected);
    }
    assert_eq!(numbers(&follower.events(1).await), [3]);
}

#[tokio::test]
async fn messages_that_are_gone_are_told_as_a_gap() {
    let stage = Stage::with(Durability::Interval, Some((Service::Identity, 10))).await;
    let server = stage.serve(FeedConfig::default()).await;
    assert_eq!(stage.store("symbia.evt.identity.org-b.parcel.1", b"-".to_vec()).await, 10);
    stage.append("org-a", "1", &[sent(11)]).await;
    for (from, missing) in [("earliest&service=identity", 1), ("identity:4", 5)] {
        let mut follower = server.follow("a", &format!("from={from}")).await;
        let gap = json!({ "type": "gap", "service": "identity", "from": missing, "to": 9, "position": "identity:9",
            "cursor": "identity:9" });
        assert_eq!(follower.item().await, gap);
        assert_eq!(numbers(&follower.events(1).await), [11]);
    }
}

#[tokio::test]
async fn live_messages_of_the_tenant_pass_without_a_position() {
    let stage = Stage::new().await;
    let server = stage.serve(FeedConfig::default()).await;
    let mut with = server.follow("a", "live=true").await;
    let mut without = server.follow("a", "").await;
    for (subject, payload) in [
        ("symbia.live.org-b.run.1", "\"not for a\""),
        ("symbia.live.org-a.run.1", "{\"delta\":\"Hel\"}"),
        ("symbia.live.org-a.run.1", "lo"),
    ] {
        stage.client.publish(subject, payload.into()).await.unwrap();
    }
    assert_eq!(with.item().await, json!({ "live": "run.1", "data": { "delta": "Hel" } }));
    assert_eq!(with.item().await, json!({ "live": "run.1", "data": "lo" }));
    stage.append("org-a", "1", &[sent(1)]).await;
    assert_eq!(numbers(&with.events(1).await), [1]);
    assert_eq!(numbers(&without.events(1).await), [1]);
}

#[tokio::test]
async fn a_follower_of_another_organization_sees_nothing_because_the_broker_sends_it_nothing() {
    let stage = Stage::new().await;
    let server = stage.serve(FeedConfig::default()).await;
    let mut other = server.follow("b", "from=earliest&service=identity,messaging").await;
    let mut global = server.follow("root", "tenant=global&service=identity").await;
    for i in 0..20 {
        stage.append("org-a", "1", &[sent(i)]).await;
        stage.append("org-a", "1", &[note(i)]).await;
    }
    stage.append("org-b", "1", &[sent(100)]).await;
    stage.append("org-b", "1", &[note(101)]).await;
    stage.append("global", "1", &[sent(200)]).await;
    let mut got = numbers(&other.events(2).await);
    got.sort_unstable();
    assert_eq!(got, [100, 101]);
    assert_eq!(numbers(&global.events(1).await), [200]);

    let filters = |service: Service| {
        let js = stage.js.clone();
        async move {
            let stream = js.get_stream(service.event_stream()).await.unwrap();
            let consumers: Vec<_> = futures::StreamExt::collect(stream.consumers()).await;
            let config = consumers.into_iter().map(|c| c.unwrap().config);
            config.flat_map(|c| c.filter_subjects.into_iter().chain([c.filter_subject])).collect::<HashSet<_>>()
        }
    };
    for (service, tenants) in [(Service::Identity, vec!["org-b", "global"]), (Service::Messaging, vec!["org-b"])] {
        let expected: HashSet<_> = tenants.iter().map(|t| format!("symbia.evt.{service}.{t}.>")).collect();
        let mut found = filters(service).await;
        found.remove("");
        assert_eq!(found, expected);
    }
}
