//! Services of the platform on a mesh: with tokens that they sign, over REST and sockets, as themselves and nobody else.

use serde_json::{Value, json};
use symbia_commands::{Actor, ServiceToken};
use symbia_events::{ActorType, Service};
use symbia_tests::socketio::{Options, SocketClient};
use time::{Duration, OffsetDateTime};

use crate::{
    identity::Person,
    stage::{Mesh, event, silent},
};

// A service, on the mesh of somebody's organization.
fn service(mesh: &Mesh, of: &Person, token: ServiceToken, at: OffsetDateTime) -> Person {
    Person { token: token.sign(&mesh.house.keys, at, Duration::minutes(1)), ..of.clone() }
}

fn to_the_mesh(service: Service) -> ServiceToken {
    ServiceToken { service, audience: Service::Network, act: None, purpose: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_registers_sends_and_watches_as_itself() {
    let mesh = Mesh::open().await;
    let (ada, now) = (mesh.house.register("ada").await, OffsetDateTime::now_utc());
    let messaging = service(&mesh, &ada, to_the_mesh(Service::Messaging), now);
    let assistants = service(&mesh, &ada, to_the_mesh(Service::Assistants), now);
    mesh.register(&messaging, &["messaging"]).await;
    let auth = json!({ "token": assistants.token, "orgId": ada.org });
    let mut socket = SocketClient::connect(&mesh.base, Options { auth, ..Options::default() }).await.unwrap();
    let registered = socket.call("node:register", &[silent("assistants")]).await.unwrap();
    assert_eq!(registered["ok"], true, "{registered}");
    assert_eq!(socket.call("sdn:watch", &[json!({})]).await.unwrap()["ok"], true);

    // They begin with a contract.
    let (id, _) = mesh.send(&messaging, event("messaging", None)).await;
    let told = socket.event("event:received").await.unwrap();
    assert_eq!(told.data["wrapper"]["id"], json!(id));
    assert_eq!(socket.event("sdn:event").await.unwrap().data["event"]["wrapper"]["id"], json!(id));

    let spoofed = mesh.post("/api/events", &assistants, event("messaging", None)).await;
    assert_eq!(spoofed.refused(), (403, "SOURCE_NOT_OWNED"));
    let taken = socket.call("node:register", &[silent("messaging")]).await.unwrap();
    assert_eq!((&taken["ok"], &taken["error"]), (&json!(false), &json!("node_owned")), "{taken}");
    // Neither an admin takes its place, nor another service, also of one that has not come yet.
    for (who, id) in [(&ada, "messaging"), (&assistants, "messaging"), (&assistants, "catalog")] {
        let hijacked = mesh.post("/api/registry/nodes", who, mesh.node(id)).await;
        assert_eq!(hijacked.refused(), (403, "NODE_OWNED"), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_token_of_a_service_for_the_mesh_opens_nothing() {
    let mesh = Mesh::open().await;
    let (ada, now) = (mesh.house.register("ada").await, OffsetDateTime::now_utc());
    let messaging = to_the_mesh(Service::Messaging);
    let hers = Actor { kind: ActorType::User, id: ada.id.clone(), ..Actor::service("x") };
    let act = hers.assert(&mesh.house.keys, now, Duration::minutes(1));
    let mut forged = service(&mesh, &ada, messaging.clone(), now);
    forged.token.push('x');
    for (who, refused) in [
        (service(&mesh, &ada, ServiceToken { audience: Service::Identity, ..messaging.clone() }, now), "TOKEN_INVALID"),
        (service(&mesh, &ada, ServiceToken { act: Some(act), ..messaging.clone() }, now), "TOKEN_INVALID"),
        (service(&mesh, &ada, messaging.clone(), now - Duration::minutes(3)), "TOKEN_EXPIRED"),
        (forged, "TOKEN_INVALID"),
    ] {
        assert_eq!(mesh.post("/api/registry/nodes", &who, mesh.node("x")).await.refused(), (401, refused));
    }
    // It names the organization that it means.
    let good = service(&mesh, &ada, messaging, now);
    let nowhere = reqwest::Client::new().get(format!("{}/api/registry/nodes", mesh.base)).bearer_auth(&good.token);
    let said: Value = nowhere.send().await.unwrap().json().await.unwrap();
    assert_eq!(said["code"], "ORG_REQUIRED", "{said}");
    assert_eq!(mesh.get("/api/registry/nodes", &good).await["count"], 0);
}
