//! What a principal was refused, and where it used an operator's right: noted by the platform, never by the principal.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use symbia_events::{
    AggregateRef, check_token,
    identity::{AccessDenied, AccessEvent, CrossTenantAccessed},
};
use time::OffsetDateTime;

use super::rules::outside_organizations;
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

/// Most notes of one command.
pub const NOTES_MAX: usize = 64;
/// Most characters of an operation, a code or a reason.
pub const NOTE_TEXT_MAX: usize = 200;

/// What is noted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum AccessKind {
    /// A right was missing.
    Denied {
        /// The code of the refusal.
        code: String,
    },
    /// An operator's right was used in another organization.
    CrossTenant {
        /// What the operator said why; empty when it said nothing.
        reason: String,
    },
}

/// The same thing, as often as it happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessNote {
    /// What.
    #[serde(flatten)]
    pub kind: AccessKind,
    /// The organization that it was about.
    #[serde(default)]
    pub org_id: Option<String>,
    /// Type of the command, or method and route of the request.
    pub operation: String,
    /// How often.
    pub count: u32,
    /// RFC 3339.
    pub first_at: String,
    /// RFC 3339.
    pub last_at: String,
}

domain_commands! {
    /// What the platform tells of a principal's rights.
    AccessCommand: Identity / "access" {
        /// Notes what was refused to it, and where it went as an operator.
        NoteAccess = "symbia.cmd.identity.note-access.v1" { principal_id: String, notes: Vec<AccessNote> }
    }
}

/// The notes about a principal. They decide nothing, so that none is kept in mind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AccessNotes {}

impl Aggregate for AccessNotes {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("principalId");
    type Command = AccessCommand;
    type Event = AccessEvent;

    fn apply(&mut self, _: &AccessEvent) {}

    fn belongs(_: &AccessCommand, to: &AggregateRef) -> Result<(), Rejection> {
        outside_organizations(to)
    }

    fn decide(
        &self,
        command: AccessCommand,
        by: &Actor,
        _: OffsetDateTime,
    ) -> Result<Decision<AccessEvent>, Rejection> {
        let AccessCommand::NoteAccess(NoteAccess { principal_id, notes }) = command;
        if !by.is_platform() {
            return Err(Rejection::forbidden("what was refused is noted by the platform"));
        }
        if notes.len() > NOTES_MAX {
            return Err(Rejection::invalid(format!("notes: at most {NOTES_MAX}")));
        }
        let mut decision = Decision::nothing();
        for note in notes {
            decision = decision.and(event(principal_id.clone(), note)?);
        }
        Ok(decision)
    }
}

fn event(principal_id: String, note: AccessNote) -> Result<AccessEvent, Rejection> {
    let AccessNote { kind, org_id, operation, count, first_at, last_at } = note;
    let (AccessKind::Denied { code: why } | AccessKind::CrossTenant { reason: why }) = &kind;
    if [&operation, why].into_iter().any(|text| text.chars().count() > NOTE_TEXT_MAX) {
        return Err(Rejection::invalid(format!("operation, code, reason: at most {NOTE_TEXT_MAX} characters")));
    }
    match kind {
        AccessKind::Denied { code } => {
            let org_id = org_id.filter(|org| check_token(org).is_ok());
            Ok(AccessDenied { principal_id, org_id, operation, code, count, first_at, last_at }.into())
        }
        AccessKind::CrossTenant { reason } => {
            let org_id = org_id.ok_or_else(|| Rejection::invalid("orgId: which organization was entered"))?;
            Ok(CrossTenantAccessed { principal_id, org_id, operation, reason, count, first_at, last_at }.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::given;

    fn note(kind: AccessKind, org: Option<&str>) -> AccessNote {
        let (first_at, last_at) = ("2026-01-01T00:00:00Z".to_owned(), "2026-01-01T00:00:30Z".to_owned());
        AccessNote { kind, org_id: org.map(str::to_owned), operation: "GET /x".into(), count: 3, first_at, last_at }
    }

    fn noted(notes: Vec<AccessNote>) -> NoteAccess {
        NoteAccess { principal_id: "eve".into(), notes }
    }

    #[test]
    fn notes_become_events_of_their_kind() {
        let (denied, entered) =
            (AccessKind::Denied { code: "FORBIDDEN".into() }, AccessKind::CrossTenant { reason: String::new() });
        let (first_at, last_at) = ("2026-01-01T00:00:00Z".to_owned(), "2026-01-01T00:00:30Z".to_owned());
        given::<AccessNotes>([])
            .when(noted(vec![note(denied, Some("no token!")), note(entered, Some("o1"))]), &Actor::service("identity"))
            .then([
                AccessDenied {
                    principal_id: "eve".into(),
                    org_id: None,
                    operation: "GET /x".into(),
                    code: "FORBIDDEN".into(),
                    count: 3,
                    first_at: first_at.clone(),
                    last_at: last_at.clone(),
                }
                .into(),
                CrossTenantAccessed {
                    principal_id: "eve".into(),
                    org_id: "o1".into(),
                    operation: "GET /x".into(),
                    reason: String::new(),
                    count: 3,
                    first_at,
                    last_at,
                }
                .into(),
            ]);
    }

    #[test]
    fn nobody_notes_about_others_and_no_command_is_without_bounds() {
        let denied = || note(AccessKind::Denied { code: "FORBIDDEN".into() }, None);
        let person = Actor { kind: symbia_events::ActorType::User, ..Actor::service("x") };
        given::<AccessNotes>([]).when(noted(vec![denied()]), &person).rejected("FORBIDDEN");
        let platform = Actor::service("identity");
        given::<AccessNotes>([]).when(noted(vec![denied(); NOTES_MAX + 1]), &platform).rejected("VALIDATION_FAILED");
        let long = AccessNote { operation: "x".repeat(NOTE_TEXT_MAX + 1), ..denied() };
        given::<AccessNotes>([]).when(noted(vec![long]), &platform).rejected("VALIDATION_FAILED");
    }
}
