//! From events of the log to what a follower of a conversation is told: texts opened, events named, deltas in their place.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use symbia_events::{
    DomainEvent, Event, Personal, SubjectKey,
    assistants::{RuleRunEvent, RuleRunStarted},
    messaging::ConversationEvent,
};
use symbia_projections::{
    assistants::RuleRun,
    messaging::{self as model, content_key_id},
};

use super::{access::Place, shapes::MessageRow};
use crate::{
    feed::{
        item::Item,
        stream::{Gone, Outlet},
    },
    http::Caller,
    iso,
    platform::Platform,
};

/// What is known of a conversation while it is followed.
pub(super) struct Telling {
    platform: Platform,
    org: String,
    conversation: String,
    caller: String,
    key: Option<SubjectKey>,
    // Runs of this conversation, with the message that each answers.
    runs: HashMap<String, String>,
    // Answers under way: the attempt whose deltas count. None = it stands in the conversation.
    answers: HashMap<String, Option<u64>>,
}

/// A stored event as the feed gives it.
#[derive(Deserialize)]
struct Stored {
    event: Event,
}

/// A live message as the feed gives it.
#[derive(Deserialize)]
struct Live<'d> {
    #[serde(borrow)]
    data: &'d RawValue,
}

/// What is common to live messages of a conversation.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Delta {
    #[serde(rename = "type")]
    kind: String,
    message_id: String,
    #[serde(default)]
    attempt: u64,
}

impl Telling {
    pub(super) fn new(platform: Platform, place: &Place, caller: &Caller, known: Vec<RuleRun>) -> Self {
        Telling {
            platform,
            org: place.tenant.to_string(),
            conversation: place.conversation.id.clone(),
            caller: caller.id.clone(),
            key: None,
            runs: known.into_iter().map(|run| (run.id, run.message_id)).collect(),
            answers: HashMap::new(),
        }
    }

    /// Tells it to an outlet.
    pub(super) fn into<O: Outlet>(self, out: O) -> impl Outlet + use<O> {
        Told { telling: self, out }
    }

    fn live(&mut self, item: &Item) -> Option<Item> {
        let data = serde_json::from_str::<Live<'_>>(&item.data).ok()?.data;
        let delta: Delta = serde_json::from_str(data.get()).ok()?;
        let name = match delta.kind.as_str() {
            "message:delta" => "message:delta",
            "message:reset" => "message:reset",
            _ => return None,
        };
        // What belongs to an earlier attempt, or comes after the answer itself, is stale.
        match self.answers.entry(delta.message_id).or_insert(Some(delta.attempt)) {
            None => return None,
            Some(attempt) if *attempt > delta.attempt => return None,
            current => *current = Some(delta.attempt),
        }
        Some(Item { name: Some(name), cursor: None, data: data.get().to_owned() })
    }

    async fn stored(&mut self, item: Item) -> Option<Item> {
        let Stored { event } = serde_json::from_str(&item.data)
            .inspect_err(|error| tracing::error!(%error, "an event of the feed cannot be read back"))
            .ok()?;
        let (name, data) = match event.aggregatetype.as_str() {
            ConversationEvent::AGGREGATE => self.conversation(&event, event.decode().ok()?).await?,
            RuleRunEvent::AGGREGATE => ("run", self.run(&event, event.decode().ok()?)?),
            _ => return None,
        };
        Some(Item { name: Some(name), cursor: item.cursor, data: data.to_string() })
    }

    async fn conversation(&mut self, event: &Event, change: ConversationEvent) -> Option<(&'static str, Value)> {
        Some(match change {
            ConversationEvent::ConversationCreated(_) | ConversationEvent::ConversationErased(_) => return None,
            ConversationEvent::ConversationDeleted(_) => {
                ("conversation:deleted", json!({ "conversationId": self.conversation }))
            }
            ConversationEvent::ConversationSettingsChanged(e) => {
                let key = self.key().await;
                let opened = |sealed: Option<Personal>| {
                    sealed.map(|s| model::open(key.as_ref(), &s).unwrap_or_else(|| model::ERASED.to_owned()))
                };
                let metadata = opened(e.metadata).map(|text| serde_json::from_str::<Value>(&text).unwrap_or_default());
                let mut row = json!({
                    "id": self.conversation, "name": opened(e.name), "description": opened(e.description),
                    "metadata": metadata, "updated_at": iso(event.time),
                });
                // Only what changed.
                if let Value::Object(row) = &mut row {
                    row.retain(|_, value| !value.is_null());
                }
                ("conversation:updated", row)
            }
            ConversationEvent::ParticipantRoleChanged(e) => (
                "participant:role_changed",
                json!({ "conversationId": self.conversation, "userId": e.principal_id, "role": e.to }),
            ),
            ConversationEvent::OwnershipTransferred(e) => (
                "participant:role_changed",
                json!({ "conversationId": self.conversation, "userId": e.to, "role": "owner", "previousOwner": e.from }),
            ),
            ConversationEvent::ControlIssued(e) => {
                let key = self.key().await;
                ("control:recorded", json!(MessageRow::from(model::Message::signalled(event, e, key.as_ref()))))
            }
            ConversationEvent::ConversationRouted(e) => (
                "conversation:routed",
                json!({ "conversationId": self.conversation, "to": e.to, "messageId": e.message_id }),
            ),
            ConversationEvent::HandoffRecorded(e) => (
                "conversation:handed_off",
                json!({ "conversationId": self.conversation, "from": e.from, "to": e.to,
                    "assistantsMuted": e.assistants_muted }),
            ),
            ConversationEvent::ParticipantAdded(e) => (
                "participant:added",
                json!({
                    "id": e.participant_id, "conversation_id": self.conversation, "user_id": e.principal_id,
                    "user_type": e.principal_type, "role": e.role, "entity_id": e.entity_id,
                    "joined_at": iso(event.time), "last_read_at": null,
                }),
            ),
            ConversationEvent::ParticipantRemoved(e) => {
                ("participant:removed", json!({ "conversationId": self.conversation, "userId": e.principal_id }))
            }
            ConversationEvent::MessageSent(e) => {
                self.answers.insert(e.message_id.clone(), None);
                let key = self.key().await;
                ("message", json!(MessageRow::from(model::Message::sent(event, e, key.as_ref()))))
            }
            ConversationEvent::MessageEdited(e) => {
                let content = self.key().await.and_then(|key| key.open(&e.content).ok());
                let content = content.unwrap_or_else(|| model::ERASED.to_owned());
                let (id, version) = (e.message_id, e.version);
                let row = json!({
                    "id": id, "conversation_id": self.conversation, "content": content, "version": version,
                    "updated_at": iso(event.time),
                });
                ("message:updated", row)
            }
            ConversationEvent::MessageDeleted(e) => {
                ("message:deleted", json!({ "id": e.message_id, "conversationId": self.conversation }))
            }
        })
    }

    fn run(&mut self, event: &Event, change: RuleRunEvent) -> Option<Value> {
        let id = &event.aggregateid;
        if let RuleRunEvent::RuleRunStarted(e) = &change {
            if e.conversation_id != self.conversation {
                return None;
            }
            self.runs.insert(id.clone(), e.message_id.clone());
        }
        let message_id = self.runs.get(id)?;
        let mut run = json!({
            "type": "run", "conversationId": self.conversation, "runId": id, "messageId": message_id,
            "at": iso(event.time),
        });
        let more = match change {
            RuleRunEvent::RuleRunStarted(e) => {
                let RuleRunStarted { assistant_key, award_reason, rule_set_key, rule, .. } = e;
                let rule = rule.map(|rule| json!({ "id": rule.id, "name": rule.name }));
                json!({ "status": "started", "assistantKey": assistant_key, "awardReason": award_reason,
                    "ruleSetKey": rule_set_key, "rule": rule })
            }
            RuleRunEvent::ActionRequested(e) => {
                json!({ "status": "action", "action": e.action_type, "ref": e.resolved_params_ref })
            }
            RuleRunEvent::RuleRunCompleted(e) => {
                json!({ "status": "completed", "messageIds": e.message_ids, "durationMs": e.duration_ms })
            }
            RuleRunEvent::RuleRunFailed(e) => json!({ "status": "failed", "category": e.category, "code": e.code,
                "error": e.error, "durationMs": e.duration_ms }),
            RuleRunEvent::RuleRunCancelled(e) => {
                json!({ "status": "cancelled", "by": e.by, "reason": e.reason, "durationMs": e.duration_ms })
            }
            RuleRunEvent::RuleEvaluated(_) | RuleRunEvent::ActionCompleted(_) | RuleRunEvent::ActionFailed(_) => {
                return None;
            }
        };
        if let (Value::Object(run), Value::Object(more)) = (&mut run, more) {
            run.extend(more);
        }
        Some(run)
    }

    // Asked for each text: a key that is destroyed opens nothing any more.
    async fn key(&mut self) -> Option<SubjectKey> {
        if self.key.is_none() {
            let kid = content_key_id(&self.org, &self.conversation);
            self.key = self.platform.secrets.subject_key(&kid).await.ok().flatten();
        }
        self.key.clone()
    }
}

struct Told<O> {
    telling: Telling,
    out: O,
}

impl<O: Outlet> Outlet for Told<O> {
    async fn put(&mut self, item: Item) -> Result<(), Gone> {
        let told = match item.name {
            None => self.telling.stored(item).await,
            Some("live") => self.telling.live(&item),
            Some(_) => Some(item),
        };
        let Some(item) = told else { return Ok(()) };
        let reason = match item.name {
            Some("participant:removed") if names(&item.data, &self.telling.caller) => {
                Some("you take no part in this conversation any more")
            }
            Some("conversation:deleted") => Some("the conversation is no more"),
            _ => None,
        };
        self.out.put(item).await?;
        if let Some(reason) = reason {
            let data = json!({ "type": "close", "code": 4003, "reason": reason });
            self.out.put(Item { name: Some("close"), cursor: None, data: data.to_string() }).await?;
            self.out.flush().await?;
            return Err(Gone);
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        self.out.flush().await
    }

    async fn beat(&mut self) -> Result<(), Gone> {
        self.out.beat().await
    }
}

fn names(data: &str, user: &str) -> bool {
    serde_json::from_str::<Value>(data).is_ok_and(|data| data["userId"] == user)
}
