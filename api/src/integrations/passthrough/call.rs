//! One call: made, its answer passed on piece by piece, and its one end told to the log, whatever becomes of caller and provider.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE},
    },
    response::Response,
};
use futures::{StreamExt, stream::BoxStream};
use reqwest::Url;
use symbia_commands::{
    Actor,
    integrations::{CompletePassthrough, FailPassthrough, PassthroughCommand},
};
use symbia_egress::{Blocked, EgressError, Policy};
use symbia_events::{
    AggregateRef, CommandId,
    integrations::{ErrorCategory, Usage},
};
use symbia_projections::{Scope, integrations as model};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    doors::{Door, Key, KeyStands},
    request::{passed_back, passed_on},
    usage::Reader,
};
use crate::{
    http::{AsItIs, RequestScope},
    integrations::{Integrations, said::Failure},
    platform::{Consistency, Platform},
};

/// Until the head of an answer: less than the server lets a caller wait for it.
const HEAD: Duration = Duration::from_secs(110);
/// How often, and how far apart, an end is told that nobody takes.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_secs(3);
/// How long the last piece of an answer waits for its end to be in the log.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// The version of Anthropic's API for who names none.
const ANTHROPIC_VERSION: (&str, &str) = ("anthropic-version", "2023-06-01");

/// What is to be sent.
pub(super) struct Call<'d> {
    pub door: &'d Door,
    pub url: Url,
    pub method: Method,
    pub headers: HeaderMap,
    pub head: Bytes,
    pub rest: Option<Body>,
}

/// A call that the log knows of. Dropped before its end, it gets one.
pub(super) struct Open {
    pub request_id: String,
    service: Integrations,
    scope: RequestScope,
    actor: Actor,
    address: AggregateRef,
    deadline: Instant,
    since: Instant,
    provider: String,
    // What the log is to be told.
    model: Option<String>,
    request_bytes: u64,
    made: Option<Made>,
    over: bool,
}

/// What is known of it once it is made.
struct Made {
    credential_id: Option<String>,
    source: &'static str,
    status: Option<StatusCode>,
    reader: Reader,
    response_bytes: u64,
}

impl Call<'_> {
    /// Makes it, once, as far as the head of its answer. Where that redirects to is the caller's to ask.
    pub async fn made(self, open: &mut Open, key: Key) -> Result<reqwest::Response, Failure> {
        let Call { door, url, method, headers: given, head, rest } = self;
        let policy = open.policy().await?;
        let egress = door.egress().within(policy);
        let request = egress.request(method, url).map_err(|blocked| failure(&blocked.into()))?;
        let mut headers = passed_on(&given);
        if rest.is_none() {
            headers.remove(CONTENT_LENGTH);
        }
        if let Some(secret) = &key.secret {
            let unusable = || Failure::new(ErrorCategory::Auth, "key_unusable", "the key cannot be put into a header");
            let (name, text) = match door.key_stands() {
                KeyStands::Bearer => (AUTHORIZATION, zeroize::Zeroizing::new(format!("Bearer {}", secret.as_str()))),
                KeyStands::XApiKey => (HeaderName::from_static("x-api-key"), secret.clone()),
            };
            let mut value = HeaderValue::from_str(&text).map_err(|_| unusable())?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        if door.key_stands() == KeyStands::XApiKey {
            let (name, version) = ANTHROPIC_VERSION;
            headers.entry(HeaderName::from_static(name)).or_insert(HeaderValue::from_static(version));
        }
        let body = match rest {
            Some(rest) => {
                let head = futures::stream::iter([Ok::<_, axum::Error>(head)]);
                reqwest::Body::wrap_stream(head.chain(rest.into_data_stream()))
            }
            None => head.into(),
        };
        let request = request.headers(headers).body(body);
        let secret = key.secret;
        open.made = Some(Made {
            credential_id: key.credential_id,
            source: key.source,
            status: None,
            reader: Reader::new(""),
            response_bytes: 0,
        });
        let until = open.deadline.min(Instant::now() + HEAD);
        let response = tokio::time::timeout_at(until, request.send()).await.map_err(|_| late())?;
        let mut response = response.map_err(|error| failure(&EgressError::of(&error)))?;
        let back = passed_back(response.headers(), secret.as_deref().map(String::as_str));
        *response.headers_mut() = back;
        if let Some(made) = &mut open.made {
            let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            made.reader = Reader::new(kind);
            made.status = Some(response.status());
        }
        Ok(response)
    }
}

fn late() -> Failure {
    Failure::new(ErrorCategory::Timeout, "deadline", "the provider did not answer, or did not finish, in time")
}

fn failure(error: &EgressError) -> Failure {
    let category = match error {
        EgressError::Blocked(Blocked::Policy(_)) => ErrorCategory::Auth,
        EgressError::Blocked(_) => ErrorCategory::Validation,
        EgressError::Timeout => ErrorCategory::Timeout,
        EgressError::Unreachable | EgressError::Transport => ErrorCategory::Network,
        EgressError::TooLong(_) | EgressError::Redirects(_) => ErrorCategory::Provider,
    };
    Failure::new(category, error.code(), format!("the call is not passed on: {error}"))
}

fn category_of(status: StatusCode) -> ErrorCategory {
    match status.as_u16() {
        401 | 403 => ErrorCategory::Auth,
        402 => ErrorCategory::Quota,
        404 => ErrorCategory::NotFound,
        408 => ErrorCategory::Timeout,
        429 => ErrorCategory::RateLimit,
        409 | 425 | 500.. => ErrorCategory::Provider,
        _ => ErrorCategory::Validation,
    }
}

impl Open {
    /// One that the log is about to be told of: until [`Open::begun`], there is nothing to end.
    pub fn new(
        service: &Integrations,
        scope: &RequestScope,
        actor: Actor,
        address: AggregateRef,
        request_id: String,
        (provider, deadline): (&str, Instant),
    ) -> Self {
        Open {
            request_id,
            service: service.clone(),
            scope: scope.clone(),
            actor,
            address,
            deadline,
            since: Instant::now(),
            provider: provider.to_owned(),
            model: None,
            request_bytes: 0,
            made: None,
            over: true,
        }
    }

    pub fn asks(&mut self, model: Option<String>, request_bytes: u64) {
        (self.model, self.request_bytes) = (model, request_bytes);
    }

    pub fn begun(&mut self) {
        self.over = false;
    }

    /// Somebody else gave it its end.
    pub fn is_over(&mut self) {
        self.over = true;
    }

    pub fn address(&self) -> &AggregateRef {
        &self.address
    }

    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    pub fn scope(&self) -> &RequestScope {
        &self.scope
    }

    async fn policy(&self) -> Result<Option<Arc<Policy>>, Failure> {
        let org = &self.address.tenant;
        let found = self.service.policy_of(&Scope::member(org.clone(), &self.actor.id), org.as_str()).await;
        found.map_err(|error| {
            tracing::warn!(%error, "an egress policy is not looked up");
            Failure::new(ErrorCategory::Internal, "unavailable", "the egress policy cannot be looked up; try again")
        })
    }

    // What it took, as far as is known: what a stream does not tell is counted by us, an event for a token.
    fn taken(&self) -> (Option<Usage>, Option<String>) {
        let Some(made) = &self.made else { return (None, None) };
        let taken = made.reader.taken();
        let answered = made.status.is_some_and(|status| status.is_success()) && taken.events > 0;
        let counted = || {
            let prompt_tokens = self.request_bytes.div_ceil(4);
            let total_tokens = prompt_tokens.saturating_add(taken.events);
            let completion_tokens = taken.events;
            Usage { prompt_tokens, completion_tokens, total_tokens, estimated: true, ..Usage::default() }
        };
        let usage = taken.usage.or_else(|| (answered && self.model.is_some()).then(counted));
        (usage, taken.model.filter(|_| self.model.is_none()))
    }

    fn failing(&self, category: ErrorCategory, code: &str) -> PassthroughCommand {
        let (usage, model) = self.taken();
        let made = self.made.as_ref();
        PassthroughCommand::from(FailPassthrough {
            request_id: self.request_id.clone(),
            category,
            code: Some(code.to_owned()),
            message: None,
            status_code: made.and_then(|made| made.status).map(|status| status.as_u16()),
            retry_after_ms: None,
            model,
            usage,
            price: None,
            credential_id: made.and_then(|made| made.credential_id.clone()),
            credential_source: made.map(|made| made.source.to_owned()),
        })
    }

    fn completing(&self) -> PassthroughCommand {
        let Some((made, status)) = self.made.as_ref().and_then(|made| Some((made, made.status?))) else {
            return self.failing(ErrorCategory::Internal, "not_made");
        };
        if status.is_client_error() || status.is_server_error() {
            return self.failing(category_of(status), &format!("http_{}", status.as_u16()));
        }
        let (usage, model) = self.taken();
        PassthroughCommand::from(CompletePassthrough {
            request_id: self.request_id.clone(),
            status_code: status.as_u16(),
            model,
            usage: usage.unwrap_or_default(),
            price: None,
            response_bytes: made.response_bytes,
            total_ms: u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            credential_id: made.credential_id.clone(),
            credential_source: made.source.to_owned(),
        })
    }

    // Tells the log, in the background, until it is heard: a second end would be refused.
    fn tell(&mut self, mut end: PassthroughCommand) -> Option<tokio::task::JoinHandle<()>> {
        if std::mem::replace(&mut self.over, true) {
            return None;
        }
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        let (platform, scope, address) = (self.service.platform.clone(), self.scope.clone(), self.address.clone());
        let provider = self.provider.clone();
        let id = CommandId(Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("end {}", self.request_id).as_bytes()));
        Some(runtime.spawn(async move {
            let by = Actor::service("integrations");
            priced(&platform, &provider, &mut end).await;
            for _ in 0..TRIES {
                match platform.submit_as(id, &address, &end, &by, &scope, Consistency::Eventual).await {
                    Ok(_) => return,
                    Err(error) if error.status().is_client_error() => {
                        return tracing::info!(%address, %error, "a call has its end already");
                    }
                    Err(error) => tracing::warn!(%address, %error, "the end of a call is not recorded, trying again"),
                }
                tokio::time::sleep(PAUSE).await;
            }
        }))
    }

    async fn told(&mut self, end: PassthroughCommand) {
        if let Some(telling) = self.tell(end) {
            let _waited = tokio::time::timeout(TOLD_WITHIN, telling).await;
        }
    }

    /// It came to nothing.
    pub async fn failed(&mut self, failure: &Failure) {
        let end = self.failing(failure.category, failure.code.as_deref().unwrap_or("internal"));
        self.told(end).await;
    }

    /// The answer, as it comes. Its end is told with its last piece.
    pub async fn passing(mut self, response: reqwest::Response) -> Response {
        let (status, mut headers) = (response.status(), response.headers().clone());
        if let Ok(id) = HeaderValue::from_str(&self.request_id) {
            headers.insert(HeaderName::from_static("x-symbia-request-id"), id);
        }
        // Who reads it does not ask for more than it was said to be: not at all for the body of a `HEAD`.
        let left = response.content_length();
        if left == Some(0) {
            let end = self.completing();
            self.told(end).await;
        }
        let passing = Passing { open: self, pieces: response.bytes_stream().boxed(), left };
        let body = futures::stream::unfold(Some(passing), |passing| async move { passing?.next().await });
        let mut answer = Response::new(Body::from_stream(body));
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        // What a provider says of its errors is not ours to say better.
        answer.extensions_mut().insert(AsItIs);
        answer
    }
}

// The price of a model that the answer alone names. Without one, its tokens count all the same.
async fn priced(platform: &Platform, provider: &str, end: &mut PassthroughCommand) {
    let (model, price) = match end {
        PassthroughCommand::CompletePassthrough(end) => (&end.model, &mut end.price),
        PassthroughCommand::FailPassthrough(end) if end.usage.is_some() => (&end.model, &mut end.price),
        _ => return,
    };
    let Some(name) = model else { return };
    let looked_up = async {
        let mut tx = platform.read(&Scope::platform()).await?;
        Ok::<_, crate::http::ApiError>(model::price(&mut tx, provider, name).await?)
    };
    match looked_up.await {
        Ok(found) => *price = found.map(|found| found.tokens()),
        Err(error) => tracing::warn!(%error, provider, "a price is not looked up"),
    }
}

/// An answer on its way.
struct Passing {
    open: Open,
    pieces: BoxStream<'static, reqwest::Result<Bytes>>,
    // Bytes to come, where that was said.
    left: Option<u64>,
}

type Piece = Result<Bytes, std::io::Error>;

impl Passing {
    async fn next(mut self) -> Option<(Piece, Option<Passing>)> {
        let broken = |why: &str| Some((Err(std::io::Error::other(why.to_owned())), None));
        match tokio::time::timeout_at(self.open.deadline, self.pieces.next()).await {
            Ok(Some(Ok(piece))) => {
                if let Some(made) = &mut self.open.made {
                    made.reader.take(&piece);
                    made.response_bytes += piece.len() as u64;
                }
                self.left = self.left.map(|left| left.saturating_sub(piece.len() as u64));
                if self.left == Some(0) {
                    let end = self.open.completing();
                    self.open.told(end).await;
                    return Some((Ok(piece), None));
                }
                Some((Ok(piece), Some(self)))
            }
            Ok(None) => {
                let end = self.open.completing();
                self.open.told(end).await;
                None
            }
            Ok(Some(Err(error))) => {
                let error = EgressError::of(&error);
                self.open.failed(&failure(&error)).await;
                broken("the provider broke the answer off")
            }
            Err(_) => {
                self.open.failed(&late()).await;
                broken("the answer takes too long")
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.over {
            let end = self.failing(ErrorCategory::Network, "client_disconnect");
            let _telling = self.tell(end);
        }
    }
}
