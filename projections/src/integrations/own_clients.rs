//! Clients at providers of accounts that an installation brings along, for its organizations that have registered none of theirs.
//! They are configuration: in no log and no table, secrets least of all.

use std::{collections::BTreeMap, fmt};

use sqlx::types::Json;
use symbia_events::integrations::OauthEndpoints;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::OauthClient;

/// The version of a client that nobody registered: registrations count from 1.
const UNREGISTERED: i64 = 0;

/// Clients by provider.
#[derive(Clone, Default)]
pub struct OwnClients(BTreeMap<String, OwnClient>);

/// A client at a provider.
#[derive(Clone)]
pub struct OwnClient {
    /// The provider's name, for people.
    pub display_name: String,
    /// Where the provider is asked.
    pub endpoints: OauthEndpoints,
    /// As the provider knows it.
    pub client_id: String,
    /// What proves that.
    pub secret: Zeroizing<String>,
}

impl fmt::Debug for OwnClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl OwnClients {
    /// These and one more.
    #[must_use]
    pub fn with(mut self, provider: &str, client: OwnClient) -> Self {
        self.0.insert(provider.to_owned(), client);
        self
    }

    /// The client at a provider, as an organization uses it. Who comes back is sent to the user interface: nobody has allowed
    /// another address.
    #[must_use]
    pub fn client(&self, org: &str, provider: &str) -> Option<OauthClient> {
        let own = self.0.get(provider)?;
        Some(OauthClient {
            org_id: org.to_owned(),
            id: provider.to_owned(),
            display_name: own.display_name.clone(),
            description: None,
            icon_url: None,
            endpoints: Json(own.endpoints.clone()),
            client_id: own.client_id.clone(),
            secret_ref: None,
            redirect_uris: Json(Vec::new()),
            enabled: true,
            version: UNREGISTERED,
            updated_at: OffsetDateTime::UNIX_EPOCH,
        })
    }

    /// All of them, as an organization uses them.
    pub fn all<'a>(&'a self, org: &'a str) -> impl Iterator<Item = OauthClient> + 'a {
        self.0.keys().filter_map(move |provider| self.client(org, provider))
    }

    /// The secret of a client, if it is one of these.
    #[must_use]
    pub fn secret(&self, client: &OauthClient) -> Option<Zeroizing<String>> {
        let own = self.0.get(&client.id)?;
        (client.version == UNREGISTERED && client.client_id == own.client_id).then(|| own.secret.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_goes_with_its_own_client_only() {
        let github = OwnClient {
            display_name: "GitHub".to_owned(),
            endpoints: OauthEndpoints::default(),
            client_id: "ours".to_owned(),
            secret: Zeroizing::new("hidden".to_owned()),
        };
        let own = OwnClients::default().with("github", github);
        let client = own.client("acme", "github").unwrap_or_else(|| unreachable!("it is there"));
        assert_eq!((client.org_id.as_str(), own.all("acme").count()), ("acme", 1));
        assert!(own.secret(&client).is_some_and(|secret| secret.as_str() == "hidden"));
        let registered = OauthClient { version: 1, ..client.clone() };
        assert!(own.secret(&registered).is_none(), "an organization's client without a secret gets no other's");
        assert!(own.secret(&OauthClient { client_id: "theirs".to_owned(), ..client }).is_none());
        assert!(own.client("acme", "google").is_none() && !format!("{own:?}").contains("hidden"));
    }
}
