//! Keys for calls of the registry. A key goes to the hosts that its owner named when they kept it, and nowhere else: whoever
//! registers an integration under a foreign key, or with a host of their own, gets nothing (integrations.md §17.4).

use async_trait::async_trait;
use reqwest::Url;
use serde_json::Value;
use symbia_egress::leads_to;
use symbia_events::integrations::ErrorCategory;
use symbia_projections::identity::Credential;

use super::super::{
    accounts::{Asker, Lease},
    books::Books,
    provider::Fault,
};

/// What a credential is released for.
const PURPOSE: &str = "integration call";

/// Whether a key is lent.
#[derive(Clone, Debug)]
pub enum Lending {
    /// It is.
    Lent(Lease),
    /// Nobody whose key it might be has one.
    Nobody,
    /// There is one, which does not belong to this host.
    Elsewhere {
        /// Its id.
        credential_id: String,
    },
}

/// Lends keys. An error means that nobody could be asked.
#[async_trait]
pub trait Vault: Send + Sync + 'static {
    /// The asker's own key for a provider, else one shared with the organization, if it belongs to where a URL leads. That it
    /// is lent is on record before it is.
    async fn lend(&self, asker: &Asker<'_>, provider: &str, url: &Url) -> anyhow::Result<Lending>;
}

#[async_trait]
impl Vault for Books {
    async fn lend(&self, asker: &Asker<'_>, provider: &str, url: &Url) -> anyhow::Result<Lending> {
        let Some(found) = self.credential(asker, provider).await? else { return Ok(Lending::Nobody) };
        if !leads_to(url, &hosts(&found)) {
            return Ok(Lending::Elsewhere { credential_id: found.id });
        }
        Ok(self.release(asker, found, PURPOSE).await?.map_or(Lending::Nobody, Lending::Lent))
    }
}

fn hosts(credential: &Credential) -> Vec<String> {
    let named = credential.metadata.get("hosts").and_then(Value::as_array).into_iter().flatten();
    named.filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Lending {
    /// The key, or why there is none.
    pub(super) fn or_fault(self, provider: &str, url: &Url) -> Result<Lease, Fault> {
        let host = url.host_str().unwrap_or_default();
        let place = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        match self {
            Lending::Lent(lease) => Ok(lease),
            Lending::Nobody => {
                let text = format!(
                    "there is no key for '{provider}': keep one with POST /api/credentials (provider \"{provider}\", \
                     metadata {{\"hosts\": [\"{place}\"]}})"
                );
                Err(Fault::new(ErrorCategory::Auth, "no_key", text))
            }
            Lending::Elsewhere { credential_id } => {
                let text = format!(
                    "credential '{credential_id}' is not sent to {place}: its owner allows that with \"hosts\": \
                     [\"{place}\"] in its metadata (PATCH /api/credentials/{credential_id})"
                );
                Err(Fault::new(ErrorCategory::Auth, "key_of_another_host", text))
            }
        }
    }
}
