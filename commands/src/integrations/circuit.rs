//! The circuit aggregate: what is known of a model that fails again and again (integrations.md §17.2). The routers keep their
//! own count; this is what they tell each other, and what operators see. It is an organization's where its key is concerned,
//! and everybody's otherwise.

use serde::{Deserialize, Serialize};
use symbia_events::{
    AggregateRef, OrgId,
    integrations::{CircuitEvent, ErrorCategory, ProviderCircuitClosed, ProviderCircuitOpened, ProviderCircuitReset},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::ADMIN_CAPABILITY;
use crate::{Actor, Aggregate, Decision, Rejection, Role, domain_commands};

domain_commands! {
    /// What can be said of a circuit. All but the reset is the routers'.
    CircuitCommand: Integrations / "circuit" {
        /// The model is left alone.
        OpenCircuit = "symbia.cmd.integrations.open-circuit.v1" {
            circuit_id: String,
            provider: String,
            model: String,
            #[serde(default)]
            credential_id: Option<String>,
            failures: u32,
            last_category: ErrorCategory,
            /// RFC 3339.
            open_until: String,
        }
        /// The model answered.
        CloseCircuit = "symbia.cmd.integrations.close-circuit.v1" { circuit_id: String }
        /// The model may be asked. `org_id` is that of the address.
        ResetCircuit = "symbia.cmd.integrations.reset-circuit.v1" { circuit_id: String, org_id: String }
    }
}

/// The id of the circuit of a model, asked with a key of the vault or the installation's own.
#[must_use]
pub fn circuit_id(provider: &str, model: &str, credential_id: Option<&str>) -> String {
    let name = serde_json::json!([provider, model, credential_id]).to_string();
    Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes()).to_string()
}

/// A circuit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Circuit {
    open_until: Option<String>,
}

impl Aggregate for Circuit {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("circuitId");
    type Command = CircuitCommand;
    type Event = CircuitEvent;

    fn belongs(command: &CircuitCommand, to: &AggregateRef) -> Result<(), Rejection> {
        match command {
            CircuitCommand::ResetCircuit(c) if c.org_id != to.tenant.as_str() => Err(Rejection::misaddressed(to)),
            _ => Ok(()),
        }
    }

    fn apply(&mut self, event: &CircuitEvent) {
        self.open_until = match event {
            CircuitEvent::ProviderCircuitOpened(e) => Some(e.open_until.clone()),
            CircuitEvent::ProviderCircuitClosed(_) | CircuitEvent::ProviderCircuitReset(_) => None,
        };
    }

    fn decide(
        &self,
        command: CircuitCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<CircuitEvent>, Rejection> {
        match command {
            CircuitCommand::OpenCircuit(c) => {
                routers_own(by)?;
                if OffsetDateTime::parse(&c.open_until, &Rfc3339).is_err() {
                    return Err(Rejection::invalid("openUntil: an RFC 3339 time"));
                }
                Ok(Decision::one(ProviderCircuitOpened {
                    circuit_id: c.circuit_id,
                    provider: c.provider,
                    model: c.model,
                    credential_id: c.credential_id,
                    failures: c.failures,
                    last_category: c.last_category,
                    open_until: c.open_until,
                }))
            }
            CircuitCommand::CloseCircuit(c) => {
                routers_own(by)?;
                match self.open_until {
                    Some(_) => Ok(Decision::one(ProviderCircuitClosed { circuit_id: c.circuit_id })),
                    None => Ok(Decision::nothing()),
                }
            }
            CircuitCommand::ResetCircuit(c) => {
                administers(by, &c.org_id)?;
                match self.open_until {
                    Some(_) => Ok(Decision::one(ProviderCircuitReset { circuit_id: c.circuit_id, by: by.id.clone() })),
                    None => Ok(Decision::nothing()),
                }
            }
        }
    }
}

fn routers_own(by: &Actor) -> Result<(), Rejection> {
    by.is_platform().then_some(()).ok_or_else(|| Rejection::forbidden("the routers say how providers fare"))
}

// What concerns everybody is the operators'.
fn administers(by: &Actor, org: &str) -> Result<(), Rejection> {
    let admin = by.orgs.iter().any(|m| m.id.as_str() == org && m.role == Role::Admin);
    let theirs = org != OrgId::GLOBAL && (admin || by.holds(ADMIN_CAPABILITY));
    if theirs || by.super_admin || by.is_platform() {
        return Ok(());
    }
    let text =
        "only an admin of the organization resets the circuits of its keys, and an operator those of the installation";
    Err(Rejection::new("INSUFFICIENT_ROLE", text))
}

#[cfg(test)]
mod tests {
    use symbia_events::ActorType;

    use super::*;
    use crate::{Membership, testing::given};

    fn opened() -> CircuitEvent {
        let decided = Circuit::default().decide(open().into(), &Actor::service("x"), crate::testing::AT);
        decided.unwrap().events.remove(0)
    }

    fn open() -> OpenCircuit {
        OpenCircuit {
            circuit_id: "c1".into(),
            provider: "openai".into(),
            model: "gpt-4o".into(),
            credential_id: None,
            failures: 5,
            last_category: ErrorCategory::Timeout,
            open_until: "2026-01-01T00:00:30Z".into(),
        }
    }

    fn reset(org: &str) -> ResetCircuit {
        ResetCircuit { circuit_id: "c1".into(), org_id: org.into() }
    }

    #[test]
    fn routers_open_and_close_it_and_admins_reset_what_is_theirs() {
        let orgs = vec![Membership { id: "o1".parse().unwrap(), role: Role::Admin }];
        let ada = Actor { id: "ada".into(), kind: ActorType::User, orgs, ..Actor::service("x") };
        given::<Circuit>([]).when(open(), &ada).rejected("FORBIDDEN");
        let close = || CloseCircuit { circuit_id: "c1".into() };
        given::<Circuit>([]).when(close(), &Actor::service("x")).then([]);
        let closed = ProviderCircuitClosed { circuit_id: "c1".into() };
        given::<Circuit>([opened()]).when(close(), &Actor::service("x")).then([closed.into()]);
        let was_reset = ProviderCircuitReset { circuit_id: "c1".into(), by: "ada".into() };
        given::<Circuit>([opened()]).when(reset("o1"), &ada).then([was_reset.into()]);
        given::<Circuit>([opened()]).when(reset("o2"), &ada).rejected("INSUFFICIENT_ROLE");
        given::<Circuit>([opened()]).when(reset(OrgId::GLOBAL), &ada).rejected("INSUFFICIENT_ROLE");
    }
}
