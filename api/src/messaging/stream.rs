//! `GET /api/conversations/{id}/stream`: following a conversation live, from a position (DESIGN §5).

use axum::{extract::State, http::HeaderMap, response::Response};
use serde::Deserialize;
use symbia_events::Service;
use symbia_projections::assistants as runs;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;

use super::{Messaging, telling::Telling};
use crate::{
    feed::{access::Access, follow::FollowQuery, sse, stream::Stream},
    http::{ApiResult, Path, Query, routes},
};

/// Runs of the conversation that may still go on when a follower comes.
const RECENT_RUNS: i64 = 50;

pub(super) fn routes() -> OpenApiRouter<Messaging> {
    OpenApiRouter::new().routes(routes!(follow))
}

/// Where to begin.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Beginning {
    /// `latest` (default), `earliest`, or the id of the last event, e.g. `assistants:12,messaging:40`.
    from: Option<String>,
}

/// Follow a conversation as server-sent events
///
/// `message`, `message:updated` and `message:deleted` carry what is stored; `participant:added`, `participant:removed` and
/// `participant:role_changed` who comes, goes and may do what; `conversation:updated`, `conversation:routed`,
/// `conversation:handed_off` and `conversation:deleted` what became of it; `control:recorded` a signal; `run` what an assistant is doing (`started`, `action`, `completed`, `failed`, `cancelled`);
/// `message:delta` a piece of an answer before it is stored, and `message:reset` that an answer begins anew: what came of an
/// earlier attempt is to be forgotten. Deltas are not stored and may be lost; the `message` of the same id counts. The id of
/// each stored event is the place behind it: sent back as `Last-Event-ID`, or as `from`, the stream goes on without gap or
/// repetition.
#[utoipa::path(get, path = "/conversations/{id}/stream", tag = "Messages",
    params(("id" = String, Path, description = "Id of the conversation"), Beginning,
        ("Last-Event-ID" = Option<String>, Header, description = "Where to go on")),
    responses((status = 200, description = "The stream", content_type = "text/event-stream", body = String),
        (status = 400, description = "The position is not valid"),
        (status = 403, description = "The caller takes no part in it"), (status = 404, description = "There is none"),
        (status = 429, description = "Too many open streams")))]
async fn follow(
    State(messaging): State<Messaging>,
    access: Access,
    headers: HeaderMap,
    Path(id): Path<String>,
    Query(beginning): Query<Beginning>,
) -> ApiResult<Response> {
    let place = messaging.place(&access.caller, &id).await?;
    let slot = messaging.feed.slot(&access)?;
    let query = FollowQuery {
        from: sse::resume_from(&headers)?.or(beginning.from),
        service: Some(format!("{},{}", Service::Messaging, Service::Assistants)),
        aggregate: Some(format!("conversation/{id},rule-run")),
        ..FollowQuery::default()
    };
    let caller = access.caller.clone();
    let (feed, drained, tenant) = (messaging.feed.clone(), messaging.drained.clone(), place.tenant.clone());
    let live = format!("conversation.{id}");
    let stream = Stream::of(feed, drained, access, tenant, &query, Some(&live)).await?;
    // Runs that started before the stream begins: what follows of them is told too.
    let begun = stream.beginning(Service::Assistants);
    messaging.platform.positions.wait_for("assistants", begun, messaging.platform.settings.visible_within).await;
    let mut tx = messaging.platform.read(&Messaging::scope(&place, &caller)).await?;
    let known = runs::rule_runs(&mut tx, place.tenant.as_str(), &id, RECENT_RUNS).await?;
    drop(tx);
    let telling = Telling::new(messaging.platform.clone(), messaging.keys.clone(), &place, &caller, known);
    Ok(sse::answer(stream, slot, |lines| telling.into(lines)))
}
