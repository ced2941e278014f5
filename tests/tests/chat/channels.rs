//! Chats elsewhere: one conversation each, told to services of the platform alone.

use serde_json::{Value, json};
use symbia_commands::ServiceToken;
use symbia_events::Service;
use time::{Duration, OffsetDateTime};

use super::stage::{Answer, House, Person};

const CHAT: &str = "channelType=telegram&connectionId=k1&chatId=42";

fn token(house: &House, audience: Service) -> String {
    let token = ServiceToken { service: Service::Integrations, audience, act: None, purpose: None };
    token.sign(&house.keys, OffsetDateTime::now_utc(), Duration::minutes(1))
}

async fn found(house: &House, headers: &[(&str, &str)]) -> Answer {
    let nobody = Person { id: String::new(), token: String::new(), org: String::new() };
    house.ask(&nobody, "GET", &format!("/api/internal/conversations/by-channel?{CHAT}"), headers, None).await
}

fn of_chat(org: &str) -> Value {
    let channel = json!({ "type": "telegram", "connectionId": "k1", "chatId": "42", "chatName": "Family" });
    json!({ "type": "group", "name": "Chat", "orgId": org, "metadata": { "channel": channel } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_has_one_conversation_and_only_services_ask_for_it() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let service = token(&house, Service::Messaging);
    let by_service = [("x-service-auth", service.as_str())];
    assert_eq!(found(&house, &by_service).await.with(200), json!({ "conversationId": null }));

    let opened = house.post(&ada, "/api/conversations", of_chat(&ada.org)).await.with(201);
    let id = opened["id"].as_str().unwrap().to_owned();
    let answer = found(&house, &by_service).await.with(200);
    assert_eq!((&answer["conversationId"], &answer["conversation"]["name"]), (&json!(id), &json!("Chat")));
    let second = house.post(&ada, "/api/conversations", of_chat(&ada.org)).await;
    assert_eq!(second.refused(), (409, "CHANNEL_LINKED"));
    assert_eq!(house.get(&ada, "/api/conversations").await.with(200).as_array().unwrap().len(), 1, "it was not opened");

    // A name in a header proves nothing, nor does a token for somebody else or a person's.
    assert_eq!(found(&house, &[("x-service-id", "integrations")]).await.status, 401);
    let elsewhere = token(&house, Service::Identity);
    assert_eq!(found(&house, &[("x-service-auth", elsewhere.as_str())]).await.status, 401);
    let path = format!("/api/internal/conversations/by-channel?{CHAT}");
    assert_eq!(house.get(&ada, &path).await.refused(), (403, "SERVICE_PRINCIPAL_REQUIRED"));
    let short = house.ask(&ada, "GET", "/api/internal/conversations/by-channel?chatId=42", &by_service, None).await;
    assert_eq!(short.status, 400);

    // What is deleted holds no chat.
    house.ask(&ada, "DELETE", &format!("/api/conversations/{id}"), &[], None).await.with(204);
    assert_eq!(found(&house, &by_service).await.with(200)["conversationId"], Value::Null);
    let next = house.post(&ada, "/api/conversations", of_chat(&ada.org)).await.with(201);
    assert_eq!(found(&house, &by_service).await.with(200)["conversationId"], next["id"]);
    house.read_models_are_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chats_are_linked_by_admins_of_the_organization_and_seen_by_who_takes_part() {
    let house = House::open().await;
    let (ada, eve) = (house.register("ada").await, house.register("eve").await);
    let grace = house.colleague(&ada, "grace").await;
    let id = house.talk(&ada, &[&grace.id]).await;
    let path = format!("/api/conversations/{id}/channels");
    let chat = json!({ "channelType": "telegram", "connectionId": "k1", "chatId": "42" });
    assert_eq!(house.post(&grace, &path, chat.clone()).await.refused(), (403, "FORBIDDEN"));
    assert_eq!(house.post(&eve, &path, chat.clone()).await.refused(), (404, "CONVERSATION_NOT_FOUND"));
    let nameless = json!({ "channelType": "telegram", "connectionId": "k1", "chatId": "" });
    assert_eq!(house.post(&ada, &path, nameless).await.refused(), (400, "VALIDATION_FAILED"));
    let link = house.post(&ada, &path, chat.clone()).await.with(201);
    assert_eq!((&link["conversation_id"], &link["linked_by"]), (&json!(id), &json!(ada.id)));
    assert_eq!(house.post(&ada, &path, chat.clone()).await.with(201), link, "linked twice is linked once");
    assert_eq!(house.get(&grace, &path).await.with(200)["channels"], json!([link]));
    assert_eq!(house.get(&eve, &path).await.refused(), (404, "CONVERSATION_NOT_FOUND"));

    let other = house.talk(&ada, &[]).await;
    let elsewhere = format!("/api/conversations/{other}/channels");
    assert_eq!(house.post(&ada, &elsewhere, chat.clone()).await.refused(), (409, "CHANNEL_LINKED"));
    // The same chat in another organization is another chat.
    let of_eve = house.talk(&eve, &[]).await;
    house.post(&eve, &format!("/api/conversations/{of_eve}/channels"), chat.clone()).await.with(201);
    let service = token(&house, Service::Messaging);
    let by_service = [("x-service-auth", service.as_str())];
    assert_eq!(found(&house, &by_service).await.refused(), (400, "VALIDATION_FAILED"), "whose is not told");
    let named = [by_service[0], ("x-org-id", ada.org.as_str())];
    assert_eq!(found(&house, &named).await.with(200)["conversationId"], id.as_str());

    let one = format!("{path}/{}", link["id"].as_str().unwrap());
    assert_eq!(house.ask(&grace, "DELETE", &one, &[], None).await.refused(), (403, "FORBIDDEN"));
    assert_eq!(house.ask(&eve, "DELETE", &one, &[], None).await.refused(), (404, "CONVERSATION_NOT_FOUND"));
    house.ask(&ada, "DELETE", &one, &[], None).await.with(204);
    house.post(&ada, &elsewhere, chat).await.with(201);
}
