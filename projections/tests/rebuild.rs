//! Rebuild, swap and verification on real servers.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use support::{SOON, World};
use symbia_projections::{RebuildError, Scope, identity};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_is_swapped_in_while_writes_and_reads_go_on() {
    let world = Arc::new(World::start().await);
    let projector = world.projector().start();
    let mut log = Vec::new();
    for person in 0..300 {
        log.extend(world.person(&format!("p{person}")).await);
    }
    let last = world.publish(log).await;
    assert!(projector.wait_for(last, SOON).await);
    // What only a rebuild can mend, to see that the swap took place.
    sqlx::query("UPDATE identity.organizations SET name = 'edited' WHERE id = 'org-p0'")
        .execute(&world.pool)
        .await
        .unwrap();

    let over = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(300));
    let writer = {
        let (world, over, written) = (world.clone(), over.clone(), written.clone());
        tokio::spawn(async move {
            let mut last = None;
            while !over.load(Ordering::Relaxed) {
                let person = written.fetch_add(1, Ordering::Relaxed);
                last = Some(world.publish(world.person(&format!("p{person}")).await).await);
            }
            last
        })
    };
    let readers = {
        let (reader, over) = (world.reader(), over.clone());
        tokio::spawn(async move {
            let (mut reads, mut most) = (0u64, 0);
            while !over.load(Ordering::Relaxed) {
                let mut tx = reader.read(&Scope::platform()).await.unwrap();
                let counts = identity::counts(&mut tx).await.unwrap();
                assert!(counts.users >= most, "a reader went back from {most} to {} users", counts.users);
                (reads, most) = (reads + 1, counts.users);
            }
            reads
        })
    };
    for _ in 0..3 {
        let rebuilt = world.rebuilder().rebuild(&*world.identity, &|_| {}).await.unwrap();
        assert!(rebuilt.events >= 300 * 5 && rebuilt.quarantined == 0);
    }
    over.store(true, Ordering::Relaxed);
    assert!(readers.await.unwrap() > 0);
    let last = writer.await.unwrap().unwrap_or(last);
    assert!(projector.wait_for(last, SOON).await);
    assert_eq!(u64::try_from(world.count("users").await).unwrap(), written.load(Ordering::Relaxed));
    assert_eq!(world.count("organizations WHERE name = 'edited'").await, 0);
    let verified = world.rebuilder().verify(&*world.identity, &|_| {}).await.unwrap();
    assert_eq!(verified.differing().count(), 0);
    assert_eq!(verified.live_hash, verified.replayed_hash);
    let schemas: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'identity%'")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(schemas, 1, "nothing is left behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verification_finds_an_edited_a_removed_and_an_added_row() {
    let world = World::start().await;
    let projector = world.projector().start();
    let mut log = Vec::new();
    for person in 0..20 {
        log.extend(world.person(&format!("p{person}")).await);
    }
    let last = world.publish(log).await;
    assert!(projector.wait_for(last, SOON).await);
    let rebuilder = world.rebuilder();
    let intact = rebuilder.verify(&*world.identity, &|_| {}).await.unwrap();
    assert_eq!((intact.differing().count(), intact.events), (0, 100));
    let forgeries = [
        ("users", "UPDATE identity.users SET is_super_admin = true WHERE id = 'p7'"),
        ("memberships", "INSERT INTO identity.memberships VALUES ('m', 'org-p1', 'p7', 'admin', now())"),
        ("sessions", "DELETE FROM identity.sessions WHERE id = 's-p3'"),
        // Neither the number of rows nor any single column's sum changes.
        (
            "organizations",
            "UPDATE identity.organizations SET name = CASE id WHEN 'org-p1' THEN 'ORG-P2' ELSE 'ORG-P1' END
             WHERE id IN ('org-p1', 'org-p2')",
        ),
    ];
    let mut forged = Vec::new();
    for (table, forgery) in forgeries {
        sqlx::query(forgery).execute(&world.pool).await.unwrap();
        forged.push(table);
        let verified = rebuilder.verify(&*world.identity, &|_| {}).await.unwrap();
        let mut found: Vec<&str> = verified.differing().map(|t| t.table.as_str()).collect();
        found.sort_unstable();
        forged.sort_unstable();
        assert_eq!(found, forged);
        assert_ne!(verified.live_hash, intact.live_hash);
        assert_eq!(verified.replayed_hash, intact.live_hash);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_rebuild_at_a_time() {
    let world = World::start().await;
    world.publish(world.person("ada").await).await;
    let mut other = world.pool.acquire().await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(hashtextextended('symbia:rebuild:identity', 0))")
        .execute(&mut *other)
        .await
        .unwrap();
    let refused = world.rebuilder().rebuild(&*world.identity, &|_| {}).await;
    assert!(matches!(refused, Err(RebuildError::Running(_))));
}
