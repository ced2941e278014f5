//! Appending: signed, chained events against a plain JetStream publish with the same headers and size.

use std::sync::Arc;

use anyhow::Result;
use async_nats::{
    HeaderMap,
    jetstream::{self, Context},
};
use bytes::Bytes;
use symbia_events::{AggregateRef, GENESIS, KeyRing, Service, commit};
use symbia_nats::{
    append::{Append, Appender, Grouping},
    broker::Durability,
};
use uuid::Uuid;

use super::{
    Bench,
    ground::Ground,
    ledger::{self, Noted},
    measure::{Lanes, Pairs},
    table::Target,
};

/// Rows of this group.
pub const ROWS: [&str; 2] = ["append_one", "append_256"];
/// Aggregates, or subjects, that are written in turn.
pub const AGGREGATES: usize = 10_000;

/// What a writer knows of one aggregate.
#[derive(Debug)]
pub struct Head {
    /// Its address.
    pub ledger: AggregateRef,
    version: u32,
    hash: String,
    sequence: u64,
}

impl Head {
    /// Of the `index`-th ledger, which is empty.
    pub fn new(index: usize) -> Self {
        Head { ledger: ledger::address(index), version: 0, hash: GENESIS.to_owned(), sequence: 0 }
    }
}

/// What an append needs.
#[derive(Clone)]
struct Writer {
    appender: Appender,
    keys: Arc<KeyRing>,
    text: Arc<str>,
}

impl Writer {
    async fn append(self, mut head: Head) -> Result<Head> {
        let note = Noted { text: self.text.as_ref().to_owned() };
        let signed = ledger::sign(&self.keys, &head.ledger, head.version, &head.hash, note)?;
        let message_id = signed.event.commandid.commit_id().to_string();
        let events = [signed];
        let (payload, content_type) = commit::encode(&events);
        let subject = head.ledger.event_subject();
        let message = Append { subject, message_id, expected: head.sequence, content_type, payload };
        head.sequence = self.appender.append(Service::Logging, vec![message]).await?;
        head.version += 1;
        let [signed] = events;
        head.hash = signed.hash;
        Ok(head)
    }
}

/// A subject that is published to without anything of ours.
#[derive(Debug)]
pub struct RawHead {
    subject: String,
    sequence: u64,
}

impl RawHead {
    /// The `index`-th subject, which is empty. Its stream has the same settings as that of the ledgers.
    pub fn new(index: usize) -> Self {
        RawHead { subject: format!("symbia.evt.network.global.raw.{index}"), sequence: 0 }
    }
}

/// Publishes a payload with message id and expected sequence, and waits for the acknowledgement.
pub async fn publish(jetstream: Context, payload: Bytes, mut head: RawHead) -> Result<RawHead> {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", Uuid::now_v7().to_string());
    headers.insert("Nats-Expected-Last-Subject-Sequence", head.sequence.to_string());
    headers.insert("Content-Type", commit::CONTENT_TYPE_ONE);
    let sent = jetstream.publish_with_headers(head.subject.clone(), headers, payload).await?;
    head.sequence = sent.await?.sequence;
    Ok(head)
}

/// Measures the rows.
pub async fn run(bench: &mut Bench) -> Result<()> {
    let ground = Ground::open(Durability::Interval).await?;
    let raw = jetstream::new(ground.connect().await?);
    let payload = Bytes::from("x".repeat(1024));
    let writer = Writer {
        appender: Appender::new(ground.connect().await?, Grouping::Single),
        keys: Arc::clone(&ground.keys),
        text: ledger::text(&ground.keys).into(),
    };
    for (name, what, offset, count) in
        [("append_one", "append, one at a time", 0, 1), ("append_256", "append, 256 in flight", AGGREGATES, 256)]
    {
        if !bench.wants(&[name]) {
            continue;
        }
        let mut heads = Lanes::deal((offset..offset + AGGREGATES).map(Head::new), count);
        let mut raw_heads = Lanes::deal((offset..offset + AGGREGATES).map(RawHead::new), count);
        let pairs = Pairs::take(
            &bench.scale,
            async || {
                let writer = writer.clone();
                Ok(heads.run(bench.scale.round, move |head| writer.clone().append(head)).await?.rate)
            },
            async || {
                let (raw, payload) = (raw.clone(), payload.clone());
                let publish = move |head| publish(raw.clone(), payload.clone(), head);
                Ok(raw_heads.run(bench.scale.round, publish).await?.rate)
            },
        );
        bench.table.push(pairs.await?.row(name, what, "/s", Target::Ratio(0.8)));
    }
    Ok(())
}
