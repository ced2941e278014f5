//! The keys that tokens are signed with: made once, rotated, shared by processes, published.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use ed25519_dalek::{Signature, VerifyingKey};
use serde_json::{Value, json};
use symbia_api::{
    Platform,
    identity::{SigningKeys, Tokens},
    platform::Parts,
};
use symbia_nats::bus::CommandBus;
use symbia_projections::{Positions, ReadPool};

use super::stage::{House, PASSWORD};

/// Another process on the same servers.
async fn neighbour(house: &House) -> Platform {
    let reader = ReadPool::new(house.servers.database_url().parse().unwrap(), 2);
    Platform::new(Parts {
        nats: house.platform.nats.clone(),
        keys: house.keys.clone(),
        bus: CommandBus::open(house.platform.nats.clone()).await.unwrap(),
        positions: Positions::follow(house.platform.nats.clone(), reader.clone()),
        reader,
        secrets: house.platform.secrets.clone(),
        tokens: Tokens::new(SigningKeys::default(), "symbia-test", time::Duration::days(7)),
        settings: house.platform.settings.clone(),
    })
}

fn kid(platform: &Platform) -> String {
    platform.tokens.keys().unwrap().signer().unwrap().kid().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_processes_sign_with_one_key_and_a_rotation_is_followed() {
    let house = House::open().await;
    let neighbour = neighbour(&house).await;
    // Both at once: one key comes of it.
    let (ours, theirs) = tokio::join!(house.platform.ensure_signing_key(), neighbour.ensure_signing_key());
    ours.unwrap();
    theirs.unwrap();
    let first = kid(&house.platform);
    assert_eq!(first, kid(&neighbour));

    let root = house.claim("root").await;
    let ada = house.register("ada").await;
    assert_eq!(house.get("/api/admin/signing-keys", &ada.token).await.refused(), (403, "SUPERADMIN_REQUIRED"));
    let rotate = "/api/admin/signing-keys/rotate";
    assert_eq!(house.call("POST", rotate, &ada.token, json!({})).await.refused(), (403, "SUPERADMIN_REQUIRED"));
    let keys = house.call("POST", rotate, &root.token, json!({})).await.ok();
    let keys = keys["keys"].as_array().unwrap();
    assert_eq!((keys.len(), &keys[1]["kid"], &keys[1]["active"]), (2, &json!(first), &json!(false)));
    assert!(keys[1]["verifyUntil"].is_string());
    house.get("/api/auth/me", &ada.token).await.ok();
    let jwks = house.send("GET", "/.well-known/jwks.json", &[], None).await.ok();
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 2);

    // The neighbour made the next key; this process learns of it from a token.
    neighbour.load_signing_keys().await.unwrap();
    neighbour.rotate_signing_key(&symbia_commands::Actor::service("identity"), false).await.unwrap();
    let session = ada.refresh_token.split('.').next().unwrap();
    let subject = symbia_api::identity::Subject::user(&ada.id, None, None);
    let now = time::OffsetDateTime::now_utc();
    let newer = neighbour.tokens.issue(&subject, session, now, now + time::Duration::days(7)).unwrap().token;
    assert_ne!(kid(&house.platform), kid(&neighbour));
    house.get("/api/auth/me", &newer).await.ok();
    assert_eq!(kid(&house.platform), kid(&neighbour));

    // Private parts are kept for the key that signs only, and a leaked key's tokens count no longer.
    let keys = house.call("POST", rotate, &root.token, json!({ "compromised": true })).await.ok();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 3, "{keys}");
    assert_eq!(house.get("/api/auth/me", &newer).await.refused(), (401, "TOKEN_INVALID"));
    house.get("/api/auth/me", &ada.token).await.ok();
    let kept: i64 =
        sqlx::query_scalar("SELECT count(*) FROM vault.secrets WHERE ref LIKE 'signing-key:%' AND wrapped IS NOT NULL")
            .fetch_one(&house.pool)
            .await
            .unwrap();
    assert_eq!(kept, 1);
    let login = house.post("/api/auth/login", json!({ "email": ada.email, "password": PASSWORD })).await.ok();
    house.get("/api/auth/me", login["token"].as_str().unwrap()).await.ok();
}

/// By what the standards say (RFC 7515, RFC 7517, RFC 8037) and another implementation of Ed25519 than the one that signs.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_verified_with_the_published_key_by_another_library() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let json = |part: &str| serde_json::from_slice::<Value>(&BASE64URL.decode(part).unwrap()).unwrap();
    let [header, claims, signature] = ada.token.split('.').collect::<Vec<_>>().try_into().unwrap();
    let jwks = house.send("GET", "/.well-known/jwks.json", &[], None).await.ok();
    let named = json(header);
    let key = jwks["keys"].as_array().unwrap().iter().find(|key| key["kid"] == named["kid"]).unwrap();
    let stated = [&named["alg"], &key["alg"], &key["kty"], &key["crv"], &key["use"]];
    assert_eq!(stated, ["EdDSA", "EdDSA", "OKP", "Ed25519", "sig"].map(|text| json!(text)).each_ref());
    let public: [u8; 32] = BASE64URL.decode(key["x"].as_str().unwrap()).unwrap().try_into().unwrap();
    let public = VerifyingKey::from_bytes(&public).unwrap();
    let signature = Signature::from_slice(&BASE64URL.decode(signature).unwrap()).unwrap();
    public.verify_strict(format!("{header}.{claims}").as_bytes(), &signature).unwrap();
    assert!(public.verify_strict(format!("{header}.{claims}x").as_bytes(), &signature).is_err());
    let claims = json(claims);
    assert_eq!(
        (&claims["iss"], &claims["aud"], &claims["sub"]),
        (&json!("symbia-test"), &json!("symbia"), &json!(ada.id))
    );
    assert!(claims["exp"].is_i64() && claims["jti"].is_string() && claims["sid"].is_string(), "{claims}");
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_names_issuer_and_addresses() {
    let house = House::with(|settings| settings.base_url = "https://id.example.test/".to_owned()).await;
    let told = house.send("GET", "/.well-known/openid-configuration", &[], None).await.ok();
    assert_eq!(told["issuer"], "symbia-test");
    assert_eq!(told["jwks_uri"], "https://id.example.test/.well-known/jwks.json");
    assert_eq!(told["introspection_endpoint"], "https://id.example.test/api/auth/introspect");
    assert_eq!(told["token_signing_alg_values_supported"], json!(["EdDSA"]));
}
