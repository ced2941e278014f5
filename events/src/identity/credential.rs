//! Events of a vault item (identity.md §16.9). The secret itself is in the vault; here are references and a masked hint.

use serde_json::{Map, Value};

use crate::{Personal, domain_events};

domain_events! {
    /// What can have happened to a credential.
    CredentialEvent: Identity / "credential" {
        /// It is kept.
        CredentialStored = "symbia.identity.credential.credential-stored.v1" {
            credential_id: String,
            owner_id: String,
            org_id: Option<String>,
            provider: String,
            name: String,
            /// Keyed hash of owner, provider and name.
            name_key: String,
            /// `api_key` or `oauth_token`.
            credential_type: String,
            is_org_wide: bool,
            secret_ref: String,
            refresh_ref: Option<String>,
            /// The last characters of a long secret.
            masked_hint: Option<String>,
            metadata: Map<String, Value>,
            /// RFC 3339.
            expires_at: Option<String>,
            /// Keyed hash of the account at the provider.
            account_key: Option<String>,
            oauth_user_id: Option<Personal>,
            oauth_user_email: Option<Personal>,
            oauth_user_name: Option<Personal>,
            by: String,
        }
        /// Name or metadata changed.
        CredentialUpdated = "symbia.identity.credential.credential-updated.v1" {
            credential_id: String,
            name: Option<String>,
            name_key: Option<String>,
            metadata: Option<Map<String, Value>>,
            by: String,
        }
        /// Another secret is kept in place of the one before.
        CredentialSecretReplaced = "symbia.identity.credential.credential-secret-replaced.v1" {
            credential_id: String,
            secret_ref: String,
            refresh_ref: Option<String>,
            masked_hint: Option<String>,
            /// RFC 3339.
            expires_at: Option<String>,
            /// Counts replacements, from 1.
            version: u32,
            by: String,
        }
        /// The members of an organization may use it.
        CredentialShared = "symbia.identity.credential.credential-shared.v1" {
            credential_id: String,
            org_id: String,
            by: String,
        }
        /// Only its owner may use it.
        CredentialUnshared = "symbia.identity.credential.credential-unshared.v1" {
            credential_id: String,
            org_id: String,
            by: String,
        }
        /// A service was given the secret, for a principal.
        CredentialReleased = "symbia.identity.credential.credential-released.v1" {
            credential_id: String,
            for_principal_id: String,
            service: String,
            purpose: Option<String>,
            /// It is another one's, shared with the organization.
            is_proxy: bool,
        }
        /// A service asked for the secret and was not given it.
        CredentialReleaseDenied = "symbia.identity.credential.credential-release-denied.v1" {
            credential_id: String,
            for_principal_id: String,
            service: String,
            purpose: Option<String>,
            reason: String,
        }
        /// It is gone.
        CredentialDeleted = "symbia.identity.credential.credential-deleted.v1" { credential_id: String, by: String }
        /// What a reference led to is to be destroyed.
        SecretDestroyed = "symbia.identity.credential.secret-destroyed.v1" {
            credential_id: String,
            secret_ref: String,
        }
    }
}
