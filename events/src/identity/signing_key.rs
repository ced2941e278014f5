//! Events of the keys that access tokens are signed with (identity.md §16.1).

use serde::{Deserialize, Serialize};

use crate::domain_events;

/// The public part of an Ed25519 key (RFC 8037).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublicJwk {
    /// `OKP`.
    pub kty: String,
    /// `Ed25519`.
    pub crv: String,
    /// The public key, base64url.
    pub x: String,
}

domain_events! {
    /// What can have happened to the signing keys. They are one aggregate, so that at most one of them signs.
    SigningKeyEvent: Identity / "signing-key" {
        /// Tokens are signed with it from now on.
        SigningKeyActivated = "symbia.identity.signing-key.signing-key-activated.v1" {
            kid: String,
            alg: String,
            public_jwk: PublicJwk,
            /// Where the secret store keeps the private part.
            private_key_ref: String,
            /// RFC 3339.
            not_before: String,
        }
        /// It signs no more.
        SigningKeyRetired = "symbia.identity.signing-key.signing-key-retired.v1" {
            kid: String,
            /// RFC 3339.
            retired_at: String,
            /// Until when what it signed is still accepted (RFC 3339).
            verify_until: String,
        }
    }
}
