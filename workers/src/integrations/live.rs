//! What readers see while a model answers: pieces of the answer over core NATS, not stored. Those of a conversation read them
//! there, under `symbia.live.<tenant>.conversation.<id>`; who asked for a completion alone reads
//! `symbia.live.<tenant>.completion.<id>`.

use async_nats::Client;
use serde_json::{Value, json};
use symbia_events::{OrgId, check_token, integrations::CompletionRequested};
use tokio::{sync::mpsc, task::JoinHandle};

use super::provider::Delta;

/// The live stream of one attempt.
pub struct Live {
    pieces: mpsc::UnboundedSender<Value>,
    of_conversation: bool,
    publishing: JoinHandle<()>,
}

impl Live {
    /// Opens it; readers of an attempt before this one are told to forget what they have seen, with its first piece when it is
    /// `beside` another, which may go on.
    #[must_use]
    pub fn open(
        client: Client,
        tenant: &OrgId,
        request: &CompletionRequested,
        attempt: u32,
        beside: bool,
    ) -> Option<Self> {
        if !request.stream {
            return None;
        }
        let conversation = request.context.conversation_id.clone();
        let of_conversation = conversation.is_some();
        let (kind, id) = match &conversation {
            Some(conversation) => ("conversation", conversation.as_str()),
            None => ("completion", request.request_id.as_str()),
        };
        // Ids come from commands: one that is no token must not become part of a subject.
        check_token(id).ok()?;
        let subject = format!("symbia.live.{tenant}.{kind}.{id}");
        let base = match conversation {
            Some(conversation) => json!({
                "conversationId": conversation,
                "runId": request.context.rule_run_id,
                "messageId": request.context.reply_message_id,
                "attempt": attempt,
            }),
            None => json!({ "requestId": request.request_id, "attempt": attempt }),
        };
        let prefix = if of_conversation { "message:" } else { "" };
        let (pieces, mut arrivals) = mpsc::unbounded_channel::<Value>();
        let publishing = tokio::spawn(async move {
            let publish = |kind: &str, more: Value| {
                let mut message = base.clone();
                message["type"] = json!(format!("{prefix}{kind}"));
                if let (Some(message), Value::Object(more)) = (message.as_object_mut(), more) {
                    message.extend(more);
                }
                client.publish(subject.clone(), message.to_string().into())
            };
            let mut told = attempt == 1;
            if !told && !beside {
                told = true;
                let _ = publish("reset", json!({})).await;
            }
            let mut index = 0u64;
            while let Some(mut piece) = arrivals.recv().await {
                if !std::mem::replace(&mut told, true) {
                    let _ = publish("reset", json!({})).await;
                }
                piece["index"] = json!(index);
                // Lost with the connection: what is stored counts.
                let _ = publish("delta", piece).await;
                index += 1;
            }
        });
        Some(Live { pieces, of_conversation, publishing })
    }

    /// The next piece. A conversation shows text of the first answer alone.
    pub fn piece(&self, choice: u32, delta: Delta<'_>) {
        let mut piece = match delta {
            _ if self.of_conversation && choice > 0 => return,
            Delta::Text(text) if self.of_conversation => json!({ "delta": text }),
            _ if self.of_conversation => return,
            Delta::Text(text) => json!({ "text": text }),
            Delta::Reasoning(text) => json!({ "reasoning": text }),
            Delta::Tool { index, id, name, arguments } => {
                json!({ "tool": { "index": index, "id": id, "name": name, "arguments": arguments } })
            }
            Delta::Logprobs(tokens) => json!({ "logprobs": tokens }),
        };
        if choice > 0 {
            piece["choice"] = json!(choice);
        }
        let _ = self.pieces.send(piece);
    }

    /// Everything is on its way to the readers.
    pub async fn close(self) {
        drop(self.pieces);
        let _ = self.publishing.await;
    }
}
