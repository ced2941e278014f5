//! Settings and roles of a conversation, and joining it.

use serde_json::json;

use super::stage::House;

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_changed_by_those_who_lead_and_a_group_keeps_its_name() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let grace = house.colleague(&ada, "grace").await;
    let id = house.talk(&ada, &[&grace.id, "assistant:coordinator"]).await;
    let path = format!("/api/conversations/{id}");
    let mut events = house.follow(&grace, &id, "latest").await;
    let new = json!({ "name": "Plans", "description": "of ours", "metadata": { "topic": 1 } });
    let changed = house.ask(&ada, "PATCH", &path, &[], Some(new)).await.with(200);
    assert_eq!((&changed["name"], &changed["metadata"]), (&json!("Plans"), &json!({ "topic": 1 })));
    let told = events.until(|e| e.name == "conversation:updated").await;
    assert_eq!(told.last().unwrap().data["name"], "Plans");
    let cleared =
        house.ask(&ada, "PATCH", &path, &[], Some(json!({ "description": "", "metadata": {} }))).await.with(200);
    assert_eq!((&cleared["name"], &cleared["description"]), (&json!("Plans"), &json!(null)));
    assert_eq!(cleared["metadata"], json!({}));
    assert_eq!(house.ask(&ada, "PATCH", &path, &[], Some(json!({}))).await.with(200), cleared);
    let deep = (0..40).fold(json!(1), |inner, _| json!({ "a": inner }));
    for (who, body, refused) in [
        (&ada, json!({ "name": " " }), (400, "VALIDATION_FAILED")),
        (&ada, json!({ "name": "x".repeat(256) }), (400, "VALIDATION_FAILED")),
        (&ada, json!({ "metadata": [] }), (400, "VALIDATION_FAILED")),
        (&ada, json!({ "metadata": { "x": "x".repeat(33_000) } }), (413, "TOO_LARGE")),
        (&ada, json!({ "metadata": { "deep": deep } }), (400, "VALIDATION_FAILED")),
        (&grace, json!({ "name": "Mine" }), (403, "INSUFFICIENT_ROLE")),
    ] {
        assert_eq!(house.ask(who, "PATCH", &path, &[], Some(body)).await.refused(), refused);
    }
    assert_eq!(house.get(&ada, &path).await.with(200)["name"], "Plans");
    house.read_models_are_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_given_ownership_passes_on_and_a_group_is_open_to_its_organization() {
    let house = House::open().await;
    let (ada, eve) = (house.register("ada").await, house.register("eve").await);
    let (grace, joan) = (house.colleague(&ada, "grace").await, house.colleague(&ada, "joan").await);
    let id = house.talk(&ada, &[&grace.id, "assistant:coordinator"]).await;
    let at = |rest: &str| format!("/api/conversations/{id}{rest}");
    let joined = house.ask(&joan, "POST", &at("/join"), &[], None).await.with(201);
    assert_eq!((&joined["user_id"], &joined["role"]), (&json!(joan.id), &json!("member")));
    assert_eq!(house.ask(&joan, "POST", &at("/join"), &[], None).await.with(201), joined);
    let owner = house.ask(&ada, "POST", &at("/join"), &[], None).await.with(201);
    assert_eq!(owner["role"], "owner", "an owner who joins stays one");
    let private = house.talk(&ada, &[]).await;
    let refused = house.ask(&joan, "POST", &format!("/api/conversations/{private}/join"), &[], None).await;
    assert_eq!(refused.refused(), (400, "PRIVATE_CONVERSATION"));
    let foreign = house.post(&ada, &at("/participants"), json!({ "userId": eve.id })).await;
    assert_eq!(foreign.refused(), (400, "VALIDATION_FAILED"), "people of other organizations are not let in");

    let role = |who, of: &str, role: &str| {
        let (path, body) = (at(&format!("/participants/{of}")), json!({ "role": role }));
        let house = &house;
        async move { house.ask(who, "PATCH", &path, &[], Some(body)).await }
    };
    assert_eq!(role(&grace, &joan.id, "admin").await.refused(), (403, "INSUFFICIENT_ROLE"));
    assert_eq!(role(&ada, &joan.id, "king").await.refused(), (400, "VALIDATION_FAILED"));
    assert_eq!(role(&ada, &ada.id, "member").await.refused(), (400, "OWNER_MUST_TRANSFER"));
    assert_eq!(role(&ada, &grace.id, "admin").await.with(200)["role"], "admin");
    house.ask(&grace, "DELETE", &at(&format!("/participants/{}", joan.id)), &[], None).await.with(204);

    let transfer = |to: &str| json!({ "userId": to });
    assert_eq!(house.post(&grace, &at("/transfer"), transfer(&grace.id)).await.refused(), (403, "INSUFFICIENT_ROLE"));
    assert_eq!(house.post(&ada, &at("/transfer"), transfer(&joan.id)).await.refused(), (404, "NOT_FOUND"));
    assert_eq!(house.post(&ada, &at("/transfer"), transfer(&grace.id)).await.with(200)["role"], "owner");
    house.ask(&ada, "POST", &at("/leave"), &[], None).await.with(204);
    let left = house.ask(&grace, "POST", &at("/leave"), &[], None).await;
    assert_eq!(left.refused(), (400, "OWNER_MUST_TRANSFER"));
    house.read_models_are_what_the_log_says().await;
}
