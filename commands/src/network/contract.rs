//! The contract aggregate: one permission to send. Its id is a digest of what it permits, so that the same permission is
//! never given twice (network.md §3.2).

use serde::{Deserialize, Serialize};
use symbia_events::{
    AggregateRef, check_token,
    network::{Boundary, ContractCreated, ContractDeleted, ContractEvent, ContractExpired},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::{
    pattern::check_patterns,
    rights::{CONTRACTS_WRITE, require},
    transform::is_path,
};
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

/// Most events in a second that a contract can name.
const MOST_PER_SECOND: u32 = 10_000;
/// Most paths that a contract keeps from being shown.
const MOST_REDACTED: usize = 50;

domain_commands! {
    /// What a contract can be asked to do.
    ContractCommand: Network / "contract" {
        /// Lets a node send.
        CreateContract = "symbia.cmd.network.create-contract.v1" {
            contract_id: String,
            org_id: String,
            from: String,
            /// A node, or `*`.
            to: String,
            allowed_event_types: Vec<String>,
            boundaries: Vec<Boundary>,
            /// RFC 3339.
            #[serde(default)]
            expires_at: Option<String>,
            /// 1 to 10000.
            #[serde(default)]
            max_events_per_second: Option<u32>,
            /// At most 50 dotted paths.
            #[serde(default)]
            redact: Vec<String>,
        }
        /// Notes that its time is over.
        ExpireContract = "symbia.cmd.network.expire-contract.v1" { contract_id: String }
        /// Lets it no longer.
        DeleteContract = "symbia.cmd.network.delete-contract.v1" { contract_id: String }
    }
}

/// Id of the contract that permits this; the order of types and boundaries does not matter.
#[must_use]
pub fn contract_id(org: &str, from: &str, to: &str, types: &[String], boundaries: &[Boundary]) -> String {
    let (types, boundaries) = (sorted(types), sorted(boundaries));
    let boundaries: Vec<&str> = boundaries.iter().map(|boundary| boundary.name()).collect();
    let name = serde_json::json!([org, from, to, types, boundaries]).to_string();
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string()
}

fn sorted<T: Ord + Clone>(values: &[T]) -> Vec<T> {
    let mut values = values.to_vec();
    values.sort();
    values.dedup();
    values
}

/// A contract.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contract {
    /// Empty when there is none, or no longer.
    org_id: String,
    expires_at: Option<String>,
    /// It was noted that its time is over.
    #[serde(default)]
    expired: bool,
}

fn ended(end: Option<&str>, at: OffsetDateTime) -> bool {
    end.and_then(|end| OffsetDateTime::parse(end, &Rfc3339).ok()).is_some_and(|end| end <= at)
}

impl Contract {
    fn create(&self, c: CreateContract, by: &Actor, at: OffsetDateTime) -> Result<Decision<ContractEvent>, Rejection> {
        require(by, &c.org_id, CONTRACTS_WRITE)?;
        check_patterns("allowedEventTypes", &c.allowed_event_types)?;
        if check_token(&c.from).is_err() || (c.to != "*" && check_token(&c.to).is_err()) || c.from == c.to {
            return Err(Rejection::invalid("from, to: two different nodes, or '*' for to"));
        }
        if c.boundaries.is_empty() {
            return Err(Rejection::invalid("boundaries: at least one of intra, inter, extra"));
        }
        if c.expires_at.as_deref().is_some_and(|end| OffsetDateTime::parse(end, &Rfc3339).is_err()) {
            return Err(Rejection::invalid("expiresAt: an instant in RFC 3339"));
        }
        if c.max_events_per_second.is_some_and(|most| !(1..=MOST_PER_SECOND).contains(&most)) {
            return Err(Rejection::invalid("maxEventsPerSecond: 1 to 10000"));
        }
        if c.redact.len() > MOST_REDACTED || !c.redact.iter().all(|path| is_path(path)) {
            return Err(Rejection::invalid("redact: at most 50 dotted paths"));
        }
        if !self.org_id.is_empty() && !ended(self.expires_at.as_deref(), at) {
            return Ok(Decision::nothing());
        }
        Ok(Decision::one(ContractCreated {
            contract_id: c.contract_id,
            org_id: c.org_id,
            from: c.from,
            to: c.to,
            allowed_event_types: sorted(&c.allowed_event_types),
            boundaries: sorted(&c.boundaries),
            expires_at: c.expires_at,
            by: by.id.clone(),
            max_events_per_second: c.max_events_per_second,
            redact: sorted(&c.redact),
        }))
    }

    fn expire(&self, c: ExpireContract, by: &Actor, at: OffsetDateTime) -> Result<Decision<ContractEvent>, Rejection> {
        if !by.is_platform() {
            return Err(Rejection::forbidden("the time of a contract is over by itself"));
        }
        // One that was made anew ends later, or not at all.
        if self.expired || !ended(self.expires_at.as_deref(), at) {
            return Ok(Decision::nothing());
        }
        Ok(Decision::one(ContractExpired { contract_id: c.contract_id }))
    }
}

impl Aggregate for Contract {
    const STATE_VERSION: u32 = 2;
    const ID_FIELD: Option<&'static str> = Some("contractId");
    type Command = ContractCommand;
    type Event = ContractEvent;

    fn belongs(command: &ContractCommand, to: &AggregateRef) -> Result<(), Rejection> {
        match command {
            ContractCommand::CreateContract(c)
                if contract_id(&c.org_id, &c.from, &c.to, &c.allowed_event_types, &c.boundaries) != to.id =>
            {
                Err(Rejection::misaddressed(to))
            }
            _ => Ok(()),
        }
    }

    fn apply(&mut self, event: &ContractEvent) {
        match event {
            ContractEvent::ContractCreated(e) => {
                *self = Contract { org_id: e.org_id.clone(), expires_at: e.expires_at.clone(), expired: false };
            }
            ContractEvent::ContractExpired(_) => self.expired = true,
            ContractEvent::ContractDeleted(_) => *self = Contract::default(),
        }
    }

    fn decide(
        &self,
        command: ContractCommand,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<ContractEvent>, Rejection> {
        match command {
            ContractCommand::CreateContract(c) => self.create(c, by, at),
            ContractCommand::ExpireContract(c) => self.expire(c, by, at),
            ContractCommand::DeleteContract(c) => {
                if self.org_id.is_empty() {
                    return Err(Rejection::not_found("contract"));
                }
                require(by, &self.org_id, CONTRACTS_WRITE)?;
                Ok(Decision::one(ContractDeleted { contract_id: c.contract_id, by: by.id.clone() }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Membership, Role,
        testing::{AT, given},
    };
    use symbia_events::{ActorType, Service};
    use time::Duration;

    fn ada() -> Actor {
        let orgs = vec![Membership { id: "o1".parse().unwrap(), role: Role::Admin }];
        Actor { id: "ada".into(), kind: ActorType::User, orgs, ..Actor::service("x") }
    }

    fn create(types: &[&str]) -> CreateContract {
        let types: Vec<String> = types.iter().map(|t| (*t).to_owned()).collect();
        let boundaries = vec![Boundary::Inter, Boundary::Intra];
        CreateContract {
            contract_id: contract_id("o1", "a", "b", &types, &boundaries),
            org_id: "o1".into(),
            from: "a".into(),
            to: "b".into(),
            allowed_event_types: types,
            boundaries,
            expires_at: None,
            max_events_per_second: None,
            redact: vec![],
        }
    }

    fn created(c: CreateContract) -> ContractEvent {
        Contract::default().create(c, &ada(), AT).unwrap().events.remove(0)
    }

    #[test]
    fn the_same_permission_is_one_contract_however_it_is_written() {
        assert_eq!(create(&["x", "y.*"]).contract_id, create(&["y.*", "x"]).contract_id);
        assert_ne!(create(&["x"]).contract_id, create(&["y"]).contract_id);
        given::<Contract>([created(create(&["x"]))]).when(create(&["x"]), &ada()).then([]);
        let at = |id: String| AggregateRef::new(Service::Network, "o1".parse().unwrap(), "contract", id).unwrap();
        let command = ContractCommand::from(create(&["x"]));
        assert!(Contract::belongs(&command, &at(create(&["x"]).contract_id)).is_ok());
        assert!(Contract::belongs(&command, &at(create(&["y"]).contract_id)).is_err());
    }

    #[test]
    fn one_that_has_ended_can_be_made_anew() {
        let until =
            |end: OffsetDateTime| CreateContract { expires_at: Some(end.format(&Rfc3339).unwrap()), ..create(&["x"]) };
        let past = created(until(AT));
        given::<Contract>([past.clone()]).when(create(&["x"]), &ada()).then([created(create(&["x"]))]);
        given::<Contract>([created(until(AT + Duration::HOUR))]).when(create(&["x"]), &ada()).then([]);
        let expire = ExpireContract { contract_id: create(&["x"]).contract_id };
        let expired = ContractExpired { contract_id: expire.contract_id.clone() };
        let network = Actor::service("network");
        given::<Contract>([past.clone()]).when(expire.clone(), &network).then([expired.clone().into()]);
        given::<Contract>([past.clone(), expired.clone().into()]).when(expire.clone(), &network).then([]);
        given::<Contract>([created(create(&["x"]))]).when(expire.clone(), &network).then([]);
        given::<Contract>([past.clone()]).when(expire, &ada()).rejected("FORBIDDEN");
        given::<Contract>([past.clone(), expired.into()]).when(create(&["x"]), &ada()).then([created(create(&["x"]))]);
        let delete = DeleteContract { contract_id: create(&["x"]).contract_id };
        let deleted = ContractDeleted { contract_id: delete.contract_id.clone(), by: "ada".into() };
        given::<Contract>([past]).when(delete.clone(), &ada()).then([deleted.into()]);
        given::<Contract>([]).when(delete.clone(), &ada()).rejected("NOT_FOUND");
        let stranger = Actor { orgs: vec![], ..ada() };
        given::<Contract>([created(create(&["x"]))]).when(delete, &stranger).rejected("MISSING_CAPABILITY");
    }

    #[test]
    fn what_permits_nothing_is_refused() {
        given::<Contract>([]).when(create(&[]), &ada()).rejected("INVALID_PATTERN");
        given::<Contract>([]).when(create(&["a*"]), &ada()).rejected("INVALID_PATTERN");
        for bad in [
            CreateContract { to: "a".into(), ..create(&["x"]) },
            CreateContract { from: "*".into(), ..create(&["x"]) },
            CreateContract { boundaries: vec![], ..create(&["x"]) },
            CreateContract { expires_at: Some("soon".into()), ..create(&["x"]) },
            CreateContract { max_events_per_second: Some(0), ..create(&["x"]) },
            CreateContract { redact: vec!["a..b".into()], ..create(&["x"]) },
        ] {
            given::<Contract>([]).when(bad, &ada()).rejected("VALIDATION_FAILED");
        }
    }
}
