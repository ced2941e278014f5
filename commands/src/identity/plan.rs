//! The plan aggregate: a unique name, features and limits (identity.md §15, 16.5).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Number;
use symbia_events::{
    AggregateRef, OrgId,
    identity::{PlanCreated, PlanEvent, PlanRetired, PlanUpdated},
};
use time::OffsetDateTime;

use super::rules::{digest, name, named, operators_only, outside_organizations, unused};
use crate::{Actor, Aggregate, Claim, Decision, Rejection, domain_commands};

/// Name of the plan that new organizations get.
pub const DEFAULT_PLAN: &str = "free";
const ENTRIES_MAX: usize = 500;

domain_commands! {
    /// What a plan can be asked to do, by operators.
    PlanCommand: Identity / "plan" {
        /// Makes it.
        CreatePlan = "symbia.cmd.identity.create-plan.v1" {
            plan_id: String,
            name: String,
            #[serde(default)]
            features: Vec<String>,
            #[serde(default)]
            limits: BTreeMap<String, Number>,
            #[serde(default)]
            price_cents: u32,
        }
        /// Changes what is given.
        UpdatePlan = "symbia.cmd.identity.update-plan.v1" {
            plan_id: String,
            #[serde(default)]
            name: Option<String>,
            #[serde(default)]
            features: Option<Vec<String>>,
            #[serde(default)]
            limits: Option<BTreeMap<String, Number>>,
            #[serde(default)]
            price_cents: Option<u32>,
        }
        /// Takes it off the list.
        RetirePlan = "symbia.cmd.identity.retire-plan.v1" { plan_id: String }
    }
}

/// A plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    plan_id: String,
    name: String,
    features: Vec<String>,
    limits: BTreeMap<String, Number>,
    price_cents: u32,
    retired: bool,
}

fn name_claim(name: &str, plan_id: &str) -> Claim {
    Claim {
        tenant: OrgId::global(),
        name: format!("plan-name:{}", digest(&[name])),
        holder: plan_id.to_owned(),
        taken: "PLAN_NAME_TAKEN",
    }
}

fn check(features: &[String], limits: &BTreeMap<String, Number>) -> Result<(), Rejection> {
    if features.len() > ENTRIES_MAX || limits.len() > ENTRIES_MAX {
        return Err(Rejection::invalid(format!("features and limits: at most {ENTRIES_MAX} each")));
    }
    features.iter().try_for_each(|feature| named("features", feature))?;
    limits.keys().try_for_each(|limit| named("limits", limit))
}

impl Plan {
    fn offered(&self) -> Result<(), Rejection> {
        if self.plan_id.is_empty() || self.retired { Err(Rejection::not_found("plan")) } else { Ok(()) }
    }

    // New organizations look for it by name.
    fn not_the_default(&self) -> Result<(), Rejection> {
        if self.name != DEFAULT_PLAN {
            return Ok(());
        }
        Err(Rejection::new("CONFLICT", "new organizations get this plan: it can be neither renamed nor retired"))
    }

    fn create(&self, c: CreatePlan, by: &Actor) -> Result<Decision<PlanEvent>, Rejection> {
        unused(&self.plan_id)?;
        name(&c.name)?;
        check(&c.features, &c.limits)?;
        let claim = name_claim(&c.name, &c.plan_id);
        let CreatePlan { plan_id, name, features, limits, price_cents } = c;
        let created = PlanCreated { plan_id, name, features, limits, price_cents, by: by.id.clone() };
        Ok(Decision::one(created).claiming(claim))
    }

    fn update(&self, c: UpdatePlan, by: &Actor) -> Result<Decision<PlanEvent>, Rejection> {
        self.offered()?;
        let next = Plan {
            name: c.name.unwrap_or_else(|| self.name.clone()),
            features: c.features.unwrap_or_else(|| self.features.clone()),
            limits: c.limits.unwrap_or_else(|| self.limits.clone()),
            price_cents: c.price_cents.unwrap_or(self.price_cents),
            ..self.clone()
        };
        if next == *self {
            return Ok(Decision::nothing());
        }
        name(&next.name)?;
        check(&next.features, &next.limits)?;
        let mut decision = Decision::nothing();
        if next.name != self.name {
            self.not_the_default()?;
            let (taken, released) = (name_claim(&next.name, &self.plan_id), name_claim(&self.name, &self.plan_id));
            decision = decision.claiming(taken).releasing(released);
        }
        let Plan { plan_id, name, features, limits, price_cents, .. } = next;
        Ok(decision.and(PlanUpdated { plan_id, name, features, limits, price_cents, by: by.id.clone() }))
    }

    fn retire(&self, by: &Actor) -> Result<Decision<PlanEvent>, Rejection> {
        self.offered()?;
        self.not_the_default()?;
        let retired = PlanRetired { plan_id: self.plan_id.clone(), by: by.id.clone() };
        Ok(Decision::one(retired).releasing(name_claim(&self.name, &self.plan_id)))
    }
}

impl Aggregate for Plan {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("planId");
    type Command = PlanCommand;
    type Event = PlanEvent;

    fn apply(&mut self, event: &PlanEvent) {
        match event.clone() {
            PlanEvent::PlanCreated(e) => {
                let PlanCreated { plan_id, name, features, limits, price_cents, .. } = e;
                *self = Plan { plan_id, name, features, limits, price_cents, retired: false };
            }
            PlanEvent::PlanUpdated(e) => {
                let PlanUpdated { plan_id, name, features, limits, price_cents, .. } = e;
                *self = Plan { plan_id, name, features, limits, price_cents, retired: self.retired };
            }
            PlanEvent::PlanRetired(_) => self.retired = true,
        }
    }

    fn belongs(_command: &PlanCommand, to: &AggregateRef) -> Result<(), Rejection> {
        outside_organizations(to)
    }

    fn decide(&self, command: PlanCommand, by: &Actor, _at: OffsetDateTime) -> Result<Decision<PlanEvent>, Rejection> {
        operators_only(by)?;
        match command {
            PlanCommand::CreatePlan(c) => self.create(c, by),
            PlanCommand::UpdatePlan(c) => self.update(c, by),
            PlanCommand::RetirePlan(_) => self.retire(by),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::given;

    fn created(name: &str) -> PlanCreated {
        PlanCreated {
            plan_id: "p1".into(),
            name: name.into(),
            features: vec!["a".into()],
            limits: BTreeMap::from([("members".into(), 5.into())]),
            price_cents: 0,
            by: "service:identity".into(),
        }
    }

    fn edge() -> Actor {
        Actor::service("identity")
    }

    fn rename(name: &str) -> UpdatePlan {
        UpdatePlan { plan_id: "p1".into(), name: Some(name.into()), features: None, limits: None, price_cents: None }
    }

    #[test]
    fn a_plan_is_made_by_operators_only_and_its_name_is_claimed() {
        let PlanCreated { plan_id, name, features, limits, price_cents, .. } = created("pro");
        let create = CreatePlan { plan_id, name, features, limits, price_cents };
        let expected = Decision::one(created("pro")).claiming(name_claim("pro", "p1"));
        given::<Plan>([]).when(create.clone(), &edge()).then_decision(expected);
        let person = Actor { kind: symbia_events::ActorType::User, ..edge() };
        given::<Plan>([]).when(create.clone(), &person).rejected("SUPERADMIN_REQUIRED");
        given::<Plan>([created("pro").into()]).when(create, &edge()).rejected("CONFLICT");
    }

    #[test]
    fn a_rename_moves_the_claim_and_no_change_is_no_event() {
        let PlanCreated { plan_id, features, limits, price_cents, by, .. } = created("pro");
        let updated = PlanUpdated { plan_id, name: "max".into(), features, limits, price_cents, by };
        let decision = Decision { events: vec![updated.into()], claims: vec![] };
        let decision = decision.claiming(name_claim("max", "p1")).releasing(name_claim("pro", "p1"));
        given::<Plan>([created("pro").into()]).when(rename("max"), &edge()).then_decision(decision);
        given::<Plan>([created("pro").into()]).when(rename("pro"), &edge()).then([]);
    }

    #[test]
    fn the_default_plan_stays_and_a_retired_one_is_gone() {
        let retire = RetirePlan { plan_id: "p1".into() };
        given::<Plan>([created("free").into()]).when(retire.clone(), &edge()).rejected("CONFLICT");
        given::<Plan>([created("free").into()]).when(rename("gratis"), &edge()).rejected("CONFLICT");
        let retired = PlanRetired { plan_id: "p1".into(), by: "service:identity".into() };
        given::<Plan>([created("pro").into(), retired.into()]).when(retire, &edge()).rejected("NOT_FOUND");
    }
}
