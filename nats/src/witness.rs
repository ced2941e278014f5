//! Who asked for what they may not, and who used an operator's right elsewhere: told to the log at once, and in bounded numbers
//! ([`crate::tally`]).

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

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

/// Who it was whom nobody knows.
pub const NOBODY: &str = "anonymous";
/// Characters of the digest that an address is told by.
const DIGEST: usize = 16;

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
    /// Where it came from, of whom nothing else is known. Only a digest of it is told, under a key of the installation's.
    pub address: Option<IpAddr>,
}

/// Tells the log what was seen. Cheap to clone; it ends, with everything told, when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Witness(Tally<AccessNote>, Arc<KeyRing>);

impl Witness {
    /// A witness that sends over a bus.
    #[must_use]
    pub fn open(bus: CommandBus, keys: Arc<KeyRing>) -> Self {
        Witness(Tally::open(bus, Arc::clone(&keys)), keys)
    }

    /// Takes note; does not wait.
    pub fn tell(&self, seen: Seen) {
        let (principal, note) = noted(&self.1, seen, OffsetDateTime::now_utc());
        self.0.note(principal, note);
    }
}

fn noted(keys: &KeyRing, seen: Seen, now: OffsetDateTime) -> (String, AccessNote) {
    // An OAuth client's id is a URL, which addresses nothing.
    let principal = if check_token(&seen.principal).is_ok() { seen.principal } else { "client".to_owned() };
    let at = now.format(&Rfc3339).unwrap_or_default();
    let short = |text: String| text.chars().take(NOTE_TEXT_MAX).collect::<String>();
    let kind = match seen.kind {
        AccessKind::Denied { code } => AccessKind::Denied { code: short(code) },
        AccessKind::CrossTenant { reason } => AccessKind::CrossTenant { reason: short(reason) },
    };
    let operation = match seen.address {
        Some(address) => format!("from {}: {}", digest(keys, address), seen.operation),
        None => seen.operation,
    };
    let note = AccessNote {
        kind,
        org_id: seen.org.filter(|org| check_token(org).is_ok()),
        operation: short(operation),
        count: 1,
        first_at: at.clone(),
        last_at: at,
    };
    (principal, note)
}

// Of version 6 the network: who has one has as many addresses as they like.
fn digest(keys: &KeyRing, address: IpAddr) -> String {
    let network = match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).to_string(),
    };
    keys.lookup_hash("address", &network).chars().take(DIGEST).collect()
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
        let keys = KeyRing::generate(OffsetDateTime::UNIX_EPOCH);
        let kind = AccessKind::Denied { code: "FORBIDDEN".to_owned() };
        let seen = Seen {
            principal: "https://client.test/x".to_owned(),
            org: Some("no token!".to_owned()),
            operation: "x".repeat(1000),
            kind,
            address: None,
        };
        let (principal, note) = noted(&keys, seen, OffsetDateTime::UNIX_EPOCH);
        assert_eq!((principal.as_str(), note.operation.len(), note.org_id.as_ref()), ("client", NOTE_TEXT_MAX, None));
        let rest = note.unspecific();
        assert!(rest.is_same(&AccessNote { operation: "y".to_owned(), ..note.clone() }.unspecific()));
        assert!(AccessNote::command(&principal, vec![note, rest]).is_some());
    }

    #[test]
    fn addresses_are_told_apart_and_not_told() {
        let keys = KeyRing::generate(OffsetDateTime::UNIX_EPOCH);
        let operation = |address: &str| {
            let kind = AccessKind::Denied { code: FLOOD.to_owned() };
            let (principal, operation) = (NOBODY.to_owned(), "x".repeat(1000));
            let seen = Seen { principal, org: None, operation, kind, address: Some(address.parse().unwrap()) };
            noted(&keys, seen, OffsetDateTime::UNIX_EPOCH).1.operation
        };
        let one = operation("192.0.2.7");
        assert!(!one.contains("192.0.2.7") && one.len() == NOTE_TEXT_MAX, "{one}");
        assert_eq!(one, operation("::ffff:192.0.2.7"), "the same written otherwise");
        assert_ne!(one, operation("192.0.2.8"));
        assert_eq!(operation("2001:db8::1"), operation("2001:db8::2:3"), "one network");
        assert_ne!(operation("2001:db8::1"), operation("2001:db8:0:1::1"));
    }
}
