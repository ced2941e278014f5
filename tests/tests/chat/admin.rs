//! What admins see: the conversations of organizations that they administer, and of no other.

use std::sync::Arc;

use serde_json::{Value, json};
use symbia_commands::{
    Actor, OutcomeStatus,
    identity::{GrantEntitlement, GrantsCommand},
};
use symbia_events::{AggregateRef, CommandId, OrgId, Service};
use symbia_workers::sender::Sender;

use super::stage::{House, Person, eventually};

/// Lets somebody administer conversations.
pub async fn make_admin(house: &House, who: &Person) {
    let grant = GrantsCommand::from(GrantEntitlement {
        principal_id: who.id.clone(),
        grant_id: format!("admin-{}", who.id),
        key: "cap:messaging.admin".to_owned(),
        expires_at: None,
    });
    let address = AggregateRef::new(Service::Identity, OrgId::global(), "grants", &who.id).unwrap();
    let sender = Sender::new(house.platform.bus.clone(), Arc::clone(&house.keys));
    let granted = sender.send(None, &address, &grant, &Actor::system("test"), CommandId::random()).await.unwrap();
    assert_eq!(granted.status, OutcomeStatus::Accepted, "{granted:?}");
    eventually("the grant counts", || async {
        (house.get(who, "/api/admin/conversations").await.status == 200).then_some(())
    })
    .await;
}

fn ids(rows: &Value) -> Vec<&str> {
    rows.as_array().unwrap().iter().filter_map(|c| c["id"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_sees_and_ends_conversations_of_the_own_organization_only() {
    let house = House::open().await;
    let (ada, eve) = (house.register("ada").await, house.register("eve").await);
    let grace = house.colleague(&ada, "grace").await;
    let elsewhere = house.talk(&grace, &[]).await;
    let body = json!({ "type": "private", "name": "Hers", "orgId": ada.org });
    let opened = house.post(&grace, "/api/conversations", body).await.with(201);
    let in_ada = opened["id"].as_str().unwrap();
    let said = house.say(&grace, in_ada, "between me and me").await;
    let all = "/api/admin/conversations";
    for who in [&ada, &eve] {
        assert_eq!(house.get(who, all).await.refused(), (403, "MISSING_CAPABILITY"));
    }
    make_admin(&house, &ada).await;
    make_admin(&house, &eve).await;
    let of_ada = house.get(&ada, all).await.with(200);
    assert_eq!((ids(&of_ada["conversations"]), &of_ada["total"]), (vec![in_ada], &json!(1)));
    assert!(!of_ada.to_string().contains(&elsewhere), "another organization's conversation");
    assert_eq!(house.get(&eve, all).await.with(200)["total"], 0);
    let named = format!("{all}?orgId={}", ada.org);
    assert_eq!(house.get(&eve, &named).await.refused(), (403, "ORG_ACCESS_DENIED"));
    let one = format!("{all}/{in_ada}");
    assert_eq!(house.get(&ada, &one).await.with(200)["recentMessages"], json!([said]));
    for method in ["GET", "DELETE"] {
        assert_eq!(house.ask(&eve, method, &one, &[], None).await.refused(), (404, "CONVERSATION_NOT_FOUND"));
    }
    house.ask(&ada, "DELETE", &one, &[], None).await.with(204);
    assert_eq!(house.get(&ada, all).await.with(200)["total"], 0);
    let gone = house.get(&grace, &format!("/api/conversations/{in_ada}")).await;
    assert_eq!(gone.refused(), (404, "CONVERSATION_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_adds_and_removes_anyone_and_an_owner_leaves_an_heir() {
    let house = House::open().await;
    let (ada, eve) = (house.register("ada").await, house.register("eve").await);
    let (grace, mary) = (house.colleague(&ada, "grace").await, house.colleague(&ada, "mary").await);
    let body = json!({ "type": "group", "name": "Hers", "orgId": ada.org, "participantIds": ["assistant:nobody"] });
    let id = house.post(&grace, "/api/conversations", body).await.with(201)["id"].as_str().unwrap().to_owned();
    let members = format!("/api/admin/conversations/{id}/participants");
    let add = |who: &Person, role: &str| json!({ "userId": who.id, "role": role });
    assert_eq!(house.post(&ada, &members, add(&mary, "admin")).await.refused(), (403, "MISSING_CAPABILITY"));
    make_admin(&house, &ada).await;
    make_admin(&house, &eve).await;
    assert_eq!(house.post(&eve, &members, add(&eve, "owner")).await.refused(), (404, "CONVERSATION_NOT_FOUND"));
    assert_eq!(house.post(&ada, &members, add(&eve, "member")).await.refused(), (400, "VALIDATION_FAILED"));
    let added = house.post(&ada, &members, add(&mary, "member")).await.with(201);
    assert_eq!((&added["user_id"], &added["role"]), (&json!(mary.id), &json!("member")));
    assert_eq!(house.post(&ada, &members, add(&mary, "admin")).await.with(201)["role"], "admin");
    let of_grace = format!("{members}/{}", grace.id);
    assert_eq!(house.ask(&eve, "DELETE", &of_grace, &[], None).await.refused(), (404, "CONVERSATION_NOT_FOUND"));
    house.ask(&ada, "DELETE", &of_grace, &[], None).await.with(204);
    let participants = house.get(&mary, &format!("/api/conversations/{id}/participants")).await.with(200);
    let roles: Vec<_> =
        participants["participants"].as_array().unwrap().iter().map(|p| (&p["user_id"], &p["role"])).collect();
    assert!(roles.contains(&(&json!(mary.id), &json!("owner"))) && roles.len() == 2, "{roles:?}");
    assert_eq!(house.get(&grace, &format!("/api/conversations/{id}")).await.refused(), (403, "NOT_PARTICIPANT"));
    house.read_models_are_what_the_log_says().await;
}
