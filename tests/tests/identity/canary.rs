//! Secrets that must be found nowhere but where they belong: everything published, every table, every answer is searched.

use std::sync::{Arc, Mutex};

use futures::StreamExt;
use serde_json::json;
use sqlx::AssertSqlSafe;

use super::stage::{House, PASSWORD, SETUP_TOKEN};

#[tokio::test(flavor = "multi_thread")]
async fn passwords_and_tokens_stay_out_of_streams_tables_and_answers() {
    let house = House::open().await;
    let published: Arc<Mutex<Vec<String>>> = Arc::default();
    let mut everything = house.platform.nats.subscribe(">").await.unwrap();
    house.platform.nats.flush().await.unwrap();
    let seen = Arc::clone(&published);
    tokio::spawn(async move {
        while let Some(message) = everything.next().await {
            let payload = String::from_utf8_lossy(&message.payload);
            seen.lock().unwrap().push(format!("{} {:?} {payload}", message.subject, message.headers));
        }
    });

    let claim = json!({ "email": "ada@example.test", "password": PASSWORD, "name": "Ada", "orgName": "Acme" });
    let claimed =
        house.send("POST", "/api/bootstrap/claim", &[("x-setup-token", SETUP_TOKEN)], Some(claim.clone())).await.ok();
    house.send("POST", "/api/bootstrap/claim", &[("x-setup-token", SETUP_TOKEN)], Some(claim)).await;
    let refreshed = house.post("/api/auth/refresh", json!({ "refreshToken": claimed["refreshToken"] })).await.ok();
    let login = house.post("/api/auth/login", json!({ "email": "ada@example.test", "password": PASSWORD })).await.ok();
    let token = login["token"].as_str().unwrap();
    house
        .post("/api/auth/login", json!({ "email": "ada@example.test", "password": format!("{PASSWORD}-wrong") }))
        .await;
    let org = claimed["organization"]["id"].as_str().unwrap();
    for path in ["/api/auth/me", "/api/users/me", "/api/orgs", &format!("/api/orgs/{org}"), "/api/auth/sessions"] {
        house.get(path, token).await.ok();
    }
    house.post("/api/auth/introspect", json!({ "token": token })).await.ok();
    let invitations = format!("/api/orgs/{org}/invitations");
    let invited = json!({ "email": "bob@example.test", "role": "member" });
    let invited = house.call("POST", &invitations, token, invited).await.ok();
    let inviting = format!("POST {invitations}");
    let accept = format!("/api/invitations/{}/accept", invited["token"].as_str().unwrap());
    house.call("POST", &accept, token, json!({})).await;
    let jti = |token: &str| token.split('.').nth(2).unwrap().to_owned();
    let secrets = [
        ("the password", PASSWORD.to_owned(), vec![]),
        ("the setup token", SETUP_TOKEN.to_owned(), vec![]),
        ("a refresh token", claimed["refreshToken"].as_str().unwrap().to_owned(), vec!["POST /api/bootstrap/claim"]),
        (
            "the next refresh token",
            refreshed["refreshToken"].as_str().unwrap().to_owned(),
            vec!["POST /api/auth/refresh"],
        ),
        ("the login's refresh token", login["refreshToken"].as_str().unwrap().to_owned(), vec!["POST /api/auth/login"]),
        ("an invitation's token", invited["token"].as_str().unwrap().to_owned(), vec![inviting.as_str()]),
        ("an access token's signature", jti(token), vec!["POST /api/auth/login"]),
    ];

    let published = published.lock().unwrap().clone();
    assert!(published.iter().any(|m| m.starts_with("symbia.cmd.identity.global.user.")), "commands were seen");
    assert!(published.iter().any(|m| m.starts_with("symbia.evt.identity.global.user.")), "events were seen");
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
         WHERE schemaname NOT IN ('pg_catalog', 'information_schema')",
    )
    .fetch_all(&house.pool)
    .await
    .unwrap();
    let mut rows = Vec::new();
    for table in &tables {
        // Row-level security is forced on owners too.
        let mut tx = house.pool.begin().await.unwrap();
        if table.starts_with("identity.") {
            sqlx::query("SET LOCAL ROLE symbia_projector").execute(&mut *tx).await.unwrap();
        }
        let select = AssertSqlSafe(format!("SELECT t::text FROM {table} t"));
        let found: Vec<String> = sqlx::query_scalar(select).fetch_all(&mut *tx).await.unwrap();
        rows.extend(found.into_iter().map(|row| format!("{table}: {row}")));
    }
    assert!(rows.iter().any(|row| row.starts_with("identity.users:")) && tables.contains(&"vault.secrets".to_owned()));
    let answers = house.answers.lock().unwrap().clone();
    for (what, secret, issued_by) in secrets {
        for (place, text) in published.iter().map(|m| ("published", m)).chain(rows.iter().map(|r| ("a table", r))) {
            assert!(!text.contains(&secret), "{what} in {place}: {text}");
        }
        let leaks: Vec<&String> =
            answers.iter().filter(|(_, text)| text.contains(&secret)).map(|(request, _)| request).collect();
        assert_eq!(leaks, issued_by, "{what}");
    }
    // The hash is a secret too.
    for text in published.iter().chain(&rows).chain(answers.iter().map(|(_, text)| text)) {
        assert!(!text.contains("$2b$"), "{text}");
    }
}
