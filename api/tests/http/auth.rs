//! Which credential counts, and in which organization a request acts.

use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::{Value, json};
use symbia_api::http::{
    rate::{Quota, RateLimits, RatePolicy, RouteClass, TokenBuckets},
    server::ServerConfig,
};
use symbia_events::Service;

use crate::stage::{app, fetch, service};

const GOOD: (&str, &str) = ("authorization", "Bearer good");

type Headers = &'static [(&'static str, &'static str)];

#[tokio::test]
async fn bearer_then_key_then_cookie_and_only_a_bad_cookie_is_overlooked() {
    let router = service().router();
    let ok = |id: &str, kind: &str| (200, json!({ "id": id, "authType": kind }));
    let refused = |code: &str| (401, json!(code));
    let cases: Vec<(Headers, (u16, Value))> = vec![
        (&[], refused("AUTH_REQUIRED")),
        (&[GOOD], ok("user-good", "jwt")),
        (&[("authorization", "bEaReR  good ")], ok("user-good", "jwt")),
        (&[("x-api-key", "sk_good")], ok("owner", "apiKey")),
        (&[("cookie", "a=b; token=good")], ok("user-good", "session")),
        (&[("cookie", "symbia_session=good")], ok("user-good", "session")),
        // Order.
        (&[GOOD, ("x-api-key", "sk_good"), ("cookie", "token=many")], ok("user-good", "jwt")),
        (&[GOOD, ("x-api-key", "sk_bad")], ok("user-good", "jwt")),
        (&[("x-api-key", "sk_good"), ("cookie", "token=many")], ok("owner", "apiKey")),
        (&[("cookie", "symbia_session=many; token=good")], ok("user-good", "session")),
        // Present and not valid: no second try.
        (&[("authorization", "Bearer bad"), ("x-api-key", "sk_good")], refused("TOKEN_INVALID")),
        (&[("authorization", "Bearer"), ("cookie", "token=good")], refused("TOKEN_INVALID")),
        (&[("authorization", "Bearer expired"), ("cookie", "token=good")], refused("TOKEN_EXPIRED")),
        (&[("authorization", "Bearer revoked"), ("cookie", "token=good")], refused("SESSION_REVOKED")),
        (&[("x-api-key", "sk_bad"), ("cookie", "token=good")], refused("API_KEY_INVALID")),
        (&[("x-api-key", ""), ("cookie", "token=good")], refused("API_KEY_INVALID")),
        // Not a bearer at all.
        (&[("authorization", "Basic Z29vZA=="), ("x-api-key", "sk_good")], ok("owner", "apiKey")),
        // A bad cookie is absent.
        (&[("cookie", "token=expired")], refused("AUTH_REQUIRED")),
        (&[("cookie", "token=bad; symbia_session=good")], ok("user-good", "session")),
    ];
    for (headers, (status, expected)) in cases {
        let answer = fetch(&router, "/api/whoami", headers).await;
        assert_eq!(answer.status.as_u16(), status, "{headers:?}");
        let got = if status == 200 { answer.json() } else { answer.error()["code"].clone() };
        assert_eq!(got, expected, "{headers:?}");
        assert_eq!(answer.header("www-authenticate"), (status == 401).then_some("Bearer"), "{headers:?}");
    }
}

#[tokio::test]
async fn an_unavailable_directory_is_503_and_never_anonymous() {
    let router = service().router();
    for path in ["/api/whoami", "/api/maybe"] {
        for header in [("authorization", "Bearer down"), ("x-api-key", "sk_down"), ("cookie", "token=down")] {
            let answer = fetch(&router, path, &[header]).await;
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path} {header:?}");
            let message = "The directory is unavailable";
            assert_eq!(
                answer.error(),
                json!({ "error": message, "message": message, "code": "SERVICE_UNAVAILABLE", "retryAfter": 2 })
            );
            assert_eq!(answer.header("retry-after"), Some("2"));
        }
    }
}

#[tokio::test]
async fn an_optional_caller_is_anonymous_only_without_a_credential() {
    let router = service().router();
    assert_eq!(fetch(&router, "/api/maybe", &[]).await.json(), json!({ "id": null }));
    assert_eq!(fetch(&router, "/api/maybe", &[("cookie", "token=bad")]).await.json(), json!({ "id": null }));
    assert_eq!(fetch(&router, "/api/maybe", &[GOOD]).await.json(), json!({ "id": "user-good" }));
    let answer = fetch(&router, "/api/maybe", &[("authorization", "Bearer bad")]).await;
    assert_eq!(answer.error()["code"], "TOKEN_INVALID");
}

#[tokio::test]
async fn the_organization_is_chosen_and_checked() {
    let router = service().router();
    for (token, header, expected) in [
        ("good", None, Ok("org-a")),
        ("good", Some("org-a"), Ok("org-a")),
        ("good", Some("org-b"), Err((403, "ORG_ACCESS_DENIED"))),
        ("many", None, Ok("org-b")),
        ("many", Some("org-a"), Ok("org-a")),
        ("former", None, Err((400, "ORG_REQUIRED"))),
        ("former", Some("org-z"), Err((403, "ORG_ACCESS_DENIED"))),
        ("root", None, Err((400, "ORG_REQUIRED"))),
        ("root", Some("org-z"), Err((403, "ORG_ACCESS_DENIED"))),
    ] {
        let bearer = format!("Bearer {token}");
        let headers: Vec<_> =
            [("authorization", bearer.as_str())].into_iter().chain(header.map(|org| ("x-org-id", org))).collect();
        let answer = fetch(&router, "/api/org", &headers).await;
        match expected {
            Ok(org) => assert_eq!(answer.json(), json!({ "org": org }), "{headers:?}"),
            Err((status, code)) => {
                assert_eq!((answer.status.as_u16(), &answer.error()["code"]), (status, &json!(code)), "{headers:?}");
            }
        }
    }
    let headers = [("authorization", "Bearer root"), ("x-org-id", "org-z")];
    let hint = fetch(&router, "/api/org", &headers).await.error()["hint"].to_string();
    assert!(hint.contains("X-Access-Reason"), "{hint}");
    let headers = [headers[0], headers[1], ("x-access-reason", "ticket 4711")];
    assert_eq!(fetch(&router, "/api/org", &headers).await.json(), json!({ "org": "org-z" }));
    // A reason opens nothing to anybody else.
    let headers = [("authorization", "Bearer good"), ("x-org-id", "org-b"), ("x-access-reason", "ticket 4711")];
    assert_eq!(fetch(&router, "/api/org", &headers).await.error()["code"], "ORG_ACCESS_DENIED");
}

#[tokio::test]
async fn limits_count_principals_apart_and_say_when_to_come_back() {
    let policy = RatePolicy { standard: Quota::per_minute(2), ..RatePolicy::default() };
    let classify = |_: &axum::http::Method, route: &str| match route {
        "/api/scope" => RouteClass::Exempt,
        _ => RouteClass::Standard,
    };
    let limits = RateLimits::new(Service::Identity, Arc::new(TokenBuckets::default()), policy, classify);
    assert!(limits.attempt("A@x.org").await.is_ok());
    let router = app(ServerConfig::default()).rate_limits(limits.clone()).build().router();
    let get = async |headers: &[(&str, &str)]| fetch(&router, "/api/maybe", headers).await;

    for left in ["1", "0"] {
        let answer = get(&[GOOD]).await;
        assert_eq!(answer.status, StatusCode::OK);
        for prefix in ["", "x-"] {
            assert_eq!(answer.header(&format!("{prefix}ratelimit-limit")), Some("2"));
            assert_eq!(answer.header(&format!("{prefix}ratelimit-remaining")), Some(left));
        }
    }
    let answer = get(&[GOOD]).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = answer.header("retry-after").expect("a header").parse().expect("seconds");
    assert!((1..=30).contains(&wait), "{wait}");
    let message = format!("Too many requests: wait {wait} s");
    assert_eq!(
        answer.error(),
        json!({ "error": message, "message": message, "code": "RATE_LIMIT_EXCEEDED", "retryAfter": wait })
    );
    assert_eq!(get(&[("authorization", "Bearer many")]).await.status, StatusCode::OK);
    assert_eq!(get(&[("x-api-key", "sk_good")]).await.status, StatusCode::OK);
    assert_eq!(get(&[]).await.status, StatusCode::OK);
    for path in ["/api/scope", "/health"] {
        let answer = fetch(&router, path, &[GOOD]).await;
        assert_eq!((answer.status, answer.header("ratelimit-limit")), (StatusCode::OK, None), "{path}");
    }

    for _ in 0..9 {
        assert!(limits.attempt(" a@X.org ").await.is_ok());
    }
    assert_eq!(limits.attempt("a@x.org").await.expect_err("ten attempts were made").code(), "RATE_LIMIT_EXCEEDED");
}
