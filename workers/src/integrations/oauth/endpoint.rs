//! Asking a provider of accounts: codes and refresh tokens for tokens, whose account it is, and taking a token back. What it
//! says is never repeated but for OAuth's own error codes.

use std::{fmt, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use reqwest::{
    Method, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT},
};
use serde_json::Value;
use symbia_egress::{Egress, EgressError, Errand, Reply};
use symbia_events::integrations::{OauthClientAuth, OauthEndpoints};
use time::OffsetDateTime;
use zeroize::Zeroizing;

const PATIENCE: Duration = Duration::from_secs(15);
const MOST: usize = 256 * 1024;
/// Longest life of a token that is believed.
const LONGEST: i64 = 366 * 24 * 3600;

/// A provider, asked as one client.
pub(super) struct Endpoint<'a> {
    pub egress: Egress,
    pub endpoints: &'a OauthEndpoints,
    pub client_id: &'a str,
    pub secret: Option<Zeroizing<String>>,
}

/// What a provider gave.
pub(super) struct Tokens {
    pub access: Zeroizing<String>,
    pub refresh: Option<Zeroizing<String>>,
    pub expires_at: Option<OffsetDateTime>,
    pub scope: Option<String>,
    /// Whose account it is, where they came with that.
    pub account: Option<Account>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// Whose account it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Account {
    pub id: Option<String>,
    pub email: Option<String>,
    pub name: Option<String>,
    pub avatar_url: Option<String>,
}

/// It gave nothing.
#[derive(Debug, PartialEq)]
pub(super) struct Refused {
    pub code: String,
    /// It may give something later.
    pub passing: bool,
}

impl From<EgressError> for Refused {
    fn from(error: EgressError) -> Self {
        Refused { code: error.code().to_owned(), passing: !matches!(error, EgressError::Blocked(_)) }
    }
}

fn refused(code: &str) -> Refused {
    Refused { code: code.to_owned(), passing: false }
}

impl Endpoint<'_> {
    /// Tokens for a code (RFC 6749 §4.1.3, RFC 7636 §4.5).
    pub async fn exchange(&self, code: &str, verifier: &str, callback: &str) -> Result<Tokens, Refused> {
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", callback),
            ("code_verifier", verifier),
        ];
        tokens(&self.post(&self.endpoints.token_url, &fields).await?, "token_exchange_failed")
    }

    /// Tokens for a refresh token (RFC 6749 §6).
    pub async fn refresh(&self, token: &str) -> Result<Tokens, Refused> {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", token)];
        tokens(&self.post(&self.endpoints.token_url, &fields).await?, "token_refresh_failed")
    }

    /// Gives a token back (RFC 7009).
    pub async fn give_back(&self, token: &str) -> Result<(), Refused> {
        let Some(url) = &self.endpoints.revoke_url else { return Ok(()) };
        let reply = self.post(url, &[("token", token)]).await?;
        if reply.status.is_success() { Ok(()) } else { Err(refused("revoke_failed")) }
    }

    /// Whose account it is; none where that cannot be asked.
    pub async fn account(&self, token: &str) -> Option<Account> {
        let url = Url::parse(self.endpoints.userinfo_url.as_deref()?).ok()?;
        let mut headers = headers();
        headers.insert(AUTHORIZATION, sensitive(&format!("Bearer {token}")).ok()?);
        let errand = Errand { method: Method::GET, url, headers, body: None, patience: PATIENCE, most: MOST };
        let reply = self.egress.fetch(errand).await.ok()?;
        let said: Value = serde_json::from_slice(&reply.body).ok().filter(|_| reply.status.is_success())?;
        Some(account(&said))
    }

    async fn post(&self, url: &str, fields: &[(&str, &str)]) -> Result<Reply, Refused> {
        let url = Url::parse(url).map_err(|_| refused("bad_endpoint"))?;
        let mut headers = headers();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        // The form itself is what is kept from being left behind; reqwest's serializer is `Url`'s.
        let mut form = Url::parse("form:x").map_err(|_| refused("bad_endpoint"))?;
        form.query_pairs_mut().extend_pairs(fields);
        let secret = self.secret.as_ref().map(|secret| secret.as_str());
        match (self.endpoints.client_auth, secret) {
            (OauthClientAuth::Basic, Some(secret)) => {
                let both = Zeroizing::new(format!("{}:{}", encoded(self.client_id), encoded(secret)));
                headers.insert(AUTHORIZATION, sensitive(&format!("Basic {}", BASE64.encode(both.as_bytes())))?);
            }
            (_, secret) => {
                form.query_pairs_mut().append_pair("client_id", self.client_id);
                if let Some(secret) = secret {
                    form.query_pairs_mut().append_pair("client_secret", secret);
                }
            }
        }
        let body = Some(form.query().unwrap_or_default().to_owned().into());
        Ok(self
            .egress
            .fetch(Errand { method: Method::POST, url, headers, body, patience: PATIENCE, most: MOST })
            .await?)
    }
}

fn encoded(text: &str) -> String {
    let mut form = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => form.push(char::from(byte)),
            byte => form.push_str(&format!("%{byte:02X}")),
        }
    }
    form
}

fn headers() -> HeaderMap {
    HeaderMap::from_iter([
        (ACCEPT, HeaderValue::from_static("application/json")),
        (USER_AGENT, HeaderValue::from_static("Symbia")),
    ])
}

fn sensitive(text: &str) -> Result<HeaderValue, Refused> {
    let mut value = HeaderValue::from_str(text).map_err(|_| refused("bad_secret"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn word<'a>(said: &'a Value, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| said[*name].as_str()).filter(|text| !text.is_empty())
}

fn tokens(reply: &Reply, failed: &str) -> Result<Tokens, Refused> {
    let passing = reply.status.is_server_error() || reply.status.as_u16() == 429;
    let said: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    // Slack gives a person's own token in a part of its own, beside or instead of that of its app.
    let (person, names) = (&said["authed_user"], ["access_token", "accessToken"]);
    let given = if word(&said, &names).is_none() && person.is_object() { person } else { &said };
    // Some say that they refuse with status 200.
    let access = word(given, &names).filter(|_| reply.status.is_success());
    let Some(access) = access else {
        return Err(Refused { code: error_code(&said).unwrap_or(failed).to_owned(), passing });
    };
    let lives = ["expires_in", "expiresIn"].iter().find_map(|name| given[*name].as_i64());
    let expires_at = lives
        .filter(|seconds| (1..=LONGEST).contains(seconds))
        .map(|seconds| OffsetDateTime::now_utc() + time::Duration::seconds(seconds));
    Ok(Tokens {
        access: Zeroizing::new(access.to_owned()),
        refresh: word(given, &["refresh_token", "refreshToken"]).map(|token| Zeroizing::new(token.to_owned())),
        expires_at,
        scope: word(given, &["scope"]).map(str::to_owned),
        account: person.is_object().then(|| Account { name: account(&said["team"]).name, ..account(person) }),
    })
}

// A code of RFC 6749 §5.2, and nothing else that a server might put there.
fn error_code(said: &Value) -> Option<&'static str> {
    let known = [
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
    ];
    let code = said["error"].as_str()?;
    known.into_iter().find(|known| *known == code)
}

fn account(said: &Value) -> Account {
    let number = |name: &str| said[name].as_i64().map(|number| number.to_string());
    let text = |names: &[&str]| word(said, names).map(|text| text.chars().take(500).collect::<String>());
    let both = [text(&["firstName"]), text(&["lastName"])].into_iter().flatten().collect::<Vec<_>>().join(" ");
    Account {
        id: text(&["id", "sub", "user_id", "account_id"]).or_else(|| number("id")).or_else(|| number("user_id")),
        email: text(&["email"]),
        name: text(&["name", "username", "login"]).or(Some(both).filter(|name| !name.is_empty())),
        avatar_url: text(&["avatar_url", "picture", "profileImage"]),
    }
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;
    use serde_json::json;

    use super::*;

    fn reply(status: u16, said: &Value) -> Reply {
        let (url, status) = ("https://x.example".parse().unwrap(), StatusCode::from_u16(status).unwrap());
        Reply { url, status, headers: HeaderMap::new(), body: said.to_string().into() }
    }

    #[test]
    fn answers_of_different_providers_are_read_and_refusals_say_no_more_than_a_code() {
        let got = tokens(&reply(200, &json!({ "access_token": "a", "refresh_token": "r", "expires_in": 60 })), "f");
        let got = got.unwrap();
        assert!(got.access.as_str() == "a" && got.refresh.is_some() && got.expires_at.is_some());
        assert!(!format!("{got:?}").contains("\"a\""));
        for (status, said, code, passing) in [
            (200, json!({ "error": "invalid_grant" }), "invalid_grant", false),
            (400, json!({ "error": "secret words" }), "f", false),
            (503, json!({}), "f", true),
            (500, json!({ "access_token": "a" }), "f", true),
        ] {
            let expected = Refused { code: code.to_owned(), passing };
            assert_eq!(tokens(&reply(status, &said), "f").unwrap_err(), expected);
        }
    }

    #[test]
    fn a_persons_token_is_found_where_slack_puts_it() {
        let person = json!({ "id": "U1", "scope": "chat:write", "access_token": "xoxp-1", "refresh_token": "xoxe-1",
            "expires_in": 43200 });
        let said = json!({ "ok": true, "authed_user": person, "team": { "id": "T1", "name": "Acme" } });
        let got = tokens(&reply(200, &said), "f").unwrap();
        assert_eq!((got.access.as_str(), got.scope.as_deref()), ("xoxp-1", Some("chat:write")));
        assert!(got.refresh.as_deref().is_some_and(|token| token == "xoxe-1") && got.expires_at.is_some());
        let whose = got.account.unwrap();
        assert_eq!((whose.id.as_deref(), whose.name.as_deref()), (Some("U1"), Some("Acme")));
        // The app's own token, where it asks for one, acts for the person who let it in.
        let both = json!({ "access_token": "xoxb-1", "scope": "commands", "authed_user": { "id": "U1" } });
        let got = tokens(&reply(200, &both), "f").unwrap();
        assert_eq!((got.access.as_str(), got.account.unwrap().id.as_deref()), ("xoxb-1", Some("U1")));
        assert!(
            tokens(&reply(200, &json!({ "ok": false, "error": "bad", "authed_user": { "id": "U1" } })), "f").is_err()
        );
    }

    #[test]
    fn accounts_of_different_providers_are_read() {
        let github = account(&json!({ "id": 7, "login": "ada", "avatar_url": "https://x.example/a" }));
        assert_eq!((github.id.as_deref(), github.name.as_deref()), (Some("7"), Some("ada")));
        let replit = account(&json!({ "id": "r1", "firstName": "Ada", "lastName": "L", "profileImage": "p" }));
        assert_eq!((replit.name.as_deref(), replit.avatar_url.as_deref()), (Some("Ada L"), Some("p")));
        let oidc = account(&json!({ "sub": "s", "email": "a@x.example" }));
        assert_eq!((oidc.id.as_deref(), oidc.email.as_deref()), (Some("s"), Some("a@x.example")));
    }
}
