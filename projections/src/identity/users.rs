//! Users as the identity routes need them.

use sqlx::PgConnection;
use time::OffsetDateTime;

/// A user. E-mail and name are `None` when the person's key was destroyed.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct User {
    /// Id.
    pub id: String,
    /// Address as typed.
    pub email: Option<String>,
    /// Display name.
    pub name: Option<String>,
    /// Operator of the platform.
    pub is_super_admin: bool,
    /// When the account was opened.
    pub created_at: OffsetDateTime,
    /// When it last changed.
    pub updated_at: OffsetDateTime,
}

/// Where a user's password hash is kept.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Credentials {
    /// The user.
    pub user_id: String,
    /// Reference into the secret store.
    pub password_ref: String,
    /// How it was hashed.
    pub password_algo: String,
}

/// Counters of the platform.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct Counts {
    /// Living accounts.
    pub users: i64,
    /// Organizations.
    pub organizations: i64,
    /// Memberships.
    pub memberships: i64,
    /// Sign-ins so far.
    pub sign_ins: i64,
    /// Agents.
    pub agents: i64,
    /// Events so far.
    pub events: i64,
}

/// A user by id; the deleted are not found.
pub async fn user(conn: &mut PgConnection, id: &str) -> Result<Option<User>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, email, name, is_super_admin, created_at, updated_at FROM identity.users WHERE id = $1 AND NOT deleted",
    )
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// A user with what counts at a time of what it was granted.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Entitled {
    /// The user.
    #[sqlx(flatten)]
    pub user: User,
    /// Capabilities.
    pub entitlements: Vec<String>,
    /// Global roles.
    pub roles: Vec<String>,
}

/// A user by id with its rights; the deleted are not found.
pub async fn entitled(conn: &mut PgConnection, id: &str, at: OffsetDateTime) -> Result<Option<Entitled>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, email, name, is_super_admin, created_at, updated_at,
                ARRAY(SELECT key FROM identity.grants g WHERE g.principal_id = u.id AND kind = 'entitlement'
                      AND (expires_at IS NULL OR expires_at > $2) ORDER BY key) AS entitlements,
                ARRAY(SELECT key FROM identity.grants g WHERE g.principal_id = u.id AND kind = 'role'
                      AND (expires_at IS NULL OR expires_at > $2) ORDER BY key) AS roles
         FROM identity.users u WHERE id = $1 AND NOT deleted",
    )
    .bind(id)
    .bind(at)
    .fetch_optional(conn)
    .await
}

/// A user by the keyed hash of the normalised e-mail address.
pub async fn user_by_email_key(conn: &mut PgConnection, email_key: &str) -> Result<Option<User>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, email, name, is_super_admin, created_at, updated_at FROM identity.users
         WHERE email_key = $1 AND NOT deleted",
    )
    .bind(email_key)
    .fetch_optional(conn)
    .await
}

/// Users in the order of their accounts, the oldest first, behind the given one.
pub async fn users(
    conn: &mut PgConnection,
    after: Option<(OffsetDateTime, &str)>,
    limit: i64,
) -> Result<Vec<User>, sqlx::Error> {
    let (at, id) = after.unwrap_or((OffsetDateTime::UNIX_EPOCH, ""));
    sqlx::query_as(
        "SELECT id, email, name, is_super_admin, created_at, updated_at FROM identity.users
         WHERE NOT deleted AND (created_at, id) > ($1, $2) ORDER BY created_at, id LIMIT $3",
    )
    .bind(at)
    .bind(id)
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// Where a user's password hash is kept, by user id.
pub async fn credentials(conn: &mut PgConnection, user_id: &str) -> Result<Option<Credentials>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id AS user_id, password_ref, password_algo FROM identity.users
         WHERE id = $1 AND NOT deleted AND password_ref IS NOT NULL AND password_algo IS NOT NULL",
    )
    .bind(user_id)
    .fetch_optional(conn)
    .await
}

/// Whether the platform has a super admin.
pub async fn initialized(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM identity.users WHERE is_super_admin AND NOT deleted)")
        .fetch_one(conn)
        .await
}

/// The platform's counters.
pub async fn counts(conn: &mut PgConnection) -> Result<Counts, sqlx::Error> {
    sqlx::query_as(
        "SELECT coalesce(max(value) FILTER (WHERE name = 'users'), 0) AS users,
                coalesce(max(value) FILTER (WHERE name = 'organizations'), 0) AS organizations,
                coalesce(max(value) FILTER (WHERE name = 'memberships'), 0) AS memberships,
                coalesce(max(value) FILTER (WHERE name = 'sign_ins'), 0) AS sign_ins,
                coalesce(max(value) FILTER (WHERE name = 'agents'), 0) AS agents,
                coalesce(max(value) FILTER (WHERE name = 'events'), 0) AS events
         FROM identity.stats WHERE org_id = 'global'",
    )
    .fetch_one(conn)
    .await
}
