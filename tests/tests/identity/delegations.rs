//! Agents in people's names: a delegation that lasts, one that ends in the middle of a run, an approval above the limit, and
//! scopes that do not widen.

use serde_json::{Value, json};
use symbia_projections::Scope;

use super::{
    passwords::Outbox,
    stage::{Answer, House, Person, eventually},
};

const CREDENTIAL: &str = "the-credential-of-an-agent-0123456789abcdef";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const DELEGATION: &str = "urn:symbia:params:oauth:token-type:delegation";

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

/// An agent's own token.
async fn agent(house: &House, admin: &Person, handle: &str) -> String {
    let body = json!({ "capabilities": ["cap:messaging.send"] });
    let issued = house.call("POST", "/api/agents/enrolment-tokens", &admin.token, body).await.ok();
    let body = json!({ "agentId": handle, "credential": CREDENTIAL, "name": "Agent" });
    let token = text(&issued["token"]);
    let registered = house.send("POST", "/api/auth/agent/register", &[("x-enrolment-token", &token)], Some(body)).await;
    text(&registered.ok()["token"])
}

async fn delegate(house: &House, person: &Person, more: Value) -> String {
    let mut body =
        json!({ "agentId": "agent:a", "scopes": ["cap:identity.read", "cap:identity.manage-orgs", "role:admin"] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let granted = house.call("POST", "/api/delegations", &person.token, body).await;
    assert_eq!(granted.status, 201, "{}", granted.body);
    text(&granted.body["id"])
}

async fn exchange(house: &House, subject: (&str, &str), actor: &str, more: &[(&str, &str)]) -> Answer {
    let mut form = vec![
        ("grant_type", EXCHANGE),
        ("subject_token", subject.0),
        ("subject_token_type", subject.1),
        ("actor_token", actor),
        ("actor_token_type", ACCESS_TOKEN),
    ];
    form.extend_from_slice(more);
    let body = form.iter().map(|(k, v)| format!("{k}={}", v.replace('+', "%2B").replace(' ', "+").replace('&', "%26")));
    let body = body.collect::<Vec<_>>().join("&");
    house.send_raw("/api/oauth/token", &[("content-type", "application/x-www-form-urlencoded")], body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegation_lasts_and_every_event_names_the_person_and_the_agent() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let a = agent(&house, &ada, "agent:a").await;
    // Without one, there is nothing to exchange.
    assert_eq!(exchange(&house, ("nothing", DELEGATION), &a, &[]).await.refused(), (400, "INVALID_GRANT"));
    let id = delegate(&house, &ada, json!({})).await;
    for round in ["first", "second"] {
        // Days may lie between: the person is not there, and their session may be over.
        if round == "second" {
            house.call("POST", "/api/auth/logout-all", &ada.token, json!({})).await.ok();
        }
        let granted = exchange(&house, (&id, DELEGATION), &a, &[]).await.ok();
        assert_eq!((&granted["token_type"], &granted["issued_token_type"]), (&json!("Bearer"), &json!(ACCESS_TOKEN)));
        assert_eq!(granted["scope"], "cap:identity.read cap:identity.manage-orgs role:admin");
        let token = text(&granted["access_token"]);
        let told = house.post("/api/auth/introspect", json!({ "token": token })).await.ok();
        assert_eq!(
            (&told["sub"], &told["act"], &told["aud"]),
            (&json!(ada.id), &json!({ "sub": "agent:a" }), &json!("symbia"))
        );
        let name = format!("Named by an agent, {round}");
        house.call("PATCH", &format!("/api/orgs/{}", ada.org), &token, json!({ "name": name })).await.ok();
        let orgs = house.get("/api/orgs", &token).await.ok();
        assert_eq!(orgs["organizations"][0]["name"], json!(name));
    }
    let mut tx = house.platform.read(&Scope::platform()).await.unwrap();
    let named: Vec<(String, String, Option<String>)> = sqlx::query_as(
        "SELECT actor_id, actor_type, on_behalf_of FROM identity.audit_trail WHERE type LIKE '%organization-renamed%'",
    )
    .fetch_all(&mut *tx)
    .await
    .unwrap();
    let expected = ("agent:a".to_owned(), "agent".to_owned(), Some(ada.id.clone()));
    assert_eq!(named, [expected.clone(), expected]);

    // What is the person's own stays theirs, whatever the scopes.
    let token = text(&exchange(&house, (&id, DELEGATION), &a, &[]).await.ok()["access_token"]);
    let admin =
        delegate(&house, &relogin(&house, &ada).await, json!({ "scopes": ["cap:identity.admin", "role:admin"] })).await;
    let admin = text(&exchange(&house, (&admin, DELEGATION), &a, &[]).await.ok()["access_token"]);
    for token in [&token, &admin] {
        let body = json!({ "currentPassword": super::stage::PASSWORD, "newPassword": "taken over 1" });
        let taken = house.call("POST", "/api/users/me/password", token, body).await;
        assert_eq!(taken.status, 403, "{}", taken.body);
        let body = json!({ "agentId": "agent:a", "scopes": ["cap:global.admin"] });
        assert_eq!(house.call("POST", "/api/delegations", token, body).await.status, 403);
        assert_eq!(house.call("POST", "/api/auth/logout-all", token, json!({})).await.status, 403);
    }
}

async fn relogin(house: &House, person: &Person) -> Person {
    let body = json!({ "email": person.email, "password": super::stage::PASSWORD });
    let login = house.post("/api/auth/login", body).await.ok();
    Person { token: text(&login["token"]), ..person.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegation_that_is_revoked_in_the_middle_of_a_run_stops_the_agent_at_once() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let eve = house.register("eve").await;
    let a = agent(&house, &ada, "agent:a").await;
    let b = agent(&house, &ada, "agent:b").await;
    let id = delegate(&house, &ada, json!({ "mayAct": ["agent:b"] })).await;
    let token = text(&exchange(&house, (&id, DELEGATION), &a, &[]).await.ok()["access_token"]);
    let passed_on = text(&exchange(&house, (&token, ACCESS_TOKEN), &b, &[]).await.ok()["access_token"]);
    let path = format!("/api/orgs/{}", ada.org);
    for (n, token) in [&token, &passed_on].into_iter().enumerate() {
        house.call("PATCH", &path, token, json!({ "name": format!("Step {n}") })).await.ok();
    }
    // Strangers neither see nor end it.
    let delegation = format!("/api/delegations/{id}");
    assert_eq!(house.get(&delegation, &eve.token).await.refused(), (404, "NOT_FOUND"));
    assert_eq!(house.call("DELETE", &delegation, &eve.token, json!({})).await.refused(), (404, "NOT_FOUND"));
    house.call("DELETE", &delegation, &ada.token, json!({})).await.ok();
    for token in [&token, &passed_on] {
        let stopped = house.call("PATCH", &path, token, json!({ "name": "One step too far" })).await;
        assert_eq!(stopped.refused(), (401, "SESSION_REVOKED"));
        let told = house.post("/api/auth/introspect", json!({ "token": token })).await.ok();
        assert_eq!(told, json!({ "active": false }));
    }
    assert_eq!(exchange(&house, (&id, DELEGATION), &a, &[]).await.refused(), (400, "INVALID_GRANT"));
    let own = house.get(&path, &ada.token).await.ok();
    assert_eq!(own["organization"]["name"], "Step 1");
    // Whoever is deactivated does not act in anybody's name either.
    let id = delegate(&house, &ada, json!({})).await;
    let token = text(&exchange(&house, (&id, DELEGATION), &a, &[]).await.ok()["access_token"]);
    let agents = house.get(&format!("/api/agents?orgId={}", ada.org), &ada.token).await.ok();
    let agents = agents["agents"].as_array().unwrap();
    let row = agents.iter().find(|agent| agent["agentId"] == "agent:a").unwrap();
    let deactivate = format!("/api/agents/{}/deactivate", text(&row["id"]));
    house.call("POST", &deactivate, &ada.token, json!({})).await.ok();
    assert_eq!(house.get("/api/orgs", &token).await.refused(), (401, "SESSION_REVOKED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_weighs_more_than_the_limit_waits_for_the_person_and_happens_once() {
    let (house, outbox) = Outbox::house().await;
    let ada = house.register("ada").await;
    let eve = house.register("eve").await;
    let a = agent(&house, &ada, "agent:a").await;
    let second = house.call("POST", "/api/orgs", &ada.token, json!({ "name": "To be closed" })).await.ok();
    let third = house.call("POST", "/api/orgs", &ada.token, json!({ "name": "To be kept" })).await.ok();
    let (second, third) = (format!("/api/orgs/{}", text(&second["id"])), format!("/api/orgs/{}", text(&third["id"])));
    let id = delegate(&house, &ada, json!({})).await;
    let token = text(&exchange(&house, (&id, DELEGATION), &a, &[]).await.ok()["access_token"]);
    let refused = house.call("DELETE", &second, &token, json!({})).await;
    assert_eq!(refused.refused(), (403, "APPROVAL_REQUIRED"));
    let ask =
        json!({ "action": refused.body["action"], "target": refused.body["target"], "reason": "Nobody works there" });
    assert_eq!(ask["action"], "identity.delete-organization");
    // Only who acts in somebody's name asks.
    assert_eq!(house.call("POST", "/api/approvals", &ada.token, ask.clone()).await.refused(), (403, "FORBIDDEN"));
    let asked = house.call("POST", "/api/approvals", &token, ask.clone()).await;
    assert_eq!((asked.status.as_u16(), &asked.body["status"]), (201, &json!("requested")), "{}", asked.body);
    let approval = text(&asked.body["id"]);
    let mail = outbox.text(&ada.email, "An agent asks for your approval", 1).await;
    assert!(
        mail.contains("agent:a") && mail.contains("identity.delete-organization") && mail.contains(&approval),
        "{mail}"
    );
    assert!(!mail.contains("Nobody works there"), "the agent's own words are not for a mail");
    let with = [("approval", approval.as_str())];
    assert_eq!(exchange(&house, (&id, DELEGATION), &a, &with).await.refused(), (400, "INVALID_GRANT"));

    // Neither the agent nor a stranger answers; the person sees why, and does.
    let answer = |what: &str| format!("/api/approvals/{approval}/{what}");
    assert_eq!(house.call("POST", &answer("approve"), &token, json!({})).await.status, 403);
    assert_eq!(house.call("POST", &answer("approve"), &a, json!({})).await.status, 403);
    assert_eq!(house.call("POST", &answer("approve"), &eve.token, json!({})).await.refused(), (404, "NOT_FOUND"));
    assert_eq!(house.get(&format!("/api/approvals/{approval}"), &eve.token).await.refused(), (404, "NOT_FOUND"));
    let waiting = house.get("/api/approvals", &ada.token).await.ok();
    assert_eq!(waiting["approvals"][0]["reason"], "Nobody works there");
    let approved = house.call("POST", &answer("approve"), &ada.token, json!({})).await.ok();
    assert_eq!(approved["status"], "approved");
    assert_eq!(house.call("POST", &answer("deny"), &ada.token, json!({})).await.refused().1, "APPROVAL_CLOSED");

    let once = text(&exchange(&house, (&id, DELEGATION), &a, &with).await.ok()["access_token"]);
    assert_eq!(exchange(&house, (&id, DELEGATION), &a, &with).await.refused(), (400, "INVALID_GRANT"), "used");
    assert_eq!(house.call("DELETE", &third, &once, json!({})).await.refused(), (403, "APPROVAL_REQUIRED"));
    house.call("DELETE", &second, &once, json!({})).await.ok();
    assert_eq!(house.get(&second, &ada.token).await.refused(), (404, "NOT_FOUND"));
    house.get(&third, &ada.token).await.ok();

    // A no is a no.
    let asked = house.call("POST", "/api/approvals", &token, ask).await;
    let denied = text(&asked.body["id"]);
    house.call("POST", &format!("/api/approvals/{denied}/deny"), &ada.token, json!({})).await.ok();
    let with = [("approval", denied.as_str())];
    assert_eq!(exchange(&house, (&id, DELEGATION), &a, &with).await.refused(), (400, "INVALID_GRANT"));
    let mut tx = house.platform.read(&Scope::platform()).await.unwrap();
    let types: Vec<String> =
        sqlx::query_scalar("SELECT type FROM identity.audit_trail WHERE aggregate_id = $1 ORDER BY sequence")
            .bind(&approval)
            .fetch_all(&mut *tx)
            .await
            .unwrap();
    let verbs: Vec<&str> = types.iter().map(|kind| kind.split('.').nth(3).unwrap()).collect();
    assert_eq!(verbs, ["approval-requested", "approval-approved", "approval-used"]);
    house.read_models_are_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_narrow_along_the_chain_and_are_never_widened() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let (a, b, c) = (
        agent(&house, &ada, "agent:a").await,
        agent(&house, &ada, "agent:b").await,
        agent(&house, &ada, "agent:c").await,
    );
    let more = json!({ "mayAct": ["agent:b", "agent:c"], "maxDepth": 2, "audiences": ["https://mcp.example/"] });
    let id = delegate(&house, &ada, more).await;
    let delegated = (id.as_str(), DELEGATION);
    for (more, code) in [
        (("scope", "cap:identity.read cap:messaging.send"), "INVALID_SCOPE"),
        (("scope", "cap:global.admin"), "INVALID_SCOPE"),
        (("resource", "https://elsewhere.example/"), "INVALID_TARGET"),
    ] {
        assert_eq!(exchange(&house, delegated, &a, &[more]).await.refused(), (400, code));
    }
    // Neither another agent, nor a person, nor who has no token of its own uses it.
    assert_eq!(exchange(&house, delegated, &b, &[]).await.refused(), (400, "INVALID_GRANT"));
    assert_eq!(exchange(&house, delegated, &ada.token, &[]).await.refused(), (401, "INVALID_CLIENT"));
    assert_eq!(exchange(&house, delegated, "forged", &[]).await.refused(), (401, "INVALID_CLIENT"));
    assert_eq!(exchange(&house, (&ada.token, ACCESS_TOKEN), &a, &[]).await.refused(), (400, "INVALID_GRANT"));
    let unsupported = house.post("/api/oauth/token", json!({ "grant_type": "password" })).await;
    assert_eq!((unsupported.status.as_u16(), &unsupported.body["error"]), (400, &json!("unsupported_grant_type")));

    let reading = text(&exchange(&house, delegated, &a, &[("scope", "cap:identity.read")]).await.ok()["access_token"]);
    let path = format!("/api/orgs/{}", ada.org);
    house.get(&path, &reading).await.ok();
    let rename = house.call("PATCH", &path, &reading, json!({ "name": "Wider" })).await;
    assert_eq!(rename.status, 403, "{}", rename.body);
    // What was narrowed for one agent stays so for the next.
    let passed = exchange(&house, (&reading, ACCESS_TOKEN), &b, &[("scope", "cap:identity.manage-orgs")]).await;
    assert_eq!(passed.refused(), (400, "INVALID_SCOPE"));
    let passed = exchange(&house, (&reading, ACCESS_TOKEN), &b, &[]).await.ok();
    assert_eq!(passed["scope"], "cap:identity.read");
    let passed = text(&passed["access_token"]);
    let told = house.post("/api/auth/introspect", json!({ "token": passed })).await.ok();
    assert_eq!(told["act"], json!({ "sub": "agent:b", "act": { "sub": "agent:a" } }));
    house.get(&path, &passed).await.ok();
    // The chain is as long as it may be.
    assert_eq!(exchange(&house, (&passed, ACCESS_TOKEN), &c, &[]).await.refused(), (400, "INVALID_GRANT"));

    // A token for another resource is none for the platform, and gives none.
    let elsewhere = exchange(&house, delegated, &a, &[("resource", "https://mcp.example/")]).await.ok();
    let elsewhere = text(&elsewhere["access_token"]);
    assert_eq!(house.get(&path, &elsewhere).await.refused(), (401, "TOKEN_INVALID"));
    let told = house.post("/api/auth/introspect", json!({ "token": elsewhere })).await.ok();
    assert_eq!((&told["active"], &told["aud"]), (&json!(true), &json!("https://mcp.example/")));
    assert_eq!(exchange(&house, (&elsewhere, ACCESS_TOKEN), &b, &[]).await.refused(), (400, "INVALID_TARGET"));

    // Over the bus the limits hold as well: the assertion carries them.
    let asserted = house.call("POST", "/api/auth/assertion", &reading, json!({})).await.ok();
    let assertion = text(&asserted["assertion"]);
    let outcome = send(&house, &ada.org, &assertion).await;
    assert_eq!(outcome.rejection.map(|r| r.code.into_owned()).as_deref(), Some("INSUFFICIENT_SCOPE"));
    eventually("unchanged", async || {
        let org = house.get(&path, &ada.token).await.ok();
        (org["organization"]["name"] == "ada org").then_some(())
    })
    .await;
}

/// Renames an organization with an assertion, as a client of the broker does.
async fn send(house: &House, org: &str, assertion: &str) -> symbia_commands::Outcome {
    use symbia_commands::{
        Actor, CommandEnvelope,
        identity::{OrganizationCommand, RenameOrganization},
    };
    use symbia_events::{AggregateRef, CommandId, Service};
    let address = AggregateRef::new(Service::Identity, org.parse().unwrap(), "organization", org).unwrap();
    let command =
        OrganizationCommand::from(RenameOrganization { org_id: org.to_owned(), name: "By the bus".to_owned() });
    let (nobody, now) = (Actor::service("nobody"), time::OffsetDateTime::now_utc());
    let mut envelope =
        CommandEnvelope::new(&house.keys, &address, &command, &nobody, CommandId::random(), now).unwrap();
    envelope.actorassertion = Some(assertion.to_owned());
    house.platform.bus.send(&address, &envelope, std::time::Duration::from_secs(20)).await.unwrap()
}
