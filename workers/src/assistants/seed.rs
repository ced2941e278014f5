//! Loads the first assistant and its rules, through commands like any other. To load them again changes nothing.

use std::sync::Arc;

use symbia_commands::{
    Actor, DomainCommand, Outcome, OutcomeStatus,
    assistants::{AssistantCommand, PublishAssistant, RuleSetCommand, SyncAssistant, seed},
};
use symbia_events::{AggregateRef, CommandId, InvalidToken, KeyRing, OrgId, Service};
use symbia_nats::bus::CommandBus;
use uuid::Uuid;

use crate::sender::{SendError, Sender};

/// The assistant could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// No outcome of a command.
    #[error("the first assistant could not be loaded: {0}")]
    Send(#[from] SendError),
    /// A command was refused.
    #[error("the first assistant was refused: {0}")]
    Refused(String),
    /// Its key cannot be an address.
    #[error(transparent)]
    Key(#[from] InvalidToken),
}

/// Loads the assistant, publishes it, and loads its rules unless it has some.
pub async fn load_seed(bus: CommandBus, keys: Arc<KeyRing>) -> Result<(), SeedError> {
    let sender = Sender::new(bus, keys);
    let create = seed::create_rule_set();
    let place = |kind: &str, id: &str| AggregateRef::new(Service::Assistants, OrgId::global(), kind, id);
    let assistant = place("assistant", seed::ASSISTANT_KEY)?;
    let rule_set = place("rule-set", &create.rule_set_key)?;
    let sync = AssistantCommand::from(SyncAssistant { definition: seed::assistant() });
    accepted(send(&sender, &assistant, &sync, CommandId::random()).await?)?;
    let publish = AssistantCommand::from(PublishAssistant { key: seed::ASSISTANT_KEY.to_owned() });
    // The same id each time: one that was withdrawn since stays withdrawn.
    let once = CommandId::derived(Uuid::nil(), "publish the first assistant");
    accepted(send(&sender, &assistant, &publish, once).await?)?;
    let outcome = send(&sender, &rule_set, &RuleSetCommand::from(create), CommandId::random()).await?;
    match &outcome.rejection {
        // It has rules, perhaps changed ones: they are the operator's.
        Some(rejection) if rejection.code == "CONFLICT" => Ok(()),
        _ => accepted(outcome),
    }
}

async fn send(
    sender: &Sender,
    to: &AggregateRef,
    command: &impl DomainCommand,
    id: CommandId,
) -> Result<Outcome, SendError> {
    sender.send(None, to, command, &Actor::system("seed"), id).await
}

fn accepted(outcome: Outcome) -> Result<(), SeedError> {
    match outcome.rejection {
        Some(rejection) if outcome.status == OutcomeStatus::Rejected => Err(SeedError::Refused(rejection.to_string())),
        _ => Ok(()),
    }
}
