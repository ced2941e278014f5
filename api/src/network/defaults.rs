//! The contracts that services of the platform have with each other from the first: made when the second of a pair registers,
//! unless the two have one already (network.md §8.2).

use symbia_commands::{
    Actor,
    network::{ContractCommand, CreateContract, contract_id},
};
use symbia_events::{
    CommandId,
    network::{Boundary, NodeType},
};
use symbia_projections::network as model;
use uuid::Uuid;

use super::{
    Network,
    access::{Place, address},
};
use crate::{
    http::{ApiResult, RequestScope},
    platform::Consistency,
};

/// From, to, and what is sent.
type Pair = (&'static str, &'static str, &'static [&'static str]);

const PAIRS: [Pair; 5] = [
    ("messaging", "assistants", &["message.new", "message.*"]),
    ("messaging", "integrations", &["message.new"]),
    ("integrations", "messaging", &["channel.*"]),
    ("assistants", "messaging", &["message.response", "assistant.action.respond", "assistant.*"]),
    ("assistants", "*", &["assistant.intent.claim", "assistant.intent.defer", "assistant.action.observe"]),
];
/// What every service tells the network service, where that is a node.
const OBSERVED: &[&str] = &["obs.*"];
const NETWORK: &str = "network";

// The pairs that a service completes, among the services that are registered.
fn completed(id: &str, services: &[&str]) -> Vec<(String, String, &'static [&'static str])> {
    let here = |other: &str| other == "*" || services.contains(&other);
    let of_two = PAIRS.iter().filter(|(from, to, _)| (*from == id && here(to)) || (*to == id && here(from)));
    let mut found: Vec<_> = of_two.map(|(from, to, types)| ((*from).to_owned(), (*to).to_owned(), *types)).collect();
    if here(NETWORK) {
        let telling = services.iter().filter(|from| **from != NETWORK && (**from == id || id == NETWORK));
        found.extend(telling.map(|from| ((*from).to_owned(), NETWORK.to_owned(), OBSERVED)));
    }
    found
}

impl Network {
    /// Makes the contracts that a service has from the first. One that cannot be made now is made by hand: registering is not
    /// refused for it.
    pub(super) async fn default_contracts(&self, place: &Place, scope: &RequestScope, id: &str) {
        if let Err(error) = self.made_by_default(place, scope, id).await {
            tracing::warn!(node = id, org = %place.org, %error, "a service has not all contracts that it begins with");
        }
    }

    async fn made_by_default(&self, place: &Place, scope: &RequestScope, id: &str) -> ApiResult<()> {
        let org = place.org.as_str();
        let mut tx = self.platform.read(&place.reading).await?;
        let nodes = model::nodes(&mut tx, org).await?;
        let contracts = model::contracts(&mut tx, org).await?;
        drop(tx);
        let services = nodes.iter().filter(|node| node.node_type == NodeType::Service).map(|node| node.id.as_str());
        let services: Vec<&str> = services.collect();
        let request = scope.command_id(&place.actor.id);
        for (from, to, types) in completed(id, &services) {
            if contracts.iter().any(|known| known.source == from && known.target == to) {
                continue;
            }
            let allowed: Vec<String> = types.iter().map(|one| (*one).to_owned()).collect();
            let boundaries = vec![Boundary::Intra, Boundary::Inter];
            let contract = contract_id(org, &from, &to, &allowed, &boundaries);
            let command = ContractCommand::from(CreateContract {
                contract_id: contract.clone(),
                org_id: org.to_owned(),
                from,
                to,
                allowed_event_types: allowed,
                boundaries,
                expires_at: None,
                max_events_per_second: None,
                redact: Vec::new(),
            });
            let (command_id, address) =
                (CommandId(Uuid::new_v5(&request, contract.as_bytes())), address(&place.org, "contract", &contract)?);
            let by = Actor::service("network");
            self.platform.submit_as(command_id, &address, &command, &by, scope, Consistency::Visible).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_complete_when_its_second_comes() {
        let pairs = |id: &str, services: &[&str]| -> Vec<String> {
            completed(id, services).into_iter().map(|(from, to, _)| format!("{from}>{to}")).collect()
        };
        assert_eq!(pairs("messaging", &["messaging"]), [""; 0]);
        let second = pairs("assistants", &["messaging", "assistants"]);
        assert_eq!(second, ["messaging>assistants", "assistants>messaging", "assistants>*"]);
        assert_eq!(pairs("billing", &["billing", "network"]), ["billing>network"]);
        assert_eq!(pairs("network", &["billing", "other", "network"]), ["billing>network", "other>network"]);
    }
}
