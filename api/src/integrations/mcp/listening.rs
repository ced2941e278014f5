//! What a client is told without asking, over the stream that it opens with GET: that its lists of tools, prompts or resources are
//! others now, and that a resource is which its session has subscribed to. The stream ends with its session, and when its
//! credential is no longer good.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use async_nats::Subscriber;
use axum::{
    extract::{FromRequestParts, OriginalUri, State},
    http::{HeaderMap, Request, StatusCode, Uri, header, request::Parts},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures::{StreamExt, stream};
use rmcp::{ErrorData, model::ProtocolVersion};
use serde_json::json;
use symbia_events::{OrgId, Service};
use symbia_nats::subscriptions::Subscribed;
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::{self, Instant, Interval},
};
use utoipa_axum::router::OpenApiRouter;

use super::{Choice, Tools, resources::changes_by_itself, session::Sessions, watching::digest};
use crate::{
    feed::access::Slot,
    http::{ApiError, ApiResult, Authenticator, Caller, Query, RequestScope, routes},
    integrations::{Integrations, ask::tenant},
};

/// Streams of one principal in this process.
const MOST: usize = 50;
/// How often a sign of life is given, and it is looked whether the caller may still listen.
const ALIVE: Duration = Duration::from_secs(15);
/// The header that names the version of the protocol.
const VERSION: &str = "mcp-protocol-version";

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(listen))
}

/// A request's credential, to be asked about again.
struct Credential {
    headers: HeaderMap,
    uri: Uri,
    authenticator: Arc<dyn Authenticator>,
}

impl<S: Send + Sync> FromRequestParts<S> for Credential {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let authenticator = parts.extensions.get::<Arc<dyn Authenticator>>().cloned();
        let authenticator =
            authenticator.ok_or_else(|| ApiError::internal("the service was built without an authenticator"))?;
        // A token for the tools alone opens nothing elsewhere: the whole path counts.
        let whole = parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |OriginalUri(uri)| uri);
        Ok(Credential { headers: parts.headers.clone(), uri: whole.clone(), authenticator })
    }
}

impl Credential {
    /// The caller as it is now.
    async fn caller(&self) -> ApiResult<Caller> {
        let mut request = Request::new(());
        self.headers.clone_into(request.headers_mut());
        self.uri.clone_into(request.uri_mut());
        request.extensions_mut().insert(Arc::clone(&self.authenticator));
        request.extensions_mut().insert(Service::Integrations);
        Caller::from_request_parts(&mut request.into_parts().0, &()).await
    }
}

/// Hear when the lists of tools, prompts or resources change, and resources that the session has subscribed to
///
/// Server-sent events, each a notification of JSON-RPC 2.0, until the session is ended. `integrations` and `tags` choose among
/// the tools, as with POST.
#[utoipa::path(get, path = "/integrations/mcp", tag = "MCP",
    params(Choice, ("Mcp-Session-Id" = Option<String>, Header, description = "The session")),
    responses((status = 200, description = "Notifications", body = String, content_type = "text/event-stream"),
        (status = 400, description = "The version of the protocol is unknown"),
        (status = 404, description = "The session is none of the caller's"),
        (status = 406, description = "`Accept` does not name text/event-stream"),
        (status = 429, description = "Too many streams are open")))]
async fn listen(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    credential: Credential,
    Query(choice): Query<Choice>,
    mut headers: HeaderMap,
) -> ApiResult<Response> {
    check(&headers)?;
    let org = tenant(&caller, &scope)?;
    let sessions = Sessions { service: &service, caller: &caller, scope: &scope };
    let session = match sessions.taken(&mut headers).await {
        Ok(session) => session,
        Err(none) => return Ok(none.into_response()),
    };
    let slot = service.listeners.take(&caller.id, MOST)?;
    let away = |_| ApiError::unavailable("The broker", 2);
    let (ends, subscribing) = match &session {
        Some(id) => {
            let ends = service.sessions.hear_of(id).await.map_err(away)?;
            (Some(ends), Some(service.subscriptions.hear_of(id).await.map_err(away)?))
        }
        None => (None, None),
    };
    // Heard from now on, and then looked at: nothing falls between.
    let changes = service.changes.listen();
    let tools = Tools { service, caller, scope, headers, choice, session };
    let known = Lists::of(&tools).await.map_err(ApiError::internal)?;
    let lines = VecDeque::from([Event::default().comment("listening")]);
    let alive = time::interval_at(Instant::now() + ALIVE, ALIVE);
    let subscribed = Subscribed::new();
    let mut listening =
        Listening { tools, credential, org, changes, ends, subscribing, subscribed, known, lines, alive, _slot: slot };
    listening.subscriptions_changed().await;
    let events = stream::unfold(listening, |mut listening| async {
        let event = listening.next().await?;
        Some((Ok::<_, Infallible>(event), listening))
    });
    let mut response = Sse::new(events).into_response();
    // Proxies would hold the notifications back.
    response.headers_mut().insert("x-accel-buffering", header::HeaderValue::from_static("no"));
    Ok(response)
}

fn check(headers: &HeaderMap) -> ApiResult<()> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let is_stream = |kind: &str| kind.split(';').next().unwrap_or_default().trim() == "text/event-stream";
    // By name, as the protocol wants it: who takes anything does not want what never ends.
    if !text("accept").is_some_and(|accept| accept.split(',').any(is_stream)) {
        let message = "The stream is server-sent events: send 'Accept: text/event-stream'";
        return Err(ApiError::new(StatusCode::NOT_ACCEPTABLE, "NOT_ACCEPTABLE", message));
    }
    let is_known = |version: &str| ProtocolVersion::KNOWN_VERSIONS.iter().any(|known| known.as_str() == version);
    if text(VERSION).is_some_and(|version| !is_known(version)) {
        return Err(ApiError::invalid("MCP-Protocol-Version", "enum", "is none that is spoken here"));
    }
    Ok(())
}

/// What the lists hold, as digests.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Lists([u64; 3]);

impl Lists {
    async fn of(tools: &Tools) -> Result<Self, ErrorData> {
        let all = (tools.toolbox().await?.page(0, usize::MAX), tools.prompts().await?.page(0, usize::MAX));
        Ok(Lists([json!(all.0), json!(all.1), json!(tools.resources().await?)].map(|list| digest(&list))))
    }

    /// What a client that knows the one is told of the other.
    fn told(self, other: Self) -> impl Iterator<Item = Event> {
        let names = ["tools", "prompts", "resources"].into_iter().zip(self.0.into_iter().zip(other.0));
        names.filter(|(_, (known, now))| known != now).map(|(name, _)| {
            let told = json!({ "jsonrpc": "2.0", "method": format!("notifications/{name}/list_changed") });
            Event::default().event("message").data(told.to_string())
        })
    }
}

/// An open stream.
struct Listening {
    tools: Tools,
    credential: Credential,
    org: OrgId,
    changes: broadcast::Receiver<OrgId>,
    ends: Option<Subscriber>,
    // Tells when the session subscribes to something else; and to what it has, with what was told last.
    subscribing: Option<Subscriber>,
    subscribed: Subscribed,
    known: Lists,
    lines: VecDeque<Event>,
    alive: Interval,
    _slot: Slot,
}

impl Listening {
    /// The next line; none at its end.
    async fn next(&mut self) -> Option<Event> {
        let drained = self.tools.service.drained.clone();
        loop {
            if let Some(event) = self.lines.pop_front() {
                return Some(event);
            }
            tokio::select! {
                () = drained.cancelled() => return None,
                () = heard(self.ends.as_mut()) => self.goes_on().await?,
                () = heard(self.subscribing.as_mut()) => {
                    self.goes_on().await?;
                    self.subscriptions_changed().await;
                }
                change = self.changes.recv() => match change {
                    Ok(org) if org != self.org => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => {
                        self.goes_on().await?;
                        self.look().await;
                        // What it subscribes to may be news that comes later than the change.
                        self.subscriptions_changed().await;
                        self.look_at(|_| true).await;
                    }
                    Err(RecvError::Closed) => return None,
                },
                _ = self.alive.tick() => {
                    self.goes_on().await?;
                    self.lines.push_back(Event::default().comment("alive"));
                    self.look_at(changes_by_itself).await;
                }
            }
        }
    }

    // None: the credential is no longer good, or the session is over.
    async fn goes_on(&mut self) -> Option<()> {
        let caller = self.credential.caller().await;
        if let Err(error) = &caller
            && error.status() == StatusCode::SERVICE_UNAVAILABLE
        {
            return Some(());
        }
        self.tools.caller =
            caller.ok().filter(|caller| tenant(caller, &self.tools.scope).is_ok_and(|o| o == self.org))?;
        let Some(id) = &self.tools.session else { return Some(()) };
        // Where nobody can tell, it is asked again.
        let ended = self.tools.service.sessions.has_ended(id).await.unwrap_or(false);
        (!ended).then_some(())
    }

    // What is new is compared with what was there when the session subscribed: nothing is missed in between.
    async fn subscriptions_changed(&mut self) {
        let Some(id) = &self.tools.session else { return };
        match self.tools.service.subscriptions.of(id).await {
            Ok(now) => {
                let known = std::mem::take(&mut self.subscribed);
                let told = |(uri, then): (String, u64)| {
                    let last = known.get(&uri).copied().unwrap_or(then);
                    (uri, last)
                };
                self.subscribed = now.into_iter().map(told).collect();
                self.look_at(|uri| !known.contains_key(uri)).await;
            }
            Err(error) => tracing::warn!(%error, "what a session has subscribed to is not known"),
        }
    }

    async fn look_at(&mut self, which: impl Fn(&str) -> bool) {
        for (uri, last) in self.subscribed.iter_mut().filter(|(uri, _)| which(uri)) {
            match self.tools.digest_of(uri).await {
                Ok(now) if now != *last => {
                    *last = now;
                    let (method, params) = ("notifications/resources/updated", json!({ "uri": uri }));
                    let told = json!({ "jsonrpc": "2.0", "method": method, "params": params });
                    self.lines.push_back(Event::default().event("message").data(told.to_string()));
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, uri, "a resource cannot be looked at"),
            }
        }
    }

    async fn look(&mut self) {
        match Lists::of(&self.tools).await {
            Ok(now) => {
                self.lines.extend(self.known.told(now));
                self.known = now;
            }
            Err(error) => tracing::warn!(%error, "the lists of a session cannot be looked at"),
        }
    }
}

// Who has no session waits for ever.
async fn heard(ends: Option<&mut Subscriber>) {
    let said = match ends {
        Some(ends) => ends.next().await,
        None => None,
    };
    if said.is_none() {
        std::future::pending::<()>().await;
    }
}
