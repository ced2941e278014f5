//! One exchange as its stream tells it: a question, the run that answers it, and the messages of that run.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::sse::Sse;

/// How the run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It answered.
    Completed,
    /// It could not; what it said instead is a message.
    Failed,
    /// It was stopped.
    Cancelled,
}

/// What is to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// A piece of an answer.
    Piece(String),
    /// The answer begins anew; what was shown of it is to be forgotten.
    Again,
    /// A whole answer; its pieces may have been shown.
    Answer(String),
    /// The stream was closed for good.
    Closed(String),
}

/// An exchange under way.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Exchange {
    message_id: String,
    run_id: Option<String>,
    status: Option<Status>,
    error: Option<String>,
    /// The messages of the run, as they are stored.
    messages: Vec<Value>,
    /// Ids of those that the run has sent, once it has told.
    #[serde(skip)]
    expected: Option<BTreeSet<String>>,
    // Its messages may come before what tells that they are its messages.
    #[serde(skip)]
    early: Vec<Value>,
}

impl Exchange {
    /// The exchange that a message begins.
    pub fn new(message: Uuid) -> Self {
        Exchange {
            message_id: message.to_string(),
            run_id: None,
            status: None,
            error: None,
            messages: Vec::new(),
            expected: None,
            early: Vec::new(),
        }
    }

    /// How the run ended, once it has.
    pub fn status(&self) -> Option<Status> {
        self.status
    }

    /// The run has its end, and only its last messages may be on their way.
    pub fn is_ending(&self) -> bool {
        self.status.is_some()
    }

    /// Nothing more comes.
    pub fn is_over(&self) -> bool {
        let seen = |id: &String| self.messages.iter().any(|m| m["id"].as_str() == Some(id));
        match self.status {
            None => false,
            Some(Status::Completed) => self.expected.as_ref().is_none_or(|ids| ids.iter().all(seen)),
            // What went wrong is said in one message.
            Some(Status::Failed) => !self.messages.is_empty(),
            Some(Status::Cancelled) => true,
        }
    }

    /// Takes the next event of the stream.
    pub fn take(&mut self, event: &Sse) -> Step {
        let data = &event.data;
        match event.name.as_str() {
            "run" if data["messageId"] == self.message_id.as_str() => self.run(data),
            "message" if data["run_id"].is_string() => {
                if self.run_id.is_none() {
                    self.early.push(data.clone());
                    return Step::Nothing;
                }
                self.message(data)
            }
            "message:delta" if self.is_ours(data) => Step::Piece(text(&data["delta"])),
            "message:reset" if self.is_ours(data) => Step::Again,
            "close" if data["code"] == 4003 => Step::Closed(text(&data["reason"])),
            _ => Step::Nothing,
        }
    }

    // Deltas may come before the run is told: one answer at a time is under way for one question.
    fn is_ours(&self, data: &Value) -> bool {
        self.run_id.as_ref().is_none_or(|run| data["runId"] == run.as_str())
    }

    fn message(&mut self, data: &Value) -> Step {
        if self.run_id.as_deref() != data["run_id"].as_str() {
            return Step::Nothing;
        }
        self.messages.push(data.clone());
        Step::Answer(text(&data["content"]))
    }

    fn run(&mut self, data: &Value) -> Step {
        self.run_id = data["runId"].as_str().map(str::to_owned);
        match data["status"].as_str() {
            Some("completed") => {
                self.status = Some(Status::Completed);
                let ids = data["messageIds"].as_array().into_iter().flatten();
                self.expected = Some(ids.map(text).collect());
            }
            Some("failed") => {
                self.status = Some(Status::Failed);
                self.error = Some(text(&data["error"]));
            }
            Some("cancelled") => self.status = Some(Status::Cancelled),
            _ => {}
        }
        let early = std::mem::take(&mut self.early);
        let steps: Vec<Step> = early.iter().map(|message| self.message(message)).collect();
        steps.into_iter().find(|step| *step != Step::Nothing).unwrap_or(Step::Nothing)
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(name: &str, data: Value) -> Sse {
        Sse { name: name.to_owned(), id: None, data }
    }

    fn run(status: &str, more: Value) -> Sse {
        let mut data = json!({ "messageId": Uuid::nil(), "runId": "r", "status": status });
        if let (Value::Object(data), Value::Object(more)) = (&mut data, more) {
            data.extend(more);
        }
        event("run", data)
    }

    fn reply(id: &str) -> Sse {
        event("message", json!({ "id": id, "run_id": "r", "content": "hi" }))
    }

    #[test]
    fn it_is_over_with_the_last_message_of_the_run_in_whichever_order_they_come() {
        let end = run("completed", json!({ "messageIds": ["a"] }));
        for order in [[end.clone(), reply("a")], [reply("a"), end]] {
            let mut exchange = Exchange::new(Uuid::nil());
            exchange.take(&run("started", json!({})));
            assert_eq!(
                exchange.take(&event("message:delta", json!({ "runId": "r", "delta": "h" }))),
                Step::Piece("h".into())
            );
            exchange.take(&order[0]);
            assert!(!exchange.is_over());
            exchange.take(&order[1]);
            assert!(exchange.is_over());
            assert_eq!(exchange.messages.len(), 1);
        }
    }

    #[test]
    fn a_reply_that_comes_before_its_run_is_kept() {
        let mut exchange = Exchange::new(Uuid::nil());
        assert_eq!(exchange.take(&reply("a")), Step::Nothing);
        assert_eq!(exchange.take(&run("started", json!({}))), Step::Answer("hi".into()));
        exchange.take(&run("completed", json!({ "messageIds": ["a"] })));
        assert!(exchange.is_over());
    }

    #[test]
    fn what_is_not_of_this_exchange_changes_nothing() {
        let mut exchange = Exchange::new(Uuid::nil());
        exchange.take(&run("started", json!({})));
        for other in [
            event("run", json!({ "messageId": "x", "runId": "s", "status": "failed" })),
            event("message", json!({ "id": "m", "run_id": null, "content": "hello" })),
            event("message", json!({ "id": "m", "run_id": "s", "content": "hello" })),
            event("message:delta", json!({ "runId": "s", "delta": "h" })),
        ] {
            assert_eq!(exchange.take(&other), Step::Nothing);
        }
        assert!(!exchange.is_ending());
        exchange.take(&run("failed", json!({ "error": "no model" })));
        assert!(exchange.is_ending() && !exchange.is_over(), "what went wrong is still to be said");
        exchange.take(&reply("fault"));
        assert!(exchange.is_over());
    }
}
