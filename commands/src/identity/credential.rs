//! The credential aggregate: who may use a secret of another provider, and who was given it (identity.md §8, 15).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbia_events::{
    ActorType, OrgId, Personal,
    identity::{
        CredentialDeleted, CredentialEvent, CredentialReleaseDenied, CredentialReleased, CredentialSecretReplaced,
        CredentialShared, CredentialStored, CredentialUnshared, CredentialUpdated, SecretDestroyed,
    },
};
use time::OffsetDateTime;

use crate::{Actor, Aggregate, Claim, Decision, Rejection, Role, domain_commands};

domain_commands! {
    /// What a credential can be asked to do. The secret was sealed before, under the references that are named.
    CredentialCommand: Identity / "credential" {
        /// Keeps it.
        StoreCredential = "symbia.cmd.identity.store-credential.v1" {
            credential_id: String,
            owner_id: String,
            #[serde(default)]
            org_id: Option<String>,
            provider: String,
            name: String,
            name_key: String,
            credential_type: String,
            #[serde(default)]
            is_org_wide: bool,
            /// `credential:<credentialId>:<anything>`.
            secret_ref: String,
            #[serde(default)]
            refresh_ref: Option<String>,
            #[serde(default)]
            masked_hint: Option<String>,
            #[serde(default)]
            metadata: Map<String, Value>,
            #[serde(default)]
            expires_at: Option<String>,
            #[serde(default)]
            account_key: Option<String>,
            #[serde(default)]
            oauth_user_id: Option<Personal>,
            #[serde(default)]
            oauth_user_email: Option<Personal>,
            #[serde(default)]
            oauth_user_name: Option<Personal>,
        }
        /// Changes name or metadata; what is absent stays.
        UpdateCredential = "symbia.cmd.identity.update-credential.v1" {
            credential_id: String,
            #[serde(default)]
            name: Option<String>,
            #[serde(default)]
            name_key: Option<String>,
            #[serde(default)]
            metadata: Option<Map<String, Value>>,
        }
        /// Keeps another secret.
        ReplaceCredentialSecret = "symbia.cmd.identity.replace-credential-secret.v1" {
            credential_id: String,
            secret_ref: String,
            #[serde(default)]
            refresh_ref: Option<String>,
            #[serde(default)]
            masked_hint: Option<String>,
            #[serde(default)]
            expires_at: Option<String>,
            /// The one after the present one.
            version: u32,
        }
        /// Lets the members of its organization use it.
        ShareCredential = "symbia.cmd.identity.share-credential.v1" { credential_id: String, org_id: String }
        /// Lets only its owner use it.
        UnshareCredential = "symbia.cmd.identity.unshare-credential.v1" { credential_id: String }
        /// Gives the secret to a service that acts for a principal; the actor is that service, in the principal's name and
        /// with the principal's organizations.
        ReleaseCredential = "symbia.cmd.identity.release-credential.v1" {
            credential_id: String,
            #[serde(default)]
            purpose: Option<String>,
        }
        /// Removes it.
        DeleteCredential = "symbia.cmd.identity.delete-credential.v1" { credential_id: String }
    }
}

/// A credential.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Credential {
    owner_id: String,
    org: Option<OrgId>,
    provider: String,
    name_key: String,
    is_org_wide: bool,
    secrets: Vec<String>,
    version: u32,
    deleted: bool,
}

/// Longest text of a purpose.
const PURPOSE_MAX: usize = 200;

fn name_claim(name_key: &str, credential_id: &str) -> Claim {
    Claim {
        tenant: OrgId::global(),
        name: format!("credential:{name_key}"),
        holder: credential_id.to_owned(),
        taken: "CREDENTIAL_TAKEN",
    }
}

// Nobody makes another principal's secret this credential's.
fn check_refs<'a>(credential_id: &str, refs: impl IntoIterator<Item = &'a String>) -> Result<(), Rejection> {
    let own = |reference: &str| {
        let rest = reference.strip_prefix("credential:").and_then(|r| r.strip_prefix(credential_id));
        rest.is_some_and(|rest| rest.starts_with(':'))
    };
    if refs.into_iter().all(|reference| own(reference)) {
        return Ok(());
    }
    Err(Rejection::invalid("secretRef: names a secret of another credential"))
}

fn check_name(name: &str) -> Result<(), Rejection> {
    if name.trim().is_empty() || name.chars().count() > 100 {
        return Err(Rejection::invalid("name: 1 to 100 characters"));
    }
    Ok(())
}

/// The principal whose rights an actor has: itself, or the one whom a service acts for.
fn principal(by: &Actor) -> &str {
    by.on_behalf_of.as_deref().filter(|_| by.is_platform()).unwrap_or(&by.id)
}

impl Credential {
    fn owned_by(&self, by: &Actor) -> Result<(), Rejection> {
        if self.owner_id.is_empty() || self.deleted {
            return Err(Rejection::not_found("credential"));
        }
        if principal(by) == self.owner_id || by.kind == ActorType::System {
            return Ok(());
        }
        Err(Rejection::forbidden("only the owner of a credential may do this"))
    }

    fn store(&self, c: StoreCredential, by: &Actor) -> Result<Decision<CredentialEvent>, Rejection> {
        if !self.owner_id.is_empty() {
            return Err(Rejection::new("CONFLICT", "this credential id is in use"));
        }
        if principal(by) != c.owner_id || by.kind == ActorType::Agent {
            return Err(Rejection::forbidden("a credential is kept in one's own name, by a user"));
        }
        check_name(&c.name)?;
        if c.provider.trim().is_empty() || c.provider.chars().count() > 100 {
            return Err(Rejection::invalid("provider: 1 to 100 characters"));
        }
        if !["api_key", "oauth_token"].contains(&c.credential_type.as_str()) {
            return Err(Rejection::invalid("credentialType: api_key or oauth_token"));
        }
        check_refs(&c.credential_id, [&c.secret_ref].into_iter().chain(&c.refresh_ref))?;
        let org: Option<OrgId> = c.org_id.as_deref().map(str::parse).transpose().map_err(|_| outside())?;
        let role = org.as_ref().and_then(|org| by.role_in(org));
        if org.is_some() && role.is_none() {
            return Err(outside());
        }
        if c.is_org_wide && role != Some(Role::Admin) {
            return Err(not_an_admin());
        }
        let claim = name_claim(&c.name_key, &c.credential_id);
        Ok(Decision::one(CredentialStored {
            credential_id: c.credential_id,
            owner_id: c.owner_id,
            org_id: c.org_id,
            provider: c.provider,
            name: c.name,
            name_key: c.name_key,
            credential_type: c.credential_type,
            is_org_wide: c.is_org_wide,
            secret_ref: c.secret_ref,
            refresh_ref: c.refresh_ref,
            masked_hint: c.masked_hint,
            metadata: c.metadata,
            expires_at: c.expires_at,
            account_key: c.account_key,
            oauth_user_id: c.oauth_user_id,
            oauth_user_email: c.oauth_user_email,
            oauth_user_name: c.oauth_user_name,
            by: by.id.clone(),
        })
        .claiming(claim))
    }

    fn update(&self, c: UpdateCredential, by: &Actor) -> Result<Decision<CredentialEvent>, Rejection> {
        self.owned_by(by)?;
        if let Some(name) = &c.name {
            check_name(name)?;
        }
        if c.name.is_some() != c.name_key.is_some() {
            return Err(Rejection::invalid("nameKey: goes with name"));
        }
        let renamed = c.name_key.clone().filter(|key| *key != self.name_key);
        let id = c.credential_id.clone();
        let decision = Decision::one(CredentialUpdated {
            credential_id: c.credential_id,
            name: c.name,
            name_key: c.name_key,
            metadata: c.metadata,
            by: by.id.clone(),
        });
        Ok(match renamed {
            Some(key) => decision.releasing(name_claim(&self.name_key, &id)).claiming(name_claim(&key, &id)),
            None => decision,
        })
    }

    fn replace(&self, c: ReplaceCredentialSecret, by: &Actor) -> Result<Decision<CredentialEvent>, Rejection> {
        self.owned_by(by)?;
        check_refs(&c.credential_id, [&c.secret_ref].into_iter().chain(&c.refresh_ref))?;
        if c.version != self.version + 1 {
            return Err(Rejection::new("CONFLICT", "the secret was replaced meanwhile: read it and try again"));
        }
        let replaced = Decision::one(CredentialSecretReplaced {
            credential_id: c.credential_id.clone(),
            secret_ref: c.secret_ref,
            refresh_ref: c.refresh_ref,
            masked_hint: c.masked_hint,
            expires_at: c.expires_at,
            version: c.version,
            by: by.id.clone(),
        });
        Ok(self.destroying(replaced, &c.credential_id))
    }

    fn destroying(&self, decision: Decision<CredentialEvent>, id: &str) -> Decision<CredentialEvent> {
        let destroyed = |secret: &String| SecretDestroyed { credential_id: id.to_owned(), secret_ref: secret.clone() };
        self.secrets.iter().map(destroyed).fold(decision, Decision::and)
    }

    fn share(&self, c: ShareCredential, by: &Actor) -> Result<Decision<CredentialEvent>, Rejection> {
        self.owned_by(by)?;
        // The secret is sealed for the organization that it was kept for.
        if self.org.as_ref().is_none_or(|org| org.as_str() != c.org_id) {
            return Err(Rejection::invalid("orgId: a credential is shared with the organization it was kept for"));
        }
        if self.org.as_ref().and_then(|org| by.role_in(org)) != Some(Role::Admin) {
            return Err(not_an_admin());
        }
        if self.is_org_wide {
            return Ok(Decision::nothing());
        }
        let shared = CredentialShared { credential_id: c.credential_id, org_id: c.org_id, by: by.id.clone() };
        Ok(Decision::one(shared))
    }

    fn release(&self, c: ReleaseCredential, by: &Actor) -> Result<Decision<CredentialEvent>, Rejection> {
        let (ActorType::Service, Some(principal)) = (by.kind, by.on_behalf_of.clone()) else {
            return Err(Rejection::forbidden("a credential is given to a service that acts for a principal"));
        };
        if self.owner_id.is_empty() || self.deleted {
            return Err(Rejection::not_found("credential"));
        }
        let service = by.id.strip_prefix("service:").unwrap_or(&by.id).to_owned();
        let purpose = c.purpose.map(|text| text.chars().take(PURPOSE_MAX).collect());
        let owner = principal == self.owner_id;
        let member = self.org.as_ref().is_some_and(|org| by.role_in(org).is_some());
        if owner || (self.is_org_wide && member) {
            return Ok(Decision::one(CredentialReleased {
                credential_id: c.credential_id,
                for_principal_id: principal,
                service,
                purpose,
                is_proxy: !owner,
            }));
        }
        let reason = if self.is_org_wide { "not-a-member" } else { "not-the-owner" }.to_owned();
        Ok(Decision::one(CredentialReleaseDenied {
            credential_id: c.credential_id,
            for_principal_id: principal,
            service,
            purpose,
            reason,
        }))
    }
}

fn outside() -> Rejection {
    Rejection::new("ORG_ACCESS_DENIED", "the actor does not belong to this organization")
}

fn not_an_admin() -> Rejection {
    Rejection::new("INSUFFICIENT_ROLE", "only an admin of the organization shares a credential with it")
}

impl Aggregate for Credential {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("credentialId");
    type Command = CredentialCommand;
    type Event = CredentialEvent;

    fn apply(&mut self, event: &CredentialEvent) {
        match event {
            CredentialEvent::CredentialStored(e) => {
                self.owner_id.clone_from(&e.owner_id);
                self.org = e.org_id.as_deref().and_then(|org| org.parse().ok());
                self.provider.clone_from(&e.provider);
                self.name_key.clone_from(&e.name_key);
                self.is_org_wide = e.is_org_wide;
                self.secrets = [&e.secret_ref].into_iter().chain(&e.refresh_ref).cloned().collect();
                self.version = 1;
            }
            CredentialEvent::CredentialUpdated(e) => e.name_key.iter().for_each(|key| self.name_key.clone_from(key)),
            CredentialEvent::CredentialSecretReplaced(e) => {
                self.secrets = [&e.secret_ref].into_iter().chain(&e.refresh_ref).cloned().collect();
                self.version = e.version;
            }
            CredentialEvent::CredentialShared(_) => self.is_org_wide = true,
            CredentialEvent::CredentialUnshared(_) => self.is_org_wide = false,
            CredentialEvent::CredentialReleased(_)
            | CredentialEvent::CredentialReleaseDenied(_)
            | CredentialEvent::SecretDestroyed(_) => {}
            CredentialEvent::CredentialDeleted(_) => self.deleted = true,
        }
    }

    fn decide(
        &self,
        command: CredentialCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<CredentialEvent>, Rejection> {
        match command {
            CredentialCommand::StoreCredential(c) => self.store(c, by),
            CredentialCommand::UpdateCredential(c) => self.update(c, by),
            CredentialCommand::ReplaceCredentialSecret(c) => self.replace(c, by),
            CredentialCommand::ShareCredential(c) => self.share(c, by),
            CredentialCommand::UnshareCredential(c) => {
                self.owned_by(by)?;
                let Some(org) = self.org.as_ref().filter(|_| self.is_org_wide) else { return Ok(Decision::nothing()) };
                let (org_id, by) = (org.to_string(), by.id.clone());
                Ok(Decision::one(CredentialUnshared { credential_id: c.credential_id, org_id, by }))
            }
            CredentialCommand::ReleaseCredential(c) => self.release(c, by),
            CredentialCommand::DeleteCredential(c) => {
                self.owned_by(by)?;
                let id = c.credential_id.clone();
                let deleted = CredentialDeleted { credential_id: c.credential_id, by: by.id.clone() };
                let decision = Decision::one(deleted).releasing(name_claim(&self.name_key, &id));
                Ok(self.destroying(decision, &id))
            }
        }
    }
}

#[cfg(test)]
mod tests;
