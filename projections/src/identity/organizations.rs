//! Organizations and their members as the identity routes need them.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::users::User;

/// An organization.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
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
    pub created_at: OffsetDateTime,
}

/// An organization as its member sees it in lists.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct OrgRef {
    /// Id.
    pub id: String,
    /// Display name.
    pub name: String,
    /// Unique short name.
    pub slug: String,
    /// The user's role.
    pub role: String,
}

/// An organization of a user, with its size.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct OrgSummary {
    /// The organization.
    #[sqlx(flatten)]
    pub organization: Organization,
    /// The user's role.
    pub role: String,
    /// Number of members.
    pub member_count: i64,
    /// Name of its plan.
    pub plan_name: Option<String>,
}

/// An organization as operators list it.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct OrgOverview {
    /// The organization.
    #[sqlx(flatten)]
    pub organization: Organization,
    /// Number of members.
    pub member_count: i64,
    /// Name of its plan.
    pub plan_name: Option<String>,
}

/// That a user belongs to an organization.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
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
    pub created_at: OffsetDateTime,
}

/// A membership with the person. E-mail and name are `None` when the person's key was destroyed.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Member {
    /// The membership.
    #[sqlx(flatten)]
    pub membership: Membership,
    /// The person's address.
    pub email: Option<String>,
    /// The person's name.
    pub name: Option<String>,
}

/// An organization by id.
pub async fn organization(conn: &mut PgConnection, id: &str) -> Result<Option<Organization>, sqlx::Error> {
    sqlx::query_as("SELECT id, name, slug, plan_id, created_at FROM identity.organizations WHERE id = $1")
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// An organization by its unique short name.
pub async fn organization_by_slug(conn: &mut PgConnection, slug: &str) -> Result<Option<Organization>, sqlx::Error> {
    sqlx::query_as("SELECT id, name, slug, plan_id, created_at FROM identity.organizations WHERE slug = $1")
        .bind(slug)
        .fetch_optional(conn)
        .await
}

/// The organizations of a user with their roles there, in the order of joining.
pub async fn organizations_of(conn: &mut PgConnection, user_id: &str) -> Result<Vec<OrgRef>, sqlx::Error> {
    sqlx::query_as(
        "SELECT o.id, o.name, o.slug, m.role FROM identity.memberships m JOIN identity.organizations o ON o.id = m.org_id
         WHERE m.user_id = $1 ORDER BY m.created_at, m.id",
    )
    .bind(user_id)
    .fetch_all(conn)
    .await
}

/// The organizations of a user with their sizes, in the order of joining.
pub async fn organization_summaries(conn: &mut PgConnection, user_id: &str) -> Result<Vec<OrgSummary>, sqlx::Error> {
    sqlx::query_as(
        "SELECT o.id, o.name, o.slug, o.plan_id, o.created_at, m.role, coalesce(s.value, 0) AS member_count,
                p.name AS plan_name
         FROM identity.memberships m JOIN identity.organizations o ON o.id = m.org_id
         LEFT JOIN identity.plans p ON p.id = o.plan_id
         LEFT JOIN identity.stats s ON s.org_id = o.id AND s.name = 'members'
         WHERE m.user_id = $1 ORDER BY m.created_at, m.id",
    )
    .bind(user_id)
    .fetch_all(conn)
    .await
}

/// Which of these users belong to an organization.
pub async fn members_among(
    conn: &mut PgConnection,
    org_id: &str,
    users: &[String],
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT user_id FROM identity.memberships WHERE org_id = $1 AND user_id = ANY($2)")
        .bind(org_id)
        .bind(users)
        .fetch_all(conn)
        .await
}

/// A user's membership of an organization.
pub async fn membership_of(
    conn: &mut PgConnection,
    org_id: &str,
    user_id: &str,
) -> Result<Option<Membership>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, user_id, org_id, role, created_at FROM identity.memberships WHERE org_id = $1 AND user_id = $2",
    )
    .bind(org_id)
    .bind(user_id)
    .fetch_optional(conn)
    .await
}

/// A membership of an organization by its id.
pub async fn member(
    conn: &mut PgConnection,
    org_id: &str,
    membership_id: &str,
) -> Result<Option<Membership>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, user_id, org_id, role, created_at FROM identity.memberships WHERE org_id = $1 AND id = $2",
    )
    .bind(org_id)
    .bind(membership_id)
    .fetch_optional(conn)
    .await
}

/// The members of an organization, in the order of joining.
pub async fn members(conn: &mut PgConnection, org_id: &str) -> Result<Vec<Member>, sqlx::Error> {
    sqlx::query_as(
        "SELECT m.id, m.user_id, m.org_id, m.role, m.created_at, u.email, u.name
         FROM identity.memberships m JOIN identity.users u ON u.id = m.user_id
         WHERE m.org_id = $1 AND NOT u.deleted ORDER BY m.created_at, m.id",
    )
    .bind(org_id)
    .fetch_all(conn)
    .await
}

/// Organizations in the order of their founding, behind the given one.
pub async fn organizations(
    conn: &mut PgConnection,
    after: Option<(OffsetDateTime, &str)>,
    limit: i64,
) -> Result<Vec<OrgOverview>, sqlx::Error> {
    let (at, id) = after.unwrap_or((OffsetDateTime::UNIX_EPOCH, ""));
    sqlx::query_as(
        "SELECT o.id, o.name, o.slug, o.plan_id, o.created_at, coalesce(s.value, 0) AS member_count, p.name AS plan_name
         FROM identity.organizations o LEFT JOIN identity.plans p ON p.id = o.plan_id
         LEFT JOIN identity.stats s ON s.org_id = o.id AND s.name = 'members'
         WHERE (o.created_at, o.id) > ($1, $2) ORDER BY o.created_at, o.id LIMIT $3",
    )
    .bind(at)
    .bind(id)
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// Ids of the organizations that have a plan.
pub async fn organizations_with_plan(conn: &mut PgConnection, plan_id: &str) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT id FROM identity.organizations WHERE plan_id = $1 ORDER BY id")
        .bind(plan_id)
        .fetch_all(conn)
        .await
}

/// The number of members of an organization.
pub async fn member_count(conn: &mut PgConnection, org_id: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT count(*) FROM identity.memberships WHERE org_id = $1").bind(org_id).fetch_one(conn).await
}

/// The members of an organization as users with their roles, in the order of joining, behind the given membership.
pub async fn member_users(
    conn: &mut PgConnection,
    org_id: &str,
    after: Option<(OffsetDateTime, &str)>,
    limit: i64,
) -> Result<Vec<(User, Membership)>, sqlx::Error> {
    let (at, id) = after.unwrap_or((OffsetDateTime::UNIX_EPOCH, ""));
    let rows: Vec<MemberUser> = sqlx::query_as(
        "SELECT m.id, m.user_id, m.org_id, m.role, m.created_at, u.email, u.name, u.is_super_admin,
                u.created_at AS user_since, u.updated_at AS user_updated
         FROM identity.memberships m JOIN identity.users u ON u.id = m.user_id
         WHERE m.org_id = $1 AND NOT u.deleted AND (m.created_at, m.id) > ($2, $3) ORDER BY m.created_at, m.id LIMIT $4",
    )
    .bind(org_id)
    .bind(at)
    .bind(id)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(MemberUser::parts).collect())
}

#[derive(sqlx::FromRow)]
struct MemberUser {
    #[sqlx(flatten)]
    membership: Membership,
    email: Option<String>,
    name: Option<String>,
    is_super_admin: bool,
    user_since: OffsetDateTime,
    user_updated: OffsetDateTime,
}

impl MemberUser {
    fn parts(self) -> (User, Membership) {
        let user = User {
            id: self.membership.user_id.clone(),
            email: self.email,
            name: self.name,
            is_super_admin: self.is_super_admin,
            created_at: self.user_since,
            updated_at: self.user_updated,
        };
        (user, self.membership)
    }
}
