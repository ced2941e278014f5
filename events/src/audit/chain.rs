//! What an audit remembers of one aggregate, and what its next event means.

use uuid::Uuid;

use super::{
    check::{Good, START},
    merkle::Digest32,
};

/// So many of an aggregate's last events are told apart when they turn up a second time.
const WINDOW: usize = 256;
/// So many gaps and branches of one aggregate are followed.
const MOST_TROUBLE: usize = 16;

/// Place of a finding in the verifier's list.
pub(super) type Slot = usize;

/// The last accepted event of an aggregate, fingerprints of those before, and what is out of joint.
#[derive(Debug, Default)]
pub(super) struct Chain {
    pub hash: Digest32,
    pub id: Uuid,
    pub version: u32,
    pub sequence: u64,
    // First eight bytes of the hash of version v at (v - 1) % WINDOW; 0 = not seen.
    recent: Vec<u64>,
    pub trouble: Option<Box<Trouble>>,
}

#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// Bad messages under this aggregate's subject since its last good one.
    pub holes: Vec<Hole>,
    pub gaps: Vec<Gap>,
    /// Tips of known forks.
    branches: Vec<(u32, Digest32)>,
}

/// A bad event that may stand in the place of a good one.
#[derive(Debug)]
pub(super) struct Hole {
    pub slot: Slot,
    pub events: u32,
    /// It was found to be one of ours.
    pub damaged: bool,
    /// It was taken for one of ours because it fitted the chain.
    pub guessed: bool,
}

/// Versions that were not there when a later one came.
#[derive(Debug)]
pub(super) struct Gap {
    pub from: u32,
    pub to: u32,
    pub slot: Slot,
    /// So many of them came later.
    pub late: u32,
}

/// What an event with a valid signature is to its aggregate.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The next one.
    Next,
    /// The next version, but it follows from another event than the one that stands before it.
    OtherPast,
    /// A later one: the versions `from..=to` are missing, and nothing seen explains it.
    Jump { from: u32, to: u32 },
    /// A later one; what is missing is a bad message that was reported.
    Explained,
    /// Fills a gap.
    Late { gap: usize },
    /// Stood here before.
    Again,
    /// Another event of that version stood here before.
    Second,
    /// Goes on from a fork that was reported.
    OnBranch,
}

impl Chain {
    /// Takes the event in and says what it is. The chain goes on from every step forward, so that one fault is found once.
    pub fn step(&mut self, event: &Good, sequence: u64) -> Step {
        let next = self.version.saturating_add(1);
        if event.version == next && event.previous == Some(self.hash) {
            self.advance(event, sequence);
            return Step::Next;
        }
        if self.continues_a_branch(event) {
            return Step::OnBranch;
        }
        if event.version > next {
            let missing = event.version - next;
            let holes = self.trouble.as_mut().map(|t| std::mem::take(&mut t.holes)).unwrap_or_default();
            let covered = holes.iter().fold(0u32, |sum, hole| sum.saturating_add(hole.events));
            self.advance(event, sequence);
            if missing <= covered {
                return Step::Explained;
            }
            return Step::Jump { from: next.saturating_add(covered), to: event.version - 1 };
        }
        if event.version == next {
            self.advance(event, sequence);
            return Step::OtherPast;
        }
        self.step_back(event)
    }

    fn step_back(&mut self, event: &Good) -> Step {
        match self.seen(event.version) {
            Some(mark) if mark == fingerprint(&event.hash) => Step::Again,
            Some(_) => {
                let branches = &mut self.trouble_mut().branches;
                if branches.len() < MOST_TROUBLE {
                    branches.push((event.version, event.hash));
                }
                Step::Second
            }
            None => {
                let open = |gap: &Gap| (gap.from..=gap.to).contains(&event.version);
                let Some(gap) = self.trouble.as_ref().and_then(|t| t.gaps.iter().position(open)) else {
                    return Step::Again;
                };
                self.mark(event);
                Step::Late { gap }
            }
        }
    }

    /// The aggregate's trouble, to add to.
    pub fn trouble_mut(&mut self) -> &mut Trouble {
        self.trouble.get_or_insert_default()
    }

    /// Remembers a gap, so that what comes late is recognised.
    pub fn remember(&mut self, gap: Gap) {
        let gaps = &mut self.trouble_mut().gaps;
        if gaps.len() < MOST_TROUBLE {
            gaps.push(gap);
        }
    }

    fn advance(&mut self, event: &Good, sequence: u64) {
        // What was skipped must not look as if it had been seen: its places hold the marks of older versions.
        for version in (self.version.saturating_add(1)..event.version).take(WINDOW) {
            self.set_mark(version, 0);
        }
        self.mark(event);
        (self.hash, self.id, self.version, self.sequence) = (event.hash, event.id, event.version, sequence);
    }

    fn mark(&mut self, event: &Good) {
        self.set_mark(event.version, fingerprint(&event.hash));
    }

    fn set_mark(&mut self, version: u32, mark: u64) {
        let place = (version as usize).wrapping_sub(1) % WINDOW;
        if self.recent.len() <= place {
            self.recent.resize(place + 1, 0);
        }
        self.recent[place] = mark;
    }

    // `None` for versions that were skipped or lie too far back.
    fn seen(&self, version: u32) -> Option<u64> {
        let (back, place) = ((self.version - version) as usize, (version as usize).wrapping_sub(1) % WINDOW);
        self.recent.get(place).copied().filter(|mark| *mark != 0 && back < WINDOW)
    }

    fn continues_a_branch(&mut self, event: &Good) -> bool {
        let Some(previous) = event.previous.filter(|p| *p != START) else { return false };
        let Some(trouble) = self.trouble.as_mut() else { return false };
        let tip = trouble.branches.iter_mut().find(|tip| **tip == (event.version.wrapping_sub(1), previous));
        tip.map(|tip| *tip = (event.version, event.hash)).is_some()
    }
}

fn fingerprint(hash: &Digest32) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *hash;
    u64::from_le_bytes([a, b, c, d, e, f, g, h]).max(1)
}
