//! Tells the nodes of an organization's mesh what happens in its channels (integrations.md §15.3), as events from the node
//! `integrations`: to those whom a contract of that node names, and where there is none, to nobody. Secrets, headers and bodies
//! of calls are in none of them.
//!
//! Error policy: retry; told again of the same event, the mesh is told nothing new.

use async_trait::async_trait;
use serde_json::{Value, json};
use symbia_commands::network::{
    ContractView, MESSAGING, MeshEvent, MeshView, NodeView, Options, PolicySet, route, standing_policies,
};
use symbia_events::{
    DomainEvent, Event, Personal, Position, Service,
    integrations::{
        ChannelChatEvent, ChannelConnectionEvent, ChannelMessageQueued, ChannelMessageReceived, ChannelReceipt,
        ChannelStatus,
    },
    network::{Boundary, mesh_key_id},
};
use symbia_projections::{Scope, network};

use super::Channels;
use crate::{
    network::{Word, iso},
    reactor::{OnError, Reactor},
};

/// The node that they come from.
const SOURCE: &str = "integrations";
/// What tells that the other side has called.
const CALLED: &str = "channel.webhook.received";

/// The reactor.
pub struct ChannelTeller(Channels);

/// Something that is told of.
struct Tale {
    event_type: &'static str,
    /// What happens in one of these comes in its order.
    run: String,
    data: Value,
    /// What was said, to be put into the data under the key that it is sealed with.
    said: Option<Personal>,
}

impl Tale {
    fn new(event_type: &'static str, run: &str, data: Value) -> Self {
        Tale { event_type, run: format!("run_channel_{run}"), data, said: None }
    }
}

fn inbound(e: ChannelMessageReceived) -> Tale {
    let data =
        json!({ "connectionId": e.connection_id, "conversationId": e.conversation_id, "messageId": e.message_id });
    Tale { said: Some(e.body), ..Tale::new("channel.message.inbound", &e.chat_key, data) }
}

fn outbound(e: ChannelMessageQueued) -> Tale {
    let data = json!({ "connectionId": e.connection_id, "deliveryId": e.delivery_id, "contentType": "text",
        "conversationId": e.conversation_id, "messageId": e.message_id });
    Tale { said: Some(e.content), ..Tale::new("channel.message.outbound", &e.chat_key, data) }
}

// What one event of a chat tells, the first first.
fn of_chat(event: &Event, change: ChannelChatEvent) -> Vec<Tale> {
    let at = iso(event.time);
    let called = |chat: &str, connection: &str, update: &str| {
        let data = json!({ "connectionId": connection, "updateId": update, "timestamp": at });
        Tale::new(CALLED, chat, data)
    };
    let delivery = |chat: &str, id: &str, status: &str, rest: Value| {
        let mut data = json!({ "deliveryId": id, "status": status, "timestamp": at });
        if let (Value::Object(data), Value::Object(rest)) = (&mut data, rest) {
            data.extend(rest);
        }
        vec![Tale::new("channel.message.delivery", chat, data)]
    };
    match change {
        ChannelChatEvent::ChannelMessageReceived(e) => {
            vec![called(&e.chat_key, &e.connection_id, &e.update_id), inbound(e)]
        }
        ChannelChatEvent::ChannelMessageEdited(e) => {
            vec![called(&e.chat_key, &e.connection_id, &e.update_id)]
        }
        ChannelChatEvent::ChannelMessageWithdrawn(e) => {
            vec![called(&e.chat_key, &e.connection_id, &e.update_id)]
        }
        ChannelChatEvent::ChannelMessageQueued(e) => vec![outbound(e)],
        ChannelChatEvent::ChannelDeliveryDeferred(e) => {
            delivery(&e.chat_key, &e.delivery_id, "pending", json!({ "error": e.code, "retryAt": e.retry_at }))
        }
        ChannelChatEvent::ChannelMessageDelivered(e) => {
            let ids = e.vendor_message_ids;
            let rest = json!({ "connectionId": e.connection_id, "messageId": ids.first(), "messageIds": ids });
            delivery(&e.chat_key, &e.delivery_id, "delivered", rest)
        }
        ChannelChatEvent::ChannelMessageFailed(e) => {
            let rest = json!({ "connectionId": e.connection_id, "error": e.code });
            delivery(&e.chat_key, &e.delivery_id, "failed", rest)
        }
        ChannelChatEvent::ChannelReceiptNoted(e) => {
            let rest = json!({ "connectionId": e.connection_id, "messageId": e.vendor_message_id, "error": e.code });
            delivery(&e.chat_key, &e.delivery_id, name_of(e.receipt), rest)
        }
        ChannelChatEvent::ChannelMessagePosted(_)
        | ChannelChatEvent::ChannelUpdateIgnored(_)
        | ChannelChatEvent::ChannelDeliveryStarted(_)
        | ChannelChatEvent::ChannelPartDelivered(_) => Vec::new(),
    }
}

fn name_of(receipt: ChannelReceipt) -> &'static str {
    match receipt {
        ChannelReceipt::Sent => "sent",
        ChannelReceipt::Delivered => "delivered",
        ChannelReceipt::Read => "read",
        ChannelReceipt::Failed => "failed",
    }
}

fn of_connection(event: &Event, change: ChannelConnectionEvent) -> Option<Tale> {
    use ChannelStatus::{Connected, Connecting, Disconnected, Error};
    // Where no event says what it was before, one thing alone can have been.
    let (before, now, reason, error) = match change {
        ChannelConnectionEvent::ChannelConnected(_) => (Some(Connecting), Connected, None, None),
        ChannelConnectionEvent::ChannelConnectFailed(e) => (Some(Connecting), Error, None, Some(e.code)),
        ChannelConnectionEvent::ChannelStatusChanged(e) => (Some(e.previous_status), e.new_status, e.reason, e.error),
        ChannelConnectionEvent::ChannelDisconnected(_) => (None, Disconnected, None, None),
        ChannelConnectionEvent::ChannelConnectRequested(_)
        | ChannelConnectionEvent::ChannelErrorRecorded(_)
        | ChannelConnectionEvent::ChannelRecovered(_)
        | ChannelConnectionEvent::ChannelFloodRefused(_)
        | ChannelConnectionEvent::ChannelFilesRefused(_)
        | ChannelConnectionEvent::ChannelRemoved(_) => return None,
    };
    let data = json!({ "connectionId": event.aggregateid, "previousStatus": before, "newStatus": now,
        "reason": reason, "error": error, "timestamp": iso(event.time) });
    Some(Tale::new("channel.status.changed", &event.aggregateid, data))
}

impl ChannelTeller {
    /// Over what channels stand on.
    #[must_use]
    pub fn new(channels: Channels) -> Self {
        ChannelTeller(channels)
    }

    // With what the connection adds; none when it is not what it seemed.
    async fn completed(&self, event: &Event, mut tale: Tale) -> anyhow::Result<Option<Tale>> {
        let Some(id) = tale.data["connectionId"].as_str() else { return Ok(Some(tale)) };
        let Some(connection) = self.0.connection_of(&event.orgid, id).await? else { return Ok(Some(tale)) };
        if connection.mode != "webhook" && tale.event_type == CALLED {
            return Ok(None);
        }
        tale.data["channelType"] = json!(connection.channel_type);
        Ok(Some(tale))
    }

    // The mesh as the node sees it; none when no contract lets it tell anybody of channels.
    async fn view(&self, org: &str) -> anyhow::Result<Option<MeshView>> {
        let mut tx = self.0.0.reader.read(&Scope::platform()).await?;
        let contracts = network::contracts(&mut tx, org).await?;
        let own = |contract: &network::Contract| contract.source == SOURCE && contract.target != MESSAGING;
        let contracts: Vec<ContractView> =
            contracts.into_iter().filter(own).map(network::Contract::for_routing).collect();
        if contracts.is_empty() {
            return Ok(None);
        }
        let nodes = network::nodes(&mut tx, org).await?.into_iter().filter(|node| node.id != MESSAGING);
        let nodes: Vec<(String, NodeView)> = nodes.map(network::Node::for_routing).collect();
        let rows = network::policies(&mut tx, org).await?;
        let rows = rows.into_iter().map(network::Policy::for_routing);
        Ok(Some(MeshView::new(nodes, contracts, Vec::new(), PolicySet::compile(&standing_policies(rows)))))
    }

    async fn tell(&self, event: &Event, mut tale: Tale, view: &MeshView) -> anyhow::Result<()> {
        let mesh_event = MeshEvent {
            event_type: tale.event_type,
            source: SOURCE,
            target: None,
            target_entity: None,
            run_id: &tale.run,
            boundary: Boundary::Intra,
            reply_to: None,
        };
        let candidates = route(&mesh_event, view, Options::default(), event.time).candidates;
        if candidates.is_empty() {
            return Ok(());
        }
        let secrets = &self.0.0.secrets;
        let key = match &tale.said {
            Some(said) => {
                // What was erased is told to nobody.
                let Some(key) = secrets.subject_key(&said.kid).await? else { return Ok(()) };
                let opened: Value = serde_json::from_str(&key.open(said)?)?;
                if let (Value::Object(data), Value::Object(opened)) = (&mut tale.data, opened) {
                    data.extend(opened);
                }
                key
            }
            None => match self.0.made_key(&mesh_key_id(event.orgid.as_str())).await? {
                Some(key) => key,
                None => return Ok(()),
            },
        };
        let word = Word {
            step: tale.event_type,
            event_type: tale.event_type,
            source: SOURCE,
            target: None,
            caused_by: None,
            run_id: &tale.run,
            data: &tale.data,
            key: &key,
            by: Service::Integrations,
            policy_set: view.policies.digest(),
            candidates,
        };
        let outcome = word.send(&self.0.0.sender, &self.0.0.keys, event).await?;
        if let Some(rejection) = outcome.rejection {
            tracing::warn!(event = %event.id, %rejection, "a mesh is not told of a channel");
        }
        Ok(())
    }
}

#[async_trait]
impl Reactor for ChannelTeller {
    fn name(&self) -> &'static str {
        "channel-teller"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(Service::Integrations, &["*.channel-chat.*", "*.channel-connection.*"])]
    }

    fn acts_on(&self) -> &'static [&'static str] {
        &["symbia.integrations.channel-chat.", "symbia.integrations.channel-connection."]
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    async fn react(&self, event: &Event, _at: Position) -> anyhow::Result<()> {
        let tales = match event.aggregatetype.as_str() {
            ChannelChatEvent::AGGREGATE => of_chat(event, event.decode()?),
            _ => of_connection(event, event.decode()?).into_iter().collect(),
        };
        if tales.is_empty() {
            return Ok(());
        }
        let Some(view) = self.view(event.orgid.as_str()).await? else { return Ok(()) };
        for tale in tales {
            if let Some(tale) = self.completed(event, tale).await? {
                self.tell(event, tale, &view).await?;
            }
        }
        Ok(())
    }
}
