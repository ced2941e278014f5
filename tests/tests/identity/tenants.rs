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
            assert!(!answer.body.to_string().contains("ada"), "{}", answer.body);
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
        let methods =
            item.as_object().unwrap().keys().filter(|k| ["get", "post", "patch", "delete"].contains(&k.as_str()));
        methods.map(move |method| format!("{method} {path}"))
    });
    let ours: BTreeSet<String> = routes.filter(|r| !r.contains(" /docs") && !r.contains(" /health")).collect();
    let expected = "\
        get /.well-known/jwks.json|get /symbia-namespace|get /stats|get /dashboard|get /bootstrap/service|\
        get /bootstrap/state|post /bootstrap/claim|post /auth/register|post /auth/login|post /auth/logout|\
        post /auth/logout-all|post /auth/refresh|post /auth/introspect|post /auth/assertion|get /auth/me|\
        get /auth/user/me|get /auth/config|get /auth/sessions|delete /auth/sessions/{id}|get /users/me|patch /users/me|\
        get /orgs|post /orgs|get /orgs/{id}|patch /orgs/{id}|delete /orgs/{id}|post /orgs/{id}/members/invite|\
        post /auth/agent/register|post /auth/agent/login|post /auth/agent/refresh|get /auth/agent/me|get /agents|post /agents|\
        post /agents/enrolment-tokens|get /agents/{id}|patch /agents/{id}|delete /agents/{id}|post /agents/{id}/rotate|\
        post /agents/{id}/activate|post /agents/{id}/deactivate|\
        get /.well-known/openid-configuration|get /admin/signing-keys|post /admin/signing-keys/rotate|\
        get /api-keys|post /api-keys|get /api-keys/{id}|delete /api-keys/{id}|post /api-keys/{id}/revoke|\
        post /api-keys/{id}/rotate|post /auth/verify-api-key|\
        delete /orgs/{id}/members/me|patch /orgs/{id}/members/{memberId}|delete /orgs/{id}/members/{memberId}";
    assert_eq!(ours, expected.split('|').map(str::to_owned).collect());
}
