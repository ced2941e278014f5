//! Agents: enrolment, signing in, what their admins do with them, and what strangers cannot.

use serde_json::{Value, json};
use symbia_api::platform::{EnrolmentMode, SecretText};

use super::stage::{House, Person, eventually};

const CREDENTIAL: &str = "credential-of-an-agent-0123456789abcdef-and-longer-than-the-72-bytes-that-bcrypt-reads-A";

fn agent(handle: &str) -> Value {
    json!({
        "agentId": handle, "credential": CREDENTIAL, "name": "Billing",
        "capabilities": ["cap:logs.read", "cap:global.admin"], "metadata": { "version": "1.0" },
    })
}

async fn enrolment_token(house: &House, admin: &Person, capabilities: Value) -> String {
    let body = json!({ "capabilities": capabilities });
    let issued = house.call("POST", "/api/agents/enrolment-tokens", &admin.token, body).await.ok();
    issued["token"].as_str().unwrap().to_owned()
}

async fn enrol(house: &House, admin: &Person, handle: &str) -> Value {
    let token = enrolment_token(house, admin, json!(["cap:messaging.send"])).await;
    house.send("POST", "/api/auth/agent/register", &[("x-enrolment-token", &token)], Some(agent(handle))).await.ok()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_enrols_with_a_token_that_works_once_and_is_granted_what_the_token_says() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let token = enrolment_token(&house, &ada, json!(["cap:messaging.send"])).await;
    let presented = [("x-enrolment-token", token.as_str())];
    let register = async |headers: &[(&str, &str)], body: Value| {
        house.send("POST", "/api/auth/agent/register", headers, Some(body)).await
    };
    let mut elsewhere = agent("assistant:billing");
    elsewhere["orgId"] = json!("another-organization");
    assert_eq!(register(&presented, elsewhere).await.refused(), (403, "ORG_ACCESS_DENIED"));
    let bad = json!({ "agentId": "Not one", "credential": "short", "name": "" });
    let bad = register(&presented, bad).await;
    assert_eq!((bad.refused(), bad.body["details"].as_array().unwrap().len()), ((400, "VALIDATION_FAILED"), 4));

    let registered = register(&presented, agent("assistant:billing")).await;
    assert!(text(&json!(registered.headers["set-cookie"].to_str().unwrap())).starts_with("token=ey"));
    let registered = registered.ok();
    assert_eq!(
        (&registered["agent"]["agentId"], &registered["agent"]["orgId"]),
        (&json!("assistant:billing"), &json!(ada.org))
    );
    let bearer = text(&registered["token"]);
    let me = house.get("/api/auth/me", bearer).await.ok();
    assert_eq!((&me["type"], &me["agent"]["capabilities"]), (&json!("agent"), &json!(["cap:messaging.send"])));
    let own = house.get("/api/auth/agent/me", bearer).await.ok();
    assert_eq!(own["agent"]["metadata"], json!({ "version": "1.0" }));
    let seen = house.post("/api/auth/introspect", json!({ "token": bearer })).await.ok();
    assert_eq!(seen["sub"], registered["agent"]["id"]);
    assert_eq!(
        (&seen["active"], &seen["type"], &seen["agentId"], &seen["orgId"], &seen["capabilities"]),
        (&json!(true), &json!("agent"), &json!("assistant:billing"), &json!(ada.org), &json!(["cap:messaging.send"]))
    );
    assert!(seen.get("email").is_none() && seen.get("organizations").is_none());

    assert_eq!(register(&presented, agent("other")).await.refused(), (403, "ENROLMENT_TOKEN_INVALID"));
    assert_eq!(register(&[], agent("other")).await.refused(), (403, "ENROLMENT_TOKEN_REQUIRED"));
    assert_eq!(
        register(&[("x-enrolment-token", "e30.x")], agent("other")).await.refused(),
        (403, "ENROLMENT_TOKEN_INVALID")
    );
    let second = enrolment_token(&house, &ada, json!([])).await;
    let taken = register(&[("x-enrolment-token", &second)], agent("assistant:billing")).await;
    assert_eq!(taken.refused(), (400, "HANDLE_TAKEN"));
    // Refused, it is not used up.
    register(&[("x-enrolment-token", &second)], agent("other")).await.ok();

    let login = json!({ "agentId": "assistant:billing", "credential": CREDENTIAL });
    let login = house.post("/api/auth/agent/login", login).await.ok();
    assert_eq!(login["agent"]["capabilities"], json!(["cap:messaging.send"]));
    for (handle, credential) in [("assistant:billing", &CREDENTIAL[1..]), ("assistant:nobody", CREDENTIAL)] {
        let wrong = json!({ "agentId": handle, "credential": credential });
        let wrong = house.post("/api/auth/agent/login", wrong).await;
        assert_eq!(wrong.refused(), (401, "CREDENTIALS_INVALID"));
    }
    let refresh = json!({ "refreshToken": login["refreshToken"] });
    let next = house.post("/api/auth/agent/refresh", refresh.clone()).await.ok();
    house.get("/api/auth/agent/me", text(&next["token"])).await.ok();
    assert_eq!(house.post("/api/auth/refresh", refresh).await.refused(), (401, "SESSION_REVOKED"));
    let exchanged = house.call("POST", "/api/auth/refresh", bearer, json!({})).await.ok();
    assert_eq!((&exchanged["type"], &exchanged["agent"]["name"]), (&json!("agent"), &json!("Billing")));
    assert_eq!(house.send("GET", "/api/stats", &[], None).await.ok()["totalAgents"], 2);

    for path in ["/api/users/me", "/api/orgs", "/api/agents", "/api/dashboard", "/api/auth/user/me"] {
        assert_eq!(house.get(path, bearer).await.refused(), (403, "USER_PRINCIPAL_REQUIRED"), "{path}");
    }
    assert_eq!(house.get("/api/auth/agent/me", &ada.token).await.refused(), (403, "AGENT_PRINCIPAL_REQUIRED"));
    let by_user = house.call("POST", "/api/auth/agent/refresh", &ada.token, json!({})).await;
    assert_eq!(by_user.refused(), (403, "AGENT_PRINCIPAL_REQUIRED"));
    house.call("POST", "/api/auth/logout", bearer, json!({})).await.ok();
    assert_eq!(house.get("/api/auth/agent/me", bearer).await.refused(), (401, "SESSION_REVOKED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_deactivates_rotates_approves_and_deletes_and_each_takes_effect_at_once() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let registered = enrol(&house, &ada, "assistant:billing").await;
    let path = format!("/api/agents/{}", text(&registered["agent"]["id"]));
    let bearer = text(&registered["token"]).to_owned();
    let order = async |verb: &str, body: Value| house.call("POST", &format!("{path}/{verb}"), &ada.token, body).await;
    let login = async |credential: &str| {
        let body = json!({ "agentId": "assistant:billing", "credential": credential });
        house.post("/api/auth/agent/login", body).await
    };

    assert_eq!(order("deactivate", json!({ "reason": "odd" })).await.ok()["isActive"], false);
    assert_eq!(house.get("/api/auth/agent/me", &bearer).await.refused(), (401, "SESSION_REVOKED"));
    let inactive = house.post("/api/auth/introspect", json!({ "token": bearer })).await.ok();
    assert_eq!(inactive, json!({ "active": false }));
    assert_eq!(login(CREDENTIAL).await.refused(), (401, "CREDENTIALS_INVALID"));
    assert_eq!(order("activate", json!({})).await.ok()["isActive"], true);
    // What was ended stays ended.
    assert_eq!(house.get("/api/auth/agent/me", &bearer).await.refused(), (401, "SESSION_REVOKED"));
    let bearer = text(&login(CREDENTIAL).await.ok()["token"]).to_owned();

    let details = house.get(&path, &ada.token).await.ok();
    assert_eq!(details["requestedCapabilities"], json!(["cap:logs.read", "cap:global.admin"]));
    let approve = async |capabilities: Value| {
        house.call("PATCH", &path, &ada.token, json!({ "capabilities": capabilities, "name": "Bills" })).await
    };
    assert_eq!(approve(json!(["cap:global.admin"])).await.refused(), (403, "MISSING_CAPABILITY"));
    let approved = approve(json!(["cap:logs.read"])).await.ok();
    assert_eq!(
        (&approved["capabilities"], &approved["requestedCapabilities"], &approved["name"]),
        (&json!(["cap:logs.read"]), &json!(["cap:global.admin"]), &json!("Bills"))
    );
    assert_eq!(house.get("/api/auth/me", &bearer).await.ok()["agent"]["capabilities"], json!(["cap:logs.read"]));

    let rotated = order("rotate", json!({ "graceSeconds": 3600 })).await.ok();
    let second = text(&rotated["credential"]).to_owned();
    for credential in [CREDENTIAL, &second] {
        login(credential).await.ok();
    }
    house.get("/api/auth/agent/me", &bearer).await.ok();
    let third = "x".repeat(32);
    assert!(order("rotate", json!({ "credential": third })).await.ok().get("credential").is_none());
    for credential in [CREDENTIAL, &second] {
        assert_eq!(login(credential).await.refused(), (401, "CREDENTIALS_INVALID"));
    }
    assert_eq!(house.get("/api/auth/agent/me", &bearer).await.refused(), (401, "SESSION_REVOKED"));
    let bearer = text(&login(&third).await.ok()["token"]).to_owned();
    eventually("seen", async || {
        house.get("/api/auth/agent/me", &bearer).await.ok();
        let agent = house.get(&path, &ada.token).await.ok();
        agent["lastSeenAt"].is_string().then_some(())
    })
    .await;

    let list = house.get("/api/agents", &ada.token).await.ok();
    assert_eq!(list["agents"].as_array().unwrap().len(), 1);
    assert!(!list.to_string().contains("credential"), "{list}");
    house.call("DELETE", &path, &ada.token, json!({})).await.ok();
    assert_eq!(house.get("/api/auth/agent/me", &bearer).await.refused(), (401, "SESSION_REVOKED"));
    assert_eq!(house.get(&path, &ada.token).await.refused(), (404, "NOT_FOUND"));
    assert_eq!(login(&third).await.refused(), (401, "CREDENTIALS_INVALID"));
    let again = agent("assistant:billing");
    let again = house.call("POST", "/api/agents", &ada.token, again).await;
    assert_eq!(again.refused(), (403, "MISSING_CAPABILITY"), "what an admin may not grant");
    let mut again = agent("assistant:billing");
    again["capabilities"] = json!([]);
    assert_eq!(house.call("POST", "/api/agents", &ada.token, again).await.refused(), (400, "HANDLE_TAKEN"));
    house.read_models_are_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mode_of_enrolment_decides_who_gets_in_with_what() {
    let installation = "installation-CANARY-0d8b";
    let house = House::with(|settings| {
        settings.enrolment = EnrolmentMode::Open;
        settings.enrolment_token = Some(SecretText::new(installation));
    })
    .await;
    let ada = house.register("ada").await;
    let open = house.post("/api/auth/agent/register", agent("walk-in")).await.ok();
    assert_eq!(open["agent"]["orgId"], Value::Null);
    assert_eq!(open["agent"]["capabilities"], json!(["cap:messaging.send", "cap:messaging.receive"]));
    let mut member = agent("intruder");
    member["orgId"] = json!(ada.org);
    let refused = house.post("/api/auth/agent/register", member.clone()).await;
    assert_eq!(refused.refused(), (403, "ENROLMENT_TOKEN_REQUIRED"));
    let headers = [("x-enrolment-token", installation)];
    let trusted = house.send("POST", "/api/auth/agent/register", &headers, Some(member.clone())).await.ok();
    assert_eq!(trusted["agent"]["capabilities"], json!(["cap:logs.read", "cap:global.admin"]));
    member["agentId"] = json!("lost");
    member["orgId"] = json!("nowhere");
    let unknown = house.send("POST", "/api/auth/agent/register", &headers, Some(member)).await;
    assert_eq!(unknown.refused(), (400, "ORG_UNKNOWN"));

    let closed = House::with(|settings| settings.enrolment = EnrolmentMode::Closed).await;
    let refused = closed.post("/api/auth/agent/register", agent("walk-in")).await;
    assert_eq!(refused.refused(), (403, "ENROLMENT_CLOSED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_neither_sees_nor_changes_the_agents_of_an_organization() {
    let house = House::open().await;
    let (ada, eve) = (house.register("ada").await, house.register("eve").await);
    let bob = house.register("bob").await;
    let invite = json!({ "email": bob.email, "role": "member" });
    house.call("POST", &format!("/api/orgs/{}/members/invite", ada.org), &ada.token, invite).await.ok();
    let registered = enrol(&house, &ada, "assistant:billing").await;
    let path = format!("/api/agents/{}", text(&registered["agent"]["id"]));
    let mut planted = agent("planted");
    planted["orgId"] = json!(ada.org);
    let before = house.head().await;
    for (method, path, body) in [
        ("GET", path.clone(), None),
        ("PATCH", path.clone(), Some(json!({ "name": "Eve's" }))),
        ("DELETE", path.clone(), None),
        ("POST", format!("{path}/rotate"), Some(json!({}))),
        ("POST", format!("{path}/activate"), Some(json!({}))),
        ("POST", format!("{path}/deactivate"), Some(json!({}))),
        ("GET", format!("/api/agents?orgId={}", ada.org), None),
        ("POST", "/api/agents".to_owned(), Some(planted)),
        ("POST", "/api/agents/enrolment-tokens".to_owned(), Some(json!({ "orgId": ada.org }))),
    ] {
        let bearers = [&eve.token, &bob.token].map(|token| format!("Bearer {token}"));
        for (who, bearer) in ["a stranger", "a mere member"].iter().zip(&bearers) {
            let forged = [("authorization", bearer.as_str()), ("x-org-id", &ada.org), ("x-service-id", "assistants")];
            let answer = house.send(method, &path, &forged, body.clone()).await;
            assert!([403, 404].contains(&answer.status.as_u16()), "{who}: {method} {path}: {}", answer.body);
            assert!(!answer.body.to_string().contains("Billing"), "{}", answer.body);
        }
        assert_eq!(house.send(method, &path, &[], body).await.refused(), (401, "AUTH_REQUIRED"), "{method} {path}");
    }
    assert_eq!(house.get("/api/agents", &eve.token).await.ok()["agents"], json!([]));
    assert_eq!(house.head().await, before);

    // With the organization, its agents are gone.
    house.call("DELETE", &format!("/api/orgs/{}", ada.org), &ada.token, json!({})).await.ok();
    let orphan = house.get("/api/auth/agent/me", text(&registered["token"])).await;
    assert_eq!(orphan.refused(), (401, "SESSION_REVOKED"));
    assert_eq!(house.send("GET", "/api/stats", &[], None).await.ok()["totalAgents"], 0);
}
