//! What readers of a conversation see while a model answers: pieces of the text over core NATS, not stored.

use async_nats::Client;
use serde_json::json;
use symbia_events::{OrgId, check_token, integrations::CompletionRequested};
use tokio::{sync::mpsc, task::JoinHandle};

/// The live stream of one attempt.
pub struct Live {
    pieces: mpsc::UnboundedSender<String>,
    publishing: JoinHandle<()>,
}

impl Live {
    /// Opens it; readers of an attempt before this one are told to forget what they have seen.
    #[must_use]
    pub fn open(client: Client, tenant: &OrgId, request: &CompletionRequested, attempt: u32) -> Option<Self> {
        let conversation = request.context.conversation_id.clone().filter(|_| request.stream)?;
        // Ids come from commands: one that is no token must not become part of a subject.
        check_token(&conversation).ok()?;
        let subject = format!("symbia.live.{tenant}.conversation.{conversation}");
        let base = json!({
            "conversationId": conversation,
            "runId": request.context.rule_run_id,
            "messageId": request.context.reply_message_id,
            "attempt": attempt,
        });
        let (pieces, mut arrivals) = mpsc::unbounded_channel::<String>();
        let publishing = tokio::spawn(async move {
            let publish = |kind: &str, more: serde_json::Value| {
                let mut message = base.clone();
                message["type"] = json!(kind);
                if let (Some(message), serde_json::Value::Object(more)) = (message.as_object_mut(), more) {
                    message.extend(more);
                }
                client.publish(subject.clone(), message.to_string().into())
            };
            if attempt > 1 {
                let _ = publish("message:reset", json!({})).await;
            }
            let mut index = 0u64;
            while let Some(piece) = arrivals.recv().await {
                // Lost with the connection: the stored message is what counts.
                let _ = publish("message:delta", json!({ "index": index, "delta": piece })).await;
                index += 1;
            }
        });
        Some(Live { pieces, publishing })
    }

    /// The next piece.
    pub fn piece(&self, text: &str) {
        let _ = self.pieces.send(text.to_owned());
    }

    /// Everything is on its way to the readers.
    pub async fn close(self) {
        drop(self.pieces);
        let _ = self.publishing.await;
    }
}
