//! One command, one commit, one message: how the events of a commit stand in a JetStream message (DESIGN §3).

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::{DecodeError, KeyRing, Signed, envelope::verify_own};

/// Content type of a message with one event.
pub const CONTENT_TYPE_ONE: &str = "application/cloudevents+json";
/// Content type of a message with several.
pub const CONTENT_TYPE_BATCH: &str = "application/cloudevents-batch+json";

/// Payload of the message that holds these events, and its content type.
#[must_use]
pub fn encode(events: &[Signed]) -> (Bytes, &'static str) {
    if let [one] = events {
        return (one.bytes.clone(), CONTENT_TYPE_ONE);
    }
    let mut payload = Vec::with_capacity(events.iter().map(|e| e.bytes.len() + 1).sum::<usize>() + 1);
    payload.push(b'[');
    for (index, event) in events.iter().enumerate() {
        if index > 0 {
            payload.push(b',');
        }
        payload.extend_from_slice(&event.bytes);
    }
    payload.push(b']');
    (payload.into(), CONTENT_TYPE_BATCH)
}

/// The events of a message, each verified. All or nothing: one bad event fails the message.
pub fn decode(keys: &KeyRing, payload: &[u8]) -> Result<Vec<Signed>, DecodeError> {
    keys.recent().events(payload, |payload| verified(keys, payload))
}

/// Remembers what this process has signed: its other parts will come upon it in the log.
pub fn remember(keys: &KeyRing, payload: &Bytes, events: &[Signed]) {
    keys.recent().keep(payload, events);
}

fn verified(keys: &KeyRing, payload: &Bytes) -> Result<Vec<Signed>, DecodeError> {
    if payload.first() != Some(&b'[') {
        return Ok(vec![verify_own(keys, payload.clone())?]);
    }
    let events: Vec<&RawValue> = serde_json::from_slice(payload).map_err(|e| DecodeError::Envelope(e.to_string()))?;
    if events.is_empty() {
        return Err(DecodeError::Envelope("an empty batch".to_owned()));
    }
    events.into_iter().map(|event| verify_own(keys, payload.slice_ref(event.get().as_bytes()))).collect()
}
