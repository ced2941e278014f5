//! Events of a project (identity.md §16.6).

use crate::domain_events;

domain_events! {
    /// What can have happened to a project.
    ProjectEvent: Identity / "project" {
        /// An organization has it.
        ProjectCreated = "symbia.identity.project.project-created.v1" {
            project_id: String,
            org_id: String,
            name: String,
            slug: String,
            description: Option<String>,
            by: String,
        }
        /// It now reads like this.
        ProjectUpdated = "symbia.identity.project.project-updated.v1" {
            project_id: String,
            name: String,
            description: Option<String>,
            by: String,
        }
        /// `active`, `archived` or `suspended`.
        ProjectStatusChanged = "symbia.identity.project.project-status-changed.v1" {
            project_id: String,
            status: String,
            previous_status: String,
            by: String,
        }
        /// It is gone, with its applications and services.
        ProjectDeleted = "symbia.identity.project.project-deleted.v1" { project_id: String, org_id: String, by: String }
    }
}
