//! Inviting people who have no account yet.

use serde_json::{Value, json};

use super::{passwords::Outbox, stage::House};

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_comes_by_mail_and_its_link_joins() {
    let (house, outbox) = Outbox::house().await;
    let ada = house.register("ada").await;
    let path = format!("/api/orgs/{}/invitations", ada.org);
    let invited = json!({ "email": "bob@example.test", "role": "viewer" });
    let answered = house.call("POST", &path, &ada.token, invited).await.ok();
    let (to, subject) = ("bob@example.test", "You are invited to an organization");
    assert!(outbox.text(to, subject, 1).await.contains("\"ada org\""));
    let token = outbox.token(to, subject, 1).await;
    assert_eq!(answered["token"], json!(token));
    let bob = house.register("bob").await;
    house.call("POST", &format!("/api/invitations/{token}/accept"), &bob.token, json!({})).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invited_person_registers_and_joins_once() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let path = format!("/api/orgs/{}/invitations", ada.org);
    let unknown = json!({ "email": "bob@example.test", "role": "member" });
    let first = house.call("POST", &path, &ada.token, unknown.clone()).await.ok();
    let invited = house.call("POST", &path, &ada.token, unknown).await.ok();
    assert_eq!(
        (&invited["email"], &invited["role"], &invited["expired"]),
        (&json!("bob@example.test"), &json!("member"), &json!(false))
    );
    let pending = house.get(&path, &ada.token).await.ok();
    assert_eq!(pending["invitations"].as_array().unwrap().len(), 1, "the second replaced the first");
    assert!(pending["invitations"][0].get("token").is_none());

    let (bob, eve) = (house.register("bob").await, house.register("eve").await);
    let accept = |invitation: &Value| format!("/api/invitations/{}/accept", invitation["token"].as_str().unwrap());
    assert_eq!(house.call("POST", &accept(&first), &bob.token, json!({})).await.refused(), (404, "NOT_FOUND"));
    assert_eq!(house.call("POST", &accept(&invited), &eve.token, json!({})).await.refused(), (403, "FORBIDDEN"));
    let joined = house.call("POST", &accept(&invited), &bob.token, json!({})).await.ok();
    assert_eq!((&joined["userId"], &joined["role"]), (&json!(bob.id), &json!("member")));
    assert_eq!(house.call("POST", &accept(&invited), &bob.token, json!({})).await.refused(), (404, "NOT_FOUND"));
    assert_eq!(house.get("/api/orgs", &bob.token).await.ok()["organizations"].as_array().unwrap().len(), 2);
    assert_eq!(house.get(&path, &bob.token).await.refused(), (403, "INSUFFICIENT_ROLE"));

    let withdrawn = house.call("POST", &path, &ada.token, json!({ "email": eve.email, "role": "viewer" })).await.ok();
    let one = format!("{path}/{}", withdrawn["id"].as_str().unwrap());
    house.call("DELETE", &one, &ada.token, json!({})).await.ok();
    assert_eq!(house.call("DELETE", &one, &ada.token, json!({})).await.refused(), (404, "NOT_FOUND"));
    assert_eq!(house.call("POST", &accept(&withdrawn), &eve.token, json!({})).await.refused(), (404, "NOT_FOUND"));
    // The addresses of invitations that are over cannot be read any more.
    let open: i64 =
        sqlx::query_scalar("SELECT count(*) FROM vault.secrets WHERE ref LIKE 'invitation:%' AND destroyed IS NULL")
            .fetch_one(&house.pool)
            .await
            .unwrap();
    assert_eq!(open, 0);
    house.call("DELETE", &format!("/api/orgs/{}/members/me", ada.org), &bob.token, json!({})).await.ok();
    assert_eq!(house.get(&format!("/api/orgs/{}", ada.org), &bob.token).await.refused(), (403, "ORG_ACCESS_DENIED"));
    house.read_models_are_what_the_log_says().await;
}
