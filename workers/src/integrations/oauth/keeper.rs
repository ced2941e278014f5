//! Keeps the tokens of linked accounts in identity's vault, in the name of whose they are.

use std::sync::Arc;

use anyhow::{Context, bail};
use serde_json::{Map, json};
use symbia_commands::identity::{CredentialCommand, DeleteCredential, ReplaceCredentialSecret, StoreCredential};
use symbia_events::{AggregateRef, CommandId, Event, KeyRing, OrgId, Service, SubjectKey};
use symbia_projections::{
    ReadPool, Scope,
    identity::{self, Credential},
    secrets::SecretStore,
    vault::ItemContext,
};
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    super::{Asker, Books},
    endpoint::{Account, Tokens},
};
use crate::sender::Sender;

/// What a credential of tokens is called.
const TYPE: &str = "oauth_token";

/// The vault, for tokens.
pub(super) struct Keeper {
    keys: Arc<KeyRing>,
    sender: Sender,
    reader: ReadPool,
    secrets: SecretStore,
    books: Arc<Books>,
}

/// Tokens that are kept.
pub(super) struct Kept {
    pub credential: Credential,
    pub access: Option<Zeroizing<String>>,
    pub refresh: Option<Zeroizing<String>>,
}

/// Tokens under seal.
struct Sealed {
    access: String,
    refresh: Option<String>,
}

impl Sealed {
    fn references(&self) -> impl Iterator<Item = &String> {
        [&self.access].into_iter().chain(&self.refresh)
    }
}

impl Keeper {
    pub fn new(keys: Arc<KeyRing>, sender: Sender, reader: ReadPool, secrets: SecretStore, books: Arc<Books>) -> Self {
        Keeper { keys, sender, reader, secrets, books }
    }

    /// The tokens of a credential, if it is this user's.
    pub async fn tokens(&self, credential: &str, user: &str) -> anyhow::Result<Option<Kept>> {
        let mut tx = self.reader.read(&Scope::platform()).await?;
        let found = identity::credential(&mut tx, credential).await?;
        drop(tx);
        let Some(credential) = found.filter(|found| found.owner_id == user) else { return Ok(None) };
        let access = self.secrets.item(&credential.secret_ref, &credential.context()).await?;
        let refresh = match &credential.refresh_ref {
            Some(reference) => self.secrets.item(reference, &credential.context()).await?,
            None => None,
        };
        Ok(Some(Kept { credential, access, refresh }))
    }

    /// Keeps the tokens of an account: in place of those that were kept for it in this organization, else anew. Never in place
    /// of what others share. Gives the id of the credential.
    pub async fn keep(
        &self,
        event: &Event,
        user: &str,
        provider: &str,
        hosts: &[String],
        tokens: &Tokens,
        account: &Account,
    ) -> anyhow::Result<String> {
        let account_key = account
            .id
            .as_ref()
            .map(|account| self.keys.lookup_hash("oauth-account", &format!("{user}\0{provider}\0{account}")));
        let org = event.orgid.as_str();
        let mut tx = self.reader.read(&Scope::platform()).await?;
        let all = identity::credentials_of(&mut tx, user).await?;
        drop(tx);
        let same = |c: &&Credential| {
            c.provider == provider
                && c.credential_type == TYPE
                && c.organization() == Some(org)
                && c.account_key == account_key
                && !c.is_org_wide
        };
        if let Some(found) = all.iter().find(same) {
            let kept = Kept { credential: found.clone(), access: None, refresh: None };
            let id = found.id.clone();
            self.replace(event, kept, tokens, tokens.refresh.as_ref()).await?;
            return Ok(id);
        }
        let id = Uuid::new_v5(&event.id, b"credential").to_string();
        let context = ItemContext { credential_id: &id, owner_id: user, org_id: Some(org), provider, version: 1 };
        let sealed = self.seal(&context, tokens, tokens.refresh.as_ref()).await?;
        let key = self.secrets.subject_key(user).await?;
        let personal = |text: &Option<String>| key.as_ref().zip(text.as_ref()).map(|(k, t)| SubjectKey::seal(k, t));
        // A second account of the same provider has a name of its own.
        let plain = format!("{provider} OAuth");
        let taken = all.iter().any(|c| c.provider == provider && c.name == plain);
        let name = if taken { format!("{plain} {}", &id[..8]) } else { plain };
        let store = StoreCredential {
            credential_id: id.clone(),
            owner_id: user.to_owned(),
            org_id: Some(org.to_owned()),
            name_key: self.keys.lookup_hash("credential", &format!("{user}\0{provider}\0{name}")),
            provider: provider.to_owned(),
            name,
            credential_type: TYPE.to_owned(),
            is_org_wide: false,
            secret_ref: sealed.access.clone(),
            refresh_ref: sealed.refresh.clone(),
            masked_hint: None,
            metadata: Map::from_iter([("hosts".to_owned(), json!(hosts))]),
            expires_at: end(tokens),
            account_key,
            oauth_user_id: personal(&account.id),
            oauth_user_email: personal(&account.email),
            oauth_user_name: personal(&account.name),
        };
        let tenant = event.orgid.clone();
        self.order(event, user, tenant, &id, store, "keep", &sealed).await?;
        Ok(id)
    }

    /// Keeps other tokens in place of a credential's.
    pub async fn replace(
        &self,
        event: &Event,
        kept: Kept,
        tokens: &Tokens,
        refresh: Option<&Zeroizing<String>>,
    ) -> anyhow::Result<()> {
        let found = kept.credential;
        let version = found.version.unsigned_abs() + 1;
        let context = ItemContext { version, ..found.context() };
        let sealed = self.seal(&context, tokens, refresh).await?;
        let replace = ReplaceCredentialSecret {
            credential_id: found.id.clone(),
            secret_ref: sealed.access.clone(),
            refresh_ref: sealed.refresh.clone(),
            masked_hint: None,
            expires_at: end(tokens),
            version,
        };
        let tenant = tenant(&found)?;
        self.order(event, &found.owner_id, tenant, &found.id, replace, "replace", &sealed).await?;
        self.forget(&found).await
    }

    /// Deletes a credential with its tokens.
    pub async fn delete(&self, event: &Event, kept: Kept) -> anyhow::Result<()> {
        let found = kept.credential;
        let delete = DeleteCredential { credential_id: found.id.clone() };
        let none = Sealed { access: String::new(), refresh: None };
        self.order(event, &found.owner_id, tenant(&found)?, &found.id, delete, "delete", &none).await?;
        self.forget(&found).await
    }

    async fn seal(
        &self,
        context: &ItemContext<'_>,
        tokens: &Tokens,
        refresh: Option<&Zeroizing<String>>,
    ) -> anyhow::Result<Sealed> {
        let access = self.seal_one(context, &tokens.access).await?;
        let refresh = match refresh {
            Some(refresh) => Some(self.seal_one(context, refresh).await?),
            None => None,
        };
        Ok(Sealed { access, refresh })
    }

    async fn seal_one(&self, context: &ItemContext<'_>, secret: &Zeroizing<String>) -> anyhow::Result<String> {
        let reference = format!("credential:{}:{}", context.credential_id, Uuid::new_v4());
        self.secrets.put_item(&reference, context, secret).await?;
        Ok(reference)
    }

    async fn forget(&self, found: &Credential) -> anyhow::Result<()> {
        for reference in [&found.secret_ref].into_iter().chain(&found.refresh_ref) {
            self.secrets.destroy_item(reference).await?;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "an address, a command, and what is undone with it")]
    async fn order(
        &self,
        event: &Event,
        user: &str,
        tenant: OrgId,
        id: &str,
        command: impl Into<CredentialCommand>,
        purpose: &str,
        sealed: &Sealed,
    ) -> anyhow::Result<()> {
        let to = AggregateRef::new(Service::Identity, tenant, "credential", id)?;
        let asker = Asker { org: event.orgid.as_str(), principal: user, assistant: None, key: None };
        let actor = self.books.acting(&asker).await?;
        let command_id = CommandId::derived(event.id, purpose);
        let outcome = self.sender.send(Some(event), &to, &command.into(), &actor, command_id).await?;
        if let Some(rejection) = outcome.rejection {
            for reference in sealed.references() {
                self.secrets.destroy_item(reference).await?;
            }
            bail!("the vault did not {purpose} a credential: {rejection}");
        }
        Ok(())
    }
}

fn end(tokens: &Tokens) -> Option<String> {
    tokens.expires_at.and_then(|end| end.format(&Rfc3339).ok())
}

fn tenant(found: &Credential) -> anyhow::Result<OrgId> {
    found.organization().map_or(Ok(OrgId::global()), str::parse).context("a credential's organization")
}
