//! How a feed ends: with a code, a reason, and a cursor from which nothing is missing.

use std::time::{Duration, Instant};

use serde_json::json;
use symbia_api::{feed::FeedConfig, http::AuthError};
use symbia_events::Service;
use symbia_nats::topology;

use crate::stage::{ParcelEvent, ParcelSent, Stage, member, numbers, sent, until};

#[tokio::test]
async fn a_slow_client_is_cut_and_resumes_while_a_fast_one_gets_everything() {
    const EVENTS: u64 = 150;
    let stage = Stage::new().await;
    let config = FeedConfig {
        write_timeout: Duration::from_secs(1),
        close_timeout: Duration::from_secs(20),
        ..FeedConfig::default()
    };
    let server = stage.serve(config).await;
    let mut slow = server.follow("a", "service=identity").await;
    let mut fast = server.follow("a", "service=identity").await;
    // More than the sockets' buffers hold.
    let text = "x".repeat(200_000);
    let writing = async {
        for number in 0..EVENTS {
            stage.append("org-a", "1", &[ParcelEvent::ParcelSent(ParcelSent { number, text: text.clone() })]).await;
        }
    };
    let all: Vec<u64> = (0..EVENTS).collect();
    let (got, ()) = tokio::join!(fast.events(all.len()), writing);
    assert_eq!(numbers(&got), all);
    until("the slow client is cut", || server.feed.cut() == 1).await;

    let (mut items, code, reason) = slow.rest().await;
    let last = items.pop().expect("a close item");
    assert_eq!((code, &last["type"], &last["code"]), (4008, &json!("close"), &json!(4008)));
    assert_eq!(reason, format!("slow consumer, resume from {}", slow.cursor));
    assert!(items.len() < all.len());
    let mut got: Vec<_> = items.into_iter().map(|i| i["event"].clone()).collect();
    let mut again = server.follow("a", &format!("from={}", slow.cursor)).await;
    got.extend(again.events(all.len() - got.len()).await);
    assert_eq!(numbers(&got), all);

    stage.append("org-a", "1", &[sent(EVENTS)]).await;
    assert_eq!(numbers(&fast.events(1).await), [EVENTS]);
}

#[tokio::test]
async fn live_messages_that_nobody_takes_end_the_feed_instead_of_getting_lost() {
    let stage = Stage::new().await;
    let config = FeedConfig {
        write_timeout: Duration::from_secs(60),
        close_timeout: Duration::from_secs(20),
        ..FeedConfig::default()
    };
    let server = stage.serve(config).await;
    let mut slow = server.follow("a", "service=identity&live=true").await;
    let payload = serde_json::to_vec(&json!("y".repeat(100_000))).unwrap();
    let mut sent = 0;
    // The write time-out is far away: it is the queue that overflows, and the client learns of it when it reads again.
    while sent < 400 {
        stage.client.publish("symbia.live.org-a.run.1", payload.clone().into()).await.unwrap();
        stage.client.flush().await.unwrap();
        sent += 1;
    }
    let (items, code, _) = slow.rest().await;
    assert_eq!(code, 4008);
    assert!(items.len() - 1 < sent);
}

#[tokio::test]
async fn a_session_that_is_revoked_or_loses_its_organization_ends_within_about_a_second() {
    let stage = Stage::new().await;
    let server = stage.serve(FeedConfig::default()).await;
    for (now, expected) in
        [(Err(AuthError::Revoked), 4001), (Err(AuthError::Expired), 4001), (Ok(member("anna", &["org-c"])), 4003)]
    {
        stage.directory.knows("a", Ok(member("anna", &["org-a"])));
        let mut follower = server.follow("a", "service=identity").await;
        stage.append("org-a", "1", &[sent(1)]).await;
        follower.events(1).await;
        let cursor = follower.cursor.clone();
        // The directory being away says nothing about the session.
        stage.directory.knows("a", Err(AuthError::Unavailable));
        stage.append("org-a", "1", &[sent(2)]).await;
        assert_eq!(numbers(&follower.events(1).await), [2]);
        assert_ne!(follower.cursor, cursor);
        stage.directory.knows("a", now);
        let began = Instant::now();
        let (items, code, reason) = follower.rest().await;
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        assert_eq!((items.len(), code), (1, expected));
        assert!(reason.ends_with(&format!("resume from {}", follower.cursor)), "{reason}");
    }
}

#[tokio::test]
async fn a_stopping_service_says_where_to_go_on() {
    let stage = Stage::new().await;
    let server = stage.serve(FeedConfig::default()).await;
    let mut follower = server.follow("a", "service=identity,messaging").await;
    let mut all_services = server.follow("a", "").await;
    stage.append("org-a", "1", &[sent(1), sent(2)]).await;
    follower.events(2).await;
    all_services.events(2).await;
    server.shutdown.cancel();
    let (items, code, reason) = follower.rest().await;
    let expected = "the service is stopping, resume from identity:1,messaging:0";
    assert_eq!((code, reason.as_str()), (1001, expected));
    let close = json!({ "type": "close", "code": 1001, "reason": expected, "cursor": "identity:1,messaging:0" });
    assert_eq!(items, [close]);
    // A cursor over all services has no room in a close frame.
    let (items, code, reason) = all_services.rest().await;
    assert_eq!((code, reason.as_str()), (1001, "the service is stopping, resume from the last cursor"));
    assert!(items[0]["cursor"].as_str().unwrap().starts_with("identity:1,logging:0,"));
}

#[tokio::test]
async fn a_client_that_goes_leaves_nothing_behind() {
    let stage = Stage::new().await;
    let server = stage.serve(FeedConfig::default()).await;
    let mut follower = server.follow("a", "").await;
    assert_eq!(server.feed.open(), 1);
    follower.socket.close(None).await.unwrap();
    until("the feed ends", || server.feed.open() == 0).await;
}

#[tokio::test]
async fn a_log_that_was_replaced_ends_the_feed_instead_of_repeating_its_positions() {
    let stage = Stage::new().await;
    let server = stage.serve(FeedConfig::default()).await;
    let mut follower = server.follow("a", "service=identity").await;
    stage.append("org-a", "1", &[sent(1)]).await;
    follower.events(1).await;
    stage.js.delete_stream(Service::Identity.event_stream()).await.unwrap();
    stage.js.create_stream(topology::event_stream(Service::Identity, 1)).await.unwrap();
    let (items, code, reason) = follower.rest().await;
    assert_eq!((items.len(), code), (1, 4009));
    assert_eq!(reason, "the log was replaced: begin with latest or earliest");
}
