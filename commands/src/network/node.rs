//! The node aggregate: who owns a node's id, what it is, whether it lives, and which entity lives on it (network.md §8.1, 8.3).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbia_events::{
    ActorType, Service,
    network::{
        EntityBound, EntityUnbound, NodeConnected, NodeEvent, NodeExpired, NodeRegistered, NodeReregistered, NodeType,
        NodeUnregistered,
    },
};
use time::OffsetDateTime;

use super::rights::{NODES_ADMIN, may, name};
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands, identity::is_address};

/// Deepest nesting of a node's metadata.
const DEEPEST: usize = 16;
/// Longest metadata, in bytes of JSON.
const METADATA_MAX: usize = 16 * 1024;
/// Most capabilities.
const MOST: usize = 100;

domain_commands! {
    /// What a node can be asked to do.
    NodeCommand: Network / "node" {
        /// Puts it on the mesh, or describes it anew.
        RegisterNode = "symbia.cmd.network.register-node.v1" {
            node_id: String,
            org_id: String,
            name: String,
            #[serde(rename = "type")]
            node_type: NodeType,
            capabilities: Vec<String>,
            /// Where events are posted to; empty when they are not.
            #[serde(default)]
            endpoint: String,
            #[serde(default)]
            metadata: Map<String, Value>,
            /// A node that is there already stays as it is.
            #[serde(default)]
            unless_present: bool,
        }
        /// Notes that a node that was given up lives.
        ConnectNode = "symbia.cmd.network.connect-node.v1" { node_id: String }
        /// Gives it up: its lease ran out.
        ExpireNode = "symbia.cmd.network.expire-node.v1" {
            node_id: String,
            /// RFC 3339.
            last_seen: String,
        }
        /// Takes it off the mesh.
        UnregisterNode = "symbia.cmd.network.unregister-node.v1" { node_id: String }
        /// Says that an entity lives on it.
        BindEntityToNode = "symbia.cmd.network.bind-entity.v1" { node_id: String, entity_id: String }
        /// Says that none does.
        UnbindEntityFromNode = "symbia.cmd.network.unbind-entity.v1" { node_id: String }
    }
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Node {
    standing: Standing,
    org_id: String,
    owner_id: String,
    described: Option<NodeReregistered>,
    entity_id: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Standing {
    #[default]
    Absent,
    Online,
    Offline,
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn check_metadata(metadata: &Map<String, Value>) -> Result<(), Rejection> {
    let size = serde_json::to_string(metadata).map_or(usize::MAX, |text| text.len());
    if size > METADATA_MAX || metadata.values().any(|value| depth(value) >= DEEPEST) {
        return Err(Rejection::new("TOO_LARGE", "metadata: at most 16 kB of JSON, nested at most 16 levels deep"));
    }
    Ok(())
}

fn is_endpoint(text: &str) -> bool {
    text.is_empty() || (is_address(text) && (text.starts_with("http://") || text.starts_with("https://")))
}

// A service speaks for itself, and takes no other's place before that one has come.
fn is_another_services(by: &Actor, node_id: &str) -> bool {
    Service::ALL.iter().any(|service| service.name() == node_id) && by.subject() != Actor::service(node_id).id
}

impl Node {
    fn present(&self) -> Result<(), Rejection> {
        if self.standing == Standing::Absent { Err(Rejection::not_found("node")) } else { Ok(()) }
    }

    fn owned(&self, by: &Actor) -> Result<(), Rejection> {
        self.present()?;
        if by.subject() == self.owner_id || may(by, &self.org_id, NODES_ADMIN) {
            return Ok(());
        }
        Err(Rejection::new("NODE_OWNED", "the node belongs to somebody else"))
    }

    fn register(&self, c: RegisterNode, by: &Actor) -> Result<Decision<NodeEvent>, Rejection> {
        if c.unless_present && self.standing != Standing::Absent {
            self.owned(by)?;
            return Ok(Decision::nothing());
        }
        let agent = by.subject_kind() == ActorType::Agent;
        let own_node = agent && by.subject() == c.node_id;
        if c.node_type == NodeType::Assistant && agent && !own_node {
            return Err(Rejection::new("AGENT_ID_MISMATCH", "an agent registers an assistant under its own id"));
        }
        if !own_node && !may(by, &c.org_id, NODES_ADMIN) {
            return Err(Rejection::new("MISSING_CAPABILITY", format!("this needs the capability '{NODES_ADMIN}'")));
        }
        // The ids of bridges are given out with them.
        if c.node_id.starts_with("bridge:") {
            return Err(Rejection::invalid("id: 'bridge:…' is the id of a bridge, which is registered as one"));
        }
        // Even an admin does not take over what somebody else's events go to, and no service what another's do.
        let of_another = match self.standing {
            Standing::Absent => by.is_platform() && is_another_services(by, &c.node_id),
            Standing::Online | Standing::Offline => by.subject() != self.owner_id && !by.super_admin,
        };
        if of_another {
            return Err(Rejection::new("NODE_OWNED", "this id belongs to somebody else"));
        }
        name(&c.name)?;
        let capability = |text: &String| (1..=200).contains(&text.len());
        if c.capabilities.len() > MOST || !c.capabilities.iter().all(capability) {
            return Err(Rejection::invalid("capabilities: at most 100, of 1 to 200 characters each"));
        }
        if !is_endpoint(&c.endpoint) {
            return Err(Rejection::invalid("endpoint: an http or https URL without user and password, or ''"));
        }
        check_metadata(&c.metadata)?;
        let RegisterNode { node_id, org_id, name, node_type, capabilities, endpoint, metadata, .. } = c;
        if self.standing == Standing::Absent {
            let owner_id = by.subject().to_owned();
            return Ok(Decision::one(NodeRegistered {
                node_id,
                org_id,
                name,
                node_type,
                capabilities,
                endpoint,
                owner_id,
                metadata,
            }));
        }
        let anew = NodeReregistered { node_id, name, node_type, capabilities, endpoint, metadata };
        if self.standing == Standing::Online && self.described.as_ref() == Some(&anew) {
            return Ok(Decision::nothing());
        }
        Ok(Decision::one(anew))
    }

    fn bind(&self, c: BindEntityToNode, by: &Actor) -> Result<Decision<NodeEvent>, Rejection> {
        self.owned(by)?;
        if symbia_events::check_token(&c.entity_id).is_err() || !c.entity_id.starts_with("ent_") {
            return Err(Rejection::invalid("entityId: the id of an entity, ent_…"));
        }
        if self.entity_id.as_deref() == Some(&c.entity_id) {
            return Ok(Decision::nothing());
        }
        let by = by.id.clone();
        let bound = EntityBound { node_id: c.node_id.clone(), entity_id: c.entity_id, by: by.clone() };
        Ok(match self.entity_id.clone() {
            Some(entity_id) => Decision::one(EntityUnbound { node_id: c.node_id, entity_id, by }).and(bound),
            None => Decision::one(bound),
        })
    }

    // Who is gone, or not there, has no entity that lives on it.
    fn without_entity(&self, gone: impl Into<NodeEvent>, node_id: String, by: &Actor) -> Decision<NodeEvent> {
        let Some(entity_id) = self.entity_id.clone() else { return Decision::one(gone) };
        Decision::one(EntityUnbound { node_id, entity_id, by: by.id.clone() }).and(gone)
    }
}

impl Aggregate for Node {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("nodeId");
    type Command = NodeCommand;
    type Event = NodeEvent;

    fn apply(&mut self, event: &NodeEvent) {
        match event {
            NodeEvent::NodeRegistered(e) => {
                let e = e.clone();
                *self = Node {
                    standing: Standing::Online,
                    org_id: e.org_id,
                    owner_id: e.owner_id,
                    described: Some(NodeReregistered {
                        node_id: e.node_id,
                        name: e.name,
                        node_type: e.node_type,
                        capabilities: e.capabilities,
                        endpoint: e.endpoint,
                        metadata: e.metadata,
                    }),
                    entity_id: None,
                };
            }
            NodeEvent::NodeReregistered(e) => {
                (self.standing, self.described) = (Standing::Online, Some(e.clone()));
            }
            NodeEvent::NodeConnected(_) => self.standing = Standing::Online,
            NodeEvent::NodeExpired(_) => self.standing = Standing::Offline,
            NodeEvent::NodeUnregistered(_) => *self = Node::default(),
            NodeEvent::EntityBound(e) => self.entity_id = Some(e.entity_id.clone()),
            NodeEvent::EntityUnbound(_) => self.entity_id = None,
        }
    }

    fn decide(&self, command: NodeCommand, by: &Actor, _at: OffsetDateTime) -> Result<Decision<NodeEvent>, Rejection> {
        match command {
            NodeCommand::RegisterNode(c) => self.register(c, by),
            NodeCommand::ConnectNode(c) => {
                self.owned(by)?;
                Ok(match self.standing {
                    Standing::Offline => Decision::one(NodeConnected { node_id: c.node_id }),
                    Standing::Online | Standing::Absent => Decision::nothing(),
                })
            }
            NodeCommand::ExpireNode(c) => {
                if !by.is_platform() {
                    return Err(Rejection::forbidden("a lease ends by itself"));
                }
                if self.standing != Standing::Online {
                    return Ok(Decision::nothing());
                }
                let expired = NodeExpired { node_id: c.node_id.clone(), last_seen: c.last_seen };
                Ok(self.without_entity(expired, c.node_id, by))
            }
            NodeCommand::UnregisterNode(c) => {
                self.owned(by)?;
                let left = NodeUnregistered { node_id: c.node_id.clone(), by: by.id.clone() };
                Ok(self.without_entity(left, c.node_id, by))
            }
            NodeCommand::BindEntityToNode(c) => self.bind(c, by),
            NodeCommand::UnbindEntityFromNode(c) => {
                self.owned(by)?;
                let Some(entity_id) = self.entity_id.clone() else { return Ok(Decision::nothing()) };
                Ok(Decision::one(EntityUnbound { node_id: c.node_id, entity_id, by: by.id.clone() }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Membership, Role, testing::given};
    use serde_json::json;

    fn person(id: &str, role: Role) -> Actor {
        let orgs = vec![Membership { id: "o1".parse().unwrap(), role }];
        Actor { id: id.into(), kind: ActorType::User, orgs, ..Actor::service("x") }
    }

    fn agent(id: &str) -> Actor {
        Actor { kind: ActorType::Agent, ..person(id, Role::Member) }
    }

    fn register(id: &str, node_type: NodeType) -> RegisterNode {
        RegisterNode {
            node_id: id.into(),
            org_id: "o1".into(),
            name: "Billing".into(),
            node_type,
            capabilities: vec!["answer".into()],
            endpoint: "https://billing.test/events".into(),
            metadata: Map::new(),
            unless_present: false,
        }
    }

    fn registered(by: &Actor) -> Vec<NodeEvent> {
        Node::default().register(register("billing", NodeType::Service), by).unwrap().events
    }

    #[test]
    fn an_id_belongs_to_who_registered_it_first() {
        let (ada, eve) = (person("ada", Role::Admin), person("eve", Role::Admin));
        given::<Node>(registered(&ada)).when(register("billing", NodeType::Service), &ada).then([]);
        given::<Node>(registered(&ada)).when(register("billing", NodeType::Service), &eve).rejected("NODE_OWNED");
        let moved = RegisterNode { endpoint: "https://eve.test/".into(), ..register("billing", NodeType::Service) };
        given::<Node>(registered(&ada)).when(moved, &eve).rejected("NODE_OWNED");
        let left = NodeUnregistered { node_id: "billing".into(), by: "ada".into() };
        let history = registered(&ada).into_iter().chain([left.into()]);
        given::<Node>(history).when(register("billing", NodeType::Service), &eve).then(registered(&eve));
    }

    #[test]
    fn a_service_describes_its_own_node_and_no_other_services() {
        let (messaging, catalog) = (Actor::service("messaging"), Actor::service("catalog"));
        let own = || register("messaging", NodeType::Service);
        let registered = || Node::default().register(own(), &messaging).unwrap().events;
        let moved = || RegisterNode { endpoint: "https://elsewhere.test/".into(), ..own() };
        let seeded = RegisterNode { unless_present: true, ..moved() };
        given::<Node>(registered()).when(seeded, &messaging).then([]);
        given::<Node>(registered()).when(moved(), &catalog).rejected("NODE_OWNED");
        given::<Node>([]).when(own(), &catalog).rejected("NODE_OWNED");
        assert!(Node::default().register(register("worker", NodeType::Service), &catalog).is_ok());
        let operator = Actor { super_admin: true, ..person("root", Role::Member) };
        let history: Node = registered().iter().fold(Node::default(), |mut node, event| {
            node.apply(event);
            node
        });
        assert!(history.register(moved(), &operator).is_ok() && history.register(moved(), &messaging).is_ok());
    }

    #[test]
    fn a_member_needs_the_capability_and_an_agent_registers_itself() {
        let plain = person("bob", Role::Member);
        given::<Node>([]).when(register("billing", NodeType::Service), &plain).rejected("MISSING_CAPABILITY");
        let itself = agent("assistant:x");
        assert!(Node::default().register(register("assistant:x", NodeType::Assistant), &itself).is_ok());
        given::<Node>([]).when(register("assistant:y", NodeType::Assistant), &itself).rejected("AGENT_ID_MISMATCH");
        given::<Node>([]).when(register("other", NodeType::Service), &itself).rejected("MISSING_CAPABILITY");
        let stranger = Actor { orgs: vec![], ..person("eve", Role::Admin) };
        given::<Node>([]).when(register("billing", NodeType::Service), &stranger).rejected("MISSING_CAPABILITY");
    }

    #[test]
    fn what_cannot_be_kept_or_reached_is_refused() {
        let ada = person("ada", Role::Admin);
        let base = || register("billing", NodeType::Service);
        let deep = (0..DEEPEST).fold(json!(1), |inner, _| json!([inner]));
        let deep = RegisterNode { metadata: [("deep".to_owned(), deep)].into_iter().collect(), ..base() };
        given::<Node>([]).when(deep, &ada).rejected("TOO_LARGE");
        let large = [("large".to_owned(), json!("x".repeat(METADATA_MAX)))].into_iter().collect();
        given::<Node>([]).when(RegisterNode { metadata: large, ..base() }, &ada).rejected("TOO_LARGE");
        for endpoint in ["ftp://x.test/", "https://user:pw@x.test/", "x", "file:///etc/passwd"] {
            let bad = RegisterNode { endpoint: endpoint.into(), ..base() };
            given::<Node>([]).when(bad, &ada).rejected("VALIDATION_FAILED");
        }
        given::<Node>([]).when(register("bridge:1", NodeType::Bridge), &ada).rejected("VALIDATION_FAILED");
        given::<Node>([]).when(RegisterNode { name: " ".into(), ..base() }, &ada).rejected("VALIDATION_FAILED");
    }

    #[test]
    fn a_node_is_given_up_once_by_the_platform_and_comes_back() {
        let ada = person("ada", Role::Admin);
        let expire = ExpireNode { node_id: "billing".into(), last_seen: "2026-01-01T00:00:00Z".into() };
        let expired = NodeExpired { node_id: "billing".into(), last_seen: expire.last_seen.clone() };
        let platform = Actor::service("network");
        given::<Node>(registered(&ada)).when(expire.clone(), &ada).rejected("FORBIDDEN");
        given::<Node>(registered(&ada)).when(expire.clone(), &platform).then([expired.clone().into()]);
        let gone = || registered(&ada).into_iter().chain([NodeEvent::from(expired.clone())]);
        given::<Node>(gone()).when(expire, &platform).then([]);
        let back = ConnectNode { node_id: "billing".into() };
        given::<Node>(gone()).when(back.clone(), &ada).then([NodeConnected { node_id: "billing".into() }.into()]);
        given::<Node>(gone()).when(back.clone(), &person("eve", Role::Member)).rejected("NODE_OWNED");
        given::<Node>(registered(&ada)).when(back, &ada).then([]);
        assert!(matches!(
            Node::register(&gone().fold(Node::default(), |mut n, e| { n.apply(&e); n }), register("billing", NodeType::Service), &ada),
            Ok(decision) if decision.events.len() == 1
        ));
    }

    #[test]
    fn one_entity_lives_on_a_node_and_only_its_owner_says_so() {
        let ada = person("ada", Role::Admin);
        let bind = |entity: &str| BindEntityToNode { node_id: "billing".into(), entity_id: entity.into() };
        let bound =
            |entity: &str| EntityBound { node_id: "billing".into(), entity_id: entity.into(), by: "ada".into() };
        let unbound =
            |entity: &str| EntityUnbound { node_id: "billing".into(), entity_id: entity.into(), by: "ada".into() };
        given::<Node>(registered(&ada)).when(bind("ent_1"), &ada).then([bound("ent_1").into()]);
        let history = || registered(&ada).into_iter().chain([NodeEvent::from(bound("ent_1"))]);
        given::<Node>(history()).when(bind("ent_2"), &ada).then([unbound("ent_1").into(), bound("ent_2").into()]);
        given::<Node>(history()).when(bind("x"), &ada).rejected("VALIDATION_FAILED");
        given::<Node>(history()).when(bind("ent_2"), &person("eve", Role::Member)).rejected("NODE_OWNED");
        let unbind = UnbindEntityFromNode { node_id: "billing".into() };
        given::<Node>(history()).when(unbind.clone(), &ada).then([unbound("ent_1").into()]);
        given::<Node>([]).when(unbind, &ada).rejected("NOT_FOUND");
    }
}
