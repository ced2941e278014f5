//! The platform as authorization server of apps and MCP clients: metadata, code with PKCE, refresh, reuse, limits.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::stage::{Answer, House, PASSWORD, Person};

pub const VERIFIER: &str = "a-verifier-of-enough-letters-0123456789-ABCDEFG";
pub const BACK: &str = "http://127.0.0.1:45454/back";

/// A client's metadata document, served from this machine.
pub async fn client() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let id = format!("http://127.0.0.1:{}/client.json", listener.local_addr().unwrap().port());
    let document =
        json!({ "client_id": id, "client_name": "An <app>", "redirect_uris": ["http://127.0.0.1/back"] }).to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 2048];
            let _ = stream.read(&mut request).await;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: ";
            let _ = stream.write_all(format!("{head}{}\r\n\r\n{document}", document.len()).as_bytes()).await;
        }
    });
    id
}

pub fn question(client: &str, more: &[(&str, &str)]) -> Vec<(String, String)> {
    let challenge = BASE64URL.encode(Sha256::digest(VERIFIER.as_bytes()));
    let mut fields: Vec<(String, String)> = [
        ("response_type", "code"),
        ("client_id", client),
        ("redirect_uri", BACK),
        ("code_challenge", challenge.as_str()),
        ("code_challenge_method", "S256"),
        ("scope", "cap:identity.read"),
        ("state", "xyz"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .to_vec();
    for (name, value) in more {
        fields.retain(|(k, _)| k != name);
        fields.push(((*name).to_owned(), (*value).to_owned()));
    }
    fields
}

pub fn form(fields: &[(String, String)]) -> String {
    let encode = |text: &str| {
        text.bytes().fold(String::new(), |all, b| {
            if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
                all + &char::from(b).to_string()
            } else {
                all + &format!("%{b:02X}")
            }
        })
    };
    fields.iter().map(|(k, v)| format!("{}={}", encode(k), encode(v))).collect::<Vec<_>>().join("&")
}

async fn ask(house: &House, person: &Person, fields: &[(String, String)]) -> Answer {
    house.get(&format!("/oauth/authorize?{}", form(fields)), &person.token).await
}

async fn agree(house: &House, person: &Person, fields: &[(String, String)], decision: &str) -> String {
    let asked = ask(house, person, fields).await.ok();
    let mut fields = fields.to_vec();
    fields.push(("ticket".to_owned(), asked["ticket"].as_str().unwrap().to_owned()));
    fields.push(("decision".to_owned(), decision.to_owned()));
    let bearer = format!("Bearer {}", person.token);
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/x-www-form-urlencoded")];
    let answer = house.send_raw("/oauth/authorize", &headers, form(&fields)).await;
    assert_eq!(answer.status, 303, "{}", answer.body);
    answer.headers["location"].to_str().unwrap().to_owned()
}

pub fn code_of(location: &str) -> String {
    location.split_once("code=").unwrap().1.split('&').next().unwrap().to_owned()
}

pub async fn token(house: &House, fields: &[(&str, &str)]) -> Answer {
    let fields: Vec<_> = fields.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    house.send_raw("/api/oauth/token", &[("content-type", "application/x-www-form-urlencoded")], form(&fields)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_gets_a_code_with_pkce_and_tokens_with_no_more_than_was_agreed() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let client = client().await;
    let metadata = house.send("GET", "/.well-known/oauth-authorization-server", &[], None).await.ok();
    assert_eq!(metadata["issuer"], "symbia-test");
    assert_eq!(metadata["code_challenge_methods_supported"], json!(["S256"]));
    assert_eq!(metadata["client_id_metadata_document_supported"], true);
    let resource = house.send("GET", "/.well-known/oauth-protected-resource", &[], None).await.ok();
    assert_eq!(resource["authorization_servers"], json!(["symbia-test"]));

    for (more, code) in [
        (("response_type", "token"), "UNSUPPORTED_RESPONSE_TYPE"),
        (("code_challenge_method", "plain"), "INVALID_REQUEST"),
        (("code_challenge", ""), "INVALID_REQUEST"),
        (("scope", "everything"), "INVALID_SCOPE"),
        (("resource", "not an address"), "INVALID_TARGET"),
        (("redirect_uri", "http://127.0.0.1:45454/elsewhere"), "INVALID_REQUEST"),
        (("redirect_uri", "https://evil.example/back"), "INVALID_REQUEST"),
        (("client_id", "https://127.0.0.1/client.json"), "INVALID_CLIENT"),
        (("client_id", "https://169.254.169.254/client.json"), "INVALID_CLIENT"),
        (("client_id", "just-a-name"), "INVALID_CLIENT"),
    ] {
        let refused = ask(&house, &ada, &question(&client, &[more])).await;
        assert_eq!(refused.refused().1, code, "{more:?} {}", refused.body);
    }
    let fields = question(&client, &[]);
    let anonymous = house.send("GET", &format!("/oauth/authorize?{}", form(&fields)), &[], None).await;
    assert_eq!(anonymous.refused(), (401, "AUTH_REQUIRED"));
    // The page shows the client's words and does not run them.
    let bearer = format!("Bearer {}", ada.token);
    let page = [("authorization", bearer.as_str()), ("accept", "text/html")];
    house.send("GET", &format!("/oauth/authorize?{}", form(&fields)), &page, None).await;
    let shown = house.answers.lock().unwrap().last().unwrap().1.clone();
    assert!(shown.contains("An &lt;app&gt;") && shown.contains("default-src 'none'"), "{shown}");
    // Nobody says yes for her without the page's ticket.
    let mut forged = fields.clone();
    forged.extend([("ticket".to_owned(), "x".to_owned()), ("decision".to_owned(), "approve".to_owned())]);
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(house.send_raw("/oauth/authorize", &headers, form(&forged)).await.refused(), (400, "INVALID_REQUEST"));
    let denied = agree(&house, &ada, &fields, "deny").await;
    assert!(
        denied.starts_with(BACK) && denied.contains("error=access_denied") && denied.contains("state=xyz"),
        "{denied}"
    );

    let location = agree(&house, &ada, &fields, "approve").await;
    assert!(location.contains("state=xyz") && location.contains("iss=symbia-test"), "{location}");
    let code = code_of(&location);
    let redeem = async |verifier: &str, client: &str| {
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("redirect_uri", BACK),
            ("client_id", client),
            ("code_verifier", verifier),
        ];
        token(&house, &fields).await
    };
    assert_eq!(redeem(&VERIFIER.to_lowercase(), &client).await.refused(), (400, "INVALID_GRANT"));
    assert_eq!(redeem(VERIFIER, "https://evil.example/client").await.refused(), (400, "INVALID_GRANT"));
    let granted = redeem(VERIFIER, &client).await.ok();
    assert_eq!(granted["scope"], "cap:identity.read");
    let access = granted["access_token"].as_str().unwrap();
    let told = house.post("/api/auth/introspect", json!({ "token": access })).await.ok();
    assert_eq!(
        (&told["sub"], &told["client_id"], &told["scope"]),
        (&json!(ada.id), &json!(client), &json!("cap:identity.read"))
    );
    let org = format!("/api/orgs/{}", ada.org);
    house.get(&org, access).await.ok();
    assert_eq!(house.call("PATCH", &org, access, json!({ "name": "By an app" })).await.status, 403);
    let change = json!({ "currentPassword": PASSWORD, "newPassword": "taken over 1" });
    assert_eq!(house.call("POST", "/api/users/me/password", access, change).await.status, 403);

    // A refresh token of a client gives tokens of a client only.
    let refresh = granted["refresh_token"].as_str().unwrap();
    let elsewhere = house.post("/api/auth/refresh", json!({ "refreshToken": refresh })).await;
    assert_eq!(elsewhere.refused(), (401, "TOKEN_INVALID"));
    let renew = async |token_text: &str, scope: &str| {
        token(
            &house,
            &[("grant_type", "refresh_token"), ("refresh_token", token_text), ("client_id", &client), ("scope", scope)],
        )
        .await
    };
    let next = renew(refresh, "").await.ok();
    let access = next["access_token"].as_str().unwrap().to_owned();
    house.get(&org, &access).await.ok();
    assert_eq!(renew(refresh, "").await.refused(), (400, "INVALID_GRANT"), "it works once");
    assert_eq!(house.get(&org, &access).await.refused(), (401, "SESSION_REVOKED"), "its reuse ends the family");
    house.read_models_are_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_comes_twice_ends_what_came_of_it_and_a_token_for_a_resource_is_for_it_alone() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let client = client().await;
    let redeem = async |code: &str| {
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", BACK),
            ("client_id", &client),
            ("code_verifier", VERIFIER),
        ];
        token(&house, &fields).await
    };
    let code = code_of(&agree(&house, &ada, &question(&client, &[]), "approve").await);
    let granted: Value = redeem(&code).await.ok();
    let access = granted["access_token"].as_str().unwrap();
    house.get("/api/orgs", access).await.ok();
    assert_eq!(redeem(&code).await.refused(), (400, "INVALID_GRANT"));
    assert_eq!(house.get("/api/orgs", access).await.refused(), (401, "SESSION_REVOKED"));

    let fields = question(&client, &[("resource", "https://mcp.example/server")]);
    let code = code_of(&agree(&house, &ada, &fields, "approve").await);
    let granted = redeem(&code).await.ok();
    let access = granted["access_token"].as_str().unwrap();
    let told = house.post("/api/auth/introspect", json!({ "token": access })).await.ok();
    assert_eq!((&told["active"], &told["aud"]), (&json!(true), &json!("https://mcp.example/server")));
    assert_eq!(house.get("/api/orgs", access).await.refused(), (401, "TOKEN_INVALID"));
    // It is a session of hers: she sees it and ends it.
    let sessions = house.get("/api/auth/sessions", &ada.token).await.ok();
    let theirs = sessions["sessions"].as_array().unwrap().iter().find(|s| s["method"] == "oauth").unwrap();
    let path = format!("/api/auth/sessions/{}", theirs["id"].as_str().unwrap());
    house.call("DELETE", &path, &ada.token, json!({})).await.ok();
    let told = house.post("/api/auth/introspect", json!({ "token": access })).await.ok();
    assert_eq!(told, json!({ "active": false }));
}
