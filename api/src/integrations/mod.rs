//! The integrations service: what it tells about itself so far (integrations.md §5.6). Requests to models come from rules.

use std::sync::Arc;

use symbia_events::Service;

use crate::{
    http::{Health, ServiceApp, discovery::ServiceInfo, server::ServerConfig},
    identity::Directory,
    platform::Platform,
};

/// The service, to be built and served.
#[must_use]
pub fn service(platform: Platform, health: Health, config: ServerConfig) -> ServiceApp {
    platform.watch(&health, Service::Integrations);
    let description = "Language models and other services of third parties, behind one interface.";
    let info = ServiceInfo::new(Service::Integrations, "Symbia Integrations", description);
    ServiceApp::new(info, health, config).authenticator(Arc::new(Directory::new(platform)))
}
