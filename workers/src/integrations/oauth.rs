//! Accounts at other providers: getting their tokens, keeping them in the vault, having them refreshed in time, and giving them
//! back (integrations.md §14).
//!
//! Error policy: retry for ever what the log or the vault keep from being done. What a provider refuses is recorded. A code is
//! used once: a worker that dies over it leaves a way that fails when it is taken up again.

mod endpoint;
mod keeper;

use std::{sync::Arc, time::Duration};

use async_nats::{Client, jetstream};
use async_trait::async_trait;
use serde::Deserialize;
use symbia_commands::{
    Actor, DomainCommand,
    integrations::{
        CompleteOauth, ExpireOauth, FailOauth, LinkOauth, OauthConnectionCommand, OauthFlowCommand, RecordOauthRefresh,
        RefreshOauth,
    },
};
use symbia_events::{
    AggregateRef, CommandId, DomainEvent, Event, KeyRing, Position, Service, SubjectKey,
    integrations::{OauthAnswered, OauthConnectionEvent, OauthFlowEvent, OauthRefreshRequested, OauthRevoked},
};
use symbia_nats::timers::{TimerCommand, Timers, When};
use symbia_projections::{
    ReadPool, Scope,
    integrations::{self as model, OauthClient, OwnClients},
    secrets::SecretStore,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;
use zeroize::Zeroizing;

use self::{
    endpoint::{Endpoint, Refused},
    keeper::Keeper,
};
use super::Books;
use crate::{
    egress_policies::WayOut,
    reactor::{OnError, Reactor},
    sender::Sender,
};

/// How long before its end a token is refreshed.
const BEFORE: Duration = Duration::from_secs(5 * 60);
/// How long a provider that cannot be reached is asked again for another token.
const PERSISTENCE: time::Duration = time::Duration::hours(1);

/// The reactor.
pub struct AccountLinker {
    sender: Sender,
    keys: Arc<KeyRing>,
    timers: Timers,
    reader: ReadPool,
    secrets: SecretStore,
    egress: WayOut,
    own: OwnClients,
    keeper: Keeper,
}

/// What a person came back with.
#[derive(Deserialize)]
struct Answer {
    code: Zeroizing<String>,
    verifier: Zeroizing<String>,
}

fn at(instant: OffsetDateTime) -> String {
    instant.format(&Rfc3339).unwrap_or_default()
}

impl AccountLinker {
    /// Over a connection, the read models, and the vault.
    #[must_use]
    pub fn new(
        client: Client,
        keys: Arc<KeyRing>,
        sender: Sender,
        reader: ReadPool,
        secrets: SecretStore,
        egress: WayOut,
        books: Arc<Books>,
    ) -> Self {
        let keeper = Keeper::new(Arc::clone(&keys), sender.clone(), reader.clone(), secrets.clone(), books);
        let timers = Timers::new(jetstream::new(client));
        AccountLinker { sender, keys, timers, reader, secrets, egress, own: OwnClients::default(), keeper }
    }

    /// The same with clients of the installation's own.
    #[must_use]
    pub fn with_own(self, own: OwnClients) -> Self {
        AccountLinker { own, ..self }
    }

    async fn client(&self, event: &Event, provider: &str) -> anyhow::Result<Option<OauthClient>> {
        let mut tx = self.reader.read(&Scope::platform()).await?;
        let org = event.orgid.as_str();
        Ok(model::oauth_client(&mut tx, org, provider).await?.or_else(|| self.own.client(org, provider)))
    }

    // With the client's secret, if it has one.
    async fn endpoint<'a>(&self, client: &'a OauthClient) -> anyhow::Result<Endpoint<'a>> {
        let secret = match &client.secret_ref {
            Some(reference) => {
                let context = model::oauth_secret_context(&client.org_id, &client.id);
                Some(self.secrets.item(reference, &context).await?.unwrap_or_default())
            }
            None => self.own.secret(client),
        };
        let egress = self.egress.of(&client.org_id).await?;
        Ok(Endpoint { egress, endpoints: &client.endpoints, client_id: &client.client_id, secret })
    }

    async fn link(&self, event: &Event, answered: &OauthAnswered) -> anyhow::Result<()> {
        let org = event.orgid.as_str();
        let context = model::oauth_code_context(org, &answered.user_id, &answered.state_hash, &answered.provider);
        let kept = self.secrets.item(&answered.code_ref, &context).await?;
        let answer = kept.and_then(|json| serde_json::from_str::<Answer>(&json).ok());
        let client = self.client(event, &answered.provider).await?;
        let client = client.filter(|client| client.enabled && client.version.unsigned_abs() == answered.config_version);
        // A worker that died over the code has left none.
        let Some(answer) = answer else { return self.failed(event, answered, "code_lost").await };
        let Some(client) = client else { return self.failed(event, answered, "config_changed").await };
        let endpoint = self.endpoint(&client).await?;
        let got = endpoint.exchange(&answer.code, &answer.verifier, &answered.callback_uri).await;
        self.secrets.destroy_item(&answered.code_ref).await?;
        let tokens = match got {
            Ok(tokens) => tokens,
            Err(Refused { code, .. }) => return self.failed(event, answered, &code).await,
        };
        // Without a name an account is as good.
        let account = endpoint.account(&tokens.access).await.or_else(|| tokens.account.clone()).unwrap_or_default();
        let hosts = &client.endpoints.hosts;
        let credential_id =
            self.keeper.keep(event, &answered.user_id, &answered.provider, hosts, &tokens, &account).await?;
        let key = self.secrets.subject_key(&answered.user_id).await?;
        let sealed = |text: &Option<String>| key.as_ref().zip(text.as_ref()).map(|(k, t)| SubjectKey::seal(k, t));
        let whose =
            format!("{org}\0{}\0{}\0{}", answered.user_id, answered.provider, account.id.as_deref().unwrap_or(""));
        let whose = self.keys.lookup_hash("oauth-connection", &whose);
        let connection_id = Uuid::new_v5(&Uuid::NAMESPACE_OID, whose.as_bytes()).to_string();
        let scopes = match &tokens.scope {
            Some(scope) => scope.split([' ', ',']).filter(|s| !s.is_empty()).map(str::to_owned).collect(),
            None => answered.scopes.clone(),
        };
        let link = LinkOauth {
            connection_id: connection_id.clone(),
            user_id: answered.user_id.clone(),
            provider: answered.provider.clone(),
            credential_id,
            oauth_user_id: sealed(&account.id),
            oauth_user_email: sealed(&account.email),
            oauth_user_name: sealed(&account.name),
            oauth_avatar_url: sealed(&account.avatar_url),
            scopes,
            expires_at: tokens.expires_at.map(at),
            refreshable: tokens.refresh.is_some(),
        };
        let to = AggregateRef::new(Service::Integrations, event.orgid.clone(), "oauth-connection", &connection_id)?;
        self.send(event, &to, OauthConnectionCommand::from(link), "link").await?;
        let complete = CompleteOauth { state_hash: answered.state_hash.clone(), connection_id };
        self.send(event, &event.aggregate()?, OauthFlowCommand::from(complete), "complete").await
    }

    async fn failed(&self, event: &Event, answered: &OauthAnswered, code: &str) -> anyhow::Result<()> {
        tracing::info!(provider = answered.provider, code, "an account is not linked");
        self.secrets.destroy_item(&answered.code_ref).await?;
        let (state_hash, code) = (answered.state_hash.clone(), code.to_owned());
        let fail = FailOauth { state_hash, code, browser_hash: None };
        self.send(event, &event.aggregate()?, OauthFlowCommand::from(fail), "fail").await
    }

    async fn refresh(&self, event: &Event, due: &OauthRefreshRequested) -> anyhow::Result<()> {
        let client = self.client(event, &due.provider).await?.filter(|client| client.enabled);
        let kept = self.keeper.tokens(&due.credential_id, &due.user_id).await?;
        let refresh = kept.as_ref().and_then(|kept| kept.refresh.clone());
        let (Some(client), Some(kept), Some(refresh)) = (client, kept, refresh) else {
            return self.expired(event, &due.connection_id, "no_refresh_token").await;
        };
        let tokens = match self.endpoint(&client).await?.refresh(&refresh).await {
            Ok(tokens) => tokens,
            Err(refused) if refused.passing && OffsetDateTime::now_utc() - event.time < PERSISTENCE => {
                anyhow::bail!("{} is asked again: {}", due.provider, refused.code);
            }
            Err(refused) => return self.expired(event, &due.connection_id, &refused.code).await,
        };
        // A provider that gives no other refresh token means the old one to stay.
        let next = tokens.refresh.clone().or(Some(refresh));
        self.keeper.replace(event, kept, &tokens, next.as_ref()).await?;
        let record = RecordOauthRefresh {
            connection_id: due.connection_id.clone(),
            expires_at: tokens.expires_at.map(at),
            refreshable: next.is_some(),
        };
        self.send(event, &event.aggregate()?, OauthConnectionCommand::from(record), "refreshed").await
    }

    async fn expired(&self, event: &Event, connection: &str, code: &str) -> anyhow::Result<()> {
        tracing::info!(connection, code, "a linked account is to be linked anew");
        let expire = ExpireOauth { connection_id: connection.to_owned(), code: code.to_owned() };
        self.send(event, &event.aggregate()?, OauthConnectionCommand::from(expire), "expire").await
    }

    async fn give_back(&self, event: &Event, revoked: &OauthRevoked) -> anyhow::Result<()> {
        self.timers.cancel(&event.aggregateid).await?;
        let Some(kept) = self.keeper.tokens(&revoked.credential_id, &revoked.user_id).await? else { return Ok(()) };
        if let Some(client) = self.client(event, &revoked.provider).await? {
            // Best effort: with us it is over in any case.
            let token = kept.refresh.as_ref().or(kept.access.as_ref());
            let given = match token {
                Some(token) => self.endpoint(&client).await?.give_back(token).await,
                None => Ok(()),
            };
            if let Err(Refused { code, .. }) = given {
                tracing::info!(provider = revoked.provider, code, "a token is not taken back");
            }
        }
        self.keeper.delete(event, kept).await
    }

    // A new timer of the same id takes the place of the one before.
    async fn remind(&self, event: &Event, expires_at: Option<&String>, refreshable: bool) -> anyhow::Result<()> {
        let Some(end) = expires_at.and_then(|end| OffsetDateTime::parse(end, &Rfc3339).ok()) else { return Ok(()) };
        let refresh = OauthConnectionCommand::from(RefreshOauth { connection_id: event.aggregateid.clone() });
        let timer = TimerCommand {
            aggregate: event.aggregate()?,
            command_type: refresh.command_type().to_owned(),
            data: refresh.to_data()?,
        };
        let due = if refreshable { (end - BEFORE).max(halfway(event.time, end)) } else { end };
        Ok(self.timers.command(&event.aggregateid, &When::At(due), &timer).await?)
    }

    async fn send(
        &self,
        event: &Event,
        to: &AggregateRef,
        command: impl DomainCommand,
        purpose: &str,
    ) -> anyhow::Result<()> {
        let (id, by) = (CommandId::derived(event.id, purpose), Actor::service("integrations"));
        let outcome = self.sender.send(Some(event), to, &command, &by, id).await?;
        outcome.rejection.map_or(Ok(()), |rejection| Err(anyhow::anyhow!("{purpose}: {rejection}")))
    }
}

// Tokens that live for less than a few minutes are refreshed when half of their time is over.
fn halfway(from: OffsetDateTime, to: OffsetDateTime) -> OffsetDateTime {
    from + (to - from) / 2
}

#[async_trait]
impl Reactor for AccountLinker {
    fn name(&self) -> &'static str {
        "account-linker"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(Service::Integrations, &["*.oauth-flow.*", "*.oauth-connection.*"])]
    }

    fn acts_on(&self) -> &'static [&'static str] {
        &["symbia.integrations.oauth-flow.oauth-answered.", "symbia.integrations.oauth-connection."]
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn react(&self, event: &Event, _at: Position) -> anyhow::Result<()> {
        if event.aggregatetype == OauthFlowEvent::AGGREGATE {
            return match event.decode()? {
                OauthFlowEvent::OauthAnswered(e) => self.link(event, &e).await,
                _ => Ok(()),
            };
        }
        match event.decode()? {
            OauthConnectionEvent::OauthLinked(e) => self.remind(event, e.expires_at.as_ref(), e.refreshable).await,
            OauthConnectionEvent::OauthTokenRefreshed(e) => {
                self.remind(event, e.expires_at.as_ref(), e.refreshable).await
            }
            OauthConnectionEvent::OauthRefreshRequested(e) => self.refresh(event, &e).await,
            OauthConnectionEvent::OauthExpired(_) => Ok(()),
            OauthConnectionEvent::OauthRevoked(e) => self.give_back(event, &e).await,
        }
    }
}
