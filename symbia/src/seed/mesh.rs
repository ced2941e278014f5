//! The mesh of the demo data: the platform's services as nodes of an organization, and what they may say to each other
//! (network.md §12).

use serde_json::json;
use symbia_commands::{
    Actor,
    network::{ContractCommand, CreateContract, NodeCommand, RegisterNode, contract_id},
};
use symbia_events::{
    Service,
    network::{Boundary, NodeType},
};

use super::{Seeding, at, demo::LABS, owned};

/// A service as a node.
struct Node {
    id: &'static str,
    node_type: NodeType,
    capabilities: &'static [&'static str],
    port: u16,
}

const fn node(id: &'static str, node_type: NodeType, capabilities: &'static [&'static str], port: u16) -> Node {
    Node { id, node_type, capabilities, port }
}

const NODES: [Node; 8] = [
    node("identity", NodeType::Service, &["auth", "users", "orgs", "api-keys"], 5001),
    node("logging", NodeType::Service, &["telemetry", "logs", "metrics", "traces"], 5002),
    node("catalog", NodeType::Service, &["resources", "schemas", "manifests"], 5003),
    node("assistants", NodeType::Assistant, &["graphs", "actors", "runs", "ai-engine"], 5004),
    node("messaging", NodeType::Service, &["conversations", "messages", "realtime"], 5005),
    node("runtime", NodeType::Sandbox, &["graphs", "execution", "sandbox"], 5006),
    node("integrations", NodeType::Bridge, &["providers", "credentials", "external-apis"], 5007),
    node("network", NodeType::Service, &["registry", "routing", "policies", "sdn"], 5054),
];

const INTRA: &[Boundary] = &[Boundary::Intra];
const EXTRA: &[Boundary] = &[Boundary::Extra];
const BOTH: &[Boundary] = &[Boundary::Intra, Boundary::Extra];

type Contract = (&'static str, &'static str, &'static [&'static str], &'static [Boundary]);

const CONTRACTS: [Contract; 9] = [
    ("assistants", "runtime", &["graph.execute", "graph.input", "graph.output", "node.execute"], INTRA),
    ("assistants", "integrations", &["llm.invoke", "llm.complete", "provider.execute"], BOTH),
    ("runtime", "integrations", &["provider.execute", "http.request", "api.call"], BOTH),
    ("runtime", "catalog", &["resource.get", "schema.validate", "manifest.load"], INTRA),
    ("assistants", "catalog", &["resource.get", "actor.config", "graph.definition"], INTRA),
    ("messaging", "assistants", &["message.received", "message.new", "conversation.started", "user.input"], INTRA),
    ("messaging", "integrations", &["message.new"], INTRA),
    (
        "assistants",
        "messaging",
        &[
            "message.send",
            "message.response",
            "assistant.action.respond",
            "typing.start",
            "typing.stop",
            "stream.chunk",
        ],
        INTRA,
    ),
    ("integrations", "logging", &["api.request", "api.response", "api.error", "llm.request", "llm.response"], EXTRA),
];

const OBSERVED: [&str; 8] = [
    "obs.http.request",
    "obs.http.response",
    "obs.db.query",
    "obs.db.slow",
    "obs.cache.hit",
    "obs.cache.miss",
    "obs.error",
    "obs.process.metrics",
];
const LOGGED: [&str; 11] = [
    "log.write",
    "metric.record",
    "trace.span",
    "error.report",
    "api.request",
    "api.response",
    "api.error",
    "message.received",
    "message.sent",
    "resource.access",
    "resource.modified",
];
const ASKED_OF_IDENTITY: [&str; 4] = ["auth.verify", "token.validate", "user.lookup", "permission.check"];

impl Seeding {
    /// Nodes that are there already, seeded or alive, stay as they are.
    pub(super) async fn mesh(&mut self) -> anyhow::Result<()> {
        for node in NODES {
            let command = NodeCommand::from(RegisterNode {
                node_id: node.id.to_owned(),
                org_id: LABS.to_owned(),
                name: node.id.to_owned(),
                node_type: node.node_type,
                capabilities: owned(node.capabilities),
                endpoint: format!("http://localhost:{}", node.port),
                metadata: [("seeded".to_owned(), json!(true))].into_iter().collect(),
                unless_present: true,
            });
            // The service's own, so that it can take its place.
            let by = Actor::service(node.id);
            let to = at(Service::Network, LABS, "node", node.id)?;
            self.send_by(&by, format!("node {}", node.id), to, command).await?;
        }
        for (from, to, types, boundaries) in CONTRACTS {
            self.contract(from, to, &owned(types), boundaries).await?;
        }
        let logged: Vec<String> = LOGGED.into_iter().chain(OBSERVED).map(str::to_owned).collect();
        for (to, types, boundaries) in [
            ("logging", logged, BOTH),
            ("network", owned(&OBSERVED), INTRA),
            ("identity", owned(&ASKED_OF_IDENTITY), INTRA),
        ] {
            for node in NODES.iter().filter(|node| node.id != to) {
                self.contract(node.id, to, &types, boundaries).await?;
            }
        }
        Ok(())
    }

    async fn contract(
        &mut self,
        from: &str,
        to: &str,
        types: &[String],
        boundaries: &[Boundary],
    ) -> anyhow::Result<()> {
        let id = contract_id(LABS, from, to, types, boundaries);
        let command = ContractCommand::from(CreateContract {
            contract_id: id.clone(),
            org_id: LABS.to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
            allowed_event_types: types.to_vec(),
            boundaries: boundaries.to_vec(),
            expires_at: None,
            max_events_per_second: None,
            redact: Vec::new(),
        });
        let what = format!("contract {from} to {to}: {}", types.first().map_or("", String::as_str));
        self.send_by(&Actor::service("network"), what, at(Service::Network, LABS, "contract", &id)?, command).await?;
        Ok(())
    }
}
