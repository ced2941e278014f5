//! Every event type there is, for documents and tests. A new kind of aggregate is added here.

use serde_json::value::RawValue;

use crate::{
    DecodeError, DomainEvent, EncodeError, MessageType, assistants, identity, integrations, logging, messaging, models,
    network,
};

macro_rules! catalog {
    ($($events:ty),* $(,)?) => {
        /// The event types of all services.
        #[must_use]
        pub fn catalog() -> Vec<MessageType> {
            [$(<$events>::types()),*].concat()
        }

        /// Reads the payload of an event of any known type, upcasting older versions, and writes it in canonical form.
        pub fn recode(event_type: &str, data: &str) -> Result<Box<RawValue>, RecodeError> {
            $(
                match <$events>::from_data(event_type, data) {
                    Err(DecodeError::UnknownType(_)) => {}
                    event => return Ok(event?.to_data()?),
                }
            )*
            Err(DecodeError::UnknownType(event_type.to_owned()).into())
        }
    };
}

catalog! {
    identity::UserEvent,
    identity::OrganizationEvent,
    identity::SessionEvent,
    identity::AgentEvent,
    identity::SigningKeyEvent,
    identity::PlanEvent,
    identity::ProjectEvent,
    identity::ApplicationEvent,
    identity::ProjectServiceEvent,
    identity::ScopedEntitlementEvent,
    identity::GrantsEvent,
    identity::ApiKeyEvent,
    identity::EntityEvent,
    identity::SignInEvent,
    identity::AccessEvent,
    identity::CredentialEvent,
    identity::DelegationEvent,
    identity::AuthorizationEvent,
    identity::ApprovalEvent,
    logging::SealEvent,
    messaging::ConversationEvent,
    messaging::ReadCursorEvent,
    messaging::ChannelLinkEvent,
    messaging::AuthorEvent,
    messaging::WebhookEvent,
    messaging::RetentionPolicyEvent,
    assistants::AssistantEvent,
    assistants::RuleSetEvent,
    assistants::RuleRunEvent,
    integrations::CompletionEvent,
    integrations::EmbeddingEvent,
    integrations::ImageEvent,
    integrations::TaskEvent,
    integrations::EvalScheduleEvent,
    integrations::BatchEvent,
    integrations::StoredFileEvent,
    integrations::BudgetEvent,
    integrations::CircuitEvent,
    integrations::EvaluationEvent,
    integrations::ModelScoreEvent,
    integrations::PriceEvent,
    integrations::RouteEvent,
    integrations::GuardrailEvent,
    integrations::EgressPolicyEvent,
    integrations::ProviderProbesEvent,
    integrations::PassthroughEvent,
    integrations::IntegrationEvent,
    integrations::InvocationEvent,
    integrations::OauthClientEvent,
    integrations::OauthFlowEvent,
    integrations::OauthConnectionEvent,
    integrations::ChannelConnectionEvent,
    integrations::ChannelChatEvent,
    models::ModelEvent,
    models::DownloadEvent,
    models::UsageEvent,
    network::NodeEvent,
    network::ContractEvent,
    network::PolicyEvent,
    network::BridgeEvent,
    network::RoutingEvent,
    network::SecurityEvent,
}

/// Why a payload cannot be read and written again.
#[derive(Debug, thiserror::Error)]
pub enum RecodeError {
    /// It cannot be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It cannot be written.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}
