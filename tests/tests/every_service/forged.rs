//! Headers that claim something: nobody becomes anybody else by them, and asking for another's organization is recorded.

use anyhow::ensure;
use reqwest::StatusCode;
use symbia_events::Service;
use symbia_tests::binary::until;

use super::stage::{Asked, House, MARK, Tested};

#[tokio::test(flavor = "multi_thread")]
async fn forged_headers_change_nothing_on_any_service() -> Tested {
    let house = House::open()?;
    let (ada, eve) = (house.ada().await?, house.register("eve", "stranger").await?);
    let claims = [
        ("x-service-id", "integrations"),
        ("x-service-auth", "internal"),
        ("x-as-user-id", ada.id.as_str()),
        ("x-user-id", ada.id.as_str()),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-symbia-caller", "identity"),
        ("x-symbia-origin", "internal"),
    ];
    let named = [&claims[..], &[("x-org-id", ada.org.as_str())]].concat();
    let mut refused = 0;
    for service in Service::ALL {
        for (path, public) in house.lists(service).await? {
            let (plain, _) = house.ask(service, Asked::get(&path, &eve.token)).await?;
            let (status, text) = house.ask(service, Asked::get(&path, &eve.token).with(&claims)).await?;
            // Where services are asked to prove themselves, a forged proof is refused as one.
            let same = status == plain || (plain, status) == (StatusCode::FORBIDDEN, StatusCode::UNAUTHORIZED);
            ensure!(same && !text.contains(MARK), "{service} {path}: {plain}, then {status} {text:.300}");
            let (status, text) = house.ask(service, Asked::get(&path, &eve.token).with(&named)).await?;
            ensure!(!text.contains(MARK), "{service} {path}: {status} {text:.300}");
            refused += usize::from(status == StatusCode::FORBIDDEN && text.contains("ORG_ACCESS_DENIED"));
            let (status, text) = house.ask(service, Asked::get(&path, "").with(&named)).await?;
            ensure!(public || status == StatusCode::UNAUTHORIZED, "{service} {path}: nobody got {status} {text:.300}");
        }
    }
    ensure!(refused > 5, "her organization was asked for {refused} times only");
    let trail = format!("/api/orgs/{}/audit-logs", ada.org);
    until("the attempts are in the trail of her organization", || async {
        let told = house.done(Service::Identity, Asked::get(&trail, &ada.token)).await?.to_string();
        Ok(told.contains(&eve.id) && told.contains("ORG_ACCESS_DENIED"))
    })
    .await
}
