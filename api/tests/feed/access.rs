//! Who may open a feed, and of which tenant.

use std::sync::Arc;

use serde_json::json;
use symbia_api::{
    feed::{Audience, FeedConfig},
    http::{AuthError, Principal, cors::CorsConfig},
};
use symbia_events::Event;

use crate::stage::{Stage, member, numbers, sent, until};

#[tokio::test]
async fn only_those_who_belong_get_in_and_the_rest_is_refused_before_the_upgrade() {
    let stage = Stage::new().await;
    stage.directory.knows("old", Err(AuthError::Expired));
    stage.directory.knows("both", Ok(member("both", &["org-a", "org-b"])));
    let reader = Principal { entitlements: vec!["cap:global.read".to_owned()], ..member("reader", &["org-a"]) };
    stage.directory.knows("reader", Ok(reader));
    let cors = CorsConfig::new(["https://console.example"], true);
    let server = stage.serve(FeedConfig { cors, ..FeedConfig::default() }).await;
    type Case = (&'static str, Option<&'static str>, Option<(&'static str, &'static str)>, u16, &'static str);
    let cases: [Case; 11] = [
        ("", None, None, 401, "AUTH_REQUIRED"),
        ("access_token=a", None, None, 401, "AUTH_REQUIRED"),
        ("", Some("nobody"), None, 401, "TOKEN_INVALID"),
        ("", Some("old"), None, 401, "TOKEN_EXPIRED"),
        ("", Some("both"), None, 400, "ORG_REQUIRED"),
        ("tenant=org-b", Some("a"), None, 403, "ORG_ACCESS_DENIED"),
        ("tenant=global", Some("a"), None, 403, "SUPERADMIN_REQUIRED"),
        ("", Some("reader"), Some(("x-org-id", "global")), 403, "SUPERADMIN_REQUIRED"),
        ("", Some("a"), Some(("x-org-id", "org-b")), 403, "ORG_ACCESS_DENIED"),
        ("tenant=org-b", Some("root"), None, 403, "ORG_ACCESS_DENIED"),
        ("", Some("a"), Some(("origin", "https://evil.example")), 403, "ORIGIN_NOT_ALLOWED"),
    ];
    for (query, token, header, status, code) in cases {
        let authorization = token.map(|t| format!("Bearer {t}"));
        let authorization = authorization.as_deref().map(|a| ("authorization", a));
        let headers: Vec<_> = authorization.into_iter().chain(header).collect();
        let (got, body) = server.refused(query, &headers).await;
        assert_eq!((got, &body["code"]), (status, &json!(code)), "{query} {headers:?}");
    }
    for (query, token) in [
        ("tenant=org-b", "both"),
        ("tenant=org-b&reason=ticket+4711", "root"),
        ("tenant=org-b&reason=ticket+4711", "reader"),
        ("tenant=global", "root"),
    ] {
        server.follow(token, query).await;
    }
    let origin = ("origin", "https://console.example");
    server.connect("", &[("authorization", "Bearer a"), origin]).await.expect("a page of ours");
}

#[tokio::test]
async fn a_browser_sends_its_token_as_a_subprotocol_and_does_not_get_it_back() {
    let stage = Stage::new().await;
    let server = stage.serve(FeedConfig::default()).await;
    let (mut follower, response) =
        server.connect("", &[("sec-websocket-protocol", "symbia.feed.v1, bearer.a")]).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "symbia.feed.v1");
    assert_eq!(follower.item().await["tenant"], "org-a");
    let (status, body) = server.refused("", &[("sec-websocket-protocol", "symbia.feed.v1, bearer.zzz")]).await;
    assert_eq!((status, &body["code"]), (401, &json!("TOKEN_INVALID")));
}

#[tokio::test]
async fn a_principal_has_so_many_feeds_and_gets_a_place_back_when_one_ends() {
    let stage = Stage::new().await;
    let server = stage.serve(FeedConfig { per_principal: 2, ..FeedConfig::default() }).await;
    let first = server.follow("a", "").await;
    let _second = server.follow("a", "").await;
    let (status, body) = server.refused("", &[("authorization", "Bearer a")]).await;
    assert_eq!((status, &body["code"]), (429, &json!("QUOTA_EXCEEDED")));
    server.follow("b", "").await;
    drop(first);
    until("the place is free", || server.feed.open() == 1).await;
    server.follow("a", "").await;
}

struct EvenOnly;

impl Audience for EvenOnly {
    fn may_see(&self, caller: &Principal, event: &Event) -> bool {
        caller.id == "root" || event.aggregateid == "even"
    }

    fn may_hear(&self, _: &Principal, subject: &str) -> bool {
        subject.starts_with("even.")
    }
}

#[tokio::test]
async fn the_audience_decides_what_of_the_tenant_a_caller_may_have() {
    let stage = Stage::new().await;
    let server = stage.serve_to(FeedConfig::default(), Arc::new(EvenOnly)).await;
    let mut member = server.follow("a", "live=true").await;
    let mut root = server.follow("root", "tenant=org-a&reason=a+test").await;
    for subject in ["odd.1", "even.1"] {
        stage.client.publish(format!("symbia.live.org-a.{subject}"), "1".into()).await.unwrap();
    }
    assert_eq!(member.item().await["live"], "even.1");
    stage.append("org-a", "odd", &[sent(1)]).await;
    stage.append("org-a", "even", &[sent(2)]).await;
    assert_eq!(numbers(&member.events(1).await), [2]);
    assert_eq!(numbers(&root.events(2).await), [1, 2]);
}
