//! Keeps the keys of access tokens: makes the first, rotates, and follows what other processes did (identity.md §16.1).
//!
//! The log knows the public parts, the secret store the private ones, and every process that verifies reads both from the
//! read models. A token signed with a key that a process has not heard of makes it look again.

use std::time::Duration;

use axum::{extract::State, http::StatusCode};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use symbia_commands::{
    Actor, CommandEnvelope, OutcomeStatus,
    identity::{RotateSigningKey, SIGNING_KEYS, SigningKeyCommand},
};
use symbia_events::{AggregateRef, CommandId, OrgId, Service, identity::PublicJwk};
use symbia_projections::{Scope, identity as model};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{
    Identity,
    keys::{SigningKey, SigningKeys, VerifyingKey},
    shapes::iso,
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, routes},
    platform::Platform,
};

/// How often a process looks for keys that others made.
const LOOK: Duration = Duration::from_secs(30);
/// Where a process tells the others that it rotated.
const NEWS: &str = "symbia.notice.signing-keys";
/// How often it tries while there are none.
const TRY: Duration = Duration::from_millis(200);
/// How often it looks whether another process's first key shows.
const SHOWN: Duration = Duration::from_millis(20);

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(rotate))
}

impl Platform {
    /// Takes over the keys as the read models know them. True when one of them signs.
    ///
    /// # Errors
    /// 503 when database or secret store are away.
    pub async fn load_signing_keys(&self) -> ApiResult<bool> {
        if self.tokens.keys().is_none() {
            return Ok(true);
        }
        let mut tx = self.read(&Scope::platform()).await?;
        let stored = model::signing_keys(&mut tx, OffsetDateTime::now_utc()).await?;
        drop(tx);
        if stored.is_empty() {
            // Keys that were given to this process stay, until the log has its own.
            return Ok(false);
        }
        let (mut signer, mut retired) = (None, Vec::new());
        for key in stored {
            match key.retired_at {
                None => match self.secrets.secret(&key.private_key_ref).await? {
                    Some(secret) => signer = Some(SigningKey::of_secret(&secret).map_err(ApiError::internal)?),
                    // Of a log that was brought here without its secret store: it still verifies.
                    None => retired.push(VerifyingKey::new(&key.kid, &key.public_x).map_err(ApiError::internal)?),
                },
                Some(_) => retired.push(VerifyingKey::new(&key.kid, &key.public_x).map_err(ApiError::internal)?),
            }
        }
        let signs = signer.is_some();
        self.tokens.replace(SigningKeys::new(signer, retired));
        Ok(signs)
    }

    /// Makes a new key the one that signs. With `compromised`, what the old one signed is refused at once.
    ///
    /// # Errors
    /// 409 when another process did so meanwhile; 503 when bus, database or secret store are away.
    pub async fn rotate_signing_key(&self, actor: &Actor, compromised: bool) -> ApiResult<()> {
        if self.tokens.keys().is_none() {
            return Err(ApiError::conflict("Tokens are signed with SESSION_SECRET: change that, and restart"));
        }
        let mut tx = self.read(&Scope::platform()).await?;
        let stored = model::signing_keys(&mut tx, OffsetDateTime::now_utc()).await?;
        drop(tx);
        let active = stored.into_iter().find(|key| key.retired_at.is_none());
        let key = SigningKey::generate().map_err(ApiError::internal)?;
        let reference = format!("signing-key:{}", key.kid());
        self.secrets.put_secret(&reference, &key.to_secret()).await?;
        let command = SigningKeyCommand::from(RotateSigningKey {
            kid: key.kid().to_owned(),
            alg: "EdDSA".to_owned(),
            public_jwk: PublicJwk { kty: "OKP".to_owned(), crv: "Ed25519".to_owned(), x: key.x().to_owned() },
            private_key_ref: reference.clone(),
            replaces: active.as_ref().map(|key| key.kid.clone()),
            compromised,
        });
        let address = AggregateRef::new(Service::Identity, OrgId::global(), "signing-key", SIGNING_KEYS);
        let address = address.map_err(ApiError::internal)?;
        let (id, at) = (CommandId::random(), OffsetDateTime::now_utc());
        let envelope =
            CommandEnvelope::new(&self.keys, &address, &command, actor, id, at).map_err(ApiError::internal)?;
        let outcome = self.bus.send(&address, &envelope, self.settings.command_timeout).await?;
        if outcome.status != OutcomeStatus::Accepted {
            // Only a refusal is final: what is pending may still be done, and needs the private part.
            self.secrets.destroy_secret(&reference).await?;
            let rejection = outcome.rejection.map(ApiError::from);
            return Err(rejection.unwrap_or_else(|| ApiError::unavailable("The log", 2)));
        }
        if let Some(position) = outcome.position {
            self.positions.wait_for(Service::Identity.name(), position, self.settings.visible_within).await;
        }
        if let Some(old) = active {
            // It signs no more.
            self.secrets.destroy_secret(&old.private_key_ref).await?;
        }
        self.load_signing_keys().await?;
        if self.nats.publish(NEWS, "".into()).await.is_err() {
            tracing::warn!("other processes hear of the new signing key when they look for themselves");
        }
        Ok(())
    }

    /// Loads the keys; makes the first, and one in the place of a key that has lost its private part.
    ///
    /// # Errors
    /// 503 when bus, database or secret store are away.
    pub async fn ensure_signing_key(&self) -> ApiResult<()> {
        if self.load_signing_keys().await? {
            return Ok(());
        }
        match self.rotate_signing_key(&Actor::service("identity"), false).await {
            // Another process was first; the read models may not show it yet.
            Err(error) if error.status() == StatusCode::CONFLICT => {
                let shown = async {
                    while !self.load_signing_keys().await? {
                        tokio::time::sleep(SHOWN).await;
                    }
                    Ok(())
                };
                let within = tokio::time::timeout(self.settings.visible_within, shown).await;
                within.unwrap_or_else(|_| Err(ApiError::unavailable("The signing key", 1)))
            }
            other => other,
        }
    }

    /// Follows the keys until `stop`, and rotates a key that has signed for `rotate_after`.
    pub async fn keep_signing_keys(self, rotate_after: Duration, stop: CancellationToken) {
        let mut news = self.nats.subscribe(NEWS).await.ok();
        let mut pause = TRY;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                Some(_) = async { news.as_mut()?.next().await } => {}
            }
            pause = match self.look_after_signing_keys(rotate_after).await {
                Ok(()) => LOOK,
                Err(error) => {
                    tracing::warn!(
                        error = error.message(),
                        "the token signing keys cannot be looked after, trying again"
                    );
                    TRY
                }
            };
        }
    }

    async fn look_after_signing_keys(&self, rotate_after: Duration) -> ApiResult<()> {
        self.ensure_signing_key().await?;
        let mut tx = self.read(&Scope::platform()).await?;
        let now = OffsetDateTime::now_utc();
        let stored = model::signing_keys(&mut tx, now).await?;
        drop(tx);
        if stored.iter().any(|key| key.retired_at.is_none() && key.not_before + rotate_after < now) {
            match self.rotate_signing_key(&Actor::service("identity"), false).await {
                Err(error) if error.status() == StatusCode::CONFLICT => {}
                other => other?,
            }
        }
        Ok(())
    }
}

/// A key that tokens are or were signed with.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Key {
    kid: String,
    alg: &'static str,
    /// Whether it signs.
    active: bool,
    not_before: String,
    retired_at: Option<String>,
    /// Until when what it signed is accepted.
    verify_until: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct Keys {
    keys: Vec<Key>,
}

impl Identity {
    async fn signing_key_list(&self) -> ApiResult<Json<Keys>> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let keys = model::signing_keys(&mut tx, OffsetDateTime::now_utc()).await?;
        let key = |key: model::SigningKey| Key {
            kid: key.kid,
            alg: "EdDSA",
            active: key.retired_at.is_none(),
            not_before: iso(key.not_before),
            retired_at: key.retired_at.map(iso),
            verify_until: key.verify_until.map(iso),
        };
        Ok(Json(Keys { keys: keys.into_iter().map(key).collect() }))
    }
}

/// List the keys whose access tokens are accepted (super admin)
#[utoipa::path(get, path = "/admin/signing-keys", tag = "Administration",
    responses((status = 200, description = "The keys", body = Keys)))]
async fn list(State(identity): State<Identity>, caller: Caller) -> ApiResult<Json<Keys>> {
    caller.require_super_admin()?;
    identity.signing_key_list().await
}

/// How to rotate.
#[derive(Deserialize, ToSchema)]
struct Rotation {
    /// The present key has leaked: the tokens it signed are refused at once, and everybody signs in again.
    #[serde(default)]
    compromised: bool,
}

/// Sign access tokens with a new key (super admin)
#[utoipa::path(post, path = "/admin/signing-keys/rotate", tag = "Administration", request_body = Rotation,
    responses((status = 200, description = "The keys", body = Keys)))]
async fn rotate(
    State(identity): State<Identity>,
    caller: Caller,
    Json(rotation): Json<Rotation>,
) -> ApiResult<Json<Keys>> {
    caller.require_super_admin()?;
    identity.platform.rotate_signing_key(&Actor::from(&*caller), rotation.compromised).await?;
    identity.signing_key_list().await
}
