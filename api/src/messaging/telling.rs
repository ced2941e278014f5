//! From events of the log to what a follower of a conversation is told: texts opened, events named, deltas in their place.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use symbia_events::{
    DomainEvent, Event,
    assistants::{RuleRunEvent, RuleRunStarted},
    messaging::ConversationEvent,
};
use symbia_projections::assistants::RuleRun;

use super::{
    access::Place,
    words::{self, ContentKeys},
};
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
    conversation: String,
    caller: String,
    keys: ContentKeys,
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
    pub(super) fn new(
        platform: Platform,
        keys: ContentKeys,
        place: &Place,
        caller: &Caller,
        known: Vec<RuleRun>,
    ) -> Self {
        Telling {
            conversation: place.conversation.id.clone(),
            caller: caller.id.clone(),
            keys,
            platform,
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
            ConversationEvent::AGGREGATE => {
                let change: ConversationEvent = event.decode().ok()?;
                if let ConversationEvent::MessageSent(e) = &change {
                    self.answers.insert(e.message_id.clone(), None);
                }
                let told = words::of(&self.platform, &self.keys, &event, change).await?;
                (if told.name == words::MESSAGE { "message" } else { told.name }, told.data)
            }
            RuleRunEvent::AGGREGATE => ("run", self.run(&event, event.decode().ok()?)?),
            _ => return None,
        };
        Some(Item { name: Some(name), cursor: item.cursor, data: data.to_string() })
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
