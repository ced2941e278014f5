//! Read model of the identity service: users, organizations, memberships, sessions, the audit trail and counters.

mod access;
mod agents;
mod api_keys;
mod audit;
mod audit_words;
mod authorizations;
mod credentials;
mod delegations;
mod directory;
mod entities;
mod fold;
mod load;
mod organizations;
mod save;
mod security;
mod sessions;
mod state;
mod table;
mod tenancy;
mod users;

pub use access::{SigningKey, signing_keys};
pub use agents::{Agent, agent, agent_by_handle, agents};
pub use api_keys::{ApiKey, api_key, api_key_by_hash, api_keys_of};
pub use audit::{AuditEntry, AuditFilter, audit_trail};
pub use authorizations::{Authorization, authorization_by_id, authorization_of};
pub use credentials::{Credential, credential, credential_for, credentials_of, credentials_of_org};
pub use delegations::{Approval, Delegation, approval_by_id, approvals_of, delegation_by_id, delegations_of};
pub use directory::{
    Address, EntityFilter, entities, entity, entity_aliases, entity_instances, entity_on, resolve, similar_slugs,
};
pub use entities::{Entity, EntityAlias, EntityInstance};
pub use organizations::{
    Member, Membership, OrgOverview, OrgRef, OrgSummary, Organization, member, member_count, member_users, members,
    members_among, membership_of, organization, organization_by_slug, organization_summaries, organizations,
    organizations_of, organizations_with_plan,
};
pub use security::{Security, security, sign_in_block};
pub use sessions::{Session, session, sessions_of};
pub use tenancy::{
    Application, Grant, Invitation, OrgEntitlement, Plan, Project, ProjectService, ScopedEntitlement, ServiceLink,
    application, applications, grants, invitation, invitation_by_token, invitations, linked_services, org_entitlements,
    plan, plan_by_name, plans, project, project_service, project_services, projects, scoped_entitlement,
    scoped_entitlements, service_link,
};
pub use users::{
    Counts, Credentials, Entitled, User, counts, credentials, entitled, initialized, user, user_by_email_key, users,
};

use async_trait::async_trait;
use sqlx::PgConnection;
use symbia_events::Service;

use crate::{FoldError, FoldEvent, Migration, Projection, secrets::SecretStore};

/// The identity projection. Personal fields are opened while folding; without its key a field is NULL: erased.
#[derive(Clone, Debug)]
pub struct Identity {
    secrets: SecretStore,
}

impl Identity {
    /// The projection with the store that holds the subject keys.
    #[must_use]
    pub fn new(secrets: SecretStore) -> Self {
        Identity { secrets }
    }
}

#[async_trait]
impl Projection for Identity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn services(&self) -> &'static [Service] {
        &[Service::Identity]
    }

    fn tables(&self) -> &'static [&'static str] {
        &[
            "users",
            "organizations",
            "memberships",
            "sessions",
            "audit_trail",
            "stats",
            "session_cutoffs",
            "signing_keys",
            "agents",
            "api_keys",
            "credentials",
            "entities",
            "entity_aliases",
            "entity_instances",
            "plans",
            "org_entitlements",
            "invitations",
            "projects",
            "applications",
            "project_services",
            "service_links",
            "scoped_entitlements",
            "grants",
            "user_security",
            "sign_in_blocks",
            "delegations",
            "approvals",
            "authorizations",
        ]
    }

    fn migrations(&self) -> &'static [Migration] {
        MIGRATIONS
    }

    async fn fold(&self, conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
        fold::fold(&self.secrets, conn, events).await?;
        agents::fold(conn, events).await?;
        api_keys::fold(conn, events).await?;
        credentials::fold(&self.secrets, conn, events).await?;
        delegations::fold(&self.secrets, conn, events).await?;
        entities::fold(&self.secrets, conn, events).await?;
        authorizations::fold(conn, events).await?;
        tenancy::fold(&self.secrets, conn, events).await
    }
}

/// Name and schema of the projection.
pub const NAME: &str = "identity";

const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "identity", sql: include_str!("../../../migrations/identity/0001_identity.sql") },
    Migration { version: 2, name: "agents", sql: include_str!("../../../migrations/identity/0002_agents.sql") },
    Migration { version: 3, name: "access", sql: include_str!("../../../migrations/identity/0003_access.sql") },
    Migration { version: 4, name: "tenancy", sql: include_str!("../../../migrations/identity/0004_tenancy.sql") },
    Migration { version: 5, name: "api_keys", sql: include_str!("../../../migrations/identity/0005_api_keys.sql") },
    Migration { version: 6, name: "sign-in", sql: include_str!("../../../migrations/identity/0006_sign_in.sql") },
    Migration {
        version: 7,
        name: "credentials",
        sql: include_str!("../../../migrations/identity/0007_credentials.sql"),
    },
    Migration {
        version: 8,
        name: "delegations",
        sql: include_str!("../../../migrations/identity/0008_delegations.sql"),
    },
    Migration { version: 9, name: "directory", sql: include_str!("../../../migrations/identity/0009_directory.sql") },
    Migration {
        version: 10,
        name: "authorizations",
        sql: include_str!("../../../migrations/identity/0010_authorizations.sql"),
    },
];
