//! Places that processes share, over a real broker.

use std::time::Duration;

use async_nats::jetstream;
use symbia_nats::{
    broker::{Broker, BrokerOptions},
    places::Places,
    topology,
};
use tempfile::TempDir;

const SHORT: Duration = Duration::ZERO;
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
        async move { places.take("calls", 3, &format!("call {n}"), SHORT).await }
    });
    let mut taken: Vec<_> = futures::future::try_join_all(takers).await?.into_iter().flatten().collect();
    assert_eq!(taken.len(), 3, "more than there are, or less");
    assert!(other.take("calls", 3, "another", SHORT).await?.is_none());
    let of_others = one.take("others", 3, "another", SHORT).await?;
    assert!(of_others.is_some(), "of another thing there are places");
    taken.remove(0).leave().await;
    let another = other.take("calls", 3, "another", SHORT).await?;
    assert!(another.is_some(), "what one process gave back, the other has");
    assert!(one.take("calls", 3, "late", SHORT).await?.is_none());
    // A call that is given up gives its place back as well.
    drop(another);
    let mut looks = 0;
    while one.take("calls", 3, "late", SHORT).await?.is_none() {
        looks += 1;
        assert!(looks < 100, "the place of a call that was given up is not free");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test]
async fn two_who_make_the_same_call_have_two_places() -> Result<(), Box<dyn std::error::Error>> {
    let dir = TempDir::new()?;
    let broker = Broker::start(BrokerOptions::new(dir.path())).await?;
    let client = async_nats::connect(broker.url()).await?;
    topology::ensure(&jetstream::new(client.clone()), 1).await?;
    let (one, other) = (Places::new(client), Places::new(async_nats::connect(broker.url()).await?));

    let first = one.take("calls", 2, "the call", SHORT).await?.ok_or("no place")?;
    let second = other.take("calls", 2, "the call", SHORT).await?.ok_or("no second place")?;
    assert!(one.take("calls", 2, "another", SHORT).await?.is_none(), "two calls count as one");
    first.leave().await;
    let another = one.take("calls", 2, "another", SHORT).await?.ok_or("no place when one is free")?;
    assert!(
        other.take("calls", 2, "a third", SHORT).await?.is_none(),
        "the second one's place was given back with the first's"
    );
    drop((second, another));

    // With a single place, whoever takes a call over waits for it; another call does not.
    let held = one.take("single", 1, "the call", SHORT).await?.ok_or("no place")?;
    assert!(other.take("single", 1, "another", LONG).await?.is_none());
    let taking_over = other.take("single", 1, "the call", LONG);
    let giving_back = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        held.leave().await;
    };
    let (taken, ()) = tokio::join!(taking_over, giving_back);
    assert!(taken?.is_some(), "it did not wait");
    Ok(())
}
