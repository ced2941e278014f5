//! Events of a service that a project depends on (identity.md §16.6).

use crate::domain_events;

domain_events! {
    /// What can have happened to a project's service.
    ProjectServiceEvent: Identity / "project-service" {
        /// A project depends on it.
        ProjectServiceRegistered = "symbia.identity.project-service.project-service-registered.v1" {
            service_id: String,
            project_id: String,
            org_id: String,
            name: String,
            service_type: String,
            provider: Option<String>,
            /// Without user and password.
            endpoint_url: Option<String>,
            external_id: Option<String>,
            by: String,
        }
        /// It now reads like this.
        ProjectServiceUpdated = "symbia.identity.project-service.project-service-updated.v1" {
            service_id: String,
            name: String,
            service_type: String,
            provider: Option<String>,
            endpoint_url: Option<String>,
            external_id: Option<String>,
            status: String,
            by: String,
        }
        /// It is gone, with the links to it.
        ProjectServiceDeleted = "symbia.identity.project-service.project-service-deleted.v1" {
            service_id: String,
            by: String,
        }
    }
}
