//! Who administers what an organization has at the gateway.

use super::ADMIN_CAPABILITY;
use crate::{Actor, Rejection, Role};

/// Admins of the organization of the address do, and the platform. `what` ends the sentence that others are told.
pub(super) fn administers(by: &Actor, org: &str, what: &str) -> Result<(), Rejection> {
    let admin = by.orgs.iter().any(|m| m.id.as_str() == org && m.role == Role::Admin);
    if admin || by.holds(ADMIN_CAPABILITY) || by.is_platform() {
        return Ok(());
    }
    Err(Rejection::new("INSUFFICIENT_ROLE", format!("only an admin of the organization {what}")))
}

/// Whether a text can be the name of a provider or a model.
pub(super) fn is_name(text: &str) -> bool {
    (1..=200).contains(&text.len()) && !text.chars().any(char::is_control)
}
