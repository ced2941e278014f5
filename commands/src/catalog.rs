//! Every command type there is, for documents and tests. A new kind of aggregate is added here.

use symbia_events::MessageType;

use crate::{DomainCommand, assistants, identity, integrations, logging, messaging, models, network};

/// The command types of all services.
#[must_use]
pub fn catalog() -> Vec<MessageType> {
    [
        identity::UserCommand::types(),
        identity::OrganizationCommand::types(),
        identity::SessionCommand::types(),
        identity::AgentCommand::types(),
        identity::SigningKeyCommand::types(),
        identity::PlanCommand::types(),
        identity::ProjectCommand::types(),
        identity::ApplicationCommand::types(),
        identity::ProjectServiceCommand::types(),
        identity::ScopedEntitlementCommand::types(),
        identity::GrantsCommand::types(),
        identity::ApiKeyCommand::types(),
        identity::EntityCommand::types(),
        identity::SignInCommand::types(),
        identity::AccessCommand::types(),
        identity::CredentialCommand::types(),
        identity::DelegationCommand::types(),
        identity::AuthorizationCommand::types(),
        identity::ApprovalCommand::types(),
        logging::SealCommand::types(),
        messaging::ConversationCommand::types(),
        messaging::ReadCursorCommand::types(),
        messaging::WebhookCommand::types(),
        messaging::RetentionPolicyCommand::types(),
        assistants::AssistantCommand::types(),
        assistants::RuleSetCommand::types(),
        assistants::RuleRunCommand::types(),
        integrations::CompletionCommand::types(),
        integrations::EmbeddingCommand::types(),
        integrations::ImageCommand::types(),
        integrations::TaskCommand::types(),
        integrations::EvalScheduleCommand::types(),
        integrations::BatchCommand::types(),
        integrations::StoredFileCommand::types(),
        integrations::BudgetCommand::types(),
        integrations::CircuitCommand::types(),
        integrations::EvaluationCommand::types(),
        integrations::ModelScoreCommand::types(),
        integrations::PriceCommand::types(),
        integrations::RouteCommand::types(),
        integrations::GuardrailCommand::types(),
        integrations::EgressPolicyCommand::types(),
        integrations::ProviderProbesCommand::types(),
        integrations::IntegrationCommand::types(),
        integrations::InvocationCommand::types(),
        integrations::ChannelConnectionCommand::types(),
        integrations::ChannelChatCommand::types(),
        models::ModelCommand::types(),
        models::DownloadCommand::types(),
        models::UsageCommand::types(),
        network::NodeCommand::types(),
        network::ContractCommand::types(),
        network::PolicyCommand::types(),
        network::BridgeCommand::types(),
        network::RoutingCommand::types(),
        network::RefusalsCommand::types(),
    ]
    .concat()
}
