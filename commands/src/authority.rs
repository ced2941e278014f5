//! What somebody who acts with limits may do, whatever the aggregate: an agent in a person's name, an app with scopes. It is
//! checked before the aggregate looks, so that no aggregate can forget it.

use serde::{Deserialize, Serialize};
use symbia_events::{ActorType, AggregateRef, Service};

use crate::{Actor, Rejection};

/// How much a command weighs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Makes or changes.
    #[default]
    Ordinary,
    /// Takes away, or changes what others may do.
    Grave,
}

impl Level {
    /// A level by its name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "ordinary" => Some(Level::Ordinary),
            "grave" => Some(Level::Grave),
            _ => None,
        }
    }
}

/// The limits of an actor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// The delegation that it acts on; empty for an app.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub delegation: String,
    /// A ceiling: capabilities and roles.
    pub scopes: Vec<String>,
    /// The agents that it acts for in turn, the nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
    /// What weighs more needs an approval.
    #[serde(default)]
    pub limit: Level,
    /// The one thing that was approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved: Option<Approved>,
}

/// One thing that a person approved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approved {
    /// The approval.
    pub id: String,
    /// The command, e.g. `identity.delete-organization`.
    pub action: String,
    /// The aggregate, e.g. `organization/<id>`.
    pub target: String,
}

/// What a command is called in approvals: its type without frame and version.
#[must_use]
pub fn action(command_type: &str) -> &str {
    let name = command_type.strip_prefix("symbia.cmd.").unwrap_or(command_type);
    name.rsplit_once(".v").map_or(name, |(name, _)| name)
}

/// What a command weighs, by its verb.
#[must_use]
pub fn level(command_type: &str) -> Level {
    const GRAVE: [&str; 10] = [
        "delete",
        "remove",
        "revoke",
        "retire",
        "rotate",
        "change-member-role",
        "assign",
        "deactivate",
        "grant",
        "expel",
    ];
    let verb = action(command_type).split_once('.').map_or("", |(_, verb)| verb);
    if GRAVE.iter().any(|grave| verb.starts_with(grave)) { Level::Grave } else { Level::Ordinary }
}

/// Kinds of identity's aggregates by the capabilities that reach them; those that are missing are reached in person only.
const OF_ORGANIZATIONS: [&str; 6] =
    ["organization", "project", "application", "project-service", "scoped-entitlement", "invitation"];
const OF_PRINCIPALS: [&str; 2] = ["agent", "entity"];

fn reaches(scope: &str, aggregate: &AggregateRef) -> bool {
    let Some((domain, right)) = scope.strip_prefix("cap:").and_then(|capability| capability.split_once('.')) else {
        return false;
    };
    if domain == "global" {
        return right == "admin" && aggregate.service != Service::Identity;
    }
    if domain != aggregate.service.name() {
        return false;
    }
    if aggregate.service != Service::Identity {
        return !matches!(right, "read" | "receive" | "observe" | "global-read");
    }
    match right {
        "admin" => {
            OF_ORGANIZATIONS.contains(&aggregate.kind.as_str()) || OF_PRINCIPALS.contains(&aggregate.kind.as_str())
        }
        "manage-orgs" => OF_ORGANIZATIONS.contains(&aggregate.kind.as_str()),
        "manage-users" => OF_PRINCIPALS.contains(&aggregate.kind.as_str()),
        _ => false,
    }
}

impl Authority {
    /// Whether a command stays within the limits.
    ///
    /// # Errors
    /// INSUFFICIENT_SCOPE, or APPROVAL_REQUIRED for what weighs more than the limit.
    pub fn check(&self, aggregate: &AggregateRef, command_type: &str) -> Result<(), Rejection> {
        // Asking is always allowed; whether the answer is needed, the answer tells.
        if action(command_type) == "identity.request-approval" {
            return Ok(());
        }
        if !self.scopes.iter().any(|scope| reaches(scope, aggregate)) {
            let message = format!("none of the scopes reaches {} of {}", aggregate.kind, aggregate.service);
            return Err(Rejection::new("INSUFFICIENT_SCOPE", message));
        }
        let approved = self.approved.as_ref();
        let approved = approved.is_some_and(|a| a.action == action(command_type) && a.target == aggregate.path());
        if level(command_type) > self.limit && !approved {
            let message = format!("{} on {} needs the approval of the person", action(command_type), aggregate.path());
            return Err(Rejection::new("APPROVAL_REQUIRED", message));
        }
        Ok(())
    }
}

impl Actor {
    /// Whose rights count: the person's in whose name an agent acts, else its own.
    #[must_use]
    pub fn subject(&self) -> &str {
        match &self.on_behalf_of {
            Some(subject) if !self.is_platform() => subject,
            _ => &self.id,
        }
    }

    /// What [`Self::subject`] is: agents act in the names of people.
    #[must_use]
    pub fn subject_kind(&self) -> ActorType {
        let other = self.on_behalf_of.is_some() && !self.is_platform();
        if other { ActorType::User } else { self.kind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use symbia_events::OrgId;

    fn at(service: Service, kind: &str) -> AggregateRef {
        AggregateRef::new(service, OrgId::global(), kind, "x1").unwrap()
    }

    fn with(scopes: &[&str]) -> Authority {
        Authority { scopes: scopes.iter().map(|s| (*s).to_owned()).collect(), ..Authority::default() }
    }

    fn code(result: Result<(), Rejection>) -> String {
        result.map_or_else(|r| r.code.into_owned(), |()| "passes".to_owned())
    }

    #[test]
    fn a_scope_reaches_its_own_service_and_reading_is_not_writing() {
        let send = "symbia.cmd.messaging.send-message.v1";
        let rename = "symbia.cmd.identity.rename-organization.v1";
        let (conversation, organization) =
            (at(Service::Messaging, "conversation"), at(Service::Identity, "organization"));
        for (scopes, aggregate, command, expected) in [
            (vec!["cap:messaging.send"], &conversation, send, "passes"),
            (vec!["cap:messaging.read"], &conversation, send, "INSUFFICIENT_SCOPE"),
            (vec!["cap:identity.admin"], &conversation, send, "INSUFFICIENT_SCOPE"),
            (vec!["role:admin"], &conversation, send, "INSUFFICIENT_SCOPE"),
            (vec!["cap:identity.manage-orgs"], &organization, rename, "passes"),
            (vec!["cap:identity.read"], &organization, rename, "INSUFFICIENT_SCOPE"),
            (vec!["cap:global.admin"], &organization, rename, "INSUFFICIENT_SCOPE"),
        ] {
            assert_eq!(code(with(&scopes).check(aggregate, command)), expected, "{scopes:?} {command}");
        }
    }

    #[test]
    fn accounts_delegations_and_keys_are_reached_in_person_only() {
        for kind in ["user", "session", "delegation", "approval", "api-key", "credential", "signing-key", "grants"] {
            let admin = with(&["cap:identity.admin", "cap:global.admin"]);
            let checked = admin.check(&at(Service::Identity, kind), "symbia.cmd.identity.approve-request.v1");
            assert_eq!(code(checked), "INSUFFICIENT_SCOPE", "{kind}");
        }
    }

    #[test]
    fn what_weighs_more_than_the_limit_needs_its_own_approval() {
        let delete = "symbia.cmd.identity.delete-organization.v1";
        let organization = at(Service::Identity, "organization");
        let mut authority = with(&["cap:identity.manage-orgs"]);
        assert_eq!(code(authority.check(&organization, delete)), "APPROVAL_REQUIRED");
        let approved = |action: &str, target: &str| {
            Some(Approved { id: "a1".into(), action: action.into(), target: target.into() })
        };
        for (approval, expected) in [
            (approved("identity.delete-organization", "organization/x1"), "passes"),
            (approved("identity.delete-organization", "organization/x2"), "APPROVAL_REQUIRED"),
            (approved("identity.remove-member", "organization/x1"), "APPROVAL_REQUIRED"),
        ] {
            authority.approved = approval;
            assert_eq!(code(authority.check(&organization, delete)), expected);
        }
        authority = Authority { limit: Level::Grave, approved: None, ..authority };
        assert_eq!(code(authority.check(&organization, delete)), "passes");
    }
}
