//! The providers whose own APIs calls are passed on to, and the keys that open them.

use std::{collections::BTreeMap, sync::Arc};

use symbia_commands::{
    Actor,
    identity::{CredentialCommand, ReleaseCredential},
};
use symbia_egress::{Egress, Rules};
use symbia_events::{AggregateRef, CommandId, OrgId, Service, integrations::ErrorCategory};
use symbia_projections::{Scope, identity::credential_for};
use zeroize::Zeroizing;

use super::call::Open;
use crate::{
    http::ApiError,
    integrations::{Integrations, said::Failure},
    platform::{Consistency, SecretText},
};

/// What a credential is released for.
const PURPOSE: &str = "passthrough";

/// Where a provider wants its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStands {
    /// `Authorization: Bearer …`.
    Bearer,
    /// `x-api-key`, as Anthropic does.
    XApiKey,
}

/// A provider with an API of its own.
#[derive(Clone, Debug)]
pub struct ProviderDoor {
    /// Its key in requests.
    pub name: String,
    /// What its calls stay below.
    pub base_url: String,
    /// Where its key goes.
    pub key_stands: KeyStands,
    /// The installation's own key, for who has none.
    pub own_key: Option<SecretText>,
    /// It takes no call without a key.
    pub needs_key: bool,
}

/// A provider, and the way out to it alone.
pub(in crate::integrations) struct Door {
    door: ProviderDoor,
    egress: Egress,
}

impl Door {
    pub fn base_url(&self) -> &str {
        self.door.base_url.trim_end_matches('/')
    }

    pub fn key_stands(&self) -> KeyStands {
        self.door.key_stands
    }

    pub fn egress(&self) -> &Egress {
        &self.egress
    }
}

/// All of them.
#[derive(Clone)]
pub(in crate::integrations) struct Doors(Arc<BTreeMap<String, Door>>);

impl Doors {
    /// Those that can be called: one without a usable base URL, or an HTTP client, cannot.
    pub fn new(doors: Vec<ProviderDoor>) -> Self {
        let usable = |door: ProviderDoor| {
            let url = door.base_url.parse().ok()?;
            let egress = Egress::new(Rules::only(&url));
            let egress = egress.inspect_err(|error| tracing::error!(%error, "no HTTP client")).ok()?;
            Some((door.name.clone(), Door { door, egress }))
        };
        Doors(Arc::new(doors.into_iter().filter_map(usable).collect()))
    }

    pub fn find(&self, name: &str) -> Option<&Door> {
        self.0.get(name)
    }

    /// Their names, for people.
    pub fn names(&self) -> String {
        self.0.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

/// A key, and whose it is.
pub(super) struct Key {
    pub secret: Option<Zeroizing<String>>,
    pub credential_id: Option<String>,
    /// `personal`, `org-wide` or `none`.
    pub source: &'static str,
}

fn unavailable(error: &ApiError) -> Failure {
    tracing::warn!(%error, "a key is not looked up");
    Failure::new(ErrorCategory::Internal, "unavailable", "keys cannot be looked up at the moment; try again")
}

impl Integrations {
    /// The caller's own key for a provider, else one shared with the organization, else, for calls of which nothing is `kept`, the
    /// installation's: who shares an account sees all that it keeps. That a key is lent is on record before it is.
    pub(super) async fn key_for(&self, open: &Open, door: &Door, provider: &str, kept: bool) -> Result<Key, Failure> {
        let lent = self.lent(open, provider).await.map_err(|error| unavailable(&error))?;
        if let Some(key) = lent {
            return Ok(key);
        }
        let own = door.door.own_key.as_ref().map(|key| key.with(|text| Zeroizing::new(text.to_owned())));
        let keep = format!("keep one with POST /api/credentials (provider \"{provider}\")");
        if own.is_none() && door.door.needs_key {
            let text = format!("there is no key for provider '{provider}': {keep}");
            return Err(Failure::new(ErrorCategory::Auth, "no_key", text));
        }
        if own.is_some() && kept {
            let text = format!(
                "what provider '{provider}' keeps is its account's, so this call takes a key of your own: {keep}"
            );
            return Err(Failure::new(ErrorCategory::Auth, "own_key_needed", text));
        }
        Ok(Key { secret: own, credential_id: None, source: "none" })
    }

    async fn lent(&self, open: &Open, provider: &str) -> Result<Option<Key>, ApiError> {
        let (principal, org) = (open.actor().subject(), open.address().tenant.as_str());
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let found = credential_for(&mut tx, principal, Some(org), provider).await?;
        drop(tx);
        let Some(found) = found else { return Ok(None) };
        let tenant = found.organization().map_or(Ok(OrgId::global()), str::parse).map_err(ApiError::internal)?;
        let address = AggregateRef::new(Service::Identity, tenant, "credential", &found.id);
        let release = ReleaseCredential { credential_id: found.id.clone(), purpose: Some(PURPOSE.to_owned()) };
        let acting = Actor {
            orgs: open.actor().orgs.clone(),
            on_behalf_of: Some(principal.to_owned()),
            ..Actor::service("integrations")
        };
        let done = self
            .platform
            .submit_as(
                CommandId::random(),
                &address.map_err(ApiError::internal)?,
                &CredentialCommand::from(release),
                &acting,
                open.scope(),
                Consistency::Eventual,
            )
            .await?;
        if !done.has("credential-released") {
            return Ok(None);
        }
        let secret = self.platform.secrets.item(&found.secret_ref, &found.context()).await?;
        let source = if found.owner_id == principal { "personal" } else { "org-wide" };
        Ok(secret.map(|secret| Key { secret: Some(secret), credential_id: Some(found.id), source }))
    }
}
