//! Lending a secret from identity's vault, on record: the credential itself decides whether it is given (identity.md §8).

use symbia_commands::{
    Actor,
    identity::{CredentialCommand, ReleaseCredential},
};
use symbia_events::{AggregateRef, CommandId, OrgId, Service};
use symbia_projections::{identity::Credential, secrets::SecretStore};
use zeroize::Zeroizing;

use crate::sender::Sender;

/// The other answer is that it was denied.
const RELEASED: &str = "symbia.identity.credential.credential-released.v1";

/// The vault. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Vault {
    secrets: SecretStore,
    sender: Sender,
}

impl Vault {
    pub fn new(secrets: SecretStore, sender: Sender) -> Self {
        Vault { secrets, sender }
    }

    /// The secret of a credential, for a service that acts for a principal. `None`: it is not given, or is gone.
    pub async fn lend(
        &self,
        found: &Credential,
        to: &Actor,
        purpose: &str,
    ) -> anyhow::Result<Option<Zeroizing<String>>> {
        let tenant: OrgId = found.organization().map_or(Ok(OrgId::global()), str::parse)?;
        let address = AggregateRef::new(Service::Identity, tenant, "credential", &found.id)?;
        let release = ReleaseCredential { credential_id: found.id.clone(), purpose: Some(purpose.to_owned()) };
        let release = CredentialCommand::from(release);
        let outcome = self.sender.send(None, &address, &release, to, CommandId::random()).await?;
        if !outcome.events.iter().any(|event| event.event_type == RELEASED) {
            let principal = to.on_behalf_of.as_deref().unwrap_or_default();
            tracing::warn!(credential = found.id, principal, "a credential is not released");
            return Ok(None);
        }
        Ok(self.secrets.item(&found.secret_ref, &found.context()).await?)
    }
}
