//! What each event of a conversation is told as.

use symbia_events::{
    Event,
    messaging::{ConversationEvent, MessageSent},
};

use super::{Chapter, Entry, Teller, name_of};

impl Teller<'_> {
    pub(super) async fn chapter(&mut self, entry: &Entry) -> anyhow::Result<Chapter> {
        let mut details = Vec::new();
        let headline = match entry.believed::<ConversationEvent>() {
            None => "something that must not be believed, or that this version does not know".to_owned(),
            Some((event, what)) => match what {
                ConversationEvent::ConversationCreated(e) => {
                    format!("{} opened the conversation", self.name(&e.created_by).await?)
                }
                ConversationEvent::ParticipantAdded(e) => {
                    format!("{} takes part as {}", self.name(&e.principal_id).await?, name_of(&e.role))
                }
                ConversationEvent::ParticipantRemoved(e) => {
                    format!("{} takes part no more ({})", self.name(&e.principal_id).await?, e.via)
                }
                ConversationEvent::MessageSent(e) => self.said(event, &e, &mut details).await?,
                ConversationEvent::MessageEdited(e) => {
                    details.push(self.open(&e.content).await?);
                    format!("{} edited message {}", self.name(&event.actorid).await?, e.message_id)
                }
                ConversationEvent::MessageDeleted(e) => {
                    format!("{} deleted message {}", self.name(&e.deleted_by).await?, e.message_id)
                }
                ConversationEvent::ConversationSettingsChanged(_) => {
                    format!("{} changed the settings", self.name(&event.actorid).await?)
                }
                ConversationEvent::ConversationDeleted(e) => {
                    format!("{} ended the conversation", self.name(&e.deleted_by).await?)
                }
                ConversationEvent::ConversationErased(e) => {
                    format!("{} had everything erased that was said", self.name(&e.erased_by).await?)
                }
                ConversationEvent::RetentionScheduled(e) if e.days == 0 => {
                    format!("{} had it kept for ever", self.name(&e.by).await?)
                }
                ConversationEvent::RetentionScheduled(e) => {
                    format!("it is erased after {} days without a word: {}", e.days, self.name(&e.by).await?)
                }
                ConversationEvent::ParticipantRoleChanged(e) => {
                    let who = self.name(&e.principal_id).await?;
                    format!("{who} is {} now, not {}", name_of(&e.to), name_of(&e.from))
                }
                ConversationEvent::OwnershipTransferred(e) => {
                    format!("{} owns the conversation now", self.name(&e.to).await?)
                }
                ConversationEvent::ControlIssued(e) => {
                    if let Some(reason) = &e.reason {
                        details.push(self.open(reason).await?);
                    }
                    format!("#{} {} gave the signal {}", e.sequence, self.name(&e.issued_by).await?, e.event.name())
                }
                ConversationEvent::ConversationRouted(e) => {
                    format!("{} answers from now on", self.name(&e.to.principal_id).await?)
                }
                ConversationEvent::HandoffRecorded(e) => {
                    format!("handed off to {}", self.name(&e.to.principal_id).await?)
                }
                ConversationEvent::AssistantNotificationFailed(e) => {
                    let who = self.name(&e.principal_id).await?;
                    format!("{who} could not be told of message {}: {}", e.message_id, e.error_code)
                }
            },
        };
        Ok(Chapter { at: entry.at(), headline, details, evidence: vec![entry.evidence()] })
    }

    async fn said(&mut self, event: &Event, e: &MessageSent, details: &mut Vec<String>) -> anyhow::Result<String> {
        details.push(self.open(&e.content).await?);
        let run = e.run_id.as_ref().map_or_else(String::new, |run| format!(", in run {run}"));
        let by = if event.actorid == e.sender_id { String::new() } else { format!(" (sent by {})", event.actorid) };
        Ok(format!("#{} {} said{by}{run}", e.sequence, self.name(&e.sender_id).await?))
    }
}
