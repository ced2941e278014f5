//! Participants that live outside are told what they are asked (messaging.md §8.12): those that are a node of the organization's
//! mesh, and those that have named an address. Here it is decided and recorded; the mesh delivers it, socket first, address
//! else, again and again, and keeps what cannot be delivered.

use serde_json::{Value, json};
use std::sync::Arc;
use symbia_commands::{
    Actor,
    messaging::ASSISTANT_PREFIX,
    network::{
        ContractView, MESSAGE_NEW, MESSAGING, MeshEvent, MeshView, NodeView, Options, PolicySet, RouteEvent,
        RoutingCommand, TELLER, route, standing_policies,
    },
};
use symbia_events::{
    AggregateRef, CommandId, Event, KeyRing, Service, SubjectKey,
    network::{Boundary, HashedEvent, NodeType, service_hash},
};
use symbia_projections::{ReadPool, Scope, messaging, network};
use time::{OffsetDateTime, format_description::BorrowedFormatItem};
use uuid::Uuid;

use super::{RuleEngine, definitions::Definition, transcript::Scene};
use crate::{content_keys::ContentKeys, sender::Sender};

const MILLISECONDS: &[BorrowedFormatItem<'_>] =
    time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
/// What a decision names for the contract: who takes part is told.
const PARTICIPATION: &str = "participation";

/// Tells them.
pub struct Outside {
    reader: ReadPool,
    keys: Arc<KeyRing>,
    content: ContentKeys,
    sender: Sender,
}

/// A message that is to be told.
struct Telling<'t> {
    cause: &'t Event,
    conversation: &'t str,
    scene: &'t Scene,
    key: &'t SubjectKey,
    content: String,
    metadata: Value,
}

fn iso(at: OffsetDateTime) -> String {
    at.to_offset(time::UtcOffset::UTC).format(MILLISECONDS).unwrap_or_default()
}

impl Outside {
    /// Over the read models, which know who is where.
    #[must_use]
    pub fn new(reader: ReadPool, keys: Arc<KeyRing>, content: ContentKeys, sender: Sender) -> Self {
        Outside { reader, keys, content, sender }
    }

    /// Tells those of a scene that live outside of its message, and gives them. Told again of the same event, they are told
    /// nothing new.
    pub(super) async fn tell(&self, cause: &Event, conversation: &str, scene: &Scene) -> anyhow::Result<Vec<String>> {
        if scene.agents.is_empty() {
            return Ok(Vec::new());
        }
        let org = cause.orgid.as_str();
        let mut tx = self.reader.read(&Scope::platform()).await?;
        let webhooks = messaging::webhooks_of(&mut tx, org, &scene.agents).await?;
        // A node is an agent's own when it has registered it itself.
        let nodes = network::nodes(&mut tx, org).await?;
        let own = nodes.iter().filter(|node| node.id == node.owner_id).map(|node| &node.id);
        let outside: Vec<&String> = own.chain(webhooks.iter().map(|webhook| &webhook.id)).collect();
        let told: Vec<String> = scene.agents.iter().filter(|agent| outside.contains(agent)).cloned().collect();
        if told.is_empty() {
            return Ok(told);
        }
        let policies = network::policies(&mut tx, org).await?;
        drop(tx);
        let policies = policies.into_iter().map(|row| (row.id, row.version, row.place, row.definition));
        let node = |node: network::Node| {
            (node.id, NodeView { node_type: node.node_type, endpoint: node.endpoint, entity_id: node.entity_id })
        };
        let mut nodes: Vec<(String, NodeView)> = nodes.into_iter().map(node).collect();
        for webhook in webhooks {
            if !nodes.iter().any(|(id, _)| *id == webhook.id) {
                let view = NodeView { node_type: NodeType::Assistant, endpoint: String::new(), entity_id: None };
                nodes.push((webhook.id, view));
            }
        }
        let participation = ContractView {
            id: PARTICIPATION.to_owned(),
            from: MESSAGING.to_owned(),
            to: "*".to_owned(),
            allowed_event_types: vec![MESSAGE_NEW.to_owned()],
            boundaries: vec![Boundary::Intra, Boundary::Extra],
            expires_at: None,
            max_events_per_second: None,
            redact: Vec::new(),
        };
        let view = MeshView::new(nodes, [participation], vec![], PolicySet::compile(&standing_policies(policies)));
        let sent = &scene.message;
        // What was erased is told to nobody.
        let Some(key) = self.content.key(&sent.content.kid).await? else { return Ok(told) };
        let opened = sent.metadata.as_ref().and_then(|sealed| key.open(sealed).ok());
        let telling = Telling {
            cause,
            conversation,
            scene,
            content: key.open(&sent.content)?,
            metadata: opened.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_else(|| json!({})),
            key: &key,
        };
        for agent in &told {
            self.one(&telling, agent, &view).await?;
        }
        Ok(told)
    }

    async fn one(&self, telling: &Telling<'_>, agent: &str, view: &MeshView) -> anyhow::Result<()> {
        let (cause, sent, now) = (telling.cause, &telling.scene.message, OffsetDateTime::now_utc());
        let org = cause.orgid.as_str();
        let event_id = Uuid::new_v5(&cause.id, format!("tell {agent}").as_bytes()).to_string();
        let run_id = sent.run_id.clone().unwrap_or_else(|| format!("run_msg_{}", sent.message_id));
        let event = MeshEvent {
            event_type: MESSAGE_NEW,
            source: MESSAGING,
            target: Some(agent),
            target_entity: None,
            run_id: &run_id,
            boundary: Boundary::Intra,
            reply_to: None,
        };
        let candidates = route(&event, view, Options::default(), now).candidates;
        let (data, timestamp) = (telling.data(org, agent), iso(cause.time));
        let hashed = HashedEvent {
            v: 1,
            id: &event_id,
            event_type: MESSAGE_NEW,
            data: &data,
            source: MESSAGING,
            target: Some(agent),
            run_id: &run_id,
            timestamp: &timestamp,
            boundary: Boundary::Intra,
            caused_by: Some(&sent.message_id),
            source_entity_id: None,
            target_entity_id: None,
            org_id: Some(org),
        };
        let (key_id, hash) = service_hash(&self.keys, &hashed.bytes()?);
        let command = RoutingCommand::from(RouteEvent {
            event_id: event_id.clone(),
            org_id: org.to_owned(),
            payload_type: MESSAGE_NEW.to_owned(),
            data: telling.key.seal(&data.to_string()),
            source: MESSAGING.to_owned(),
            target: Some(agent.to_owned()),
            caused_by: Some(sent.message_id.clone()),
            source_entity_id: None,
            target_entity_id: None,
            boundary: Boundary::Intra,
            timestamp,
            hash,
            key_id,
            signed: false,
            sender_id: TELLER.to_owned(),
            policy_set: view.policies.digest().to_owned(),
            candidates,
            run_id,
        });
        let to = AggregateRef::new(Service::Network, cause.orgid.clone(), "routed-event", &event_id)?;
        let id = CommandId::derived(cause.id, &format!("tell {agent}"));
        let outcome = self.sender.send(Some(cause), &to, &command, &Actor::service("messaging"), id).await?;
        if let Some(rejection) = outcome.rejection {
            tracing::error!(%to, agent, %rejection, "a participant from outside is not told of a message");
        }
        Ok(())
    }
}

impl RuleEngine {
    /// With participants from outside, who are told what they are asked.
    #[must_use]
    pub fn telling(mut self, outside: Outside) -> Self {
        self.outside = Some(outside);
        self
    }
}

/// Whether an assistant is to answer here: one that is told outside and unknown here is not missed.
pub(super) fn is_here(told: &[String], key: &str, definition: &Definition) -> bool {
    definition.assistant.is_some() || !told.iter().any(|told| told.strip_prefix(ASSISTANT_PREFIX) == Some(key))
}

impl Telling<'_> {
    fn data(&self, org: &str, agent: &str) -> Value {
        let sent = &self.scene.message;
        let assistant =
            json!({ "userId": agent, "key": agent.strip_prefix(ASSISTANT_PREFIX), "entityId": Value::Null });
        json!({
            "conversationId": self.conversation,
            "message": {
                "id": sent.message_id, "sequence": sent.sequence, "sender_id": sent.sender_id,
                "sender_type": sent.sender_type, "content": self.content, "content_type": sent.content_type,
                "metadata": self.metadata, "created_at": iso(self.scene.sent_at),
            },
            "senderEntityId": sent.sender_id,
            "recipientEntityIds": [],
            "assistant": assistant,
            "assistants": [assistant],
            "orgId": org,
        })
    }
}
