//! Error bodies, request ids and trace ids.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};
use symbia_api::http::server::{Limits, ServerConfig};

use crate::stage::{Answer, app, call, fetch, service};

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

async fn post(kind: &str, body: &str) -> Answer {
    call(&service().router(), "POST", "/api/parcels", &[("content-type", kind)], body).await
}

fn invalid(message: &str, path: &str, rule: &str, text: &str) -> Value {
    json!({
        "error": message, "message": message, "code": "VALIDATION_FAILED",
        "details": [{ "path": path, "rule": rule, "message": text }],
    })
}

#[tokio::test]
async fn an_unknown_route_is_a_json_404() {
    let answer = fetch(&service().router(), "/api/nowhere?token=secret", &[]).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(
        answer.error(),
        json!({
            "error": "Nothing is served at GET /api/nowhere", "message": "Nothing is served at GET /api/nowhere",
            "code": "NOT_FOUND", "hint": "GET /docs/llms.txt lists the routes of this service.",
        })
    );
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    assert_eq!(answer.header("strict-transport-security"), None);
}

#[tokio::test]
async fn a_wrong_method_is_a_json_405_that_names_the_right_ones() {
    let answer = call(&service().router(), "DELETE", "/api/parcels", &[], "").await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.error()["code"], "METHOD_NOT_ALLOWED");
    assert_eq!(answer.header("allow"), Some("POST"));
}

#[tokio::test]
async fn malformed_json_is_told_from_json_of_the_wrong_shape() {
    let answer = post("application/json", "{\"recipient\": ").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let message = "The body is not valid JSON (line 1, column 14)";
    assert_eq!(answer.error(), json!({ "error": message, "message": message, "code": "MALFORMED_JSON" }));
    assert_eq!(
        post("application/json", "{\"recipient\":\"a\",\"weight\":1} x").await.error()["code"],
        "MALFORMED_JSON"
    );

    for (body, expected) in [
        ("{\"weight\":1}", invalid("recipient is required", "recipient", "required", "is required")),
        ("", invalid("recipient is required", "recipient", "required", "is required")),
        (
            "{\"recipient\":\"a\",\"weight\":\"hunter2\"}",
            invalid("weight must be u32", "weight", "type", "must be u32"),
        ),
        (
            "{\"recipient\":\"a\",\"weight\":1,\"items\":[{\"sku\":\"x\"},{}]}",
            invalid("items[1].sku is required", "items[1].sku", "required", "is required"),
        ),
        ("[]", invalid("The body must be an object", "", "type", "must be an object")),
        ("7", invalid("The body must be an object", "", "type", "must be an object")),
    ] {
        let answer = post("application/json", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(answer.error(), expected, "{body}");
    }
}

#[tokio::test]
async fn forms_are_read_like_json_and_other_types_refused() {
    let answer = post("application/x-www-form-urlencoded", "recipient=a%20b&weight=3").await;
    assert_eq!(answer.json(), json!({ "recipient": "a b", "weight": 3, "items": [] }));
    let answer = post("application/x-www-form-urlencoded", "recipient=a&weight=x").await;
    assert_eq!(answer.error()["details"][0]["path"], "weight");
    let answer = post("text/plain", "recipient=a").await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(answer.error()["code"], "UNSUPPORTED_MEDIA_TYPE");
}

#[tokio::test]
async fn path_and_query_name_the_wrong_parameter() {
    let router = service().router();
    let answer = fetch(&router, "/api/parcels/7?limit=2", &[]).await;
    assert_eq!(answer.json(), json!({ "id": 7, "limit": 2 }));
    for (path, parameter) in
        [("/api/parcels/x?limit=2", "id"), ("/api/parcels/7?limit=x", "limit"), ("/api/parcels/7", "limit")]
    {
        let answer = fetch(&router, path, &[]).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}");
        assert_eq!(answer.error()["details"][0]["path"], parameter, "{path}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_and_one_at_the_limit_is_read() {
    let router = app(ServerConfig::default()).body_limit(64).build().router();
    let body = |size: usize| {
        let empty = "{\"recipient\":\"\",\"weight\":1}";
        empty.replace("\"\"", &format!("\"{}\"", "a".repeat(size - empty.len())))
    };
    assert_eq!(call(&router, "POST", "/api/parcels", &JSON, &body(64)).await.status, StatusCode::OK);
    let answer = call(&router, "POST", "/api/parcels", &JSON, &body(65)).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    let message = "The body is larger than this route accepts";
    assert_eq!(answer.error(), json!({ "error": message, "message": message, "code": "BODY_TOO_LARGE" }));
}

#[tokio::test]
async fn failures_and_panics_keep_their_causes_to_themselves() {
    let router = service().router();
    for path in ["/api/broken", "/api/panics"] {
        let answer = fetch(&router, path, &[("origin", "http://localhost:3000")]).await;
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
        let message = "The server could not complete the request";
        let hint = "Quote the request id when you report this.";
        assert_eq!(answer.error(), json!({ "error": message, "message": message, "code": "INTERNAL", "hint": hint }));
        assert_eq!(answer.header("access-control-allow-origin"), Some("http://localhost:3000"));
    }
}

#[tokio::test]
async fn a_handler_that_does_not_answer_is_cut_off() {
    let limits = Limits { request_timeout: Duration::from_millis(20), ..Limits::default() };
    let hasty = || app(ServerConfig { limits: limits.clone(), ..ServerConfig::default() });
    let router = hasty().build().router();
    let answer = fetch(&router, "/api/never", &[]).await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(answer.error()["code"], "TIMEOUT");
    // Unless its route may take longer.
    let router = hasty().patient("/api/never", Duration::from_secs(60)).build().router();
    let longer = tokio::time::timeout(Duration::from_millis(200), fetch(&router, "/api/never", &[])).await;
    assert!(longer.is_err(), "it was cut off");
}

#[tokio::test]
async fn a_request_id_is_echoed_if_well_formed_and_replaced_if_not() {
    let router = service().router();
    let long = "a".repeat(64);
    for id in ["abc-DEF_1.2", "12345678", long.as_str()] {
        assert_eq!(fetch(&router, "/api/scope", &[("x-request-id", id)]).await.header("x-request-id"), Some(id));
    }
    let too_long = "a".repeat(65);
    for id in ["short", "has space", "semi;colon1", "", too_long.as_str()] {
        let answer = fetch(&router, "/api/scope", &[("x-request-id", id)]).await;
        let made = answer.header("x-request-id").expect("an id").to_owned();
        assert_ne!(made, id);
        assert_eq!(made.as_bytes()[14], b'7', "a UUIDv7: {made}");
        assert_eq!(answer.json()["requestId"], made.as_str());
    }
}

#[tokio::test]
async fn the_trace_goes_on_and_is_echoed() {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    for header in [("traceparent", parent.as_str()), ("x-trace-id", trace)] {
        let answer = fetch(&service().router(), "/api/scope", &[header]).await;
        assert_eq!(answer.header("x-trace-id"), Some(trace));
        let sent = answer.json()["traceparent"].as_str().expect("a header").to_owned();
        assert!(sent.starts_with(&format!("00-{trace}-")) && sent.ends_with("-01") && sent != parent, "{sent}");
    }
}

#[tokio::test]
async fn scope_headers_are_read_and_unknown_data_classes_ignored() {
    let router = service().router();
    let headers = [
        ("x-org-id", "org-a"),
        ("x-environment", "staging"),
        ("x-data-class", "PHI"),
        ("x-policy-ref", "policy/x"),
        ("x-service-id", "catalog"),
    ];
    let body = fetch(&router, "/api/scope", &headers).await.json();
    for (key, value) in
        [("org", "org-a"), ("env", "staging"), ("dataClass", "phi"), ("policy", "policy/x"), ("service", "catalog")]
    {
        assert_eq!(body[key], value);
    }
    assert_eq!(fetch(&router, "/api/scope", &[("x-data-class", "top")]).await.json()["dataClass"], Value::Null);
}

#[tokio::test]
async fn an_idempotency_key_names_one_command_per_principal_and_route() {
    let router = service().router();
    let command = async |method: &str, key: &str| {
        call(&router, method, "/api/scope", &[("idempotency-key", key)], "").await.json()["command"].clone()
    };
    assert_eq!(command("POST", "key-1").await, command("POST", "key-1").await);
    assert_ne!(command("POST", "key-1").await, command("POST", "key-2").await);
    assert_ne!(command("POST", "key-1").await, command("GET", "key-1").await);

    let long = "k".repeat(256);
    for key in ["", "two words", long.as_str()] {
        let answer = call(&router, "POST", "/api/scope", &[("idempotency-key", key)], "").await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{key:?}");
        assert_eq!(answer.error()["details"][0]["path"], "Idempotency-Key");
    }
}
