//! Every route of an organization, asked by the admin of another one.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use symbia_commands::{
    Actor, CommandEnvelope, OutcomeStatus,
    identity::{AddMember, DeleteOrganization, OrganizationCommand, RenameOrganization},
};
use symbia_events::{AggregateRef, CommandId, Service};
use time::OffsetDateTime;

use super::stage::House;

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_reads_and_changes_nothing() {
    let house = House::open().await;
    let (ada, eve) = (house.register("ada").await, house.register("eve").await);
    let org = format!("/api/orgs/{}", ada.org);
    let details = house.get(&org, &ada.token).await.ok();
    let membership = details["members"][0]["id"].as_str().unwrap().to_owned();
    let made = async |path: String, token: &str, body: Value| {
        house.call("POST", &path, token, body).await.ok()["id"].as_str().unwrap().to_owned()
    };
    let invited = json!({ "email": "new@example.test", "role": "member" });
    let invitation = made(format!("{org}/invitations"), &ada.token, invited).await;
    let thing = json!({ "name": "ada's", "slug": "adas", "serviceType": "api" });
    let project = format!("/api/projects/{}", made(format!("{org}/projects"), &ada.token, thing.clone()).await);
    let app = format!("/api/applications/{}", made(format!("{project}/applications"), &ada.token, thing.clone()).await);
    let service_id = made(format!("{project}/services"), &ada.token, thing.clone()).await;
    let own = made(format!("/api/orgs/{}/projects", eve.org), &eve.token, thing.clone()).await;
    let own_app =
        format!("/api/applications/{}", made(format!("/api/projects/{own}/applications"), &eve.token, thing).await);
    let scoped =
        |org: &str, feature: &str| json!({ "scopeType": "org", "scopeId": org, "featureKey": feature, "quota": 5 });
    let entitlement = made("/api/scoped-entitlements".to_owned(), &ada.token, scoped(&ada.org, "calls")).await;
    let entitlement = format!("/api/scoped-entitlements/{entitlement}");
    let bearer = format!("Bearer {}", eve.token);
    let before = house.head().await;
    for (method, path, body) in [
        ("GET", org.clone(), None),
        ("PATCH", org.clone(), Some(json!({ "name": "Eve's" }))),
        ("DELETE", org.clone(), None),
        ("POST", format!("{org}/members/invite"), Some(json!({ "email": eve.email, "role": "admin" }))),
        ("PATCH", format!("{org}/members/{membership}"), Some(json!({ "role": "viewer" }))),
        ("DELETE", format!("{org}/members/{membership}"), None),
        ("DELETE", format!("{org}/members/me"), None),
        ("PATCH", org.clone(), Some(json!({ "slug": "eves" }))),
        ("GET", format!("{org}/audit-logs"), None),
        ("GET", format!("{org}/invitations"), None),
        ("POST", format!("{org}/invitations"), Some(json!({ "email": "x@example.test", "role": "admin" }))),
        ("DELETE", format!("{org}/invitations/{invitation}"), None),
        ("DELETE", format!("/api/orgs/{}/invitations/{invitation}", eve.org), None),
        ("GET", format!("/api/users?orgId={}", ada.org), None),
        ("GET", format!("/api/license/{}", ada.org), None),
        ("GET", format!("/api/entitlements/{}", ada.org), None),
        ("PUT", format!("/api/entitlements/{}/sso", ada.org), Some(json!({}))),
        ("DELETE", format!("/api/entitlements/{}/sso", ada.org), None),
        ("GET", format!("{org}/projects"), None),
        ("POST", format!("{org}/projects"), Some(json!({ "name": "X", "slug": "x" }))),
        ("GET", project.clone(), None),
        ("PATCH", project.clone(), Some(json!({ "name": "X" }))),
        ("DELETE", project.clone(), None),
        ("GET", format!("{project}/applications"), None),
        ("POST", format!("{project}/applications"), Some(json!({ "name": "X", "slug": "x" }))),
        ("GET", format!("{project}/services"), None),
        ("POST", format!("{project}/services"), Some(json!({ "name": "X", "serviceType": "api" }))),
        ("GET", app.clone(), None),
        ("PATCH", app.clone(), Some(json!({ "name": "X" }))),
        ("DELETE", app.clone(), None),
        ("POST", format!("{app}/services/{service_id}"), Some(json!({}))),
        ("DELETE", format!("{app}/services/{service_id}"), None),
        // Her own application, a service of the other.
        ("POST", format!("{own_app}/services/{service_id}"), Some(json!({}))),
        ("GET", format!("/api/services/{service_id}"), None),
        ("PATCH", format!("/api/services/{service_id}"), Some(json!({ "name": "X" }))),
        ("DELETE", format!("/api/services/{service_id}"), None),
        ("GET", format!("/api/scoped-entitlements/org/{}", ada.org), None),
        ("POST", "/api/scoped-entitlements".to_owned(), Some(scoped(&ada.org, "more"))),
        ("PATCH", entitlement.clone(), Some(json!({ "quota": 9 }))),
        ("DELETE", entitlement.clone(), None),
        ("POST", format!("{entitlement}/consume"), Some(json!({ "amount": 1 }))),
        // Through her own organization, with a membership of the other.
        ("PATCH", format!("/api/orgs/{}/members/{membership}", eve.org), Some(json!({ "role": "viewer" }))),
        ("DELETE", format!("/api/orgs/{}/members/{membership}", eve.org), None),
    ] {
        for forged in [
            vec![("authorization", bearer.as_str())],
            vec![
                ("authorization", bearer.as_str()),
                ("x-org-id", &ada.org),
                ("x-service-id", "identity"),
                ("x-as-user-id", &ada.id),
                ("x-forwarded-for", "127.0.0.1"),
            ],
        ] {
            let answer = house.send(method, &path, &forged, body.clone()).await;
            assert!([403, 404].contains(&answer.status.as_u16()), "{method} {path}: {} {}", answer.status, answer.body);
            // Not in the ids: they are hexadecimal.
            let told = ["message", "hint", "details"].map(|part| answer.body[part].to_string()).concat();
            assert!(!told.contains("ada"), "{told}");
        }
        let anonymous = house.send(method, &path, &[], body).await;
        assert_eq!(anonymous.refused(), (401, "AUTH_REQUIRED"), "{method} {path}");
    }
    assert_eq!(house.head().await, before);
    assert_eq!(house.get(&org, &ada.token).await.ok(), details);
    assert_eq!(house.get("/api/orgs", &eve.token).await.ok()["organizations"].as_array().unwrap().len(), 1);

    // Over NATS, with an assertion of her own.
    let assertion = house.call("POST", "/api/auth/assertion", &eve.token, json!({})).await.ok();
    assert_eq!(assertion["actor"]["sub"], eve.id.as_str());
    let address = AggregateRef::new(Service::Identity, ada.org.parse().unwrap(), "organization", &ada.org).unwrap();
    let org_id = ada.org.clone();
    for command in [
        OrganizationCommand::from(RenameOrganization { org_id: org_id.clone(), name: "Eve's".to_owned() }),
        OrganizationCommand::from(AddMember {
            org_id: org_id.clone(),
            membership_id: "m".to_owned(),
            user_id: eve.id.clone(),
            role: "admin".to_owned(),
        }),
        OrganizationCommand::from(DeleteOrganization { org_id: org_id.clone() }),
    ] {
        let (actor, now) = (Actor::service("nobody"), OffsetDateTime::now_utc());
        let mut envelope =
            CommandEnvelope::new(&house.keys, &address, &command, &actor, CommandId::random(), now).unwrap();
        envelope.actorassertion = assertion["assertion"].as_str().map(str::to_owned);
        let outcome = house.platform.bus.send(&address, &envelope, Duration::from_secs(20)).await.unwrap();
        assert_eq!(outcome.status, OutcomeStatus::Rejected);
        assert_eq!(outcome.rejection.unwrap().code, "ORG_ACCESS_DENIED");
    }
    assert_eq!(house.head().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_named_and_changes_nothing() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let before = house.head().await;
    for (path, body, code) in [
        ("/api/auth/register", json!({ "email": "x", "password": "short", "name": "" }), "VALIDATION_FAILED"),
        ("/api/auth/register", json!({ "password": "long enough", "name": "A" }), "VALIDATION_FAILED"),
        (
            "/api/auth/register",
            json!({ "email": "b@example.test", "password": "x".repeat(73), "name": "B" }),
            "VALIDATION_FAILED",
        ),
        (
            "/api/auth/register",
            json!({ "email": "b@example.test", "password": "long enough", "name": "B", "orgName": "ada org" }),
            "SLUG_TAKEN",
        ),
        (
            "/api/auth/register",
            json!({ "email": "b@example.test", "password": "long enough", "name": "B", "orgName": "Symbia System" }),
            "SLUG_TAKEN",
        ),
        (
            "/api/auth/register",
            json!({ "email": "ADA@example.test", "password": "long enough", "name": "A" }),
            "EMAIL_TAKEN",
        ),
        // A Cyrillic letter that is drawn like a Latin one, and the same address in wide letters.
        (
            "/api/auth/register",
            json!({ "email": "\u{430}da@example.test", "password": "long enough", "name": "A" }),
            "VALIDATION_FAILED",
        ),
        (
            "/api/auth/register",
            json!({ "email": "\u{ff41}da@example.test", "password": "long enough", "name": "A" }),
            "EMAIL_TAKEN",
        ),
        ("/api/orgs", json!({}), "VALIDATION_FAILED"),
        ("/api/orgs", json!({ "name": "A", "slug": "Not A Slug" }), "VALIDATION_FAILED"),
        ("/api/orgs", json!({ "name": "A", "slug": "ada-org" }), "SLUG_TAKEN"),
        ("/api/orgs", json!({ "name": "A", "slug": "symbia-system" }), "SLUG_TAKEN"),
    ] {
        let answer = house.call("POST", path, &ada.token, body.clone()).await;
        assert_eq!(answer.refused(), (400, code), "{path} {body}");
        assert!(!answer.body.to_string().contains("long enough"));
    }
    let other = house.call("PATCH", "/api/users/me", &ada.token, json!({ "email": "other@example.test" })).await;
    assert_eq!(other.refused(), (400, "VALIDATION_FAILED"));
    let same =
        house.call("PATCH", "/api/users/me", &ada.token, json!({ "email": "ada@example.test", "name": "" })).await;
    assert_eq!(same.ok()["name"], "ada");
    let odd = house.post("/api/auth/introspect", json!({ "token": 5 })).await.ok();
    assert_eq!(odd, json!({ "active": false }));
    let unknown = house.get("/api/orgs/no.such*org", &ada.token).await;
    assert_eq!(unknown.refused(), (404, "NOT_FOUND"));
    assert_eq!(house.head().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_lists_the_routes() {
    let house = House::open().await;
    let document: Value = house.send("GET", "/docs/openapi.json", &[], None).await.ok();
    assert!(
        document["paths"]["/auth/register"]["post"]["summary"].as_str().unwrap().to_lowercase().contains("register")
    );
    assert_eq!(document["servers"][0]["url"], "/api");
    let paths = document["paths"].as_object().unwrap();
    let routes = paths.iter().flat_map(|(path, item)| {
        let methods = item
            .as_object()
            .unwrap()
            .keys()
            .filter(|k| ["get", "post", "put", "patch", "delete"].contains(&k.as_str()));
        methods.map(move |method| format!("{method} {path}"))
    });
    let ours: BTreeSet<String> = routes.filter(|r| !r.contains(" /docs") && !r.contains(" /health")).collect();
    let expected = "\
        get /.well-known/jwks.json|get /symbia-namespace|get /stats|get /dashboard|get /bootstrap/service|\
        get /bootstrap/state|post /bootstrap/claim|post /auth/register|post /auth/login|post /auth/logout|\
        post /auth/logout-all|post /auth/refresh|post /auth/introspect|post /auth/assertion|get /auth/me|\
        get /auth/user/me|get /auth/config|get /auth/sessions|delete /auth/sessions/{id}|get /users/me|patch /users/me|\
        get /orgs|post /orgs|get /orgs/{id}|patch /orgs/{id}|delete /orgs/{id}|post /orgs/{id}/members/invite|\
        post /oauth/sign-in|post /auth/agent/register|post /auth/agent/login|post /auth/agent/refresh|get /auth/agent/me|get /agents|post /agents|\
        post /agents/enrolment-tokens|get /agents/{id}|patch /agents/{id}|delete /agents/{id}|post /agents/{id}/rotate|\
        post /agents/{id}/activate|post /agents/{id}/deactivate|\
        get /.well-known/openid-configuration|get /admin/signing-keys|post /admin/signing-keys/rotate|\
        get /entities|post /entities|post /entities/resolve|get /entities/{id}|patch /entities/{id}|delete /entities/{id}|\
        post /entities/{id}/bind|post /entities/{id}/unbind|get /entities/by-node/{nodeId}|post /entities/sync|\
        get /entities/{id}/aliases|post /entities/{id}/aliases|delete /entities/{id}/aliases/{aliasId}|\
        get /entities/{id}/instances|put /entities/{id}/instances/{instanceId}|\
        get /credentials|post /credentials|patch /credentials/{id}|delete /credentials/{id}|\
        get /internal/credentials/{id}/{provider}|get /internal/credentials/by-id/{credentialId}|\
        post /internal/credentials/oauth|delete /internal/credentials/{id}|\
        get /api-keys|post /api-keys|get /api-keys/{id}|delete /api-keys/{id}|post /api-keys/{id}/revoke|\
        post /api-keys/{id}/rotate|post /auth/verify-api-key|\
        get /users/me/security|post /users/me/email|post /users/me/password|post /users/me/mfa|delete /users/me/mfa|\
        post /users/me/mfa/confirm|post /auth/login/mfa|post /auth/forgot-password|post /auth/reset-password|\
        post /auth/verify-email|post /admin/users/{id}/lock|post /admin/users/{id}/unlock|\
        get /users|get /admin/users|patch /admin/users/{id}|delete /admin/users/{id}|get /admin/orgs|\
        patch /admin/orgs/{id}|delete /admin/orgs/{id}|get /admin/plans|post /admin/plans|patch /admin/plans/{id}|\
        delete /admin/plans/{id}|get /admin/audit-logs|get /orgs/{id}/audit-logs|\
        get /admin/users/{userId}/entitlements|post /admin/users/{userId}/entitlements|\
        delete /admin/users/{userId}/entitlements/{entitlementKey}|get /admin/users/{userId}/roles|\
        post /admin/users/{userId}/roles|delete /admin/users/{userId}/roles/{roleKey}|\
        get /orgs/{id}/invitations|post /orgs/{id}/invitations|delete /orgs/{id}/invitations/{invitationId}|\
        post /invitations/{token}/accept|get /license/{orgId}|get /entitlements/{orgId}|\
        put /entitlements/{orgId}/{featureKey}|delete /entitlements/{orgId}/{featureKey}|\
        get /orgs/{id}/projects|post /orgs/{id}/projects|get /projects/{projectId}|patch /projects/{projectId}|\
        delete /projects/{projectId}|get /projects/{projectId}/applications|post /projects/{projectId}/applications|\
        get /projects/{projectId}/services|post /projects/{projectId}/services|get /applications/{appId}|\
        patch /applications/{appId}|delete /applications/{appId}|post /applications/{appId}/services/{serviceId}|\
        delete /applications/{appId}/services/{serviceId}|get /services/{serviceId}|patch /services/{serviceId}|\
        delete /services/{serviceId}|get /scoped-entitlements/{scopeType}/{scopeId}|post /scoped-entitlements|\
        patch /scoped-entitlements/{id}|delete /scoped-entitlements/{id}|post /scoped-entitlements/{id}/consume|\
        get /delegations|post /delegations|get /delegations/{id}|delete /delegations/{id}|get /approvals|post /approvals|\
        get /approvals/{id}|post /approvals/{id}/approve|post /approvals/{id}/deny|post /oauth/token|get /oauth/authorize|post /oauth/authorize|\
        get /.well-known/oauth-authorization-server|get /.well-known/oauth-protected-resource|\
        delete /orgs/{id}/members/me|patch /orgs/{id}/members/{memberId}|delete /orgs/{id}/members/{memberId}";
    assert_eq!(ours, expected.split('|').map(str::to_owned).collect());
}
