//! What operators do: accounts, organizations, plans, grants, the audit trail, and entering what is not theirs.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use symbia_commands::{
    Actor, CommandEnvelope, OutcomeStatus,
    identity::{DeleteUser, UserCommand},
};
use symbia_events::{AggregateRef, CommandId, OrgId, Service};
use symbia_workers::{identity::Housekeeping, reactor::ReactorRunner, sender::Sender, timer::TimerWorker};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::stage::{House, PASSWORD, Person, SETUP_TOKEN};

async fn operator(house: &House) -> Person {
    let claim = json!({ "email": "root@example.test", "password": PASSWORD, "name": "Root" });
    let claimed = house.send("POST", "/api/bootstrap/claim", &[("x-setup-token", SETUP_TOKEN)], Some(claim)).await;
    House::person(&claimed.ok(), "root@example.test".to_owned())
}

fn ids(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_administers() {
    let house = House::open().await;
    let (root, ada) = (operator(&house).await, house.register("ada").await);
    let before = house.head().await;
    for (method, path, body) in [
        ("GET", "/api/admin/users".to_owned(), None),
        ("PATCH", format!("/api/admin/users/{}", root.id), Some(json!({ "name": "X" }))),
        ("PATCH", format!("/api/admin/users/{}", ada.id), Some(json!({ "isSuperAdmin": true }))),
        ("DELETE", format!("/api/admin/users/{}", root.id), None),
        ("GET", "/api/admin/orgs".to_owned(), None),
        ("PATCH", format!("/api/admin/orgs/{}", ada.org), Some(json!({ "name": "X" }))),
        ("DELETE", format!("/api/admin/orgs/{}", ada.org), None),
        ("POST", "/api/admin/plans".to_owned(), Some(json!({ "name": "pro" }))),
        ("PATCH", "/api/admin/plans/x".to_owned(), Some(json!({ "name": "pro" }))),
        ("DELETE", "/api/admin/plans/x".to_owned(), None),
        ("GET", "/api/admin/audit-logs".to_owned(), None),
        ("GET", format!("/api/admin/users/{}/entitlements", ada.id), None),
        (
            "POST",
            format!("/api/admin/users/{}/entitlements", ada.id),
            Some(json!({ "entitlementKey": "cap:global.admin" })),
        ),
        ("DELETE", format!("/api/admin/users/{}/entitlements/x", ada.id), None),
        ("GET", format!("/api/admin/users/{}/roles", ada.id), None),
        ("POST", format!("/api/admin/users/{}/roles", ada.id), Some(json!({ "roleKey": "role:admin" }))),
        ("DELETE", format!("/api/admin/users/{}/roles/x", ada.id), None),
        ("PUT", format!("/api/entitlements/{}/sso", ada.org), Some(json!({}))),
        ("DELETE", format!("/api/entitlements/{}/sso", ada.org), None),
        ("GET", "/api/users".to_owned(), None),
    ] {
        let bearer = format!("Bearer {}", ada.token);
        let answer = house.send(method, &path, &[("authorization", &bearer)], body.clone()).await;
        assert_eq!(answer.refused(), (403, "SUPERADMIN_REQUIRED"), "{method} {path}");
        assert_eq!(house.send(method, &path, &[], body).await.refused(), (401, "AUTH_REQUIRED"), "{method} {path}");
    }
    assert_eq!(house.head().await, before);
    house.get("/api/admin/plans", &ada.token).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_are_listed_changed_and_erased() {
    let house = House::open().await;
    let (root, ada, bob) = (operator(&house).await, house.register("ada").await, house.register("bob").await);
    let all = house.get("/api/admin/users", &root.token).await.ok();
    assert_eq!(ids(&all), [root.id.as_str(), &ada.id, &bob.id]);
    let page = house.get("/api/admin/users?limit=2", &root.token).await;
    let next = page.headers["x-next-cursor"].to_str().unwrap().to_owned();
    assert_eq!(ids(&page.ok()), [root.id.as_str(), &ada.id]);
    let rest = house.get(&format!("/api/admin/users?limit=2&cursor={next}"), &root.token).await;
    assert!(!rest.headers.contains_key("x-next-cursor"));
    assert_eq!(ids(&rest.ok()), [bob.id.as_str()]);
    let members = house.get(&format!("/api/users?orgId={}", ada.org), &ada.token).await.ok();
    assert_eq!((ids(&members["users"]), &members["users"][0]["role"]), (vec![ada.id.as_str()], &json!("admin")));
    assert_eq!(
        house.get(&format!("/api/users?orgId={}", ada.org), &bob.token).await.refused(),
        (403, "ORG_ACCESS_DENIED")
    );

    let path = format!("/api/admin/users/{}", ada.id);
    let taken = house.call("PATCH", &path, &root.token, json!({ "email": "BOB@example.test" })).await;
    assert_eq!(taken.refused(), (400, "EMAIL_TAKEN"));
    let changed = json!({ "email": "ada.l@example.test", "name": "Ada L.", "isSuperAdmin": true });
    let changed = house.call("PATCH", &path, &root.token, changed).await.ok();
    assert_eq!(
        (&changed["email"], &changed["name"], &changed["isSuperAdmin"]),
        (&json!("ada.l@example.test"), &json!("Ada L."), &json!(true))
    );
    assert_eq!(house.call("PATCH", &path, &root.token, json!({})).await.ok()["updatedAt"], changed["updatedAt"]);
    house.post("/api/auth/login", json!({ "email": "ada.l@example.test", "password": PASSWORD })).await.ok();
    house.get("/api/admin/users", &ada.token).await.ok();
    let own = house.call("PATCH", &path, &ada.token, json!({ "isSuperAdmin": false })).await;
    assert_eq!(own.refused(), (400, "SELF_PROTECTION"));
    assert_eq!(house.call("DELETE", &path, &ada.token, json!({})).await.refused(), (400, "SELF_PROTECTION"));
    // The old address is free.
    let body = json!({ "email": "ada@example.test", "password": PASSWORD, "name": "Other Ada" });
    house.post("/api/auth/register", body).await.ok();

    // Ada granted something to Bob: that does not keep her.
    let grant = json!({ "entitlementKey": "cap:catalog.write" });
    house.call("POST", &format!("/api/admin/users/{}/entitlements", bob.id), &ada.token, grant).await.ok();
    house.call("DELETE", &path, &root.token, json!({})).await.ok();
    assert_eq!(house.call("DELETE", &path, &root.token, json!({})).await.refused(), (404, "NOT_FOUND"));
    assert_eq!(house.get("/api/auth/me", &ada.token).await.refused(), (401, "SESSION_REVOKED"));
    let login = house.post("/api/auth/login", json!({ "email": "ada.l@example.test", "password": PASSWORD })).await;
    assert_eq!(login.refused(), (401, "CREDENTIALS_INVALID"));
    let granted = house.get(&format!("/api/admin/users/{}/entitlements", bob.id), &root.token).await.ok();
    assert_eq!(granted["entitlements"][0]["grantedBy"], ada.id.as_str());
    assert!(house.platform.secrets.subject_key(&ada.id).await.unwrap().is_none());
    let trail = house.get("/api/admin/audit-logs?action=admin.user.deleted", &root.token).await.ok();
    assert_eq!((&trail[0]["resourceId"], &trail[0]["userId"]), (&json!(ada.id), &json!(root.id)));
    let confirmed = house.get("/api/admin/audit-logs?action=user.subject_key_destroyed", &root.token).await.ok();
    assert_eq!(confirmed[0]["onBehalfOf"], root.id.as_str());
    let stats = house.send("GET", "/api/stats", &[], None).await.ok();
    assert_eq!(stats["totalUsers"], 3);
    house.read_models_are_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_limit_organizations_and_features_end() {
    let house = House::open().await;
    let (root, ada, bob, eve) =
        (operator(&house).await, house.register("ada").await, house.register("bob").await, house.register("eve").await);
    let lab = house.call("POST", "/api/orgs", &ada.token, json!({ "name": "Lab" })).await.ok();
    let plans = house.get("/api/admin/plans", &ada.token).await.ok();
    assert_eq!(
        (&plans[0]["name"], &plans[0]["limitsJson"]["members"], &plans[0]["featuresJson"]),
        (&json!("free"), &json!(5), &json!(["basic_access"]))
    );
    assert_eq!(lab["planId"], plans[0]["id"]);
    let free = format!("/api/admin/plans/{}", plans[0]["id"].as_str().unwrap());
    assert_eq!(house.call("DELETE", &free, &root.token, json!({})).await.refused(), (409, "CONFLICT"));

    let pro = json!({ "name": "pro", "featuresJson": ["sso", "basic_access"], "limitsJson": { "members": 2, "ratio": 0.5 }, "priceCents": 4900 });
    let pro = house.call("POST", "/api/admin/plans", &root.token, pro).await.ok();
    let again = house.call("POST", "/api/admin/plans", &root.token, json!({ "name": "pro" })).await;
    assert_eq!(again.refused(), (400, "PLAN_NAME_TAKEN"));
    let org = format!("/api/admin/orgs/{}", ada.org);
    let unknown = house.call("PATCH", &org, &root.token, json!({ "planId": "nope" })).await;
    assert_eq!(unknown.refused(), (400, "PLAN_UNKNOWN"));
    let assigned = house
        .call("PATCH", &org, &root.token, json!({ "planId": pro["id"], "slug": "acme", "name": "Acme" }))
        .await
        .ok();
    assert_eq!(
        (&assigned["planId"], &assigned["slug"], &assigned["name"]),
        (&pro["id"], &json!("acme"), &json!("Acme"))
    );
    let taken = house.call("PATCH", &org, &root.token, json!({ "slug": "lab" })).await;
    assert_eq!(taken.refused(), (400, "SLUG_TAKEN"));
    let listed = house.get("/api/admin/orgs", &root.token).await.ok();
    let acme = listed.as_array().unwrap().iter().find(|o| o["id"] == ada.org.as_str()).unwrap();
    assert_eq!((&acme["planName"], &acme["memberCount"]), (&json!("pro"), &json!(1)));

    let invite = format!("/api/orgs/{}/members/invite", ada.org);
    house.call("POST", &invite, &ada.token, json!({ "email": bob.email, "role": "member" })).await.ok();
    let third = json!({ "email": eve.email, "role": "member" });
    assert_eq!(house.call("POST", &invite, &ada.token, third.clone()).await.refused(), (409, "QUOTA_EXCEEDED"));
    let plan = format!("/api/admin/plans/{}", pro["id"].as_str().unwrap());
    house.call("PATCH", &plan, &root.token, json!({ "limitsJson": { "members": -1 } })).await.ok();
    house.call("POST", &invite, &ada.token, third).await.ok();
    house.call("PATCH", &plan, &root.token, json!({ "limitsJson": { "members": 2 } })).await.ok();

    let licence = format!("/api/license/{}", ada.org);
    let now = house.get(&licence, &bob.token).await.ok();
    assert_eq!(
        (&now["organization"], &now["plan"], &now["status"]),
        (&json!("Acme"), &json!("pro"), &json!("over_limit"))
    );
    assert_eq!((&now["features"], &now["usage"]["members"]), (&json!(["basic_access", "sso"]), &json!(3)));
    let feature = |key: &str| format!("/api/entitlements/{}/{key}", ada.org);
    house.call("PUT", &feature("beta"), &root.token, json!({ "expiresAt": "2020-01-01T00:00:00Z" })).await.ok();
    house.call("PUT", &feature("extra"), &root.token, json!({})).await.ok();
    house.call("PUT", &feature("sso"), &root.token, json!({ "enabled": false })).await.ok();
    assert_eq!(house.get(&licence, &bob.token).await.ok()["features"], json!(["basic_access", "extra"]));
    let own = house.get(&format!("/api/entitlements/{}", ada.org), &bob.token).await.ok();
    assert_eq!(
        own["entitlements"].as_array().unwrap().iter().map(|e| e["effective"].clone()).collect::<Vec<_>>(),
        [json!(false), json!(true), json!(false)]
    );
    house.call("DELETE", &feature("sso"), &root.token, json!({})).await.ok();
    let details = house.get(&format!("/api/orgs/{}", ada.org), &ada.token).await.ok();
    assert_eq!(
        (&details["organization"]["plan"]["name"], details["entitlements"].as_array().unwrap().len()),
        (&json!("pro"), 2)
    );

    house.call("DELETE", &plan, &root.token, json!({})).await.ok();
    assert_eq!(house.get(&licence, &bob.token).await.ok()["plan"], "pro", "who has it keeps it");
    assert_eq!(
        house.call("PATCH", &org, &root.token, json!({ "planId": pro["id"] })).await.refused(),
        (400, "PLAN_UNKNOWN")
    );
    let none = house.call("PATCH", &org, &root.token, json!({ "planId": null })).await.ok();
    assert_eq!(none["planId"], Value::Null);
    let system =
        house.call("DELETE", "/api/admin/orgs/00000000-0000-0000-0000-000000000001", &root.token, json!({})).await;
    assert_eq!(system.refused(), (403, "FORBIDDEN"));
    house.call("DELETE", &org, &root.token, json!({})).await.ok();
    assert_eq!(house.get(&licence, &bob.token).await.refused(), (404, "NOT_FOUND"));
    house.read_models_are_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_count_until_they_end() {
    let house = House::open().await;
    let (root, ada) = (operator(&house).await, house.register("ada").await);
    let path = |what: &str| format!("/api/admin/users/{}/{what}", ada.id);
    let missing = house.call("POST", &path("entitlements"), &root.token, json!({})).await;
    assert_eq!(missing.refused(), (400, "VALIDATION_FAILED"));
    let past = json!({ "entitlementKey": "cap:a.b", "expiresAt": "2020-01-01T00:00:00Z" });
    assert_eq!(
        house.call("POST", &path("entitlements"), &root.token, past).await.refused(),
        (400, "VALIDATION_FAILED")
    );
    let soon = (time::OffsetDateTime::now_utc() + time::Duration::seconds(3))
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap();
    let passing = json!({ "entitlementKey": "cap:passing.by", "expiresAt": soon });
    let granted = house.call("POST", &path("entitlements"), &root.token, passing.clone()).await.ok();
    assert_eq!((&granted["entitlementKey"], &granted["grantedBy"]), (&json!("cap:passing.by"), &json!(root.id)));
    assert_eq!(
        house.call("POST", &path("entitlements"), &root.token, passing).await.refused(),
        (400, "ALREADY_GRANTED")
    );
    house.call("POST", &path("entitlements"), &root.token, json!({ "entitlementKey": "cap:catalog.write" })).await.ok();
    house.call("POST", &path("roles"), &root.token, json!({ "roleKey": "role:publisher" })).await.ok();
    let me = house.get("/api/users/me", &ada.token).await.ok();
    assert_eq!(
        (&me["entitlements"], &me["roles"]),
        (&json!(["cap:catalog.write", "cap:passing.by"]), &json!(["role:publisher"]))
    );
    super::stage::eventually("the grant ends", async || {
        let me = house.get("/api/users/me", &ada.token).await.ok();
        (me["entitlements"] == json!(["cap:catalog.write"])).then_some(())
    })
    .await;
    let listed = house.get(&path("entitlements"), &root.token).await.ok();
    assert_eq!(
        (&listed["entitlements"][0]["expired"], &listed["entitlements"][1]["expired"]),
        (&json!(true), &json!(false))
    );
    house.call("POST", &path("entitlements"), &root.token, json!({ "entitlementKey": "cap:passing.by" })).await.ok();
    for _ in 0..2 {
        house.call("DELETE", &path("entitlements/cap:catalog.write"), &root.token, json!({})).await.ok();
        house.call("DELETE", &path("roles/role:publisher"), &root.token, json!({})).await.ok();
    }
    let me = house.get("/api/auth/me", &ada.token).await.ok();
    assert_eq!((&me["user"]["entitlements"], &me["user"]["roles"]), (&json!(["cap:passing.by"]), &json!([])));
    let nobody = house.get("/api/admin/users/nobody/roles", &root.token).await;
    assert_eq!(nobody.refused(), (404, "NOT_FOUND"));
    house.read_models_are_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_enters_a_foreign_organization_only_with_a_reason_that_stays() {
    let house = House::open().await;
    let (root, ada) = (operator(&house).await, house.register("ada").await);
    let path = format!("/api/orgs/{}", ada.org);
    let before = house.head().await;
    let refused = house.get(&path, &root.token).await;
    assert_eq!(refused.refused(), (403, "ORG_ACCESS_DENIED"));
    assert!(refused.body["hint"].as_str().unwrap().contains("X-Access-Reason"));
    assert_eq!(house.get("/api/orgs/nowhere", &root.token).await.refused(), (404, "NOT_FOUND"));
    assert_eq!(house.head().await, before);
    let bearer = format!("Bearer {}", root.token);
    let headers = [("authorization", bearer.as_str()), ("x-access-reason", "ticket 4711")];
    house.send("GET", &path, &headers, None).await.ok();
    house.send("POST", &format!("{path}/projects"), &headers, Some(json!({ "name": "P", "slug": "p" }))).await.ok();
    assert_eq!(house.send("GET", "/api/orgs/nowhere", &headers, None).await.refused(), (404, "NOT_FOUND"));
    let trail = house.get(&format!("{path}/audit-logs?action=admin.org.accessed"), &ada.token).await.ok();
    assert_eq!(trail.as_array().unwrap().len(), 2);
    assert_eq!((&trail[1]["userId"], &trail[1]["metadataJson"]["reason"]), (&json!(root.id), &json!("ticket 4711")));
    assert_eq!(trail[1]["metadataJson"]["operation"], format!("GET {path}"));

    // The trail: filtered, paged, and without what is personal.
    let all = house.get(&format!("{path}/audit-logs"), &ada.token).await.ok();
    let mut paged = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = house.get(&format!("/api/admin/audit-logs?orgId={}&limit=2{cursor}", ada.org), &root.token).await;
        let next = page.headers.get("x-next-cursor").map(|next| format!("&cursor={}", next.to_str().unwrap()));
        paged.extend(page.ok().as_array().unwrap().clone());
        match next {
            Some(next) => cursor = next,
            None => break,
        }
    }
    assert_eq!(Value::Array(paged), all);
    assert!(all.as_array().unwrap().iter().any(|e| e["action"] == "org.created" && e["resource"] == "organization"));
    let by =
        house.get(&format!("/api/admin/audit-logs?actorId={}&action=project.created", root.id), &root.token).await.ok();
    assert_eq!(by.as_array().unwrap().len(), 1);
    let none = house.get("/api/admin/audit-logs?to=2020-01-01T00:00:00Z", &root.token).await.ok();
    assert_eq!(none, json!([]));
    let odd = house.get("/api/admin/audit-logs?from=yesterday", &root.token).await;
    assert_eq!(odd.refused(), (400, "VALIDATION_FAILED"));
    assert!(!house.get("/api/admin/audit-logs", &root.token).await.ok().to_string().contains("@example.test"));
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_grants_are_noted_and_a_person_who_leaves_over_nats_is_erased() {
    let house = House::open().await;
    let (root, ada) = (operator(&house).await, house.register("ada").await);
    let (nats, keys, stop) = (house.platform.nats.clone(), Arc::clone(&house.keys), CancellationToken::new());
    let sender = Sender::new(house.platform.bus.clone(), Arc::clone(&keys));
    let reactor = Housekeeping::new(nats.clone(), sender, house.platform.secrets.clone());
    tokio::spawn(ReactorRunner::new(nats.clone(), Arc::clone(&keys), Arc::new(reactor)).run(stop.clone()));
    tokio::spawn(TimerWorker::new(nats, keys).run(stop.clone()));

    let soon = OffsetDateTime::now_utc() + time::Duration::seconds(3);
    let soon = soon.format(&time::format_description::well_known::Rfc3339).unwrap();
    let grant = json!({ "roleKey": "role:operator", "expiresAt": soon });
    let roles = format!("/api/admin/users/{}/roles", ada.id);
    let grant = house.call("POST", &roles, &root.token, grant).await.ok();
    super::stage::eventually("the end of the grant is noted", async || {
        let trail = house.get("/api/admin/audit-logs?action=admin.grant.expired", &root.token).await.ok();
        (trail[0]["resourceId"] == ada.id.as_str()).then_some(())
    })
    .await;
    assert_eq!(house.get(&roles, &root.token).await.ok(), json!({ "roles": [] }), "{grant}");

    let address = AggregateRef::new(Service::Identity, OrgId::global(), "user", &ada.id).unwrap();
    let command = UserCommand::from(DeleteUser { user_id: ada.id.clone() });
    let assertion = house.call("POST", "/api/auth/assertion", &ada.token, json!({})).await.ok();
    let (actor, now) = (Actor::service("nobody"), OffsetDateTime::now_utc());
    let mut envelope = CommandEnvelope::new(&house.keys, &address, &command, &actor, CommandId::random(), now).unwrap();
    envelope.actorassertion = assertion["assertion"].as_str().map(str::to_owned);
    let outcome = house.platform.bus.send(&address, &envelope, Duration::from_secs(20)).await.unwrap();
    assert_eq!(outcome.status, OutcomeStatus::Accepted, "{outcome:?}");
    super::stage::eventually("the erasure is confirmed", async || {
        let trail = house.get("/api/admin/audit-logs?action=user.subject_key_destroyed", &root.token).await.ok();
        (trail[0]["resourceId"] == ada.id.as_str()).then_some(())
    })
    .await;
    assert!(house.platform.secrets.subject_key(&ada.id).await.unwrap().is_none());
    stop.cancel();
}
