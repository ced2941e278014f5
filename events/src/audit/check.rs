//! The first half of an audit, message by message and without memory: which events verify, and what the others look like.

use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Message, attest::digest, merkle::Digest32};
use crate::{DecodeError, Event, GENESIS, KeyRing, Service, SignatureError, verify};

/// Stands for the hash before an aggregate's first event.
pub(super) const START: Digest32 = [0; 32];

/// One event of a message.
#[derive(Debug)]
pub(super) enum Item {
    /// Its signature verifies.
    Good(Good),
    /// It does not.
    Bad(Box<Bad>),
}

#[derive(Debug)]
pub(super) struct Good {
    pub id: Uuid,
    pub version: u32,
    /// [`START`] for `genesis`; `None` when it is no hash at all.
    pub previous: Option<Digest32>,
    pub hash: Digest32,
    /// The subject it belongs under, when it stands under another.
    pub elsewhere: Option<String>,
}

#[derive(Debug)]
pub(super) struct Bad {
    pub suspicion: Suspicion,
    pub reason: String,
    /// What it says of itself, when it can be read at all.
    pub says: Option<Says>,
    /// The whole message could not be read: nobody knows how many events were in it.
    pub uncounted: bool,
    /// Hash of its bytes, its leaf in the running hash.
    pub hash: Digest32,
    /// The event as it stands.
    pub bytes: Vec<u8>,
}

/// What an event without a valid signature says of itself.
#[derive(Debug)]
pub(super) struct Says {
    pub id: Uuid,
    pub version: u32,
    pub previous: String,
    /// It names the address it is stored under.
    pub at_home: bool,
}

/// What a bad event probably is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// One of ours, damaged.
    Flip,
    /// None of ours.
    Foreign,
    /// Its place in the chain must tell.
    Unclear,
}

/// Hashes of the events of a message in order: the leaves of a seal's tree. What does not verify is hashed as it stands.
#[must_use]
pub fn leaves(keys: &KeyRing, message: &Message<'_>) -> Vec<Digest32> {
    check(keys, message).iter().map(Item::hash).collect()
}

impl Item {
    pub fn hash(&self) -> Digest32 {
        match self {
            Item::Good(good) => good.hash,
            Item::Bad(bad) => bad.hash,
        }
    }
}

/// Checks every event of a message.
pub(super) fn check(keys: &KeyRing, message: &Message<'_>) -> Vec<Item> {
    if message.payload.first() != Some(&b'[') {
        let mut item = one(keys, message, message.payload);
        if let Item::Bad(bad) = &mut item {
            // A batch whose first byte was changed looks like this.
            bad.uncounted = message.payload.first() != Some(&b'{');
        }
        return vec![item];
    }
    match serde_json::from_slice::<Vec<&RawValue>>(message.payload) {
        Ok(events) if !events.is_empty() => {
            events.into_iter().map(|event| one(keys, message, event.get().as_bytes())).collect()
        }
        Ok(_) => vec![unreadable(message.payload, "an empty batch".to_owned())],
        Err(error) => vec![unreadable(message.payload, format!("the batch cannot be read: {error}"))],
    }
}

fn one(keys: &KeyRing, message: &Message<'_>, bytes: &[u8]) -> Item {
    let error = match verify(keys, bytes) {
        Ok(signed) => {
            let event = &signed.event;
            let elsewhere = (!is_at_home(event, message)).then(|| subject_of(event));
            // `signed.hash` is always a digest: it was encoded from one.
            let (hash, previous) = (digest(&signed.hash).unwrap_or(START), previous(&event.prevhash));
            return Item::Good(Good { id: event.id, version: event.aggregateversion, previous, hash, elsewhere });
        }
        Err(error) => error,
    };
    let Ok(event) = serde_json::from_slice::<Event>(bytes) else {
        return unreadable(bytes, error.to_string());
    };
    let suspicion = match &error {
        DecodeError::Signature(SignatureError::RetiredKey(_)) => Suspicion::Foreign,
        DecodeError::Signature(SignatureError::UnknownKey(_)) | DecodeError::ForeignKey { .. } => {
            if only_its_signer_was_changed(keys, &event, message.service) {
                Suspicion::Flip
            } else {
                Suspicion::Foreign
            }
        }
        _ => Suspicion::Unclear,
    };
    let at_home = is_at_home(&event, message);
    let says = Says { id: event.id, version: event.aggregateversion, previous: event.prevhash, at_home };
    Item::Bad(Box::new(Bad {
        suspicion,
        reason: error.to_string(),
        says: Some(says),
        uncounted: false,
        hash: Sha256::digest(bytes).into(),
        bytes: bytes.to_vec(),
    }))
}

fn unreadable(bytes: &[u8], reason: String) -> Item {
    let suspicion = if looks_like_ours(bytes) { Suspicion::Flip } else { Suspicion::Foreign };
    Item::Bad(Box::new(Bad {
        suspicion,
        reason,
        says: None,
        uncounted: bytes.first() != Some(&b'{'),
        hash: Sha256::digest(bytes).into(),
        bytes: bytes.to_vec(),
    }))
}

fn previous(text: &str) -> Option<Digest32> {
    if text == GENESIS { Some(START) } else { digest(text) }
}

/// The subject an event belongs under, by its own attributes.
fn subject_of(event: &Event) -> String {
    let service = event.source.strip_prefix("symbia/").unwrap_or(&event.source);
    format!("symbia.evt.{service}.{}.{}.{}", event.orgid, event.aggregatetype, event.aggregateid)
}

fn is_at_home(event: &Event, message: &Message<'_>) -> bool {
    let mut tokens = message.subject.split('.');
    let named = ["symbia", "evt", message.service.name(), event.orgid.as_str()];
    event.service() == Some(message.service)
        && named.iter().all(|name| tokens.next() == Some(name))
        && tokens.next() == Some(&event.aggregatetype)
        && tokens.next() == Some(&event.aggregateid)
        && tokens.next().is_none()
}

/// Whether the event verifies once its key id and source are set right: then nothing else of it was changed.
fn only_its_signer_was_changed(keys: &KeyRing, event: &Event, service: Service) -> bool {
    let mut event = event.clone();
    let signature = std::mem::take(&mut event.hmac);
    let given = [event.source.clone(), format!("symbia/{service}")];
    keys.list().any(|key| {
        event.hmackid = format!("{}.{service}", key.kid);
        given.iter().any(|source| {
            event.source.clone_from(source);
            serde_json::to_vec(&event).is_ok_and(|bytes| keys.verify(&event.hmackid, &bytes, &signature).is_ok())
        })
    })
}

/// Whether bytes that are no event carry the marks of one: a damage of a few bytes spares most of them.
fn looks_like_ours(bytes: &[u8]) -> bool {
    const MARKS: [&[u8]; 6] = [
        b"\"actorid\":\"",
        b"\"aggregateversion\":",
        b"\"hmackid\":\"",
        b"\"prevhash\":\"",
        b"\"source\":\"symbia/",
        b"\"specversion\":\"1.0\"",
    ];
    MARKS.iter().filter(|mark| bytes.windows(mark.len()).any(|window| window == **mark)).count() >= 4
}

/// Whether changing one byte back makes the event verify: tried for every byte and value, so it costs some 0.2 s.
pub(super) fn one_byte_was_changed(keys: &KeyRing, bytes: &[u8]) -> bool {
    const LARGEST: usize = 4096;
    let Ok(event) = serde_json::from_slice::<Event>(bytes) else { return false };
    let member = format!(",\"hmac\":\"{}\"", event.hmac);
    let Some(at) = bytes.windows(member.len()).rposition(|window| window == member.as_bytes()) else { return false };
    let mut unsigned = [&bytes[..at], &bytes[at + member.len()..]].concat();
    let (_, signature) =
        event.hmackid.split_once('.').map_or_else(Default::default, |(_, role)| keys.sign(role, &unsigned));
    let wrong = signature.bytes().zip(event.hmac.bytes()).filter(|(a, b)| a != b).count();
    if signature.len() == event.hmac.len() && wrong <= 1 {
        return true;
    }
    if unsigned.len() > LARGEST {
        return false;
    }
    (0..unsigned.len()).any(|place| {
        let original = unsigned[place];
        let found = (0x20..0x7f).any(|value| {
            unsigned[place] = value;
            value != original && keys.verify(&event.hmackid, &unsigned, &event.hmac).is_ok()
        });
        unsigned[place] = original;
        found
    })
}
