//! The main story, and asking twice for the same thing.

use std::time::Duration;

use serde_json::json;

use super::stage::{House, PASSWORD, SETUP_TOKEN, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn from_the_first_claim_to_a_second_member_and_out_again() {
    let house = House::open().await;
    assert_eq!(house.send("GET", "/api/bootstrap/state", &[], None).await.ok(), json!({ "initialized": false }));
    let claim = json!({ "email": "Ada@Example.test", "password": PASSWORD, "name": "Ada", "orgName": "Acme & Sons" });
    let wrong = house.send("POST", "/api/bootstrap/claim", &[("x-setup-token", "guess")], Some(claim.clone())).await;
    assert_eq!(wrong.refused(), (403, "SETUP_TOKEN_INVALID"));
    let claimed = house.send("POST", "/api/bootstrap/claim", &[("x-setup-token", SETUP_TOKEN)], Some(claim)).await;
    let cookie = claimed.headers["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.starts_with("token=ey") && cookie.contains("HttpOnly") && cookie.contains("Path=/"), "{cookie}");
    let claimed = claimed.ok();
    assert_eq!(claimed["user"]["isSuperAdmin"], true);
    assert_eq!(claimed["organization"]["slug"], "acme-sons");
    assert_eq!(house.send("GET", "/api/bootstrap/state", &[], None).await.ok(), json!({ "initialized": true }));

    let login = house.post("/api/auth/login", json!({ "email": " ada@example.TEST", "password": PASSWORD })).await.ok();
    let ada = House::person(&login, "ada@example.test".to_owned());
    assert_eq!(login["user"]["email"], "Ada@Example.test");
    assert_eq!(login["user"]["organizations"].as_array().unwrap().len(), 2);
    assert!(login["user"].get("isSuperAdmin").is_none() && login["expiresAt"].is_i64());
    let me = house.get("/api/auth/me", &ada.token).await.ok();
    assert_eq!(
        (&me["type"], &me["user"]["isSuperAdmin"], &me["user"]["name"]),
        (&json!("user"), &json!(true), &json!("Ada"))
    );
    let orgs: Vec<&str> = me["organizations"].as_array().unwrap().iter().map(|o| o["slug"].as_str().unwrap()).collect();
    assert_eq!(orgs, ["acme-sons", "symbia-system"]);
    let by_cookie = house.send("GET", "/api/users/me", &[("cookie", &format!("token={}", ada.token))], None).await.ok();
    assert_eq!(by_cookie["id"], me["user"]["id"]);

    let org = house.call("POST", "/api/orgs", &ada.token, json!({ "name": "Research Lab" })).await.ok();
    assert_eq!(org["slug"], "research-lab");
    let taken = house.call("POST", "/api/orgs", &ada.token, json!({ "name": "X", "slug": "research-lab" })).await;
    assert_eq!(taken.refused(), (400, "SLUG_TAKEN"));
    let path = format!("/api/orgs/{}", org["id"].as_str().unwrap());
    let invite = format!("{path}/members/invite");
    let stranger =
        house.call("POST", &invite, &ada.token, json!({ "email": "bob@example.test", "role": "member" })).await;
    assert_eq!(stranger.refused(), (400, "USER_UNKNOWN"));
    let bob = house.register("bob").await;
    let wrong = house.call("POST", &invite, &ada.token, json!({ "email": bob.email, "role": "owner" })).await;
    assert_eq!(wrong.refused(), (400, "VALIDATION_FAILED"));
    let membership =
        house.call("POST", &invite, &ada.token, json!({ "email": bob.email, "role": "viewer" })).await.ok();
    assert_eq!((&membership["userId"], &membership["role"]), (&json!(bob.id), &json!("viewer")));
    let again = house.call("POST", &invite, &ada.token, json!({ "email": bob.email, "role": "viewer" })).await;
    assert_eq!(again.refused(), (400, "ALREADY_MEMBER"));

    let details = house.get(&path, &bob.token).await.ok();
    assert_eq!(details["organization"]["plan"]["name"], "free");
    assert_eq!(details["members"].as_array().unwrap().len(), 2);
    assert!(!details.to_string().to_lowercase().contains("password"), "{details}");
    let forbidden = house.call("POST", &invite, &bob.token, json!({ "email": ada.email, "role": "viewer" })).await;
    assert_eq!(forbidden.refused(), (403, "INSUFFICIENT_ROLE"));

    let member = format!("{path}/members/{}", membership["id"].as_str().unwrap());
    let admin = house.call("PATCH", &member, &ada.token, json!({ "role": "admin" })).await.ok();
    assert_eq!(admin["role"], "admin");
    let renamed = house.call("PATCH", &path, &bob.token, json!({ "name": "Lab" })).await.ok();
    assert_eq!(renamed["name"], "Lab");
    let own = house.get(&path, &ada.token).await.ok();
    let own = own["members"].as_array().unwrap().iter().find(|m| m["userId"] == ada.id.as_str()).unwrap()["id"].clone();
    house.call("DELETE", &format!("{path}/members/{}", own.as_str().unwrap()), &bob.token, json!({})).await.ok();
    let last = house.call("DELETE", &format!("{path}/members/me"), &bob.token, json!({})).await;
    assert_eq!(last.refused(), (409, "LAST_ADMIN"));
    let demoted = house.call("PATCH", &member, &bob.token, json!({ "role": "viewer" })).await;
    assert_eq!(demoted.refused(), (409, "LAST_ADMIN"));
    house.call("DELETE", &path, &bob.token, json!({})).await.ok();
    assert_eq!(house.get(&path, &bob.token).await.refused(), (404, "NOT_FOUND"));

    let unchanged = house.call("PATCH", "/api/users/me", &ada.token, json!({})).await.ok();
    assert_eq!(unchanged["name"], "Ada");
    let renamed = house.call("PATCH", "/api/users/me", &ada.token, json!({ "name": "Ada L." })).await.ok();
    assert_eq!(renamed["name"], "Ada L.");
    assert_eq!(house.get("/api/users/me", &ada.token).await.ok()["name"], "Ada L.");

    let stats = house.send("GET", "/api/stats", &[], None).await.ok();
    assert_eq!(stats, json!({ "totalUsers": 2, "totalOrgs": 3, "totalAgents": 0 }));
    let cleared = house.call("POST", "/api/auth/logout", &ada.token, json!({})).await;
    assert!(cleared.headers["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    cleared.ok();
    assert_eq!(house.get("/api/auth/me", &ada.token).await.refused(), (401, "SESSION_REVOKED"));
    let inactive = house.post("/api/auth/introspect", json!({ "token": ada.token })).await.ok();
    assert_eq!(inactive, json!({ "active": false }));
    house.read_models_are_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_again_is_done_once() {
    let house = House::open().await;
    let registration = json!({ "email": "ada@example.test", "password": PASSWORD, "name": "Ada", "orgName": "Acme" });
    let key = [("idempotency-key", "first")];
    let first = house.send("POST", "/api/auth/register", &key, Some(registration.clone())).await.ok();
    let again = house.send("POST", "/api/auth/register", &key, Some(registration.clone())).await.ok();
    assert_eq!((&first["user"], &first["organization"]), (&again["user"], &again["organization"]));
    assert_ne!(first["refreshToken"], again["refreshToken"]);
    let mut guess = registration.clone();
    guess["password"] = json!("another-password");
    let guessed = house.send("POST", "/api/auth/register", &key, Some(guess)).await;
    assert_eq!(guessed.refused(), (400, "EMAIL_TAKEN"));
    assert_eq!(house.post("/api/auth/register", registration).await.refused(), (400, "EMAIL_TAKEN"));
    house.post("/api/auth/login", json!({ "email": "ada@example.test", "password": PASSWORD })).await.ok();

    let token = first["token"].as_str().unwrap();
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "org-1")];
    let new = json!({ "name": "Lab" });
    let (one, two) = tokio::join!(
        house.send("POST", "/api/orgs", &headers, Some(new.clone())),
        house.send("POST", "/api/orgs", &headers, Some(new.clone()))
    );
    let (one, two) = (one.ok(), two.ok());
    assert_eq!(one, two);
    let before = house.head().await;
    assert_eq!(house.send("POST", "/api/orgs", &headers, Some(new)).await.ok(), one);
    assert_eq!(house.head().await, before);
    assert_eq!(house.get("/api/orgs", token).await.ok()["orgs"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_whose_slug_is_lost_meanwhile_leaves_nothing() {
    let house = House::open().await;
    let racer = |n: u32| {
        let house = &house;
        async move {
            let email = format!("racer{n}@example.test");
            let body = json!({ "email": email, "password": PASSWORD, "name": "Racer", "orgName": "Same Name" });
            (email, house.post("/api/auth/register", body).await)
        }
    };
    let answers = tokio::join!(racer(1), racer(2), racer(3));
    let answers = [answers.0, answers.1, answers.2];
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(_, a)| a.status == 200);
    assert_eq!((won.len(), lost.len()), (1, 2));
    for (email, answer) in lost {
        assert_eq!(answer.refused(), (400, "SLUG_TAKEN"));
        let login = house.post("/api/auth/login", json!({ "email": email, "password": PASSWORD })).await;
        assert_eq!(login.refused(), (401, "CREDENTIALS_INVALID"));
        // The address is free again.
        let body = json!({ "email": email, "password": PASSWORD, "name": "Racer" });
        house.post("/api/auth/register", body).await.ok();
    }
    let stats = house.send("GET", "/api/stats", &[], None).await.ok();
    assert_eq!(stats, json!({ "totalUsers": 3, "totalOrgs": 1, "totalAgents": 0 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_is_undone_when_only_the_log_knows_that_the_slug_is_taken() {
    let house = House::with(|settings| settings.visible_within = Duration::from_millis(200)).await;
    house.stop_projector().await;
    let body = |name: &str| json!({ "email": format!("{name}@example.test"), "password": PASSWORD, "name": name, "orgName": "Same Name" });
    let ada = house.post("/api/auth/register", body("ada")).await.ok();
    let token = ada["token"].as_str().unwrap();
    // The token is good; whether it is accepted cannot be known yet.
    assert_eq!(house.get("/api/auth/me", token).await.refused(), (503, "SERVICE_UNAVAILABLE"));
    assert_eq!(house.post("/api/auth/register", body("bob")).await.refused(), (400, "SLUG_TAKEN"));
    assert_eq!(house.post("/api/auth/register", body("ada")).await.refused(), (400, "EMAIL_TAKEN"));

    house.start_projector().await;
    eventually("accepted", async || Some(house.get("/api/auth/me", token).await).filter(|a| a.status == 200)).await;
    let login = house.post("/api/auth/login", json!({ "email": "bob@example.test", "password": PASSWORD })).await;
    assert_eq!(login.refused(), (401, "CREDENTIALS_INVALID"));
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM vault.secrets WHERE destroyed IS NULL")
        .fetch_one(&house.pool)
        .await
        .unwrap();
    assert_eq!(kept, 2, "ada's key and password");
    let free = json!({ "email": "bob@example.test", "password": PASSWORD, "name": "Bob" });
    house.post("/api/auth/register", free).await.ok();
}
