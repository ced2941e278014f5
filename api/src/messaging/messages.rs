//! What is said (messaging.md §6.5, 8.1 to 8.5). Texts are sealed here, before they enter a command.

use axum::{extract::State, http::StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value};
use symbia_commands::messaging::{DeleteMessage, EditMessage, MAX_CONTENT, SendMessage};
use symbia_events::{
    AggregateRef,
    messaging::{ConversationEvent, Priority},
};
use symbia_projections::{
    Scope,
    messaging::{self as model, Anchor, Page},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::{
    Messaging,
    access::{Place, no_message, seal_object},
    shapes::MessageRow,
};
use crate::http::{ApiError, ApiResult, Caller, Json, Path, Query, RequestScope, routes};

const DEFAULT_PAGE: i64 = 50;
const LARGEST_PAGE: i64 = 200;

pub(super) fn routes() -> OpenApiRouter<Messaging> {
    OpenApiRouter::new().routes(routes!(list, send)).routes(routes!(read, edit, delete))
}

impl Messaging {
    pub(super) async fn message(&self, place: &Place, caller: &Caller, id: &str) -> ApiResult<model::Message> {
        let mut tx = self.platform.read(&Self::scope(place, caller)).await?;
        let found = model::message(&mut tx, place.tenant.as_str(), &place.conversation.id, id).await?;
        found.ok_or_else(no_message)
    }

    /// Says something in the caller's name, and gives the message.
    pub(super) async fn say(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        id: &str,
        new: NewMessage,
    ) -> ApiResult<MessageRow> {
        says_something(&new.content)?;
        let (address, key) = self.voice(caller, id).await?;
        self.admits_another(caller, &address).await?;
        if let Some(id) = new.id {
            self.is_own_id(&address, &id.to_string()).await?;
        }
        let request = scope.command_id(&caller.id);
        let message_id = new.id.unwrap_or_else(|| Uuid::new_v5(&request, b"message")).to_string();
        let command = SendMessage {
            message_id: message_id.clone(),
            content: key.seal(&new.content),
            content_digest: key.digest(&new.content),
            content_type: new.content_type.unwrap_or_else(|| "text".to_owned()),
            reply_to: new.reply_to,
            run_id: new.run_id,
            trace_id: new.trace_id.or_else(|| Some(scope.trace.trace_id())),
            priority: new.priority,
            interruptible: new.interruptible.unwrap_or(true),
            preempted_by: new.preempted_by,
            metadata: seal_object(&key, &new.metadata)?,
        };
        if let Some(event) = self.submit_for_event(&address, command, caller, scope).await?
            && let ConversationEvent::MessageSent(sent) = event.decode().map_err(ApiError::internal)?
        {
            return Ok(model::Message::sent(&event, sent, Some(&key)).into());
        }
        // Sent before: as it is now.
        let place = self.place(caller, id).await?;
        Ok(self.message(&place, caller, &message_id).await?.into())
    }

    // Each conversation tells its own repetitions; a client that mixes up conversations is told, and nothing else.
    async fn is_own_id(&self, of: &AggregateRef, message: &str) -> ApiResult<()> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        if model::is_elsewhere(&mut tx, of.tenant.as_str(), &of.id, message).await? {
            let text = "This message id is in use: send the message under a new one";
            return Err(ApiError::new(StatusCode::CONFLICT, "MESSAGE_ID_CONFLICT", text));
        }
        Ok(())
    }

    /// Replaces the text of the caller's own message, and gives the message.
    pub(super) async fn correct(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        (id, message_id): (&str, String),
        new: Correction,
    ) -> ApiResult<MessageRow> {
        says_something(&new.content)?;
        let (address, key) = self.voice(caller, id).await?;
        let command = EditMessage {
            message_id: message_id.clone(),
            content: key.seal(&new.content),
            content_digest: key.digest(&new.content),
            expected_version: new.expected_version,
        };
        self.submit(&address, command, caller, scope).await?;
        let place = self.place(caller, id).await?;
        Ok(self.message(&place, caller, &message_id).await?.into())
    }

    /// Deletes a message.
    pub(super) async fn retract(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        id: &str,
        message_id: String,
    ) -> ApiResult<()> {
        let place = self.place(caller, id).await?;
        let command = DeleteMessage { message_id, reason: None };
        self.submit(&place.address, command, caller, scope).await.map(drop)
    }
}

fn says_something(content: &str) -> ApiResult<()> {
    match content.len() {
        0 => Err(ApiError::invalid("content", "required", "is required")),
        1..=MAX_CONTENT => Ok(()),
        length => {
            let text = format!("content: {length} bytes, the limit is {MAX_CONTENT}");
            Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "TOO_LARGE", text))
        }
    }
}

/// Which messages.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct Listing {
    /// At most so many, 1 to 200.
    #[param(example = 50)]
    limit: Option<i64>,
    /// Only those before: a time, a message's id, or `seq:<n>`. No two messages of a conversation have the same `created_at`,
    /// unless more than a thousand a second are said there: of those that do, a time may give some again, and misses none.
    before: Option<String>,
    /// Only those after; does not count beside `before`.
    after: Option<String>,
    /// Only answers to this message.
    reply_to: Option<String>,
    /// `asc` (default) or `desc`.
    order: Option<String>,
}

fn anchor(name: &str, text: &str) -> ApiResult<Anchor> {
    if let Some(sequence) = text.strip_prefix("seq:") {
        let invalid = |_| ApiError::invalid(name, "format", "must be seq:<n> with a whole number");
        return sequence.parse().map(Anchor::Sequence).map_err(invalid);
    }
    if Uuid::try_parse(text).is_ok() {
        return Ok(Anchor::Message(text.to_owned()));
    }
    let invalid = |_| ApiError::invalid(name, "format", "must be a time (ISO 8601), a message's id, or seq:<n>");
    OffsetDateTime::parse(text, &Rfc3339).map(Anchor::Time).map_err(invalid)
}

/// List messages in the order of their sequence; the newest, unless a place is named
///
/// The newest page counts as read. Answers to a message are found with `replyTo`.
#[utoipa::path(get, path = "/conversations/{id}/messages", tag = "Messages",
    params(("id" = String, Path, description = "Id of the conversation"), Listing),
    responses((status = 200, description = "The messages, without deleted ones", body = Vec<MessageRow>),
        (status = 400, description = "A parameter is not valid"),
        (status = 403, description = "The caller takes no part in it"), (status = 404, description = "There is none")))]
async fn list(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Query(listing): Query<Listing>,
) -> ApiResult<Json<Vec<MessageRow>>> {
    let limit = listing.limit.unwrap_or(DEFAULT_PAGE);
    if !(1..=LARGEST_PAGE).contains(&limit) {
        return Err(ApiError::invalid("limit", "range", "must be 1 to 200"));
    }
    let descending = match listing.order.as_deref() {
        None | Some("asc") => false,
        Some("desc") => true,
        Some(_) => return Err(ApiError::invalid("order", "enum", "must be asc or desc")),
    };
    let page = Page {
        before: listing.before.as_deref().map(|text| anchor("before", text)).transpose()?,
        after: listing.after.as_deref().map(|text| anchor("after", text)).transpose()?,
        reply_to: listing.reply_to,
        limit,
    };
    let newest = page.before.is_none() && page.after.is_none() && page.reply_to.is_none();
    let home = messaging.home(&caller, &id).await?.address;
    let mut tx = messaging.platform.read(&Scope::member(home.tenant.clone(), &caller.id)).await?;
    let found = model::messages(&mut tx, home.tenant.as_str(), &id, &page).await?;
    if found.as_ref().is_none_or(Vec::is_empty) {
        // Nothing there, or no longer anything for the caller.
        drop(tx);
        messaging.place(&caller, &id).await?;
    }
    let unknown = || ApiError::invalid("before", "reference", "names a message that is not in this conversation");
    let mut rows: Vec<MessageRow> = found.ok_or_else(unknown)?.into_iter().map(MessageRow::from).collect();
    if let Some(last) = rows.last().filter(|_| newest) {
        messaging.has_seen(&home, &caller, &scope, last.sequence);
    }
    if descending {
        rows.reverse();
    }
    Ok(Json(rows))
}

/// A new message.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewMessage {
    /// The text, at most 64 kB.
    #[serde(default)]
    content: String,
    /// `text` (default), `markdown`, `json`, `html` or another.
    #[serde(default)]
    content_type: Option<String>,
    /// The message that it answers.
    #[serde(default)]
    reply_to: Option<String>,
    /// An object.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
    /// A UUID of the caller's choice: sending it again changes nothing.
    #[serde(default)]
    id: Option<Uuid>,
    #[serde(default)]
    run_id: Option<String>,
    #[serde(default)]
    trace_id: Option<String>,
    /// `low`, `normal` (default), `high` or `critical`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    priority: Priority,
    /// Default true.
    #[serde(default)]
    interruptible: Option<bool>,
    #[serde(default)]
    preempted_by: Option<String>,
}

/// Write a message
#[utoipa::path(post, path = "/conversations/{id}/messages", tag = "Messages", request_body = NewMessage,
    params(("id" = String, Path, description = "Id of the conversation")),
    responses((status = 201, description = "The message", body = MessageRow),
        (status = 202, description = "Accepted; it does not show yet"),
        (status = 400, description = "A field is not valid"),
        (status = 403, description = "The caller takes no part in it"), (status = 404, description = "There is none"),
        (status = 409, description = "The id is in use"), (status = 413, description = "Too large"),
        (status = 429, description = "Too many messages of the caller in this conversation")))]
async fn send(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(new): Json<NewMessage>,
) -> ApiResult<(StatusCode, Json<MessageRow>)> {
    Ok((StatusCode::CREATED, Json(messaging.say(&caller, &scope, &id, new).await?)))
}

/// Read a message
#[utoipa::path(get, path = "/conversations/{id}/messages/{message_id}", tag = "Messages",
    params(("id" = String, Path, description = "Id of the conversation"),
        ("message_id" = String, Path, description = "Id of the message")),
    responses((status = 200, description = "The message", body = MessageRow), (status = 404, description = "There is none")))]
async fn read(
    State(messaging): State<Messaging>,
    caller: Caller,
    Path((id, message_id)): Path<(String, String)>,
) -> ApiResult<Json<MessageRow>> {
    let place = messaging.place(&caller, &id).await?;
    let found = messaging.message(&place, &caller, &message_id).await?;
    if found.deleted_at.is_some() {
        return Err(no_message());
    }
    Ok(Json(found.into()))
}

/// A new text for a message.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Correction {
    /// The text, at most 64 kB.
    #[serde(default)]
    content: String,
    /// Refuse unless the text is at this version.
    #[serde(default)]
    expected_version: Option<u32>,
}

/// Replace the text of one's own message
#[utoipa::path(patch, path = "/conversations/{id}/messages/{message_id}", tag = "Messages", request_body = Correction,
    params(("id" = String, Path, description = "Id of the conversation"),
        ("message_id" = String, Path, description = "Id of the message")),
    responses((status = 200, description = "The message", body = MessageRow),
        (status = 403, description = "Somebody else wrote it"), (status = 404, description = "There is none"),
        (status = 409, description = "The text is at another version")))]
async fn edit(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path((id, message_id)): Path<(String, String)>,
    Json(new): Json<Correction>,
) -> ApiResult<Json<MessageRow>> {
    Ok(Json(messaging.correct(&caller, &scope, (&id, message_id), new).await?))
}

/// Delete a message: one's own, or anyone's as owner or admin of the conversation
#[utoipa::path(delete, path = "/conversations/{id}/messages/{message_id}", tag = "Messages",
    params(("id" = String, Path, description = "Id of the conversation"),
        ("message_id" = String, Path, description = "Id of the message")),
    responses((status = 204, description = "Deleted"), (status = 403, description = "The caller may not"),
        (status = 404, description = "There is none")))]
async fn delete(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path((id, message_id)): Path<(String, String)>,
) -> ApiResult<StatusCode> {
    messaging.retract(&caller, &scope, &id, message_id).await?;
    Ok(StatusCode::NO_CONTENT)
}
