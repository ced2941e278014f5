//! A snapshot that was damaged: it is only a cache.

use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::jetstream;
use symbia_commands::{
    Actor, CommandEnvelope, OutcomeStatus,
    identity::{CreateOrganization, OrganizationCommand, RenameOrganization},
};
use symbia_events::{AggregateRef, CommandId, KeyRing};
use symbia_nats::bus::CommandBus;
use symbia_tests::{apart::Apart, binary::until, load::organization};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::Tested;

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_ignored_and_the_state_is_right() -> Tested {
    let mut apart = Apart::start().await?;
    let (nats, keys) = (apart.nats().await?, apart.keys()?);
    let bus = CommandBus::open(nats.clone()).await?;
    let (org_id, aggregate) = organization()?;
    let found = CreateOrganization {
        org_id: org_id.clone(),
        name: "First".to_owned(),
        slug: format!("slug-{org_id}"),
        plan_id: None,
        membership_id: Uuid::new_v4().to_string(),
        owner_id: Uuid::new_v4().to_string(),
    };
    let created = send(&bus, &keys, &aggregate, &found.into()).await?;
    let rename = |name: &str| RenameOrganization { org_id: org_id.clone(), name: name.to_owned() }.into();
    ensure!(send(&bus, &keys, &aggregate, &rename("Second")).await? == created + 1);

    let js = jetstream::new(nats.clone());
    let bucket = js.get_stream("KV_SYMBIA_SNAP").await?;
    let key = format!("$KV.SYMBIA_SNAP.identity.{org_id}.organization.{org_id}");
    until("there is a snapshot", || async { Ok(bucket.get_last_raw_message_by_subject(&key).await.is_ok()) }).await?;
    let snapshot = bucket.get_last_raw_message_by_subject(&key).await?;
    let mut damaged = snapshot.payload.to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    js.publish(key.clone(), damaged.into()).await?.await?;

    for worker in &mut apart.roles[..2] {
        worker.kill();
        worker.start()?;
    }
    // Version after version: nothing was folded twice or left out.
    ensure!(send(&bus, &keys, &aggregate, &rename("Third")).await? == created + 2);
    let warned = |log: String| log.contains("snapshot ignored") && log.contains(&org_id);
    ensure!(apart.roles[..2].iter().any(|worker| warned(worker.log())), "{}", apart.logs());
    Ok(())
}

// The version after it.
async fn send(
    bus: &CommandBus,
    keys: &KeyRing,
    aggregate: &AggregateRef,
    command: &OrganizationCommand,
) -> anyhow::Result<u32> {
    let (actor, now) = (Actor::system("test"), OffsetDateTime::now_utc());
    let envelope = CommandEnvelope::new(keys, aggregate, command, &actor, CommandId::random(), now)?;
    let outcome = bus.send(aggregate, &envelope, Duration::from_secs(30)).await?;
    ensure!(outcome.status == OutcomeStatus::Accepted, "{outcome:?}");
    Ok(outcome.events.last().context("no event")?.version)
}
