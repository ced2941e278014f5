//! An organization's registration at a provider: which client people are sent with, and where they may be sent afterwards.

use serde::{Deserialize, Serialize};
use symbia_events::integrations::{
    OauthClientEvent, OauthEndpoints, OauthProviderConfigRemoved, OauthProviderConfigSet,
};
use time::OffsetDateTime;

use super::super::{
    builtin::is_reserved,
    registry::{check_url, configures},
};
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

domain_commands! {
    /// What can be done about a provider of accounts.
    OauthClientCommand: Integrations / "oauth-client" {
        /// Sets it, or sets it anew.
        SetOauthProviderConfig = "symbia.cmd.integrations.set-oauth-provider-config.v1" {
            provider: String,
            org_id: String,
            display_name: String,
            #[serde(default)]
            description: Option<String>,
            #[serde(default)]
            icon_url: Option<String>,
            endpoints: OauthEndpoints,
            client_id: String,
            /// `oauth-client:<orgId>:<provider>:<anything>`.
            #[serde(default)]
            secret_ref: Option<String>,
            #[serde(default)]
            redirect_uris: Vec<String>,
            enabled: bool,
        }
        /// Removes it.
        RemoveOauthProviderConfig = "symbia.cmd.integrations.remove-oauth-provider-config.v1" {
            provider: String,
            org_id: String,
        }
    }
}

/// A registration at a provider.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OauthClient {
    set: bool,
    token_url: String,
    secret_ref: Option<String>,
    version: u64,
}

/// What a client's secret is kept under begins with this.
#[must_use]
pub fn client_secret_prefix(org: &str, provider: &str) -> String {
    format!("oauth-client:{org}:{provider}:")
}

fn origin(url: &str) -> &str {
    let end = url.find("://").map_or(0, |at| at + 3);
    url[end..].find(['/', '?', '#']).map_or(url, |at| &url[..end + at])
}

impl OauthClient {
    fn set(&self, c: SetOauthProviderConfig, by: &Actor) -> Result<Decision<OauthClientEvent>, Rejection> {
        configures(by, &c.org_id)?;
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if c.provider.is_empty() || c.provider.len() > 64 || !c.provider.bytes().all(fits) {
            return Err(Rejection::invalid("provider: 1 to 64 of a-z, 0-9 and -"));
        }
        // A key for one of these would be taken for everything that its owner asks of it.
        if is_reserved(&c.provider) {
            let text = format!("'{}' is asked with keys of the vault: no accounts are linked there", c.provider);
            return Err(Rejection::new("KEY_TAKEN", text));
        }
        for (field, text, most) in [("displayName", &c.display_name, 100), ("clientId", &c.client_id, 500)] {
            if text.trim().is_empty() || text.chars().count() > most {
                return Err(Rejection::invalid(format!("{field}: 1 to {most} characters")));
            }
        }
        let of = &c.endpoints;
        for (field, url) in [("authorizationUrl", &of.authorization_url), ("tokenUrl", &of.token_url)] {
            check_url(field, Some(url))?;
        }
        for (field, url) in [("userinfoUrl", &of.userinfo_url), ("revokeUrl", &of.revoke_url), ("iconUrl", &c.icon_url)]
        {
            check_url(field, url.as_ref())?;
        }
        for url in &c.redirect_uris {
            check_url("redirectUris", Some(url))?;
            if url.contains('#') {
                return Err(Rejection::invalid("redirectUris: without a fragment"));
            }
        }
        let many = c.redirect_uris.len().max(of.default_scopes.len()).max(of.hosts.len());
        if many > 50 || of.scope_delimiter.is_empty() || of.scope_delimiter.len() > 3 {
            return Err(Rejection::invalid(
                "at most 50 redirectUris, scopes and hosts, and a scopeDelimiter of 1 to 3 characters",
            ));
        }
        let own = client_secret_prefix(&c.org_id, &c.provider);
        if c.secret_ref.as_ref().is_some_and(|reference| !reference.starts_with(&own)) {
            return Err(Rejection::invalid("secretRef: names the secret of another client"));
        }
        let kept = self.set && c.secret_ref.is_some() && c.secret_ref == self.secret_ref;
        if kept && origin(&of.token_url) != origin(&self.token_url) {
            let text = "the secret was given for another server: give it anew with the new tokenUrl";
            return Err(Rejection::new("SECRET_NEEDED", text));
        }
        Ok(Decision::one(OauthProviderConfigSet {
            provider: c.provider,
            display_name: c.display_name,
            description: c.description,
            icon_url: c.icon_url,
            endpoints: c.endpoints,
            client_id: c.client_id,
            secret_ref: c.secret_ref,
            redirect_uris: c.redirect_uris,
            enabled: c.enabled,
            version: self.version + 1,
            by: by.id.clone(),
        }))
    }
}

impl Aggregate for OauthClient {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("provider");
    type Command = OauthClientCommand;
    type Event = OauthClientEvent;

    fn apply(&mut self, event: &OauthClientEvent) {
        match event {
            OauthClientEvent::OauthProviderConfigSet(e) => {
                let (token_url, secret_ref) = (e.endpoints.token_url.clone(), e.secret_ref.clone());
                *self = OauthClient { set: true, token_url, secret_ref, version: e.version };
            }
            OauthClientEvent::OauthProviderConfigRemoved(_) => {
                *self = OauthClient { version: self.version, ..OauthClient::default() };
            }
        }
    }

    fn decide(
        &self,
        command: OauthClientCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<OauthClientEvent>, Rejection> {
        match command {
            OauthClientCommand::SetOauthProviderConfig(c) => self.set(c, by),
            OauthClientCommand::RemoveOauthProviderConfig(c) => {
                configures(by, &c.org_id)?;
                if !self.set {
                    return Err(Rejection::not_found("provider of accounts"));
                }
                Ok(Decision::one(OauthProviderConfigRemoved { provider: c.provider, by: by.id.clone() }))
            }
        }
    }
}
