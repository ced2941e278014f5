//! Events of linked accounts: where accounts can be linked, a person's way to a provider and back, and what came of it
//! (integrations.md §14, §25.4). State, code, verifier and tokens are in none of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Personal, domain_events};

/// How the platform proves to a token endpoint who it is (RFC 6749 §2.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OauthClientAuth {
    /// With its id and secret in the form.
    #[default]
    Post,
    /// With HTTP Basic.
    Basic,
}

/// Where a provider is asked, and what for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OauthEndpoints {
    /// Where people are sent.
    pub authorization_url: String,
    /// Where codes and refresh tokens are changed for tokens.
    pub token_url: String,
    /// Who an account belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userinfo_url: Option<String>,
    /// Where tokens are given back (RFC 7009).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoke_url: Option<String>,
    /// How it is asked for tokens.
    pub client_auth: OauthClientAuth,
    /// Scopes that are asked for where none are named.
    pub default_scopes: Vec<String>,
    /// What stands between two scopes.
    pub scope_delimiter: String,
    /// Hosts that its tokens may be sent to.
    pub hosts: Vec<String>,
}

domain_events! {
    /// What can have happened to an organization's registration at a provider of accounts.
    OauthClientEvent: Integrations / "oauth-client" {
        /// Accounts can be linked there.
        OauthProviderConfigSet = "symbia.integrations.oauth-client.oauth-provider-config-set.v1" {
            provider: String,
            display_name: String,
            description: Option<String>,
            icon_url: Option<String>,
            endpoints: OauthEndpoints,
            client_id: String,
            /// Where the secret of the client is kept; a public client has none.
            secret_ref: Option<String>,
            /// Where people may be sent when they are back.
            redirect_uris: Vec<String>,
            enabled: bool,
            /// Counts changes, from 1.
            version: u64,
            by: String,
        }
        /// Accounts can be linked there no longer.
        OauthProviderConfigRemoved = "symbia.integrations.oauth-client.oauth-provider-config-removed.v1" {
            provider: String,
            by: String,
        }
    }
}

domain_events! {
    /// What can have happened on a person's way to a provider and back.
    OauthFlowEvent: Integrations / "oauth-flow" {
        /// They were sent there.
        OauthStarted = "symbia.integrations.oauth-flow.oauth-started.v1" {
            /// SHA-256 of the state.
            state_hash: String,
            provider: String,
            user_id: String,
            /// Where they go when they are back; absent: nowhere else.
            redirect_uri: Option<String>,
            scopes: Vec<String>,
            /// Keyed hash of what their browser holds.
            browser_hash: String,
            /// What the asking program wants back.
            client_state: Option<Personal>,
            /// Of the registration that they were sent with.
            config_version: u64,
            /// RFC 3339.
            expires_at: String,
        }
        /// They came back with a code; nobody else does with the same state.
        OauthAnswered = "symbia.integrations.oauth-flow.oauth-answered.v1" {
            state_hash: String,
            provider: String,
            user_id: String,
            /// Where code and verifier wait to be used.
            code_ref: String,
            callback_uri: String,
            scopes: Vec<String>,
            config_version: u64,
        }
        /// The account is linked.
        OauthCompleted = "symbia.integrations.oauth-flow.oauth-completed.v1" {
            state_hash: String,
            connection_id: String,
        }
        /// Nothing came of it.
        OauthFailed = "symbia.integrations.oauth-flow.oauth-failed.v1" { state_hash: String, code: String }
    }
}

domain_events! {
    /// What can have happened to a linked account.
    OauthConnectionEvent: Integrations / "oauth-connection" {
        /// It is linked, or linked anew.
        OauthLinked = "symbia.integrations.oauth-connection.oauth-linked.v1" {
            connection_id: String,
            user_id: String,
            provider: String,
            /// Its tokens in the vault.
            credential_id: String,
            oauth_user_id: Option<Personal>,
            oauth_user_email: Option<Personal>,
            oauth_user_name: Option<Personal>,
            oauth_avatar_url: Option<Personal>,
            scopes: Vec<String>,
            /// RFC 3339.
            expires_at: Option<String>,
            /// There is a refresh token.
            refreshable: bool,
        }
        /// Its token is soon over.
        OauthRefreshRequested = "symbia.integrations.oauth-connection.oauth-refresh-requested.v1" {
            connection_id: String,
            user_id: String,
            provider: String,
            credential_id: String,
        }
        /// It has another token.
        OauthTokenRefreshed = "symbia.integrations.oauth-connection.oauth-token-refreshed.v1" {
            connection_id: String,
            /// RFC 3339.
            expires_at: Option<String>,
            refreshable: bool,
        }
        /// Its provider gives no other token: it is to be linked anew.
        OauthExpired = "symbia.integrations.oauth-connection.oauth-expired.v1" { connection_id: String, code: String }
        /// It is linked no longer.
        OauthRevoked = "symbia.integrations.oauth-connection.oauth-revoked.v1" {
            connection_id: String,
            user_id: String,
            provider: String,
            credential_id: String,
            by: String,
        }
    }
}
