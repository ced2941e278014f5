//! Answers under way: the pieces that come before the message is stored, and what became of the turn.

use std::collections::HashMap;

use serde_json::{Value, json};
use symbia_commands::messaging::ASSISTANT_PREFIX;
use symbia_events::{Event, assistants::RuleRunEvent, messaging::Signal};
use symbia_projections::{Scope, assistants as model};

use super::told::Room;
use crate::{iso, platform::Platform};

/// Turns that are remembered while they go on; what is forgotten is asked for.
const TURNS_MAX: usize = 10_000;
/// Answers of one conversation of which is remembered how far they are.
const ANSWERS_MAX: usize = 256;

struct Turn {
    room: Room,
    assistant: String,
    message_id: String,
}

/// How far an answer is: the attempt whose pieces count, or stored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Attempt(u64),
    Stored,
}

pub(super) struct Answers {
    platform: Platform,
    turns: HashMap<String, Turn>,
    progress: HashMap<Room, HashMap<String, Progress>>,
}

impl Answers {
    pub fn new(platform: Platform) -> Self {
        Answers { platform, turns: HashMap::new(), progress: HashMap::new() }
    }

    /// A message stands in its conversation: pieces of it that come later are stale.
    pub fn stored(&mut self, room: &Room, message: &str) {
        let answers = self.progress.entry(room.clone()).or_default();
        if answers.len() >= ANSWERS_MAX {
            answers.retain(|_, progress| *progress != Progress::Stored);
        }
        answers.insert(message.to_owned(), Progress::Stored);
    }

    /// Nobody listens to a room any more.
    pub fn empty(&mut self, room: &Room) {
        self.progress.remove(room);
    }

    /// What a piece of an answer says, if it still counts.
    pub fn piece(&mut self, room: &Room, payload: &[u8]) -> Vec<(&'static str, Value)> {
        let Ok(Value::Object(mut piece)) = serde_json::from_slice(payload) else { return Vec::new() };
        let name = match piece.remove("type").as_ref().and_then(Value::as_str) {
            Some("message:delta") => "message:delta",
            Some("message:reset") => "message:reset",
            _ => return Vec::new(),
        };
        let Some(message) = piece.get("messageId").and_then(Value::as_str) else { return Vec::new() };
        let attempt = piece.get("attempt").and_then(Value::as_u64).unwrap_or(0);
        let answers = self.progress.entry(room.clone()).or_default();
        let before = answers.get(message).copied();
        match before {
            Some(Progress::Stored) => return Vec::new(),
            Some(Progress::Attempt(current)) if current > attempt => return Vec::new(),
            _ => _ = answers.insert(message.to_owned(), Progress::Attempt(attempt)),
        }
        let run = piece.get("runId").and_then(Value::as_str).unwrap_or_default();
        let turn = self.turns.get(run);
        let assistant = turn.map(|turn| format!("{ASSISTANT_PREFIX}{}", turn.assistant));
        let begun = json!({ "conversationId": room.conversation(), "turnId": run, "state": "streaming",
            "assistantId": assistant, "messageId": turn.map(|turn| &turn.message_id) });
        for (name, value) in [
            ("conversationId", json!(room.conversation())),
            ("turnId", json!(run)),
            ("senderId", json!(assistant)),
            ("text", piece.get("delta").cloned().unwrap_or(json!(""))),
            ("contentType", json!("markdown")),
        ] {
            piece.insert(name.to_owned(), value);
        }
        let first = before.is_none().then_some(("turn:state", begun));
        first.into_iter().chain([(name, Value::Object(piece))]).collect()
    }

    /// What an event of a turn says to its conversation.
    pub async fn run(&mut self, event: &Event) -> Option<(Room, Value)> {
        let (run, change) = (&event.aggregateid, event.decode::<RuleRunEvent>().ok()?);
        let (state, more) = match &change {
            RuleRunEvent::RuleRunStarted(e) => {
                let room = Room::new(event.orgid.as_str(), &e.conversation_id);
                let (assistant, message_id) = (e.assistant_key.clone(), e.message_id.clone());
                if self.turns.len() >= TURNS_MAX {
                    self.turns.clear();
                }
                self.turns.insert(run.clone(), Turn { room, assistant, message_id });
                let rule = e.rule.as_ref().map(|rule| json!({ "id": rule.id, "name": rule.name }));
                ("pending", json!({ "rule": rule }))
            }
            RuleRunEvent::RuleRunCompleted(e) => ("completed", json!({ "messageIds": e.message_ids })),
            RuleRunEvent::RuleRunFailed(e) => ("failed", json!({ "errorCode": e.code, "error": e.error })),
            RuleRunEvent::RuleRunCancelled(e) => {
                let state = match Signal::named(&e.reason) {
                    Some(Signal::Preempt) => "preempted",
                    Some(Signal::Handoff) => "handed_off",
                    Some(Signal::Pause) => "paused",
                    _ => "cancelled",
                };
                (state, json!({ "by": e.by, "reason": e.reason }))
            }
            _ => return None,
        };
        if !self.turns.contains_key(run) {
            self.look_up(event.orgid.as_str(), run).await;
        }
        let turn = self.turns.get(run)?;
        let mut told = json!({ "conversationId": turn.room.conversation(), "turnId": run, "state": state,
            "assistantId": format!("{ASSISTANT_PREFIX}{}", turn.assistant), "messageId": turn.message_id,
            "at": iso(event.time) });
        if let (Value::Object(told), Value::Object(more)) = (&mut told, more) {
            told.extend(more);
        }
        let room = turn.room.clone();
        if state != "pending" {
            self.turns.remove(run);
        }
        Some((room, told))
    }

    /// A turn that began before this process listened.
    async fn look_up(&mut self, org: &str, run: &str) {
        let Ok(mut tx) = self.platform.read(&Scope::platform()).await else { return };
        if let Ok(Some(found)) = model::rule_run(&mut tx, org, run).await {
            let turn = Turn {
                room: Room::new(org, &found.conversation_id),
                assistant: found.assistant_key,
                message_id: found.message_id,
            };
            self.turns.insert(run.to_owned(), turn);
        }
    }
}
