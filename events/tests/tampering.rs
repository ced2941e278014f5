//! Every way to tamper with a log of 10 000 events, at many places: found once, named and placed, without false alarms.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::{collections::HashSet, sync::OnceLock};

use support::{AT, Log, Random};
use symbia_events::{
    AggregateRef, KeyRing, OrgId, Service,
    audit::{Finding, Heads, Kind, Report, Seal, Verifier, Witness, leaves, merkle},
};

const PLACES: usize = 30;

/// What must be found: a kind, at one of these messages; the version where it is known.
struct Expected {
    kind: Kind,
    at: Vec<u64>,
    // For a message that is gone without a trace: its sequence.
    version: Option<u32>,
    what: &'static str,
}

type Tampering = fn(&mut Log, &KeyRing, &mut Random, &mut HashSet<String>) -> Expected;

/// An aggregate that was left alone so far, with at least `least` messages, and the indices of those.
fn victim(log: &Log, random: &mut Random, used: &mut HashSet<String>, least: usize) -> Vec<usize> {
    loop {
        let subject = &log.entries[random.below(log.entries.len())].subject;
        let of = log.of(subject);
        if of.len() >= least && used.insert(subject.clone()) {
            return of;
        }
    }
}

fn found(kind: Kind, at: Vec<u64>, what: &'static str) -> Expected {
    Expected { kind, at, version: None, what }
}

fn flip(log: &mut Log, _: &KeyRing, random: &mut Random, used: &mut HashSet<String>) -> Expected {
    let of = victim(log, random, used, 1);
    let entry = &mut log.entries[of[random.below(of.len())]];
    let place = random.below(entry.payload.len());
    entry.payload[place] ^= 1 << random.below(7);
    found(Kind::Flip, vec![entry.uid], "flip")
}

fn edit(log: &mut Log, _: &KeyRing, random: &mut Random, used: &mut HashSet<String>) -> Expected {
    let of = victim(log, random, used, 2);
    let entry = &mut log.entries[of[1 + random.below(of.len() - 1)]];
    let text = String::from_utf8(entry.payload.clone()).unwrap();
    entry.payload = text.replacen("\"data\":{", "\"data\":{\"amount\":1000000,", 1).into_bytes();
    found(Kind::Flip, vec![entry.uid], "edit of many bytes")
}

fn remove(log: &mut Log, of: &[usize], which: usize, free: bool, what: &'static str) -> Expected {
    let entry = &mut log.entries[of[which]];
    let version = Some(*entry.versions.start());
    if free {
        entry.gone = true;
        let version = if which + 1 == of.len() { None } else { version };
        return Expected { kind: Kind::Removal, at: vec![entry.uid], version, what };
    }
    let next = log.entries[of[which + 1]].uid;
    log.entries.remove(of[which]);
    Expected { kind: Kind::Removal, at: vec![next], version, what }
}

fn remove_middle(log: &mut Log, _: &KeyRing, random: &mut Random, used: &mut HashSet<String>) -> Expected {
    let of = victim(log, random, used, 3);
    remove(log, &of, 1 + random.below(of.len() - 2), true, "removal from the middle")
}

fn remove_middle_closed(log: &mut Log, _: &KeyRing, random: &mut Random, used: &mut HashSet<String>) -> Expected {
    let of = victim(log, random, used, 3);
    remove(log, &of, 1 + random.below(of.len() - 2), false, "removal from the middle, moved up")
}

fn remove_first(log: &mut Log, _: &KeyRing, random: &mut Random, used: &mut HashSet<String>) -> Expected {
    let of = victim(log, random, used, 2);
    remove(log, &of, 0, true, "removal of an aggregate's first")
}

fn remove_first_closed(log: &mut Log, _: &KeyRing, random: &mut Random, used: &mut HashSet<String>) -> Expected {
    let of = victim(log, random, used, 2);
    remove(log, &of, 0, false, "removal of an aggregate's first, moved up")
}

fn remove_last(log: &mut Log, _: &KeyRing, random: &mut Random, used: &mut HashSet<String>) -> Expected {
    // Not among the last messages of a stream: that is truncation, tested below.
    loop {
        let of = victim(log, random, used, 2);
        if of[of.len() - 1] + 100 < log.entries.len() {
            return remove(log, &of, of.len() - 1, true, "removal of an aggregate's last");
        }
    }
}

fn reorder(log: &mut Log, _: &KeyRing, random: &mut Random, used: &mut HashSet<String>) -> Expected {
    let of = victim(log, random, used, 2);
    let first = random.below(of.len() - 1);
    let second = first + 1 + random.below(of.len() - first - 1);
    log.entries.swap(of[first], of[second]);
    let at = [first, second].map(|i| log.entries[of[i]].uid).to_vec();
    found(Kind::Reorder, at, "two messages swapped")
}

fn delay(log: &mut Log, _: &KeyRing, random: &mut Random, used: &mut HashSet<String>) -> Expected {
    let of = victim(log, random, used, 3);
    let first = random.below(of.len() - 1);
    let second = first + 1 + random.below(of.len() - first - 1);
    let entry = log.entries.remove(of[first]);
    let (uid, next) = (entry.uid, log.entries[of[first + 1] - 1].uid);
    log.entries.insert(of[second], entry);
    found(Kind::Reorder, vec![uid, next], "a message moved back")
}

fn replay(log: &mut Log, _: &KeyRing, random: &mut Random, used: &mut HashSet<String>) -> Expected {
    let of = victim(log, random, used, 1);
    let original = of[random.below(of.len())];
    let copy = log.copy_of(original);
    let uid = copy.uid;
    log.entries.insert(original + 1 + random.below(log.entries.len() - original), copy);
    found(Kind::Replay, vec![uid], "replay")
}

fn fork(log: &mut Log, keys: &KeyRing, random: &mut Random, used: &mut HashSet<String>) -> Expected {
    let of = victim(log, random, used, 1);
    let original = log.entries[*of.last().unwrap()].clone();
    let version = *original.versions.start() - 1;
    let size = 1 + random.below(2);
    let second = log.signed(keys, &original.aggregate, version, &original.prevhash, size, random);
    let tip = symbia_events::commit::decode(keys, &second.payload).unwrap().pop().unwrap();
    let uid = second.uid;
    let at = of.last().unwrap() + 1 + random.below(log.entries.len() - of.last().unwrap());
    let next = log.signed(keys, &original.aggregate, tip.event.aggregateversion, &tip.hash, 1, random);
    log.entries.insert(at, second);
    if random.below(2) == 0 && tip.event.aggregateversion <= *original.versions.end() {
        // The fork goes on: no second alarm.
        log.entries.insert(at + 1, next);
    }
    found(Kind::Fork, vec![uid], "fork of the tail")
}

fn replace(log: &mut Log, keys: &KeyRing, random: &mut Random, used: &mut HashSet<String>) -> Expected {
    let of = victim(log, random, used, 2);
    let at = of[random.below(of.len() - 1)];
    let original = log.entries[at].clone();
    let size = original.versions.clone().count();
    let version = *original.versions.start() - 1;
    let other = log.signed(keys, &original.aggregate, version, &original.prevhash, size, random);
    log.entries[at].payload = other.payload;
    found(Kind::Fork, vec![original.uid], "an event replaced by another validly signed one")
}

fn foreign_ring(log: &mut Log, _: &KeyRing, random: &mut Random, used: &mut HashSet<String>) -> Expected {
    let mut ring = KeyRing::generate(AT);
    let of = victim(log, random, used, 1);
    let host = log.entries[of[random.below(of.len())]].clone();
    let entry = match random.below(4) {
        // The other ring's own aggregate, whose first event fits any chain's beginning.
        0 => {
            let id = format!("foreign{}", random.below(1_000_000));
            let aggregate = AggregateRef { id, ..host.aggregate };
            used.insert(aggregate.event_subject());
            log.signed(&ring, &aggregate, 0, "genesis", 1, random)
        }
        // Another installation's event for an aggregate of ours.
        1 => {
            let other = symbia_events::hash(b"another log");
            log.signed(&ring, &host.aggregate, *host.versions.end(), &other, 1, random)
        }
        // Made to fit, with a key that the ring does not have.
        2 => {
            ring.rotate(AT);
            log.signed(&ring, &host.aggregate, *host.versions.start() - 1, &host.prevhash, 1, random)
        }
        // Made to fit, with a key of the same name.
        _ => log.signed(&ring, &host.aggregate, *host.versions.start() - 1, &host.prevhash, 1, random),
    };
    // Before the event whose place it claims, so that it would be taken for it.
    let uid = entry.uid;
    let at = log.entries.iter().position(|e| e.uid == host.uid).unwrap();
    log.entries.insert(at, entry);
    found(Kind::Foreign, vec![uid], "an event of another key ring")
}

fn rubbish(log: &mut Log, _: &KeyRing, random: &mut Random, used: &mut HashSet<String>) -> Expected {
    let of = victim(log, random, used, 1);
    let at = of[random.below(of.len())];
    let payload = [&b"hello"[..], b"", b"[]", b"{}", br#"{"specversion":"1.0","id":"1"}"#, b"[1,2", &[0xff, 0xfe]];
    let payload = payload[random.below(payload.len())].to_vec();
    if random.below(2) == 0 {
        log.entries[at].payload = payload;
        return found(Kind::Foreign, vec![log.entries[at].uid], "an event overwritten with rubbish");
    }
    let mut entry = log.copy_of(at);
    entry.payload = payload;
    let uid = entry.uid;
    log.entries.insert(at, entry);
    found(Kind::Foreign, vec![uid], "rubbish put in")
}

fn misplace(log: &mut Log, _: &KeyRing, random: &mut Random, used: &mut HashSet<String>) -> Expected {
    let (from, to) = loop {
        let (from, to) = (victim(log, random, used, 1), victim(log, random, used, 1));
        if log.entries[from[0]].aggregate.service == log.entries[to[0]].aggregate.service {
            break (from, to);
        }
    };
    let (from, to) = (from[random.below(from.len())], to[random.below(to.len())]);
    let subject = log.entries[to].subject.clone();
    match random.below(3) {
        0 => log.entries[from].subject = subject,
        1 => log.entries[to].payload = log.entries[from].payload.clone(),
        _ => {
            let mut copy = log.copy_of(from);
            copy.subject = subject;
            let uid = copy.uid;
            log.entries.insert(to, copy);
            return found(Kind::Foreign, vec![uid], "an event copied under another's subject");
        }
    }
    // Whichever message now holds an event under a subject that is not its own.
    let at = if log.entries[from].subject == log.entries[to].subject { from } else { to };
    found(Kind::Foreign, vec![log.entries[at].uid], "a valid event under another's subject")
}

const OTHERS: [Tampering; 10] = [flip, edit, reorder, delay, replay, fork, replace, foreign_ring, rubbish, misplace];
const FREE: [Tampering; 3] = [remove_middle, remove_first, remove_last];
const CLOSED: [Tampering; 2] = [remove_middle_closed, remove_first_closed];

fn keys() -> KeyRing {
    let mut keys = KeyRing::generate(AT);
    keys.rotate(AT);
    keys
}

/// The log that is tampered with: 10 000 events, made once.
fn clean() -> (&'static KeyRing, Log) {
    static CLEAN: OnceLock<(KeyRing, Log)> = OnceLock::new();
    let (keys, log) = CLEAN.get_or_init(|| {
        let keys = keys();
        let log = Log::new(&keys, 10_000, 300, &mut Random(42));
        (keys, log)
    });
    (keys, log.clone())
}

#[track_caller]
fn assert_found(log: &Log, report: &Report, expected: &[Expected]) -> usize {
    let sequences = log.sequences();
    let mut open: Vec<&Finding> = report.findings.iter().collect();
    let mut named = 0;
    for e in expected {
        let places: Vec<(Service, u64)> = (log.entries.iter().zip(&sequences))
            .filter(|(entry, _)| e.at.contains(&entry.uid))
            .map(|(entry, sequence)| (entry.aggregate.service, *sequence))
            .collect();
        let hit = open.iter().position(|f| {
            f.kind == e.kind
                && places.contains(&(f.service, f.sequence))
                && (e.version.is_none() || f.version.is_none() || f.version == e.version)
        });
        match hit {
            Some(hit) => {
                let finding = open.remove(hit);
                named += usize::from(finding.aggregate.is_some());
            }
            None => panic!("missed: {} ({:?}) at {places:?} v{:?}; left: {open:#?}", e.what, e.kind, e.version),
        }
    }
    assert!(open.is_empty(), "false alarms: {open:#?}");
    named
}

fn round(tampering: Tampering, seed: u64) {
    let ((keys, mut log), mut random, mut used) = (clean(), Random(seed), HashSet::new());
    let expected: Vec<Expected> = (0..PLACES).map(|_| tampering(&mut log, keys, &mut random, &mut used)).collect();
    assert_found(&log, &log.audit(keys), &expected);
}

macro_rules! each {
    ($($name:ident: $tampering:ident, $seed:literal;)*) => { $( #[test] fn $name() { round($tampering, $seed); } )* };
}

each! {
    flipped_bits_are_found: flip, 1;
    more_flipped_bits_are_found: flip, 2;
    edited_events_are_found: edit, 3;
    removed_events_are_found: remove_middle, 4;
    removed_events_are_found_when_the_rest_moved_up: remove_middle_closed, 5;
    removed_first_events_are_found: remove_first, 6;
    removed_first_events_are_found_when_the_rest_moved_up: remove_first_closed, 16;
    removed_last_events_are_found: remove_last, 7;
    swapped_events_are_found: reorder, 8;
    delayed_events_are_found: delay, 9;
    replayed_events_are_found: replay, 10;
    forks_are_found: fork, 11;
    replaced_events_are_found: replace, 12;
    foreign_events_are_found: foreign_ring, 13;
    rubbish_is_found: rubbish, 14;
    misplaced_events_are_found: misplace, 15;
}

#[test]
fn many_tamperings_at_once_are_told_apart() {
    for seed in 100..106 {
        let ((keys, mut log), mut random, mut used) = (clean(), Random(seed), HashSet::new());
        // An attacker either leaves the sequences of what is gone free, or moves the rest up.
        let removals: &[Tampering] = if seed % 2 == 0 { &FREE } else { &CLOSED };
        let all = [&OTHERS[..], removals].concat();
        let expected: Vec<Expected> =
            (0..60).map(|i| all[i % all.len()](&mut log, keys, &mut random, &mut used)).collect();
        assert_found(&log, &log.audit(keys), &expected);
    }
}

#[test]
fn one_tampering_at_a_time_is_named_exactly() {
    let (keys, mut random) = (keys(), Random(7));
    let clean = Log::new(&keys, 1_000, 60, &mut random);
    let all = [&OTHERS[..], &FREE, &CLOSED].concat();
    for round in 0..all.len() * 10 {
        let mut log = clean.clone();
        let expected = all[round % all.len()](&mut log, &keys, &mut random, &mut HashSet::new());
        // Of an aggregate's last message, nothing is left that could name it.
        let nameless = expected.kind == Kind::Removal && expected.version.is_none();
        let named = assert_found(&log, &log.audit(&keys), &[expected]);
        assert!(nameless || named == 1);
    }
}

/// The heads, and a seal for each stretch of about 100 messages.
fn attested(log: &Log, keys: &KeyRing) -> (Heads, Vec<Seal>) {
    let heads = Heads::sign(keys, log.audit(keys).heads, AT).unwrap();
    let mut seals = Vec::new();
    for service in support::SERVICES {
        let of: Vec<_> = log.entries.iter().filter(|e| e.aggregate.service == service).collect();
        for (index, stretch) in of.chunks(100).enumerate() {
            let from = index as u64 * 100 + 1;
            let hashes: Vec<_> = (stretch.iter().zip(from..))
                .flat_map(|(e, sequence)| {
                    let (subject, payload) = (e.subject.as_str(), e.payload.as_slice());
                    leaves(keys, &symbia_events::audit::Message { service, sequence, subject, payload })
                })
                .collect();
            let (to, events) = (from + stretch.len() as u64 - 1, hashes.len() as u64);
            seals.push(Seal { service, from, to, events, root: merkle::root(&hashes) });
        }
    }
    (heads, seals)
}

fn compared(log: &Log, keys: &KeyRing, heads: &[symbia_events::audit::Head], seals: &[Seal]) -> Report {
    let mut verifier = Verifier::new(keys);
    heads.iter().cloned().for_each(|head| verifier.expect_head(head));
    seals.iter().cloned().for_each(|seal| verifier.expect_seal(seal));
    log.feed(&mut verifier);
    verifier.finish()
}

#[test]
fn a_clean_log_raises_no_alarm_and_agrees_with_what_attests_it() {
    let (keys, mut random) = (keys(), Random(42));
    let mut log = Log::new(&keys, 10_000, 300, &mut random);
    let (heads, seals) = attested(&log, &keys);
    heads.verify(&keys).unwrap();
    // The log goes on after it was attested.
    let global = AggregateRef::new(Service::Identity, OrgId::global(), "organization", "late").unwrap();
    for _ in 0..50 {
        log.commit(&keys, &global, 2, &mut random);
    }
    let report = compared(&log, &keys, &heads.heads, &seals);
    assert_eq!(report.findings, []);
    assert_eq!(report.attestations, 4 + seals.len() as u64);
    assert_eq!(report.messages, log.entries.len() as u64);
    assert_eq!(report.events, support::signed_events(&keys, &log).len() as u64);
    assert_eq!(report.aggregates, 301);
    assert_eq!(report, Report { attestations: report.attestations, ..log.audit(&keys) });
}

#[test]
fn heads_with_another_content_or_role_are_refused() {
    let keys = keys();
    let heads = Heads::sign(&keys, vec![], AT).unwrap();
    assert!(Heads { time: AT + time::Duration::seconds(1), ..heads.clone() }.verify(&keys).is_err());
    assert!(Heads { hmackid: "k1.identity".into(), ..heads.clone() }.verify(&keys).is_err());
    assert!(heads.verify(&KeyRing::generate(AT)).is_err());
}

#[test]
fn a_cut_tail_is_found_by_a_head_a_seal_and_a_witness() {
    let (keys, mut random) = (keys(), Random(43));
    let log = Log::new(&keys, 1_000, 60, &mut random);
    let (heads, seals) = attested(&log, &keys);
    for place in 0..PLACES {
        let mut cut = log.clone();
        let service = support::SERVICES[random.below(4)];
        let last = log.entries.iter().filter(|e| e.aggregate.service == service).count();
        let keep = last - 1 - random.below(5);
        let mut seen = 0;
        cut.entries.retain(|e| {
            seen += usize::from(e.aggregate.service == service);
            e.aggregate.service != service || seen <= keep
        });
        let mut verifier = Verifier::new(&keys);
        match place % 3 {
            0 => heads.heads.iter().cloned().for_each(|head| verifier.expect_head(head)),
            1 => seals.iter().cloned().for_each(|seal| verifier.expect_seal(seal)),
            _ => verifier.expect_witness(Witness {
                name: "users".into(),
                position: format!("{service}:{last}").parse().unwrap(),
            }),
        }
        cut.feed(&mut verifier);
        let found = verifier.finish().findings;
        let [finding] = found.as_slice() else { panic!("{found:#?}") };
        assert_eq!((finding.kind, finding.service, finding.sequence), (Kind::Removal, service, keep as u64 + 1));
        assert_eq!(cut.audit(&keys).findings, [], "nothing else can show it");
    }
}

#[test]
fn what_leaves_every_chain_whole_is_found_by_what_attests_the_stream() {
    let (keys, mut random) = (keys(), Random(44));
    let log = Log::new(&keys, 1_000, 60, &mut random);
    let (heads, seals) = attested(&log, &keys);
    for _ in 0..PLACES {
        // Two neighbours of different aggregates swapped.
        let mut bent = log.clone();
        let (a, b) = loop {
            let a = random.below(log.entries.len() - 20);
            let service = log.entries[a].aggregate.service;
            let next = (a + 1..log.entries.len()).find(|i| log.entries[*i].aggregate.service == service);
            match next {
                // Within one sealed stretch.
                Some(b)
                    if log.entries[a].subject != log.entries[b].subject
                        && !log.sequence_of(log.entries[a].uid).unwrap().1.is_multiple_of(100) =>
                {
                    break (a, b);
                }
                _ => {}
            }
        };
        bent.entries.swap(a, b);
        let (service, sequence) = bent.sequence_of(log.entries[a].uid).unwrap();
        assert_eq!(bent.audit(&keys).findings, []);
        let found = compared(&bent, &keys, &heads.heads, &[]).findings;
        assert_eq!(found.iter().map(|f| (f.kind, f.service)).collect::<Vec<_>>(), [(Kind::Reorder, service)]);
        let found = compared(&bent, &keys, &[], &seals).findings;
        let from = (sequence - 2) / 100 * 100 + 1;
        assert_eq!(found[0].kind, Kind::Diverged);
        assert!(found.len() == 1 && found[0].service == service && found[0].sequence == from, "{found:#?} {from}");

        // An aggregate's last message taken out, the rest moved up.
        let mut bent = log.clone();
        let of = log.of(&log.entries[random.below(log.entries.len())].subject);
        let (service, at) = (log.entries[of[0]].aggregate.service, *of.last().unwrap());
        bent.entries.remove(at);
        assert_eq!(bent.audit(&keys).findings, []);
        let found = compared(&bent, &keys, &heads.heads, &[]).findings;
        assert_eq!(found.iter().map(|f| (f.kind, f.service)).collect::<Vec<_>>(), [(Kind::Removal, service)]);
    }
}

#[test]
fn messages_that_travel_with_their_sequences_are_one_change_of_order() {
    let (keys, mut random) = (keys(), Random(45));
    let log = Log::new(&keys, 1_000, 60, &mut random);
    let sequences = log.sequences();
    for _ in 0..PLACES {
        let mut order: Vec<usize> = (0..log.entries.len()).collect();
        let (from, to) = loop {
            let (from, to) = (random.below(order.len() - 1), random.below(order.len()));
            let service = log.entries[from].aggregate.service;
            if from < to && (from + 1..=to).any(|i| log.entries[i].aggregate.service == service) {
                break (from, to);
            }
        };
        let moved = order.remove(from);
        order.insert(to, moved);
        let mut verifier = Verifier::new(&keys);
        for index in order {
            let e = &log.entries[index];
            let (service, subject, payload) = (e.aggregate.service, e.subject.as_str(), e.payload.as_slice());
            verifier.feed(&[symbia_events::audit::Message { service, sequence: sequences[index], subject, payload }]);
        }
        let found = verifier.finish().findings;
        let [finding] = found.as_slice() else { panic!("{found:#?}") };
        assert_eq!((finding.kind, finding.sequence), (Kind::Reorder, sequences[from]));
    }
}
