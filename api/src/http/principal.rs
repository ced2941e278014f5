//! Who a request acts for (platform.md §4.2, 4.5).

use serde::{Deserialize, Serialize};
use symbia_commands::{Approved, Level, integrations::MODEL_SCOPE};
use symbia_events::{OrgId, Service};

/// What kind of actor a principal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PrincipalKind {
    /// A person.
    User,
    /// An AI agent or assistant.
    Agent,
    /// One of the platform's own services.
    Service,
}

/// How the principal proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum AuthType {
    /// Bearer token.
    Jwt,
    /// `X-API-Key`.
    ApiKey,
    /// Session cookie.
    Session,
    /// Service credential.
    Service,
}

/// An organization of the principal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Membership {
    /// Id of the organization.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its slug.
    pub slug: String,
    /// The principal's role in it: `admin`, `member` or `viewer`.
    pub role: String,
}

/// An authenticated principal, complete: what the directory knew when the credential was verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Principal {
    /// User id, agent handle, service id, or the owner of an API key.
    pub id: String,
    /// User, agent or service.
    #[serde(rename = "type")]
    pub kind: PrincipalKind,
    /// Handle of an agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// E-mail address, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Display name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Stored default organization of a user; the organization of an agent, a service or an API key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org_id: Option<String>,
    /// The organizations it may act in. For an API key of one organization: that one.
    pub organizations: Vec<Membership>,
    /// Entitlements and capabilities, as they are stored.
    pub entitlements: Vec<String>,
    /// Roles, with or without `role:`.
    pub roles: Vec<String>,
    /// Super admin of the platform.
    pub is_super_admin: bool,
    /// How it authenticated.
    pub auth_type: AuthType,
    /// Scopes of the credential; empty means unrestricted.
    pub scopes: Vec<String>,
    /// The session, for tokens and cookies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The API key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// Came in through an API key.
    pub via_api_key: bool,
    /// The agent that acts in its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acting: Option<Acting>,
}

/// An agent that acts in somebody's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Acting {
    /// Principal id of the agent.
    pub agent: String,
    /// The agents that it acts for in turn, the nearest first.
    pub chain: Vec<String>,
    /// The delegation that allows it.
    pub delegation: String,
    /// What weighs more needs an approval.
    #[schema(value_type = String)]
    pub limit: Level,
    /// The one thing that was approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub approved: Option<Approved>,
}

/// What the capabilities of a service begin with, behind `cap:` (platform.md §6.1).
pub(super) fn domain(service: Service) -> &'static str {
    if service == Service::Logging { "telemetry" } else { service.name() }
}

impl Principal {
    /// A principal without organizations, rights or contact data, to be filled in.
    pub fn new(id: impl Into<String>, kind: PrincipalKind, auth_type: AuthType) -> Self {
        Self {
            id: id.into(),
            kind,
            agent_id: None,
            email: None,
            name: None,
            org_id: None,
            organizations: Vec::new(),
            entitlements: Vec::new(),
            roles: Vec::new(),
            is_super_admin: false,
            auth_type,
            scopes: Vec::new(),
            session_id: None,
            key_id: None,
            via_api_key: auth_type == AuthType::ApiKey,
            acting: None,
        }
    }

    /// Super admin, or has the capability word for word. Implied capabilities are resolved where the principal is made.
    #[must_use]
    pub fn has_capability(&self, capability: &str) -> bool {
        self.is_super_admin || self.entitlements.iter().any(|e| e == capability)
    }

    /// Super admin, or has the role, with or without `role:`, as a role or an entitlement.
    #[must_use]
    pub fn has_role(&self, role: &str) -> bool {
        let bare = role.strip_prefix("role:").unwrap_or(role);
        self.is_super_admin
            || self.roles.iter().any(|r| r.strip_prefix("role:").unwrap_or(r) == bare)
            || self.entitlements.iter().any(|e| e.strip_prefix("role:") == Some(bare))
    }

    /// Whether it is limited to scopes: a key's, or those of an agent in somebody's name.
    #[must_use]
    pub fn is_restricted(&self) -> bool {
        self.acting.is_some() || !self.scopes.is_empty()
    }

    /// Whether its scopes, where it is limited to some, name a service at all.
    #[must_use]
    pub fn reaches(&self, service: Service) -> bool {
        let within = |scope: &String| {
            if service == Service::Integrations && scope.starts_with(MODEL_SCOPE) {
                return true;
            }
            let capability = scope.strip_prefix("cap:").unwrap_or_default();
            [domain(service), "global"].contains(&capability.split('.').next().unwrap_or_default())
        };
        !self.is_restricted() || self.scopes.iter().any(within)
    }

    /// Its role in an organization.
    #[must_use]
    pub fn role_in(&self, org: &str) -> Option<&str> {
        self.organizations.iter().find(|o| o.id == org).map(|o| o.role.as_str())
    }

    /// May act in organizations it does not belong to (platform.md §6.2).
    #[must_use]
    pub fn bypasses_org_filter(&self) -> bool {
        ["cap:global.read", "cap:global.admin"].into_iter().any(|c| self.has_capability(c))
    }

    /// The organization that it acts in where it names none: its only one beside the operators', else its default.
    #[must_use]
    pub fn home(&self) -> Option<&str> {
        // The operators' own organization is chosen by name only: the first super admin has it beside the one they work in.
        let mut theirs = self.organizations.iter().filter(|org| org.id != OrgId::SYSTEM);
        if let (Some(only), None) = (theirs.next(), theirs.next()) {
            return Some(&only.id);
        }
        self.org_id.as_deref().filter(|org| self.belongs_to(org))
    }

    /// Belongs to the organization; a service of the platform, to every one. A user's default counts only while it is a
    /// membership: it may be a former one.
    #[must_use]
    pub fn belongs_to(&self, org: &str) -> bool {
        self.kind == PrincipalKind::Service
            || self.role_in(org).is_some()
            || (self.kind != PrincipalKind::User && self.org_id.as_deref() == Some(org))
    }
}
