//! Passwords and addresses: changing, resetting, confirming; and what strangers learn of it.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use serde_json::json;
use symbia_api::mail::{Mail, MailError, Mailer, SharedMailer};

use super::stage::{House, PASSWORD, eventually};

/// Receiver, subject, text.
type Sent = (String, &'static str, String);

/// Keeps what was sent.
#[derive(Clone, Default)]
pub struct Outbox(Arc<Mutex<Vec<Sent>>>);

#[async_trait]
impl Mailer for Outbox {
    async fn send(&self, mail: Mail) -> Result<(), MailError> {
        self.0.lock().unwrap().push((mail.to, mail.subject, mail.text.to_string()));
        Ok(())
    }
}

impl Outbox {
    pub async fn house() -> (House, Self) {
        let outbox = Outbox::default();
        let mailer = SharedMailer(Arc::new(outbox.clone()));
        (House::with(|settings| settings.mailer = Some(mailer)).await, outbox)
    }

    /// The newest mail of a subject to an address, once there are `count` of them.
    pub async fn text(&self, to: &str, subject: &str, count: usize) -> String {
        eventually("a mail", async || {
            let mails = self.0.lock().unwrap();
            let theirs: Vec<_> = mails.iter().filter(|mail| mail.0 == to && mail.1 == subject).collect();
            (theirs.len() >= count).then(|| theirs.last().unwrap().2.clone())
        })
        .await
    }

    /// The token in it.
    pub async fn token(&self, to: &str, subject: &str, count: usize) -> String {
        let link = self.text(to, subject, count).await;
        let (_, rest) = link.split_once("?token=").unwrap();
        rest.split_whitespace().next().unwrap().to_owned()
    }
}

const RESET: &str = "Choose a new password";
const CONFIRM: &str = "Confirm your address";

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_ends_all_sessions_and_gives_a_new_one() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let other = house.post("/api/auth/login", json!({ "email": ada.email, "password": PASSWORD })).await.ok();
    let path = "/api/users/me/password";
    let wrong = json!({ "currentPassword": "not the password", "newPassword": "another password" });
    assert_eq!(house.call("POST", path, &ada.token, wrong).await.refused(), (400, "CREDENTIALS_INVALID"));
    for bad in [json!({}), json!({ "currentPassword": PASSWORD, "newPassword": "short" })] {
        assert_eq!(house.call("POST", path, &ada.token, bad).await.refused(), (400, "VALIDATION_FAILED"));
    }
    let change = json!({ "currentPassword": PASSWORD, "newPassword": "another password" });
    let changed = house.call("POST", path, &ada.token, change).await.ok();
    for token in [&ada.token, other["token"].as_str().unwrap()] {
        assert_eq!(house.get("/api/auth/me", token).await.refused(), (401, "SESSION_REVOKED"));
    }
    house.get("/api/auth/me", changed["token"].as_str().unwrap()).await.ok();
    let old = house.post("/api/auth/login", json!({ "email": ada.email, "password": PASSWORD })).await;
    assert_eq!(old.refused(), (401, "CREDENTIALS_INVALID"));
    house.post("/api/auth/login", json!({ "email": ada.email, "password": "another password" })).await.ok();
    // The hash of the old one is gone.
    let kept: i64 =
        sqlx::query_scalar("SELECT count(*) FROM vault.secrets WHERE ref LIKE 'password:%' AND wrapped IS NOT NULL")
            .fetch_one(&house.pool)
            .await
            .unwrap();
    assert_eq!(kept, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_resets_the_password_once_and_only_the_newest_works() {
    let (house, outbox) = Outbox::house().await;
    let ada = house.register("ada").await;
    let forgot = async |email: &str| house.post("/api/auth/forgot-password", json!({ "email": email })).await;
    let known = forgot(&ada.email).await.ok();
    let first = outbox.token(&ada.email, RESET, 1).await;
    assert_eq!(known, forgot("nobody@example.test").await.ok());
    forgot("ADA@Example.Test").await.ok();
    let second = outbox.token(&ada.email, RESET, 2).await;
    let reset = async |token: &str, password: &str| {
        house.post("/api/auth/reset-password", json!({ "token": token, "password": password })).await
    };
    // It is written down before it is sent.
    assert_eq!(reset(&first, "a new password").await.refused(), (400, "RESET_TOKEN_INVALID"));
    assert_eq!(reset("garbage", "a new password").await.refused(), (400, "RESET_TOKEN_INVALID"));
    assert_eq!(reset(&second, "short").await.refused(), (400, "VALIDATION_FAILED"));
    reset(&second, "a new password").await.ok();
    assert_eq!(reset(&second, "one more password").await.refused(), (400, "RESET_TOKEN_INVALID"));
    assert_eq!(house.get("/api/auth/me", &ada.token).await.refused(), (401, "SESSION_REVOKED"));
    let refresh = house.post("/api/auth/refresh", json!({ "refreshToken": ada.refresh_token })).await;
    assert_eq!(refresh.refused(), (401, "SESSION_REVOKED"));
    house.post("/api/auth/login", json!({ "email": ada.email, "password": "a new password" })).await.ok();
    assert!(outbox.0.lock().unwrap().iter().all(|mail| mail.0 == ada.email), "strangers get no mail");
    // Neither token is in the answers, and no link goes to a host that a request named.
    let mails = outbox.0.lock().unwrap().clone();
    assert!(mails.iter().all(|mail| mail.2.contains("http://localhost:5001/")), "{mails:?}");
    house.read_models_are_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_confirmed_with_what_was_sent_to_it() {
    let (house, outbox) = Outbox::house().await;
    let ada = house.register("ada").await;
    let eve = house.register("eve").await;
    let security = async |token: &str| house.get("/api/users/me/security", token).await.ok();
    let registered = outbox.token(&ada.email, CONFIRM, 1).await;
    assert_eq!(security(&ada.token).await["emailVerified"], false);
    house.post("/api/auth/verify-email", json!({ "token": registered })).await.ok();
    assert_eq!(security(&ada.token).await["emailVerified"], true);
    let again = house.post("/api/auth/verify-email", json!({ "token": registered })).await;
    assert_eq!(again.refused(), (400, "EMAIL_TOKEN_INVALID"));

    let path = "/api/users/me/email";
    let wrong = json!({ "email": "ada@new.example", "password": "not the password" });
    assert_eq!(house.call("POST", path, &ada.token, wrong).await.refused(), (400, "CREDENTIALS_INVALID"));
    let request =
        async |email: &str| house.call("POST", path, &ada.token, json!({ "email": email, "password": PASSWORD })).await;
    let lookalike = request("\u{430}\u{441}\u{435}@example.test").await;
    assert_eq!(
        (lookalike.refused(), &lookalike.body["details"][0]["rule"]),
        ((400, "VALIDATION_FAILED"), &json!("lookalike"))
    );
    // A taken address is not told; its owner would have to confirm it.
    request(&eve.email).await.ok();
    let taken = outbox.token(&eve.email, CONFIRM, 2).await;
    assert_eq!(house.post("/api/auth/verify-email", json!({ "token": taken })).await.refused(), (400, "EMAIL_TAKEN"));
    request("ada@new.example").await.ok();
    assert_eq!(security(&ada.token).await["pendingEmail"], "ada@new.example");
    let token = outbox.token("ada@new.example", CONFIRM, 1).await;
    house.post("/api/auth/verify-email", json!({ "token": token })).await.ok();
    let me = house.get("/api/users/me", &ada.token).await.ok();
    assert_eq!(me["email"], "ada@new.example");
    assert!(outbox.0.lock().unwrap().iter().any(|mail| mail.0 == ada.email && mail.1 == "Your address was changed"));
    house.post("/api/auth/login", json!({ "email": "ada@new.example", "password": PASSWORD })).await.ok();
    let old = house.post("/api/auth/login", json!({ "email": ada.email, "password": PASSWORD })).await;
    assert_eq!(old.refused(), (401, "CREDENTIALS_INVALID"));
    // The old address is free again.
    let body = json!({ "email": ada.email, "password": PASSWORD, "name": "Another Ada" });
    house.post("/api/auth/register", body).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_failures_block_an_identifier_whether_it_has_an_account_or_not() {
    let (house, outbox) = Outbox::house().await;
    let root = house.claim("root").await;
    let ada = house.register("ada").await;
    let login = async |email: &str, password: &str| {
        house.post("/api/auth/login", json!({ "email": email, "password": password })).await
    };
    for email in [ada.email.as_str(), "nobody@example.test"] {
        for _ in 0..10 {
            assert_eq!(login(email, "not the password").await.refused(), (401, "CREDENTIALS_INVALID"));
        }
        let blocked = eventually("blocked", async || {
            let answer = login(email, PASSWORD).await;
            (answer.refused() == (429, "RATE_LIMIT_EXCEEDED")).then_some(answer)
        })
        .await;
        assert!(blocked.body["retryAfter"].as_u64().unwrap() > 800, "{email}: {}", blocked.body);
    }
    // Who is signed in stays signed in.
    house.get("/api/auth/me", &ada.token).await.ok();
    let trail = eventually("the lock is recorded", async || {
        let types: Vec<String> = sqlx::query_scalar("SELECT type FROM identity.audit_trail WHERE aggregate_id = $1")
            .bind(&ada.id)
            .fetch_all(&mut *house.platform.read(&symbia_projections::Scope::platform()).await.unwrap())
            .await
            .unwrap();
        types.iter().any(|kind| kind.ends_with("user-locked.v1")).then_some(types)
    })
    .await;
    assert!(!trail.is_empty());
    // Who holds the mailbox comes in again at once.
    house.post("/api/auth/forgot-password", json!({ "email": ada.email })).await.ok();
    let token = outbox.token(&ada.email, RESET, 1).await;
    house.post("/api/auth/reset-password", json!({ "token": token, "password": "a new password" })).await.ok();
    let back = login(&ada.email, "a new password").await.ok();
    // An operator's lock ends the sessions and keeps the owner out.
    let path = |what: &str| format!("/api/admin/users/{}/{what}", ada.id);
    let why = json!({ "reason": "asked for by phone" });
    let stranger = house.call("POST", &path("lock"), back["token"].as_str().unwrap(), why.clone()).await;
    assert_eq!(stranger.refused(), (403, "SUPERADMIN_REQUIRED"));
    house.call("POST", &path("lock"), &root.token, why.clone()).await.ok();
    let token = back["token"].as_str().unwrap();
    assert_eq!(house.get("/api/auth/me", token).await.refused(), (401, "SESSION_REVOKED"));
    assert_eq!(login(&ada.email, "a new password").await.refused(), (403, "ACCOUNT_LOCKED"));
    assert_eq!(login(&ada.email, "not the password").await.refused(), (401, "CREDENTIALS_INVALID"));
    house.call("POST", &path("unlock"), &root.token, why).await.ok();
    login(&ada.email, "a new password").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn how_long_a_refusal_takes_does_not_tell_whether_there_is_an_account() {
    let house = House::with(|settings| settings.bcrypt_cost = 8).await;
    let ada = house.register("ada").await;
    let refuse = async |email: &str| {
        let began = Instant::now();
        let answer = house.post("/api/auth/login", json!({ "email": email, "password": "not the password" })).await;
        assert_eq!(answer.refused(), (401, "CREDENTIALS_INVALID"));
        began.elapsed()
    };
    // In turn, and the fastest of several: a busy machine slows both.
    let (mut known, mut unknown) = (Duration::MAX, Duration::MAX);
    for round in 0..5 {
        known = known.min(refuse(&ada.email).await);
        unknown = unknown.min(refuse(&format!("nobody{round}@example.test")).await);
    }
    let ratio = known.as_secs_f64() / unknown.as_secs_f64();
    assert!((0.3..3.0).contains(&ratio), "known {known:?}, unknown {unknown:?}");
}
