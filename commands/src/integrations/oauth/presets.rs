//! Providers whose addresses are known: who registers a client at one of them names nothing but the client.

use symbia_events::integrations::{OauthClientAuth, OauthEndpoints};

/// A provider that is known.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "named as in OauthEndpoints")]
pub struct Preset {
    pub provider: &'static str,
    pub name: &'static str,
    pub authorization_url: &'static str,
    pub token_url: &'static str,
    pub userinfo_url: Option<&'static str>,
    pub revoke_url: Option<&'static str>,
    pub client_auth: OauthClientAuth,
    pub scopes: &'static [&'static str],
    pub hosts: &'static [&'static str],
}

/// All of them.
pub const PRESETS: &[Preset] = &[
    Preset {
        provider: "github",
        name: "GitHub",
        authorization_url: "https://github.com/login/oauth/authorize",
        token_url: "https://github.com/login/oauth/access_token",
        userinfo_url: Some("https://api.github.com/user"),
        revoke_url: None,
        client_auth: OauthClientAuth::Post,
        scopes: &["read:user", "user:email"],
        hosts: &["api.github.com"],
    },
    Preset {
        provider: "google",
        name: "Google",
        // Without these two no refresh token is given.
        authorization_url: "https://accounts.google.com/o/oauth2/v2/auth?access_type=offline&prompt=consent",
        token_url: "https://oauth2.googleapis.com/token",
        userinfo_url: Some("https://openidconnect.googleapis.com/v1/userinfo"),
        revoke_url: Some("https://oauth2.googleapis.com/revoke"),
        client_auth: OauthClientAuth::Post,
        scopes: &["openid", "email", "profile"],
        hosts: &["*.googleapis.com"],
    },
    Preset {
        provider: "microsoft",
        name: "Microsoft",
        authorization_url: "https://login.microsoftonline.com/common/oauth2/v2.0/authorize",
        token_url: "https://login.microsoftonline.com/common/oauth2/v2.0/token",
        userinfo_url: Some("https://graph.microsoft.com/oidc/userinfo"),
        revoke_url: None,
        client_auth: OauthClientAuth::Post,
        scopes: &["openid", "email", "profile", "offline_access"],
        hosts: &["graph.microsoft.com"],
    },
    Preset {
        provider: "slack",
        name: "Slack",
        authorization_url: "https://slack.com/oauth/v2/authorize",
        token_url: "https://slack.com/api/oauth.v2.access",
        userinfo_url: None,
        revoke_url: None,
        client_auth: OauthClientAuth::Basic,
        scopes: &["chat:write"],
        hosts: &["slack.com"],
    },
    Preset {
        provider: "notion",
        name: "Notion",
        authorization_url: "https://api.notion.com/v1/oauth/authorize?owner=user",
        token_url: "https://api.notion.com/v1/oauth/token",
        userinfo_url: None,
        revoke_url: None,
        client_auth: OauthClientAuth::Basic,
        scopes: &[],
        hosts: &["api.notion.com"],
    },
    Preset {
        provider: "linear",
        name: "Linear",
        authorization_url: "https://linear.app/oauth/authorize",
        token_url: "https://api.linear.app/oauth/token",
        userinfo_url: None,
        revoke_url: Some("https://api.linear.app/oauth/revoke"),
        client_auth: OauthClientAuth::Post,
        scopes: &["read"],
        hosts: &["api.linear.app"],
    },
    Preset {
        provider: "atlassian",
        name: "Atlassian",
        authorization_url: "https://auth.atlassian.com/authorize?audience=api.atlassian.com&prompt=consent",
        token_url: "https://auth.atlassian.com/oauth/token",
        userinfo_url: Some("https://api.atlassian.com/me"),
        revoke_url: None,
        client_auth: OauthClientAuth::Post,
        scopes: &["read:me", "offline_access"],
        hosts: &["api.atlassian.com"],
    },
    Preset {
        provider: "replit",
        name: "Replit",
        authorization_url: "https://replit.com/oauth2/authorize",
        token_url: "https://replit.com/oauth2/token",
        userinfo_url: Some("https://replit.com/api/v1/users/current"),
        revoke_url: Some("https://replit.com/oauth2/revoke"),
        client_auth: OauthClientAuth::Post,
        scopes: &["identity"],
        hosts: &["replit.com"],
    },
];

/// One of them.
#[must_use]
pub fn preset(provider: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.provider == provider)
}

impl Preset {
    /// Where it is asked.
    #[must_use]
    pub fn endpoints(&self) -> OauthEndpoints {
        let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
        OauthEndpoints {
            authorization_url: self.authorization_url.to_owned(),
            token_url: self.token_url.to_owned(),
            userinfo_url: self.userinfo_url.map(str::to_owned),
            revoke_url: self.revoke_url.map(str::to_owned),
            client_auth: self.client_auth,
            default_scopes: texts(self.scopes),
            scope_delimiter: " ".to_owned(),
            hosts: texts(self.hosts),
        }
    }
}
