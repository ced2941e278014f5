//! The first super admin: exactly one, however many come at once.

use futures::future::join_all;
use serde_json::json;

use super::stage::{House, PASSWORD, SETUP_TOKEN};

#[tokio::test(flavor = "multi_thread")]
async fn of_concurrent_claims_exactly_one_succeeds() {
    let house = House::open().await;
    let claims = join_all((0..4).map(|n| {
        let house = &house;
        async move {
            let body = json!({
                "email": format!("admin{n}@example.test"), "password": PASSWORD, "name": "Admin", "orgName": format!("Org {n}"),
            });
            house.send("POST", "/api/bootstrap/claim", &[("x-setup-token", SETUP_TOKEN)], Some(body)).await
        }
    }))
    .await;
    let (won, lost): (Vec<_>, Vec<_>) = claims.into_iter().partition(|a| a.status == 200);
    assert_eq!(won.len(), 1);
    for answer in &lost {
        assert_eq!(answer.refused(), (409, "ALREADY_INITIALIZED"));
    }
    let stats = house.send("GET", "/api/stats", &[], None).await.ok();
    // The winner's organization and the operators'.
    assert_eq!(stats, json!({ "totalUsers": 1, "totalOrgs": 2, "totalAgents": 0 }));
    let ordinary = house.register("late").await;
    assert_eq!(house.get("/api/auth/me", &ordinary.token).await.ok()["user"]["isSuperAdmin"], false);
    let body = json!({ "email": "late2@example.test", "password": PASSWORD, "name": "Late" });
    let late = house.send("POST", "/api/auth/register", &[("x-setup-token", SETUP_TOKEN)], Some(body)).await;
    assert_eq!(late.refused(), (409, "ALREADY_INITIALIZED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_concurrent_first_registrations_on_an_open_platform_exactly_one_is_super_admin() {
    let house = House::with(|settings| settings.open_bootstrap = true).await;
    let registrations = join_all((0..4).map(|n| {
        let house = &house;
        async move {
            let body = json!({ "email": format!("user{n}@example.test"), "password": PASSWORD, "name": "User" });
            house.post("/api/auth/register", body).await.ok()
        }
    }))
    .await;
    assert_eq!(registrations.iter().filter(|r| r["user"]["isSuperAdmin"] == true).count(), 1);
    for registered in &registrations {
        let me = house.get("/api/auth/me", registered["token"].as_str().unwrap()).await.ok();
        assert_eq!(me["user"]["isSuperAdmin"], registered["user"]["isSuperAdmin"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_production_platform_is_never_open() {
    let house = House::with(|settings| {
        settings.open_bootstrap = true;
        settings.production = true;
        settings.cookie_secure = true;
    })
    .await;
    let body = json!({ "email": "first@example.test", "password": PASSWORD, "name": "First" });
    let claimed = house.post("/api/bootstrap/claim", body.clone()).await;
    assert_eq!(claimed.refused(), (403, "SETUP_TOKEN_INVALID"));
    let registered = house.post("/api/auth/register", body).await;
    assert!(registered.headers["set-cookie"].to_str().unwrap().contains("; Secure"));
    assert_eq!(registered.ok()["user"]["isSuperAdmin"], false);
}
