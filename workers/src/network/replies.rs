//! Answers that come over the mesh become messages of those who gave them (messaging.md §8.13): of who takes part in the
//! conversation, in their own name, once. Whoever answers as somebody else, or where they take no part, is told to the mesh's
//! log. And who could not be told of a message there shows in it too.

use serde_json::Value;
use symbia_commands::{
    Actor, Membership, Role,
    messaging::{ConversationCommand, RecordNotificationFailure, SendMessage},
    network::{RefusalKind, Reply},
};
use symbia_events::{
    ActorType, AggregateRef, CommandId, Event, Service,
    messaging::{Priority, content_key_id, conversation_key_of},
    network::{EventDeadLettered, EventRouted},
};
use symbia_nats::refusals::{Refusals, Refused};

use crate::{content_keys::ContentKeys, sender::Sender};

/// Records answers.
pub(super) struct Replies {
    sender: Sender,
    content: ContentKeys,
    refusals: Refusals,
}

impl Replies {
    pub fn new(sender: Sender, content: ContentKeys) -> Self {
        Replies { refusals: sender.refusals(), sender, content }
    }

    /// Records an answer, or tells by a code why it is none.
    pub async fn record(
        &self,
        cause: &Event,
        routed: &EventRouted,
        data: &Value,
    ) -> anyhow::Result<Result<(), String>> {
        let Ok(reply) = serde_json::from_value::<Reply>(data.clone()) else {
            return Ok(Err("not_a_reply".to_owned()));
        };
        let recorded = self.said(cause, routed, &reply).await?;
        if let Err(code) = &recorded {
            self.note(cause, routed, &reply, &code.to_uppercase());
        }
        Ok(recorded)
    }

    fn note(&self, cause: &Event, routed: &EventRouted, reply: &Reply, code: &str) {
        let Some(kind) = RefusalKind::of_code(code) else { return };
        self.refusals.tell(Refused {
            org: &cause.orgid,
            principal: &routed.sender_id,
            kind,
            code,
            operation: &routed.payload_type,
            claimed_source: Some(reply.named().as_ref().unwrap_or(&routed.source)),
        });
    }

    async fn said(&self, cause: &Event, routed: &EventRouted, reply: &Reply) -> anyhow::Result<Result<(), String>> {
        let refused = |code: &str| Ok(Err(code.to_owned()));
        let Some(author) = reply.author(routed) else {
            tracing::warn!(event = routed.event_id, source = routed.source, "an answer in another's name is refused");
            return refused("sender_not_source");
        };
        let (org, conversation) = (&routed.org_id, &reply.conversation_id);
        let Ok(to) = AggregateRef::new(Service::Messaging, cause.orgid.clone(), "conversation", conversation) else {
            return refused("conversation_not_found");
        };
        let Some(key) = self.content.key(&content_key_id(org, conversation)).await? else {
            return refused("conversation_not_found");
        };
        let command = ConversationCommand::from(SendMessage {
            message_id: reply.message_id(routed).to_string(),
            content: key.seal(reply.content()),
            content_digest: key.digest(reply.content()),
            content_type: reply.content_type().to_owned(),
            reply_to: None,
            run_id: Some(routed.run_id.clone()),
            trace_id: None,
            priority: Priority::Normal,
            interruptible: true,
            preempted_by: None,
            metadata: Some(key.seal(&reply.metadata(routed).to_string())),
        });
        // The mesh has authenticated who sent it.
        let by = Actor {
            id: author.to_owned(),
            kind: ActorType::Agent,
            orgs: vec![Membership { id: cause.orgid.clone(), role: Role::Member }],
            ..Actor::service("messaging")
        };
        let id = CommandId::derived(cause.id, "record-reply");
        let outcome = self.sender.send(Some(cause), &to, &command, &by, id).await?;
        Ok(outcome.rejection.map_or(Ok(()), |rejection| Err(rejection.code.to_lowercase())))
    }

    /// Tells a conversation that somebody could not be told of a message of it.
    pub async fn missed(&self, cause: &Event, routed: &EventRouted, dead: &EventDeadLettered) -> anyhow::Result<()> {
        // What it says is sealed under a key of its conversation.
        let kid = conversation_key_of(&routed.data.kid);
        let conversation = kid.strip_prefix(&content_key_id(&routed.org_id, "")).unwrap_or_default();
        let Ok(to) = AggregateRef::new(Service::Messaging, cause.orgid.clone(), "conversation", conversation) else {
            return Ok(());
        };
        let command = ConversationCommand::from(RecordNotificationFailure {
            message_id: routed.caused_by.clone().unwrap_or_default(),
            principal_id: dead.target.clone(),
            event_id: dead.event_id.clone(),
            attempt: dead.attempt,
            error_code: dead.error_code.clone(),
        });
        let id = CommandId::derived(cause.id, "record-notification-failure");
        // One that was deleted meanwhile wants to know nothing.
        self.sender.send(Some(cause), &to, &command, &Actor::service("messaging"), id).await?;
        Ok(())
    }
}
