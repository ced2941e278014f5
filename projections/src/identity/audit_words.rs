//! The audit trail's words: what an event is called there, and what it happened to (identity.md §9). Events that the
//! original's trail does not have are called `<aggregate>.<event>`.

use symbia_events::Event;

/// Action and resource of an event.
pub(super) fn of(event: &Event) -> (String, String) {
    let name = event.event_type.split('.').nth(3).unwrap_or_default();
    let aggregate = event.aggregatetype.as_str();
    let known = match (aggregate, name) {
        ("user", "user-registered") if event.data.get().contains(r#""isSuperAdmin":true"#) => "superadmin.created",
        ("user", "user-registered") => "user.registered",
        ("user", "user-password-changed") => "user.password_changed",
        ("user", "user-renamed") => "user.updated",
        ("user", "user-email-changed" | "super-admin-granted" | "super-admin-revoked") => "admin.user.updated",
        ("user", "user-deleted") => "admin.user.deleted",
        ("session", "principal-signed-in") => "user.login",
        ("organization", "organization-created") => "org.created",
        ("organization", "organization-renamed" | "organization-slug-changed" | "plan-assigned") => "admin.org.updated",
        ("organization", "organization-deleted") => "admin.org.deleted",
        ("organization", "organization-accessed") => "admin.org.accessed",
        ("organization", "member-added" | "member-invited") => "member.invited",
        ("organization", "member-role-changed") => "member.role_updated",
        ("organization", "member-removed") => "member.removed",
        ("plan", "plan-created") => "admin.plan.created",
        ("plan", "plan-updated") => "admin.plan.updated",
        ("plan", "plan-retired") => "admin.plan.deleted",
        ("project", "project-created") => "project.created",
        ("project", "project-updated" | "project-status-changed") => "project.updated",
        ("project", "project-deleted") => "project.deleted",
        ("application", "application-created") => "application.created",
        ("application", "application-updated") => "application.updated",
        ("application", "application-deleted") => "application.deleted",
        ("application", "service-linked") => "application.service_linked",
        ("application", "service-unlinked") => "application.service_unlinked",
        ("project-service", "project-service-registered") => "service.created",
        ("project-service", "project-service-updated") => "service.updated",
        ("project-service", "project-service-deleted") => "service.deleted",
        ("scoped-entitlement", "scoped-entitlement-created") => "entitlement.created",
        ("scoped-entitlement", "scoped-entitlement-updated" | "entitlement-usage-reset") => "entitlement.updated",
        ("scoped-entitlement", "scoped-entitlement-deleted") => "entitlement.deleted",
        ("grants", "entitlement-granted") => "admin.user_entitlement.granted",
        ("grants", "entitlement-revoked") => "admin.user_entitlement.revoked",
        ("grants", "role-granted") => "admin.user_role.granted",
        ("grants", "role-revoked") => "admin.user_role.revoked",
        _ => "",
    };
    let action = if known.is_empty() { format!("{aggregate}.{}", name.replace('-', "_")) } else { known.to_owned() };
    let resource = match (aggregate, name) {
        ("organization", name) if name.starts_with("member-") => "membership",
        ("application", name) if name.starts_with("service-") => "application_service",
        ("project-service", _) => "service",
        ("scoped-entitlement", _) => "scoped_entitlement",
        ("grants", name) if name.starts_with("role-") => "user_role",
        ("grants", _) => "user_entitlement",
        (aggregate, _) => return (action, aggregate.replace('-', "_")),
    };
    (action, resource.to_owned())
}
