//! The mesh as routing sees it, compiled once for each version and kept. Each call asks which version counts, so that a change
//! counts for the next call, in every process.

use std::sync::Arc;

use moka::sync::Cache;
use sqlx::PgConnection;
use symbia_commands::network::{
    BridgeView, ContractView, MeshView, NodeView, PolicyRecord, PolicySet, standing_policies,
};
use symbia_projections::network::{self as model, Policy};

use crate::http::ApiResult;

/// Organizations whose meshes are kept.
const MOST: u64 = 1_000;

/// Compiled meshes by organization.
#[derive(Clone)]
pub(super) struct Meshes(Cache<String, (i64, Arc<MeshView>)>);

impl Default for Meshes {
    fn default() -> Self {
        Meshes(Cache::builder().max_capacity(MOST).build())
    }
}

/// A policy of an organization, its own or one that every organization starts with.
pub(super) struct Standing {
    pub record: PolicyRecord,
    /// None for one that nobody changed.
    pub row: Option<Policy>,
}

/// The policies of an organization: those that every one starts with, unless they were changed or removed, and its own.
pub(super) async fn policies(conn: &mut PgConnection, org: &str) -> ApiResult<Vec<Standing>> {
    let mut rows = model::policies(conn, org).await?;
    let records =
        standing_policies(rows.iter().map(|row| (row.id.clone(), row.version, row.place, row.definition.clone())));
    let standing = records.into_iter().map(|record| {
        let row = rows.iter().position(|row| row.id == record.id).map(|at| rows.swap_remove(at));
        Standing { record, row }
    });
    Ok(standing.collect())
}

impl Meshes {
    /// The mesh as it stands.
    pub async fn now(&self, conn: &mut PgConnection, org: &str) -> ApiResult<Arc<MeshView>> {
        let version = model::mesh_version(conn, org).await?;
        self.of(conn, org, version).await
    }

    /// The mesh of a version, when that is the one that is kept.
    pub fn kept(&self, org: &str, version: i64) -> Option<Arc<MeshView>> {
        self.0.get(org).filter(|(kept, _)| *kept == version).map(|(_, view)| view)
    }

    /// The mesh of a version that was just read.
    pub async fn of(&self, conn: &mut PgConnection, org: &str, version: i64) -> ApiResult<Arc<MeshView>> {
        if let Some(view) = self.kept(org, version) {
            return Ok(view);
        }
        let records: Vec<PolicyRecord> = policies(conn, org).await?.into_iter().map(|policy| policy.record).collect();
        let nodes: Vec<(String, NodeView)> =
            model::nodes(conn, org).await?.into_iter().map(model::Node::for_routing).collect();
        let contracts: Vec<ContractView> =
            model::contracts(conn, org).await?.into_iter().map(model::Contract::for_routing).collect();
        let bridges = model::bridges(conn, org).await?.into_iter().map(|bridge| BridgeView {
            id: bridge.id,
            bridge_type: bridge.bridge_type,
            endpoint: bridge.endpoint,
            event_types: bridge.event_types,
            active: bridge.active,
        });
        let view = Arc::new(MeshView::new(nodes, contracts, bridges.collect(), PolicySet::compile(&records)));
        // The rows may be newer than the version that was read before them: then the next call reads them again.
        self.0.insert(org.to_owned(), (version, Arc::clone(&view)));
        Ok(view)
    }
}
