//! Projects, applications, services and what they may use: the life of all of them, and who may do what.

use serde_json::{Value, json};

use super::stage::{House, Person};

fn id(body: &Value) -> String {
    body["id"].as_str().unwrap().to_owned()
}

async fn add(house: &House, admin: &Person, who: &Person, role: &str) {
    let path = format!("/api/orgs/{}/members/invite", admin.org);
    house.call("POST", &path, &admin.token, json!({ "email": who.email, "role": role })).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_with_its_applications_and_services_from_first_to_last() {
    let house = House::open().await;
    let (ada, bob, vic) = (house.register("ada").await, house.register("bob").await, house.register("vic").await);
    add(&house, &ada, &bob, "member").await;
    add(&house, &ada, &vic, "viewer").await;
    let projects = format!("/api/orgs/{}/projects", ada.org);
    let new = json!({ "name": "Shop", "slug": "shop", "description": "Sells" });
    assert_eq!(house.call("POST", &projects, &vic.token, new.clone()).await.refused(), (403, "INSUFFICIENT_ROLE"));
    let project = house.call("POST", &projects, &bob.token, new.clone()).await.ok();
    assert_eq!((&project["status"], &project["orgId"]), (&json!("active"), &json!(ada.org)));
    assert_eq!(house.call("POST", &projects, &bob.token, new).await.refused(), (409, "SLUG_TAKEN"));
    let odd = house.call("POST", &projects, &bob.token, json!({ "name": "X", "slug": "No Slug" })).await;
    assert_eq!(odd.refused(), (400, "VALIDATION_FAILED"));
    assert_eq!(house.get(&projects, &vic.token).await.ok(), json!({ "projects": [project] }));

    let path = format!("/api/projects/{}", id(&project));
    let app = json!({ "name": "Web", "slug": "web", "repoUrl": "https://ada:pw-CANARY@git.example.test/web" });
    let app = house.call("POST", &format!("{path}/applications"), &bob.token, app).await.ok();
    assert_eq!(app["repoUrl"], "https://git.example.test/web");
    assert_eq!(
        (&app["environment"], &app["appType"], &app["metadataJson"]),
        (&json!("development"), &json!("web"), &json!({}))
    );
    let service =
        json!({ "name": "Orders", "serviceType": "database", "endpointUrl": "postgres://u:pw-CANARY@db/orders" });
    let service = house.call("POST", &format!("{path}/services"), &bob.token, service).await.ok();
    assert_eq!((&service["endpointUrl"], &service["status"]), (&json!("postgres://db/orders"), &json!("active")));
    let bad = house
        .call("POST", &format!("{path}/services"), &bob.token, json!({ "name": "X", "serviceType": "toaster" }))
        .await;
    assert_eq!(bad.refused(), (400, "VALIDATION_FAILED"));

    let (app_path, service_path) =
        (format!("/api/applications/{}", id(&app)), format!("/api/services/{}", id(&service)));
    let link = format!("{app_path}/services/{}", id(&service));
    assert_eq!(house.call("POST", &link, &vic.token, json!({})).await.refused(), (403, "INSUFFICIENT_ROLE"));
    let linked = house.call("POST", &link, &bob.token, json!({})).await.ok();
    assert_eq!(house.call("POST", &link, &bob.token, json!({})).await.ok(), linked, "linking twice is one link");
    assert_eq!(house.get(&app_path, &vic.token).await.ok()["services"], json!([service]));
    house.call("DELETE", &link, &bob.token, json!({})).await.ok();
    house.call("DELETE", &link, &bob.token, json!({})).await.ok();
    assert_eq!(house.get(&app_path, &vic.token).await.ok()["services"], json!([]));
    house.call("POST", &link, &bob.token, json!({})).await.ok();

    let before = house.head().await;
    for (path, same) in [(&path, &project), (&app_path, &app), (&service_path, &service)] {
        assert_eq!(&house.call("PATCH", path, &bob.token, json!({})).await.ok(), same);
    }
    assert_eq!(house.head().await, before, "no change is no event");
    let changed = house
        .call("PATCH", &path, &bob.token, json!({ "status": "archived", "description": null, "slug": "x" }))
        .await
        .ok();
    assert_eq!(
        (&changed["status"], &changed["description"], &changed["slug"]),
        (&json!("archived"), &Value::Null, &json!("shop"))
    );
    let changed =
        house.call("PATCH", &app_path, &bob.token, json!({ "environment": "production", "repoUrl": "" })).await.ok();
    assert_eq!((&changed["environment"], &changed["repoUrl"]), (&json!("production"), &Value::Null));
    let changed =
        house.call("PATCH", &service_path, &bob.token, json!({ "status": "error", "provider": "pg" })).await.ok();
    assert_eq!((&changed["status"], &changed["provider"]), (&json!("error"), &json!("pg")));
    let lost = house.call("PATCH", &service_path, &bob.token, json!({ "status": "lost" })).await;
    assert_eq!(lost.refused(), (400, "VALIDATION_FAILED"));

    let details = house.get(&path, &vic.token).await.ok();
    assert_eq!(details["applications"].as_array().unwrap().len(), 1);
    assert_eq!(details["services"].as_array().unwrap().len(), 1);
    assert_eq!(house.call("DELETE", &path, &bob.token, json!({})).await.refused(), (403, "INSUFFICIENT_ROLE"));
    house.call("DELETE", &path, &ada.token, json!({})).await.ok();
    for gone in [&path, &app_path, &service_path] {
        assert_eq!(house.get(gone, &ada.token).await.refused(), (404, "NOT_FOUND"), "{gone}");
    }
    // The slug is free again.
    house.call("POST", &projects, &bob.token, json!({ "name": "Shop", "slug": "shop" })).await.ok();
    for (_, answer) in house.answers.lock().unwrap().iter() {
        assert!(!answer.contains("pw-CANARY"), "{answer}");
    }
    house.read_models_are_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_used_once_per_use_and_never_beyond() {
    let house = House::open().await;
    let (ada, bob) = (house.register("ada").await, house.register("bob").await);
    add(&house, &ada, &bob, "member").await;
    let project = json!({ "name": "Shop", "slug": "shop" });
    let project = house.call("POST", &format!("/api/orgs/{}/projects", ada.org), &ada.token, project).await.ok();
    let all = "/api/scoped-entitlements";
    let new = json!({ "scopeType": "project", "scopeId": id(&project), "featureKey": "api.calls", "quota": 5,
                      "expiresAt": "2099-01-01T00:00:00Z" });
    assert_eq!(house.call("POST", all, &bob.token, new.clone()).await.refused(), (403, "INSUFFICIENT_ROLE"));
    let made = house.call("POST", all, &ada.token, new.clone()).await.ok();
    assert_eq!((&made["consumed"], &made["enabled"], &made["trancheId"]), (&json!(0), &json!(true), &Value::Null));
    assert_eq!(house.call("POST", all, &ada.token, new).await.refused(), (409, "ENTITLEMENT_TAKEN"));
    let odd =
        house.call("POST", all, &ada.token, json!({ "scopeType": "galaxy", "scopeId": "x", "featureKey": "f" })).await;
    assert_eq!(odd.refused(), (400, "VALIDATION_FAILED"));
    let nowhere =
        house.call("POST", all, &ada.token, json!({ "scopeType": "service", "scopeId": "x", "featureKey": "f" })).await;
    assert_eq!(nowhere.refused(), (404, "NOT_FOUND"));

    let path = format!("{all}/{}", id(&made));
    let consume = format!("{path}/consume");
    let first = json!({ "amount": 3, "idempotencyKey": "k1" });
    let left = json!({ "remaining": 2, "consumed": 3, "quota": 5 });
    assert_eq!(house.call("POST", &consume, &ada.token, first.clone()).await.ok(), left);
    assert_eq!(house.call("POST", &consume, &ada.token, first).await.ok(), left, "the same use again");
    let more = house.call("POST", &consume, &ada.token, json!({ "amount": 3 })).await;
    assert_eq!((more.refused(), &more.body["remaining"]), ((409, "QUOTA_EXCEEDED"), &json!(2)));
    assert_eq!(
        house.call("POST", &consume, &bob.token, json!({ "amount": 1 })).await.refused(),
        (403, "INSUFFICIENT_ROLE")
    );
    let uses = (0..6).map(|_| house.call("POST", &consume, &ada.token, json!({ "amount": 1 })));
    let answers = futures::future::join_all(uses).await;
    let allowed = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(allowed, 2, "side by side no more than is left");

    let changed = house.call("PATCH", &path, &ada.token, json!({ "quota": 9 })).await.ok();
    assert_eq!((&changed["quota"], &changed["expiresAt"]), (&json!(9), &json!("2099-01-01T00:00:00.000Z")));
    let changed = house.call("PATCH", &path, &ada.token, json!({ "expiresAt": null, "enabled": false })).await.ok();
    assert_eq!((&changed["quota"], &changed["expiresAt"]), (&json!(9), &Value::Null));
    let off = house.call("POST", &consume, &ada.token, json!({ "amount": 1 })).await;
    assert_eq!(off.refused(), (409, "ENTITLEMENT_INACTIVE"));
    let listed = house.get(&format!("{all}/project/{}", id(&project)), &bob.token).await.ok();
    assert_eq!(listed["entitlements"][0]["consumed"], 5);
    house.call("DELETE", &path, &ada.token, json!({})).await.ok();
    assert_eq!(house.call("DELETE", &path, &ada.token, json!({})).await.refused(), (404, "NOT_FOUND"));
    house.read_models_are_what_the_log_says().await;
}
