//! Accounts at another provider: linked in the browser that began it, kept in the vault, refreshed in time, given back.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, ensure};
use axum::{
    Form, Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use reqwest::{Client, Url, redirect::Policy};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use symbia_tests::binary::until;

use crate::{
    Tested,
    stage::{Person, Stage},
};

const SECRET: &str = "acme-CANARY-client-secret";
const BACK: &str = "http://127.0.0.1:1/back?kept=1";

#[derive(Default)]
struct Book {
    /// Codes that were not used yet, with the challenge that they go with.
    codes: HashMap<String, String>,
    /// The refresh token that counts.
    refresh: String,
    given: u32,
    refused: u32,
    revoked: Vec<String>,
    /// With what the API was called.
    called: Vec<String>,
}

/// An authorization server, and the API that its tokens are for.
#[derive(Clone, Default)]
struct Acme {
    book: Arc<Mutex<Book>>,
    base: String,
}

impl Acme {
    async fn start() -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let acme = Acme { base: format!("http://{}", listener.local_addr()?), ..Acme::default() };
        let routes = Router::new()
            .route("/token", post(token))
            .route("/revoke", post(revoke))
            .route("/me", get(me))
            .route("/v1/things", get(things));
        let app = routes.with_state(acme.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(acme)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    /// Somebody agrees: the code that their browser is sent back with.
    fn agree(&self, way: &str) -> anyhow::Result<String> {
        let url = Url::parse(way)?;
        let query: HashMap<String, String> = url.query_pairs().into_owned().collect();
        ensure!(query["response_type"] == "code" && query["code_challenge_method"] == "S256", "{query:?}");
        ensure!(query["client_id"] == "symbia" && query["scope"] == "things,more", "{query:?}");
        ensure!(query["redirect_uri"].ends_with("/api/oauth/callback") && query["audience"] == "x", "{query:?}");
        let code = format!("code-CANARY-{}", self.book().codes.len());
        self.book().codes.insert(code.clone(), query["code_challenge"].clone());
        Ok(code)
    }
}

async fn token(State(acme): State<Acme>, Form(form): Form<HashMap<String, String>>) -> Response {
    let field = |name: &str| form.get(name).cloned().unwrap_or_default();
    let mut book = acme.book();
    let proven = field("client_id") == "symbia" && field("client_secret") == SECRET;
    let fits = match field("grant_type").as_str() {
        "authorization_code" => {
            let challenge = BASE64URL.encode(Sha256::digest(field("code_verifier").as_bytes()));
            book.codes.remove(&field("code")).is_some_and(|wanted| wanted == challenge)
        }
        "refresh_token" => !book.refresh.is_empty() && field("refresh_token") == book.refresh,
        _ => false,
    };
    if !proven || !fits {
        book.refused += 1;
        let said = json!({ "error": "invalid_grant", "error_description": "said-CANARY" });
        return (StatusCode::BAD_REQUEST, Json(said)).into_response();
    }
    book.given += 1;
    book.refresh = format!("refresh-CANARY-{}", book.given);
    // The second one lasts.
    let lives = if book.given == 1 { 4 } else { 3600 };
    Json(json!({ "access_token": format!("access-CANARY-{}", book.given), "refresh_token": book.refresh,
        "token_type": "bearer", "expires_in": lives }))
    .into_response()
}

async fn revoke(State(acme): State<Acme>, Form(form): Form<HashMap<String, String>>) -> Json<Value> {
    acme.book().revoked.extend(form.get("token").cloned());
    Json(Value::Null)
}

async fn me() -> Json<Value> {
    Json(json!({ "sub": "acme-7", "email": "ada@acme.example", "name": "Ada at Acme" }))
}

async fn things(State(acme): State<Acme>, headers: HeaderMap) -> Json<Value> {
    let key = headers.get("authorization").and_then(|key| key.to_str().ok()).unwrap_or_default();
    acme.book().called.push(key.to_owned());
    Json(json!({ "things": [] }))
}

fn client_of(acme: &Acme) -> Value {
    json!({ "clientId": "symbia", "clientSecret": SECRET, "displayName": "Acme",
        "authorizationUrl": format!("{}/authorize?audience=x", acme.base), "tokenUrl": format!("{}/token", acme.base),
        "userinfoUrl": format!("{}/me", acme.base), "revokeUrl": format!("{}/revoke", acme.base),
        "defaultScopes": ["things", "more"], "scopeDelimiter": ",", "hosts": [acme.host()], "redirectUris": [BACK] })
}

/// A browser, which follows no redirect.
struct Browser {
    http: Client,
    base: String,
}

/// Where it was sent, and what it holds from then on.
struct Sent {
    way: String,
    state: String,
    cookie: String,
}

impl Browser {
    async fn sets_out(&self, who: &Person, body: Value) -> anyhow::Result<Sent> {
        let request = self.http.post(format!("{}/api/oauth/authorize", self.base)).bearer_auth(&who.token).json(&body);
        let answer = request.send().await?.error_for_status()?;
        let cookie = answer.headers().get(header::SET_COOKIE).context("no cookie")?.to_str()?.to_owned();
        ensure!(cookie.contains("HttpOnly; SameSite=Lax"), "{cookie}");
        let said: Value = answer.json().await?;
        let text = |name: &str| said[name].as_str().map(str::to_owned).with_context(|| format!("no {name}: {said}"));
        let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
        Ok(Sent { way: text("authorizationUrl")?, state: text("state")?, cookie })
    }

    /// Status, and where it goes on to or what it reads.
    async fn comes_back(&self, query: &str, cookie: &str) -> anyhow::Result<(u16, String)> {
        let request = self.http.get(format!("{}/api/oauth/callback?{query}", self.base)).header(header::COOKIE, cookie);
        let answer = request.send().await?;
        let (status, place) = (answer.status().as_u16(), answer.headers().get(header::LOCATION).cloned());
        Ok((
            status,
            match place {
                Some(place) => place.to_str()?.to_owned(),
                None => answer.text().await?,
            },
        ))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_linked_used_refreshed_and_given_up() -> Tested {
    let stage = Stage::open().await?;
    let acme = Acme::start().await?;
    let (ada, eve) = (stage.register("ada").await?, stage.register("eve").await?);
    let browser = Browser { http: Client::builder().redirect(Policy::none()).build()?, base: stage.gateway.clone() };
    let config = "/api/oauth/provider-configs/acme";
    let set = stage.ask(&ada, "PUT", config, Some(client_of(&acme))).await?;
    ensure!(set.status == 200 && set.body["hasSecret"] == true, "{} {}", set.status, set.body);
    ensure!(!set.body.to_string().contains("CANARY"), "{}", set.body);
    let lured = json!({ "clientId": "symbia", "authorizationUrl": "https://evil.example/a", "tokenUrl": "https://evil.example/t" });
    let lured = stage.ask(&ada, "PUT", config, Some(lured)).await?;
    ensure!(lured.status == 400 && lured.body["code"] == "SECRET_NEEDED", "{}", lured.body);

    // Another organization has none of it.
    let theirs = stage.ask(&eve, "GET", "/api/oauth/providers", None).await?;
    ensure!(theirs.body == json!({ "providers": [] }), "{}", theirs.body);
    let begin = json!({ "provider": "acme", "redirectUri": BACK, "state": "mine" });
    let refused = stage.ask(&eve, "POST", "/api/oauth/authorize", Some(begin.clone())).await?;
    ensure!(refused.status == 400 && refused.body["code"] == "UNKNOWN_PROVIDER", "{}", refused.body);
    ensure!(
        stage.ask_in(&eve, Some(&ada.org), "PUT", config, Some(client_of(&acme))).await?.status == 403,
        "eve sets it"
    );
    let elsewhere = json!({ "provider": "acme", "redirectUri": "https://evil.example/back" });
    ensure!(stage.ask(&ada, "POST", "/api/oauth/authorize", Some(elsewhere)).await?.status == 400, "sent anywhere");

    // Forged, without a code, in another browser: refused, and the right one is still let through. Once.
    let sent = browser.sets_out(&ada, begin.clone()).await?;
    let back = format!("code={}&state={}", acme.agree(&sent.way)?, sent.state);
    let forged = format!("code=x&state={}", "0".repeat(64));
    for (query, cookie) in [
        (forged.as_str(), sent.cookie.as_str()),
        ("state=x", ""),
        ("code=x", ""),
        (&back, ""),
        (&back, "symbia_oauth_0=x"),
    ] {
        let (status, said) = browser.comes_back(query, cookie).await?;
        ensure!(status == 400 && !said.contains("CANARY"), "{query}: {status} {said}");
    }
    let (status, place) = browser.comes_back(&back, &sent.cookie).await?;
    ensure!(
        status == 303 && place.starts_with("http://127.0.0.1:1/back?kept=1&success=true&provider=acme"),
        "{status} {place}"
    );
    ensure!(place.contains("&state=mine") && !place.contains("CANARY"), "{place}");
    let (again, said) = browser.comes_back(&back, &sent.cookie).await?;
    ensure!(again == 400 && said.contains("was used"), "{again} {said}");

    let mine = || stage.ask(&ada, "GET", "/api/oauth/connections", None);
    let linked = mine().await?.body["connections"].clone();
    let id = linked[0]["id"].as_str().context("no connection")?.to_owned();
    ensure!(place.contains(&format!("connection_id={id}")) && linked[0]["status"] == "active", "{place} {linked}");
    ensure!(
        linked[0]["oauthUserEmail"] == "ada@acme.example" && linked[0]["scopes"] == json!(["things", "more"]),
        "{linked}"
    );
    ensure!(
        stage.ask(&eve, "GET", "/api/oauth/connections", None).await?.body == json!({ "connections": [] }),
        "eve's"
    );
    let theirs = stage.ask(&eve, "DELETE", &format!("/api/oauth/connections/{id}"), None).await?;
    ensure!(theirs.status == 404, "{}", theirs.body);

    // Before its end there is another token, for which the next refresh token was used.
    until("it is refreshed", || async { Ok(acme.book().given == 2) }).await?;
    let end = linked[0]["expiresAt"].clone();
    until("the new end shows", || async { Ok(mine().await?.body["connections"][0]["expiresAt"] != end) }).await?;
    ensure!(acme.book().refused == 0, "a token was used twice");

    // What is called with it is the API that it is for.
    ensure!(linked[0]["lastUsedAt"].is_null(), "{linked}");
    let custom = json!({ "key": "things", "type": "custom", "serverUrl": format!("{}/v1", acme.base),
        "auth": { "type": "oauth2", "credentialKey": "acme" },
        "operations": [{ "id": "list", "method": "GET", "path": "/things" }] });
    let registered = stage.ask(&ada, "POST", "/api/integrations/register", Some(custom)).await?;
    ensure!(registered.status == 200, "{}", registered.body);
    let invoke = || stage.ask(&ada, "POST", "/api/integrations/invoke", Some(json!({ "operation": "things.list" })));
    ensure!(invoke().await?.body["success"] == true, "{}", invoke().await?.body);
    ensure!(acme.book().called.iter().all(|key| key == "Bearer access-CANARY-2"), "{:?}", acme.book().called);

    until("that it was used shows", || async { Ok(mine().await?.body["connections"][0]["lastUsedAt"].is_string()) })
        .await?;

    // Linked again it is the same account.
    let sent = browser.sets_out(&ada, begin).await?;
    let back = format!("code={}&state={}", acme.agree(&sent.way)?, sent.state);
    ensure!(browser.comes_back(&back, &sent.cookie).await?.0 == 303, "not linked again");
    ensure!(mine().await?.body["connections"].as_array().map(Vec::len) == Some(1), "linked twice");

    // Given up, it is given back, and its tokens are gone.
    let gone = stage.ask(&ada, "DELETE", &format!("/api/oauth/connections/{id}"), None).await?;
    ensure!(gone.status == 200, "{}", gone.body);
    until("it is given back", || async { Ok(acme.book().revoked == ["refresh-CANARY-3"]) }).await?;
    until("no key is lent", || async { Ok(invoke().await?.body["code"] == "NO_KEY") }).await?;
    ensure!(mine().await?.body["connections"][0]["status"] == "revoked", "{}", mine().await?.body);

    let log = stage.house.run(&["log", "export"])?.expect(0)?.out;
    for kind in
        ["oauth-started", "oauth-answered", "oauth-completed", "oauth-linked", "oauth-token-refreshed", "oauth-revoked"]
    {
        ensure!(log.contains(kind), "no {kind}");
    }
    ensure!(!log.contains("CANARY") && !log.contains("ada@acme.example"), "in the log");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_installations_own_client_serves_whoever_has_none_of_theirs() -> Tested {
    let own = [("OAUTH_GITHUB_CLIENT_ID", "client-of-all"), ("OAUTH_GITHUB_CLIENT_SECRET", "env-CANARY-secret")];
    let stage = Stage::with_variables(&own).await?;
    let (ada, eve) = (stage.register("ada").await?, stage.register("eve").await?);
    let theirs = json!({ "clientId": "client-of-ada", "clientSecret": SECRET, "redirectUris": [BACK] });
    let config = "/api/oauth/provider-configs/github";
    ensure!(stage.ask(&ada, "PUT", config, Some(theirs)).await?.status == 200, "not set");
    for (who, client) in [(&ada, "client-of-ada"), (&eve, "client-of-all")] {
        let listed = stage.ask(who, "GET", "/api/oauth/providers", None).await?.body;
        let providers = listed["providers"].as_array().context("no providers")?;
        ensure!(providers.len() == 1 && providers[0]["provider"] == "github", "{listed}");
        let way = stage.ask(who, "POST", "/api/oauth/authorize", Some(json!({ "provider": "github" }))).await?;
        let url = way.body["authorizationUrl"].as_str().context("no way")?;
        ensure!(way.status == 200 && url.contains(&format!("client_id={client}&")), "{}", way.body);
    }
    // What an admin sees and changes is their organization's; the address of ada's serves nobody else.
    let set = stage.ask(&eve, "GET", "/api/oauth/provider-configs", None).await?;
    ensure!(set.body == json!({ "providerConfigs": [] }), "{}", set.body);
    ensure!(stage.ask(&eve, "DELETE", config, None).await?.status == 404, "it is not eve's to remove");
    let sent = json!({ "provider": "github", "redirectUri": BACK });
    ensure!(stage.ask(&eve, "POST", "/api/oauth/authorize", Some(sent)).await?.status == 400, "sent to ada's address");
    ensure!(stage.ask(&ada, "DELETE", config, None).await?.status == 200, "not removed");
    let way = stage.ask(&ada, "POST", "/api/oauth/authorize", Some(json!({ "provider": "github" }))).await?;
    ensure!(way.body["authorizationUrl"].as_str().is_some_and(|url| url.contains("client-of-all")), "{}", way.body);
    let log = stage.house.run(&["log", "export"])?.expect(0)?.out;
    ensure!(!log.contains("CANARY"), "a secret is in the log");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_to_nothing_is_told_and_links_nothing() -> Tested {
    let stage = Stage::open().await?;
    let acme = Acme::start().await?;
    let ada = stage.register("ada").await?;
    let browser = Browser { http: Client::builder().redirect(Policy::none()).build()?, base: stage.gateway.clone() };
    let config = "/api/oauth/provider-configs/acme";
    ensure!(stage.ask(&ada, "PUT", config, Some(client_of(&acme))).await?.status == 200, "not set");
    let begin = json!({ "provider": "acme" });

    // Said no; a code that is none; a registration that changed under way.
    let sent = browser.sets_out(&ada, begin.clone()).await?;
    let (status, said) = browser.comes_back(&format!("error=access_denied&state={}", sent.state), &sent.cookie).await?;
    ensure!(status == 400 && said.contains("told not to"), "{status} {said}");
    let sent = browser.sets_out(&ada, begin.clone()).await?;
    let (status, said) = browser.comes_back(&format!("code=none&state={}", sent.state), &sent.cookie).await?;
    ensure!(status == 400 && said.contains("invalid_grant") && !said.contains("CANARY"), "{status} {said}");
    let sent = browser.sets_out(&ada, begin).await?;
    let back = format!("code={}&state={}", acme.agree(&sent.way)?, sent.state);
    ensure!(stage.ask(&ada, "PUT", config, Some(client_of(&acme))).await?.status == 200, "not set again");
    let (status, said) = browser.comes_back(&back, &sent.cookie).await?;
    ensure!(status == 400 && said.contains("config_changed"), "{status} {said}");
    ensure!(acme.book().given == 0, "a token was given");
    let none = stage.ask(&ada, "GET", "/api/oauth/connections", None).await?;
    ensure!(none.body == json!({ "connections": [] }), "{}", none.body);
    let github = stage.ask(&ada, "POST", "/api/oauth/authorize", Some(json!({ "provider": "github" }))).await?;
    ensure!(github.body["code"] == "PROVIDER_NOT_CONFIGURED", "{}", github.body);
    let openai = stage.ask(&ada, "PUT", "/api/oauth/provider-configs/openai", Some(client_of(&acme))).await?;
    ensure!(openai.status == 409, "{} {}", openai.status, openai.body);
    Ok(())
}
