//! The origin matrix, in development and in production.

use axum::http::{HeaderValue, StatusCode};
use symbia_api::http::{cors::CorsConfig, server::ServerConfig};

use crate::stage::{app, call};

const LISTED: &str = "https://app.example.com";
const SUFFIX: &str = "https://eu.symbia.dev";
const FOREIGN: &str = "https://evil.example";
const LOCAL: &str = "http://localhost:5173";
const ALL: &str = "GET, POST, PUT, PATCH, DELETE, OPTIONS";
const READ: &str = "GET, HEAD, OPTIONS";

/// Allow-Origin, Allow-Credentials, Allow-Methods.
type Headers<'a> = (Option<&'a str>, Option<&'a str>, Option<&'a str>);

const NAMED: fn(&str) -> Headers<'_> = |origin| (Some(origin), Some("true"), Some(ALL));
const ANYONE: Headers<'static> = (Some("*"), None, Some(ALL));
const DOCS: Headers<'static> = (Some("*"), None, Some(READ));
const NONE: Headers<'static> = (None, None, None);

async fn check(list: &[&str], production: bool, origin: Option<&str>, path: &str, expected: Headers<'_>, options: u16) {
    let cors = CorsConfig::new(list, production);
    let router = app(ServerConfig { cors, production, ..ServerConfig::default() }).build().router();
    let origin_header: Vec<_> = origin.map(|o| ("origin", o)).into_iter().collect();
    for method in ["GET", "OPTIONS"] {
        let answer = call(&router, method, path, &origin_header, "").await;
        let case = format!("{method} {path} from {origin:?}, list {list:?}, production {production}");
        let header = |name| answer.header(name);
        assert_eq!(
            (
                header("access-control-allow-origin"),
                header("access-control-allow-credentials"),
                header("access-control-allow-methods")
            ),
            expected,
            "{case}"
        );
        assert_eq!(header("vary"), Some("Origin"), "{case}");
        assert_eq!(header("access-control-max-age"), expected.0.map(|_| "86400"), "{case}");
        let request_headers = header("access-control-allow-headers").unwrap_or_default();
        let exposed = header("access-control-expose-headers").unwrap_or_default();
        for name in ["X-Org-Id", "X-Request-Id", "X-Trace-Id", "traceparent", "Idempotency-Key"] {
            assert_eq!(request_headers.contains(name), expected.0.is_some(), "{case}: {name}");
        }
        for name in ["X-Request-Id", "x-trace-id", "Retry-After", "X-RateLimit-Reset"] {
            assert_eq!(exposed.contains(name), expected.0.is_some(), "{case}: {name}");
        }
        if method == "OPTIONS" {
            assert_eq!(answer.status.as_u16(), options, "{case}");
        }
    }
}

#[tokio::test]
async fn development_with_a_list() {
    let list = ["https://app.example.com/", "*.symbia.dev"];
    check(&list, false, Some(LISTED), "/api/scope", NAMED(LISTED), 200).await;
    check(&list, false, Some(SUFFIX), "/api/scope", NAMED(SUFFIX), 200).await;
    check(&list, false, Some(LOCAL), "/api/scope", NAMED(LOCAL), 200).await;
    check(&list, false, Some("http://127.0.0.1:3000"), "/api/scope", NAMED("http://127.0.0.1:3000"), 200).await;
    check(&list, false, Some(FOREIGN), "/api/scope", NONE, 403).await;
    check(&list, false, Some(FOREIGN), "/docs/openapi.json", DOCS, 200).await;
    check(&list, false, None, "/api/scope", ANYONE, 200).await;
}

#[tokio::test]
async fn development_without_a_list_lets_any_page_in_without_credentials() {
    check(&[], false, Some(FOREIGN), "/api/scope", ANYONE, 200).await;
    check(&[], false, Some(LOCAL), "/api/scope", NAMED(LOCAL), 200).await;
    check(&[], false, None, "/api/scope", ANYONE, 200).await;
}

#[tokio::test]
async fn production_obeys_the_list_only() {
    let list = [LISTED, "*.symbia.dev"];
    check(&list, true, Some(LISTED), "/api/scope", NAMED(LISTED), 200).await;
    check(&list, true, Some(SUFFIX), "/api/scope", NAMED(SUFFIX), 200).await;
    for foreign in
        [FOREIGN, LOCAL, "https://symbia.dev.evil.example", "https://evilsymbia.dev", "null", "http://app.example.com"]
    {
        check(&list, true, Some(foreign), "/api/scope", NONE, 403).await;
    }
    check(&list, true, Some(FOREIGN), "/llms.txt", DOCS, 200).await;
    check(&list, true, None, "/api/scope", ANYONE, 200).await;
    check(&[], true, Some(LOCAL), "/api/scope", NONE, 403).await;
    check(&[], true, None, "/api/scope", ANYONE, 200).await;
}

#[tokio::test]
async fn a_star_never_goes_with_credentials() {
    for production in [false, true] {
        check(&["*"], production, Some(FOREIGN), "/api/scope", ANYONE, 200).await;
        check(&["*", LISTED], production, Some(LISTED), "/api/scope", NAMED(LISTED), 200).await;
    }
}

#[tokio::test]
async fn a_refused_preflight_says_why_and_sockets_use_the_same_test() {
    let cors = CorsConfig::new([LISTED], true);
    let allows = |origin| cors.allows(Some(&HeaderValue::from_static(origin)));
    assert!(allows(LISTED) && cors.allows(None) && !allows(FOREIGN) && !allows(LOCAL));
    let router = app(ServerConfig { cors, production: true, ..ServerConfig::default() }).build().router();
    let answer = call(&router, "OPTIONS", "/api/scope", &[("origin", FOREIGN)], "").await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(answer.error()["code"], "ORIGIN_NOT_ALLOWED");
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=31536000; includeSubDomains"));
}
