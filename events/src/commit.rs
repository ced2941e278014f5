//! One command, one commit, one message: how the events of a commit stand in a JetStream message (DESIGN §3).

use serde_json::value::RawValue;

use crate::{DecodeError, KeyRing, Signed, verify};

/// Content type of a message with one event.
pub const CONTENT_TYPE_ONE: &str = "application/cloudevents+json";
/// Content type of a message with several.
pub const CONTENT_TYPE_BATCH: &str = "application/cloudevents-batch+json";

/// Payload of the message that holds these events, and its content type.
#[must_use]
pub fn encode(events: &[Signed]) -> (Vec<u8>, &'static str) {
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
    (payload, CONTENT_TYPE_BATCH)
}

/// The events of a message, each verified. All or nothing: one bad event fails the message.
pub fn decode(keys: &KeyRing, payload: &[u8]) -> Result<Vec<Signed>, DecodeError> {
    if payload.first() != Some(&b'[') {
        return Ok(vec![verify(keys, payload)?]);
    }
    let events: Vec<&RawValue> = serde_json::from_slice(payload).map_err(|e| DecodeError::Envelope(e.to_string()))?;
    if events.is_empty() {
        return Err(DecodeError::Envelope("an empty batch".to_owned()));
    }
    events.into_iter().map(|event| verify(keys, event.get().as_bytes())).collect()
}
