//! How the mesh is set up: the original's variables and our own (network.md §11).

use std::time::Duration;

use symbia_api::{network::Options, platform::SecretText};
use symbia_commands::network::Options as Routing;
use symbia_egress::Rules;
use symbia_projections::network::SHOWN;
use symbia_workers::network::{DelivererOptions, Post};

use super::{Config, ConfigError, egress::listed, invalid, number, text};

/// The mesh.
#[derive(Clone, Debug)]
pub struct Mesh {
    routing: Routing,
    tolerance: Duration,
    /// How long a node may be silent.
    pub lease: Duration,
    legacy_hash: Option<SecretText>,
    /// How long a call is shown.
    pub shown: time::Duration,
    /// How deliveries are made.
    pub deliveries: DelivererOptions,
}

impl Mesh {
    pub(super) fn of_environment(egress: &Rules) -> Result<Self, ConfigError> {
        let allow_extra = match text("DEFAULT_EXTRA_POLICY")?.as_deref() {
            None | Some("deny") => false,
            Some("allow") => true,
            Some(other) => return Err(invalid("DEFAULT_EXTRA_POLICY", format!("'{other}' is none of deny, allow"))),
        };
        let rules = listed("HTTP_DELIVERY_ALLOWLIST")?.unwrap_or_else(|| egress.clone()).any_port();
        let millis = |variable: &str, default: u64| {
            Ok::<_, ConfigError>(Duration::from_millis(number(variable)?.unwrap_or(default)))
        };
        let deliveries = DelivererOptions::default();
        Ok(Mesh {
            routing: Routing { allow_extra, ..Routing::default() },
            tolerance: millis("EVENT_TIMESTAMP_TOLERANCE_MS", 300_000)?,
            lease: millis("NODE_TIMEOUT_MS", 90_000)?.max(Duration::from_secs(1)),
            shown: shown(number("EVENT_RETENTION_DAYS")?)?,
            legacy_hash: text("NETWORK_HASH_SECRET")?.map(SecretText::new),
            deliveries: DelivererOptions {
                post: Post { rules, ..deliveries.post },
                max_age: millis("NODE_DELIVERY_MAX_AGE_MS", 300_000)?,
                ..deliveries
            },
        })
    }
}

fn shown(days: Option<u32>) -> Result<time::Duration, ConfigError> {
    match days {
        None => Ok(SHOWN),
        Some(0) => Err(invalid("EVENT_RETENTION_DAYS", "at least 1")),
        Some(days) => Ok(time::Duration::days(days.into())),
    }
}

impl Config {
    /// What the network service is served with.
    pub fn network(&self) -> Options {
        Options {
            routing: self.mesh.routing,
            tolerance: self.mesh.tolerance,
            lease: self.mesh.lease,
            legacy_hash: self.mesh.legacy_hash.clone(),
            services: self.services(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_shown_for_as_many_days_as_are_named_and_for_thirty_otherwise() {
        let days = |days| shown(days).map(time::Duration::whole_days).map_err(|error| error.to_string());
        assert_eq!((days(None), days(Some(7))), (Ok(30), Ok(7)));
        assert!(days(Some(0)).is_err_and(|error| error.contains("EVENT_RETENTION_DAYS")));
    }
}
