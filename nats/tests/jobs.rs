//! The queue of jobs, over a real broker.

use async_nats::jetstream::{self, consumer::pull};
use futures::StreamExt;
use symbia_events::{AggregateRef, OrgId, Position, Service};
use symbia_nats::{
    broker::{Broker, BrokerOptions},
    jobs, read, topology,
};
use tempfile::TempDir;

#[tokio::test]
async fn a_job_waits_once_until_it_is_done_and_names_its_event() -> Result<(), Box<dyn std::error::Error>> {
    let dir = TempDir::new()?;
    let broker = Broker::start(BrokerOptions::new(dir.path())).await?;
    let client = async_nats::connect(broker.url()).await?;
    let js = jetstream::new(client.clone());
    topology::ensure(&js, 1).await?;
    let of = AggregateRef::new(Service::Integrations, "acme".parse::<OrgId>()?, "completion", "one")?;
    let sequence = js.publish(of.event_subject(), "an event".into()).await?.await?.sequence;
    let at = Position { service: Service::Integrations, sequence };
    jobs::hand_on(&js, jobs::BATCH_LINE, &of, at).await?;
    // The event came again.
    jobs::hand_on(&js, jobs::BATCH_LINE, &of, at).await?;

    let mut queue = js.get_stream(topology::JOBS).await?;
    assert_eq!(queue.info().await?.state.messages, 1, "handed on twice, it waits twice");
    let filter_subject = jobs::subjects(jobs::BATCH_LINE);
    let taken = pull::Config { durable_name: Some("lines".to_owned()), filter_subject, ..pull::Config::default() };
    let job = queue.create_consumer(taken).await?.messages().await?.next().await.ok_or("no job")??;
    let named: Position = std::str::from_utf8(&job.payload)?.parse()?;
    assert_eq!(named, at);
    let event = read::at(&client, &at.service.event_stream(), named.sequence).await?.ok_or("no event")?;
    assert_eq!((&event.payload[..], event.subject), (&b"an event"[..], of.event_subject()));
    assert!(read::at(&client, &at.service.event_stream(), sequence + 1).await?.is_none());
    job.double_ack().await.map_err(|error| error.to_string())?;
    assert_eq!(queue.info().await?.state.messages, 0, "what is done stays in the queue");
    Ok(())
}
