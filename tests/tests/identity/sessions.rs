//! Tokens and sessions: refreshing, reuse, forgeries, ending them, and what sign-in tells strangers.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde_json::{Value, json};
use symbia_api::identity::{SigningKeys, Subject, Tokens};
use time::OffsetDateTime;

use super::stage::{House, PASSWORD, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_works_once_and_its_reuse_ends_the_family() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let session = ada.refresh_token.split('.').next().unwrap();
    let garbage = format!("{session}.{}.{}", "x".repeat(43), "y".repeat(43));
    let refused = house.post("/api/auth/refresh", json!({ "refreshToken": garbage })).await;
    assert_eq!(refused.refused(), (401, "TOKEN_INVALID"));

    let next = house.post("/api/auth/refresh", json!({ "refreshToken": ada.refresh_token })).await.ok();
    assert_eq!((&next["type"], &next["user"]["id"]), (&json!("user"), &json!(ada.id)));
    let token = next["token"].as_str().unwrap();
    house.get("/api/auth/me", token).await.ok();
    let reused = house.post("/api/auth/user/refresh", json!({ "refreshToken": ada.refresh_token })).await;
    assert_eq!(reused.refused(), (401, "SESSION_REVOKED"));
    for token in [token, &ada.token] {
        assert_eq!(house.get("/api/auth/me", token).await.refused(), (401, "SESSION_REVOKED"));
    }
    let heir = house.post("/api/auth/refresh", json!({ "refreshToken": next["refreshToken"] })).await;
    assert_eq!(heir.refused(), (401, "SESSION_REVOKED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_is_exchanged_as_old_clients_do_and_ends_with_its_session() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    assert_eq!(house.post("/api/auth/refresh", json!({})).await.refused(), (401, "AUTH_REQUIRED"));
    let fresh = house.call("POST", "/api/auth/refresh", &ada.token, Value::Null).await;
    // `null` is no object.
    assert_eq!(fresh.refused(), (400, "VALIDATION_FAILED"));
    let fresh = house.call("POST", "/api/auth/refresh", &ada.token, json!({})).await.ok();
    let fresh = fresh["token"].as_str().unwrap();
    house.get("/api/auth/me", fresh).await.ok();

    let login = house.post("/api/auth/login", json!({ "email": ada.email, "password": PASSWORD })).await.ok();
    let other = login["token"].as_str().unwrap();
    let sessions = house.get("/api/auth/sessions", &ada.token).await.ok();
    let sessions = sessions["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 2);
    let elsewhere = sessions.iter().find(|s| s["current"] == false).unwrap();
    assert_eq!((&elsewhere["method"], &elsewhere["clientIp"]), (&json!("password"), &json!("127.0.0.1")));
    let path = format!("/api/auth/sessions/{}", elsewhere["id"].as_str().unwrap());
    let eve = house.register("eve").await;
    assert_eq!(house.call("DELETE", &path, &eve.token, json!({})).await.refused(), (404, "NOT_FOUND"));
    house.call("DELETE", &path, &ada.token, json!({})).await.ok();
    assert_eq!(house.get("/api/auth/me", other).await.refused(), (401, "SESSION_REVOKED"));
    house.get("/api/auth/me", &ada.token).await.ok();
    house.call("POST", "/api/auth/logout-all", &ada.token, json!({})).await.ok();
    for token in [fresh, &ada.token] {
        assert_eq!(house.get("/api/auth/me", token).await.refused(), (401, "SESSION_REVOKED"));
    }
    house.get("/api/auth/me", &eve.token).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_that_overlaps_with_logging_out_everywhere_is_cut_off_too() {
    use symbia_commands::{
        Actor, CommandEnvelope,
        identity::{SessionCommand, StartSession},
    };
    use symbia_events::{AggregateRef, CommandId, OrgId, Service};
    let house = House::open().await;
    let ada = house.register("ada").await;
    // The password was looked at before the revocation, the session begins after it.
    let proved = OffsetDateTime::now_utc();
    house.call("POST", "/api/auth/logout-all", &ada.token, json!({})).await.ok();
    for (session, authenticated, accepted) in [("late", Some(proved), false), ("new", None, true)] {
        let address = AggregateRef::new(Service::Identity, OrgId::global(), "session", session).unwrap();
        let command = SessionCommand::from(StartSession {
            session_id: session.to_owned(),
            principal_id: ada.id.clone(),
            principal_type: "user".to_owned(),
            method: "password".to_owned(),
            refresh_hash: "hash".to_owned(),
            client_ip: None,
            user_agent: None,
            authenticated_at: authenticated
                .map(|at| at.format(&time::format_description::well_known::Rfc3339).unwrap()),
        });
        let (actor, now) = (Actor::service("identity"), OffsetDateTime::now_utc());
        let envelope = CommandEnvelope::new(&house.keys, &address, &command, &actor, CommandId::random(), now).unwrap();
        let outcome = house.platform.bus.send(&address, &envelope, Duration::from_secs(20)).await.unwrap();
        let position = outcome.position.unwrap();
        assert!(house.platform.positions.wait_for("identity", position, Duration::from_secs(10)).await);
        let subject = Subject::user(&ada.id, None, None);
        let week = time::Duration::days(7);
        let token = house.platform.tokens.issue(&subject, session, now, now + week).unwrap().token;
        let answer = house.get("/api/auth/me", &token).await;
        assert_eq!(answer.status == 200, accepted, "{session}: {}", answer.body);
        if !accepted {
            assert_eq!(answer.refused(), (401, "SESSION_REVOKED"));
        }
    }
    let refresh = house.post("/api/auth/refresh", json!({ "refreshToken": ada.refresh_token })).await;
    assert_eq!(refresh.refused(), (401, "SESSION_REVOKED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn introspection_tells_what_rfc_7662_names() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let told = house.post("/api/auth/introspect", json!({ "token": ada.token })).await.ok();
    assert_eq!((&told["active"], &told["token_type"], &told["type"]), (&json!(true), &json!("Bearer"), &json!("user")));
    assert_eq!(
        (&told["sub"], &told["username"], &told["email"]),
        (&json!(ada.id), &json!(ada.email), &json!(ada.email))
    );
    assert_eq!((&told["iss"], &told["aud"]), (&json!("symbia-test"), &json!("symbia")));
    assert_eq!(told["exp"].as_i64().unwrap() - told["iat"].as_i64().unwrap(), 7 * 24 * 3600);
    assert_eq!(told["sid"], ada.refresh_token.split('.').next().unwrap());
    assert!(told["jti"].is_string() && told["organizations"][0]["id"] == ada.org.as_str());
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let told =
        house.send_raw("/api/auth/introspect", &form, format!("token={}&token_type_hint=x", ada.token)).await.ok();
    assert_eq!(told["sub"], ada.id.as_str());
    let nothing = house.post("/api/auth/introspect", json!({})).await.ok();
    assert_eq!(nothing, json!({ "active": false }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_through_the_log_is_seen_within_a_second() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    house.get("/api/auth/me", &ada.token).await.ok();
    // Not through this service: as another process would.
    use symbia_commands::{
        Actor, CommandEnvelope,
        identity::{RevokeSession, SessionCommand},
    };
    use symbia_events::{AggregateRef, CommandId, OrgId, Service};
    let session = ada.refresh_token.split('.').next().unwrap();
    let address = AggregateRef::new(Service::Identity, OrgId::global(), "session", session).unwrap();
    let command = SessionCommand::from(RevokeSession { session_id: session.to_owned(), reason: "stolen".to_owned() });
    let (actor, now) = (Actor::service("identity"), OffsetDateTime::now_utc());
    let envelope = CommandEnvelope::new(&house.keys, &address, &command, &actor, CommandId::random(), now).unwrap();
    house.platform.bus.send(&address, &envelope, Duration::from_secs(20)).await.unwrap();
    let ended = std::time::Instant::now();
    eventually("refused", async || {
        (house.get("/api/auth/me", &ada.token).await.refused() == (401, "SESSION_REVOKED")).then_some(())
    })
    .await;
    assert!(ended.elapsed() < Duration::from_secs(1), "{:?}", ended.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_and_stale_tokens_are_refused() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let (session, now) = (ada.refresh_token.split('.').next().unwrap(), OffsetDateTime::now_utc());
    let week = time::Duration::days(7);
    let issue = |tokens: &Tokens, user: &str, at: OffsetDateTime| {
        let subject = Subject::user(user, Some(ada.email.as_str()), Some("Ada"));
        tokens.issue(&subject, session, at, at + week).unwrap().token
    };
    let ours = Tokens::new(house.signing.clone(), "symbia-test", week);
    house.get("/api/auth/me", &issue(&ours, &ada.id, now)).await.ok();
    let foreign = Tokens::new(SigningKeys::generate().unwrap(), "symbia-test", week);
    let elsewhere = Tokens::new(house.signing.clone(), "another-platform", week);
    let parts: Vec<&str> = ada.token.split('.').collect();
    let header = String::from_utf8(BASE64URL.decode(parts[0]).unwrap()).unwrap();
    let none = BASE64URL.encode(header.replace("EdDSA", "none"));
    let claims = String::from_utf8(BASE64URL.decode(parts[1]).unwrap()).unwrap();
    let changed = BASE64URL.encode(claims.replace("ada@", "eve@"));
    for (what, token, code) in [
        ("expired", issue(&ours, &ada.id, now - week - time::Duration::minutes(1)), "TOKEN_EXPIRED"),
        ("a foreign key", issue(&foreign, &ada.id, now), "TOKEN_INVALID"),
        ("a foreign issuer", issue(&elsewhere, &ada.id, now), "TOKEN_INVALID"),
        ("alg none", format!("{none}.{}.", parts[1]), "TOKEN_INVALID"),
        ("alg none with the signature", format!("{none}.{}.{}", parts[1], parts[2]), "TOKEN_INVALID"),
        ("changed claims", format!("{}.{changed}.{}", parts[0], parts[2]), "TOKEN_INVALID"),
        ("another's session", issue(&ours, "somebody-else", now), "SERVICE_UNAVAILABLE"),
        ("no token", "abc".to_owned(), "TOKEN_INVALID"),
    ] {
        let answer = house.get("/api/auth/me", &token).await;
        assert_eq!(answer.refused().1, code, "{what}");
        if code != "SERVICE_UNAVAILABLE" {
            assert_eq!(answer.status, 401, "{what}");
            let introspected = house.post("/api/auth/introspect", json!({ "token": token })).await.ok();
            assert_eq!(introspected, json!({ "active": false }), "{what}");
        }
    }
    assert_eq!(
        house.send("GET", "/api/auth/me", &[("x-api-key", "sk_any")], None).await.refused(),
        (401, "API_KEY_INVALID")
    );
    let jwks = house.send("GET", "/.well-known/jwks.json", &[], None).await;
    assert_eq!(jwks.headers["cache-control"], "public, max-age=3600");
    let jwks = jwks.ok();
    assert_eq!(
        (&jwks["keys"][0]["crv"], &jwks["introspect_endpoint"]),
        (&json!("Ed25519"), &json!("/api/auth/introspect"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_in_tells_strangers_nothing_and_is_limited_per_account() {
    let house = House::with(|settings| settings.rates.auth = symbia_api::http::rate::Quota::per_minute(6)).await;
    let ada = house.register("ada").await;
    let attempt = async |email: &str, from: &str| {
        let body = json!({ "email": email, "password": "not-the-password" });
        house.send("POST", "/api/auth/login", &[("x-forwarded-for", from)], Some(body)).await
    };
    let mut wrong = attempt(&ada.email, "192.0.2.1").await;
    let mut unknown = attempt("nobody@example.test", "192.0.2.1").await;
    for answer in [&mut wrong, &mut unknown] {
        assert_eq!(answer.refused(), (401, "CREDENTIALS_INVALID"));
        answer.body["requestId"].take();
        answer.body["traceId"].take();
    }
    assert_eq!(wrong.body, unknown.body);
    // From another address each time: the account still is what is counted.
    let mut refused = 0;
    for n in 2..12 {
        let answer = attempt(&ada.email, &format!("192.0.2.{n}")).await;
        if answer.refused() == (429, "RATE_LIMIT_EXCEEDED") {
            assert!(answer.headers.contains_key("retry-after"));
            refused += 1;
        }
    }
    assert!(refused >= 4, "{refused}");
    let bad = house.post("/api/auth/login", json!({ "email": "no address", "password": "" })).await;
    assert_eq!(bad.refused(), (400, "VALIDATION_FAILED"));
    assert_eq!(bad.body["details"].as_array().unwrap().len(), 2);
}
