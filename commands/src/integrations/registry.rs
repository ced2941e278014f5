//! The integration aggregate: an API that an organization registered under a key (integrations.md §12, §25.4).
//!
//! The organization and the key are its address, so that nobody registers in another's name, and the keys of the platform's
//! own integrations are taken by nobody.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbia_events::integrations::{
    CallRate, IntegrationAuth, IntegrationDiscovered, IntegrationDiscoveryFailed, IntegrationEvent, IntegrationKind,
    IntegrationRateLimit, IntegrationRefreshRequested, IntegrationRegistered, IntegrationRemoved, IntegrationRetry,
    Operation,
};
use time::OffsetDateTime;

use super::{builtin::is_reserved, openapi::METHODS};
use crate::{Actor, Aggregate, Decision, Rejection, Role, domain_commands};

/// The capability that registers integrations, besides being an admin of the organization.
pub const CONFIGURE_CAPABILITY: &str = "cap:integrations.configure";
/// Most operations of an integration.
pub const MAX_OPERATIONS: usize = 2000;
/// Most bytes of their JSON: they must fit into an event.
pub const MAX_OPERATION_BYTES: usize = 2 * 1024 * 1024;
const MAX_METADATA: usize = 16 * 1024;
/// The largest limit of calls.
const MOST_CALLS: u32 = 1_000_000;
/// The largest limit of tokens.
const MOST_TOKENS: u32 = 1_000_000_000;
/// The largest limit of calls at once.
const MOST_AT_ONCE: u32 = 1000;

domain_commands! {
    /// What can be done about an integration. Discovering is the platform's.
    IntegrationCommand: Integrations / "integration" {
        /// Registers it, or registers it anew.
        RegisterIntegration = "symbia.cmd.integrations.register-integration.v1" {
            key: String,
            org_id: String,
            name: String,
            #[serde(default)]
            description: Option<String>,
            kind: IntegrationKind,
            #[serde(default)]
            spec_url: Option<String>,
            #[serde(default)]
            server_url: Option<String>,
            #[serde(default)]
            auth: IntegrationAuth,
            #[serde(default)]
            retry: Option<IntegrationRetry>,
            #[serde(default)]
            rate_limit: Option<IntegrationRateLimit>,
            /// Absent: to be discovered.
            #[serde(default)]
            operations: Option<Vec<Operation>>,
            #[serde(default)]
            tags: Vec<String>,
            #[serde(default)]
            metadata: Map<String, Value>,
        }
        /// Has its operations found out anew.
        RefreshIntegration = "symbia.cmd.integrations.refresh-integration.v1" { key: String, org_id: String }
        /// What was found out.
        RecordDiscovery = "symbia.cmd.integrations.record-discovery.v1" {
            key: String,
            version: u64,
            #[serde(default)]
            server_url: Option<String>,
            operations: Vec<Operation>,
            spec_digest: String,
        }
        /// Nothing was found out.
        FailDiscovery = "symbia.cmd.integrations.fail-discovery.v1" {
            key: String,
            version: u64,
            code: String,
            error: String,
        }
        /// Removes it.
        RemoveIntegration = "symbia.cmd.integrations.remove-integration.v1" { key: String, org_id: String }
    }
}

/// An integration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Integration {
    source: Option<Source>,
    version: u64,
    discovering: bool,
}

/// Where its operations come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Source {
    kind: IntegrationKind,
    spec_url: Option<String>,
    server_url: Option<String>,
    auth: IntegrationAuth,
    supplied: bool,
}

impl Source {
    // The document may name another server than what it was registered with; who calls is told by what was registered.
    fn of(e: &IntegrationRegistered) -> Self {
        Source {
            kind: e.kind,
            spec_url: e.spec_url.clone(),
            server_url: e.server_url.clone(),
            auth: e.auth.clone(),
            supplied: e.operations.is_some(),
        }
    }
}

pub(super) fn configures(by: &Actor, org: &str) -> Result<(), Rejection> {
    let role = by.orgs.iter().find(|m| m.id.as_str() == org).map(|m| m.role);
    if role == Some(Role::Admin) || by.super_admin || (role.is_some() && by.holds(CONFIGURE_CAPABILITY)) {
        return Ok(());
    }
    let what =
        format!("only an admin of the organization, or who has '{CONFIGURE_CAPABILITY}', registers integrations");
    Err(Rejection::new("MISSING_CAPABILITY", what))
}

fn check_key(key: &str) -> Result<(), Rejection> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    if key.is_empty() || key.len() > 64 || !key.bytes().all(fits) || !key.as_bytes()[0].is_ascii_alphanumeric() {
        return Err(Rejection::invalid("key: 1 to 64 of a-z, 0-9, - and _, beginning with a letter or digit"));
    }
    if is_reserved(key) {
        let text = format!("'{key}' is an integration of the platform's own: choose another key");
        return Err(Rejection::new("KEY_TAKEN", text));
    }
    Ok(())
}

// A URL with a user or password in it would lay a secret open in the log.
pub(super) fn check_url(field: &str, url: Option<&String>) -> Result<(), Rejection> {
    let Some(url) = url else { return Ok(()) };
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let host = rest.and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    if host.is_empty() || host.contains('@') || url.len() > 2000 || url.contains(char::is_whitespace) {
        return Err(Rejection::invalid(format!("{field}: an http(s) URL without user and password")));
    }
    Ok(())
}

fn check_operations(operations: &[Operation]) -> Result<(), Rejection> {
    if operations.len() > MAX_OPERATIONS {
        return Err(Rejection::invalid(format!("operations: at most {MAX_OPERATIONS}, not {}", operations.len())));
    }
    for operation in operations {
        let id = &operation.id;
        let fits = |c: char| !c.is_control() && !c.is_whitespace();
        if id.is_empty() || id.len() > 256 || !id.chars().all(fits) {
            return Err(Rejection::invalid(format!("operations: '{id}' is no id of 1 to 256 visible characters")));
        }
        if operation.mcp_tool.is_some() {
            continue;
        }
        let method = operation.method.as_deref().unwrap_or_default();
        let path = operation.path.as_deref().unwrap_or_default();
        if !METHODS.contains(&method) || !path.starts_with('/') || path.contains(['?', '#']) {
            let text =
                format!("operations: '{id}' needs a method of {} and a path that begins with /", METHODS.join(", "));
            return Err(Rejection::invalid(text));
        }
    }
    let bytes = serde_json::to_vec(operations).map_or(usize::MAX, |json| json.len());
    if bytes > MAX_OPERATION_BYTES {
        let text = format!("operations: {bytes} bytes, the limit is {MAX_OPERATION_BYTES}");
        return Err(Rejection::new("TOO_LARGE", text));
    }
    Ok(())
}

fn check_rates(limit: Option<&IntegrationRateLimit>) -> Result<(), Rejection> {
    let Some(limit) = limit else { return Ok(()) };
    let fits = |rate: &CallRate| {
        let CallRate { requests_per_second, requests_per_minute, tokens_per_minute, concurrent_requests } = *rate;
        let limits = [
            (requests_per_second, MOST_CALLS),
            (requests_per_minute, MOST_CALLS),
            (tokens_per_minute, MOST_TOKENS),
            (concurrent_requests, MOST_AT_ONCE),
        ];
        limits.into_iter().all(|(limit, most)| limit.is_none_or(|limit| (1..=most).contains(&limit)))
    };
    if limit.operations.len() > MAX_OPERATIONS || !fits(&limit.all()) || !limit.operations.values().all(fits) {
        let text = format!(
            "rateLimit: each limit is 1 to {MOST_CALLS}, {MOST_TOKENS} of tokens, {MOST_AT_ONCE} of calls at once, for \
             at most {MAX_OPERATIONS} operations"
        );
        return Err(Rejection::invalid(text));
    }
    Ok(())
}

impl Integration {
    fn source(&self) -> Result<&Source, Rejection> {
        self.source.as_ref().ok_or_else(|| Rejection::not_found("integration"))
    }

    fn register(&self, c: RegisterIntegration, by: &Actor) -> Result<Decision<IntegrationEvent>, Rejection> {
        configures(by, &c.org_id)?;
        check_key(&c.key)?;
        if c.name.trim().is_empty() || c.name.chars().count() > 200 {
            return Err(Rejection::invalid("name: 1 to 200 characters"));
        }
        check_url("specUrl", c.spec_url.as_ref())?;
        check_url("serverUrl", c.server_url.as_ref())?;
        match c.kind {
            IntegrationKind::Builtin => {
                return Err(Rejection::forbidden("builtin integrations are the platform's own"));
            }
            IntegrationKind::OpenApi if c.spec_url.is_none() && c.operations.is_none() => {
                return Err(Rejection::invalid("specUrl: is needed where there are no operations"));
            }
            IntegrationKind::Mcp if c.server_url.is_none() || c.operations.is_some() => {
                return Err(Rejection::invalid("serverUrl: is needed; the server tells its operations"));
            }
            IntegrationKind::Custom if c.server_url.is_none() || c.operations.is_none() => {
                return Err(Rejection::invalid("serverUrl, operations: are needed"));
            }
            _ => {}
        }
        check_operations(c.operations.as_deref().unwrap_or_default())?;
        if c.retry.is_some_and(|retry| retry.max_retries > 10 || !(1.0..=10.0).contains(&retry.backoff_multiplier)) {
            return Err(Rejection::invalid("retry: at most 10 retries, and a multiplier from 1 to 10"));
        }
        check_rates(c.rate_limit.as_ref())?;
        if c.tags.len() > 50 || serde_json::to_vec(&c.metadata).map_or(true, |json| json.len() > MAX_METADATA) {
            return Err(Rejection::invalid("tags, metadata: at most 50 tags, and 16 KiB of metadata"));
        }
        Ok(Decision::one(IntegrationRegistered {
            key: c.key,
            name: c.name,
            description: c.description,
            kind: c.kind,
            spec_url: c.spec_url,
            server_url: c.server_url,
            auth: c.auth,
            retry: c.retry,
            rate_limit: c.rate_limit,
            operations: c.operations,
            tags: c.tags,
            metadata: c.metadata,
            version: self.version + 1,
            by: by.id.clone(),
        }))
    }

    fn refresh(&self, c: RefreshIntegration, by: &Actor) -> Result<Decision<IntegrationEvent>, Rejection> {
        configures(by, &c.org_id)?;
        let source = self.source()?;
        if source.supplied {
            let text = "its operations came with it: register it anew to change them";
            return Err(Rejection::new("NOTHING_TO_REFRESH", text));
        }
        Ok(Decision::one(IntegrationRefreshRequested {
            key: c.key,
            kind: source.kind,
            spec_url: source.spec_url.clone(),
            server_url: source.server_url.clone(),
            auth: source.auth.clone(),
            version: self.version + 1,
            by: by.id.clone(),
        }))
    }

    // What was found out about an older version counts no longer.
    fn discovering(&self, version: u64, by: &Actor) -> Result<bool, Rejection> {
        if !by.is_platform() {
            return Err(Rejection::forbidden("the platform finds out what an integration can do"));
        }
        self.source()?;
        Ok(self.discovering && version == self.version)
    }
}

impl Aggregate for Integration {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("key");
    type Command = IntegrationCommand;
    type Event = IntegrationEvent;

    fn apply(&mut self, event: &IntegrationEvent) {
        match event {
            IntegrationEvent::IntegrationRegistered(e) => {
                self.source = Some(Source::of(e));
                self.version = e.version;
                self.discovering = e.operations.is_none();
            }
            IntegrationEvent::IntegrationRefreshRequested(e) => {
                self.version = e.version;
                self.discovering = true;
            }
            IntegrationEvent::IntegrationDiscovered(_) | IntegrationEvent::IntegrationDiscoveryFailed(_) => {
                self.discovering = false;
            }
            // Versions go on, so that what is found out late about the old one is not taken for the new one.
            IntegrationEvent::IntegrationRemoved(_) => {
                self.source = None;
                self.discovering = false;
            }
        }
    }

    fn decide(
        &self,
        command: IntegrationCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<IntegrationEvent>, Rejection> {
        match command {
            IntegrationCommand::RegisterIntegration(c) => self.register(c, by),
            IntegrationCommand::RefreshIntegration(c) => self.refresh(c, by),
            IntegrationCommand::RecordDiscovery(c) => {
                if !self.discovering(c.version, by)? {
                    return Ok(Decision::nothing());
                }
                check_operations(&c.operations)?;
                Ok(Decision::one(IntegrationDiscovered {
                    key: c.key,
                    version: c.version,
                    server_url: c.server_url,
                    operations: c.operations,
                    spec_digest: c.spec_digest,
                }))
            }
            IntegrationCommand::FailDiscovery(c) => {
                if !self.discovering(c.version, by)? {
                    return Ok(Decision::nothing());
                }
                let (key, version, code, error) = (c.key, c.version, c.code, c.error);
                Ok(Decision::one(IntegrationDiscoveryFailed { key, version, code, error }))
            }
            IntegrationCommand::RemoveIntegration(c) => {
                configures(by, &c.org_id)?;
                self.source()?;
                Ok(Decision::one(IntegrationRemoved { key: c.key, by: by.id.clone() }))
            }
        }
    }
}

#[cfg(test)]
mod tests;
