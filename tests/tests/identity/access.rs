//! What was refused is in the audit trail of those whom it was about, and nobody fills the log with it.

use std::time::Duration;

use serde_json::{Value, json};
use symbia_commands::{
    CommandEnvelope, OutcomeStatus,
    identity::{OrganizationCommand, RenameOrganization},
};
use symbia_events::{AggregateRef, CommandId, Service};
use time::OffsetDateTime;

use super::stage::{House, eventually};

async fn denials(house: &House, org: &str, token: &str) -> Vec<Value> {
    let trail = house.get(&format!("/api/orgs/{org}/audit-logs?action=access.denied"), token).await.ok();
    trail.as_array().unwrap_or_else(|| panic!("no list: {trail}")).clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_tries_doors_is_noted_once_and_counted() {
    let house = House::open().await;
    let (ada, eve) = (house.register("ada").await, house.register("eve").await);
    let org = format!("/api/orgs/{}", ada.org);
    for _ in 0..30 {
        assert_eq!(house.get(&org, &eve.token).await.refused(), (403, "ORG_ACCESS_DENIED"));
    }
    let first = eventually("the denial is in the trail", || async {
        denials(&house, &ada.org, &ada.token).await.first().cloned()
    })
    .await;
    let text = first.to_string();
    assert!(
        text.contains(&eve.id) && text.contains("GET /api/orgs/{id}") && text.contains("ORG_ACCESS_DENIED"),
        "{text}"
    );

    // The same over NATS: the worker refuses, and notes it with what is still to be told of her.
    let address = AggregateRef::new(Service::Identity, ada.org.parse().unwrap(), "organization", &ada.org).unwrap();
    let command = OrganizationCommand::from(RenameOrganization { org_id: ada.org.clone(), name: "Eve's".to_owned() });
    let asserted = house.call("POST", "/api/auth/assertion", &eve.token, json!({})).await.ok();
    let (actor, now) = (symbia_commands::Actor::service("nobody"), OffsetDateTime::now_utc());
    let mut envelope = CommandEnvelope::new(&house.keys, &address, &command, &actor, CommandId::random(), now).unwrap();
    envelope.actorassertion = asserted["assertion"].as_str().map(str::to_owned);
    let outcome = house.platform.bus.send(&address, &envelope, Duration::from_secs(20)).await.unwrap();
    assert_eq!(outcome.status, OutcomeStatus::Rejected);
    let noted = eventually("the refused command is in the trail", || async {
        let found = denials(&house, &ada.org, &ada.token).await;
        found.iter().any(|entry| entry.to_string().contains("rename-organization")).then_some(found)
    })
    .await;
    // Two processes' worth of notes for 31 refusals: this service's, and the worker's.
    assert_eq!(noted.len(), 2, "{noted:?}");
    assert_eq!(denials(&house, &eve.org, &eve.token).await, Vec::<Value>::new());
}
