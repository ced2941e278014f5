//! The end of an audit: what is missing is paired up, the streams are compared with what attests them, and all is reported.

use super::{Jump, Slot, Stream, Verifier};
use crate::{
    Service,
    audit::{Finding, Kind, Report},
};

impl Verifier<'_> {
    /// Ends the audit: compares with what was expected, and reports.
    #[must_use]
    pub fn finish(mut self) -> Report {
        self.match_gaps();
        self.still_missing();
        let mut streams = std::mem::take(&mut self.streams);
        let mut attestations = 0;
        for (service, stream) in &mut streams {
            self.compare_end(*service, stream);
            attestations += self.compare_seals(*service, stream) + self.compare_heads(*service, stream);
        }
        let mut findings: Vec<Finding> = self.findings.into_iter().flatten().collect();
        findings.sort_by_key(|f| (f.service, f.sequence));
        let heads = streams.iter().filter(|(_, stream)| stream.last > 0);
        Report {
            messages: self.messages,
            events: self.events,
            aggregates: self.chains.values().filter(|c| c.version > 0).count() as u64,
            heads: heads.map(|(service, stream)| stream.running.head(*service, stream.last)).collect(),
            attestations,
            findings,
            more: self.more,
        }
    }

    // Brings missing sequences and missing versions together: each pair is one removal. Sequences in ascending order each
    // take the open jump around them that closes first, which pairs as many as can be paired.
    fn match_gaps(&mut self) {
        let gaps: Vec<(Service, u64, u64, Slot)> = self
            .streams
            .iter()
            .flat_map(|(service, s)| s.missing.iter().map(|(from, (to, slot))| (*service, *from, *to, *slot)))
            .collect();
        let mut jumps = std::mem::take(&mut self.jumps);
        jumps.retain(|j| self.findings.get(j.slot).and_then(Option::as_ref).is_some_and(|f| f.kind == Kind::Removal));
        let mut left = Vec::new();
        for (service, from, to, slot) in gaps {
            let around = |j: &Jump| j.service == service && j.after < to && from < j.before;
            if from < to {
                jumps.iter_mut().filter(|j| around(j)).for_each(|j| j.found = j.found.max(1));
                continue;
            }
            let alone = jumps.iter().filter(|j| around(j)).count() == 1;
            match jumps.iter_mut().filter(|j| around(j) && j.found == 0).min_by_key(|j| j.before) {
                Some(jump) => self.pair(jump, slot, alone),
                None => left.push((service, from, slot)),
            }
        }
        for (service, at, slot) in left {
            let open = |j: &&mut Jump| {
                j.service == service && j.after < at && at < j.before && j.found > 0 && j.found <= j.to - j.from
            };
            if let Some(jump) = jumps.iter_mut().filter(open).min_by_key(|j| j.before) {
                self.pair(jump, slot, false);
            }
        }
        for jump in &jumps {
            if jump.found == 0 {
                *self.moved_up.entry(jump.service).or_default() += u64::from(jump.to - jump.from) + 1;
            } else if let Some(finding) = self.findings.get_mut(jump.slot) {
                *finding = None;
            }
        }
    }

    // Names the event that a missing sequence held: certain when it lies in one jump alone.
    fn pair(&mut self, jump: &mut Jump, slot: Slot, certain: bool) {
        if let Some(finding) = self.findings.get_mut(slot).and_then(Option::as_mut) {
            let version = jump.from + jump.found;
            if certain {
                finding.aggregate = Some(jump.subject.to_string());
                finding.version = Some(version);
            }
            let held = if certain { "it held" } else { "it may have held" };
            finding.explanation = format!("{}: {held} version {version} of {}", finding.explanation, jump.subject);
        }
        jump.found += 1;
    }

    // Of a gap that was filled in part, the rest.
    fn still_missing(&mut self) {
        let mut rest = Vec::new();
        for (subject, chain) in &self.chains {
            for gap in chain.trouble.iter().flat_map(|t| &t.gaps) {
                let (missing, all) = (gap.to - gap.from + 1 - gap.late, gap.to - gap.from + 1);
                let reordered = self.findings.get(gap.slot).and_then(Option::as_ref);
                if let Some(reordered) = reordered.filter(|_| gap.late > 0 && missing > 0) {
                    rest.push(Finding {
                        kind: Kind::Removal,
                        aggregate: Some(subject.to_string()),
                        version: Some(gap.from),
                        event_id: None,
                        explanation: format!("{missing} of the {all} versions {} to {} never come", gap.from, gap.to),
                        ..reordered.clone()
                    });
                }
            }
        }
        for finding in rest {
            self.put(finding);
        }
    }

    fn compare_end(&mut self, service: Service, stream: &Stream) {
        let last = stream.last;
        let heads = stream.heads.iter().map(|(h, _)| (h.sequence, "a signed head".to_owned()));
        let seals = stream.seals.iter().map(|(s, _)| (s.to, "a seal".to_owned()));
        let witnesses = stream.witnesses.iter().map(|w| (w.position.sequence, format!("'{}'", w.name)));
        let Some((end, who)) = heads.chain(seals).chain(witnesses).max_by_key(|(end, _)| *end) else { return };
        // Removals that moved the later messages up shorten the stream as well.
        let moved_up = self.moved_up.get(&service).copied().unwrap_or_default();
        if end <= last || end - last <= moved_up {
            return;
        }
        self.put(Finding {
            kind: Kind::Removal,
            service,
            sequence: last + 1,
            aggregate: None,
            version: None,
            event_id: None,
            explanation: format!(
                "the stream ends at sequence {last}, but {who} has seen it up to {end}: its end was cut off"
            ),
        });
    }

    fn compare_seals(&mut self, service: Service, stream: &mut Stream) -> u64 {
        stream.seals.sort_by_key(|(seal, _)| seal.from);
        let mut agree = 0;
        for (seal, tree) in &stream.seals {
            if tree.root() == seal.root && tree.size() == seal.events {
                agree += 1;
            } else if !self.explained(service, seal.to.max(1)) {
                let seen = tree.size();
                let kind = if seen < seal.events { Kind::Removal } else { Kind::Diverged };
                let explanation = format!(
                    "the events of sequences {} to {} are not those that were sealed: {seen} events instead of {}, and \
                     another root",
                    seal.from, seal.to, seal.events,
                );
                self.put_stream(kind, service, seal.from, explanation);
            }
        }
        agree
    }

    fn compare_heads(&mut self, service: Service, stream: &mut Stream) -> u64 {
        stream.heads.sort_by_key(|(head, _)| head.sequence);
        let now = stream.running.head(service, stream.last);
        let mut agree = 0;
        for (head, seen) in &stream.heads {
            let seen = seen.as_ref().unwrap_or(&now);
            if seen.hash == head.hash && seen.events == head.events {
                agree += 1;
            } else if !self.explained(service, head.sequence.max(1)) {
                let (kind, what) = if seen.events < head.events {
                    (Kind::Removal, format!("{} events are missing", head.events - seen.events))
                } else if seen.events > head.events {
                    (Kind::Diverged, format!("{} events were put in", seen.events - head.events))
                } else if seen.set == head.set {
                    (Kind::Reorder, "its events stand in another order".to_owned())
                } else {
                    (Kind::Diverged, "events were replaced by others".to_owned())
                };
                let explanation = format!("every chain is whole, but up to sequence {} {what}", head.sequence);
                self.put_stream(kind, service, head.sequence, explanation);
            }
        }
        agree
    }

    // A difference from what was attested is the consequence of what was found before it.
    fn explained(&self, service: Service, up_to: u64) -> bool {
        self.more > 0 || self.findings.iter().flatten().any(|f| f.service == service && f.sequence <= up_to)
    }

    fn put_stream(&mut self, kind: Kind, service: Service, sequence: u64, explanation: String) {
        let (aggregate, version, event_id) = (None, None, None);
        self.put(Finding { kind, service, sequence, aggregate, version, event_id, explanation });
    }
}
