//! An integration as callers see it (integrations.md §3.6), wherever it comes from.

use serde_json::{Value, json};
use symbia_commands::integrations::builtin::Builtin;
use symbia_events::{Service, integrations::Operation};
use symbia_projections::integrations as model;

use super::tree;
use crate::iso;

/// Where an integration comes from, which tells how it is called.
pub(in crate::integrations) enum Origin {
    /// A provider of language models.
    Provider(&'static Builtin),
    /// A service of the platform, with its base URL.
    Internal(Service, String),
    /// Registered by the organization.
    Registered(Box<model::Integration>),
}

/// An integration.
pub(in crate::integrations) struct Entry {
    pub key: String,
    pub operations: Vec<Operation>,
    pub origin: Origin,
}

impl Entry {
    pub fn builtin(builtin: &'static Builtin) -> Self {
        Entry { key: builtin.key.to_owned(), operations: builtin.operations(), origin: Origin::Provider(builtin) }
    }

    pub fn registered(mut row: model::Integration) -> Self {
        let operations = std::mem::take(&mut row.operations.0);
        Entry { key: row.key.clone(), operations, origin: Origin::Registered(Box::new(row)) }
    }

    /// The operation of this path, by its id or another of its names. The services' own also have their key in front of it.
    pub fn operation(&self, path: &str) -> Option<&Operation> {
        let find = |path: &str| {
            let by_id = self.operations.iter().find(|operation| operation.id == path);
            by_id.or_else(|| self.operations.iter().find(|operation| operation.aliases.iter().any(|a| a == path)))
        };
        find(path).or_else(|| find(path.strip_prefix(self.key.as_str())?.strip_prefix('.')?))
    }

    /// Where it is an MCP server that was registered: the organization's record of it.
    pub fn mcp_server(&self) -> Option<&model::Integration> {
        match &self.origin {
            Origin::Registered(row) if row.kind == "mcp" => Some(row),
            _ => None,
        }
    }

    /// Whether nobody registered it.
    pub fn is_own(&self) -> bool {
        !matches!(self.origin, Origin::Registered(_))
    }

    /// The JSON of it.
    pub fn shown(&self) -> Value {
        let mut shown = match &self.origin {
            Origin::Provider(builtin) => json!({
                "id": format!("builtin-{}", builtin.key), "name": builtin.name, "type": "builtin", "status": "active",
                "version": 1, "tags": ["llm"], "metadata": {},
            }),
            Origin::Internal(service, _) => json!({
                "id": format!("internal-{service}"), "name": format!("Symbia {service}"), "type": "builtin",
                "status": "active", "version": 1, "auth": { "type": "none" }, "tags": ["internal", "symbia"],
                "metadata": { "isInternal": true, "serviceId": service.name() },
            }),
            Origin::Registered(row) => registered(row),
        };
        shown["key"] = json!(self.key);
        shown["operations"] = json!(self.operations);
        shown["namespace"] = tree::namespace(&self.operations);
        shown
    }
}

fn registered(row: &model::Integration) -> Value {
    let mut shown = json!({
        "id": format!("{}-{}", row.kind, row.key), "name": row.name, "description": row.description, "type": row.kind,
        "auth": row.auth, "retry": row.retry, "rateLimit": row.rate_limit, "status": row.status, "syncError": row.sync_error,
        "lastSyncedAt": row.last_synced_at.map(iso), "version": row.version, "tags": row.tags, "metadata": row.metadata,
        "createdAt": iso(row.created_at), "updatedAt": iso(row.updated_at),
    });
    if row.kind == "mcp" {
        shown["mcp"] = json!({ "transport": "http", "serverUrl": row.server_url });
    } else {
        shown["openapi"] = json!({ "specUrl": row.spec_url, "serverUrl": row.server_url });
    }
    shown
}
