//! The health endpoints in every state of a service.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use axum::{Router, http::StatusCode};
use serde_json::{Map, Value, json};
use symbia_api::http::{Health, ServiceApp, discovery::ServiceInfo, health::FRESH, server::ServerConfig};
use symbia_events::Service;

use crate::stage::fetch;

fn service() -> (Health, Router) {
    let health = Health::new(Service::Catalog, "1.2.3");
    let info = ServiceInfo::new(Service::Catalog, "Catalog", "Resources.");
    let router = ServiceApp::new(info, health.clone(), ServerConfig::default()).build().router();
    (health, router)
}

/// Status and body, with the timestamp and latencies checked and removed.
async fn probe(router: &Router, path: &str) -> (StatusCode, Value) {
    let answer = fetch(router, path, &[]).await;
    let mut body = answer.json();
    let timestamp = body["timestamp"].as_str().expect("a timestamp").to_owned();
    assert_eq!((timestamp.len(), &timestamp[10..11], &timestamp[23..]), (24, "T", "Z"), "{timestamp}");
    body.as_object_mut().expect("an object").remove("timestamp");
    for check in body.get_mut("checks").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
        let latency = check.as_object_mut().expect("an object").remove("latencyMs");
        assert!(latency.is_none_or(|l| l.is_u64()));
    }
    (answer.status, body)
}

fn body(status: &str) -> Value {
    json!({ "status": status, "service": "catalog", "version": "1.2.3" })
}

fn checked(status: &str, checks: &Value) -> Value {
    json!({ "status": status, "service": "catalog", "version": "1.2.3", "checks": checks })
}

#[tokio::test]
async fn starting_ready_and_draining_are_told_apart() {
    const DOWN: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
    let (health, router) = service();
    let server = |message: &str| json!({ "server": { "status": "unhealthy", "message": message } });

    assert_eq!(probe(&router, "/health").await, (DOWN, body("degraded")));
    assert_eq!(probe(&router, "/health/live").await, (StatusCode::OK, body("ok")));
    let starting = checked("unhealthy", &server("the service is starting"));
    assert_eq!(probe(&router, "/health/ready").await, (DOWN, starting));

    health.set_ready(true);
    assert_eq!(probe(&router, "/health").await, (StatusCode::OK, body("ok")));
    let ready = checked("ok", &json!({ "server": { "status": "ok" } }));
    assert_eq!(probe(&router, "/health/ready").await, (StatusCode::OK, ready));

    health.draining();
    assert!(health.drained().is_cancelled());
    assert_eq!(probe(&router, "/health").await, (DOWN, body("degraded")));
    assert_eq!(probe(&router, "/health/live").await, (StatusCode::OK, body("ok")));
    let stopping = checked("unhealthy", &server("the service is shutting down"));
    assert_eq!(probe(&router, "/health/ready").await, (DOWN, stopping));
}

#[tokio::test(start_paused = true)]
async fn readiness_follows_its_checks_and_asks_them_once_for_many_probes() {
    let (health, router) = service();
    health.set_ready(true);
    let (connected, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (bus, count) = (Arc::clone(&connected), Arc::clone(&asked));
    health.check("eventBus", move || {
        count.fetch_add(1, Ordering::Relaxed);
        let connected = bus.load(Ordering::Relaxed);
        async move { if connected { Ok(Map::new()) } else { Err("disconnected".to_owned()) } }
    });
    health.check("projections", || async { Ok(Map::from_iter([("lag".to_owned(), json!(3))])) });

    let checks = |bus: Value| json!({ "eventBus": bus, "projections": { "status": "ok", "lag": 3 }, "server": { "status": "ok" } });
    let down = checked("unhealthy", &checks(json!({ "status": "unhealthy", "message": "disconnected" })));
    for _ in 0..5 {
        assert_eq!(probe(&router, "/health/ready").await, (StatusCode::SERVICE_UNAVAILABLE, down.clone()));
    }
    assert_eq!(probe(&router, "/health").await.0, StatusCode::OK);
    assert_eq!(asked.load(Ordering::Relaxed), 1, "five probes at one time");

    connected.store(true, Ordering::Relaxed);
    tokio::time::advance(FRESH).await;
    let up = checked("ok", &checks(json!({ "status": "ok" })));
    assert_eq!(probe(&router, "/health/ready").await, (StatusCode::OK, up));
}

#[tokio::test(start_paused = true)]
async fn a_check_that_hangs_is_unhealthy() {
    let (health, router) = service();
    health.set_ready(true);
    health.check("database", std::future::pending);
    let checks = json!({ "database": { "status": "unhealthy", "message": "no answer within 2 s" }, "server": { "status": "ok" } });
    assert_eq!(probe(&router, "/health/ready").await, (StatusCode::SERVICE_UNAVAILABLE, checked("unhealthy", &checks)));
}
