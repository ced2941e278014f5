//! What is refused: spoofed sources, clocks that are off, forged signatures, calls without contract, circles, and what is too
//! large or too deep. Nothing of it is stored.

use serde_json::{Value, json};
use symbia_api::{http::rate::Quota, platform::SecretText};
use symbia_tests::socketio::{Options, SocketClient};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use crate::{
    identity::{House, Person, eventually},
    stage::{Mesh, event},
};

fn with(mut event: Value, changes: Value) -> Value {
    event.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    event
}

fn at(offset: Duration) -> String {
    (OffsetDateTime::now_utc() + offset).format(&Rfc3339).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_be_sent_is_refused_and_nothing_of_it_is_stored() {
    let mesh = Mesh::open().await;
    let (ada, bob) = (mesh.house.register("ada").await, mesh.house.register("bob").await);
    let invite = format!("/api/orgs/{}/members/invite", ada.org);
    mesh.house.call("POST", &invite, &ada.token, json!({ "email": bob.email, "role": "admin" })).await.ok();
    mesh.register(&ada, &["a", "b"]).await;
    mesh.contract(&ada, "a", "b").await;
    let before = mesh.head().await;
    let spoofed = mesh.ask("POST", "/api/events", &bob, &ada.org, Some(event("a", Some("b")))).await;
    assert_eq!(spoofed.refused(), (403, "SOURCE_NOT_OWNED"));
    let deep = (0..40).fold(json!(1), |inner, _| json!({ "x": inner }));
    let id = "11111111-1111-4111-8111-111111111111";
    for (changes, refused) in [
        (json!({ "source": "nobody" }), (400, "SOURCE_UNKNOWN")),
        (json!({ "timestamp": at(Duration::minutes(-6)) }), (400, "STALE_TIMESTAMP")),
        (json!({ "timestamp": at(Duration::minutes(6)) }), (400, "STALE_TIMESTAMP")),
        (json!({ "timestamp": "yesterday" }), (400, "VALIDATION_FAILED")),
        (json!({ "signature": "0".repeat(64), "id": id, "timestamp": at(Duration::ZERO) }), (403, "SIGNATURE_INVALID")),
        (json!({ "signature": "0".repeat(64) }), (400, "VALIDATION_FAILED")),
        (json!({ "payload": { "type": "x", "data": deep } }), (400, "VALIDATION_FAILED")),
        (json!({ "payload": { "type": "x", "data": "y".repeat(140 * 1024) } }), (413, "TOO_LARGE")),
        (json!({ "payload": { "type": "x", "data": "y".repeat(300 * 1024) } }), (413, "BODY_TOO_LARGE")),
        (json!({ "payload": { "type": "a..b", "data": {} } }), (400, "VALIDATION_FAILED")),
        (json!({ "payload": { "type": "message.*", "data": {} } }), (400, "VALIDATION_FAILED")),
        (json!({ "payload": null }), (400, "VALIDATION_FAILED")),
        (json!({ "payload": "text" }), (400, "VALIDATION_FAILED")),
        (json!({ "runId": "" }), (400, "VALIDATION_FAILED")),
        (json!({ "target": "a b" }), (400, "VALIDATION_FAILED")),
        (json!({ "boundary": "outer" }), (400, "VALIDATION_FAILED")),
        (json!({ "id": "7" }), (400, "VALIDATION_FAILED")),
    ] {
        let answer = mesh.post("/api/events", &ada, with(event("a", Some("b")), changes.clone())).await;
        assert_eq!(answer.refused(), refused, "{:.80}", changes.to_string());
    }
    let nested = (0..20).fold(json!(1), |inner, _| json!([inner]));
    let mut node = mesh.node("c");
    node["metadata"] = json!({ "deep": nested });
    assert_eq!(mesh.post("/api/registry/nodes", &ada, node.clone()).await.refused(), (413, "TOO_LARGE"));
    node["metadata"] = json!({ "large": "x".repeat(20 * 1024) });
    assert_eq!(mesh.post("/api/registry/nodes", &ada, node).await.refused(), (413, "TOO_LARGE"));
    assert_eq!(mesh.head().await, before);
    assert!(mesh.inbox.of("b").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_contract_and_one_sent_in_a_circle_reach_nobody() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &["a", "b", "c", "d"]).await;
    let (_, trace) = mesh.send(&ada, event("a", Some("b"))).await;
    assert_eq!((&trace["status"], &trace["error"]), (&json!("dropped"), &json!("no_contract")));
    mesh.contract(&ada, "a", "*").await;
    let (_, trace) = mesh.send(&ada, event("a", Some("nobody"))).await;
    assert_eq!(trace["error"], "target_not_found");
    for (from, to) in [("b", "c"), ("c", "d"), ("d", "b")] {
        let target = json!([{ "field": "target", "operator": "eq", "value": from }]);
        mesh.policy(&ada, 10, target, json!({ "type": "route", "to": to })).await;
    }
    let (_, trace) = mesh.send(&ada, event("a", Some("b"))).await;
    assert_eq!((&trace["status"], &trace["error"]), (&json!("dropped"), &json!("route_cycle")));
    let past = json!({ "from": "b", "to": "a", "allowedEventTypes": ["*"], "boundaries": ["intra"],
        "expiresAt": "2020-01-01T00:00:00Z" });
    mesh.made("/api/registry/contracts", &ada, past).await;
    let (_, trace) = mesh.send(&ada, event("b", Some("a"))).await;
    assert_eq!(trace["error"], "expired_contract");
    assert!(["a", "b", "c", "d"].iter().all(|node| mesh.inbox.of(node).is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_event_is_taken_once_and_a_changed_one_never() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    mesh.register(&ada, &["a", "b"]).await;
    mesh.contract(&ada, "a", "b").await;
    let id = "22222222-2222-4222-8222-222222222222";
    let signed = with(event("a", Some("b")), json!({ "id": id, "timestamp": at(Duration::ZERO) }));
    let signature = mesh.post("/api/events/hash", &ada, signed.clone()).await.ok()["hash"].clone();
    let signed = with(signed, json!({ "signature": signature }));
    let altered = with(signed.clone(), json!({ "payload": { "type": "message.new", "data": { "text": "other" } } }));
    let later = with(signed.clone(), json!({ "timestamp": at(Duration::seconds(1)) }));
    let elsewhere = with(signed.clone(), json!({ "target": "a" }));
    let head = mesh.head().await;
    for forged in [altered, later, elsewhere] {
        assert_eq!(mesh.post("/api/events", &ada, forged).await.refused(), (403, "SIGNATURE_INVALID"));
    }
    assert_eq!(mesh.head().await, head);
    let (first, _) = mesh.send(&ada, signed.clone()).await;
    assert_eq!(first, id);
    mesh.settled(&ada, id, "delivered").await;
    let head = mesh.head().await;
    let (again, trace) = mesh.send(&ada, signed).await;
    assert_eq!((again.as_str(), &trace["status"], mesh.head().await), (id, &json!("delivered"), head));
    let other = with(event("a", Some("b")), json!({ "id": id, "runId": "another" }));
    assert_eq!(mesh.post("/api/events", &ada, other).await.refused(), (409, "EVENT_ID_CONFLICT"));
    assert_eq!(mesh.inbox.of("b").len(), 1);
    let why = mesh.get(&format!("/api/events/{id}/why"), &ada).await;
    assert_eq!(why["signed"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_originals_hash_is_given_where_the_deployment_has_its_secret() {
    let mesh = Mesh::with(|options| options.legacy_hash = Some(SecretText::new("symbia-network-dev-only"))).await;
    let ada = mesh.house.register("ada").await;
    let body = json!({ "payload": { "type": "message.new", "data": { "conversationId": "c1", "n": 1 } },
        "source": "messaging", "runId": "run_1", "target": "assistants" });
    let hash = mesh.post("/api/events/hash", &ada, body).await.ok()["hash"].clone();
    assert_eq!(hash, "0b95fd9b78049ea1bf57d254c732b82de35ce0ed25aaec00067146ec853ff35e");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_pretends_to_be_another_is_in_the_audit_trail_over_rest_and_sockets() {
    let mesh = Mesh::open().await;
    let ada = mesh.house.register("ada").await;
    let (bob, cid) = (mesh.house.register("bob").await, mesh.house.register("cid").await);
    let invite = format!("/api/orgs/{}/members/invite", ada.org);
    for who in [&bob, &cid] {
        mesh.house.call("POST", &invite, &ada.token, json!({ "email": who.email, "role": "admin" })).await.ok();
    }
    mesh.register(&ada, &["a"]).await;
    let spoofed = mesh.ask("POST", "/api/events", &bob, &ada.org, Some(event("a", None))).await;
    assert_eq!(spoofed.refused(), (403, "SOURCE_NOT_OWNED"));
    let auth = json!({ "token": cid.token, "orgId": ada.org });
    let socket = SocketClient::connect(&mesh.base, Options { auth, ..Options::default() }).await.unwrap();
    let spoofed = socket.call("event:send", &[event("a", None)]).await.unwrap();
    assert_eq!(spoofed["error"], "source_not_owned", "{spoofed}");
    let trail = format!("/api/orgs/{}/audit-logs?action=access.denied", ada.org);
    eventually("both are in the trail", async || {
        let trail = mesh.house.get(&trail, &ada.token).await.body;
        let noted = |who: &str| {
            let of = |entry: &&Value| entry.to_string().contains(who);
            trail.as_array()?.iter().find(of).map(|entry| entry.to_string().contains("SOURCE_NOT_OWNED"))
        };
        (noted(&bob.id) == Some(true) && noted(&cid.id) == Some(true)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_mesh_refuses_is_in_its_log_and_a_flood_of_it_is_not() {
    let mesh = Mesh::open().await;
    let (ada, bob, eve) =
        (mesh.house.register("ada").await, mesh.house.register("bob").await, mesh.house.register("eve").await);
    for (who, role) in [(&bob, "admin"), (&eve, "member")] {
        let invite = format!("/api/orgs/{}/members/invite", ada.org);
        mesh.house.call("POST", &invite, &ada.token, json!({ "email": who.email, "role": role })).await.ok();
    }
    mesh.register(&ada, &["a", "b"]).await;
    let limited = json!({ "from": "a", "to": "b", "allowedEventTypes": ["message.*"], "boundaries": ["intra", "inter"],
        "maxEventsPerSecond": 1 });
    mesh.made("/api/registry/contracts", &ada, limited).await;
    let here = |who: &Person| Person { org: ada.org.clone(), ..who.clone() };
    let (bob, eve) = (here(&bob), here(&eve));

    // A foreign source and id, a wrong signature, a missing right; a call without contract, and more than one lets pass.
    mesh.post("/api/events", &bob, event("a", Some("b"))).await;
    assert_eq!(mesh.post("/api/registry/nodes", &bob, mesh.node("b")).await.refused(), (403, "NODE_OWNED"));
    assert_eq!(mesh.ask("GET", "/api/policies", &eve, &ada.org, None).await.refused().0, 403);
    let wrong = json!({ "id": Uuid::new_v4(), "timestamp": at(Duration::ZERO), "signature": "0".repeat(64) });
    let wrong = mesh.post("/api/events", &ada, with(event("a", Some("b")), wrong)).await;
    assert_eq!(wrong.refused(), (403, "SIGNATURE_INVALID"));
    mesh.send(&ada, event("b", Some("a"))).await;
    for _ in 0..20 {
        mesh.send(&ada, event("a", Some("b"))).await;
    }
    // Refused again and again.
    for _ in 0..100 {
        mesh.post("/api/events", &bob, event("a", Some("b"))).await;
    }
    // Who has nothing to do with an organization writes nothing into its log.
    let stranger = mesh.house.register("zoe").await;
    let stranger = Person { org: ada.org.clone(), ..stranger };
    assert_eq!(mesh.post("/api/events", &stranger, event("a", Some("b"))).await.refused().0, 403);

    let told = async |who: &Person, kind: &str, code: &str| {
        eventually(&format!("{kind} {code} is told"), async || {
            let told = mesh.refusals(who).await;
            told.into_iter().find(|(name, data)| name == kind && data["errorCode"] == code).map(|(_, data)| data)
        })
        .await
    };
    let spoofed = told(&bob, "source-spoof-rejected", "SOURCE_NOT_OWNED").await;
    assert_eq!((&spoofed["claimedSource"], &spoofed["principalId"]), (&json!("a"), &json!(bob.id)));
    let denied = told(&eve, "permission-denied", "MISSING_CAPABILITY").await;
    assert_eq!(denied["operation"], "cap:network.policies.read");
    told(&ada, "signature-rejected", "SIGNATURE_INVALID").await;
    assert!(mesh.refusals(&bob).await.len() <= 2, "the first at once, what follows not before a minute is over");
    assert_eq!(mesh.refusals(&stranger).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_too_much_is_in_the_trail_and_the_log_of_their_own_organization() {
    const BURST: u32 = 200;
    let quota = Quota { burst: BURST, per: std::time::Duration::from_secs(1_000_000) };
    let mesh = Mesh::within(House::with(|settings| settings.rates.standard = quota).await, |_| {}).await;
    let (ada, bob) = (mesh.house.register("ada").await, mesh.house.register("bob").await);
    let zoe = mesh.house.register("zoe").await;
    let invite = format!("/api/orgs/{}/members/invite", ada.org);
    mesh.house.call("POST", &invite, &ada.token, json!({ "email": bob.email, "role": "member" })).await.ok();
    // He belongs there, she does not.
    for (who, status) in [(&bob, 200), (&zoe, 403)] {
        for n in 0..BURST + 50 {
            let answer = mesh.ask("GET", "/api/registry/nodes", who, &ada.org, None).await;
            let expected = if n < BURST { status } else { 429 };
            assert_eq!(answer.status.as_u16(), expected, "request {n}: {}", answer.body);
        }
    }
    let there = |who: &Person| Person { org: ada.org.clone(), ..who.clone() };
    for who in [&there(&bob), &zoe] {
        let noted = eventually("it is in the mesh's log", async || mesh.refusals(who).await.pop()).await;
        let is = (noted.0.as_str(), &noted.1["errorCode"], &noted.1["operation"]);
        assert_eq!(is, ("rate-exceeded", &json!("RATE_LIMIT_EXCEEDED"), &json!("GET /api/registry/nodes")));
        assert_eq!(mesh.refusals(who).await.len(), 1, "the first at once, what follows not before a minute is over");
    }
    assert_eq!(mesh.refusals(&there(&zoe)).await, [], "nobody fills another organization's log");
    let trail = format!("/api/orgs/{}/audit-logs?action=access.denied", ada.org);
    let trail = eventually("he is in the trail", async || {
        let trail = mesh.house.get(&trail, &ada.token).await.body;
        let floods = |entry: &&Value| entry.to_string().contains("RATE_LIMIT_EXCEEDED");
        let floods: Vec<Value> = trail.as_array()?.iter().filter(floods).cloned().collect();
        (!floods.is_empty()).then_some(floods)
    })
    .await;
    assert!(trail.len() == 1 && trail[0].to_string().contains(&bob.id), "{trail:?}");
}
