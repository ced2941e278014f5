//! The service's own door: signing in there, and what it tells of itself.

use reqwest::{Client, Response};
use serde_json::{Value, json};
use symbia_events::Service;

use super::stage::{House, PASSWORD};

async fn body(answer: Response) -> Value {
    let status = answer.status();
    let text = answer.text().await.unwrap();
    assert!(status.is_success(), "{status} {text}");
    serde_json::from_str(&text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_and_out_at_messaging() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let (http, base) = (Client::new(), house.base(Service::Messaging).to_owned());
    let url = |path: &str| format!("{base}/api/auth/{path}");
    let session = async |token: &str| {
        body(http.get(url("session")).header("cookie", format!("token={token}")).send().await.unwrap()).await
    };
    assert_eq!(session("").await, json!({ "authenticated": false }));
    assert_eq!(session("nonsense").await, json!({ "authenticated": false }));
    assert_eq!(http.get(url("me")).send().await.unwrap().status(), 401);
    let wrong = json!({ "email": "ada@example.test", "password": "not hers" });
    assert_eq!(http.post(url("login")).json(&wrong).send().await.unwrap().status(), 401);

    let right = json!({ "email": "ada@example.test", "password": PASSWORD });
    let answer = http.post(url("login")).json(&right).send().await.unwrap();
    let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
    let signed_in = body(answer).await;
    let token = signed_in["token"].as_str().unwrap();
    assert!(cookie.starts_with(&format!("token={token};")) && cookie.contains("HttpOnly"), "{cookie}");
    let now = session(token).await;
    assert_eq!((&now["authenticated"], &now["user"]["id"]), (&json!(true), &json!(ada.id)));
    assert_eq!(now["user"]["organizations"][0]["id"], ada.org.as_str());
    let me = body(http.get(url("me")).bearer_auth(token).send().await.unwrap()).await;
    assert_eq!((&me["user"], &me["organizations"]), (&now["user"], &now["user"]["organizations"]));
    assert_eq!((&me["user"]["type"], &me["user"]["isSuperAdmin"]), (&json!("user"), &json!(false)));

    let out = http.post(url("logout")).header("cookie", format!("token={token}")).send().await.unwrap();
    assert!(out.headers()["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    assert_eq!(session(token).await, json!({ "authenticated": false }));
    assert_eq!(http.get(url("me")).bearer_auth(token).send().await.unwrap().status(), 401);
    let config = body(http.get(url("config")).send().await.unwrap()).await;
    assert!(config["loginUrl"].as_str().unwrap().ends_with("/login"), "{config}");
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_at_an_account_are_counted_at_all_doors_together() {
    let house = House::open().await;
    house.register("ada").await;
    let http = Client::new();
    let wrong = json!({ "email": "ada@example.test", "password": "not hers" });
    let mut refusals = Vec::new();
    for n in 0..12 {
        let service = if n % 2 == 0 { Service::Identity } else { Service::Messaging };
        let url = format!("{}/api/auth/login", house.base(service));
        refusals.push(http.post(url).json(&wrong).send().await.unwrap().status().as_u16());
    }
    assert!(refusals.contains(&429), "it is blocked after some failures, wherever they were: {refusals:?}");
    assert_eq!(*refusals.last().unwrap(), 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_tells_which_events_its_sockets_know() {
    let house = House::open().await;
    let url = format!("{}/api/bootstrap/service", house.base(Service::Messaging));
    let told = body(reqwest::get(url).await.unwrap()).await;
    assert_eq!((&told["service"], &told["endpoints"]["websocket"]), (&json!("messaging"), &json!("/")));
    let events = &told["websocketEvents"];
    for (side, name) in [
        ("client", "message:send"),
        ("client", "presence:update"),
        ("server", "message:new"),
        ("server", "stream.preempt"),
        ("server", "presence:changed"),
    ] {
        assert!(events[side].as_array().unwrap().contains(&json!(name)), "{side} {name}: {events}");
    }
}
