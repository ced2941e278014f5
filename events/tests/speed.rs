//! How fast a log is audited: `cargo test --release -p symbia-events --test speed -- --ignored --nocapture`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Instant;

use support::{AT, Entry, Log, Random, context};
use symbia_events::{
    GENESIS, KeyRing,
    audit::{Message, Verifier},
    commit, hash,
    identity::{OrganizationEvent, OrganizationRenamed},
    sign_commit,
};

#[test]
#[ignore = "measures; run it in release"]
fn a_core_audits_100_000_events_of_1_kb_a_second() {
    let (keys, mut random) = (KeyRing::generate(AT), Random(1));
    let mut log = Log::new(&keys, 3_000, 1_000, &mut random);
    let aggregates: Vec<_> = log.tips.keys().cloned().collect();
    let name = "x".repeat(250);
    let mut tips = std::collections::HashMap::<String, (u32, String)>::new();
    log.entries.clear();
    for number in 0..100_000u64 {
        let subject = aggregates[random.below(aggregates.len())].clone();
        let aggregate = symbia_events::AggregateRef::of_subject(&subject).unwrap();
        let (version, previous) = tips.get(&subject).cloned().unwrap_or((0, GENESIS.to_owned()));
        let event: OrganizationEvent = OrganizationRenamed { org_id: "o1".into(), name: name.clone() }.into();
        let signed = sign_commit(&keys, &aggregate, &context(number), version, &previous, &[event]).unwrap();
        tips.insert(subject.clone(), (version + 1, hash(&signed[0].bytes)));
        log.entries.push(Entry {
            uid: number,
            aggregate,
            subject,
            payload: commit::encode(&signed).0.into(),
            versions: version + 1..=version + 1,
            prevhash: previous,
            gone: false,
        });
    }
    let sequences = log.sequences();
    let messages: Vec<Message<'_>> = (log.entries.iter().zip(sequences))
        .map(|(e, sequence)| Message {
            service: e.aggregate.service,
            sequence,
            subject: &e.subject,
            payload: &e.payload,
        })
        .collect();
    let bytes: usize = messages.iter().map(|m| m.payload.len()).sum();
    for threads in [1, 2] {
        let (mut verifier, start) = (Verifier::new(&keys).threads(threads), Instant::now());
        messages.chunks(1000).for_each(|chunk| verifier.feed(chunk));
        let report = verifier.finish();
        let rate = messages.len() as f64 / start.elapsed().as_secs_f64();
        println!("{threads} threads: {rate:.0} events/s of {} bytes", bytes / messages.len());
        assert!(report.is_clean());
        assert!(rate > 100_000.0, "{rate} events/s");
    }
}
