//! The audit trail's words: what an event is called there, and what it happened to (identity.md §9). By itself that is
//! `<aggregate>.<event>`; here stands where the original says it differently.

use symbia_events::Event;

/// Action and resource of an event.
pub(super) fn of(event: &Event) -> (String, String) {
    let data = event.data.get();
    words(&event.aggregatetype, event.event_type.split('.').nth(3).unwrap_or_default(), data)
}

fn words(aggregate: &str, name: &str, data: &str) -> (String, String) {
    let action = match (aggregate, name) {
        ("user", "user-registered") if data.contains(r#""isSuperAdmin":true"#) => "superadmin.created",
        ("user", "user-renamed") => "user.updated",
        ("user", "user-password-changed") => "user.password_changed",
        ("user", "password-reset-requested") => "user.forgot_password",
        ("user", "password-reset-completed") => "user.password_reset",
        ("user", "super-admin-granted" | "super-admin-revoked") => "admin.user.updated",
        ("user", "user-deleted") => "admin.user.deleted",
        ("session", "principal-signed-in") if data.contains(r#""principalType":"agent""#) => "agent.login",
        ("session", "principal-signed-in") => "user.login",
        ("organization", "organization-created") => "org.created",
        ("organization", "organization-renamed" | "organization-slug-changed" | "plan-assigned") => "admin.org.updated",
        ("organization", "organization-deleted") => "admin.org.deleted",
        ("organization", "organization-accessed") => "admin.org.accessed",
        ("organization", "org-entitlement-set") => "org.entitlement_set",
        ("organization", "org-entitlement-removed") => "org.entitlement_removed",
        ("organization", "member-added" | "member-invited") => "member.invited",
        ("organization", "member-role-changed") => "member.role_updated",
        ("organization", "member-removed") => "member.removed",
        ("organization", "invitation-accepted") => "invitation.accepted",
        ("organization", "invitation-revoked") => "invitation.revoked",
        ("plan", "plan-created") => "admin.plan.created",
        ("plan", "plan-updated") => "admin.plan.updated",
        ("plan", "plan-retired") => "admin.plan.deleted",
        ("project", "project-status-changed") => "project.updated",
        ("project-service", "project-service-registered") => "service.created",
        ("project-service", "project-service-updated") => "service.updated",
        ("project-service", "project-service-deleted") => "service.deleted",
        ("scoped-entitlement", "scoped-entitlement-created") => "entitlement.created",
        ("scoped-entitlement", "scoped-entitlement-updated" | "entitlement-usage-reset") => "entitlement.updated",
        ("scoped-entitlement", "scoped-entitlement-deleted") => "entitlement.deleted",
        ("scoped-entitlement", "entitlement-consumed") => "entitlement.consumed",
        ("scoped-entitlement", "entitlement-exhausted") => "entitlement.exhausted",
        ("grants", "entitlement-granted") => "admin.user_entitlement.granted",
        ("grants", "entitlement-revoked") => "admin.user_entitlement.revoked",
        ("grants", "role-granted") => "admin.user_role.granted",
        ("grants", "role-revoked") => "admin.user_role.revoked",
        ("grants", "grant-expired") => "admin.grant.expired",
        _ => "",
    };
    let resource = match (aggregate, name) {
        ("organization", "member-added" | "member-invited" | "member-role-changed" | "member-removed") => "membership",
        ("application", "service-linked" | "service-unlinked") => "application_service",
        ("project-service", _) => "service",
        ("grants", "role-granted" | "role-revoked") => "user_role",
        ("grants", _) => "user_entitlement",
        _ => &aggregate.replace('-', "_"),
    };
    if action.is_empty() {
        let own = name.strip_prefix(aggregate).and_then(|rest| rest.strip_prefix('-')).unwrap_or(name);
        let action = format!("{aggregate}.{own}").replace('-', "_");
        return (action, resource.to_owned());
    }
    (action.to_owned(), resource.to_owned())
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn an_event_is_called_as_readers_of_the_original_look_for_it() {
        for (aggregate, name, data, action, resource) in [
            ("user", "user-registered", r#"{"isSuperAdmin":false}"#, "user.registered", "user"),
            ("user", "user-registered", r#"{"isSuperAdmin":true}"#, "superadmin.created", "user"),
            ("agent", "agent-registered", "{}", "agent.registered", "agent"),
            ("api-key", "api-key-rotated", "{}", "api_key.rotated", "api_key"),
            ("project", "project-created", "{}", "project.created", "project"),
            ("application", "service-linked", "{}", "application.service_linked", "application_service"),
            ("organization", "member-removed", "{}", "member.removed", "membership"),
            ("organization", "organization-created", "{}", "org.created", "organization"),
            ("grants", "role-granted", "{}", "admin.user_role.granted", "user_role"),
            ("user", "subject-key-destroyed", "{}", "user.subject_key_destroyed", "user"),
        ] {
            assert_eq!(words(aggregate, name, data), (action.to_owned(), resource.to_owned()), "{name}");
        }
    }
}
