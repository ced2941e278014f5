//! How far the caller has read, and finding what was said (messaging.md §8.11, 14.3).

use std::time::{Duration, Instant};

use axum::extract::State;
use serde::{Deserialize, Serialize};
use symbia_commands::{
    Actor,
    messaging::{MarkRead, ReadCursorCommand},
};
use symbia_events::{AggregateRef, CommandId, Service, messaging::read_cursor_id};
use symbia_projections::{Scope, messaging as model};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use super::{Messaging, shapes::MessageRow};
use crate::{
    http::{
        ApiError, ApiResult, Caller, Json, Path, Query, RequestScope, Validation, principal::PrincipalKind, routes,
    },
    platform::Consistency,
};

/// What looking at a conversation marks as read is recorded at most this often.
const QUIET: Duration = Duration::from_secs(5);
/// Who has seen what: kept in mind, and for how long.
const SEEN_MAX: u64 = 100_000;
const SEEN_LASTS: Duration = Duration::from_secs(600);
const DEFAULT_PAGE: i64 = 50;
const LARGEST_PAGE: i64 = 200;
/// Furthest that a search is leafed through, and its longest question in bytes.
const FURTHEST: i64 = 10_000;
const LONGEST: usize = 1024;

pub(super) fn routes() -> OpenApiRouter<Messaging> {
    OpenApiRouter::new().routes(routes!(mark_read)).routes(routes!(search)).routes(routes!(search_all))
}

impl Messaging {
    async fn mark(
        &self,
        id: CommandId,
        home: &AggregateRef,
        caller: &Caller,
        scope: &RequestScope,
        up_to: i64,
        consistency: Consistency,
    ) -> ApiResult<()> {
        let cursor = read_cursor_id(&home.id, &caller.id);
        let address = AggregateRef::new(Service::Messaging, home.tenant.clone(), "read-cursor", cursor);
        let address = address.map_err(ApiError::internal)?;
        let command = MarkRead {
            conversation_id: home.id.clone(),
            principal_id: caller.id.clone(),
            up_to_sequence: up_to.unsigned_abs(),
        };
        let (command, actor) = (ReadCursorCommand::from(command), Actor::from(&**caller));
        self.platform.submit_as(id, &address, &command, &actor, scope, consistency).await.map(drop)
    }

    /// Marks messages as read, and tells how far the caller has read.
    pub(super) async fn has_read(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        id: String,
        read: ReadUpTo,
    ) -> ApiResult<Reading> {
        let place = self.place(caller, &id).await?;
        let last = place.conversation.last_sequence;
        let up_to = read.up_to_sequence.map_or(last, |up_to| i64::from(up_to).min(last));
        if up_to > 0 {
            let id = CommandId(scope.command_id(&caller.id));
            self.mark(id, &place.address, caller, scope, up_to, Consistency::Visible).await?;
        }
        let mut tx = self.platform.read(&Self::scope(&place, caller)).await?;
        let cursor = model::read_cursor(&mut tx, place.tenant.as_str(), &id, &caller.id).await?;
        Ok(Reading {
            conversation_id: id,
            read_sequence: cursor.as_ref().map_or(0, |c| c.read_sequence),
            last_read_at: cursor.map(|c| crate::iso(c.read_at)),
        })
    }

    /// A person has been shown the newest messages. Nobody waits for the record of it; when it is lost, the next one tells.
    pub(super) fn has_seen(&self, home: &AggregateRef, caller: &Caller, scope: &RequestScope, last: i64) {
        if caller.kind != PrincipalKind::User || !self.seen.is_news((&caller.id, &home.id), last) {
            return;
        }
        let (messaging, home, caller, scope) = (self.clone(), home.clone(), caller.clone(), scope.clone());
        tokio::spawn(async move {
            let seen = messaging.mark(CommandId::random(), &home, &caller, &scope, last, Consistency::Eventual).await;
            if let Err(error) = seen {
                messaging.seen.0.invalidate(&(caller.id.clone(), home.id.clone()));
                tracing::debug!(code = error.code(), "what was seen is not recorded");
            }
        });
    }
}

/// What this process has recorded as seen, so that looking again costs nothing: marking it once more would change nothing.
#[derive(Clone)]
pub(super) struct Seen(moka::sync::Cache<(String, String), (i64, Instant)>);

impl Default for Seen {
    fn default() -> Self {
        Seen(moka::sync::Cache::builder().max_capacity(SEEN_MAX).time_to_live(SEEN_LASTS).build())
    }
}

impl Seen {
    // Whether somebody has to be recorded as having seen a conversation up to `last`; if so, it counts as done.
    fn is_news(&self, (principal, conversation): (&str, &str), last: i64) -> bool {
        let key = (principal.to_owned(), conversation.to_owned());
        let known = self.0.get(&key).is_some_and(|(seen, at)| seen >= last || at.elapsed() < QUIET);
        if !known {
            self.0.insert(key, (last, Instant::now()));
        }
        !known
    }
}

/// How far.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReadUpTo {
    /// Sequence of the last message read; default: the last one there is.
    #[serde(default)]
    up_to_sequence: Option<u32>,
}

/// How far the caller has read a conversation.
#[derive(Serialize, ToSchema)]
pub(super) struct Reading {
    conversation_id: String,
    /// Sequence of the last message read.
    read_sequence: i64,
    /// When it was marked.
    last_read_at: Option<String>,
}

/// Mark messages as read; the mark only moves forward
#[utoipa::path(post, path = "/conversations/{id}/read", tag = "Messages", request_body = ReadUpTo,
    params(("id" = String, Path, description = "Id of the conversation")),
    responses((status = 200, description = "How far the caller has read", body = Reading),
        (status = 403, description = "The caller takes no part in it"), (status = 404, description = "There is none")))]
async fn mark_read(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(read): Json<ReadUpTo>,
) -> ApiResult<Json<Reading>> {
    Ok(Json(messaging.has_read(&caller, &scope, id, read).await?))
}

/// What is looked for.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// Words, as in a search engine: `"a phrase"`, `or`, `-without`.
    q: String,
    /// At most so many, 1 to 200; default 50.
    limit: Option<i64>,
    /// Without the first so many.
    offset: Option<i64>,
}

impl Wanted {
    fn within(self, conversation: Option<String>) -> ApiResult<model::Search> {
        let (limit, offset) = (self.limit.unwrap_or(DEFAULT_PAGE), self.offset.unwrap_or(0));
        let words = self.q.replace('\0', " ");
        let mut rules = Validation::new();
        rules.check(!words.trim().is_empty(), "q", "required", "must hold a word");
        rules.check(words.len() <= LONGEST, "q", "length", "must have at most 1024 bytes");
        rules.check((1..=LARGEST_PAGE).contains(&limit), "limit", "range", "must be 1 to 200");
        rules.check((0..=FURTHEST).contains(&offset), "offset", "range", "must be 0 to 10000").finish()?;
        Ok(model::Search { words, conversation, limit, offset })
    }
}

impl Messaging {
    async fn search(&self, caller: &Caller, search: &model::Search) -> ApiResult<Json<Vec<MessageRow>>> {
        let orgs: Vec<String> = caller.organizations.iter().map(|org| org.id.clone()).collect();
        let mut tx = self.platform.read(&Scope::user(&caller.id)).await?;
        let found = model::search(&mut tx, &caller.id, &orgs, search).await?;
        Ok(Json(found.into_iter().map(MessageRow::from).collect()))
    }
}

/// Find messages of a conversation by their words, the newest first
#[utoipa::path(get, path = "/conversations/{id}/search", tag = "Messages",
    params(("id" = String, Path, description = "Id of the conversation"), Wanted),
    responses((status = 200, description = "The messages", body = Vec<MessageRow>),
        (status = 400, description = "A parameter is not valid"),
        (status = 403, description = "The caller takes no part in it"), (status = 404, description = "There is none")))]
async fn search(
    State(messaging): State<Messaging>,
    caller: Caller,
    Path(id): Path<String>,
    Query(wanted): Query<Wanted>,
) -> ApiResult<Json<Vec<MessageRow>>> {
    let place = messaging.place(&caller, &id).await?;
    let search = wanted.within(Some(place.conversation.id))?;
    messaging.search(&caller, &search).await
}

/// Find messages of all conversations that the caller takes part in, the newest first
#[utoipa::path(get, path = "/messages/search", tag = "Messages", params(Wanted),
    responses((status = 200, description = "The messages", body = Vec<MessageRow>),
        (status = 400, description = "A parameter is not valid")))]
async fn search_all(
    State(messaging): State<Messaging>,
    caller: Caller,
    Query(wanted): Query<Wanted>,
) -> ApiResult<Json<Vec<MessageRow>>> {
    let search = wanted.within(None)?;
    messaging.search(&caller, &search).await
}
