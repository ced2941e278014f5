//! The assistant aggregate: what an assistant is, and whether it answers (assistants.md §21.2).

use serde::{Deserialize, Serialize};
use symbia_events::{
    AggregateRef,
    assistants::{
        AssistantDefinition, AssistantEvent, AssistantPublished, AssistantRegistered, AssistantUpdated,
        AssistantWithdrawn,
    },
    canonical, hash,
};
use time::OffsetDateTime;

use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

domain_commands! {
    /// What an assistant can be asked to do.
    AssistantCommand: Assistants / "assistant" {
        /// Takes a definition over; the same one again changes nothing.
        SyncAssistant = "symbia.cmd.assistants.sync-assistant.v1" { definition: AssistantDefinition }
        /// Lets it answer.
        PublishAssistant = "symbia.cmd.assistants.publish-assistant.v1" { key: String }
        /// Lets it answer no more.
        WithdrawAssistant = "symbia.cmd.assistants.withdraw-assistant.v1" { key: String }
    }
}

/// An assistant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Assistant {
    definition: AssistantDefinition,
    digest: String,
    published: bool,
}

impl Assistant {
    /// What it is, when it exists and answers.
    #[must_use]
    pub fn answering(&self) -> Option<&AssistantDefinition> {
        self.published.then_some(&self.definition)
    }

    fn exists(&self) -> Result<(), Rejection> {
        if self.digest.is_empty() { Err(Rejection::not_found("assistant")) } else { Ok(()) }
    }
}

fn is_key(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=100).contains(&text.len()) && text.bytes().all(fits)
}

impl Aggregate for Assistant {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("key");
    type Command = AssistantCommand;
    type Event = AssistantEvent;

    fn belongs(command: &AssistantCommand, to: &AggregateRef) -> Result<(), Rejection> {
        match command {
            AssistantCommand::SyncAssistant(c) if c.definition.key != to.id => Err(Rejection::misaddressed(to)),
            _ => Ok(()),
        }
    }

    fn apply(&mut self, event: &AssistantEvent) {
        match event {
            AssistantEvent::AssistantRegistered(AssistantRegistered { definition, digest, .. })
            | AssistantEvent::AssistantUpdated(AssistantUpdated { definition, digest, .. }) => {
                self.definition.clone_from(definition);
                self.digest.clone_from(digest);
            }
            AssistantEvent::AssistantPublished(_) => self.published = true,
            AssistantEvent::AssistantWithdrawn(_) => self.published = false,
        }
    }

    fn decide(
        &self,
        command: AssistantCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<AssistantEvent>, Rejection> {
        if !by.is_platform() && !by.super_admin {
            return Err(Rejection::forbidden("assistants are defined by the platform or a super admin"));
        }
        let by = by.id.clone();
        match command {
            AssistantCommand::SyncAssistant(c) => {
                let definition = c.definition;
                if !is_key(&definition.key) || definition.name.is_empty() {
                    return Err(Rejection::invalid("key: 1 to 100 of a-z, 0-9 and '-'; name must not be empty"));
                }
                let digest = canonical::to_vec(&definition).map(|bytes| hash(&bytes));
                let digest = digest.map_err(|e| Rejection::invalid(e.to_string()))?;
                if self.digest.is_empty() {
                    return Ok(Decision::one(AssistantRegistered { definition, digest, by }));
                }
                if definition.key != self.definition.key {
                    return Err(Rejection::invalid(format!("key: this assistant is '{}'", self.definition.key)));
                }
                if digest == self.digest {
                    return Ok(Decision::nothing());
                }
                Ok(Decision::one(AssistantUpdated { definition, digest, by }))
            }
            AssistantCommand::PublishAssistant(c) => {
                self.exists()?;
                if self.published {
                    return Ok(Decision::nothing());
                }
                Ok(Decision::one(AssistantPublished { key: c.key, digest: self.digest.clone(), by }))
            }
            AssistantCommand::WithdrawAssistant(c) => {
                self.exists()?;
                if !self.published {
                    return Ok(Decision::nothing());
                }
                Ok(Decision::one(AssistantWithdrawn { key: c.key, by }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        assistants::seed,
        testing::{AT, given},
    };

    fn platform() -> Actor {
        Actor::service("assistants")
    }

    fn registered() -> AssistantEvent {
        let command = SyncAssistant { definition: seed::assistant() };
        Assistant::default().decide(command.into(), &platform(), AT).unwrap().events.remove(0)
    }

    fn published() -> AssistantEvent {
        let AssistantEvent::AssistantRegistered(e) = registered() else { unreachable!() };
        AssistantPublished { key: e.definition.key, digest: e.digest, by: e.by }.into()
    }

    #[test]
    fn an_assistant_answers_from_its_publication_to_its_withdrawal() {
        let key = seed::assistant().key;
        given::<Assistant>([registered()]).when(PublishAssistant { key: key.clone() }, &platform()).then([published()]);
        let withdraw = WithdrawAssistant { key: key.clone() };
        let withdrawn = AssistantWithdrawn { key: key.clone(), by: "service:assistants".into() };
        given::<Assistant>([registered(), published()]).when(withdraw.clone(), &platform()).then([withdrawn.into()]);
        given::<Assistant>([registered()]).when(withdraw, &platform()).then([]);
        given::<Assistant>([]).when(PublishAssistant { key }, &platform()).rejected("NOT_FOUND");
    }

    #[test]
    fn a_definition_is_taken_over_once_and_keeps_its_key() {
        let sync = |definition| SyncAssistant { definition };
        given::<Assistant>([registered()]).when(sync(seed::assistant()), &platform()).then([]);
        let other = AssistantDefinition { key: "other".into(), ..seed::assistant() };
        given::<Assistant>([registered()]).when(sync(other), &platform()).rejected("VALIDATION_FAILED");
        let bad = AssistantDefinition { key: "No Key".into(), ..seed::assistant() };
        given::<Assistant>([]).when(sync(bad), &platform()).rejected("VALIDATION_FAILED");
        let person = Actor { id: "ada".into(), kind: symbia_events::ActorType::User, ..platform() };
        given::<Assistant>([]).when(sync(seed::assistant()), &person).rejected("FORBIDDEN");
    }
}
