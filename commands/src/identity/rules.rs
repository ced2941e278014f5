//! What the aggregates of an organization have in common: who may change what, and how texts, times and addresses look.

use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};
use symbia_events::{AggregateRef, OrgId};
use time::OffsetDateTime;

use super::instants;
use crate::{Actor, Claim, Rejection, Role};

/// Longest name.
pub(super) const NAME_MAX: usize = 200;
/// Longest free text and address.
const TEXT_MAX: usize = 2_000;
/// Largest count: beyond it JSON numbers are not exact everywhere.
pub(super) const COUNT_MAX: u64 = (1 << 53) - 1;

fn role_in(org: &str, by: &Actor) -> Option<Role> {
    by.orgs.iter().find(|membership| membership.id.as_str() == org).map(|membership| membership.role)
}

fn at_least(role: Role, org: &str, by: &Actor, refused: &str) -> Result<(), Rejection> {
    if by.is_platform() || by.super_admin || role_in(org, by).is_some_and(|own| own >= role) {
        return Ok(());
    }
    Err(Rejection::new("INSUFFICIENT_ROLE", refused))
}

/// Members and admins of an organization, and operators.
pub(super) fn may_write(org: &str, by: &Actor) -> Result<(), Rejection> {
    at_least(Role::Member, org, by, "viewers of the organization cannot do this")
}

/// Admins of an organization, and operators.
pub(super) fn may_administer(org: &str, by: &Actor) -> Result<(), Rejection> {
    at_least(Role::Admin, org, by, "only an admin of the organization may do this")
}

/// Operators of the platform.
pub(super) fn operators_only(by: &Actor) -> Result<(), Rejection> {
    if by.is_platform() || by.super_admin {
        return Ok(());
    }
    Err(Rejection::new("SUPERADMIN_REQUIRED", "only a super admin may do this"))
}

/// What belongs to an organization has its address there.
pub(super) fn in_an_organization(to: &AggregateRef) -> Result<(), Rejection> {
    if to.tenant.as_str() == OrgId::GLOBAL { Err(Rejection::misaddressed(to)) } else { Ok(()) }
}

/// What belongs to no organization has its address outside of them.
pub(super) fn outside_organizations(to: &AggregateRef) -> Result<(), Rejection> {
    if to.tenant.as_str() == OrgId::GLOBAL { Ok(()) } else { Err(Rejection::misaddressed(to)) }
}

/// An aggregate that is not there yet.
pub(super) fn unused(id: &str) -> Result<(), Rejection> {
    if id.is_empty() { Ok(()) } else { Err(Rejection::new("CONFLICT", "this id is in use")) }
}

pub(super) fn name(text: &str) -> Result<(), Rejection> {
    named("name", text)
}

/// A text of 1 to [`NAME_MAX`] characters that is not blank.
pub(super) fn named(field: &str, text: &str) -> Result<(), Rejection> {
    if text.trim().is_empty() || text.chars().count() > NAME_MAX {
        return Err(Rejection::invalid(format!("{field}: 1 to {NAME_MAX} characters")));
    }
    Ok(())
}

/// An optional text of at most [`TEXT_MAX`] characters.
pub(super) fn free_text(field: &str, text: Option<&str>) -> Result<(), Rejection> {
    if text.is_some_and(|text| text.chars().count() > TEXT_MAX) {
        return Err(Rejection::invalid(format!("{field}: at most {TEXT_MAX} characters")));
    }
    Ok(())
}

pub(super) fn one_of(field: &str, text: &str, values: &[&str]) -> Result<(), Rejection> {
    if values.contains(&text) {
        return Ok(());
    }
    Err(Rejection::invalid(format!("{field}: one of {}", values.join(", "))))
}

/// Whether a text is an address `scheme://host…` without user and password, which would be secrets.
#[must_use]
pub fn is_address(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let scheme_fits = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    scheme_fits
        && !authority.is_empty()
        && !authority.contains('@')
        && text.len() <= TEXT_MAX
        && !text.chars().any(|c| c.is_whitespace() || c.is_control())
}

pub(super) fn address(field: &str, text: Option<&str>) -> Result<(), Rejection> {
    if text.is_none_or(is_address) {
        return Ok(());
    }
    Err(Rejection::invalid(format!("{field}: a URL without user and password")))
}

/// An instant in RFC 3339.
pub(super) fn instant(field: &str, text: &str) -> Result<OffsetDateTime, Rejection> {
    instants::instant(text).ok_or_else(|| Rejection::invalid(format!("{field}: an instant in RFC 3339")))
}

/// Whether something that ends at `end` has ended.
pub(super) fn over(end: Option<&str>, at: OffsetDateTime) -> bool {
    end.and_then(instants::instant).is_some_and(|end| end <= at)
}

/// A text of any length and alphabet as part of a claim's name.
pub(super) fn digest(parts: &[&str]) -> String {
    let hash = parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part).chain_update([0]));
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// A name that is unique within an organization.
pub(super) fn claim_in(org: &str, name: String, holder: &str, taken: &'static str) -> Result<Claim, Rejection> {
    let tenant: OrgId = org.parse().map_err(|_| Rejection::not_found("organization"))?;
    Ok(Claim { tenant, name, holder: holder.to_owned(), taken })
}

/// A member that is there, be it null: `Some(None)` clears, `None` leaves.
///
/// # Errors
/// Those of the value itself.
pub fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_scheme_a_host_and_no_password() {
        for good in ["https://api.example.test/v1?x=1", "postgres://db:5432/app", "redis://cache"] {
            assert!(is_address(good), "{good}");
        }
        for bad in ["", "example.test", "https://", "https://u:p@example.test", "https://a b", "://x", "1a://x"] {
            assert!(!is_address(bad), "{bad}");
        }
        assert!(is_address("https://example.test/@handle"));
    }

    #[test]
    fn a_digest_tells_where_its_parts_end() {
        assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
        assert_eq!(digest(&["a"]).len(), 32);
    }
}
