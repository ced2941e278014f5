//! What a principal was refused on a mesh: noted by the platform, never by the principal (network.md §13.3).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use symbia_events::network::{
    CallRefused, PermissionDenied, RateExceeded, SecurityEvent, SignatureRejected, SourceSpoofRejected, Verdict,
};
use time::OffsetDateTime;

use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

/// Most notes of one command.
pub const REFUSALS_MAX: usize = 32;
/// Most characters of a source, an operation or a code.
pub const REFUSAL_TEXT_MAX: usize = 200;

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// To be a node of somebody else's.
    Spoof,
    /// An event that is not as its publisher signed it.
    Signature,
    /// What a right was missing for.
    Permission,
    /// An event for a target.
    Call,
    /// More than may be sent.
    Rate,
}

impl RefusalKind {
    /// What the code of a refusal means for those who guard a mesh; none when it is a mistake like others.
    #[must_use]
    pub fn of_code(code: &str) -> Option<Self> {
        match code {
            "SOURCE_NOT_OWNED" | "NODE_OWNED" | "AGENT_ID_MISMATCH" | "SENDER_NOT_SOURCE" => Some(RefusalKind::Spoof),
            "SIGNATURE_INVALID" | "STALE_TIMESTAMP" | "EVENT_ID_CONFLICT" => Some(RefusalKind::Signature),
            "MISSING_CAPABILITY" | "FORBIDDEN" | "NOT_PARTICIPANT" => Some(RefusalKind::Permission),
            "CONVERSATION_NOT_FOUND" => Some(RefusalKind::Call),
            "RATE_LIMIT_EXCEEDED" => Some(RefusalKind::Rate),
            _ => None,
        }
    }

    /// The same for what routing decided, with its name.
    #[must_use]
    pub fn of_verdict(verdict: Verdict) -> Option<(Self, &'static str)> {
        match verdict {
            Verdict::Deliver | Verdict::Redirect | Verdict::Transform | Verdict::UnsupportedBridge => None,
            Verdict::Deny => Some((RefusalKind::Call, "deny")),
            Verdict::NoContract => Some((RefusalKind::Call, "no_contract")),
            Verdict::ExpiredContract => Some((RefusalKind::Call, "expired_contract")),
            Verdict::UnknownNode => Some((RefusalKind::Call, "unknown_node")),
            Verdict::RouteCycle => Some((RefusalKind::Call, "route_cycle")),
            Verdict::RateLimited => Some((RefusalKind::Rate, "rate_limited")),
        }
    }
}

/// The same refusal, as often as it happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusalNote {
    /// What.
    pub kind: RefusalKind,
    /// The node that the principal claimed to be.
    #[serde(default)]
    pub claimed_source: Option<String>,
    /// What it asked for.
    pub operation: String,
    /// Why it was refused.
    pub error_code: String,
    /// How often.
    pub count: u32,
    /// RFC 3339.
    pub first_at: String,
    /// RFC 3339.
    pub last_at: String,
}

domain_commands! {
    /// What the platform tells of refusals.
    RefusalsCommand: Network / "security" {
        /// Notes what was refused to a principal.
        NoteRefusals = "symbia.cmd.network.note-refusals.v1" { principal_id: String, notes: Vec<RefusalNote> }
    }
}

/// The notes about a principal. They decide nothing, so that none is kept in mind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Refusals {}

impl Aggregate for Refusals {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("principalId");
    type Command = RefusalsCommand;
    type Event = SecurityEvent;

    fn apply(&mut self, _: &SecurityEvent) {}

    fn decide(
        &self,
        command: RefusalsCommand,
        by: &Actor,
        _: OffsetDateTime,
    ) -> Result<Decision<SecurityEvent>, Rejection> {
        let RefusalsCommand::NoteRefusals(NoteRefusals { principal_id, notes }) = command;
        if !by.is_platform() {
            return Err(Rejection::forbidden("what was refused is noted by the platform"));
        }
        if notes.len() > REFUSALS_MAX {
            return Err(Rejection::invalid(format!("notes: at most {REFUSALS_MAX}")));
        }
        let long = |text: &String| text.chars().count() > REFUSAL_TEXT_MAX;
        let texts = |note: &RefusalNote| note.claimed_source.iter().any(long) || long(&note.operation);
        if notes.iter().any(|note| texts(note) || long(&note.error_code)) {
            let text = format!("claimedSource, operation, errorCode: at most {REFUSAL_TEXT_MAX} characters");
            return Err(Rejection::invalid(text));
        }
        let events = notes.into_iter().map(|note| event(principal_id.clone(), note));
        Ok(events.fold(Decision::nothing(), Decision::and))
    }
}

fn event(principal_id: String, note: RefusalNote) -> SecurityEvent {
    let RefusalNote { kind, claimed_source, operation, error_code, count, first_at, last_at } = note;
    macro_rules! of {
        ($event:ident) => {
            $event { principal_id, claimed_source, operation, error_code, count, first_at, last_at }.into()
        };
    }
    match kind {
        RefusalKind::Spoof => of!(SourceSpoofRejected),
        RefusalKind::Signature => of!(SignatureRejected),
        RefusalKind::Permission => of!(PermissionDenied),
        RefusalKind::Call => of!(CallRefused),
        RefusalKind::Rate => of!(RateExceeded),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::given;

    fn note(kind: RefusalKind) -> RefusalNote {
        let (first_at, last_at) = ("2026-01-01T00:00:00Z".to_owned(), "2026-01-01T00:00:30Z".to_owned());
        let (claimed_source, operation) = (Some("messaging".to_owned()), "event:send".to_owned());
        RefusalNote { kind, claimed_source, operation, error_code: "X".into(), count: 3, first_at, last_at }
    }

    fn noted(notes: Vec<RefusalNote>) -> NoteRefusals {
        NoteRefusals { principal_id: "eve".into(), notes }
    }

    #[test]
    fn notes_become_events_of_their_kind() {
        let spoofed = SourceSpoofRejected {
            principal_id: "eve".into(),
            claimed_source: Some("messaging".into()),
            operation: "event:send".into(),
            error_code: "X".into(),
            count: 3,
            first_at: "2026-01-01T00:00:00Z".into(),
            last_at: "2026-01-01T00:00:30Z".into(),
        };
        let platform = Actor::service("network");
        given::<Refusals>([]).when(noted(vec![note(RefusalKind::Spoof)]), &platform).then([spoofed.into()]);
        assert_eq!(RefusalKind::of_code("SOURCE_NOT_OWNED"), Some(RefusalKind::Spoof));
        assert_eq!(RefusalKind::of_code("VALIDATION_FAILED"), None);
        assert_eq!(RefusalKind::of_verdict(Verdict::RateLimited), Some((RefusalKind::Rate, "rate_limited")));
        assert_eq!(RefusalKind::of_verdict(Verdict::Redirect), None);
    }

    #[test]
    fn nobody_notes_about_others_and_no_command_is_without_bounds() {
        let one = || note(RefusalKind::Call);
        let person = Actor { kind: symbia_events::ActorType::User, ..Actor::service("x") };
        given::<Refusals>([]).when(noted(vec![one()]), &person).rejected("FORBIDDEN");
        let platform = Actor::service("network");
        given::<Refusals>([]).when(noted(vec![one(); REFUSALS_MAX + 1]), &platform).rejected("VALIDATION_FAILED");
        let long = RefusalNote { operation: "x".repeat(REFUSAL_TEXT_MAX + 1), ..one() };
        given::<Refusals>([]).when(noted(vec![long]), &platform).rejected("VALIDATION_FAILED");
    }
}
