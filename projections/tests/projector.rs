//! The projector on real servers: exactly once, whatever is tampered with, restarted, or runs twice.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::time::Duration;

use futures::StreamExt;
use support::{SOON, World, founded, joined, message, registered, until};
use symbia_events::{Position, Service, SubjectKey, identity::OrganizationEvent};
use symbia_projections::{Positions, Scope, identity, list};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_appended_can_be_read_with_its_personal_data() {
    let world = World::start().await;
    let projector = world.projector().start();
    let reader = world.reader();
    let positions = Positions::follow(world.jetstream.client().clone(), reader.clone());
    let last = world.publish(world.person("ada").await).await;
    assert!(positions.wait_for("identity", last, SOON).await);
    assert!(projector.wait_for(last, SOON).await);

    let mut tx = reader.read(&Scope::user("ada")).await.unwrap();
    let user = identity::user_by_email_key(&mut tx, "key-ada").await.unwrap().unwrap();
    assert_eq!((user.email.as_deref(), user.name.as_deref()), (Some("ada@example.com"), Some("ada")));
    let summaries = identity::organization_summaries(&mut tx, "ada").await.unwrap();
    assert_eq!(summaries.len(), 1);
    assert_eq!((summaries[0].organization.slug.as_str(), summaries[0].member_count), ("org-ada", 1));
    let session = identity::session(&mut tx, "s-ada").await.unwrap().unwrap();
    assert_eq!(session.client_ip.as_deref(), Some("192.0.2.1"));
    assert!(session.is_live(support::AT));
    assert_eq!(identity::sessions_of(&mut tx, "ada", support::AT).await.unwrap(), [session]);
    assert_eq!(identity::organizations_of(&mut tx, "ada").await.unwrap()[0].role, "admin");
    let mut tx = reader.read(&Scope::member("org-ada".parse().unwrap(), "ada")).await.unwrap();
    let members = identity::members(&mut tx, "org-ada").await.unwrap();
    assert_eq!((members.len(), members[0].email.as_deref()), (1, Some("ada@example.com")));
    let filter = identity::AuditFilter { limit: 10, ..Default::default() };
    let trail = identity::audit_trail(&mut tx, &filter).await.unwrap();
    assert_eq!(trail.iter().map(|e| e.aggregate_version).collect::<Vec<_>>(), [2, 1]);
    let mut tx = reader.read(&Scope::platform()).await.unwrap();
    let counts = identity::counts(&mut tx).await.unwrap();
    assert_eq!((counts.users, counts.organizations, counts.memberships, counts.events), (1, 1, 1, 5));
    assert!(!identity::initialized(&mut tx).await.unwrap());

    let status = list(&world.pool, &world.jetstream, &[&*world.identity]).await.unwrap();
    assert_eq!((status[0].streams[0].position, status[0].streams[0].lag, status[0].quarantined), (3, 0, 0));
    let never = Position { service: Service::Identity, sequence: 99 };
    assert!(!positions.wait_for("identity", never, Duration::from_millis(50)).await);
    projector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_trusted_or_folded_is_put_aside_and_all_else_goes_on() {
    let world = World::start().await;
    let client = world.jetstream.client();
    let mut notices = client.subscribe("symbia.notice.quarantine.identity").await.unwrap();
    let mut log = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        log.extend(world.person(name).await);
    }
    // 3: one byte changed. 6: stored under another subject. 9: the payload names another organization than the address.
    let flipped = String::from_utf8(log[3].1.clone()).unwrap().replace("key-b", "key-x");
    log[3].1 = flipped.into_bytes();
    log[6].0 = log[6].0.replace("user.c", "user.z");
    let key = SubjectKey::generate("victim");
    let foreign = [founded("org-a"), joined("org-a", "mallory")];
    log[9] = message::<OrganizationEvent>(&world.ring, "org-d", "org-d", &foreign);
    log.push(("symbia.evt.identity.global.user.q".into(), b"no event".to_vec()));
    let replayed = log[0].clone();
    log.push(replayed);
    log.push(message(&world.ring, "global", "late", &[registered("late", &key)]));
    let last = world.publish(log).await;
    let projector = world.projector().start();
    assert!(projector.wait_for(last, SOON).await);

    let put_aside: Vec<(i64, i64, String)> =
        sqlx::query_as("SELECT sequence, version, reason FROM identity.quarantine ORDER BY sequence, version")
            .fetch_all(&world.pool)
            .await
            .unwrap();
    let places: Vec<(i64, i64)> = put_aside.iter().map(|(sequence, version, _)| (*sequence, *version)).collect();
    assert_eq!(places, [(4, 0), (7, 0), (10, 1), (10, 2), (16, 0), (17, 1)], "{put_aside:?}");
    assert!(put_aside[0].2.contains("signature"));
    assert!(put_aside[1].2.contains("stored under"));
    assert!(put_aside[2].2.contains("names org-a"));
    for sequence in [4, 7, 10, 10, 16, 17] {
        let notice = tokio::time::timeout(SOON, notices.next()).await.unwrap().unwrap();
        assert!(std::str::from_utf8(&notice.payload).unwrap().contains("identity:"), "{sequence}");
    }
    let users: Vec<String> =
        sqlx::query_scalar("SELECT id FROM identity.users ORDER BY id").fetch_all(&world.pool).await.unwrap();
    assert_eq!(users, ["a", "e", "late"]);
    assert_eq!(world.count("memberships WHERE user_id = 'mallory'").await, 0);
    let name: Option<String> =
        sqlx::query_scalar("SELECT name FROM identity.users WHERE id = 'late'").fetch_one(&world.pool).await.unwrap();
    assert_eq!(name, None, "without its key a personal field is erased");
    let verified = world.rebuilder().verify(&*world.identity, &|_| {}).await.unwrap();
    assert_eq!(verified.differing().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_projectors_at_once_fold_each_event_once_through_crashes_of_both_servers() {
    let world = World::start().await;
    let (first, second) = (world.projector().start(), world.projector().start());
    let mut last = None;
    for round in 0..4 {
        let mut log = Vec::new();
        for person in 0..60 {
            log.extend(world.person(&format!("r{round}p{person}")).await);
        }
        last = Some(world.publish(log).await);
        match round {
            1 => world.database.kill(),
            2 => {
                let before = world.broker.restarts();
                world.broker.kill();
                until("the broker is started again", || async { world.broker.restarts() > before }).await;
                world.broker.ready().await.unwrap();
            }
            _ => {}
        }
        if round == 1 {
            world.database.ready().await.unwrap();
        }
    }
    let last = last.unwrap();
    assert!(first.wait_for(last, SOON * 2).await, "{:?}", first.status().borrow());
    assert!(second.wait_for(last, SOON * 2).await, "{:?}", second.status().borrow());
    assert!(first.status().borrow().trouble.is_empty());
    assert_eq!(world.count("users").await, 240);
    assert_eq!(world.count("audit_trail").await, 240 * 5);
    assert_eq!(world.count("quarantine").await, 0);
    let events: i64 = sqlx::query_scalar("SELECT value FROM identity.stats WHERE name = 'events'")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(events, 240 * 5);
    // Long before the server would gather statistics by itself, plans know how many rows there are.
    until("statistics are gathered", || async {
        let known = "SELECT reltuples > 0 FROM pg_class WHERE oid = 'identity.users'::regclass";
        sqlx::query_scalar(known).fetch_one(&world.pool).await.unwrap()
    })
    .await;
    let verified = world.rebuilder().verify(&*world.identity, &|_| {}).await.unwrap();
    assert_eq!(verified.differing().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_took_back_is_folded_again_though_nothing_new_comes() {
    let world = World::start().await;
    let projector = world.projector().start();
    let last = world.publish(world.person("ada").await).await;
    assert!(projector.wait_for(last, SOON).await);
    // As a crash does it: rows and checkpoint together, behind the projector's back.
    let set_back = "TRUNCATE identity.users, identity.memberships, identity.organizations, identity.sessions,
                    identity.audit_trail, identity.stats; UPDATE identity.checkpoint SET sequence = 0";
    sqlx::raw_sql(set_back).execute(&world.pool).await.unwrap();
    until("the person is there again", || async { world.count("users").await == 1 }).await;
    let verified = world.rebuilder().verify(&*world.identity, &|_| {}).await.unwrap();
    assert_eq!(verified.differing().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_ends_before_the_checkpoint_is_told_and_nothing_is_folded() {
    let world = World::start().await;
    world.publish(world.person("ada").await).await;
    sqlx::query("UPDATE identity.checkpoint SET sequence = 1000").execute(&world.pool).await.unwrap();
    let projector = world.projector().start();
    let mut status = projector.status();
    let told = status.wait_for(|s| s.trouble.values().any(|t| t.contains("before position 1000")));
    tokio::time::timeout(SOON, told).await.unwrap().unwrap();
    assert_eq!(world.count("users").await, 0);
    // A rebuild mends it, and the projector goes on by itself.
    world.rebuilder().rebuild(&*world.identity, &|_| {}).await.unwrap();
    assert_eq!(world.count("users").await, 1);
    let last = world.publish(world.person("grace").await).await;
    until("the projector goes on", || async { world.count("users").await == 2 }).await;
    assert!(projector.wait_for(last, SOON).await);
}
