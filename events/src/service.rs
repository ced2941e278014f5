//! The nine services of the platform: their names, ports and variables (platform.md §1). The one registry.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A service of the platform. Its name is the second token of every subject and the module name in every crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// Principals, tenants, sessions, vault.
    Identity,
    /// Logs, metrics, traces, and the platform's own audit events.
    Logging,
    /// Registry of resources.
    Catalog,
    /// Assistants, rules and runs.
    Assistants,
    /// Conversations and messages.
    Messaging,
    /// Graph execution.
    Runtime,
    /// Gateway to model providers and tools.
    Integrations,
    /// Local inference.
    Models,
    /// The event mesh.
    Network,
}

/// The name is none of the nine services.
#[derive(Debug, thiserror::Error)]
#[error(
    "unknown service '{0}': use one of identity, logging, catalog, assistants, messaging, runtime, integrations, models, network"
)]
pub struct UnknownService(pub String);

impl Service {
    /// Every service, in the order of their ports.
    pub const ALL: [Service; 9] = [
        Service::Identity,
        Service::Logging,
        Service::Catalog,
        Service::Assistants,
        Service::Messaging,
        Service::Runtime,
        Service::Integrations,
        Service::Models,
        Service::Network,
    ];

    /// Lower-case name, as in subjects, paths and the registry.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Service::Identity => "identity",
            Service::Logging => "logging",
            Service::Catalog => "catalog",
            Service::Assistants => "assistants",
            Service::Messaging => "messaging",
            Service::Runtime => "runtime",
            Service::Integrations => "integrations",
            Service::Models => "models",
            Service::Network => "network",
        }
    }

    /// Default TCP port (platform.md §1.1).
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Service::Identity => 5001,
            Service::Logging => 5002,
            Service::Catalog => 5003,
            Service::Assistants => 5004,
            Service::Messaging => 5005,
            Service::Runtime => 5006,
            Service::Integrations => 5007,
            Service::Models => 5008,
            Service::Network => 5054,
        }
    }

    /// The environment variable that overrides the port, e.g. `IDENTITY_PORT`.
    #[must_use]
    pub fn port_variable(self) -> String {
        format!("{}_PORT", self.name().to_uppercase())
    }

    /// The JetStream stream that holds this service's events (DESIGN §3).
    #[must_use]
    pub fn event_stream(self) -> String {
        format!("SYMBIA_EVT_{}", self.name().to_uppercase())
    }

    /// The service whose events a stream holds.
    #[must_use]
    pub fn of_stream(stream: &str) -> Option<Service> {
        stream.strip_prefix("SYMBIA_EVT_")?.to_lowercase().parse().ok()
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Service {
    type Err = UnknownService;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Service::ALL.into_iter().find(|s| s.name() == name).ok_or_else(|| UnknownService(name.to_owned()))
    }
}
