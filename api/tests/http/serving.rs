//! Real connections: shutdown, time-outs, occupied ports, forwarded addresses.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::ws::{Message, WebSocketUpgrade},
    routing::get,
};
use symbia_api::http::{
    Health, ServiceApp,
    discovery::ServiceInfo,
    listen::bind,
    server::{Limits, ServerConfig},
};
use symbia_events::Service;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::stage::{app, until};

struct Running {
    address: SocketAddr,
    shutdown: CancellationToken,
    health: Health,
    served: JoinHandle<()>,
}

async fn run(app: ServiceApp) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let service = app.build();
    let (shutdown, health) = (CancellationToken::new(), service.health().clone());
    let served = tokio::spawn(service.serve(listener, shutdown.clone()));
    Running { address, shutdown, health, served }
}

async fn request(address: SocketAddr, path: &str, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.expect("written");
    stream
}

async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes))
        .await
        .expect("an end")
        .expect("readable");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn a_request_in_flight_is_finished_and_new_ones_refused() {
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (on_enter, on_release) = (Arc::clone(&entered), Arc::clone(&release));
    let slow = Router::new().route(
        "/slow",
        get(move || async move {
            on_enter.notify_one();
            on_release.notified().await;
            "finished"
        }),
    );
    let limits = Limits { drain: Duration::from_millis(1500), ..Limits::default() };
    let server = run(app(ServerConfig { limits, ..ServerConfig::default() }).undocumented(slow)).await;
    let in_flight = request(server.address, "/slow", "").await;
    entered.notified().await;

    server.shutdown.cancel();
    until(async || !server.health.is_serving()).await;
    // While draining, load balancers still get an answer, and it is "not ready".
    let health = rest(request(server.address, "/health", "Connection: close\r\n").await).await;
    assert!(health.starts_with("HTTP/1.1 503 ") && health.contains("\"status\":\"degraded\""), "{health}");
    until(async || TcpStream::connect(server.address).await.is_err()).await;
    assert!(!server.served.is_finished());

    release.notify_one();
    let answer = rest(in_flight).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("finished"), "{answer}");
    tokio::time::timeout(Duration::from_secs(10), server.served).await.expect("served to the end").expect("no panic");
}

#[tokio::test]
async fn a_request_that_outlasts_the_grace_period_is_cut() {
    let limits = Limits { drain: Duration::ZERO, grace: Duration::from_millis(50), ..Limits::default() };
    let entered = Arc::new(Notify::new());
    let on_enter = Arc::clone(&entered);
    let hang = Router::new().route(
        "/hang",
        get(move || {
            on_enter.notify_one();
            std::future::pending::<()>()
        }),
    );
    let server = run(app(ServerConfig { limits, ..ServerConfig::default() }).undocumented(hang)).await;
    let in_flight = request(server.address, "/hang", "").await;
    entered.notified().await;
    server.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(10), server.served).await.expect("served to the end").expect("no panic");
    assert_eq!(rest(in_flight).await, "");
}

#[tokio::test]
async fn a_client_that_never_finishes_its_head_is_cut_also_between_requests() {
    let limits = Limits { header_timeout: Duration::from_millis(50), ..Limits::default() };
    let server = run(app(ServerConfig { limits, ..ServerConfig::default() })).await;
    let silent = TcpStream::connect(server.address).await.expect("a connection");
    assert_eq!(rest(silent).await, "");
    let kept_alive = rest(request(server.address, "/health/live", "").await).await;
    assert_eq!(kept_alive.matches("HTTP/1.1 200 OK").count(), 1, "{kept_alive}");
}

#[tokio::test]
async fn only_a_trusted_proxy_may_name_the_client() {
    let server = run(app(ServerConfig::default())).await;
    let forwarded = "Connection: close\r\nX-Forwarded-For: 6.6.6.6, 198.51.100.7\r\n";
    let answer = rest(request(server.address, "/api/scope", forwarded).await).await;
    assert!(answer.contains("\"ip\":\"198.51.100.7\""), "{answer}");
}

#[tokio::test]
async fn an_occupied_port_is_named_with_the_variable_that_moves_the_service() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = taken.local_addr().expect("an address").port();
    let error = bind(Service::Identity, "127.0.0.1", port).await.expect_err("the port is taken");
    assert_eq!(
        error.to_string(),
        format!(
            "identity cannot listen on 127.0.0.1:{port}: the port is in use. Stop the program that holds it, or set \
             IDENTITY_PORT to a free port"
        )
    );
}

#[tokio::test]
async fn drained_streams_learn_of_the_shutdown() {
    let health = Health::new(Service::Network, "1.0.0");
    let info = ServiceInfo::new(Service::Network, "Network", "The mesh.");
    let limits = Limits { drain: Duration::ZERO, ..Limits::default() };
    let drained = health.drained();
    let stream = Router::new().route("/stream", get(move || async move { drained.cancelled().await }));
    let config = ServerConfig { limits, ..ServerConfig::default() };
    let server = run(ServiceApp::new(info, health, config).undocumented(stream)).await;
    let following = request(server.address, "/stream", "Connection: close\r\n").await;
    server.shutdown.cancel();
    assert!(rest(following).await.starts_with("HTTP/1.1 200 "));
    tokio::time::timeout(Duration::from_secs(10), server.served).await.expect("served to the end").expect("no panic");
}

#[tokio::test]
async fn a_connection_can_become_a_websocket() {
    let socket = |upgrade: WebSocketUpgrade| async {
        upgrade.on_upgrade(async |mut socket| {
            // The client reads until the end: whether this was sent shows in what it got.
            let _ = socket.send(Message::text("hello")).await;
        })
    };
    let server = run(app(ServerConfig::default()).undocumented(Router::new().route("/ws", get(socket)))).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let answer = rest(request(server.address, "/ws", upgrade).await).await;
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
    assert!(answer.ends_with("hello"), "{answer}");
}
