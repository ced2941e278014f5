//! Calls of providers' own APIs, passed on as they come (integrations.md §28): with the key put in on the way, through the egress
//! guard, and in bounded memory both ways. Before a call is made the log has that it may be, and after it exactly one end, which
//! has what the answer says that it took.

mod call;
mod doors;
mod request;
mod usage;

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header::CONTENT_LENGTH},
    response::Response,
    routing::any,
};
use futures::StreamExt;
use symbia_commands::{
    Actor,
    integrations::{MODEL_SCOPE, PassthroughCommand, RequestPassthrough, may_ask},
};
use symbia_events::{
    AggregateRef, CommandId, Service,
    integrations::{ErrorCategory, PassthroughEvent},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::Instant;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

pub(super) use self::doors::Doors;
pub use self::doors::{KeyStands, ProviderDoor};
use self::{
    call::{Call, Open},
    request::{Asks, asks, below, is_kept},
};
use super::{
    Integrations,
    ask::{context, tenant},
    errors::refused,
    hub::{Ear, Heard},
    said::Failure,
};
use crate::{
    http::{ApiError, ApiResult, Caller, Path, RequestScope},
    platform::Consistency,
};

/// Names, in milliseconds, how long a call may take in all.
const TIMEOUT: &str = "x-symbia-timeout-ms";
const TIMEOUTS: std::ops::RangeInclusive<u64> = 1_000..=600_000;
/// How long leave may take.
const LEAVE: Duration = Duration::from_secs(30);
/// So much of a body is looked at for its model. The rest, and bodies that are no JSON, go by unseen.
const LOOKED_AT: usize = 8 * 1024 * 1024;
const METHODS: [Method; 6] = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    // What comes behind the provider may have slashes, for which descriptions of APIs have no word.
    let described = OpenApiRouter::with_openapi(Described::openapi());
    described.route("/integrations/passthrough/{provider}/{*path}", any(pass))
}

#[derive(OpenApi)]
#[openapi(paths(pass))]
struct Described;

/// A body, as far as it was looked at.
struct Looked {
    head: Bytes,
    // What comes after that.
    rest: Option<Body>,
}

// What is no JSON is not looked at.
async fn looked_at(headers: &HeaderMap, body: Body) -> ApiResult<Looked> {
    let kind = headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.is_empty() && !kind.to_ascii_lowercase().contains("json") {
        return Ok(Looked { head: Bytes::new(), rest: Some(body) });
    }
    let (mut head, mut stream) = (Vec::new(), body.into_data_stream());
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|_| ApiError::invalid("body", "format", "broke off"))?;
        head.extend_from_slice(&piece);
        if head.len() > LOOKED_AT {
            return Ok(Looked { head: head.into(), rest: Some(Body::from_stream(stream)) });
        }
    }
    Ok(Looked { head: head.into(), rest: None })
}

// Of how it stands in the request, since what is decoded tells no encoded slash from another.
fn path_of<'u>(uri: &'u axum::http::Uri, provider: &str) -> &'u str {
    let behind = format!("/integrations/passthrough/{provider}/");
    uri.path().split_once(&behind).map_or("", |(_, path)| path)
}

fn lasts(headers: &HeaderMap) -> ApiResult<Duration> {
    let Some(named) = headers.get(TIMEOUT) else { return Ok(Duration::from_millis(*TIMEOUTS.end())) };
    let ms = named.to_str().ok().and_then(|ms| ms.parse().ok()).filter(|ms| TIMEOUTS.contains(ms));
    ms.map(Duration::from_millis).ok_or_else(|| refused(TIMEOUT, "must be 1000 to 600000"))
}

// A key that names models asks those, and nothing of which it cannot be told what it asks.
fn allowed(scopes: &[String], provider: &str, asks: &Asks) -> Result<(), Failure> {
    let limited = scopes.iter().any(|scope| scope.starts_with(MODEL_SCOPE));
    let reached = asks.model.as_deref().is_some_and(|model| !asks.unclear && may_ask(scopes, provider, model));
    if !limited || reached {
        return Ok(());
    }
    let text = match &asks.model {
        Some(model) if !asks.unclear => {
            format!("this API key may not ask '{provider}/{model}': its scopes name other models")
        }
        _ => "this API key asks certain models only, and which one this call asks cannot be told: name it in the body, as \
              'model' and nowhere else"
            .to_owned(),
    };
    Err(Failure::new(ErrorCategory::Auth, "model_not_allowed", text))
}

/// Call a provider's own API
///
/// Method, query, headers and body go to the provider as they come, below its base URL and with the key put in (the caller's own of
/// the vault, else one shared with the organization, else the installation's), and its answer comes back as it is said. The installation's
/// key does for calls of which the provider keeps nothing. What the
/// answer's `usage` tells counts like other requests; `X-Symbia-Request-Id` names it. A key that may ask certain models only names
/// one of them in a JSON body. `X-Symbia-Timeout-Ms` says how long it may take, 1000 to 600000; it must begin to answer
/// within 110 s. An organization with guardrails passes no calls on: they cannot be looked into. Redirects are not followed.
#[utoipa::path(method(get, post, put, patch, delete), path = "/integrations/passthrough/{provider}/{path}", tag = "Execution",
    params(("provider" = String, Path, description = "`openai`, `anthropic` or `huggingface`"),
        ("path" = String, Path, description = "What is called, below the provider's base URL; may have slashes")),
    responses((status = 200, description = "The provider's answer, whatever its status"),
        (status = 400, description = "The path does not stay below the base URL"),
        (status = 401, description = "Not authenticated, or no key"), (status = 402, description = "A budget is used up"),
        (status = 403, description = "The API key, the egress policy or guardrails do not let it out, or it takes a key of your own"),
        (status = 404, description = "No such provider"), (status = 429, description = "Asked too often"),
        (status = 502, description = "The provider is not reached"), (status = 504, description = "It took too long")))]
async fn pass(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path((provider, _)): Path<(String, String)>,
    request: Request,
) -> ApiResult<Response> {
    let (parts, body) = request.into_parts();
    let door = service.doors.find(&provider).ok_or_else(|| {
        let names = service.doors.names();
        ApiError::not_found("Provider").with_hint(format!("Calls are passed on to: {names}."))
    })?;
    if !METHODS.contains(&parts.method) {
        return Err(refused("method", format!("{} is not passed on", parts.method)));
    }
    let path = path_of(&parts.uri, &provider);
    let url = below(door.base_url(), path, parts.uri.query())
        .map_err(|astray| ApiError::invalid("path", "format", astray.to_string()))?;
    let lasts = lasts(&parts.headers)?;
    let looked = looked_at(&parts.headers, body).await?;
    let whole = looked.rest.is_none().then_some(&looked.head[..]);
    let asks = asks(&parts.headers, whole, path, parts.uri.query());
    let kept = is_kept(&parts.method, path, whole);
    allowed(&caller.scopes, &provider, &asks).map_err(|failure| failure.refusal())?;

    let declared = parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let request_bytes = if looked.rest.is_none() { looked.head.len() as u64 } else { declared.unwrap_or(0) };
    let mut open =
        service.opened(&caller, &scope, &provider, (&parts.method, path), &asks, request_bytes, lasts).await?;
    let call = Call { door, url, method: parts.method, headers: parts.headers, head: looked.head, rest: looked.rest };
    let answered = match service.key_for(&open, door, &provider, kept).await {
        Ok(key) => call.made(&mut open, key).await,
        Err(failure) => Err(failure),
    };
    match answered {
        Ok(response) => Ok(open.passing(response).await),
        Err(failure) => {
            let error = failure.error(&open.request_id);
            open.failed(&failure).await;
            Err(error)
        }
    }
}

impl Integrations {
    // Leave for a call, in the log.
    #[allow(clippy::too_many_arguments, reason = "what is recorded of a call, once")]
    async fn opened(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        provider: &str,
        (method, path): (&Method, &str),
        asks: &Asks,
        request_bytes: u64,
        lasts: Duration,
    ) -> ApiResult<Open> {
        let tenant = tenant(caller, scope)?;
        let actor = Actor::from(&**caller);
        let key = self.key_of(&actor).await?;
        let command_id = CommandId(scope.command_id(&actor.id));
        let request_id = Uuid::new_v5(&command_id.0, b"passthrough").to_string();
        let address = AggregateRef::new(Service::Integrations, tenant, "passthrough", &request_id);
        let address = address.map_err(ApiError::internal)?;
        let deadline = (OffsetDateTime::now_utc() + lasts).format(&Rfc3339).map_err(ApiError::internal)?;
        let command = PassthroughCommand::from(RequestPassthrough {
            request_id: request_id.clone(),
            provider: provider.to_owned(),
            method: method.to_string(),
            path: path.to_owned(),
            model: asks.model.clone(),
            estimated_tokens: if asks.model.is_some() { request_bytes.div_ceil(4) } else { 0 },
            deadline,
            context: context(scope),
        });
        let mut ear = self.hub.listen_for(address.clone());
        let mut open = Open::new(self, scope, actor, address, request_id, (provider, Instant::now() + lasts));
        open.asks(asks.model.clone(), request_bytes);
        let sent =
            self.platform.submit_as(command_id, open.address(), &command, open.actor(), scope, Consistency::Eventual);
        let done = sent.await?;
        if done.outcome.repeated {
            let text = "A call with this idempotency key was made before; it is not made again";
            return Err(ApiError::new(StatusCode::CONFLICT, "CONFLICT", text));
        }
        open.begun();
        let heard = tokio::time::timeout(LEAVE.min(lasts), admitted(&mut ear)).await;
        let failure = match heard {
            Ok(Ok(())) => return Ok(open),
            Ok(Err(refusal)) => {
                open.is_over();
                let message = refusal.message.as_ref().and_then(|message| key.open(message).ok());
                let code = refusal.code.unwrap_or_default();
                let message = message.unwrap_or_else(|| "the call may not be made".to_owned());
                let failure = Failure::new(refusal.category, &code, message);
                return Err(Failure { retry_after_ms: refusal.retry_after_ms, ..failure }.error(&open.request_id));
            }
            Err(_) => Failure::new(ErrorCategory::Timeout, "deadline", "nobody says whether the call may be made"),
        };
        open.failed(&failure).await;
        Err(failure.error(&open.request_id))
    }
}

async fn admitted(ear: &mut Ear) -> Result<(), symbia_events::integrations::PassthroughFailed> {
    loop {
        let Heard::Event(event) = ear.next().await else { continue };
        match event.decode() {
            Ok(PassthroughEvent::PassthroughAdmitted(_)) => return Ok(()),
            Ok(PassthroughEvent::PassthroughFailed(refusal)) => return Err(refusal),
            _ => {}
        }
    }
}
