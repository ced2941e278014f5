//! What a mesh refused, told to its log in bounded numbers ([`crate::tally`]).

use std::{fmt, sync::Arc};

use symbia_commands::network::{
    NoteRefusals, REFUSAL_TEXT_MAX, REFUSALS_MAX, RefusalKind, RefusalNote, RefusalsCommand,
};
use symbia_events::{AggregateRef, KeyRing, OrgId, Service, check_token};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    bus::CommandBus,
    tally::{Note, Tally},
};

/// The kinds of refusals, each of which may have a note for what is not told one by one.
const KINDS: usize = 5;

/// Something was refused.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'r> {
    /// The organization whose mesh it is.
    pub org: &'r OrgId,
    /// To whom.
    pub principal: &'r str,
    /// What.
    pub kind: RefusalKind,
    /// Why.
    pub code: &'r str,
    /// What it asked for.
    pub operation: &'r str,
    /// The node that it claimed to be.
    pub claimed_source: Option<&'r str>,
}

/// Whose refusals one command tells: of a principal on an organization's mesh.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Who {
    org: OrgId,
    principal: String,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.principal, self.org)
    }
}

/// Tells the log. Cheap to clone; it ends, with everything told, when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Refusals(Tally<RefusalNote>);

impl Refusals {
    /// Over a bus.
    #[must_use]
    pub fn open(bus: CommandBus, keys: Arc<KeyRing>) -> Self {
        Refusals(Tally::open(bus, keys))
    }

    /// Takes note; does not wait.
    pub fn tell(&self, refused: Refused<'_>) {
        let (who, note) = noted(refused, OffsetDateTime::now_utc());
        self.0.note(who, note);
    }
}

fn noted(refused: Refused<'_>, now: OffsetDateTime) -> (Who, RefusalNote) {
    // An OAuth client's id is a URL, which addresses nothing.
    let principal = if check_token(refused.principal).is_ok() { refused.principal } else { "client" };
    let at = now.format(&Rfc3339).unwrap_or_default();
    let short = |text: &str| text.chars().take(REFUSAL_TEXT_MAX).collect::<String>();
    let note = RefusalNote {
        kind: refused.kind,
        claimed_source: refused.claimed_source.map(short),
        operation: short(refused.operation),
        error_code: short(refused.code),
        count: 1,
        first_at: at.clone(),
        last_at: at,
    };
    (Who { org: refused.org.clone(), principal: principal.to_owned() }, note)
}

impl Note for RefusalNote {
    type About = Who;
    type Command = RefusalsCommand;
    const DIFFERENT: usize = REFUSALS_MAX - KINDS;
    const BY: &'static str = "network";

    fn is_same(&self, other: &Self) -> bool {
        (self.kind, &self.claimed_source, &self.operation, &self.error_code)
            == (other.kind, &other.claimed_source, &other.operation, &other.error_code)
    }

    fn again(&mut self, later: &Self) {
        self.count = self.count.saturating_add(later.count);
        self.last_at.clone_from(&later.last_at);
    }

    fn unspecific(&self) -> Self {
        let other = "*".to_owned();
        RefusalNote { claimed_source: None, operation: other.clone(), error_code: other, ..self.clone() }
    }

    fn command(about: &Who, notes: Vec<Self>) -> Option<(AggregateRef, RefusalsCommand)> {
        let Who { org, principal } = about;
        let address = AggregateRef::new(Service::Network, org.clone(), "security", principal.as_str()).ok()?;
        Some((address, NoteRefusals { principal_id: principal.clone(), notes }.into()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_happens_in_too_many_ways_is_still_told_by_its_kind_and_fits_a_command() {
        let org: OrgId = "o1".parse().unwrap();
        let refused = |kind, operation| {
            let (principal, claimed_source) = ("https://client.test/x", Some("messaging"));
            Refused { org: &org, principal, kind, code: "X", operation, claimed_source }
        };
        let now = OffsetDateTime::UNIX_EPOCH;
        let (who, spoof) = noted(refused(RefusalKind::Spoof, "a"), now);
        assert_eq!(who.principal, "client");
        let (_, other) = noted(refused(RefusalKind::Spoof, "b"), now);
        assert!(!spoof.is_same(&other) && spoof.unspecific().is_same(&other.unspecific()));
        let (_, rate) = noted(refused(RefusalKind::Rate, "a"), now);
        assert!(!spoof.unspecific().is_same(&rate.unspecific()));
        let (_, long) = noted(refused(RefusalKind::Spoof, &"x".repeat(1000)), now);
        assert_eq!(long.operation.len(), REFUSAL_TEXT_MAX);
        let (address, _) = RefusalNote::command(&who, vec![spoof]).unwrap();
        assert_eq!(address.tenant, org);
    }
}
