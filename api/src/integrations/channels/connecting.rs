//! Connecting a channel. Its secret is made here; a messenger gets it from the worker, a program's owner sees it once.

use std::time::Duration;

use axum::{extract::State, http::StatusCode};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use symbia_commands::{
    Actor,
    assistants::seed::ASSISTANT_KEY,
    integrations::{ConnectChannel, channel_secret_prefix},
};
use symbia_events::{
    integrations::{ChannelMode, meta_verify_token},
    messaging::WEBHOOK_SECRET,
};
use symbia_projections::{
    Scope,
    identity::{self, Credential},
    integrations as model,
};
use tokio::time::Instant;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Integrations, Kind, Reader, command, with_status};
use crate::http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, routes};

/// How long the other side may take, and how often it is looked whether it is done.
const PATIENCE: Duration = Duration::from_secs(50);
const LOOK: Duration = Duration::from_millis(50);

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(connect))
}

/// How a channel is to be connected.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    #[serde(default)]
    config: Config,
    /// The bot's token in the vault; absent: the caller's own for this messenger, else one shared with the organization.
    #[serde(default)]
    credential_id: Option<String>,
    /// What the messenger signs its calls with, as the app's pages there show it: Slack's signing secret, or the secret of the app
    /// at Meta (WhatsApp). Kept in the secret store.
    #[serde(default)]
    #[schema(value_type = Option<String>, write_only)]
    signing_secret: Option<Zeroizing<String>>,
}

/// The choices there are.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Config {
    /// Public address of this service, where it is another one than the installation's.
    #[serde(default)]
    webhook_base_url: Option<String>,
    /// What was said before is left out.
    #[serde(default)]
    drop_pending_updates: bool,
    /// The messenger is asked, instead of calling: for installations that nobody can call.
    #[serde(default)]
    use_polling: Option<bool>,
    /// Keys of the assistants that take part in conversations that begin there; absent: the one that everybody has.
    #[serde(default)]
    assistants: Option<Vec<String>>,
    /// Where a program is told what is said to it (`webhook`).
    #[serde(default)]
    target_url: Option<String>,
    /// Id of the telephone number, as the app's pages at Meta show it (`whatsapp`).
    #[serde(default)]
    phone_number_id: Option<String>,
    /// The address of the mailbox (`email`).
    #[serde(default)]
    address: Option<String>,
    /// Where its mails go out, `smtps://mail.example` or `smtp://mail.example:587`, which must speak TLS (`email`).
    #[serde(default)]
    smtp_url: Option<String>,
    /// As whom it is signed in there; absent: as the address (`email`).
    #[serde(default)]
    smtp_user: Option<String>,
}

/// A channel that is connected, or is being.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Connected {
    success: bool,
    connection_id: String,
    /// `connected`, or `connecting` when the other side takes long.
    status: String,
    /// Where the other side calls.
    webhook_url: String,
    channel_account_id: Option<String>,
    channel_account_name: Option<String>,
    /// Signs what goes either way (Standard Webhooks); shown once, for `webhook` and `email`.
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook_secret: Option<String>,
    /// What the app's pages at Meta are to be told together with the address (`whatsapp`).
    #[serde(skip_serializing_if = "Option::is_none")]
    verify_token: Option<String>,
}

/// What tells a connection apart from others of its organization.
#[derive(Clone, PartialEq, Eq)]
struct Which {
    credential_id: Option<String>,
    target_url: Option<String>,
    account: Option<String>,
}

fn no_credential(kind: Kind) -> ApiError {
    let text = "There is no token of a bot that the caller may use";
    ApiError::new(StatusCode::BAD_REQUEST, "NO_CREDENTIAL", text)
        .with_hint(format!("Keep one with POST /api/credentials (provider \"{}\").", kind.name()))
}

// What Telegram takes as a secret: letters and digits. A program's is one of Standard Webhooks. Others have one already. Discord never calls.
fn secret_of(kind: Kind, given: Option<Zeroizing<String>>) -> ApiResult<Zeroizing<String>> {
    let bytes = Zeroizing::new(rand::random::<[u8; 32]>());
    match kind {
        Kind::Telegram | Kind::Discord => Ok(Zeroizing::new(hex(bytes.as_ref()))),
        Kind::Webhook | Kind::Email => Ok(Zeroizing::new(format!("{WEBHOOK_SECRET}{}", BASE64.encode(bytes.as_ref())))),
        Kind::Slack | Kind::WhatsApp => {
            let fits = |secret: &Zeroizing<String>| {
                (16..=128).contains(&secret.len()) && secret.bytes().all(|b| b.is_ascii_graphic())
            };
            let text = match kind {
                Kind::Slack => {
                    "must be the signing secret of the Slack app, as its page \"Basic Information\" shows it"
                }
                _ => "must be the secret of the app at Meta, as its page \"App settings\" shows it",
            };
            given.filter(fits).ok_or_else(|| ApiError::invalid("signingSecret", "required", text))
        }
    }
}

// Whose account it is there, where the token alone does not say.
fn account_of(kind: Kind, config: &Config) -> ApiResult<Option<String>> {
    if kind == Kind::Email {
        let text = "must be the address of the mailbox";
        let address = config.address.as_deref().map(str::to_lowercase).filter(|address| address.contains('@'));
        return address.map(Some).ok_or_else(|| ApiError::invalid("config.address", "required", text));
    }
    if kind != Kind::WhatsApp {
        return Ok(None);
    }
    let number = config.phone_number_id.clone().filter(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()));
    let text = "must be the id of the telephone number, in digits, as the app's page \"API Setup\" at Meta shows it";
    number.map(Some).ok_or_else(|| ApiError::invalid("config.phoneNumberId", "required", text))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is kept of a secret that calls carry.
pub(super) fn hash_of(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

impl Integrations {
    async fn token_of(&self, reader: &Reader, kind: Kind, named: Option<&str>) -> ApiResult<String> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let (user, org) = (reader.user.as_str(), reader.org.as_str());
        let found = match named {
            Some(id) => identity::credential(&mut tx, id).await?,
            None => identity::credential_for(&mut tx, user, Some(org), kind.name()).await?,
        };
        let usable = |c: &Credential| {
            c.provider == kind.name() && (c.owner_id == user || (c.is_org_wide && c.organization() == Some(org)))
        };
        found.filter(usable).map(|credential| credential.id).ok_or_else(|| no_credential(kind))
    }

    // One that was ended, or never was, is made anew under its id.
    async fn former_channel(
        &self,
        reader: &Reader,
        kind: Kind,
        which: &Which,
    ) -> ApiResult<Option<model::ChannelConnection>> {
        let mut tx = self.platform.read(&Scope::member(reader.org.clone(), &reader.user)).await?;
        let all = model::channel_connections(&mut tx, reader.org.as_str(), kind.name()).await?;
        // An account is the same with another token, or another server.
        let same = |c: &model::ChannelConnection| match &which.account {
            Some(account) => c.account.as_ref() == Some(account),
            None => c.credential_id == which.credential_id && c.target_url == which.target_url,
        };
        Ok(all.into_iter().find(same))
    }

    fn mode_of(&self, kind: Kind, config: &Config) -> ChannelMode {
        match kind {
            Kind::Discord => ChannelMode::Gateway,
            Kind::Telegram if config.use_polling.unwrap_or(self.channels.polling) => ChannelMode::Polling,
            _ => ChannelMode::Webhook,
        }
    }

    fn door_of(&self, kind: Kind, config: &Config, id: &str) -> String {
        let base = config.webhook_base_url.as_deref().or(self.channels.webhook_base.as_deref()).unwrap_or_default();
        format!("{}/api/integrations/channels/{}/webhook/{id}", base.trim_end_matches('/'), kind.name())
    }

    // Until the other side has answered.
    async fn settled_channel(&self, reader: &Reader, kind: Kind, id: &str) -> ApiResult<model::ChannelConnection> {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = self.channel(reader, kind, id).await?;
            if found.status != "connecting" || Instant::now() > until {
                return Ok(found);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn connect_channel(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        kind: Kind,
        wanted: Wanted,
    ) -> ApiResult<Connected> {
        // Who connects it speaks here for those who speak there.
        caller.require_person()?;
        let reader = Reader::configuring(caller, scope)?;
        let Wanted { config, credential_id, signing_secret } = wanted;
        let credential_id = match kind {
            Kind::Webhook => None,
            _ => Some(self.token_of(&reader, kind, credential_id.as_deref()).await?),
        };
        let target_url = match kind {
            Kind::Webhook => config.target_url.clone(),
            Kind::Email => config.smtp_url.clone(),
            _ => None,
        };
        let which = Which { credential_id, target_url, account: account_of(kind, &config)? };
        let former = self.former_channel(&reader, kind, &which).await?;
        let request = scope.command_id(&caller.id);
        let id = former.as_ref().map_or_else(|| Uuid::new_v5(&request, b"channel").to_string(), |c| c.id.clone());
        let secret = secret_of(kind, signing_secret)?;
        let secret_ref = format!("{}{}", channel_secret_prefix(reader.org.as_str(), &id), Uuid::now_v7());
        self.platform.secrets.put_secret(&secret_ref, &secret).await?;
        let connect = ConnectChannel {
            connection_id: id.clone(),
            org_id: reader.org.to_string(),
            channel_type: kind.name().to_owned(),
            credential_id: which.credential_id,
            mode: self.mode_of(kind, &config),
            webhook_url: self.door_of(kind, &config, &id),
            target_url: which.target_url,
            secret_ref: secret_ref.clone(),
            secret_hash: hash_of(&secret),
            drop_pending_updates: config.drop_pending_updates,
            assistants: config.assistants.unwrap_or_else(|| vec![ASSISTANT_KEY.to_owned()]),
            account: which.account,
            login: config.smtp_user.filter(|_| kind == Kind::Email),
        };
        let (address, actor) = (Self::channel_address(&reader, &id)?, Actor::from(&**caller));
        let done = self.platform.submit(&address, &command(connect), &actor, scope).await.map_err(with_status);
        let fresh = done.as_ref().is_ok_and(|done| !done.outcome.repeated);
        let unused = if fresh { former.map(|former| former.secret_ref) } else { Some(secret_ref) };
        if let Some(unused) = unused {
            self.platform.secrets.destroy_secret(&unused).await?;
        }
        done?;
        let found = self.settled_channel(&reader, kind, &id).await?;
        if matches!(found.status.as_str(), "error" | "disconnected") {
            let code = found.last_error.unwrap_or_else(|| "ended".to_owned());
            let text = format!("The channel is not connected: {code}");
            let error = ApiError::new(StatusCode::BAD_REQUEST, "CHANNEL_NOT_CONNECTED", text);
            return Err(error.with_extra("success", false).with_extra("connectionId", id).with_extra("reason", code));
        }
        let verify_token = (kind == Kind::WhatsApp).then(|| meta_verify_token(&secret, &id));
        Ok(Connected {
            success: true,
            connection_id: id,
            status: found.status,
            webhook_url: found.webhook_url,
            channel_account_id: found.account_id,
            channel_account_name: found.account_name,
            webhook_secret: (fresh && matches!(kind, Kind::Webhook | Kind::Email)).then(|| secret.to_string()),
            verify_token,
        })
    }
}

/// Connect a channel (admins of the organization, and who has `cap:integrations.configure`)
///
/// What is said in its chats is said from then on in conversations of the caller's, one for each chat, in which the assistants
/// of the `config` take part; what they answer is said there.
#[utoipa::path(post, path = "/integrations/channels/{channelType}/connect", tag = "Channels", request_body = Wanted,
    params(("channelType" = String, Path, description = "Which messenger: `telegram`, `slack`, …")),
    responses((status = 200, description = "It is connected", body = Connected),
        (status = 400, description = "There is no token, or the other side refuses it"),
        (status = 403, description = "The caller may not"), (status = 404, description = "No such messenger"),
        (status = 409, description = "It is connected already")))]
async fn connect(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(kind): Path<String>,
    Json(wanted): Json<Wanted>,
) -> ApiResult<Json<Connected>> {
    let kind = Kind::named(&kind)?;
    Ok(Json(service.connect_channel(&caller, &scope, kind, wanted).await?))
}
