//! Calls through the guard, to servers of the test's own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    http::{HeaderMap, StatusCode, header::LOCATION},
    response::IntoResponse,
    routing::{any, get},
};
use reqwest::{Method, Url};
use symbia_egress::{Blocked, Egress, EgressError, Errand, LookUp, Rules};

async fn served(app: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// A name service that gives the next answer at each look, and how often it was asked.
fn answers(list: &'static [&'static [&'static str]]) -> (LookUp, Arc<AtomicUsize>) {
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&looks);
    let look_up: LookUp = Arc::new(move |_| {
        let look = counted.fetch_add(1, Ordering::SeqCst).min(list.len() - 1);
        let found = list[look].iter().map(|address| address.parse::<IpAddr>().unwrap()).collect();
        Box::pin(async move { Ok(found) })
    });
    (look_up, looks)
}

fn errand(url: &str) -> Errand {
    Errand {
        method: Method::GET,
        url: url.parse().unwrap(),
        headers: HeaderMap::new(),
        body: None,
        patience: Duration::from_secs(5),
        most: 1000,
    }
}

async fn blocked(egress: &Egress, url: &str) -> Blocked {
    match egress.fetch(errand(url)).await {
        Err(EgressError::Blocked(blocked)) => blocked,
        other => panic!("{url}: {other:?}"),
    }
}

#[tokio::test]
async fn what_was_looked_up_is_connected_to_and_nothing_is_looked_up_twice() {
    let here =
        served(Router::new().route("/", get(|headers: HeaderMap| async move { format!("{:?}", headers["host"]) })))
            .await;
    // The first look is harmless; a second one, if there were one, would lead elsewhere.
    let (look_up, looks) = answers(&[&["127.0.0.1"], &["10.0.0.1"]]);
    let egress = Egress::looking_up(Rules::parse("127.0.0.0/8").unwrap().any_port(), look_up).unwrap();
    let url = format!("http://rebinding.example.com:{}/", here.port());
    let reply = egress.fetch(errand(&url)).await.unwrap();
    assert_eq!(reply.body, format!("\"rebinding.example.com:{}\"", here.port()), "the name stays in the request");
    assert_eq!(looks.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_name_that_leads_inside_is_refused_at_the_look_that_counts() {
    let inside = served(Router::new().fallback(any(|| async { "inside" }))).await;
    let url = format!("http://rebinding.example.com:{}/", inside.port());
    // The look of somebody who checks first gives a public address, that of the connection another one.
    let (look_up, _) = answers(&[&["93.184.216.34"], &["127.0.0.1"]]);
    look_up("rebinding.example.com".to_owned()).await.unwrap();
    let egress = Egress::looking_up(Rules::default().any_port(), look_up).unwrap();
    assert_eq!(blocked(&egress, &url).await, Blocked::Address);
    const MIXED: [&[&[&str]]; 2] = [&[&["93.184.216.34", "127.0.0.1"]], &[&["2606:2800:220::1", "::ffff:10.0.0.1"]]];
    for mixed in MIXED {
        let egress = Egress::looking_up(Rules::default().any_port(), answers(mixed).0).unwrap();
        assert_eq!(blocked(&egress, &url).await, Blocked::Address, "one address inside is one too many");
    }
    let egress = Egress::looking_up(Rules::default().any_port(), answers(&[&[]]).0).unwrap();
    assert_eq!(blocked(&egress, &url).await, Blocked::Unknown);
}

#[tokio::test]
async fn each_redirect_is_checked_anew() {
    let to = |place: &'static str| get(move || async move { (StatusCode::FOUND, [(LOCATION, place)]) });
    let app = Router::new()
        .route("/metadata", to("http://169.254.169.254/latest/meta-data/"))
        .route("/file", to("file:///etc/passwd"))
        .route("/inside", to("http://10.0.0.1/"))
        .route("/name", to("http://metadata.google.internal/"))
        .route("/round", to("/round"))
        .route("/near", to("/end"))
        .route("/end", get(|| async { "end" }));
    let here = served(app).await;
    let egress = Egress::new(Rules::development()).unwrap();
    let at = |path: &str| format!("http://{here}{path}");
    assert_eq!(blocked(&egress, &at("/metadata")).await, Blocked::Address);
    assert_eq!(blocked(&egress, &at("/inside")).await, Blocked::Address);
    assert_eq!(blocked(&egress, &at("/name")).await, Blocked::Host);
    assert_eq!(blocked(&egress, &at("/file")).await, Blocked::Scheme);
    assert_eq!(egress.fetch(errand(&at("/round"))).await.unwrap_err(), EgressError::Redirects(3));
    let reply = egress.fetch(errand(&at("/near"))).await.unwrap();
    assert_eq!((reply.body.as_ref(), reply.url.path()), (&b"end"[..], "/end"));
    // What is not repeated without harm is not sent on.
    let posted = egress.fetch(Errand { method: Method::POST, ..errand(&at("/near")) }).await.unwrap();
    assert_eq!(posted.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_redirect_to_another_origin_carries_no_header_along() {
    let seen = |headers: HeaderMap| async move {
        let named = ["authorization", "x-api-key", "cookie", "accept"].into_iter();
        named.filter(|name| headers.contains_key(*name)).collect::<Vec<_>>().join(",").into_response()
    };
    let other = served(Router::new().fallback(any(seen))).await;
    let place = format!("http://{other}/");
    let app = Router::new()
        .route("/other", get(move || async move { (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, place)]) }));
    let app =
        app.route("/same", get(|| async { (StatusCode::FOUND, [(LOCATION, "/seen")]) })).route("/seen", get(seen));
    let here = served(app).await;
    let egress = Egress::new(Rules::development()).unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in [("authorization", "Bearer k"), ("x-api-key", "k"), ("cookie", "k"), ("accept", "*/*")] {
        headers.insert(name, value.parse().unwrap());
    }
    let ask = |path: &str| egress.fetch(Errand { headers: headers.clone(), ..errand(&format!("http://{here}{path}")) });
    assert_eq!(ask("/same").await.unwrap().body, "authorization,x-api-key,cookie,accept");
    assert_eq!(ask("/other").await.unwrap().body, "accept");
}

#[tokio::test]
async fn neither_size_nor_time_is_the_servers_to_choose() {
    let app = Router::new()
        .route("/long", get(|| async { "x".repeat(1001) }))
        .route("/fits", get(|| async { "x".repeat(1000) }))
        .route("/never", get(std::future::pending::<String>));
    let here = served(app).await;
    let egress = Egress::new(Rules::development()).unwrap();
    let at = |path: &str| errand(&format!("http://{here}{path}"));
    assert_eq!(egress.fetch(at("/long")).await.unwrap_err(), EgressError::TooLong(1000));
    assert_eq!(egress.fetch(at("/fits")).await.unwrap().body.len(), 1000);
    let short = Errand { patience: Duration::from_millis(50), ..at("/never") };
    assert_eq!(egress.fetch(short).await.unwrap_err(), EgressError::Timeout);
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gone = egress.fetch(errand(&format!("http://{free}/"))).await.unwrap_err();
    assert_eq!(gone, EgressError::Unreachable);
}

#[tokio::test]
async fn a_server_that_an_operator_named_is_called_wherever_it_is() {
    let here = served(Router::new().route("/v1", get(|| async { "here" }))).await;
    let url: Url = format!("http://localhost:{}/v1", here.port()).parse().unwrap();
    let (look_up, _) = answers(&[&["127.0.0.1"]]);
    let egress = Egress::looking_up(Rules::only(&url), look_up).unwrap();
    assert_eq!(egress.fetch(errand(url.as_str())).await.unwrap().body, "here");
    assert_eq!(blocked(&egress, "https://api.example.com/").await, Blocked::Host);
}
