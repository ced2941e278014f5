//! RFC 8785 canonical JSON: the form in which events are signed, hashed and written.

use serde::Serialize;

/// Canonical JSON of a value. Fails when the value cannot be JSON (a map key that is no string, a non-finite number).
pub fn to_vec(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    serde_json_canonicalizer::to_vec(value)
}

/// Canonical JSON of a value as raw text that can be embedded without parsing it again.
pub fn to_raw(value: &impl Serialize) -> Result<Box<serde_json::value::RawValue>, serde_json::Error> {
    serde_json::value::RawValue::from_string(serde_json_canonicalizer::to_string(value)?)
}
