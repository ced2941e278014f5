//! What an API key may do: no more than its creator may, and no more than its scopes say (identity.md §18, 16).
//!
//! A scope is a ceiling, never a right. Without scopes a key has its creator's rights, except those of an operator. With
//! scopes it has those of the creator's entitlements and roles that are among them; in organizations it is a viewer, unless
//! `role:member` or `role:admin` (or the same with `:<orgId>`) raises it, at most to what the creator is. Routes of
//! identity itself ask for `cap:identity.read`, or for what they change: `cap:identity.manage-users`,
//! `cap:identity.manage-orgs`, `cap:identity.admin`.

use axum::{extract::Request, middleware::Next, response::Response};
use symbia_projections::identity::ApiKey;

use crate::http::{ApiError, OptionalCaller, Principal, RequestScope, principal::Membership};

const ADMIN: &str = "cap:identity.admin";
const USERS: &str = "cap:identity.manage-users";
const ORGS: &str = "cap:identity.manage-orgs";
const READ: &str = "cap:identity.read";

/// Routes that tell a key only about itself, or that anyone may ask.
const FREE: [&str; 7] = [
    "GET /api/auth/me",
    "GET /api/auth/user/me",
    "GET /api/users/me",
    "GET /api/auth/config",
    "GET /api/stats",
    "POST /api/auth/introspect",
    "POST /api/auth/verify-api-key",
];

/// The principal that a key stands for, made of its creator. `None` when the creator no longer belongs to the key's
/// organization.
pub(super) fn narrowed(creator: Principal, key: &ApiKey) -> Option<Principal> {
    let org = key.organization();
    let organizations: Vec<Membership> =
        creator.organizations.iter().filter(|o| org.is_none_or(|org| o.id == org)).cloned().collect();
    if org.is_some() && organizations.is_empty() {
        return None;
    }
    let scopes = &key.scopes;
    let within = |rights: &[String]| -> Vec<String> {
        rights.iter().filter(|right| scopes.is_empty() || scopes.contains(right)).cloned().collect()
    };
    let capped = organizations.into_iter().map(|o| Membership { role: role_within(scopes, &o).to_owned(), ..o });
    Some(Principal {
        organizations: capped.collect(),
        entitlements: within(&creator.entitlements),
        roles: within(&creator.roles),
        org_id: org.map(str::to_owned).or_else(|| creator.org_id.clone()),
        scopes: scopes.clone(),
        is_super_admin: false,
        session_id: None,
        key_id: Some(key.id.clone()),
        auth_type: crate::http::principal::AuthType::ApiKey,
        via_api_key: true,
        ..creator
    })
}

pub(super) fn role_within<'r>(scopes: &[String], org: &'r Membership) -> &'r str {
    if scopes.is_empty() {
        return &org.role;
    }
    let has =
        |role: &str| scopes.iter().any(|s| *s == format!("role:{role}") || *s == format!("role:{role}:{}", org.id));
    match org.role.as_str() {
        "admin" if has("admin") => "admin",
        "admin" | "member" if has("member") || has("admin") => "member",
        _ => "viewer",
    }
}

/// What a route of identity asks of a key with scopes: one of these.
fn needed(operation: &str) -> Option<&'static [&'static str]> {
    if FREE.contains(&operation) {
        return None;
    }
    let (method, path) = operation.split_once(' ').unwrap_or((operation, ""));
    let reads = matches!(method, "GET" | "HEAD" | "OPTIONS") || path == "/api/entities/resolve";
    let under = |roots: &[&str]| roots.iter().any(|root| path == *root || path.starts_with(&format!("{root}/")));
    Some(if reads {
        &[READ, USERS, ORGS, ADMIN]
    } else if under(&["/api/orgs", "/api/projects", "/api/applications", "/api/services", "/api/invitations"]) {
        &[ORGS, ADMIN]
    } else if under(&["/api/users", "/api/agents", "/api/entities"]) {
        &[USERS, ADMIN]
    } else {
        &[ADMIN]
    })
}

/// An agent always asks, and hears the answer; the assertion it gets carries its limits.
fn is_about_approvals(operation: &str) -> bool {
    let path = operation.split_once(' ').map_or("", |(_, path)| path);
    path == "/api/approvals" || path.starts_with("/api/approvals/") || path == "/api/auth/assertion"
}

/// Refuses a request of a key whose scopes do not reach the route. Everybody else passes: the routes themselves decide.
///
/// # Errors
/// 403 MISSING_CAPABILITY.
pub(super) async fn gate(
    scope: RequestScope,
    caller: Result<OptionalCaller, ApiError>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if let Ok(OptionalCaller(Some(caller))) = &caller
        && (caller.via_api_key || caller.acting.is_some())
        && (caller.acting.is_some() || !caller.scopes.is_empty())
        && !(caller.acting.is_some() && is_about_approvals(&scope.operation))
        && let Some(needed) = needed(&scope.operation)
        && !needed.iter().any(|capability| caller.scopes.iter().any(|scope| scope == capability))
    {
        return Err(ApiError::missing_capability(needed.first().copied().unwrap_or(ADMIN))
            .with_hint("The credential has scopes, and none of them reaches this route."));
    }
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::http::principal::{AuthType, PrincipalKind};

    fn creator() -> Principal {
        let org =
            |id: &str, role: &str| Membership { id: id.into(), name: id.into(), slug: id.into(), role: role.into() };
        Principal {
            organizations: vec![org("o1", "admin"), org("o2", "member")],
            entitlements: vec!["cap:catalog.read".into(), "cap:catalog.write".into()],
            roles: vec!["role:publisher".into()],
            is_super_admin: true,
            session_id: Some("s1".into()),
            ..Principal::new("ada", PrincipalKind::User, AuthType::Jwt)
        }
    }

    fn key(org: &str, scopes: &[&str]) -> ApiKey {
        ApiKey {
            id: "k1".into(),
            org_id: org.into(),
            name: "ci".into(),
            key_prefix: "sk_01234567".into(),
            key_hash: "hash".into(),
            created_by: "ada".into(),
            scopes: scopes.iter().map(|s| (*s).to_owned()).collect(),
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
            uses: 0,
            created_at: OffsetDateTime::UNIX_EPOCH,
        }
    }

    fn roles(principal: &Principal) -> Vec<&str> {
        principal.organizations.iter().map(|o| o.role.as_str()).collect()
    }

    #[test]
    fn scopes_only_take_away() {
        let all = narrowed(creator(), &key("global", &[])).unwrap();
        assert!(!all.is_super_admin && all.via_api_key && all.session_id.is_none());
        assert_eq!((roles(&all), all.entitlements.len(), all.roles.len()), (vec!["admin", "member"], 2, 1));
        let some = narrowed(creator(), &key("global", &["cap:catalog.read", "cap:global.admin"])).unwrap();
        assert_eq!((roles(&some), some.roles.len()), (vec!["viewer", "viewer"], 0));
        assert_eq!(some.entitlements, ["cap:catalog.read"]);
        let raised = narrowed(creator(), &key("global", &["role:admin"])).unwrap();
        assert_eq!(roles(&raised), ["admin", "member"]);
        let one = narrowed(creator(), &key("global", &["role:member:o1"])).unwrap();
        assert_eq!(roles(&one), ["member", "viewer"]);
    }

    #[test]
    fn a_key_of_an_organization_reaches_no_other_and_ends_with_the_membership() {
        let bound = narrowed(creator(), &key("o2", &[])).unwrap();
        assert_eq!((roles(&bound), bound.org_id.as_deref()), (vec!["member"], Some("o2")));
        assert!(narrowed(creator(), &key("o3", &[])).is_none());
    }

    #[test]
    fn routes_ask_for_what_they_change() {
        assert_eq!(needed("GET /api/users/me"), None);
        assert!(needed("GET /api/orgs/x").unwrap().contains(&READ));
        assert_eq!(needed("DELETE /api/orgs/x").unwrap(), [ORGS, ADMIN]);
        assert_eq!(needed("POST /api/organs").unwrap(), [ADMIN]);
        assert_eq!(needed("POST /api/auth/logout-all").unwrap(), [ADMIN]);
    }
}
