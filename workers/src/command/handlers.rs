//! Which aggregate decides which command: the one table, by service and kind.

use std::{collections::HashMap, sync::Arc};

use futures::future::BoxFuture;
use symbia_commands::{
    Actor, Aggregate, CommandEnvelope, Outcome, assistants, identity, integrations, logging, messaging, models, network,
};
use symbia_events::{AggregateRef, DomainEvent, Service};
use symbia_nats::store::{EventStore, StoreError};

type Execute = Arc<
    dyn for<'a> Fn(
            &'a EventStore,
            &'a AggregateRef,
            &'a CommandEnvelope,
            &'a Actor,
        ) -> BoxFuture<'a, Result<Outcome, StoreError>>
        + Send
        + Sync,
>;

/// The aggregates a worker serves. Cheap to clone.
#[derive(Clone, Default)]
pub struct Handlers(HashMap<(Service, &'static str), Execute>);

impl Handlers {
    /// Every aggregate of the platform.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
            .with::<identity::User>()
            .with::<identity::Organization>()
            .with::<identity::Session>()
            .with::<identity::Agent>()
            .with::<identity::SigningKeys>()
            .with::<identity::Plan>()
            .with::<identity::Project>()
            .with::<identity::Application>()
            .with::<identity::ProjectService>()
            .with::<identity::ScopedEntitlement>()
            .with::<identity::Grants>()
            .with::<identity::ApiKey>()
            .with::<identity::Entity>()
            .with::<identity::SignInAttempts>()
            .with::<identity::AccessNotes>()
            .with::<identity::Credential>()
            .with::<identity::Delegation>()
            .with::<identity::Authorization>()
            .with::<identity::ApprovalRequest>()
            .with::<logging::LogSeal>()
            .with::<messaging::Conversation>()
            .with::<messaging::ReadCursor>()
            .with::<messaging::ChannelLink>()
            .with::<messaging::Author>()
            .with::<messaging::Webhook>()
            .with::<messaging::RetentionPolicy>()
            .with::<assistants::Assistant>()
            .with::<assistants::RuleSet>()
            .with::<assistants::RuleRun>()
            .with::<integrations::Completion>()
            .with::<integrations::Embedding>()
            .with::<integrations::Image>()
            .with::<integrations::Task>()
            .with::<integrations::EvalSchedule>()
            .with::<integrations::Batch>()
            .with::<integrations::StoredFile>()
            .with::<integrations::Budget>()
            .with::<integrations::Circuit>()
            .with::<integrations::Evaluation>()
            .with::<integrations::ModelScore>()
            .with::<integrations::Price>()
            .with::<integrations::Route>()
            .with::<integrations::Guardrail>()
            .with::<integrations::EgressPolicy>()
            .with::<integrations::ProviderProbes>()
            .with::<integrations::Passthrough>()
            .with::<integrations::Integration>()
            .with::<integrations::Invocation>()
            .with::<integrations::OauthClient>()
            .with::<integrations::OauthFlow>()
            .with::<integrations::OauthConnection>()
            .with::<integrations::ChannelConnection>()
            .with::<integrations::ChannelChat>()
            .with::<models::Model>()
            .with::<models::Download>()
            .with::<models::Usage>()
            .with::<network::Node>()
            .with::<network::Contract>()
            .with::<network::Policy>()
            .with::<network::Bridge>()
            .with::<network::RoutedEvent>()
            .with::<network::Refusals>()
    }

    /// And this aggregate.
    #[must_use]
    pub fn with<A: Aggregate>(mut self) -> Self {
        let execute: Execute =
            Arc::new(|store, aggregate, envelope, actor| Box::pin(store.execute::<A>(aggregate, envelope, actor)));
        self.0.insert((A::Event::SERVICE, A::Event::AGGREGATE), execute);
        self
    }

    pub(super) fn find<'a>(&'a self, aggregate: &'a AggregateRef) -> Option<&'a Execute> {
        // Seen as a map of shorter-lived names, so that it can be asked for one of those.
        let handlers: &HashMap<(Service, &str), Execute> = &self.0;
        handlers.get(&(aggregate.service, aggregate.kind.as_str()))
    }
}
