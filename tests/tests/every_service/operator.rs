//! An operator in an organization that is not theirs is as anybody else, until they say why; that is recorded.

use std::collections::BTreeSet;

use anyhow::ensure;
use reqwest::StatusCode;
use symbia_events::Service;
use symbia_tests::binary::until;

use super::stage::{Asked, House, MARK, Tested};

const WHY: (&str, &str) = ("x-access-reason", "ticket 4711");

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_says_why_or_is_anybody_on_every_service() -> Tested {
    let house = House::open()?;
    let (root, ada) = (house.login("root@example.test").await?, house.ada().await?);
    let there = ("x-org-id", ada.org.as_str());
    let seen = house.done(Service::Identity, Asked::get("/api/agents", &root).with(&[there, WHY])).await?;
    ensure!(seen.to_string().contains(MARK), "{seen}");
    let trail = format!("/api/orgs/{}/audit-logs", ada.org);
    until("her organization sees who came, and why", || async {
        Ok(house.done(Service::Identity, Asked::get(&trail, &ada.token)).await?.to_string().contains(WHY.1))
    })
    .await?;

    let mut opened = BTreeSet::new();
    for service in Service::ALL {
        for (path, _) in house.lists(service).await? {
            let (status, text) = house.ask(service, Asked::get(&path, &root).with(&[there])).await?;
            ensure!(!text.contains(MARK), "{service} {path} without a reason: {status} {text:.300}");
            if status == StatusCode::FORBIDDEN && text.contains("ORG_ACCESS_DENIED") {
                // What is nobody else's, conversations above all, no reason opens.
                let asks = text.contains("X-Access-Reason");
                let (status, text) = house.ask(service, Asked::get(&path, &root).with(&[there, WHY])).await?;
                let denied = text.contains("ORG_ACCESS_DENIED");
                ensure!(denied != asks, "{service} {path} with a reason: {status} {text:.300}");
                if asks {
                    opened.insert(service);
                }
            }
        }
    }
    let demanding = [Service::Integrations, Service::Assistants, Service::Network];
    ensure!(opened.is_superset(&BTreeSet::from(demanding)), "only these ask why: {opened:?}");
    for service in Service::ALL {
        let path = format!("/events?tenant={}", ada.org);
        let refused = house.ask(service, Asked::get(&path, &root)).await?;
        ensure!(refused.0 == StatusCode::FORBIDDEN && refused.1.contains("X-Access-Reason"), "{service}: {refused:?}");
        // It goes on for ever: only its beginning is of interest.
        let followed = house.send(service, Asked::get(&path, &root).with(&[WHY])).await?;
        ensure!(followed.status().is_success(), "{service}: {}", followed.status());
    }
    Ok(())
}
