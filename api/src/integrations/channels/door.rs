//! Where messengers and programs knock. Whoever knows no secret learns nothing; what is told is in the log before they are
//! thanked for it, so that what is not was not taken, and comes again.

use std::time::Duration;

use axum::{
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use symbia_events::{integrations::slack_signature, messaging::webhook_signature};
use symbia_nats::channels::{Question, Said, What};
use symbia_projections::{Scope, integrations as model};
use time::OffsetDateTime;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Integrations, Kind, connecting::hash_of, no_connection};
use crate::http::{ApiError, ApiResult, Json, Path, Query};

/// Longest body.
const MOST: usize = 256 * 1024;
/// How long taking it in may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How far the clock of the other side may be off, in seconds (Standard Webhooks, and Slack).
const TOLERANCE: i64 = 300;
/// The header with Telegram's secret.
const TELEGRAM_SECRET: &str = "x-telegram-bot-api-secret-token";

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(told, looked_at))
}

fn refused() -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, "BAD_SECRET", "The call carries no secret or signature of this connection")
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
/// A program sends `{type: "channel.message.inbound", data: {id, text, sender: {id, name?}, chat: {id, type?, name?}}}`, or
/// `channel.message.edited` or `channel.message.deleted`. The same `webhook-id` again changes nothing.
#[utoipa::path(post, path = "/integrations/channels/{channelType}/webhook/{id}", tag = "Channels", security(()),
    request_body(content = Object, description = "What it tells"),
    params(("channelType" = String, Path, description = "`telegram`, `slack` or `webhook`"),
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
    if body.len() > MOST {
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "TOO_LARGE", "A call has at most 256 kB"));
    }
    let call = service.proven(kind, &connection, &headers, &body).await?;
    if kind == Kind::Slack
        && let Some(challenge) = slack_challenge(&body)
    {
        return Ok(Json(json!({ "challenge": challenge })));
    }
    let unread = || ApiError::new(StatusCode::BAD_REQUEST, "MALFORMED", "This is nothing that such a channel tells");
    let body = String::from_utf8(body.into()).map_err(|_| unread())?;
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
}

/// Say that this is where a connection is called
#[utoipa::path(get, path = "/integrations/channels/{channelType}/webhook/{id}", tag = "Channels", security(()),
    params(("channelType" = String, Path, description = "`telegram`, `slack` or `webhook`"),
        ("id" = String, Path, description = "Id of the connection"), Challenge),
    responses((status = 200, description = "The challenge, or `{ok, connectionId}`", body = Object),
        (status = 400, description = "No messenger"), (status = 404, description = "There is none")))]
async fn looked_at(
    State(service): State<Integrations>,
    Path((kind, id)): Path<(String, String)>,
    Query(asked): Query<Challenge>,
) -> ApiResult<Response> {
    service.knocked_at(Kind::named(&kind)?, &id).await?;
    let challenge = asked.challenge.filter(|text| text.len() <= 256 && text.bytes().all(|b| b.is_ascii_alphanumeric()));
    Ok(match challenge {
        Some(challenge) => challenge.into_response(),
        None => Json(json!({ "ok": true, "connectionId": id })).into_response(),
    })
}
