//! The audit itself: messages in, findings and a report out. One tampering is one finding, without alarms in its wake.

mod finish;

use std::collections::{BTreeMap, HashMap};

use super::{
    Finding, Head, Kind, Message, RunningHash, Seal, Witness,
    chain::{Chain, Gap, Hole, Slot, Step},
    check::{Bad, Good, Item, START, Suspicion, check, one_byte_was_changed},
    merkle::Tree,
};
use crate::{GENESIS, KeyRing, Service};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};

/// Findings beyond these are counted, not described.
const MOST_FINDINGS: usize = 10_000;
/// Missing messages in a row that get a finding each; a longer gap is one.
const MOST_SINGLE: u64 = 64;
/// So often the audit looks for the one changed byte of an event whose place tells nothing.
const MOST_SEARCHES: u32 = 32;
/// Messages of a batch that are worth a thread.
const WORTH_A_THREAD: usize = 64;

/// Verifies an event log: signatures, chains, order, completeness. Feed it every message of one or more event streams
/// from the first on, each stream in its own order; streams may alternate.
///
/// Memory: about 200 bytes and 8 for each of the last 256 events per aggregate.
#[derive(Debug)]
pub struct Verifier<'k> {
    keys: &'k KeyRing,
    threads: usize,
    chains: HashMap<Box<str>, Chain>,
    streams: BTreeMap<Service, Stream>,
    findings: Vec<Option<Finding>>,
    more: u64,
    jumps: Vec<Jump>,
    // Events removed without leaving their sequences free.
    moved_up: BTreeMap<Service, u64>,
    searches: u32,
    messages: u64,
    events: u64,
}

#[derive(Debug, Default)]
struct Stream {
    last: u64,
    running: RunningHash,
    // Missing sequences: first of a run → its last, and the finding.
    missing: BTreeMap<u64, (u64, Slot)>,
    heads: Vec<(Head, Option<Head>)>,
    seals: Vec<(Seal, Tree)>,
    witnesses: Vec<Witness>,
}

// An aggregate's missing versions, and between which sequences they must have stood.
#[derive(Debug)]
struct Jump {
    service: Service,
    subject: Box<str>,
    from: u32,
    to: u32,
    after: u64,
    before: u64,
    slot: Slot,
    found: u32,
}

impl<'k> Verifier<'k> {
    /// A verifier that has seen nothing.
    #[must_use]
    pub fn new(keys: &'k KeyRing) -> Self {
        Verifier {
            keys,
            threads: 1,
            chains: HashMap::new(),
            streams: BTreeMap::new(),
            findings: Vec::new(),
            more: 0,
            jumps: Vec::new(),
            moved_up: BTreeMap::new(),
            searches: 0,
            messages: 0,
            events: 0,
        }
    }

    /// Checks the signatures of a batch on this many threads.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Compares the stream with a head when it gets there. Check the signature of its document first.
    pub fn expect_head(&mut self, head: Head) {
        self.streams.entry(head.service).or_default().heads.push((head, None));
    }

    /// Compares the stream with a seal when it gets there. Check the signature of its event first.
    pub fn expect_seal(&mut self, seal: Seal) {
        self.streams.entry(seal.service).or_default().seals.push((seal, Tree::default()));
    }

    /// The stream must reach as far as a witness has read.
    pub fn expect_witness(&mut self, witness: Witness) {
        self.streams.entry(witness.position.service).or_default().witnesses.push(witness);
    }

    /// Messages read so far.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Verifies the next messages.
    pub fn feed(&mut self, messages: &[Message<'_>]) {
        let keys = self.keys;
        let checked: Vec<Vec<Item>> = if self.threads == 1 || messages.len() < WORTH_A_THREAD {
            messages.iter().map(|message| check(keys, message)).collect()
        } else {
            let share = messages.len().div_ceil(self.threads);
            std::thread::scope(|scope| {
                let parts: Vec<_> = messages
                    .chunks(share)
                    .map(|part| (part, scope.spawn(move || part.iter().map(|m| check(keys, m)).collect::<Vec<_>>())))
                    .collect();
                // A part whose thread died is checked here.
                let joined = |(part, thread): (&[Message<'_>], std::thread::ScopedJoinHandle<'_, Vec<_>>)| {
                    thread.join().unwrap_or_else(|_| part.iter().map(|m| check(keys, m)).collect())
                };
                parts.into_iter().flat_map(joined).collect()
            })
        };
        for (message, items) in messages.iter().zip(checked) {
            self.message(message, &items);
        }
    }

    fn message(&mut self, message: &Message<'_>, items: &[Item]) {
        self.messages += 1;
        let out_of_turn = self.take_turn(message);
        let stream = self.streams.entry(message.service).or_default();
        for hash in items.iter().map(Item::hash) {
            stream.running.push(&hash);
            let sealed = |(seal, _): &&mut (Seal, Tree)| (seal.from..=seal.to).contains(&message.sequence);
            stream.seals.iter_mut().filter(|s| sealed(s)).for_each(|(_, tree)| tree.push(&hash));
        }
        let mut named = out_of_turn.unwrap_or(None);
        for item in items {
            match item {
                Item::Good(event) => self.good(message, event, &mut named),
                Item::Bad(bad) => self.bad(message, bad, &mut named),
            }
        }
        if out_of_turn == Some(None) && named.is_none() {
            let explanation = format!("sequence {} stands in the stream a second time", message.sequence);
            self.note(Kind::Reorder, message, None, explanation);
        }
    }

    // Notes missing sequences. For a message that comes after a later one: the finding that named it missing, if any.
    fn take_turn(&mut self, message: &Message<'_>) -> Option<Option<Slot>> {
        let stream = self.streams.entry(message.service).or_default();
        let (next, at) = (stream.last + 1, message.sequence);
        if at < next {
            let run = stream.missing.range(..=at).next_back().map(|(from, (to, slot))| (*from, *to, *slot));
            let Some((from, to, slot)) = run.filter(|(_, to, _)| at <= *to) else { return Some(None) };
            stream.missing.remove(&from);
            if from < at {
                stream.missing.insert(from, (at - 1, slot));
            }
            if at < to {
                stream.missing.insert(at + 1, (to, slot));
            }
            let explanation = format!("sequence {at} stands after sequence {}", next - 1);
            self.rename(slot, Kind::Reorder, message, None, explanation);
            return Some(Some(slot));
        }
        for (head, seen) in stream.heads.iter_mut().filter(|(head, seen)| seen.is_none() && head.sequence < at) {
            *seen = Some(stream.running.head(head.service, head.sequence));
        }
        stream.last = at;
        let single = at - next <= MOST_SINGLE;
        let runs: Vec<(u64, u64)> = if single { (next..at).map(|s| (s, s)).collect() } else { vec![(next, at - 1)] };
        for (from, to) in runs {
            let explanation = if from == to {
                format!("the message with sequence {from} is missing")
            } else {
                format!("the messages with sequences {from} to {to} are missing")
            };
            let slot = self.put(Finding {
                kind: Kind::Removal,
                service: message.service,
                sequence: from,
                aggregate: None,
                version: None,
                event_id: None,
                explanation,
            });
            self.streams.entry(message.service).or_default().missing.insert(from, (to, slot));
        }
        None
    }

    fn good(&mut self, message: &Message<'_>, event: &Good, named: &mut Option<Slot>) {
        self.events += 1;
        if let Some(home) = &event.elsewhere {
            let explanation = format!("the event belongs to {home} but stands under {}", message.subject);
            let slot = self.note_once(Kind::Foreign, message, Some(event), explanation, named);
            // It may have been moved here from there, or have overwritten what stood here.
            self.hole(message.subject, Hole { slot, events: u32::MAX, damaged: false, guessed: false });
            self.hole(home, Hole { slot, events: u32::MAX, damaged: false, guessed: false });
            return;
        }
        let chain = self.chains.entry(message.subject.into()).or_default();
        let (last_version, last_sequence, last_id) = (chain.version, chain.sequence, chain.id);
        match chain.step(event, message.sequence) {
            Step::Next => self.drop_holes(message.subject),
            Step::OnBranch | Step::Explained => {}
            Step::Jump { from, to } => {
                let explanation = format!(
                    "version {} follows version {last_version}: {} missing in between",
                    event.version,
                    if from == to { format!("version {from} is") } else { format!("versions {from} to {to} are") },
                );
                let slot = self.note(Kind::Removal, message, None, explanation);
                if let Some(finding) = self.findings.get_mut(slot).and_then(Option::as_mut) {
                    finding.version = Some(from);
                }
                if slot == Slot::MAX {
                    // Beyond the findings that are described nothing is told apart any more.
                    return;
                }
                let chain = self.chains.entry(message.subject.into()).or_default();
                chain.remember(Gap { from, to, slot, late: 0 });
                self.jumps.push(Jump {
                    service: message.service,
                    subject: message.subject.into(),
                    from,
                    to,
                    after: last_sequence,
                    before: message.sequence,
                    slot,
                    found: 0,
                });
            }
            Step::Late { gap } => self.late(message, event, gap, named),
            Step::Again => {
                let explanation = format!("version {} stood in the log before", event.version);
                self.note_once(Kind::Replay, message, Some(event), explanation, named);
            }
            Step::Second => {
                let explanation =
                    format!("another validly signed event for version {} stands before this one", event.version);
                self.note_once(Kind::Fork, message, Some(event), explanation, named);
            }
            Step::OtherPast if last_version == 0 => {
                let explanation = "the first event of the aggregate claims a predecessor".to_owned();
                self.note_once(Kind::Fork, message, Some(event), explanation, named);
            }
            Step::OtherPast => {
                self.drop_holes(message.subject);
                let slot = self.note(
                    Kind::Fork,
                    message,
                    None,
                    format!(
                        "the event is validly signed, but the next one (version {}, sequence {}) follows from another",
                        event.version, message.sequence,
                    ),
                );
                if let Some(finding) = self.findings.get_mut(slot).and_then(Option::as_mut) {
                    finding.sequence = last_sequence;
                    finding.version = Some(last_version);
                    finding.event_id = Some(last_id);
                }
            }
        }
    }

    // A missing version came after all: what was taken for a removal is a change of order.
    fn late(&mut self, message: &Message<'_>, event: &Good, gap: usize, named: &mut Option<Slot>) {
        let Some(gap) = self.chains.get_mut(message.subject).and_then(|c| c.trouble_mut().gaps.get_mut(gap)) else {
            return;
        };
        gap.late += 1;
        let (first, alone, slot) = (gap.late == 1, gap.from == gap.to, gap.slot);
        if !first {
            *named = named.or(Some(slot));
            return;
        }
        let early = self.jumps.iter().find(|j| j.slot == slot).map(|j| j.before).unwrap_or_default();
        if let Some(known) = *named {
            // The sequence told it already.
            if let Some(finding) = self.findings.get_mut(slot) {
                *finding = None;
            }
            if let Some(gap) = self
                .chains
                .get_mut(message.subject)
                .and_then(|c| c.trouble_mut().gaps.iter_mut().find(|g| g.slot == slot))
            {
                gap.slot = known;
            }
            return;
        }
        *named = Some(slot);
        if alone {
            let explanation =
                format!("version {} stands after later versions (from sequence {early} on)", event.version);
            self.rename(slot, Kind::Reorder, message, Some(event), explanation);
        } else if let Some(finding) = self.findings.get_mut(slot).and_then(Option::as_mut) {
            finding.kind = Kind::Reorder;
            finding.explanation =
                format!("{}; they come later, from sequence {} on", finding.explanation, message.sequence);
        }
    }

    fn bad(&mut self, message: &Message<'_>, bad: &Bad, named: &mut Option<Slot>) {
        let chain = self.chains.get(message.subject);
        let guessed = bad.suspicion == Suspicion::Unclear;
        let flip = match bad.suspicion {
            Suspicion::Flip => true,
            Suspicion::Foreign => false,
            Suspicion::Unclear => fits(chain, bad).unwrap_or_else(|| {
                self.searches += 1;
                self.searches <= MOST_SEARCHES && one_byte_was_changed(self.keys, &bad.bytes)
            }),
        };
        let (kind, explanation) = if flip {
            (Kind::Flip, format!("the event was changed: {}", bad.reason))
        } else {
            (Kind::Foreign, format!("no event of this log: {}", bad.reason))
        };
        let slot = if flip {
            self.put(finding(kind, message, explanation))
        } else {
            self.note_once(kind, message, None, explanation, named)
        };
        if let (Some(says), Some(finding)) = (&bad.says, self.findings.get_mut(slot).and_then(Option::as_mut)) {
            finding.version = Some(says.version);
            finding.event_id = Some(says.id);
        }
        *named = Some(slot);
        // What a foreign message overwrote may have been a batch.
        let events = if flip && !bad.uncounted { 1 } else { u32::MAX };
        self.hole(message.subject, Hole { slot, events, damaged: flip, guessed: flip && guessed });
    }

    fn hole(&mut self, subject: &str, hole: Hole) {
        let chain = self.chains.entry(subject.into()).or_default();
        let holes = &mut chain.trouble_mut().holes;
        if holes.len() < 64 {
            holes.push(hole);
        }
    }

    // The chain goes on without a gap: the bad messages before were put in, they replaced nothing.
    fn drop_holes(&mut self, subject: &str) {
        let Some(trouble) = self.chains.get_mut(subject).and_then(|c| c.trouble.as_mut()) else { return };
        for hole in trouble.holes.drain(..).filter(|hole| hole.guessed) {
            if let Some(finding) = self.findings.get_mut(hole.slot).and_then(Option::as_mut) {
                finding.kind = Kind::Foreign;
                finding.explanation = "a forged copy of an event that stands in the log as well".to_owned();
            }
        }
    }

    fn put(&mut self, finding: Finding) -> Slot {
        if self.findings.len() == MOST_FINDINGS {
            self.more += 1;
            return Slot::MAX;
        }
        self.findings.push(Some(finding));
        self.findings.len() - 1
    }

    fn note(&mut self, kind: Kind, message: &Message<'_>, event: Option<&Good>, explanation: String) -> Slot {
        let mut finding = finding(kind, message, explanation);
        finding.version = event.map(|e| e.version);
        finding.event_id = event.map(|e| e.id);
        self.put(finding)
    }

    // One finding for a message, however many events it has: they were stored together.
    fn note_once(
        &mut self,
        kind: Kind,
        message: &Message<'_>,
        event: Option<&Good>,
        explanation: String,
        named: &mut Option<Slot>,
    ) -> Slot {
        let same = |slot: &Slot| {
            self.findings
                .get(*slot)
                .and_then(Option::as_ref)
                .is_some_and(|f| f.kind == kind && f.sequence == message.sequence)
        };
        if let Some(slot) = named.filter(same) {
            return slot;
        }
        let slot = self.note(kind, message, event, explanation);
        *named = Some(slot);
        slot
    }

    fn rename(&mut self, slot: Slot, kind: Kind, message: &Message<'_>, event: Option<&Good>, explanation: String) {
        if let Some(place) = self.findings.get_mut(slot).and_then(Option::as_mut) {
            *place = finding(kind, message, explanation);
            place.version = event.map(|e| e.version);
            place.event_id = event.map(|e| e.id);
        }
    }
}

fn finding(kind: Kind, message: &Message<'_>, explanation: String) -> Finding {
    Finding {
        kind,
        service: message.service,
        sequence: message.sequence,
        aggregate: Some(message.subject.to_owned()),
        version: None,
        event_id: None,
        explanation,
    }
}

// Whether an event whose signature does not match stands where one of ours must have stood. `None`: it would be an
// aggregate's first, and anybody can write `genesis`.
fn fits(chain: Option<&Chain>, bad: &Bad) -> Option<bool> {
    let Some(says) = &bad.says else { return Some(false) };
    let (hash, version) = chain.map_or((START, 0), |chain| (chain.hash, chain.version));
    let holes = chain.and_then(|chain| chain.trouble.as_ref()).map_or(&[][..], |t| &t.holes);
    let damaged = holes.iter().filter(|hole| hole.damaged).fold(0u32, |sum, hole| sum.saturating_add(hole.events));
    let in_turn = if damaged == u32::MAX {
        says.version > version
    } else {
        says.version == version.saturating_add(damaged).saturating_add(1)
    };
    if damaged > 0 {
        // What stood before is damaged itself: its hash is not known.
        return Some(in_turn && says.at_home);
    }
    if hash == START {
        let first = says.previous.starts_with("gen") || says.previous.ends_with("sis") || says.previous == GENESIS;
        return if first { None } else { Some(false) };
    }
    let expected = BASE64URL.encode(hash);
    let wrong = expected.bytes().zip(says.previous.bytes()).filter(|(a, b)| a != b).count();
    let near = expected.len() == says.previous.len() && wrong <= 2;
    Some(near && (in_turn || says.at_home))
}
