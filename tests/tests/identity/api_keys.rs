//! API keys: minted once, limited by their scopes, ended at once.

use serde_json::{Value, json};

use super::stage::{Answer, House, Person, eventually};

async fn mint(house: &House, who: &Person, body: Value) -> Value {
    house.call("POST", "/api/api-keys", &who.token, body).await.ok()
}

async fn with_key(house: &House, method: &str, path: &str, key: &Value, body: Option<Value>) -> Answer {
    house.send(method, path, &[("x-api-key", key.as_str().unwrap())], body).await
}

async fn verify(house: &House, key: &Value) -> Value {
    house.post("/api/auth/verify-api-key", json!({ "apiKey": key })).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_shown_once_acts_for_its_creator_and_ends_when_it_is_revoked() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let minted = mint(&house, &ada, json!({ "name": "ci", "expiresInDays": 30 })).await;
    let key = minted["key"].as_str().unwrap();
    assert!(key.len() == 67 && key.starts_with("sk_") && key[3..].bytes().all(|b| b"0123456789abcdef".contains(&b)));
    assert_eq!(minted["keyPrefix"], key[..11]);
    assert!(minted["_warning"].is_string() && minted["expiresAt"].is_string() && minted.get("rotatedFrom").is_none());
    let path = format!("/api/api-keys/{}", minted["id"].as_str().unwrap());

    let me = with_key(&house, "GET", "/api/auth/me", &minted["key"], None).await.ok();
    assert_eq!((&me["user"]["id"], &me["user"]["isSuperAdmin"]), (&json!(ada.id), &json!(false)));
    let renamed = json!({ "name": "Ada's" });
    with_key(&house, "PATCH", &format!("/api/orgs/{}", ada.org), &minted["key"], Some(renamed)).await.ok();
    let verified = verify(&house, &minted["key"]).await;
    assert_eq!(
        (&verified["valid"], &verified["keyId"], &verified["name"], &verified["orgId"], &verified["scopes"]),
        (&json!(true), &minted["id"], &json!("ci"), &Value::Null, &json!([]))
    );
    assert_eq!((&verified["creator"]["email"], &verified["createdBy"]), (&json!(ada.email), &json!(ada.id)));
    assert_eq!(verified["creator"]["organizations"][0]["role"], "admin");
    with_key(&house, "POST", "/api/auth/verify-api-key", &minted["key"], None).await.ok();
    let again = with_key(&house, "POST", "/api/api-keys", &minted["key"], Some(json!({ "name": "heir" }))).await;
    assert_eq!(again.refused(), (403, "FORBIDDEN"));
    let seen = eventually("used", async || {
        with_key(&house, "GET", "/api/auth/me", &minted["key"], None).await.ok();
        Some(house.get(&path, &ada.token).await.ok()).filter(|view| view["lastUsedAt"].is_string())
    })
    .await;
    assert!(seen.get("key").is_none() && seen.get("keyHash").is_none(), "{seen}");

    house.call("POST", &format!("{path}/revoke"), &ada.token, json!({})).await.ok();
    let refused = with_key(&house, "GET", "/api/auth/me", &minted["key"], None).await;
    assert_eq!(refused.refused(), (401, "API_KEY_INVALID"));
    assert_eq!(verify(&house, &minted["key"]).await, json!({ "valid": false, "error": "The API key was revoked" }));
    let twice = house.call("POST", &format!("{path}/revoke"), &ada.token, json!({})).await;
    assert_eq!(twice.refused(), (400, "ALREADY_REVOKED"));
    let rotate = house.call("POST", &format!("{path}/rotate"), &ada.token, json!({})).await;
    assert_eq!(rotate.refused(), (400, "ALREADY_REVOKED"));
    let list = house.get("/api/api-keys", &ada.token).await.ok();
    assert!(list[0]["revokedAt"].is_string());
    // The names that never worked in the original.
    assert_eq!(house.get("/api/auth/keys", &ada.token).await.ok(), list);
    let alias = path.replace("/api/api-keys", "/api/auth/keys");
    house.call("DELETE", &alias, &ada.token, json!({})).await.ok();
    assert_eq!(house.get(&path, &ada.token).await.refused(), (404, "NOT_FOUND"));

    for (sent, error) in [(json!({}), "missing"), (json!({ "apiKey": "sk_0" }), "not valid")] {
        let answer = house.post("/api/auth/verify-api-key", sent).await.ok();
        assert!(answer["valid"] == false && answer["error"].as_str().unwrap().contains(error), "{answer}");
    }
    let unknown = with_key(&house, "POST", "/api/auth/verify-api-key", &json!("sk_unknown"), Some(json!({}))).await;
    assert_eq!(unknown.refused(), (401, "API_KEY_INVALID"));
    let past = mint(&house, &ada, json!({ "name": "old", "expiresAt": "2020-01-01T00:00:00.000Z" })).await;
    assert_eq!(verify(&house, &past["key"]).await["error"], "The API key has expired");
    for bad in [
        json!({ "name": "" }),
        json!({ "name": "n".repeat(101) }),
        json!({ "name": "x", "expiresAt": "tomorrow" }),
        json!({ "name": "x", "scopes": [" "] }),
        json!({}),
    ] {
        let answer = house.call("POST", "/api/api-keys", &ada.token, bad.clone()).await;
        assert_eq!(answer.refused(), (400, "VALIDATION_FAILED"), "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_goes_on_working_in_its_grace_only() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let first = mint(&house, &ada, json!({ "name": "ci", "orgId": ada.org, "scopes": ["deploy"] })).await;
    let rotate = async |key: &Value, body: Value| {
        let path = format!("/api/api-keys/{}/rotate", key["id"].as_str().unwrap());
        house.call("POST", &path, &ada.token, body).await
    };
    let second = rotate(&first, json!({ "graceSeconds": 3600 })).await.ok();
    assert_eq!((&second["rotatedFrom"], &second["scopes"]), (&first["id"], &json!(["deploy"])));
    for key in [&first, &second] {
        assert_eq!(verify(&house, &key["key"]).await["valid"], true);
    }
    let third = rotate(&second, json!({})).await.ok();
    assert_eq!(verify(&house, &second["key"]).await["error"], "The API key was revoked");
    assert_eq!(verify(&house, &third["key"]).await["orgId"], json!(ada.org));
    // What is in its grace can be ended at once.
    let revoke = format!("/api/api-keys/{}/revoke", first["id"].as_str().unwrap());
    house.call("POST", &revoke, &ada.token, json!({})).await.ok();
    assert_eq!(verify(&house, &first["key"]).await["valid"], false);
    assert_eq!(rotate(&third, json!({ "graceSeconds": 999_999_999 })).await.refused(), (400, "VALIDATION_FAILED"));
    house.read_models_are_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_and_organization_limit_what_a_key_does() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let lab = house.call("POST", "/api/orgs", &ada.token, json!({ "name": "Lab" })).await.ok();
    let (own, other) = (format!("/api/orgs/{}", ada.org), format!("/api/orgs/{}", lab["id"].as_str().unwrap()));
    let rename = || Some(json!({ "name": "Renamed" }));

    let narrow = mint(&house, &ada, json!({ "name": "narrow", "scopes": ["cap:catalog.read"] })).await["key"].clone();
    with_key(&house, "GET", "/api/auth/me", &narrow, None).await.ok();
    for (method, path, body) in [
        ("GET", own.as_str(), None),
        ("GET", "/api/api-keys", None),
        ("PATCH", own.as_str(), rename()),
        ("PATCH", "/api/users/me", rename()),
        ("POST", "/api/auth/logout-all", None),
        ("POST", "/api/auth/assertion", None),
        ("POST", "/api/api-keys", Some(json!({ "name": "wider" }))),
    ] {
        let answer = with_key(&house, method, path, &narrow, body).await;
        assert_eq!(answer.refused(), (403, "MISSING_CAPABILITY"), "{method} {path}");
    }
    assert_eq!(verify(&house, &narrow).await["creator"]["organizations"][0]["role"], "viewer");

    let reader = mint(&house, &ada, json!({ "name": "reader", "scopes": ["cap:identity.read"] })).await["key"].clone();
    with_key(&house, "GET", &own, &reader, None).await.ok();
    assert_eq!(with_key(&house, "PATCH", &own, &reader, rename()).await.refused(), (403, "MISSING_CAPABILITY"));
    let scopes = json!({ "name": "orgs", "scopes": ["cap:identity.manage-orgs"] });
    let viewer = mint(&house, &ada, scopes).await["key"].clone();
    assert_eq!(with_key(&house, "PATCH", &own, &viewer, rename()).await.refused(), (403, "INSUFFICIENT_ROLE"));

    let scopes = ["cap:identity.manage-orgs", "role:admin"];
    let bound = json!({ "name": "bound", "orgId": ada.org, "scopes": scopes });
    let bound = mint(&house, &ada, bound).await["key"].clone();
    assert_eq!(with_key(&house, "PATCH", &own, &bound, rename()).await.ok()["name"], "Renamed");
    assert_eq!(with_key(&house, "PATCH", &other, &bound, rename()).await.refused(), (403, "ORG_ACCESS_DENIED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_neither_sees_nor_ends_a_key_and_mints_none_for_another_organization() {
    let house = House::open().await;
    let (ada, eve, bob) = (house.register("ada").await, house.register("eve").await, house.register("bob").await);
    let invite = json!({ "email": bob.email, "role": "member" });
    house.call("POST", &format!("/api/orgs/{}/members/invite", ada.org), &ada.token, invite).await.ok();
    let key = mint(&house, &ada, json!({ "name": "ci", "orgId": ada.org })).await;
    let path = format!("/api/api-keys/{}", key["id"].as_str().unwrap());
    let before = house.head().await;
    for (method, path) in [
        ("GET", path.clone()),
        ("DELETE", path.clone()),
        ("POST", format!("{path}/revoke")),
        ("POST", format!("{path}/rotate")),
        ("GET", path.replace("api-keys", "auth/keys")),
    ] {
        for (token, refused) in [(&eve.token, (404, "NOT_FOUND")), (&bob.token, (403, "FORBIDDEN"))] {
            let bearer = format!("Bearer {token}");
            let forged = [("authorization", bearer.as_str()), ("x-org-id", &ada.org), ("x-as-user-id", &ada.id)];
            let answer = house.send(method, &path, &forged, Some(json!({}))).await;
            assert_eq!(answer.refused(), refused, "{method} {path}");
        }
        assert_eq!(house.send(method, &path, &[], None).await.refused(), (401, "AUTH_REQUIRED"), "{method} {path}");
    }
    for (who, code) in [(&eve, "ORG_ACCESS_DENIED"), (&bob, "INSUFFICIENT_ROLE")] {
        let body = json!({ "name": "mine", "orgId": ada.org });
        assert_eq!(house.call("POST", "/api/api-keys", &who.token, body).await.refused(), (403, code));
    }
    assert_eq!(house.get("/api/api-keys", &eve.token).await.ok(), json!([]));
    assert_eq!(house.head().await, before);

    // A creator who leaves the organization takes the key's rights along.
    let bobs = house.get(&format!("/api/orgs/{}", ada.org), &ada.token).await.ok();
    let membership = bobs["members"].as_array().unwrap().iter().find(|m| m["userId"] == bob.id.as_str()).unwrap();
    let member = format!("/api/orgs/{}/members/{}", ada.org, membership["id"].as_str().unwrap());
    house.call("PATCH", &member, &ada.token, json!({ "role": "admin" })).await.ok();
    let bobs = mint(&house, &bob, json!({ "name": "bob's", "orgId": ada.org })).await;
    assert_eq!(verify(&house, &bobs["key"]).await["valid"], true);
    house.call("DELETE", &member, &ada.token, json!({})).await.ok();
    assert_eq!(verify(&house, &bobs["key"]).await["valid"], false);
}
