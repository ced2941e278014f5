//! The identity service end to end: real broker, real database, a command worker and a projector, REST on a port.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

#[path = "identity/access.rs"]
mod access;
#[path = "identity/administration.rs"]
mod administration;
#[path = "identity/agents.rs"]
mod agents;
#[path = "identity/api_keys.rs"]
mod api_keys;
#[path = "identity/bootstrap.rs"]
mod bootstrap;
#[path = "identity/browser.rs"]
mod browser;
#[path = "identity/canary.rs"]
mod canary;
#[path = "identity/credentials.rs"]
mod credentials;
#[path = "identity/delegations.rs"]
mod delegations;
#[path = "identity/directory.rs"]
mod directory;
#[path = "identity/factors.rs"]
mod factors;
#[path = "identity/hierarchy.rs"]
mod hierarchy;
#[path = "identity/invitations.rs"]
mod invitations;
#[path = "identity/keys.rs"]
mod keys;
#[path = "identity/limits.rs"]
mod limits;
#[path = "identity/oauth.rs"]
mod oauth;
#[path = "identity/outage.rs"]
mod outage;
#[path = "identity/passwords.rs"]
mod passwords;
#[path = "identity/sessions.rs"]
mod sessions;
#[path = "identity/stage.rs"]
mod stage;
#[path = "identity/story.rs"]
mod story;
#[path = "identity/tenants.rs"]
mod tenants;
