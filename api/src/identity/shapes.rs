//! What the identity routes answer with (identity.md §6.1). Every field is named here; nothing is passed through.

use serde::Serialize;
use symbia_projections::identity as model;
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};
use utoipa::ToSchema;

use crate::http::{Principal, principal::Membership as OrgRef};

/// ISO 8601 in UTC with milliseconds.
pub(super) fn iso(at: OffsetDateTime) -> String {
    const FORMAT: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    at.to_offset(time::UtcOffset::UTC).format(FORMAT).unwrap_or_default()
}

/// Milliseconds since 1970.
pub(super) fn epoch_ms(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

/// A text for people.
#[derive(Serialize, ToSchema)]
pub struct Msg {
    /// The text.
    pub message: &'static str,
}

/// A user with rights.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnrichedUser {
    /// Id.
    pub id: String,
    /// Address as typed.
    pub email: Option<String>,
    /// Display name.
    pub name: Option<String>,
    /// Operator of the platform.
    pub is_super_admin: bool,
    /// The organizations it belongs to.
    pub organizations: Vec<OrgRef>,
    /// Capabilities.
    pub entitlements: Vec<String>,
    /// Global roles.
    pub roles: Vec<String>,
}

impl From<&Principal> for EnrichedUser {
    fn from(p: &Principal) -> Self {
        EnrichedUser {
            id: p.id.clone(),
            email: p.email.clone(),
            name: p.name.clone(),
            is_super_admin: p.is_super_admin,
            organizations: p.organizations.clone(),
            entitlements: p.entitlements.clone(),
            roles: p.roles.clone(),
        }
    }
}

/// A user, shortly.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserRef {
    /// Id.
    pub id: String,
    /// Address as typed.
    pub email: Option<String>,
    /// Display name.
    pub name: Option<String>,
    /// Operator of the platform.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_super_admin: Option<bool>,
    /// The organizations it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organizations: Option<Vec<OrgRef>>,
}

/// An organization.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Organization {
    /// Id, the tenant.
    pub id: String,
    /// Display name.
    pub name: String,
    /// Unique short name.
    pub slug: String,
    /// Plan.
    pub plan_id: Option<String>,
    /// When it was founded.
    pub created_at: String,
}

impl From<model::Organization> for Organization {
    fn from(o: model::Organization) -> Self {
        Organization { id: o.id, name: o.name, slug: o.slug, plan_id: o.plan_id, created_at: iso(o.created_at) }
    }
}

/// An organization of the caller, with its size.
#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrgSummary {
    /// Id, the tenant.
    pub id: String,
    /// Display name.
    pub name: String,
    /// Unique short name.
    pub slug: String,
    /// Plan.
    pub plan_id: Option<String>,
    /// When it was founded.
    pub created_at: String,
    /// Number of members.
    pub member_count: i64,
    /// The caller's role.
    pub role: String,
    /// Name of its plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan_name: Option<String>,
}

impl From<model::OrgSummary> for OrgSummary {
    fn from(s: model::OrgSummary) -> Self {
        let o = s.organization;
        OrgSummary {
            id: o.id,
            name: o.name,
            slug: o.slug,
            plan_id: o.plan_id,
            created_at: iso(o.created_at),
            member_count: s.member_count,
            role: s.role,
            plan_name: s.plan_name,
        }
    }
}

/// That a user belongs to an organization.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Membership {
    /// Id.
    pub id: String,
    /// The user.
    pub user_id: String,
    /// The organization.
    pub org_id: String,
    /// `admin`, `member` or `viewer`.
    pub role: String,
    /// Since when.
    pub created_at: String,
}

impl From<model::Membership> for Membership {
    fn from(m: model::Membership) -> Self {
        Membership { id: m.id, user_id: m.user_id, org_id: m.org_id, role: m.role, created_at: iso(m.created_at) }
    }
}

/// A membership with the person.
#[derive(Serialize, ToSchema)]
pub struct Member {
    /// The membership.
    #[serde(flatten)]
    pub membership: Membership,
    /// The person.
    pub user: UserRef,
}

impl From<model::Member> for Member {
    fn from(m: model::Member) -> Self {
        let id = m.membership.user_id.clone();
        let user = UserRef { id, email: m.email, name: m.name, is_super_admin: None, organizations: None };
        Member { membership: m.membership.into(), user }
    }
}

/// A session of the caller.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// Id.
    pub id: String,
    /// How it began: `password` or `register`.
    pub method: String,
    /// From where.
    pub client_ip: Option<String>,
    /// With what.
    pub user_agent: Option<String>,
    /// When it began.
    pub created_at: String,
    /// When it was last refreshed.
    pub refreshed_at: String,
    /// When it ends by itself.
    pub expires_at: Option<String>,
    /// The one that asks.
    pub current: bool,
}

impl Session {
    pub(super) fn of(session: model::Session, current: Option<&str>) -> Self {
        Session {
            current: current == Some(session.id.as_str()),
            id: session.id,
            method: session.method,
            client_ip: session.client_ip,
            user_agent: session.user_agent,
            created_at: iso(session.created_at),
            refreshed_at: iso(session.refreshed_at),
            expires_at: session.expires_at.map(iso),
        }
    }
}
