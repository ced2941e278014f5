//! Participants that live outside are told what they are asked, and of signals (messaging.md §8.8, 8.12): those that are a node
//! of the organization's mesh, and those that have named an address. Here it is decided and recorded; the mesh delivers it, socket first, address
//! else, again and again, and keeps what cannot be delivered.

use serde_json::{Value, json};
use std::sync::Arc;
use symbia_commands::{
    messaging::ASSISTANT_PREFIX,
    network::{
        ContractView, MESSAGE_NEW, MESSAGING, MeshEvent, MeshView, NodeView, Options, PolicySet, SIGNALS, route,
        standing_policies,
    },
};
use symbia_events::{
    Event, KeyRing, Service, SubjectKey,
    messaging::{ControlIssued, content_key_id},
    network::{Boundary, NodeType},
};
use symbia_projections::{ReadPool, Scope, messaging, network};
use time::OffsetDateTime;

use super::{RuleEngine, definitions::Definition, transcript::Scene};
use crate::{
    content_keys::ContentKeys,
    network::{Word, iso},
    sender::Sender,
};

/// What a decision names for the contract: who takes part is told.
const PARTICIPATION: &str = "participation";

/// Tells them.
pub struct Outside {
    reader: ReadPool,
    keys: Arc<KeyRing>,
    content: ContentKeys,
    sender: Sender,
}

/// Those who live outside, and the mesh as conversations see it.
struct Reach {
    told: Vec<String>,
    view: MeshView,
}

/// What is told of an event of a conversation.
struct Telling<'t> {
    cause: &'t Event,
    event_type: &'t str,
    /// The message that it is about, or the signal.
    about: &'t str,
    run_id: &'t str,
    key: &'t SubjectKey,
    /// Tells apart what one event sets off.
    step: &'t str,
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
        let Some(Reach { told, view }) = self.reach(cause.orgid.as_str(), &scene.agents).await? else {
            return Ok(Vec::new());
        };
        let sent = &scene.message;
        // What was erased is told to nobody.
        let Some(key) = self.content.key(&sent.content.kid).await? else { return Ok(told) };
        let opened = sent.metadata.as_ref().and_then(|sealed| key.open(sealed).ok());
        let metadata: Value = opened.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_else(|| json!({}));
        let run_id = sent.run_id.clone().unwrap_or_else(|| format!("run_msg_{}", sent.message_id));
        let (about, run_id) = (sent.message_id.as_str(), run_id.as_str());
        let telling = Telling { cause, event_type: MESSAGE_NEW, about, run_id, key: &key, step: "tell" };
        let message = json!({
            "conversationId": conversation,
            "message": {
                "id": sent.message_id, "sequence": sent.sequence, "sender_id": sent.sender_id,
                "sender_type": sent.sender_type, "content": key.open(&sent.content)?,
                "content_type": sent.content_type, "metadata": metadata, "created_at": iso(scene.sent_at),
            },
            "senderEntityId": sent.sender_id,
            "recipientEntityIds": [],
        });
        for agent in &told {
            self.one(&telling, agent, &view, addressed(&message, cause, agent)).await?;
        }
        Ok(told)
    }

    /// Tells those of these agents that live outside of a signal, also those who are silent: they are to know when they are no
    /// longer.
    pub(super) async fn signal(&self, cause: &Event, issued: &ControlIssued, agents: &[String]) -> anyhow::Result<()> {
        let org = cause.orgid.as_str();
        let Some(Reach { told, view }) = self.reach(org, agents).await? else { return Ok(()) };
        let why = match &issued.reason {
            Some(reason) => self.content.key(&reason.kid).await?,
            None => None,
        };
        // Where it was erased why somebody signalled, that they did is told all the same.
        let key = match why {
            Some(key) => Some(key),
            None => self.content.key(&content_key_id(org, &cause.aggregateid)).await?,
        };
        let Some(key) = key else { return Ok(()) };
        let mut signal = messaging::signal(cause, issued, Some(&key));
        signal["controlId"] = json!(issued.control_id);
        signal["sequence"] = json!(issued.sequence);
        signal["issuedBy"] = json!({ "principalId": issued.issued_by, "principalType": issued.sender_type });
        // One run for all of a conversation, so that they come in their order.
        let run_id = issued.run_id.clone().unwrap_or_else(|| format!("run_control_{}", cause.aggregateid));
        let (event_type, about, run_id) = (issued.event.name(), issued.control_id.as_str(), run_id.as_str());
        let telling = Telling { cause, event_type, about, run_id, key: &key, step: "signal" };
        for agent in &told {
            self.one(&telling, agent, &view, addressed(&signal, cause, agent)).await?;
        }
        Ok(())
    }

    // None when all of them live here.
    async fn reach(&self, org: &str, agents: &[String]) -> anyhow::Result<Option<Reach>> {
        if agents.is_empty() {
            return Ok(None);
        }
        let mut tx = self.reader.read(&Scope::platform()).await?;
        let webhooks = messaging::webhooks_of(&mut tx, org, agents).await?;
        // A node is an agent's own when it has registered it itself.
        let nodes = network::nodes(&mut tx, org).await?;
        let own = nodes.iter().filter(|node| node.id == node.owner_id).map(|node| &node.id);
        let outside: Vec<&String> = own.chain(webhooks.iter().map(|webhook| &webhook.id)).collect();
        let told: Vec<String> = agents.iter().filter(|agent| outside.contains(agent)).cloned().collect();
        if told.is_empty() {
            return Ok(None);
        }
        let policies = network::policies(&mut tx, org).await?;
        drop(tx);
        let policies = policies.into_iter().map(network::Policy::for_routing);
        let mut nodes: Vec<(String, NodeView)> = nodes.into_iter().map(network::Node::for_routing).collect();
        for webhook in webhooks {
            if !nodes.iter().any(|(id, _)| *id == webhook.id) {
                let (node_type, endpoint) = (NodeType::Assistant, String::new());
                let view = NodeView { node_type, endpoint, entity_id: None, owner_id: String::new() };
                nodes.push((webhook.id, view));
            }
        }
        let participation = ContractView {
            id: PARTICIPATION.to_owned(),
            from: MESSAGING.to_owned(),
            to: "*".to_owned(),
            allowed_event_types: [MESSAGE_NEW, SIGNALS].map(str::to_owned).to_vec(),
            boundaries: vec![Boundary::Intra, Boundary::Extra],
            expires_at: None,
            max_events_per_second: None,
            redact: Vec::new(),
        };
        let view = MeshView::new(nodes, [participation], vec![], PolicySet::compile(&standing_policies(policies)));
        Ok(Some(Reach { told, view }))
    }

    async fn one(&self, telling: &Telling<'_>, agent: &str, view: &MeshView, data: Value) -> anyhow::Result<()> {
        let Telling { cause, event_type, about, run_id, key, step } = telling;
        let event = MeshEvent {
            event_type,
            source: MESSAGING,
            target: Some(agent),
            target_entity: None,
            run_id,
            boundary: Boundary::Intra,
            reply_to: None,
        };
        let candidates = route(&event, view, Options::default(), OffsetDateTime::now_utc()).candidates;
        let word = Word {
            step: &format!("{step} {agent}"),
            event_type,
            source: MESSAGING,
            target: Some(agent),
            caused_by: Some(about),
            run_id,
            data: &data,
            key,
            by: Service::Messaging,
            policy_set: view.policies.digest(),
            candidates,
        };
        let outcome = word.send(&self.sender, &self.keys, cause).await?;
        if let Some(rejection) = outcome.rejection {
            tracing::error!(event = %cause.id, agent, %rejection, "a participant from outside is not told");
        }
        Ok(())
    }
}

// What is told, to one of those it is told to.
fn addressed(what: &Value, cause: &Event, agent: &str) -> Value {
    let key = agent.strip_prefix(ASSISTANT_PREFIX);
    let assistant = json!({ "userId": agent, "key": key, "entityId": Value::Null });
    let mut data = what.clone();
    data["orgId"] = json!(cause.orgid);
    data["assistants"] = json!([assistant]);
    data["assistant"] = assistant;
    data
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
