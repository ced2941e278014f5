//! The bridge aggregate: a connector to the outside. What it authenticates with is kept elsewhere and named here
//! (network.md §3.3, 8.13).

use serde::{Deserialize, Serialize};
use symbia_events::{
    check_token,
    network::{BridgeActivated, BridgeDeactivated, BridgeDeleted, BridgeEvent, BridgeRegistered, BridgeType},
};
use time::OffsetDateTime;

use super::{
    pattern::check_patterns,
    rights::{NODES_ADMIN, name, require},
};
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands, identity::is_address};

domain_commands! {
    /// What a bridge can be asked to do.
    BridgeCommand: Network / "bridge" {
        /// Makes one, active.
        RegisterBridge = "symbia.cmd.network.register-bridge.v1" {
            bridge_id: String,
            org_id: String,
            name: String,
            #[serde(rename = "type")]
            bridge_type: BridgeType,
            endpoint: String,
            event_types: Vec<String>,
            #[serde(default)]
            credential_ref: Option<String>,
        }
        /// Lets it forward, or not.
        SetBridgeActive = "symbia.cmd.network.set-bridge-active.v1" { bridge_id: String, active: bool }
        /// Removes it.
        DeleteBridge = "symbia.cmd.network.delete-bridge.v1" { bridge_id: String }
    }
}

/// A bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// Empty when there is none, or no longer.
    org_id: String,
    active: bool,
    deleted: bool,
}

impl Bridge {
    fn managed(&self, by: &Actor) -> Result<(), Rejection> {
        if self.org_id.is_empty() || self.deleted {
            return Err(Rejection::not_found("bridge"));
        }
        require(by, &self.org_id, NODES_ADMIN)
    }
}

impl Aggregate for Bridge {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("bridgeId");
    type Command = BridgeCommand;
    type Event = BridgeEvent;

    fn apply(&mut self, event: &BridgeEvent) {
        match event {
            BridgeEvent::BridgeRegistered(e) => {
                *self = Bridge { org_id: e.org_id.clone(), active: true, deleted: false };
            }
            BridgeEvent::BridgeActivated(_) => self.active = true,
            BridgeEvent::BridgeDeactivated(_) => self.active = false,
            BridgeEvent::BridgeDeleted(_) => self.deleted = true,
        }
    }

    fn decide(
        &self,
        command: BridgeCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<BridgeEvent>, Rejection> {
        match command {
            BridgeCommand::RegisterBridge(c) => {
                require(by, &c.org_id, NODES_ADMIN)?;
                name(&c.name)?;
                check_patterns("eventTypes", &c.event_types)?;
                if !is_address(&c.endpoint) {
                    return Err(Rejection::invalid("endpoint: a URL without user and password"));
                }
                let http = c.endpoint.starts_with("https://") || c.endpoint.starts_with("http://");
                if c.bridge_type == BridgeType::Webhook && !http {
                    return Err(Rejection::invalid("endpoint: an http or https URL"));
                }
                if c.credential_ref.as_deref().is_some_and(|reference| check_token(reference).is_err()) {
                    return Err(Rejection::invalid("config.credentialRef: the id of a credential"));
                }
                if !self.org_id.is_empty() {
                    return Err(Rejection::new("CONFLICT", "this bridge id is in use"));
                }
                Ok(Decision::one(BridgeRegistered {
                    bridge_id: c.bridge_id,
                    org_id: c.org_id,
                    name: c.name,
                    bridge_type: c.bridge_type,
                    endpoint: c.endpoint,
                    event_types: c.event_types,
                    credential_ref: c.credential_ref,
                    by: by.id.clone(),
                }))
            }
            BridgeCommand::SetBridgeActive(c) => {
                self.managed(by)?;
                let (bridge_id, by) = (c.bridge_id, by.id.clone());
                Ok(match (self.active, c.active) {
                    (false, true) => Decision::one(BridgeActivated { bridge_id, by }),
                    (true, false) => Decision::one(BridgeDeactivated { bridge_id, by }),
                    _ => Decision::nothing(),
                })
            }
            BridgeCommand::DeleteBridge(c) => {
                self.managed(by)?;
                Ok(Decision::one(BridgeDeleted { bridge_id: c.bridge_id, by: by.id.clone() }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Membership, Role, testing::given};
    use symbia_events::ActorType;

    fn ada() -> Actor {
        let orgs = vec![Membership { id: "o1".parse().unwrap(), role: Role::Admin }];
        Actor { id: "ada".into(), kind: ActorType::User, orgs, ..Actor::service("x") }
    }

    fn register(endpoint: &str) -> RegisterBridge {
        RegisterBridge {
            bridge_id: "b1".into(),
            org_id: "o1".into(),
            name: "Hook".into(),
            bridge_type: BridgeType::Webhook,
            endpoint: endpoint.into(),
            event_types: vec!["message.*".into()],
            credential_ref: None,
        }
    }

    #[test]
    fn a_bridge_is_switched_and_removed_by_who_may() {
        let history = || {
            Bridge::default().decide(register("https://hook.test/").into(), &ada(), crate::testing::AT).unwrap().events
        };
        let switch = |active| SetBridgeActive { bridge_id: "b1".into(), active };
        let off = BridgeDeactivated { bridge_id: "b1".into(), by: "ada".into() };
        given::<Bridge>(history()).when(switch(false), &ada()).then([off.into()]);
        given::<Bridge>(history()).when(switch(true), &ada()).then([]);
        let stranger = Actor { orgs: vec![], ..ada() };
        given::<Bridge>(history()).when(switch(false), &stranger).rejected("MISSING_CAPABILITY");
        let deleted = BridgeDeleted { bridge_id: "b1".into(), by: "ada".into() };
        let gone = history().into_iter().chain([deleted.into()]);
        given::<Bridge>(gone).when(switch(false), &ada()).rejected("NOT_FOUND");
    }

    #[test]
    fn a_bridge_leads_to_an_address_without_secrets() {
        for endpoint in ["https://user:pw@hook.test/", "hook.test", "ws://hook.test/"] {
            given::<Bridge>([]).when(register(endpoint), &ada()).rejected("VALIDATION_FAILED");
        }
        let nothing = RegisterBridge { event_types: vec![], ..register("https://hook.test/") };
        given::<Bridge>([]).when(nothing, &ada()).rejected("INVALID_PATTERN");
        let secret = RegisterBridge { credential_ref: Some("sk live/1".into()), ..register("https://hook.test/") };
        given::<Bridge>([]).when(secret, &ada()).rejected("VALIDATION_FAILED");
    }
}
