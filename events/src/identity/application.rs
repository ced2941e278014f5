//! Events of an application and its links (identity.md §16.6).

use crate::domain_events;

domain_events! {
    /// What can have happened to an application.
    ApplicationEvent: Identity / "application" {
        /// A project has it.
        ApplicationCreated = "symbia.identity.application.application-created.v1" {
            app_id: String,
            project_id: String,
            org_id: String,
            name: String,
            slug: String,
            environment: String,
            app_type: String,
            /// Without user and password.
            repo_url: Option<String>,
            by: String,
        }
        /// It now reads like this.
        ApplicationUpdated = "symbia.identity.application.application-updated.v1" {
            app_id: String,
            name: String,
            environment: String,
            app_type: String,
            repo_url: Option<String>,
            by: String,
        }
        /// It is gone, with its links.
        ApplicationDeleted = "symbia.identity.application.application-deleted.v1" { app_id: String, by: String }
        /// It depends on a service of its organization.
        ServiceLinked = "symbia.identity.application.service-linked.v1" {
            link_id: String,
            app_id: String,
            service_id: String,
            by: String,
        }
        /// It does so no longer.
        ServiceUnlinked = "symbia.identity.application.service-unlinked.v1" {
            link_id: String,
            app_id: String,
            service_id: String,
            by: String,
        }
    }
}
