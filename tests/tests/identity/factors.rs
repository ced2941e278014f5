//! The second factor: set up, asked for, each code once, recovery codes, turned off.

use serde_json::json;
use time::OffsetDateTime;
use totp_rs::{Builder, Secret};

use super::stage::{House, PASSWORD};

/// The code of a secret, so many steps from now.
pub fn code(secret: &str, steps: i64) -> String {
    let secret = Secret::try_from_base32(secret).unwrap();
    let totp = Builder::new().with_secret(secret).with_account_name("test").with_issuer(Some("test")).build().unwrap();
    let at = OffsetDateTime::now_utc().unix_timestamp() + 30 * steps;
    totp.generate(at.unsigned_abs()).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_in_takes_the_second_factor_once_it_is_confirmed() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let path = "/api/users/me/mfa";
    let early = house.call("POST", &format!("{path}/confirm"), &ada.token, json!({ "code": "000000" })).await;
    assert_eq!(early.refused(), (400, "MFA_NOT_ENROLLED"));
    let wrong = house.call("POST", path, &ada.token, json!({ "password": "not the password" })).await;
    assert_eq!(wrong.refused(), (400, "CREDENTIALS_INVALID"));
    let enrolled = house.call("POST", path, &ada.token, json!({ "password": PASSWORD })).await.ok();
    let secret = enrolled["secret"].as_str().unwrap();
    let url = enrolled["otpauthUrl"].as_str().unwrap();
    assert!(url.starts_with("otpauth://totp/Symbia") && url.contains(secret), "{url}");
    let login = json!({ "email": ada.email, "password": PASSWORD });
    // Not confirmed: it does not count yet.
    house.post("/api/auth/login", login.clone()).await.ok();
    let confirm =
        async |code: &str| house.call("POST", &format!("{path}/confirm"), &ada.token, json!({ "code": code })).await;
    assert_eq!(confirm("abc").await.refused(), (401, "MFA_CODE_INVALID"));
    // The step before, so that the present one is unused.
    let confirmed = confirm(&code(secret, -1)).await.ok();
    let recovery = confirmed["recoveryCodes"].as_array().unwrap();
    assert_eq!(recovery.len(), 10);

    let needed = house.post("/api/auth/login", login.clone()).await;
    assert_eq!(needed.refused(), (401, "MFA_REQUIRED"));
    assert!(needed.body.get("token").is_none() && !needed.headers.contains_key("set-cookie"));
    let step = needed.body["mfaToken"].as_str().unwrap();
    let second = async |token: &str, code: &str| {
        house.post("/api/auth/login/mfa", json!({ "mfaToken": token, "code": code })).await
    };
    let now = code(secret, 0);
    assert_eq!(second("forged.1.x", &now).await.refused(), (401, "TOKEN_INVALID"));
    assert_eq!(second(&step.replacen(&ada.id, "somebody", 1), &now).await.refused(), (401, "TOKEN_INVALID"));
    assert_eq!(second(step, "aaaa-bbbb-cccc-dddd").await.refused(), (401, "MFA_CODE_INVALID"));
    let signed_in = second(step, &now).await.ok();
    house.get("/api/auth/me", signed_in["token"].as_str().unwrap()).await.ok();
    assert_eq!(second(step, &now).await.refused(), (401, "MFA_CODE_INVALID"), "a code counts once");

    let with = |otp: &str| json!({ "email": ada.email, "password": PASSWORD, "otp": otp });
    let spare = recovery[0].as_str().unwrap().to_uppercase();
    house.post("/api/auth/login", with(&spare)).await.ok();
    assert_eq!(house.post("/api/auth/login", with(&spare)).await.refused(), (401, "MFA_CODE_INVALID"));
    let security = house.get("/api/users/me/security", &ada.token).await.ok();
    assert_eq!((&security["mfaEnabled"], &security["recoveryCodesLeft"]), (&json!(true), &json!(9)));

    let again = house.call("POST", path, &ada.token, json!({ "password": PASSWORD })).await;
    assert_eq!(again.refused(), (400, "MFA_ENABLED"));
    let without = house.call("DELETE", path, &ada.token, json!({ "password": PASSWORD })).await;
    assert_eq!(without.refused(), (401, "MFA_CODE_INVALID"));
    let removal = json!({ "password": PASSWORD, "code": recovery[1] });
    house.call("DELETE", path, &ada.token, removal).await.ok();
    house.post("/api/auth/login", login).await.ok();

    // The secret and the codes are nowhere but in their one answer.
    let tables: Vec<String> = sqlx::query_scalar("SELECT t::text FROM identity.audit_trail t")
        .fetch_all(&mut *house.platform.read(&symbia_projections::Scope::platform()).await.unwrap())
        .await
        .unwrap();
    assert!(!tables.is_empty() && tables.iter().all(|row| !row.contains(secret)));
    house.read_models_are_what_the_log_says().await;
}
