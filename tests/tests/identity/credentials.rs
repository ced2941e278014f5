//! The vault: what its users see of their credentials, to whom a secret is given, and where it is found.

use std::sync::{Arc, Mutex};

use futures::StreamExt;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use symbia_commands::{Actor, SERVICE_TOKEN_MAX, ServiceToken};
use symbia_events::{ActorType, Service};
use time::{Duration, OffsetDateTime};

use super::stage::{Answer, House, Person};

const SECRET: &str = "sk-CANARY-vault-4f1d0c9be2a7";

async fn keep(house: &House, who: &Person, headers: &[(&str, &str)], body: Value) -> Answer {
    let bearer = format!("Bearer {}", who.token);
    let headers: Vec<(&str, &str)> = [("authorization", bearer.as_str())].iter().chain(headers).copied().collect();
    house.send("POST", "/api/credentials", &headers, Some(body)).await
}

fn openai(name: &str) -> Value {
    json!({ "provider": "openai", "name": name, "apiKey": SECRET, "metadata": { "tier": "1" } })
}

/// A token of the integrations service; `act` names the principal when the request does not carry its token.
fn service_token(house: &House, act: Option<&Person>) -> String {
    let now = OffsetDateTime::now_utc();
    let act = act.map(|person| {
        let actor = Actor { id: person.id.clone(), kind: ActorType::User, ..Actor::service("x") };
        actor.assert(&house.keys, now, Duration::minutes(1))
    });
    let purpose = Some("completion".to_owned());
    let token = ServiceToken { service: Service::Integrations, audience: Service::Identity, act, purpose };
    token.sign(&house.keys, now, SERVICE_TOKEN_MAX)
}

async fn release(house: &House, person: &Person, path: &str, org: Option<&str>) -> Answer {
    let (service, bearer) = (service_token(house, None), format!("Bearer {}", person.token));
    let mut headers = vec![("x-service-auth", service.as_str()), ("authorization", bearer.as_str())];
    headers.extend(org.map(|org| ("x-org-id", org)));
    house.send("GET", path, &headers, None).await
}

async fn recorded(house: &House, event: &str) -> i64 {
    let mut tx = house.pool.begin().await.unwrap();
    sqlx::query("SET LOCAL ROLE symbia_projector").execute(&mut *tx).await.unwrap();
    let count = "SELECT count(*) FROM identity.audit_trail WHERE type LIKE '%.' || $1 || '.v1'";
    sqlx::query_scalar(count).bind(event).fetch_one(&mut *tx).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn its_owner_keeps_renames_replaces_shares_and_deletes_a_credential_and_never_sees_the_secret() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let org = [("x-org-id", ada.org.as_str())];
    let kept = keep(&house, &ada, &org, openai("main")).await.ok();
    assert_eq!((&kept["credentialPrefix"], &kept["isOrgWide"]), (&json!("…e2a7"), &json!(false)));
    assert_eq!(keep(&house, &ada, &[], openai("main")).await.refused(), (409, "CREDENTIAL_TAKEN"));
    let path = format!("/api/credentials/{}", kept["id"].as_str().unwrap());
    let change = async |body: Value| house.call("PATCH", &path, &ada.token, body).await;
    assert_eq!(change(json!({})).await.ok(), kept);
    let changed = change(json!({ "name": "second", "apiKey": "short-secret", "isOrgWide": true })).await.ok();
    assert_eq!(
        (&changed["name"], &changed["credentialPrefix"], &changed["isOrgWide"]),
        (&json!("second"), &Value::Null, &json!(true))
    );
    // The old name is free again.
    let other = keep(&house, &ada, &[], openai("main")).await.ok();
    let share = json!({ "isOrgWide": true });
    let other = format!("/api/credentials/{}", other["id"].as_str().unwrap());
    assert_eq!(house.call("PATCH", &other, &ada.token, share).await.refused(), (400, "VALIDATION_FAILED"));
    let shared = house.get("/api/credentials?scope=org", &ada.token).await.ok();
    assert_eq!((shared.as_array().unwrap().len(), &shared[0]["name"]), (1, &json!("second")));
    let by_id = format!("/api/internal/credentials/by-id/{}", kept["id"].as_str().unwrap());
    assert_eq!(release(&house, &ada, &by_id, None).await.ok()["apiKey"], "short-secret");
    house.call("DELETE", &path, &ada.token, json!({})).await.ok();
    assert_eq!(house.get("/api/credentials", &ada.token).await.ok().as_array().unwrap().len(), 1);
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM vault.items WHERE ciphertext IS NOT NULL")
        .fetch_one(&house.pool)
        .await
        .unwrap();
    assert_eq!(left, 1);

    for bad in [
        json!({ "provider": "openai", "name": "x" }),
        json!({ "provider": "", "name": "x", "apiKey": "y" }),
        json!({ "provider": "openai", "name": "n".repeat(101), "apiKey": "y" }),
        json!({ "provider": "openai", "name": "x", "encrypted": "00:11:22", "encryptionKey": "wrong" }),
    ] {
        assert_eq!(keep(&house, &ada, &[], bad.clone()).await.refused(), (400, "VALIDATION_FAILED"), "{bad}");
    }
    assert_eq!(house.get("/api/credentials?scope=all", &ada.token).await.refused(), (400, "VALIDATION_FAILED"));
    assert_eq!(house.send("GET", "/api/debug/credentials", &[], None).await.refused(), (404, "NOT_FOUND"));
    house.read_models_are_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_given_to_a_service_that_acts_for_its_owner_or_a_member_and_to_nobody_else() {
    let house = House::open().await;
    let (ada, bob, eve) = (house.register("ada").await, house.register("bob").await, house.register("eve").await);
    let invite = json!({ "email": bob.email, "role": "viewer" });
    house.call("POST", &format!("/api/orgs/{}/members/invite", ada.org), &ada.token, invite).await.ok();
    let mut wide = openai("shared");
    wide["isOrgWide"] = json!(true);
    let kept = keep(&house, &ada, &[("x-org-id", &ada.org)], wide).await.ok();
    let id = kept["id"].as_str().unwrap();
    let of = |who: &Person| format!("/api/internal/credentials/{}/openai", who.id);

    let own = release(&house, &ada, &of(&ada), None).await.ok();
    assert_eq!(own["apiKey"], SECRET);
    assert_eq!(
        (&own["isProxy"], &own["ownerId"], &own["credentialId"], &own["metadata"]),
        (&json!(false), &json!(ada.id), &kept["id"], &json!({ "tier": "1" }))
    );
    let shared = release(&house, &bob, &of(&bob), Some(&ada.org)).await.ok();
    assert_eq!((&shared["apiKey"], &shared["isProxy"]), (&json!(SECRET), &json!(true)));
    assert_eq!(release(&house, &bob, &of(&bob), None).await.refused(), (404, "NOT_FOUND"));
    // By an assertion in the service's own token.
    let token = service_token(&house, Some(&bob));
    let headers = [("x-service-auth", token.as_str()), ("x-org-id", &ada.org)];
    let asserted = house.send("GET", &of(&bob), &headers, None).await.ok();
    assert_eq!(asserted["apiKey"], SECRET);
    let by_id = format!("/api/internal/credentials/by-id/{id}");
    assert_eq!(house.send("GET", &by_id, &headers, None).await.ok()["isProxy"], true);
    let events = async || house.head().await.values().sum::<usize>();
    let before = events().await;
    assert_eq!(release(&house, &eve, &of(&eve), Some(&ada.org)).await.refused(), (404, "NOT_FOUND"));
    assert_eq!(release(&house, &eve, &by_id, Some(&ada.org)).await.refused(), (404, "NOT_FOUND"));
    assert_eq!(events().await, before + 2, "denials are on record");

    let before = house.events_of("credential").await;
    let bearer = format!("Bearer {}", ada.token);
    let (nobodys, foreign) = (service_token(&house, None), "eyJhbGciOiJub25lIn0.e30.");
    for (headers, refused) in [
        (vec![], (401, "AUTH_REQUIRED")),
        (vec![("x-service-id", "integrations")], (401, "AUTH_REQUIRED")),
        (vec![("authorization", bearer.as_str())], (403, "SERVICE_PRINCIPAL_REQUIRED")),
        (
            vec![("authorization", bearer.as_str()), ("x-service-id", "integrations")],
            (403, "SERVICE_PRINCIPAL_REQUIRED"),
        ),
        (vec![("authorization", bearer.as_str()), ("x-service-auth", "internal")], (401, "TOKEN_INVALID")),
        (vec![("authorization", bearer.as_str()), ("x-service-auth", foreign)], (401, "TOKEN_INVALID")),
        (vec![("x-service-auth", nobodys.as_str())], (403, "PRINCIPAL_REQUIRED")),
    ] {
        for (method, path) in [
            ("GET", of(&ada)),
            ("GET", by_id.clone()),
            ("DELETE", format!("/api/internal/credentials/{id}")),
            ("POST", "/api/internal/credentials/oauth".to_owned()),
        ] {
            let body = (method == "POST").then(|| json!({ "userId": ada.id, "provider": "x", "accessToken": "y" }));
            let answer = house.send(method, &path, &headers, body).await;
            assert_eq!(answer.refused(), refused, "{method} {path} {headers:?}");
        }
    }
    // For another principal than the one that is proved.
    assert_eq!(release(&house, &eve, &of(&ada), None).await.refused(), (403, "FORBIDDEN"));
    assert_eq!(house.events_of("credential").await, before);
    house.get("/api/credentials", &ada.token).await.ok();
    super::stage::eventually("on record", async || {
        let released = recorded(&house, "credential-released").await;
        let denied = recorded(&house, "credential-release-denied").await;
        ((released, denied) == (4, 2)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oauth_tokens_are_kept_per_account_and_never_replace_what_others_share() {
    let house = House::open().await;
    let (ada, bob) = (house.register("ada").await, house.register("bob").await);
    let store = async |who: &Person, account: &str, token: &str| {
        let service = service_token(&house, Some(who));
        let body = json!({
            "userId": who.id, "provider": "google", "accessToken": token, "refreshToken": "refresh-CANARY",
            "oauthUserId": account, "oauthUserEmail": "a@example.test", "expiresAt": "2030-01-01T00:00:00.000Z",
        });
        house.send("POST", "/api/internal/credentials/oauth", &[("x-service-auth", &service)], Some(body)).await
    };
    let first = store(&ada, "account-1", "first-token").await.ok();
    let again = store(&ada, "account-1", "second-token").await.ok();
    let other = store(&ada, "account-2", "third-token").await.ok();
    assert_eq!(first["credentialId"], again["credentialId"]);
    assert_ne!(first["credentialId"], other["credentialId"]);
    let by_id = |v: &Value| format!("/api/internal/credentials/by-id/{}", v["credentialId"].as_str().unwrap());
    let given = release(&house, &ada, &by_id(&first), None).await.ok();
    assert_eq!((&given["apiKey"], &given["credentialType"]), (&json!("second-token"), &json!("oauth_token")));
    assert!(!given.to_string().contains("refresh-CANARY"));
    let names: Vec<Value> = house.get("/api/credentials", &ada.token).await.ok().as_array().unwrap().clone();
    assert_eq!((names.len(), &names[0]["name"]), (2, &json!("google OAuth")));
    let service = service_token(&house, Some(&bob));
    let foreign = json!({ "userId": ada.id, "provider": "google", "accessToken": "planted" });
    let headers = [("x-service-auth", service.as_str())];
    let foreign = house.send("POST", "/api/internal/credentials/oauth", &headers, Some(foreign)).await;
    assert_eq!(foreign.refused(), (403, "FORBIDDEN"));

    let path = format!("/api/internal/credentials/{}", first["credentialId"].as_str().unwrap());
    assert_eq!(house.send("DELETE", &path, &headers, None).await.refused(), (404, "NOT_FOUND"));
    let service = service_token(&house, Some(&ada));
    let wrong = [("x-service-auth", service.as_str()), ("x-user-id", &bob.id)];
    assert_eq!(house.send("DELETE", &path, &wrong, None).await.refused(), (403, "FORBIDDEN"));
    let right = [("x-service-auth", service.as_str()), ("x-user-id", &ada.id)];
    assert_eq!(house.send("DELETE", &path, &right, None).await.ok()["success"], true);
    assert_eq!(release(&house, &ada, &by_id(&first), None).await.refused(), (404, "NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_neither_sees_nor_changes_a_credential_and_plants_none() {
    let house = House::open().await;
    let (ada, eve) = (house.register("ada").await, house.register("eve").await);
    let mut wide = openai("shared");
    wide["isOrgWide"] = json!(true);
    let kept = keep(&house, &ada, &[("x-org-id", &ada.org)], wide.clone()).await.ok();
    let path = format!("/api/credentials/{}", kept["id"].as_str().unwrap());
    let before = house.head().await;
    let bearer = format!("Bearer {}", eve.token);
    let forged = [("authorization", bearer.as_str()), ("x-org-id", &ada.org), ("x-service-id", "integrations")];
    for (method, path, body, refused) in [
        ("PATCH", path.as_str(), Some(json!({ "name": "Eve's" })), (404, "NOT_FOUND")),
        ("DELETE", path.as_str(), None, (404, "NOT_FOUND")),
        ("GET", "/api/credentials?scope=org", None, (403, "ORG_ACCESS_DENIED")),
        ("POST", "/api/credentials", Some(wide), (403, "ORG_ACCESS_DENIED")),
        ("POST", "/api/credentials", Some(openai("planted")), (403, "ORG_ACCESS_DENIED")),
    ] {
        assert_eq!(house.send(method, path, &forged, body.clone()).await.refused(), refused, "{method} {path}");
        assert_eq!(house.send(method, path, &[], body).await.refused(), (401, "AUTH_REQUIRED"), "{method} {path}");
    }
    assert_eq!(house.get("/api/credentials", &eve.token).await.ok(), json!([]));
    assert_eq!(house.head().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_agents_keys_and_the_vault_stay_out_of_streams_tables_and_answers() {
    let house = House::open().await;
    let published: Arc<Mutex<Vec<String>>> = Arc::default();
    let mut everything = house.platform.nats.subscribe(">").await.unwrap();
    house.platform.nats.flush().await.unwrap();
    let seen = Arc::clone(&published);
    tokio::spawn(async move {
        while let Some(message) = everything.next().await {
            seen.lock().unwrap().push(String::from_utf8_lossy(&message.payload).into_owned());
        }
    });
    let ada = house.register("ada").await;
    let credential = "agent-CANARY-0123456789abcdef0123456789abcdef";
    let agent = json!({ "agentId": "canary", "credential": credential, "name": "Canary" });
    let agent = house.call("POST", "/api/agents", &ada.token, agent).await.ok();
    let login = json!({ "agentId": "canary", "credential": credential });
    house.post("/api/auth/agent/login", login).await.ok();
    let enrolment = house.call("POST", "/api/agents/enrolment-tokens", &ada.token, json!({})).await.ok();
    let rotate = format!("/api/agents/{}/rotate", agent["id"].as_str().unwrap());
    let rotated = house.call("POST", &rotate, &ada.token, json!({})).await.ok();
    let key = house.call("POST", "/api/api-keys", &ada.token, json!({ "name": "ci" })).await.ok();
    house.send("GET", "/api/auth/me", &[("x-api-key", key["key"].as_str().unwrap())], None).await.ok();
    keep(&house, &ada, &[], openai("main")).await.ok();
    house.get("/api/credentials", &ada.token).await.ok();
    release(&house, &ada, &format!("/api/internal/credentials/{}/openai", ada.id), None).await.ok();

    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
         WHERE schemaname NOT IN ('pg_catalog', 'information_schema')",
    )
    .fetch_all(&house.pool)
    .await
    .unwrap();
    let mut places = published.lock().unwrap().clone();
    assert!(places.iter().any(|text| text.contains("symbia.identity.credential.credential-stored.v1")));
    for table in tables {
        let mut tx = house.pool.begin().await.unwrap();
        if table.starts_with("identity.") {
            sqlx::query("SET LOCAL ROLE symbia_projector").execute(&mut *tx).await.unwrap();
        }
        let select = AssertSqlSafe(format!("SELECT t::text FROM {table} t"));
        let rows: Vec<String> = sqlx::query_scalar(select).fetch_all(&mut *tx).await.unwrap();
        places.extend(rows);
    }
    assert!(places.iter().any(|text| text.contains("openai")), "tables were read");
    let answers = house.answers.lock().unwrap().clone();
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let hex = |s: &str| s.bytes().map(|b| format!("{b:02x}")).collect::<String>();
    for (what, secret, shown_by) in [
        ("the agent's credential", credential.to_owned(), vec![]),
        ("the new credential", text(&rotated["credential"]), vec![format!("POST {rotate}")]),
        ("the API key", text(&key["key"]), vec!["POST /api/api-keys".to_owned()]),
        ("the enrolment token", text(&enrolment["token"]), vec!["POST /api/agents/enrolment-tokens".to_owned()]),
        ("the kept secret", SECRET.to_owned(), vec![format!("GET /api/internal/credentials/{}/openai", ada.id)]),
    ] {
        for place in &places {
            assert!(!place.contains(&secret) && !place.contains(&hex(&secret)), "{what}: {place}");
        }
        let shown: Vec<String> =
            answers.iter().filter(|(_, text)| text.contains(&secret)).map(|(request, _)| request.clone()).collect();
        assert_eq!(shown, shown_by, "{what}");
    }
}
