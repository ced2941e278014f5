//! How a bridge authenticates: with a credential that its organization keeps in identity's vault (network.md §8.13).

use symbia_commands::{Actor, Membership, Role};
use symbia_projections::{ReadPool, Scope, identity, network as model, secrets::SecretStore};
use zeroize::Zeroizing;

use crate::{sender::Sender, vault::Vault};

/// What a credential is released for.
const PURPOSE: &str = "bridge";

/// What a bridge presents.
pub(super) enum Presented {
    /// Nothing: it names no credential.
    Nothing,
    /// As a bearer token.
    Bearer(Zeroizing<String>),
    /// It names one that is not given.
    Denied,
}

/// The credentials of bridges.
#[derive(Clone)]
pub(super) struct Bridges {
    reader: ReadPool,
    vault: Vault,
}

impl Bridges {
    pub fn new(reader: ReadPool, secrets: SecretStore, sender: Sender) -> Self {
        Bridges { reader, vault: Vault::new(secrets, sender) }
    }

    /// What the bridge that a node's id stands for presents, in the name of whoever registered it.
    pub async fn presented(&self, org: &str, node: &str) -> anyhow::Result<Presented> {
        let Some(id) = node.strip_prefix("bridge:") else { return Ok(Presented::Nothing) };
        let mut tx = self.reader.read(&Scope::platform()).await?;
        let Some(bridge) = model::bridge(&mut tx, org, id).await? else { return Ok(Presented::Nothing) };
        let Some(reference) = bridge.credential_ref else { return Ok(Presented::Nothing) };
        let found = identity::credential(&mut tx, &reference).await?;
        drop(tx);
        // Another organization's is none of this one's.
        let own = |found: &identity::Credential| found.organization().is_none_or(|of| of == org);
        let Some(found) = found.filter(own) else { return Ok(Presented::Denied) };
        let orgs = vec![Membership { id: org.parse()?, role: Role::Member }];
        let actor = Actor { orgs, on_behalf_of: Some(bridge.created_by), ..Actor::service("network") };
        let secret = self.vault.lend(&found, &actor, PURPOSE).await?;
        Ok(secret.map_or(Presented::Denied, Presented::Bearer))
    }
}
