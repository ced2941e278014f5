//! The route aggregate: a name of an organization's own for several models, of which one answers (integrations.md §25.4, §28).

use serde::{Deserialize, Serialize};
use symbia_events::integrations::{
    FallbackTrigger, Hedge, RouteEvent, RouteFallback, RoutePolicyRemoved, RoutePolicySet, RouteTarget, Strategy,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    MAX_FALLBACKS,
    administration::{administers, is_name},
};
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

/// Longest name of a route.
const LONGEST_ALIAS: usize = 64;
/// Largest weight of a target.
const HEAVIEST: u32 = 1000;
/// What a target may be asked in a minute, or at once.
const MOST: std::ops::RangeInclusive<u32> = 1..=1_000_000;
/// What the attempts at a target may take, milliseconds.
const TIMEOUTS: std::ops::RangeInclusive<u64> = 100..=600_000;
/// After how many milliseconds another model is asked besides.
const HEDGES: std::ops::RangeInclusive<u32> = 10..=60_000;
const OTHERS: &str = "sets where its models are asked for";

domain_commands! {
    /// What can be done about a route.
    RouteCommand: Integrations / "route" {
        /// Has a name mean these models.
        SetRoutePolicy = "symbia.cmd.integrations.set-route-policy.v1" {
            route_id: String,
            org_id: String,
            alias: String,
            strategy: Strategy,
            targets: Vec<RouteTarget>,
            #[serde(default)]
            fallbacks: Vec<RouteFallback>,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            hedge: Option<Hedge>,
        }
        /// Has it mean nothing.
        RemoveRoutePolicy = "symbia.cmd.integrations.remove-route-policy.v1" { route_id: String, org_id: String }
    }
}

/// The id of an organization's route of a name.
#[must_use]
pub fn route_id(org: &str, alias: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, serde_json::json!(["route", org, alias]).to_string().as_bytes()).to_string()
}

/// Whether a model's name can be that of a route: others name a provider, or let the gateway choose.
#[must_use]
pub fn may_be_alias(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    !name.is_empty() && name.len() <= LONGEST_ALIAS && name.chars().all(plain) && name != "auto"
}

/// A route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Route {
    version: u64,
    is_set: bool,
}

impl Route {
    fn set(&self, c: SetRoutePolicy, by: &Actor) -> Result<Decision<RouteEvent>, Rejection> {
        if !may_be_alias(&c.alias) || c.route_id != route_id(&c.org_id, &c.alias) {
            let text = "alias: 1 to 64 letters, digits, dots, dashes and underscores, and not auto";
            return Err(Rejection::invalid(text));
        }
        asked_in_turn("targets", &c.targets)?;
        let mut triggers: Vec<FallbackTrigger> = c.fallbacks.iter().map(|fallback| fallback.on).collect();
        triggers.sort_unstable();
        if triggers.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Rejection::invalid("fallbacks: one list for each of what goes wrong"));
        }
        for fallback in &c.fallbacks {
            asked_in_turn("fallbacks.targets", &fallback.targets)?;
        }
        check_hedge("hedge.after", c.hedge)?;
        Ok(Decision::one(RoutePolicySet {
            route_id: c.route_id,
            alias: c.alias,
            version: self.version + 1,
            strategy: c.strategy,
            targets: c.targets,
            fallbacks: c.fallbacks,
            hedge: c.hedge,
            by: by.id.clone(),
        }))
    }
}

/// Whether a hedge makes sense; `what` names it.
pub fn check_hedge(what: &str, hedge: Option<Hedge>) -> Result<(), Rejection> {
    let after = hedge.and_then(|hedge| hedge.after_ms);
    match after.is_none_or(|ms| HEDGES.contains(&ms)) {
        true => Ok(()),
        false => Err(Rejection::invalid(format!("{what}: 10 to 60000 ms, or p95"))),
    }
}

fn asked_in_turn(what: &str, targets: &[RouteTarget]) -> Result<(), Rejection> {
    if targets.is_empty() || targets.len() > MAX_FALLBACKS {
        return Err(Rejection::invalid(format!("{what}: 1 to {MAX_FALLBACKS}")));
    }
    for target in targets {
        let limits = [
            (is_name(&target.provider), "provider: 1 to 200 printable characters"),
            (target.model.as_deref().is_none_or(is_name), "model: 1 to 200 printable characters"),
            (target.weight.is_none_or(|weight| weight <= HEAVIEST), "weight: 0 to 1000"),
            (target.timeout_ms.is_none_or(|ms| TIMEOUTS.contains(&ms)), "timeoutMs: 100 to 600000"),
            (target.max_rpm.is_none_or(|most| MOST.contains(&most)), "maxRpm: 1 to 1000000"),
            (target.max_concurrency.is_none_or(|most| MOST.contains(&most)), "maxConcurrency: 1 to 1000000"),
        ];
        if let Some((_, limit)) = limits.iter().find(|(kept, _)| !kept) {
            return Err(Rejection::invalid(format!("{what}: {limit}")));
        }
    }
    Ok(())
}

impl Aggregate for Route {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("routeId");
    type Command = RouteCommand;
    type Event = RouteEvent;

    fn apply(&mut self, event: &RouteEvent) {
        match event {
            RouteEvent::RoutePolicySet(e) => (self.version, self.is_set) = (e.version, true),
            RouteEvent::RoutePolicyRemoved(_) => self.is_set = false,
        }
    }

    fn decide(
        &self,
        command: RouteCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<RouteEvent>, Rejection> {
        match command {
            RouteCommand::SetRoutePolicy(c) => {
                administers(by, &c.org_id, OTHERS)?;
                self.set(c, by)
            }
            RouteCommand::RemoveRoutePolicy(c) => {
                administers(by, &c.org_id, OTHERS)?;
                if !self.is_set {
                    return Err(Rejection::not_found("route"));
                }
                Ok(Decision::one(RoutePolicyRemoved { route_id: c.route_id, by: by.id.clone() }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use symbia_events::ActorType;

    use super::*;
    use crate::{
        Membership, Role,
        testing::{AT, given},
    };

    fn member(role: Role) -> Actor {
        let orgs = vec![Membership { id: "acme".parse().unwrap(), role }];
        Actor { id: "ada".into(), kind: ActorType::User, orgs, ..Actor::service("integrations") }
    }

    fn target(model: &str) -> RouteTarget {
        RouteTarget {
            provider: "openai".into(),
            model: Some(model.into()),
            weight: None,
            timeout_ms: None,
            max_rpm: None,
            max_concurrency: None,
        }
    }

    fn set(alias: &str) -> SetRoutePolicy {
        SetRoutePolicy {
            route_id: route_id("acme", alias),
            org_id: "acme".into(),
            alias: alias.into(),
            strategy: Strategy::Priority,
            targets: vec![target("a"), target("b")],
            fallbacks: vec![RouteFallback { on: FallbackTrigger::Budget, targets: vec![target("c")] }],
            hedge: None,
        }
    }

    #[test]
    fn admins_of_the_organization_alone_set_and_remove_a_route() {
        let (admin, member) = (member(Role::Admin), member(Role::Member));
        given::<Route>([]).when(set("smart"), &member).rejected("INSUFFICIENT_ROLE");
        let events = Route::default().decide(set("smart").into(), &admin, AT).unwrap().events;
        let again = given::<Route>(events.clone());
        let remove = || RemoveRoutePolicy { route_id: route_id("acme", "smart"), org_id: "acme".into() };
        again.when(remove(), &member).rejected("INSUFFICIENT_ROLE");
        given::<Route>([]).when(remove(), &admin).rejected("NOT_FOUND");
        let mut state = Route::default();
        events.iter().for_each(|event| state.apply(event));
        let RouteEvent::RoutePolicySet(e) = state.decide(set("smart").into(), &admin, AT).unwrap().events.remove(0)
        else {
            panic!("it is not set")
        };
        assert_eq!(e.version, 2);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let admin = member(Role::Admin);
        let refused = |c: SetRoutePolicy| given::<Route>([]).when(c, &admin).rejected("VALIDATION_FAILED");
        for alias in ["", "auto", "openai/gpt-4o", "a b", &"x".repeat(65)] {
            refused(set(alias));
        }
        refused(SetRoutePolicy { route_id: route_id("acme", "other"), ..set("smart") });
        refused(SetRoutePolicy { targets: Vec::new(), ..set("smart") });
        refused(SetRoutePolicy { targets: vec![target("a"); MAX_FALLBACKS + 1], ..set("smart") });
        refused(SetRoutePolicy { targets: vec![target("")], ..set("smart") });
        let weighted = RouteTarget { weight: Some(HEAVIEST + 1), ..target("a") };
        refused(SetRoutePolicy { targets: vec![weighted], ..set("smart") });
        for limited in [
            RouteTarget { timeout_ms: Some(5), ..target("a") },
            RouteTarget { max_rpm: Some(0), ..target("a") },
            RouteTarget { max_concurrency: Some(0), ..target("a") },
        ] {
            refused(SetRoutePolicy { targets: vec![limited], ..set("smart") });
        }
        refused(SetRoutePolicy { hedge: Some(Hedge { after_ms: Some(5) }), ..set("smart") });
        let twice = RouteFallback { on: FallbackTrigger::Error, targets: vec![target("c")] };
        refused(SetRoutePolicy { fallbacks: vec![twice.clone(), twice], ..set("smart") });
    }
}
