//! Reading an organization's mesh.

use sqlx::{AssertSqlSafe, FromRow, PgConnection, types::Json};

use super::{
    fold::MESH,
    rows::{Bridge, Contract, Node, Policy, PolicyVersion},
    table::Row,
};

async fn all<R: Row>(conn: &mut PgConnection, org: &str, order: &str) -> Result<Vec<R>, sqlx::Error> {
    let select = format!("SELECT to_jsonb(t) FROM network.{} t WHERE org_id = $1 ORDER BY {order}", R::TABLE);
    let rows: Vec<Json<R>> = sqlx::query_scalar(AssertSqlSafe(select)).bind(org).fetch_all(conn).await?;
    Ok(rows.into_iter().map(|Json(row)| row).collect())
}

pub(super) async fn one<R: Row>(conn: &mut PgConnection, org: &str, id: &str) -> Result<Option<R>, sqlx::Error> {
    let select = format!("SELECT to_jsonb(t) FROM network.{} t WHERE org_id = $1 AND id = $2", R::TABLE);
    let row: Option<Json<R>> =
        sqlx::query_scalar(AssertSqlSafe(select)).bind(org).bind(id).fetch_optional(conn).await?;
    Ok(row.map(|Json(row)| row))
}

/// How much there is on all meshes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromRow)]
pub struct Active {
    /// Nodes that are online.
    pub nodes: i64,
    /// Contracts whose time is not over.
    pub contracts: i64,
    /// Bridges that are switched on.
    pub bridges: i64,
}

/// How much there is now.
pub async fn active(conn: &mut PgConnection) -> Result<Active, sqlx::Error> {
    let select = "SELECT (SELECT count(*) FROM network.nodes WHERE online) AS nodes,
                         (SELECT count(*) FROM network.contracts WHERE expires_at IS NULL OR expires_at > now()) AS contracts,
                         (SELECT count(*) FROM network.bridges WHERE active) AS bridges";
    sqlx::query_as(select).fetch_one(conn).await
}

/// Version of an organization's mesh: it grows with every change of what calls are decided by. 0 = nobody changed anything.
pub async fn mesh_version(conn: &mut PgConnection, org: &str) -> Result<i64, sqlx::Error> {
    let version = sqlx::query_scalar("SELECT version FROM network.meshes WHERE org_id = $1 AND id = $2");
    Ok(version.bind(org).bind(MESH).fetch_optional(conn).await?.unwrap_or(0))
}

/// The same, and which of some events were routed there.
pub async fn mesh_version_and_sent(
    conn: &mut PgConnection,
    org: &str,
    events: &[&str],
) -> Result<(i64, Vec<String>), sqlx::Error> {
    let seen = sqlx::query_as(
        "SELECT coalesce((SELECT version FROM network.meshes WHERE org_id = $1 AND id = $2), 0),
             ARRAY(SELECT id FROM network.events WHERE org_id = $1 AND id = ANY($3))",
    );
    seen.bind(org).bind(MESH).bind(events).fetch_one(conn).await
}

/// The nodes of an organization, the oldest first.
pub async fn nodes(conn: &mut PgConnection, org: &str) -> Result<Vec<Node>, sqlx::Error> {
    all(conn, org, "registered_at, id").await
}

/// A node.
pub async fn node(conn: &mut PgConnection, org: &str, id: &str) -> Result<Option<Node>, sqlx::Error> {
    one(conn, org, id).await
}

/// The contracts of an organization, the oldest first; also those that have ended by themselves.
pub async fn contracts(conn: &mut PgConnection, org: &str) -> Result<Vec<Contract>, sqlx::Error> {
    all(conn, org, "created_at, id").await
}

/// A contract.
pub async fn contract(conn: &mut PgConnection, org: &str, id: &str) -> Result<Option<Contract>, sqlx::Error> {
    one(conn, org, id).await
}

/// The bridges of an organization, the oldest first.
pub async fn bridges(conn: &mut PgConnection, org: &str) -> Result<Vec<Bridge>, sqlx::Error> {
    all(conn, org, "created_at, id").await
}

/// A bridge.
pub async fn bridge(conn: &mut PgConnection, org: &str, id: &str) -> Result<Option<Bridge>, sqlx::Error> {
    one(conn, org, id).await
}

/// The policies that an organization made, changed or removed, in the order they were made.
pub async fn policies(conn: &mut PgConnection, org: &str) -> Result<Vec<Policy>, sqlx::Error> {
    all(conn, org, "place, id").await
}

/// A policy that an organization made, changed or removed.
pub async fn policy(conn: &mut PgConnection, org: &str, id: &str) -> Result<Option<Policy>, sqlx::Error> {
    one(conn, org, id).await
}

/// A policy as it was in one version.
pub async fn policy_version(
    conn: &mut PgConnection,
    org: &str,
    id: &str,
    version: u32,
) -> Result<Option<PolicyVersion>, sqlx::Error> {
    one(conn, org, &format!("{id}@{version}")).await
}
