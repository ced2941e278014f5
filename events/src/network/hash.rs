//! The hash of an event on the mesh: HMAC-SHA-256 over RFC 8785 canonical JSON of what it says (network.md §8.5); and the
//! original's, for clients that compare it.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Boundary;
use crate::{KeyRing, SignatureError, canonical, keys::role};

/// What the hash of an event covers; absent values are `null`. The path is not in it: it grows.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "members are named as in the service's specification")]
pub struct HashedEvent<'e> {
    pub v: u8,
    pub id: &'e str,
    #[serde(rename = "type")]
    pub event_type: &'e str,
    pub data: &'e Value,
    pub source: &'e str,
    pub target: Option<&'e str>,
    pub run_id: &'e str,
    pub timestamp: &'e str,
    pub boundary: Boundary,
    pub caused_by: Option<&'e str>,
    pub source_entity_id: Option<&'e str>,
    pub target_entity_id: Option<&'e str>,
    pub org_id: Option<&'e str>,
}

impl HashedEvent<'_> {
    /// The bytes that are hashed.
    ///
    /// # Errors
    /// The data is no JSON that can be written.
    pub fn bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        canonical::to_vec(self)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn mac(key: &[u8], bytes: &[u8]) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(bytes);
    Some(mac)
}

/// HMAC-SHA-256 in 64 hexadecimal digits.
#[must_use]
pub fn event_hash(key: &[u8], bytes: &[u8]) -> String {
    mac(key, bytes).map(|mac| hex(&mac.finalize().into_bytes())).unwrap_or_default()
}

/// Whether a hash is that of the bytes, in constant time.
#[must_use]
pub fn is_event_hash(key: &[u8], bytes: &[u8], hash: &str) -> bool {
    let digit = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let given: Option<Vec<u8>> = hash.as_bytes().chunks(2).map(digit).collect();
    let (Some(given), Some(mac)) = (given.filter(|_| hash.len() == 64), mac(key, bytes)) else { return false };
    mac.verify_slice(&given).is_ok()
}

/// The service's hash of an event, with the id of the key.
#[must_use]
pub fn service_hash(keys: &KeyRing, bytes: &[u8]) -> (String, String) {
    let (id, signature) = keys.sign(role::MESH, bytes);
    (id, hex(&BASE64URL.decode(signature).unwrap_or_default()))
}

/// Checks the service's hash of an event.
///
/// # Errors
/// The key is not known, or the event was changed.
pub fn verify_service_hash(keys: &KeyRing, key_id: &str, bytes: &[u8], hash: &str) -> Result<(), SignatureError> {
    let digit = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let given: Option<Vec<u8>> = hash.as_bytes().chunks(2).map(digit).collect();
    keys.verify(key_id, bytes, &BASE64URL.encode(given.ok_or(SignatureError::Mismatch)?))
}

/// The key that a node's owner signs its events with; its bytes are those of the text. A new owner of the id gets another.
#[must_use]
pub fn node_key(keys: &KeyRing, org: &str, node: &str, owner: &str) -> String {
    keys.lookup_hash("mesh-node", &format!("{org}\0{node}\0{owner}"))
}

/// The key that signs what is delivered to a node or a bridge, which its owner can get too.
#[must_use]
pub fn target_key(keys: &KeyRing, org: &str, node: &str) -> String {
    keys.lookup_hash("mesh-target", &format!("{org}\0{node}"))
}

/// The original's hash: SHA-256 of its JSON text followed by the secret. It is forgeable by extension and covers neither
/// time nor id: only for clients that compare it. `target`: `None` when there is none, `Some(null)` when it was sent as null.
#[must_use]
pub fn legacy_hash(
    secret: &str,
    (event_type, data): (&str, &str),
    source: &str,
    run_id: &str,
    boundary: Boundary,
    target: Option<&Value>,
) -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    let mut json = format!(
        r#"{{"type":{},"data":{},"source":{},"runId":{},"boundary":"{}""#,
        quoted(event_type),
        compact(data),
        quoted(source),
        quoted(run_id),
        boundary.name()
    );
    if let Some(target) = target {
        json.push_str(&format!(r#","target":{target}"#));
    }
    json.push('}');
    hex(&Sha256::digest(format!("{json}{secret}")))
}

// JSON without blanks between its parts, members in the order they came.
fn compact(json: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let kept = |c: &char| {
        let blank = !quoted && c.is_ascii_whitespace();
        (quoted, escaped) = match c {
            _ if escaped => (quoted, false),
            '\\' if quoted => (true, true),
            '"' => (!quoted, false),
            _ => (quoted, false),
        };
        !blank
    };
    json.chars().filter(kept).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const SECRET: &str = "symbia-network-dev-only";

    fn event<'e>(data: &'e Value, timestamp: &'e str) -> Vec<u8> {
        HashedEvent {
            v: 1,
            id: "11111111-1111-4111-8111-111111111111",
            event_type: "message.new",
            data,
            source: "messaging",
            target: Some("assistants"),
            run_id: "run_1",
            timestamp,
            boundary: Boundary::Intra,
            caused_by: None,
            source_entity_id: None,
            target_entity_id: None,
            org_id: None,
        }
        .bytes()
        .unwrap()
    }

    #[test]
    fn the_published_vector_holds_and_every_change_shows() {
        let (data, at) = (json!({ "n": 1, "conversationId": "c1" }), "2026-01-01T00:00:00.000Z");
        let hash = event_hash(SECRET.as_bytes(), &event(&data, at));
        assert_eq!(hash, "0fbcd6fad8c9e80b29736ae3fa98c65fde7b079fcae65763854cd10fdfae86b8");
        assert!(is_event_hash(SECRET.as_bytes(), &event(&data, at), &hash));
        for changed in [event(&json!({ "n": 2, "conversationId": "c1" }), at), event(&data, "2026-01-01T00:00:00.001Z")]
        {
            assert!(!is_event_hash(SECRET.as_bytes(), &changed, &hash));
        }
        assert!(!is_event_hash(SECRET.as_bytes(), &event(&data, at), &hash[..62]));
        let keys = KeyRing::generate(time::OffsetDateTime::UNIX_EPOCH);
        let (id, hash) = service_hash(&keys, b"x");
        assert_eq!((verify_service_hash(&keys, &id, b"x", &hash), hash.len()), (Ok(()), 64));
        assert_eq!(verify_service_hash(&keys, &id, b"y", &hash), Err(SignatureError::Mismatch));
    }

    #[test]
    fn the_originals_vectors_hold() {
        let of = |data: &str, target: Option<&Value>| {
            legacy_hash(SECRET, ("message.new", data), "messaging", "run_1", Boundary::Intra, target)
        };
        let data = r#"{"conversationId":"c1","n":1}"#;
        assert_eq!(of(data, None), "d53dd9abb7fa0a0c5f12dab7880eebfaa0a45a38dd4ed51d83634e65de704679");
        let target = json!("assistants");
        assert_eq!(of(data, Some(&target)), "0b95fd9b78049ea1bf57d254c732b82de35ce0ed25aaec00067146ec853ff35e");
        assert_eq!(of(r#"{ "conversationId" : "c1", "n": 1 }"#, None), of(data, None));
        assert_eq!(compact(r#"{ "a \" b": "c  \\" , "d": [ 1 ] }"#), r#"{"a \" b":"c  \\","d":[1]}"#);
    }
}
