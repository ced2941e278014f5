//! Where messengers and programs knock. Whoever knows no secret learns nothing; what is told is in the log before they are
//! thanked for it, so that what is not was not taken, and comes again.

use std::time::Duration;

use axum::{
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use symbia_events::{
    integrations::{meta_signature, meta_verify_token, slack_signature},
    messaging::webhook_signature,
};
use symbia_nats::channels::{Question, Said, What};
use symbia_projections::{Scope, integrations as model};
use time::OffsetDateTime;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;

use super::{Integrations, Kind, connecting::hash_of, no_connection};
use crate::http::{ApiError, ApiResult, Json, Path, Query, routes};

/// Longest body.
const MOST: usize = 256 * 1024;
/// Longest mail: with its files, and in base64, it must fit into a message of the broker.
const MOST_MAIL: usize = 4 * 1024 * 1024;
/// How long taking it in may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How far the clock of the other side may be off, in seconds (Standard Webhooks, and Slack).
const TOLERANCE: i64 = 300;
/// The header with Telegram's secret.
const TELEGRAM_SECRET: &str = "x-telegram-bot-api-secret-token";

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    // In base64 a mail is longer by a third, and some lines more.
    OpenApiRouter::new().routes(routes!(told, looked_at)).layer(DefaultBodyLimit::max(MOST_MAIL * 3 / 2))
}

fn refused() -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, "BAD_SECRET", "The call carries no secret or signature of this connection")
}

fn too_large(text: &'static str) -> ApiError {
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "TOO_LARGE", text)
}

// A mail as `{raw}` in base64: of a body that is one, or of JSON with one in base64 or as it is.
fn mail_of(headers: &HeaderMap, body: &[u8]) -> ApiResult<Option<String>> {
    #[derive(Deserialize)]
    struct Given {
        raw: String,
    }
    let is_mail = header(headers, "content-type").is_some_and(|kind| kind.starts_with("message/rfc822"));
    let mail = if is_mail {
        body.to_vec()
    } else {
        let Ok(Given { raw }) = serde_json::from_slice(body) else { return Ok(None) };
        // Headers have colons, and base64 has none.
        match BASE64.decode(raw.trim()) {
            Ok(mail) => mail,
            Err(_) if raw.contains(':') => raw.into_bytes(),
            Err(_) => return Ok(None),
        }
    };
    if mail.len() > MOST_MAIL {
        return Err(too_large("A mail has at most 4 MB"));
    }
    Ok(Some(json!({ "raw": BASE64.encode(mail) }).to_string()))
}

// Digests are compared, so that the time tells nothing about the texts.
fn same(one: &str, other: &str) -> bool {
    Sha256::digest(one.as_bytes()) == Sha256::digest(other.as_bytes())
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

// Seconds since 1970, when that is not long ago: an old call may be one that somebody has overheard.
fn lately(headers: &HeaderMap, name: &str) -> Option<i64> {
    let timestamp = header(headers, name)?.parse::<i64>().ok()?;
    let away = OffsetDateTime::now_utc().unix_timestamp().checked_sub(timestamp)?.checked_abs()?;
    (away <= TOLERANCE).then_some(timestamp)
}

// What Slack asks of an address before it calls there.
fn slack_challenge(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Asked {
        #[serde(rename = "type")]
        kind: String,
        challenge: String,
    }
    let asked: Asked = serde_json::from_slice(body).ok()?;
    (asked.kind == "url_verification" && asked.challenge.len() <= 256).then_some(asked.challenge)
}

impl Integrations {
    async fn knocked_at(&self, kind: Kind, id: &str) -> ApiResult<model::ChannelConnection> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let found = model::channel_connection(&mut tx, id).await?;
        found.filter(|connection| connection.channel_type == kind.name()).ok_or_else(no_connection)
    }

    // The id of the call, where it has one of its own.
    async fn proven(
        &self,
        kind: Kind,
        at: &model::ChannelConnection,
        headers: &HeaderMap,
        body: &[u8],
    ) -> ApiResult<Option<String>> {
        // It tells over a connection of ours.
        if kind == Kind::Discord {
            return Err(refused());
        }
        if kind == Kind::Telegram {
            let secret = header(headers, TELEGRAM_SECRET).ok_or_else(refused)?;
            return if same(&hash_of(secret), &at.secret_hash) { Ok(None) } else { Err(refused()) };
        }
        let secret = self.platform.secrets.secret(&at.secret_ref).await?.ok_or_else(refused)?;
        if kind == Kind::Slack {
            let timestamp = lately(headers, "x-slack-request-timestamp").ok_or_else(refused)?;
            let given = header(headers, "x-slack-signature").ok_or_else(refused)?;
            return if same(given, &slack_signature(&secret, timestamp, body)) { Ok(None) } else { Err(refused()) };
        }
        if kind == Kind::WhatsApp {
            let given = header(headers, "x-hub-signature-256").ok_or_else(refused)?;
            return if same(given, &meta_signature(&secret, body)) { Ok(None) } else { Err(refused()) };
        }
        let (id, timestamp) = (header(headers, "webhook-id"), lately(headers, "webhook-timestamp"));
        let (Some(id), Some(timestamp)) = (id, timestamp) else { return Err(refused()) };
        let expected = webhook_signature(&secret, id, timestamp, body).ok_or_else(refused)?;
        // Several, while a secret is being replaced.
        let given = header(headers, "webhook-signature").unwrap_or_default().split(' ');
        let fits = given.filter(|signature| same(signature, &expected)).count() > 0;
        if fits { Ok(Some(id.to_owned())) } else { Err(refused()) }
    }
}

/// Take in what a messenger tells (its secret or signature), or a program (its signature, as in Standard Webhooks)
///
/// A mail server sends a mail (`message/rfc822`), or `{raw}` with one, in base64 or as it is, under a signature as a program does.
///
/// A program sends `{type: "channel.message.inbound", data: {id, text, sender: {id, name?}, chat: {id, type?, name?}}}`, or
/// `channel.message.edited` or `channel.message.deleted`. The same `webhook-id` again changes nothing.
#[utoipa::path(post, path = "/integrations/channels/{channelType}/webhook/{id}", tag = "Channels", security(()),
    request_body(content = Object, description = "What it tells"),
    params(("channelType" = String, Path, description = "Which messenger: `telegram`, `slack`, …"),
        ("id" = String, Path, description = "Id of the connection")),
    responses((status = 200, description = "`{ok: true}`, or Slack's challenge", body = Object),
        (status = 400, description = "Not to be read"), (status = 429, description = "So much was told lately"),
        (status = 403, description = "Another secret, or another signature"), (status = 404, description = "There is none"),
        (status = 503, description = "It could not be taken in: tell it again")))]
async fn told(
    State(service): State<Integrations>,
    Path((kind, id)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> ApiResult<Json<Value>> {
    let kind = Kind::named(&kind)?;
    let connection = service.knocked_at(kind, &id).await?;
    if kind != Kind::Email && body.len() > MOST {
        return Err(too_large("A call has at most 256 kB"));
    }
    let call = service.proven(kind, &connection, &headers, &body).await?;
    if kind == Kind::Slack
        && let Some(challenge) = slack_challenge(&body)
    {
        return Ok(Json(json!({ "challenge": challenge })));
    }
    let unread = || ApiError::new(StatusCode::BAD_REQUEST, "MALFORMED", "This is nothing that such a channel tells");
    let body = match kind {
        Kind::Email => mail_of(&headers, &body)?.ok_or_else(unread)?,
        _ => String::from_utf8(body.into()).map_err(|_| unread())?,
    };
    let question = Question { connection_id: id, what: What::Told { body, id: call } };
    match question.ask(&service.platform.nats, PATIENCE).await {
        Ok(Said::Taken) => Ok(Json(json!({ "ok": true }))),
        Ok(Said::Malformed) => Err(unread()),
        Ok(Said::Flooded { seconds }) => Err(ApiError::rate_limited(u32::try_from(seconds).unwrap_or(u32::MAX))),
        Ok(_) => Err(ApiError::unavailable("The channel worker", 2)),
        Err(error) => {
            tracing::warn!(%error, "what a messenger tells is not taken in");
            Err(ApiError::unavailable("The channel worker", 2))
        }
    }
}

/// What some ask before they call.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Challenge {
    /// To be given back.
    #[serde(default)]
    challenge: Option<String>,
    /// `subscribe` (Meta).
    #[serde(default, rename = "hub.mode")]
    mode: Option<String>,
    /// The `verifyToken` that was given when the channel was connected (Meta).
    #[serde(default, rename = "hub.verify_token")]
    verify_token: Option<String>,
    /// To be given back to who knows that (Meta).
    #[serde(default, rename = "hub.challenge")]
    hub_challenge: Option<String>,
}

impl Integrations {
    // What Meta asks of an address before it calls there.
    async fn verified(&self, at: &model::ChannelConnection, asked: &Challenge) -> ApiResult<String> {
        let secret = self.platform.secrets.secret(&at.secret_ref).await?.ok_or_else(refused)?;
        let expected = meta_verify_token(&secret, &at.id);
        let knows = asked.verify_token.as_deref().is_some_and(|token| same(token, &expected));
        let challenge = asked.hub_challenge.clone().filter(|text| text.len() <= 256);
        challenge.filter(|_| knows && asked.mode.as_deref() == Some("subscribe")).ok_or_else(refused)
    }
}

/// Say that this is where a connection is called
#[utoipa::path(get, path = "/integrations/channels/{channelType}/webhook/{id}", tag = "Channels", security(()),
    params(("channelType" = String, Path, description = "Which messenger: `telegram`, `slack`, …"),
        ("id" = String, Path, description = "Id of the connection"), Challenge),
    responses((status = 200, description = "The challenge, or `{ok, connectionId}`", body = Object),
        (status = 403, description = "Another token than the connection's"),
        (status = 400, description = "No messenger"), (status = 404, description = "There is none")))]
async fn looked_at(
    State(service): State<Integrations>,
    Path((kind, id)): Path<(String, String)>,
    Query(asked): Query<Challenge>,
) -> ApiResult<Response> {
    let kind = Kind::named(&kind)?;
    let connection = service.knocked_at(kind, &id).await?;
    if kind == Kind::WhatsApp && asked.mode.is_some() {
        return Ok(service.verified(&connection, &asked).await?.into_response());
    }
    let challenge = asked.challenge.filter(|text| text.len() <= 256 && text.bytes().all(|b| b.is_ascii_alphanumeric()));
    Ok(match challenge {
        Some(challenge) => challenge.into_response(),
        None => Json(json!({ "ok": true, "connectionId": id })).into_response(),
    })
}
