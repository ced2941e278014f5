//! A log to audit: many aggregates of several services, single and batch commits, and ways to tamper with it.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::{BTreeMap, HashMap};

use symbia_events::{
    ActorType, AggregateRef, AuthMethod, CommandId, Context, GENESIS, KeyRing, OrgId, Service, Signed,
    audit::{Message, Report, Verifier},
    commit,
    identity::{MemberRemoved, OrganizationEvent, OrganizationRenamed},
    sign_commit,
};
use time::{Duration, OffsetDateTime, macros::datetime};
use uuid::Uuid;

pub const AT: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);
pub const SERVICES: [Service; 4] = [Service::Identity, Service::Messaging, Service::Catalog, Service::Network];

/// Seeded random numbers (SplitMix64), the same on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

#[derive(Clone)]
pub struct Entry {
    /// Names the message through all tampering.
    pub uid: u64,
    pub aggregate: AggregateRef,
    pub subject: String,
    pub payload: Vec<u8>,
    pub versions: std::ops::RangeInclusive<u32>,
    pub prevhash: String,
    /// Taken away, its sequence left free.
    pub gone: bool,
}

#[derive(Clone)]
pub struct Log {
    pub entries: Vec<Entry>,
    pub tips: HashMap<String, (u32, String)>,
    next: u64,
}

pub fn context(seed: u64) -> Context {
    let id = Uuid::from_u64_pair(0x0190_0000_0000_7000 + (seed >> 16), 0x8000_0000_0000_0000 | seed);
    Context {
        actor_id: "user-1".into(),
        actor_type: ActorType::User,
        on_behalf_of: None,
        auth_method: AuthMethod::Jwt,
        command_id: CommandId(id),
        correlation_id: id.to_string(),
        causation_id: id.to_string(),
        traceparent: None,
        data_class: None,
        env: None,
        policy_ref: None,
        at: AT + Duration::seconds(i64::try_from(seed).unwrap()),
    }
}

pub fn renamed(random: &mut Random) -> OrganizationEvent {
    if random.below(2) == 0 {
        let name = format!("Äther \"{}\"", random.below(1000));
        return OrganizationRenamed { org_id: "o1".into(), name }.into();
    }
    MemberRemoved {
        org_id: "o1".into(),
        membership_id: format!("m{}", random.below(1000)),
        user_id: "u1".into(),
        by: "u2".into(),
        reason: "left, \\ and \u{1}: \"hmac\":\"x\",\"hmackid\":".into(),
    }
    .into()
}

impl Log {
    pub fn new(keys: &KeyRing, events: usize, aggregates: usize, random: &mut Random) -> Log {
        let mut log = Log { entries: Vec::new(), tips: HashMap::new(), next: 0 };
        let mut written = 0;
        while written < events {
            let number = random.below(aggregates);
            let tenant: OrgId = format!("t{}", number % 5).parse().unwrap();
            let aggregate =
                AggregateRef::new(SERVICES[number % 4], tenant, "organization", format!("a{number}")).unwrap();
            let size = if random.below(10) < 7 { 1 } else { 2 + random.below(3) };
            log.commit(keys, &aggregate, size, random);
            written += size;
        }
        log
    }

    pub fn commit(&mut self, keys: &KeyRing, aggregate: &AggregateRef, size: usize, random: &mut Random) {
        let subject = aggregate.event_subject();
        let (version, prevhash) = self.tips.get(&subject).cloned().unwrap_or((0, GENESIS.to_owned()));
        let entry = self.signed(keys, aggregate, version, &prevhash, size, random);
        let events = commit::decode(keys, &entry.payload).unwrap();
        self.tips.insert(subject, (*entry.versions.end(), events.last().unwrap().hash.clone()));
        self.entries.push(entry);
    }

    /// A commit that is not in the log yet.
    pub fn signed(
        &mut self,
        keys: &KeyRing,
        aggregate: &AggregateRef,
        version: u32,
        prevhash: &str,
        size: usize,
        random: &mut Random,
    ) -> Entry {
        self.next += 1;
        let events: Vec<_> = (0..size).map(|_| renamed(random)).collect();
        let signed = sign_commit(keys, aggregate, &context(self.next), version, prevhash, &events).unwrap();
        Entry {
            uid: self.next,
            aggregate: aggregate.clone(),
            subject: aggregate.event_subject(),
            payload: commit::encode(&signed).0.into(),
            versions: version + 1..=version + u32::try_from(size).unwrap(),
            prevhash: prevhash.to_owned(),
            gone: false,
        }
    }

    pub fn copy_of(&mut self, index: usize) -> Entry {
        self.next += 1;
        Entry { uid: self.next, ..self.entries[index].clone() }
    }

    /// Sequences as a broker would give them: contiguous per service, with holes where messages were taken out.
    pub fn sequences(&self) -> Vec<u64> {
        let mut last: BTreeMap<Service, u64> = BTreeMap::new();
        let mut next = |service| {
            let last = last.entry(service).or_default();
            *last += 1;
            *last
        };
        self.entries.iter().map(|e| next(e.aggregate.service)).collect()
    }

    pub fn sequence_of(&self, uid: u64) -> Option<(Service, u64)> {
        let at = self.entries.iter().position(|e| e.uid == uid)?;
        Some((self.entries[at].aggregate.service, self.sequences()[at]))
    }

    pub fn feed(&self, verifier: &mut Verifier<'_>) {
        let sequences = self.sequences();
        let messages: Vec<Message<'_>> = (self.entries.iter().zip(sequences))
            .filter(|(e, _)| !e.gone)
            .map(|(e, sequence)| Message {
                service: e.aggregate.service,
                sequence,
                subject: &e.subject,
                payload: &e.payload,
            })
            .collect();
        messages.chunks(777).for_each(|chunk| verifier.feed(chunk));
    }

    pub fn audit(&self, keys: &KeyRing) -> Report {
        let mut verifier = Verifier::new(keys).threads(2);
        self.feed(&mut verifier);
        verifier.finish()
    }

    /// Indices of the messages of one aggregate.
    pub fn of(&self, subject: &str) -> Vec<usize> {
        (0..self.entries.len()).filter(|i| self.entries[*i].subject == subject && !self.entries[*i].gone).collect()
    }
}

pub fn signed_events(keys: &KeyRing, log: &Log) -> Vec<Signed> {
    log.entries.iter().flat_map(|e| commit::decode(keys, &e.payload).unwrap()).collect()
}
