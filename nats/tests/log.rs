//! The log reader on a real broker: in order, each message once, and it says what is wrong with the log.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::{Duration, Instant};

use async_nats::{
    HeaderMap,
    jetstream::{self, stream::Config},
};
use futures::StreamExt;
use symbia_events::Service;
use symbia_nats::{
    broker::{Broker, BrokerOptions, Durability},
    log::{LogError, LogMessage, LogReader, head},
    read, topology,
};

const WAIT: Duration = Duration::from_secs(10);
const SERVICE: Service = Service::Identity;

async fn broker() -> (Broker, jetstream::Context, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let options = BrokerOptions { durability: Durability::Interval, ..BrokerOptions::new(dir.path()) };
    let broker = Broker::start(options).await.unwrap();
    let client = async_nats::connect(broker.url()).await.unwrap();
    (broker, jetstream::new(client), dir)
}

async fn append(jetstream: &jetstream::Context, count: usize, kind: &str) {
    let mut acks = Vec::new();
    for number in 0..count {
        let subject = format!("symbia.evt.identity.global.{kind}.{}", number % 7);
        acks.push(jetstream.publish(subject, number.to_string().into()).await.unwrap());
    }
    for ack in acks {
        ack.await.unwrap();
    }
}

fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    all.iter().for_each(|(name, value)| headers.insert(*name, *value));
    headers
}

/// Reads until a sequence has come, through whatever happens to the broker.
async fn read_to(reader: &mut LogReader, last: u64) -> Vec<LogMessage> {
    let (mut all, began) = (Vec::new(), Instant::now());
    while reader.position() < last {
        assert!(began.elapsed() < WAIT * 6, "read up to {} only", reader.position());
        match reader.next_batch(300, Duration::from_secs(2)).await {
            Ok(batch) => {
                assert!(batch.len() <= 300);
                all.extend(batch);
            }
            Err(LogError::Unavailable(_)) => {}
            Err(error) => unreachable!("{error}"),
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_come_in_order_and_once_through_restarts_of_the_broker() {
    let (broker, jetstream, _dir) = broker().await;
    let missing = LogReader::open(jetstream.clone(), SERVICE, 0, Vec::new()).await;
    assert!(matches!(missing, Err(LogError::NoStream(name)) if name == "SYMBIA_EVT_IDENTITY"));
    jetstream.create_stream(topology::event_stream(SERVICE, 1)).await.unwrap();
    assert_eq!(head(&jetstream, SERVICE).await.unwrap().1, 0);
    append(&jetstream, 3000, "user").await;
    let mut reader = LogReader::open(jetstream.clone(), SERVICE, 10, Vec::new()).await.unwrap();
    let mut all = read_to(&mut reader, 1500).await;
    for round in 0..2 {
        let before = broker.restarts();
        broker.kill();
        let began = Instant::now();
        while broker.restarts() == before {
            assert!(began.elapsed() < WAIT);
            tokio::task::yield_now().await;
        }
        broker.ready().await.unwrap();
        append(&jetstream, 500, "session").await;
        all.extend(read_to(&mut reader, 3500 + round * 500).await);
    }
    let sequences: Vec<u64> = all.iter().map(|m| m.sequence).collect();
    assert_eq!(sequences, (11..=4000).collect::<Vec<u64>>());
    assert_eq!(all[0].subject, "symbia.evt.identity.global.user.3");
    assert_eq!(all[0].payload, "10");
    assert!(all[0].stored_at.year() >= 2025);
    assert_eq!(head(&jetstream, SERVICE).await.unwrap(), (1, 4000));
    let quiet = reader.next_batch(10, Duration::from_millis(50)).await.unwrap();
    assert!(quiet.is_empty());

    let filter = vec!["symbia.evt.identity.*.session.3".to_owned()];
    let mut sessions = LogReader::open(jetstream, SERVICE, 0, filter).await.unwrap();
    let batch = sessions.next_batch(1, WAIT).await.unwrap();
    assert_eq!((batch.len(), batch[0].sequence, sessions.pending()), (1, 3004, 141));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_has_just_come_is_given_without_waiting_for_more() {
    let (_broker, jetstream, _dir) = broker().await;
    jetstream.create_stream(topology::event_stream(SERVICE, 1)).await.unwrap();
    let mut reader = LogReader::open(jetstream.clone(), SERVICE, 0, Vec::new()).await.unwrap();
    for sequence in 1..=20 {
        let (batch, ()) = tokio::join!(reader.next_batch(500, WAIT), append(&jetstream, 1, "user"));
        assert_eq!(batch.unwrap().iter().map(|m| m.sequence).collect::<Vec<_>>(), [sequence]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_is_told_once_and_a_log_that_is_too_short_is_refused() {
    let (_broker, jetstream, _dir) = broker().await;
    // A log that somebody has cut: the platform's own streams allow no deletion.
    let config = Config { deny_delete: false, deny_purge: false, ..topology::event_stream(SERVICE, 1) };
    let stream = jetstream.create_stream(config).await.unwrap();
    append(&jetstream, 10, "user").await;
    for sequence in [1, 5, 6] {
        stream.delete_message(sequence).await.unwrap();
    }
    let mut reader = LogReader::open(jetstream.clone(), SERVICE, 0, Vec::new()).await.unwrap();
    let mut heard = Vec::new();
    while reader.position() < 10 {
        match reader.next_batch(100, WAIT).await {
            Ok(batch) => heard.extend(batch.iter().map(|m| m.sequence.to_string())),
            Err(LogError::Gap { expected, found, .. }) => heard.push(format!("{expected}<{found}")),
            Err(error) => unreachable!("{error}"),
        }
    }
    assert_eq!(heard, ["1<2", "2", "3", "4", "5<7", "7", "8", "9", "10"]);
    let ahead = LogReader::open(jetstream, SERVICE, 11, Vec::new()).await;
    assert!(matches!(ahead, Err(LogError::Ahead { after: 11, last: 10, .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_is_stored_and_what_is_refused_is_not_told() {
    let (broker, jetstream, _dir) = broker().await;
    jetstream.create_stream(topology::event_stream(SERVICE, 1)).await.unwrap();
    let client = async_nats::connect(broker.url()).await.unwrap();
    let (stream, subject) = (SERVICE.event_stream(), "symbia.evt.identity.global.user.one");
    let mut told = client.subscribe(topology::stored_subject(subject)).await.unwrap();
    client.flush().await.unwrap();
    for number in 1..=200 {
        let acknowledged = jetstream.publish(subject, number.to_string().into()).await.unwrap();
        let message = told.next().await.unwrap();
        assert_eq!(topology::event_subject(&message.subject), subject);
        let last = read::last(&client, &stream, subject).await.unwrap().unwrap();
        assert_eq!((last.sequence, &last.payload), (number, &message.payload));
        acknowledged.await.unwrap();
    }

    // Refused alone, refused with others, and left half said.
    let expects = |last| ("Nats-Expected-Last-Subject-Sequence", last);
    let refused = jetstream.publish_with_headers(subject, headers(&[expects("7")]), "refused".into()).await.unwrap();
    refused.await.unwrap_err();
    let say = |id, number, more, payload: &'static str| {
        let headers = headers(&[("Nats-Batch-Id", id), ("Nats-Batch-Sequence", number), more]);
        client.request_with_headers(subject, headers, payload.into())
    };
    let commit = ("Nats-Batch-Commit", "1");
    say("refused", "1", expects("7"), "refused").await.unwrap();
    say("refused", "2", commit, "refused").await.unwrap();
    say("half", "1", expects("200"), "half").await.unwrap();
    say("whole", "1", expects("200"), "first").await.unwrap();
    say("whole", "2", commit, "second").await.unwrap();
    jetstream.publish(subject, "after".into()).await.unwrap().await.unwrap();
    let heard: Vec<_> = told.take(3).map(|message| message.payload).collect().await;
    assert_eq!(heard, ["first", "second", "after"]);
    assert_eq!(head(&jetstream, SERVICE).await.unwrap().1, 203);
}
