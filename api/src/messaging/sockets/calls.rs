//! What clients ask for over their sockets (messaging.md §7.4): the same commands as over REST.

use std::sync::Arc;

use axum::http::StatusCode;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use socketioxide::extract::SocketRef;
use symbia_projections::{Scope, messaging as model};
use tracing::Instrument;

use super::{MessagingSockets, order::Order, presence::Status};
use crate::{
    http::{ApiError, ApiResult, Caller, RequestScope},
    messaging::{
        access::no_message,
        control::NewSignal,
        messages::{Correction, NewMessage},
        reading::ReadUpTo,
    },
    socket::{Peer, refused},
};

/// The conversation that something is said in.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct In {
    conversation_id: String,
}

/// The message that something is done to.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct To {
    message_id: String,
}

fn invalid(error: &serde_json::Error) -> ApiError {
    ApiError::invalid("", "format", format!("The argument is not valid: {error}"))
}

fn read<T: DeserializeOwned>(argument: &Value) -> ApiResult<T> {
    T::deserialize(argument).map_err(|error| invalid(&error))
}

/// Refuses a message that claims to be somebody else's.
fn own(caller: &Caller, message: &Value) -> ApiResult<()> {
    let claimed = ["senderId", "sender_id"].into_iter().filter_map(|name| message.get(name)?.as_str());
    for sender in claimed {
        if sender != caller.id && Some(sender) != caller.agent_id.as_deref() {
            return Err(ApiError::new(StatusCode::FORBIDDEN, "FORGED_SENDER", "Nobody writes in another's name"));
        }
    }
    Ok(())
}

/// The answer to a call that fails, which is noted where such refusals are. Who takes no part does not learn whether there is such a conversation.
fn failed(caller: &Caller, scope: &RequestScope, error: &ApiError, what: &str) -> Value {
    caller.was_refused(caller.org(scope).ok(), &scope.operation, error);
    match error.code() {
        "NOT_PARTICIPANT" | "CONVERSATION_NOT_FOUND" => refused("Not a participant", "NOT_PARTICIPANT"),
        code if error.status().is_server_error() => refused(what, code),
        code => refused(error.message(), code),
    }
}

impl MessagingSockets {
    /// Does what a client asks for.
    pub(super) async fn answer(
        &self,
        peer: &Arc<Peer>,
        socket: &SocketRef,
        call: &str,
        arguments: Vec<Value>,
    ) -> Value {
        let scope = peer.scope(call);
        let span = tracing::info_span!("call", service = "messaging", call, request_id = scope.request_id);
        self.done(peer, socket, &scope, call, &arguments).instrument(span).await
    }

    async fn done(
        &self,
        peer: &Arc<Peer>,
        socket: &SocketRef,
        scope: &RequestScope,
        call: &str,
        arguments: &[Value],
    ) -> Value {
        let caller = peer.caller();
        let null = Value::Null;
        let (first, second) = (arguments.first().unwrap_or(&null), arguments.get(1).unwrap_or(&null));
        let text = first.as_str().map(str::to_owned);
        let sid = peer.id;
        let order = match (call, text.clone()) {
            ("leave:conversation" | "unwatch:conversation", Some(conversation)) => Order::Leave { sid, conversation },
            ("typing:start" | "typing:stop", Some(conversation)) => {
                Order::Typing { sid, conversation, started: call == "typing:start" }
            }
            ("announce:presence", Some(conversation)) => Order::Announce { sid, conversation },
            ("presence:update", _) => match read::<Status>(first) {
                Ok(status) => Order::Present { sid, status },
                Err(_) => return refused("The status must be online, away, busy or offline", "VALIDATION_FAILED"),
            },
            ("join:conversation", Some(conversation)) => {
                let since = if second.is_object() { read(second) } else { Ok(super::join::Since::default()) };
                return match since {
                    Ok(since) => self.join(peer, socket, &conversation, since).await,
                    Err(error) => failed(&caller, scope, &error, "Failed to join"),
                };
            }
            ("watch:conversation", Some(conversation)) => return self.watch(peer, &conversation).await,
            ("message:send", _) => return self.send(&caller, scope, first).await,
            ("message:edit", _) => return self.edit(&caller, scope, first).await,
            ("message:delete", _) => return self.delete(&caller, scope, text, first).await,
            ("control:send", _) => return self.control(&caller, scope, first).await,
            ("conversation:read", _) => return self.has_read(&caller, scope, first).await,
            (
                "leave:conversation"
                | "unwatch:conversation"
                | "typing:start"
                | "typing:stop"
                | "announce:presence"
                | "join:conversation"
                | "watch:conversation",
                None,
            ) => return refused("The id of a conversation is required", "VALIDATION_FAILED"),
            _ => return refused("There is no such event", "NOT_FOUND"),
        };
        self.hub().tell(order);
        json!({ "success": true })
    }

    async fn send(&self, caller: &Caller, scope: &RequestScope, argument: &Value) -> Value {
        let said = async {
            own(caller, argument)?;
            let In { conversation_id } = read(argument)?;
            self.messaging.say(caller, scope, &conversation_id, read::<NewMessage>(argument)?).await
        };
        match said.await {
            Ok(message) => json!({ "success": true, "message": message }),
            Err(error) => failed(caller, scope, &error, "Failed to send message"),
        }
    }

    async fn edit(&self, caller: &Caller, scope: &RequestScope, argument: &Value) -> Value {
        let edited = async {
            let To { message_id } = read(argument)?;
            let conversation = self.conversation_with(caller, &message_id).await?;
            self.messaging.correct(caller, scope, (&conversation, message_id), read::<Correction>(argument)?).await
        };
        match edited.await {
            Ok(message) => json!({ "success": true, "message": message }),
            Err(error) => failed(caller, scope, &error, "Failed to edit message"),
        }
    }

    async fn delete(&self, caller: &Caller, scope: &RequestScope, id: Option<String>, argument: &Value) -> Value {
        let deleted = async {
            let message_id = match id {
                Some(id) => id,
                None => read::<To>(argument)?.message_id,
            };
            let conversation = self.conversation_with(caller, &message_id).await?;
            self.messaging.retract(caller, scope, &conversation, message_id).await
        };
        match deleted.await {
            Ok(()) => json!({ "success": true }),
            Err(error) => failed(caller, scope, &error, "Failed to delete message"),
        }
    }

    async fn control(&self, caller: &Caller, scope: &RequestScope, argument: &Value) -> Value {
        let signalled = async {
            let In { conversation_id } = read(argument)?;
            self.messaging.signal(caller, scope, &conversation_id, read::<NewSignal>(argument)?).await
        };
        match signalled.await {
            Ok(control) => json!({ "success": true, "control": control }),
            Err(error) => failed(caller, scope, &error, "Failed to send control"),
        }
    }

    async fn has_read(&self, caller: &Caller, scope: &RequestScope, argument: &Value) -> Value {
        let read = async {
            let In { conversation_id } = read(argument)?;
            self.messaging.has_read(caller, scope, conversation_id, read::<ReadUpTo>(argument)?).await
        };
        match read.await {
            Ok(reading) => json!({ "success": true, "reading": reading }),
            Err(error) => failed(caller, scope, &error, "Failed to mark as read"),
        }
    }

    /// The conversation of the caller's that has a message.
    async fn conversation_with(&self, caller: &Caller, message: &str) -> ApiResult<String> {
        let orgs: Vec<String> = caller.organizations.iter().map(|org| org.id.clone()).collect();
        let mut tx = self.messaging.platform.read(&Scope::platform()).await?;
        model::conversation_with(&mut tx, &caller.id, &orgs, message).await?.ok_or_else(no_message)
    }
}
