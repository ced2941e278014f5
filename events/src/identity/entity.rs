//! Events of a directory entry (identity.md §16.10).

use serde_json::{Map, Value};

use crate::{Personal, domain_events};

domain_events! {
    /// What can have happened to an entity.
    EntityEvent: Identity / "entity" {
        /// It is in the directory.
        EntityRegistered = "symbia.identity.entity.entity-registered.v1" {
            entity_id: String,
            /// `user`, `assistant`, `service`, `integration` or `sandbox`.
            entity_type: String,
            /// A person's is their id: what they are called by is sealed.
            slug: String,
            display_name: String,
            instance_id: Option<String>,
            instance_index: u32,
            org_id: Option<String>,
            network_id: Option<String>,
            capabilities: Vec<String>,
            tags: Vec<String>,
            source_table: Option<String>,
            source_id: Option<String>,
            metadata: Map<String, Value>,
            /// A person's e-mail address, whose local part they are found by.
            email: Option<Personal>,
            /// A person's name.
            person: Option<Personal>,
            by: String,
        }
        /// It is found by another name.
        EntityAliasAdded = "symbia.identity.entity.entity-alias-added.v1" {
            alias_id: String,
            entity_id: String,
            /// `slug`, `qualified`, `legacy` or `federated`.
            alias_type: String,
            alias_value: String,
            org_id: Option<String>,
            priority: i32,
        }
        /// No longer.
        EntityAliasRemoved = "symbia.identity.entity.entity-alias-removed.v1" {
            alias_id: String,
            entity_id: String,
            by: String,
        }
        /// What it is like changed.
        EntityUpdated = "symbia.identity.entity.entity-updated.v1" {
            entity_id: String,
            display_name: Option<String>,
            person: Option<Personal>,
            capabilities: Option<Vec<String>>,
            tags: Option<Vec<String>>,
            metadata: Option<Map<String, Value>>,
            by: String,
        }
        /// It is `active`, `inactive` or `suspended`.
        EntityStatusChanged = "symbia.identity.entity.entity-status-changed.v1" {
            entity_id: String,
            status: String,
            previous_status: String,
            by: String,
        }
        /// It lives on a node, for the time of a lease.
        EntityBound = "symbia.identity.entity.entity-bound.v1" {
            entity_id: String,
            node_id: String,
            /// RFC 3339.
            lease_until: String,
            previous_node_id: Option<String>,
            by: String,
        }
        /// It no longer does.
        EntityUnbound = "symbia.identity.entity.entity-unbound.v1" {
            entity_id: String,
            node_id: String,
            /// `request`, `node_gone` or `lease_expired`.
            reason: String,
            by: String,
        }
        /// How one of its instances is.
        EntityInstanceReported = "symbia.identity.entity.entity-instance-reported.v1" {
            entity_id: String,
            instance_id: String,
            instance_index: u32,
            node_id: Option<String>,
            /// `available`, `busy` or `offline`.
            status: String,
            load_score: u32,
            metadata: Map<String, Value>,
        }
        /// It is no longer in the directory.
        EntityRetired = "symbia.identity.entity.entity-retired.v1" { entity_id: String, by: String }
    }
}
