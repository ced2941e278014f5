//! Who asked for what they may not, and who used an operator's right elsewhere: told to the log at once, and in bounded numbers
//! ([`crate::tally`]).

use std::sync::Arc;

use symbia_commands::identity::{AccessCommand, AccessKind, AccessNote, NOTE_TEXT_MAX, NOTES_MAX, NoteAccess};
use symbia_events::{AggregateRef, KeyRing, OrgId, Service, check_token};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    bus::CommandBus,
    tally::{Note, Tally},
};

/// Stands for the operations that are not told one by one.
const OTHERS: &str = "*";

/// The codes of refusals that mean a missing right, and not a missing thing or a wrong value.
pub const DENIALS: [&str; 14] = [
    "FORBIDDEN",
    "ORG_ACCESS_DENIED",
    "INSUFFICIENT_ROLE",
    "INSUFFICIENT_SCOPE",
    "MISSING_CAPABILITY",
    "SUPERADMIN_REQUIRED",
    "USER_PRINCIPAL_REQUIRED",
    "AGENT_PRINCIPAL_REQUIRED",
    "WRONG_TENANT",
    "NODE_OWNED",
    "AGENT_ID_MISMATCH",
    "SOURCE_NOT_OWNED",
    "SIGNATURE_INVALID",
    "FORGED_SENDER",
];
/// The code of a refusal because too much was asked for.
pub const FLOOD: &str = "RATE_LIMIT_EXCEEDED";

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who.
    pub principal: String,
    /// The organization that it was about.
    pub org: Option<String>,
    /// Type of the command, or method and route of the request.
    pub operation: String,
    /// What.
    pub kind: AccessKind,
}

/// Tells the log what was seen. Cheap to clone; it ends, with everything told, when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Witness(Tally<AccessNote>);

impl Witness {
    /// A witness that sends over a bus.
    #[must_use]
    pub fn open(bus: CommandBus, keys: Arc<KeyRing>) -> Self {
        Witness(Tally::open(bus, keys))
    }

    /// Takes note; does not wait.
    pub fn tell(&self, seen: Seen) {
        let (principal, note) = noted(seen, OffsetDateTime::now_utc());
        self.0.note(principal, note);
    }
}

fn noted(seen: Seen, now: OffsetDateTime) -> (String, AccessNote) {
    // An OAuth client's id is a URL, which addresses nothing.
    let principal = if check_token(&seen.principal).is_ok() { seen.principal } else { "client".to_owned() };
    let at = now.format(&Rfc3339).unwrap_or_default();
    let short = |text: String| text.chars().take(NOTE_TEXT_MAX).collect::<String>();
    let kind = match seen.kind {
        AccessKind::Denied { code } => AccessKind::Denied { code: short(code) },
        AccessKind::CrossTenant { reason } => AccessKind::CrossTenant { reason: short(reason) },
    };
    let note = AccessNote {
        kind,
        org_id: seen.org.filter(|org| check_token(org).is_ok()),
        operation: short(seen.operation),
        count: 1,
        first_at: at.clone(),
        last_at: at,
    };
    (principal, note)
}

impl Note for AccessNote {
    type About = String;
    type Command = AccessCommand;
    const DIFFERENT: usize = NOTES_MAX - 1;
    const BY: &'static str = "identity";

    fn is_same(&self, other: &Self) -> bool {
        (&self.kind, &self.org_id, &self.operation) == (&other.kind, &other.org_id, &other.operation)
    }

    fn again(&mut self, later: &Self) {
        self.count = self.count.saturating_add(later.count);
        self.last_at.clone_from(&later.last_at);
    }

    fn unspecific(&self) -> Self {
        let code = "FORBIDDEN".to_owned();
        AccessNote { kind: AccessKind::Denied { code }, org_id: None, operation: OTHERS.to_owned(), ..self.clone() }
    }

    fn command(principal: &String, notes: Vec<Self>) -> Option<(AggregateRef, AccessCommand)> {
        let address = AggregateRef::new(Service::Identity, OrgId::global(), "access", principal.as_str()).ok()?;
        Some((address, NoteAccess { principal_id: principal.clone(), notes }.into()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_and_what_is_no_address_has_a_common_one() {
        let kind = AccessKind::Denied { code: "FORBIDDEN".to_owned() };
        let seen = Seen {
            principal: "https://client.test/x".to_owned(),
            org: Some("no token!".to_owned()),
            operation: "x".repeat(1000),
            kind,
        };
        let (principal, note) = noted(seen, OffsetDateTime::UNIX_EPOCH);
        assert_eq!((principal.as_str(), note.operation.len(), note.org_id.as_ref()), ("client", NOTE_TEXT_MAX, None));
        let rest = note.unspecific();
        assert!(rest.is_same(&AccessNote { operation: "y".to_owned(), ..note.clone() }.unspecific()));
        assert!(AccessNote::command(&principal, vec![note, rest]).is_some());
    }
}
