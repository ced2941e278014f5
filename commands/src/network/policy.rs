//! The policy aggregate: a routing policy in versions (network.md §3.4, 8.7).

use serde::{Deserialize, Serialize};
use symbia_events::{
    check_token,
    network::{
        Action, Condition, Field, LogLevel, Operator, PolicyCreated, PolicyDefinition, PolicyDeleted, PolicyDisabled,
        PolicyEnabled, PolicyEvent, PolicyMode, PolicyUpdated,
    },
};
use time::OffsetDateTime;

use super::{
    engine::{self, PolicyRecord, REGEX_MAX},
    rights::{POLICIES_WRITE, name, require},
    transform::check_mapping,
};
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

/// Most conditions of a policy.
const MOST: usize = 20;
/// Longest value of a condition.
const LONGEST: usize = 256;
/// Priorities are at most this far from 0.
const PRIORITY_MAX: i64 = 1_000_000;

domain_commands! {
    /// What a policy can be asked to do.
    PolicyCommand: Network / "policy" {
        /// Makes one.
        CreatePolicy = "symbia.cmd.network.create-policy.v1" {
            policy_id: String,
            org_id: String,
            policy: PolicyDefinition,
        }
        /// Changes one; also one that every organization starts with.
        UpdatePolicy = "symbia.cmd.network.update-policy.v1" {
            policy_id: String,
            org_id: String,
            policy: PolicyDefinition,
            /// The version that the change was made to.
            #[serde(default)]
            expected_version: Option<u32>,
        }
        /// Removes one; also one that every organization starts with.
        DeletePolicy = "symbia.cmd.network.delete-policy.v1" { policy_id: String, org_id: String }
    }
}

/// The policies that every organization starts with, by id: they let pass what stays inside, and record what does not.
#[must_use]
pub fn default_policies() -> [(&'static str, PolicyDefinition); 3] {
    let policy = |name: &str, priority, boundary: &str, action| PolicyDefinition {
        name: name.to_owned(),
        priority,
        conditions: vec![Condition { field: Field::Boundary, operator: Operator::Eq, value: boundary.to_owned() }],
        action,
        enabled: true,
        mode: PolicyMode::Enforce,
    };
    [
        ("policy_default_allow_intra", policy("allow-intra", 0, "intra", Action::Allow)),
        ("policy_default_log_inter", policy("log-inter", 90, "inter", Action::Log { level: LogLevel::Info })),
        ("policy_default_log_extra", policy("log-extra", 90, "extra", Action::Log { level: LogLevel::Warn })),
    ]
}

/// The policies that count: those that every organization starts with, unless they were changed or removed, and its own.
/// `changed`: those that the organization made, changed or removed, with their versions and places.
#[must_use]
pub fn standing_policies(
    changed: impl IntoIterator<Item = (String, u32, i64, Option<PolicyDefinition>)>,
) -> Vec<PolicyRecord> {
    let changed: Vec<_> = changed.into_iter().collect();
    let untouched = default_policies().into_iter().filter(|(id, _)| !changed.iter().any(|(other, ..)| other == id));
    let untouched = untouched.map(|(id, policy)| (id.to_owned(), DEFAULT_VERSION, 0, Some(policy)));
    let mut standing: Vec<_> = untouched.collect();
    standing.extend(changed);
    let record = |(id, version, order, definition): (_, _, _, Option<_>)| {
        Some(PolicyRecord { id, version, order, definition: definition? })
    };
    standing.into_iter().filter_map(record).collect()
}

/// Version of what every organization starts with.
const DEFAULT_VERSION: u32 = 1;

/// Refuses a policy that could not be asked.
///
/// # Errors
/// The field, and what it must be.
pub fn check_policy(policy: &PolicyDefinition) -> Result<(), Rejection> {
    name(&policy.name)?;
    if policy.priority.abs() > PRIORITY_MAX {
        return Err(Rejection::invalid("priority: at most 1000000 from 0"));
    }
    if policy.conditions.len() > MOST || policy.conditions.iter().any(|condition| condition.value.len() > LONGEST) {
        return Err(Rejection::invalid("conditions: at most 20, with values of at most 256 bytes"));
    }
    let unusable = |c: &Condition| c.operator == Operator::Regex && engine::regex(&c.value).is_none();
    if policy.conditions.iter().any(unusable) {
        let rule = format!("conditions: a regular expression of at most {REGEX_MAX} bytes, without look-around");
        return Err(Rejection::invalid(rule));
    }
    match &policy.action {
        Action::Deny { reason: Some(reason) } if reason.len() > LONGEST => {
            Err(Rejection::invalid("action.reason: at most 256 bytes"))
        }
        Action::Route { to } if check_token(to).is_err() => Err(Rejection::invalid("action.to: the id of a node")),
        Action::Transform { mapping } => check_mapping(mapping),
        _ => Ok(()),
    }
}

/// A policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The newest version; none when nobody changed it.
    version: u32,
    definition: Option<PolicyDefinition>,
}

impl Policy {
    fn standing(&self, id: &str) -> Option<(u32, PolicyDefinition)> {
        if self.version > 0 {
            return self.definition.clone().map(|definition| (self.version, definition));
        }
        let [a, b, c] = default_policies();
        [a, b, c].into_iter().find(|(default, _)| *default == id).map(|(_, policy)| (DEFAULT_VERSION, policy))
    }

    fn create(&self, c: CreatePolicy, by: &Actor) -> Result<Decision<PolicyEvent>, Rejection> {
        require(by, &c.org_id, POLICIES_WRITE)?;
        check_policy(&c.policy)?;
        if self.version > 0 || self.standing(&c.policy_id).is_some() {
            return Err(Rejection::new("CONFLICT", "this policy id is in use"));
        }
        let CreatePolicy { policy_id, org_id, policy } = c;
        Ok(Decision::one(PolicyCreated { policy_id, org_id, version: 1, policy, by: by.id.clone() }))
    }

    fn update(&self, c: UpdatePolicy, by: &Actor) -> Result<Decision<PolicyEvent>, Rejection> {
        let (version, before) = self.standing(&c.policy_id).ok_or_else(|| Rejection::not_found("policy"))?;
        require(by, &c.org_id, POLICIES_WRITE)?;
        check_policy(&c.policy)?;
        if c.expected_version.is_some_and(|expected| expected != version) {
            let message = format!("the policy is at version {version} now; read it and change that");
            return Err(Rejection::new("VERSION_CONFLICT", message));
        }
        if c.policy == before {
            return Ok(Decision::nothing());
        }
        let UpdatePolicy { policy_id, org_id, policy, .. } = c;
        let (version, by) = (version + 1, by.id.clone());
        let only_enabled = PolicyDefinition { enabled: before.enabled, ..policy.clone() } == before;
        Ok(match (self.version, only_enabled, policy.enabled) {
            // What replaces a default says whose it is.
            (0, ..) => Decision::one(PolicyCreated { policy_id, org_id, version, policy, by }),
            (_, true, true) => Decision::one(PolicyEnabled { policy_id, version, policy, by }),
            (_, true, false) => Decision::one(PolicyDisabled { policy_id, version, policy, by }),
            (_, false, _) => Decision::one(PolicyUpdated { policy_id, version, policy, by }),
        })
    }
}

impl Aggregate for Policy {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("policyId");
    type Command = PolicyCommand;
    type Event = PolicyEvent;

    fn apply(&mut self, event: &PolicyEvent) {
        let (version, definition) = match event {
            PolicyEvent::PolicyCreated(e) => (e.version, Some(&e.policy)),
            PolicyEvent::PolicyUpdated(e) => (e.version, Some(&e.policy)),
            PolicyEvent::PolicyEnabled(e) => (e.version, Some(&e.policy)),
            PolicyEvent::PolicyDisabled(e) => (e.version, Some(&e.policy)),
            PolicyEvent::PolicyDeleted(e) => (e.version, None),
        };
        *self = Policy { version, definition: definition.cloned() };
    }

    fn decide(
        &self,
        command: PolicyCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<PolicyEvent>, Rejection> {
        match command {
            PolicyCommand::CreatePolicy(c) => self.create(c, by),
            PolicyCommand::UpdatePolicy(c) => self.update(c, by),
            PolicyCommand::DeletePolicy(c) => {
                let (version, _) = self.standing(&c.policy_id).ok_or_else(|| Rejection::not_found("policy"))?;
                require(by, &c.org_id, POLICIES_WRITE)?;
                let (policy_id, version, by) = (c.policy_id, version + 1, by.id.clone());
                Ok(Decision::one(PolicyDeleted { policy_id, version, by }))
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

    fn definition() -> PolicyDefinition {
        PolicyDefinition {
            name: "no secrets".into(),
            priority: 10,
            conditions: vec![],
            action: Action::Deny { reason: None },
            enabled: true,
            mode: PolicyMode::Enforce,
        }
    }

    fn create(policy: PolicyDefinition) -> CreatePolicy {
        CreatePolicy { policy_id: "p1".into(), org_id: "o1".into(), policy }
    }

    fn update(id: &str, policy: PolicyDefinition, expected_version: Option<u32>) -> UpdatePolicy {
        UpdatePolicy { policy_id: id.into(), org_id: "o1".into(), policy, expected_version }
    }

    fn created() -> PolicyEvent {
        let (policy_id, org_id, by) = ("p1".into(), "o1".into(), "ada".into());
        PolicyCreated { policy_id, org_id, version: 1, policy: definition(), by }.into()
    }

    #[test]
    fn each_change_is_a_version_and_one_made_to_an_older_one_is_refused() {
        given::<Policy>([]).when(create(definition()), &ada()).then([created()]);
        given::<Policy>([created()]).when(create(definition()), &ada()).rejected("CONFLICT");
        let observed = PolicyDefinition { mode: PolicyMode::Observe, ..definition() };
        let updated = PolicyUpdated { policy_id: "p1".into(), version: 2, policy: observed.clone(), by: "ada".into() };
        given::<Policy>([created()])
            .when(update("p1", observed.clone(), Some(1)), &ada())
            .then([updated.clone().into()]);
        let now = || [created(), updated.clone().into()];
        given::<Policy>(now()).when(update("p1", definition(), Some(1)), &ada()).rejected("VERSION_CONFLICT");
        given::<Policy>(now()).when(update("p1", observed.clone(), None), &ada()).then([]);
        let off = PolicyDefinition { enabled: false, ..observed };
        let disabled = PolicyDisabled { policy_id: "p1".into(), version: 3, policy: off.clone(), by: "ada".into() };
        given::<Policy>(now()).when(update("p1", off, None), &ada()).then([disabled.into()]);
        given::<Policy>([]).when(update("p1", definition(), None), &ada()).rejected("NOT_FOUND");
        let stranger = Actor { orgs: vec![], ..ada() };
        given::<Policy>([created()]).when(update("p1", definition(), None), &stranger).rejected("MISSING_CAPABILITY");
    }

    #[test]
    fn what_every_organization_starts_with_can_be_changed_and_removed() {
        let [(id, allow), ..] = default_policies();
        let off = PolicyDefinition { enabled: false, ..allow.clone() };
        let by = || "ada".to_owned();
        let replaced =
            PolicyCreated { policy_id: id.into(), org_id: "o1".into(), version: 2, policy: off.clone(), by: by() };
        given::<Policy>([]).when(update(id, off, Some(1)), &ada()).then([replaced.into()]);
        let delete = DeletePolicy { policy_id: id.into(), org_id: "o1".into() };
        let deleted = PolicyDeleted { policy_id: id.into(), version: 2, by: by() };
        given::<Policy>([]).when(delete.clone(), &ada()).then([deleted.clone().into()]);
        given::<Policy>([deleted.into()]).when(delete, &ada()).rejected("NOT_FOUND");
        let again = CreatePolicy { policy_id: id.into(), ..create(allow) };
        given::<Policy>([]).when(again, &ada()).rejected("CONFLICT");
    }

    #[test]
    fn a_policy_that_could_not_be_asked_is_refused() {
        let when = |operator, value: &str| PolicyDefinition {
            conditions: vec![Condition { field: Field::RunId, operator, value: value.into() }],
            ..definition()
        };
        for bad in [
            PolicyDefinition { name: String::new(), ..definition() },
            PolicyDefinition { priority: PRIORITY_MAX + 1, ..definition() },
            when(Operator::Regex, "("),
            when(Operator::Regex, "(?=x)"),
            when(Operator::Regex, &"a".repeat(REGEX_MAX + 1)),
            when(Operator::Eq, &"a".repeat(LONGEST + 1)),
            PolicyDefinition { action: Action::Route { to: "a b".into() }, ..definition() },
            PolicyDefinition { action: Action::Transform { mapping: [].into() }, ..definition() },
        ] {
            given::<Policy>([]).when(create(bad), &ada()).rejected("VALIDATION_FAILED");
        }
    }
}
