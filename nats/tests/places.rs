//! Places that processes share, over a real broker.

use std::time::Duration;

use async_nats::jetstream;
use symbia_nats::{
    broker::{Broker, BrokerOptions},
    places::Places,
    topology,
};
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn two_processes_have_no_more_places_together_than_there_are() -> Result<(), Box<dyn std::error::Error>> {
    let dir = TempDir::new()?;
    let broker = Broker::start(BrokerOptions::new(dir.path())).await?;
    let client = async_nats::connect(broker.url()).await?;
    topology::ensure(&jetstream::new(client.clone()), 1).await?;
    let (one, other) = (Places::new(client), Places::new(async_nats::connect(broker.url()).await?));

    // All at once, from both sides.
    let takers = (0..12).map(|n| {
        let places = if n % 2 == 0 { &one } else { &other };
        async move { places.take("calls", 3, &format!("call {n}"), LONG).await }
    });
    let taken = futures::future::try_join_all(takers).await?;
    let holders: Vec<usize> = (0..12).filter(|n| taken[*n]).collect();
    assert_eq!(holders.len(), 3, "{taken:?}");
    assert!(other.take("calls", 3, &format!("call {}", holders[0]), LONG).await?, "who has a place keeps it");
    assert!(!other.take("calls", 3, "another", LONG).await?);
    assert!(one.take("others", 3, "another", LONG).await?, "of another thing there are places");
    one.leave("calls", &format!("call {}", holders[1])).await?;
    assert!(other.take("calls", 3, "another", LONG).await?, "what one process gave back, the other has");
    other.leave("calls", "nobody").await?;
    assert!(!one.take("calls", 3, "late", LONG).await?);
    Ok(())
}
