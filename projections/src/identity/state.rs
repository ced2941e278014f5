//! The rows that a batch touches, in memory. `None` = there is no such row, or no longer.

use std::collections::BTreeMap;

use time::OffsetDateTime;

#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct UserRow {
    pub id: String,
    pub org_id: String,
    pub email: Option<String>,
    pub email_key: Option<String>,
    pub name: Option<String>,
    pub password_ref: Option<String>,
    pub password_algo: Option<String>,
    pub is_super_admin: bool,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
    pub deleted: bool,
}

#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct OrganizationRow {
    pub id: String,
    pub org_id: String,
    pub name: String,
    pub slug: String,
    pub plan_id: Option<String>,
    pub created_at: OffsetDateTime,
}

#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct MembershipRow {
    pub id: String,
    pub org_id: String,
    pub user_id: String,
    pub role: String,
    pub created_at: OffsetDateTime,
}

#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct SessionRow {
    pub id: String,
    pub org_id: String,
    pub principal_id: String,
    pub principal_type: String,
    pub method: String,
    pub client_ip: Option<String>,
    pub user_agent: Option<String>,
    pub generation: i32,
    pub created_at: OffsetDateTime,
    pub refreshed_at: OffsetDateTime,
    pub expires_at: Option<OffsetDateTime>,
    pub revoked_at: Option<OffsetDateTime>,
    pub revoked_reason: Option<String>,
}

pub(super) type Rows<T> = BTreeMap<String, Option<T>>;

#[derive(Debug, Default)]
pub(super) struct State {
    pub users: Rows<UserRow>,
    pub organizations: Rows<OrganizationRow>,
    pub memberships: Rows<MembershipRow>,
    pub sessions: Rows<SessionRow>,
    /// Changes of counters, by tenant and name. A change by nothing still makes the row.
    pub counts: BTreeMap<(String, &'static str), i64>,
}

impl State {
    pub(super) fn count(&mut self, org: &str, name: &'static str, by: i64) {
        *self.counts.entry((org.to_owned(), name)).or_default() += by;
    }
}
