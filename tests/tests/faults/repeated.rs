//! A command that comes again when the broker has long forgotten it.

use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::{Client, HeaderMap, jetstream};
use futures::StreamExt;
use symbia_commands::{
    Actor, CommandEnvelope, Outcome, OutcomeStatus,
    identity::{CreateOrganization, OrganizationCommand, RenameOrganization},
};
use symbia_events::{AggregateRef, CommandId, KeyRing, Service};
use symbia_nats::bus::outcome_subject;
use symbia_tests::{apart::Apart, load::organization};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::Tested;

/// More than the commands that an aggregate keeps in mind.
const LATER: usize = 300;

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_comes_again_a_day_later_is_not_done_twice() -> Tested {
    let mut apart = Apart::start().await?;
    let (nats, keys) = (apart.nats().await?, apart.keys()?);
    // The broker forgets at once what it has stored: any repetition comes "later".
    let js = jetstream::new(nats.clone());
    for stream in ["SYMBIA_EVT_IDENTITY", "SYMBIA_CMD"] {
        let mut config = js.get_stream(stream).await?.cached_info().config.clone();
        config.duplicate_window = Duration::from_millis(100);
        js.update_stream(config).await?;
    }
    let (org_id, aggregate) = organization()?;
    let found = OrganizationCommand::from(CreateOrganization {
        org_id: org_id.clone(),
        name: "First".to_owned(),
        slug: format!("slug-{org_id}"),
        plan_id: None,
        membership_id: Uuid::new_v4().to_string(),
        owner_id: Uuid::new_v4().to_string(),
    });
    let rename = |name: String| OrganizationCommand::from(RenameOrganization { org_id: org_id.clone(), name });
    let now = OffsetDateTime::now_utc();
    let envelope = |command: &OrganizationCommand, at| {
        CommandEnvelope::new(&keys, &aggregate, command, &Actor::system("test"), CommandId::random(), at)
    };
    let (founded, renamed) = (envelope(&found, now)?, envelope(&rename("Second".to_owned()), now)?);
    let first = [publish(&nats, &aggregate, &founded).await?, publish(&nats, &aggregate, &renamed).await?];
    ensure!(first.iter().all(|o| o.status == OutcomeStatus::Accepted && !o.repeated), "{first:?}");

    // To the workers that decided it, and to new ones that know it from the log only.
    for anew in [false, true] {
        if anew {
            for worker in &mut apart.roles[..2] {
                worker.kill();
                worker.start()?;
            }
        }
        for (envelope, first) in [&founded, &renamed].into_iter().zip(&first) {
            let again = publish(&nats, &aggregate, envelope).await?;
            ensure!(again.repeated && again.position == first.position && again.events == first.events, "{again:?}");
        }
    }
    ensure!(messages(&js, &aggregate).await? == 2);

    // And when the aggregate has done so much since that it does not keep it in mind.
    for number in 0..LATER {
        let next = envelope(&rename(format!("Name {number}")), OffsetDateTime::now_utc())?;
        ensure!(publish(&nats, &aggregate, &next).await?.status == OutcomeStatus::Accepted);
    }
    let again = publish(&nats, &aggregate, &renamed).await?;
    ensure!(again.repeated && again.position == first[1].position, "{again:?}");
    ensure!(messages(&js, &aggregate).await? == 2 + LATER as u64);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_more_than_a_day_old_is_refused() -> Tested {
    let apart = Apart::start().await?;
    let (nats, keys) = (apart.nats().await?, apart.keys()?);
    let (org_id, aggregate) = organization()?;
    let command = OrganizationCommand::from(RenameOrganization { org_id, name: "Late".to_owned() });
    let day = |hours| OffsetDateTime::now_utc() + time::Duration::hours(hours);
    for at in [day(-25), day(1)] {
        let mut envelope = envelope_with_time(&keys, &aggregate, &command, at)?;
        envelope.id = CommandId::random();
        let outcome = publish(&nats, &aggregate, &envelope).await?;
        let code = outcome.rejection.as_ref().map(|rejection| rejection.code.as_ref());
        ensure!(outcome.status == OutcomeStatus::Rejected && code == Some("CLOCK_SKEW"), "{outcome:?}");
    }
    Ok(())
}

// The actor is proved now, the command says another time.
fn envelope_with_time(
    keys: &KeyRing,
    aggregate: &AggregateRef,
    command: &OrganizationCommand,
    at: OffsetDateTime,
) -> anyhow::Result<CommandEnvelope> {
    let now = OffsetDateTime::now_utc();
    let envelope = CommandEnvelope::new(keys, aggregate, command, &Actor::system("test"), CommandId::random(), now)?;
    Ok(CommandEnvelope { time: at, ..envelope })
}

/// Publishes as any NATS client would, each time as another message, and waits for the outcome.
async fn publish(nats: &Client, aggregate: &AggregateRef, envelope: &CommandEnvelope) -> anyhow::Result<Outcome> {
    let mut outcomes = nats.subscribe(outcome_subject(&aggregate.tenant, envelope.id)).await?;
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", Uuid::new_v4().to_string());
    nats.publish_with_headers(aggregate.command_subject(), headers, serde_json::to_vec(envelope)?.into()).await?;
    let outcome = tokio::time::timeout(Duration::from_secs(30), outcomes.next()).await;
    Ok(serde_json::from_slice(&outcome.context("no outcome within 30 s")?.context("no outcome")?.payload)?)
}

async fn messages(js: &jetstream::Context, aggregate: &AggregateRef) -> anyhow::Result<u64> {
    let stream = js.get_stream(Service::Identity.event_stream()).await?;
    let mut subjects = stream.info_with_subjects(aggregate.event_subject()).await?;
    let mut count = 0;
    while let Some(subject) = subjects.next().await {
        count += subject?.1 as u64;
    }
    Ok(count)
}
