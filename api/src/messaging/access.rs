//! Who may do what to a conversation, its content key, and what refusals mean over HTTP (messaging.md §5.2, 8.2).

use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::{Map, Value};
use symbia_commands::{
    Actor,
    messaging::{ConversationCommand, MAX_METADATA},
};
use symbia_events::{AggregateRef, Event, OrgId, Personal, Service, SubjectKey};
use symbia_projections::{
    Scope,
    identity::members_among,
    messaging::{self as model, author_key_id, content_key_id},
    secrets::SecretError,
};

use super::Messaging;
use crate::{
    http::{ApiError, ApiResult, Caller, RequestScope, rate::refusal},
    platform::Done,
};

/// A conversation of one of the caller's organizations.
#[derive(Clone)]
pub(super) struct Place {
    pub conversation: model::Conversation,
    /// What the caller is in it; `None` when it takes no part.
    pub role: Option<String>,
    /// How often what the caller said in the organization was erased.
    generation: u32,
    pub tenant: OrgId,
    pub address: AggregateRef,
}

/// Where a conversation is that the caller took part in a moment ago.
#[derive(Clone)]
pub(super) struct Home {
    pub address: AggregateRef,
    /// How often what the caller said in the organization had been erased then.
    generation: u32,
}

impl From<&Place> for Home {
    fn from(place: &Place) -> Self {
        Home { address: place.address.clone(), generation: place.generation }
    }
}

/// 404 for a conversation that is not there, or is another organization's: the two look the same.
pub(super) fn unknown() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "CONVERSATION_NOT_FOUND", "There is no such conversation")
}

fn erased() -> ApiError {
    ApiError::new(StatusCode::GONE, "CONVERSATION_ERASED", "The conversation was erased")
}

pub(super) fn no_message() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "MESSAGE_NOT_FOUND", "There is no such message in this conversation")
}

/// The address of a conversation.
pub(super) fn address(org: &str, id: &str) -> ApiResult<(OrgId, AggregateRef)> {
    let tenant: OrgId = org.parse().map_err(|_| unknown())?;
    let address = AggregateRef::new(Service::Messaging, tenant.clone(), "conversation", id).map_err(|_| unknown())?;
    Ok((tenant, address))
}

/// Statuses of the codes that only this service has.
pub(super) fn with_status(error: ApiError) -> ApiError {
    let status = match error.code() {
        "CONVERSATION_NOT_FOUND" | "MESSAGE_NOT_FOUND" => StatusCode::NOT_FOUND,
        "NOT_PARTICIPANT" | "INSUFFICIENT_ENTITLEMENT" => StatusCode::FORBIDDEN,
        "MESSAGE_ID_CONFLICT" | "VERSION_CONFLICT" | "RUN_OVER" | "CONVERSATION_PAUSED" | "CHANNEL_LINKED" => {
            StatusCode::CONFLICT
        }
        "CONVERSATION_ERASED" => StatusCode::GONE,
        "TOO_LARGE" => StatusCode::PAYLOAD_TOO_LARGE,
        _ => return error,
    };
    error.with_status(status)
}

/// Deepest nesting of metadata.
const MAX_DEPTH: usize = 32;

fn depth<'v>(values: impl Iterator<Item = &'v Value>) -> usize {
    let of = |value: &Value| match value {
        Value::Array(items) => 1 + depth(items.iter()),
        Value::Object(members) => 1 + depth(members.values()),
        _ => 0,
    };
    values.map(of).max().unwrap_or(0)
}

/// Seals a JSON object; none for an empty one.
pub(super) fn seal_object(key: &SubjectKey, object: &Map<String, Value>) -> ApiResult<Option<Personal>> {
    // The reader of JSON stops at 128 levels, so that this ends.
    if depth(object.values()) >= MAX_DEPTH {
        return Err(ApiError::invalid("metadata", "depth", "must not be nested more than 32 levels deep"));
    }
    let text = Value::Object(object.clone()).to_string();
    if text.len() > MAX_METADATA {
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "TOO_LARGE", "metadata: at most 32 kB"));
    }
    Ok((!object.is_empty()).then(|| key.seal(&text)))
}

impl Messaging {
    /// The conversation, for one of its participants.
    ///
    /// # Errors
    /// 404 when none of the caller's organizations has it, 403 NOT_PARTICIPANT when the caller takes no part in it.
    pub(super) async fn place(&self, caller: &Caller, id: &str) -> ApiResult<Place> {
        let place = self.found(caller, id).await?;
        if place.role.is_some() {
            return Ok(place);
        }
        let text = "Only participants of the conversation may do this";
        Err(ApiError::new(StatusCode::FORBIDDEN, "NOT_PARTICIPANT", text))
    }

    /// Where a conversation is that the caller took part in a moment ago. For reading in the caller's own scope, in which who
    /// takes part no longer finds nothing, and for commands, which the conversation decides.
    ///
    /// # Errors
    /// Those of [`Messaging::place`].
    pub(super) async fn home(&self, caller: &Caller, id: &str) -> ApiResult<Home> {
        let key = (caller.id.clone(), id.to_owned());
        let is_own = |home: &Home| caller.organizations.iter().any(|org| org.id == home.address.tenant.as_str());
        if let Some(home) = self.homes.get(&key).filter(is_own) {
            return Ok(home);
        }
        let home = Home::from(&self.place(caller, id).await?);
        self.homes.insert(key, home.clone());
        Ok(home)
    }

    /// Where the caller is about to speak, with the key of what they say there.
    ///
    /// # Errors
    /// Those of [`Messaging::place`]; 410 when the conversation was erased.
    pub(super) async fn voice(&self, caller: &Caller, id: &str) -> ApiResult<(AggregateRef, SubjectKey)> {
        let home = self.home(caller, id).await?;
        match self.author_key(&home, caller).await {
            Ok(key) => Ok((home.address, key)),
            Err(error) if error.status() == StatusCode::GONE => {
                // Perhaps only what the caller said before was erased.
                self.homes.invalidate(&(caller.id.clone(), id.to_owned()));
                let home = self.home(caller, id).await?;
                let key = self.author_key(&home, caller).await?;
                Ok((home.address, key))
            }
            Err(error) => Err(error),
        }
    }

    /// The conversation in one of the caller's organizations, whether or not the caller takes part in it.
    ///
    /// # Errors
    /// 404 when none of the caller's organizations has it.
    pub(super) async fn found(&self, caller: &Caller, id: &str) -> ApiResult<Place> {
        let orgs: Vec<String> = caller.organizations.iter().map(|org| org.id.clone()).collect();
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let found = model::access(&mut tx, id, &orgs, &caller.id).await?.ok_or_else(unknown)?;
        let (tenant, address) = address(&found.conversation.org_id, &found.conversation.id)?;
        let generation = u32::try_from(found.asker_generation).unwrap_or_default();
        Ok(Place { conversation: found.conversation, role: found.asker_role, generation, tenant, address })
    }

    /// Refuses people who do not belong to the organization: they could read what is said there. Assistants are the
    /// platform's.
    ///
    /// # Errors
    /// 400 VALIDATION_FAILED.
    pub(super) async fn admits(&self, org: &str, people: &[String]) -> ApiResult<()> {
        if people.is_empty() {
            return Ok(());
        }
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let members = members_among(&mut tx, org, people).await?;
        if people.iter().all(|id| members.contains(id)) {
            return Ok(());
        }
        Err(ApiError::invalid("userId", "reference", "must be a member of the conversation's organization"))
    }

    /// Counts a message of the caller's, by whichever way it comes.
    ///
    /// # Errors
    /// 429 RATE_LIMIT_EXCEEDED when it writes too much in this conversation.
    pub(super) async fn admits_another(&self, caller: &Caller, to: &AggregateRef) -> ApiResult<()> {
        let bucket = format!("messages:{}:{}:{}", to.tenant, to.id, caller.id);
        let decision = self.flood.take(&bucket, self.platform.settings.rates.messages).await;
        if decision.allowed { Ok(()) } else { Err(refusal(decision)) }
    }

    /// The key of a conversation that is about to be opened, kept before anything is sealed with it.
    pub(super) async fn make_key(&self, tenant: &OrgId, conversation: &str) -> ApiResult<SubjectKey> {
        let kid = content_key_id(tenant.as_str(), conversation);
        match self.platform.secrets.subject_key(&kid).await? {
            Some(key) => Ok(key),
            None => self.new_key(kid).await,
        }
    }

    async fn new_key(&self, kid: String) -> ApiResult<SubjectKey> {
        let (secrets, key) = (&self.platform.secrets, SubjectKey::generate(&kid));
        match secrets.put_subject_key(&key).await {
            Ok(()) => Ok(key),
            // Another request at the same time.
            Err(SecretError::Taken(_)) => {
                secrets.subject_key(&kid).await?.ok_or_else(|| ApiError::internal("a content key vanished"))
            }
            Err(SecretError::Destroyed(_)) => Err(erased()),
            Err(error) => Err(error.into()),
        }
    }

    /// The key of what the caller says in a conversation, made with their first words there.
    ///
    /// # Errors
    /// 410 when the conversation was erased.
    pub(super) async fn author_key(&self, at: &Home, caller: &Caller) -> ApiResult<SubjectKey> {
        let (org, id) = (at.address.tenant.as_str(), at.address.id.as_str());
        let (conversation, own) = (content_key_id(org, id), author_key_id(org, id, &caller.id, at.generation));
        let mut keys = self.platform.secrets.subject_keys(&[conversation.clone(), own.clone()]).await?;
        if !keys.contains_key(&conversation) {
            return Err(erased());
        }
        match keys.remove(&own) {
            Some(key) => Ok(key),
            None => self.new_key(own).await,
        }
    }

    /// The key of a conversation.
    ///
    /// # Errors
    /// 410 when it was destroyed: nothing can be said there any more.
    pub(super) async fn key(&self, of: &AggregateRef) -> ApiResult<Arc<SubjectKey>> {
        self.keys.find(of.tenant.as_str(), &of.id).await?.ok_or_else(erased)
    }

    /// Sends a command to a conversation in the caller's name, and waits until its events show.
    pub(super) async fn submit(
        &self,
        address: &AggregateRef,
        command: impl Into<ConversationCommand>,
        caller: &Caller,
        scope: &RequestScope,
    ) -> ApiResult<Done> {
        let actor = Actor::from(&**caller);
        self.platform.submit(address, &command.into(), &actor, scope).await.map_err(with_status)
    }

    /// [`Messaging::submit`] that gives the event that came of it; `None` when nothing new did.
    pub(super) async fn submit_for_event(
        &self,
        address: &AggregateRef,
        command: impl Into<ConversationCommand>,
        caller: &Caller,
        scope: &RequestScope,
    ) -> ApiResult<Option<Arc<Event>>> {
        let actor = Actor::from(&**caller);
        let done = self.platform.submit_for_events(address, &command.into(), &actor, scope).await;
        Ok(done.map_err(with_status)?.outcome.stored.into_iter().next())
    }

    /// What the caller may read of the conversation's organization.
    pub(super) fn scope(place: &Place, caller: &Caller) -> Scope {
        Scope::member(place.tenant.clone(), &caller.id)
    }
}
