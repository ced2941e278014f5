//! Read model of the integrations service: which models were asked, what it took and what limits it; which other APIs there
//! are, and who called them.

mod batches;
mod budgets;
mod channels;
mod circuits;
mod completions;
mod egress_policies;
mod eval_schedules;
mod evaluations;
mod guardrails;
mod health;
mod invocations;
mod oauth;
mod own_clients;
mod prices;
mod provider_probes;
mod registry;
mod routes;
mod scores;
mod stored_files;
mod usage;

pub use batches::{Batch, batch, batch_reading, batches, batches_under_way};
pub use budgets::{Budget, budget, budgets};
pub use channels::{
    ChannelConnection, ChannelMessage, channel_connection, channel_connections, channel_delivery, polled_connections,
};
pub use circuits::{Circuit, circuits};
pub use completions::{Completion, completion, completions_of_run};
pub use egress_policies::{EgressPolicy, egress_policy};
pub use eval_schedules::{EvalSchedule, eval_schedule, eval_schedules};
pub use evaluations::{Evaluation, EvaluationFilter, evaluation, evaluations};
pub use guardrails::{Guardrail, guardrail, guardrails};
pub use health::{ModelHealth, model_health};
pub use invocations::{Invocation, invocations};
pub use oauth::{
    OauthClient, OauthConnection, OauthFlow, SealedAccount, oauth_client, oauth_clients, oauth_code_context,
    oauth_connections, oauth_flow, oauth_secret_context,
};
pub use own_clients::{OwnClient, OwnClients};
pub use prices::{Price, price, prices};
pub use provider_probes::{ProviderProbes, all_provider_probes, provider_probes};
pub use registry::{Integration, integration, integrations};
pub use routes::{Route, route, routes};
pub use scores::{ModelScore, model_scores};
pub use stored_files::{StoredFile, stored_file, stored_files};
pub use usage::{Filter, Grouped, Summary, executions, summary, usage_by};

use std::time::Duration;

use async_trait::async_trait;
use sqlx::PgConnection;
use symbia_events::Service;

use crate::{FoldError, FoldEvent, Migration, Projection};

/// The integrations projection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Integrations;

#[async_trait]
impl Projection for Integrations {
    fn name(&self) -> &'static str {
        "integrations"
    }

    fn services(&self) -> &'static [Service] {
        &[Service::Integrations]
    }

    fn tables(&self) -> &'static [&'static str] {
        &[
            "completions",
            "budgets",
            "prices",
            "circuits",
            "routes",
            "guardrails",
            "egress_policies",
            "provider_probes",
            "evaluations",
            "model_scores",
            "eval_schedules",
            "stored_files",
            "batches",
            "integrations",
            "invocations",
            "oauth_clients",
            "oauth_flows",
            "oauth_connections",
            "channel_connections",
            "channel_messages",
            "channel_chats",
        ]
    }

    fn migrations(&self) -> &'static [Migration] {
        MIGRATIONS
    }

    fn gathers(&self) -> Duration {
        Duration::from_millis(10)
    }

    async fn fold(&self, conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
        completions::fold(conn, events).await?;
        budgets::fold(conn, events).await?;
        prices::fold(conn, events).await?;
        circuits::fold(conn, events).await?;
        routes::fold(conn, events).await?;
        guardrails::fold(conn, events).await?;
        egress_policies::fold(conn, events).await?;
        provider_probes::fold(conn, events).await?;
        evaluations::fold(conn, events).await?;
        scores::fold(conn, events).await?;
        eval_schedules::fold(conn, events).await?;
        stored_files::fold(conn, events).await?;
        batches::fold(conn, events).await?;
        registry::fold(conn, events).await?;
        invocations::fold(conn, events).await?;
        oauth::fold(conn, events).await?;
        channels::fold(conn, events).await
    }
}

const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "integrations",
        sql: include_str!("../../../migrations/integrations/0001_integrations.sql"),
    },
    Migration { version: 2, name: "gateway", sql: include_str!("../../../migrations/integrations/0002_gateway.sql") },
    Migration { version: 3, name: "circuits", sql: include_str!("../../../migrations/integrations/0003_circuits.sql") },
    Migration { version: 4, name: "registry", sql: include_str!("../../../migrations/integrations/0004_registry.sql") },
    Migration { version: 5, name: "oauth", sql: include_str!("../../../migrations/integrations/0005_oauth.sql") },
    Migration { version: 6, name: "channels", sql: include_str!("../../../migrations/integrations/0006_channels.sql") },
    Migration {
        version: 7,
        name: "rate limit",
        sql: include_str!("../../../migrations/integrations/0007_rate_limit.sql"),
    },
    Migration { version: 8, name: "keys", sql: include_str!("../../../migrations/integrations/0008_keys.sql") },
    Migration { version: 9, name: "routes", sql: include_str!("../../../migrations/integrations/0009_routes.sql") },
    Migration {
        version: 10,
        name: "evaluations",
        sql: include_str!("../../../migrations/integrations/0010_evaluations.sql"),
    },
    Migration { version: 11, name: "tags", sql: include_str!("../../../migrations/integrations/0011_tags.sql") },
    Migration { version: 12, name: "images", sql: include_str!("../../../migrations/integrations/0012_images.sql") },
    Migration {
        version: 13,
        name: "eval schedules",
        sql: include_str!("../../../migrations/integrations/0013_eval_schedules.sql"),
    },
    Migration {
        version: 14,
        name: "channel floods",
        sql: include_str!("../../../migrations/integrations/0014_channel_floods.sql"),
    },
    Migration {
        version: 15,
        name: "channel accounts",
        sql: include_str!("../../../migrations/integrations/0015_channel_accounts.sql"),
    },
    Migration { version: 16, name: "tasks", sql: include_str!("../../../migrations/integrations/0016_tasks.sql") },
    Migration {
        version: 17,
        name: "guardrails",
        sql: include_str!("../../../migrations/integrations/0017_guardrails.sql"),
    },
    Migration { version: 18, name: "hedges", sql: include_str!("../../../migrations/integrations/0018_hedges.sql") },
    Migration { version: 19, name: "batches", sql: include_str!("../../../migrations/integrations/0019_batches.sql") },
    Migration {
        version: 20,
        name: "egress policies",
        sql: include_str!("../../../migrations/integrations/0020_egress_policies.sql"),
    },
    Migration {
        version: 21,
        name: "provider probes",
        sql: include_str!("../../../migrations/integrations/0021_provider_probes.sql"),
    },
];
