//! What was revoked is refused by every service within a second.

use std::time::{Duration, Instant};

use anyhow::ensure;
use futures::future::try_join_all;
use reqwest::{Method, StatusCode};
use serde_json::json;
use symbia_events::Service;

use super::stage::{Asked, CREDENTIAL, House, Tested, string};

/// A second, and another for a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(2);
/// Every service has it, and it is nobody's without a credential.
const DOOR: &str = "/events";

impl House {
    async fn at_every_door(&self, credential: (&str, &str)) -> anyhow::Result<Vec<StatusCode>> {
        let at = |service| async move {
            anyhow::Ok(self.send(service, Asked::get(DOOR, "").with(&[credential])).await?.status())
        };
        try_join_all(Service::ALL.map(at)).await
    }

    async fn opens(&self, what: &str, credential: (&str, &str)) -> Tested {
        let answers = self.at_every_door(credential).await?;
        ensure!(answers.iter().all(|status| status.is_success()), "{what}: {answers:?}");
        Ok(())
    }

    async fn is_refused(&self, what: &str, credential: (&str, &str)) -> Tested {
        let revoked = Instant::now();
        loop {
            let answers = self.at_every_door(credential).await?;
            if answers.iter().all(|status| *status == StatusCode::UNAUTHORIZED) {
                return Ok(());
            }
            ensure!(revoked.elapsed() < SOON, "{what} still opens: {answers:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_session_key_agent_or_delegation_opens_no_service() -> Tested {
    let house = House::open()?;
    let ada = house.ada().await?;
    let post =
        async |path: &str, token: &str, body| house.done(Service::Identity, Asked::post(path, token, body)).await;
    let login = json!({ "agentId": "agent:marked", "credential": CREDENTIAL });
    let agents_own = string(&post("/api/auth/agent/login", "", login).await?["token"])?;
    let agents = house.done(Service::Identity, Asked::get("/api/agents", &ada.token)).await?;
    let agent_id = string(&agents["agents"][0]["id"])?;
    let key = post("/api/api-keys", &ada.token, json!({ "name": "door", "orgId": ada.org })).await?;
    let scopes: Vec<String> = Service::ALL.iter().map(|service| format!("cap:{}.read", domain(*service))).collect();
    let delegation = json!({ "agentId": "agent:marked", "scopes": scopes });
    let delegation = string(&post("/api/delegations", &ada.token, delegation).await?["id"])?;
    let exchange = json!({
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": delegation,
        "subject_token_type": "urn:symbia:params:oauth:token-type:delegation",
        "actor_token": agents_own,
        "actor_token_type": "urn:ietf:params:oauth:token-type:access_token",
    });
    let delegated = string(&post("/api/oauth/token", "", exchange).await?["access_token"])?;
    let session = house.login("ada@example.test").await?;

    let bearer = |token: &str| format!("Bearer {token}");
    let key_text = string(&key["key"])?;
    let revoke_key = format!("/api/api-keys/{}/revoke", string(&key["id"])?);
    let end_delegation = Asked { method: Method::DELETE, ..Asked::get("", &ada.token) };
    let delegations = format!("/api/delegations/{delegation}");
    let deactivate = format!("/api/agents/{agent_id}/deactivate");
    let ends = [
        ("a session", "authorization", bearer(&session), Asked::post("/api/auth/logout", &session, json!({}))),
        ("a key", "x-api-key", key_text, Asked::post(&revoke_key, &ada.token, json!({}))),
        ("a delegation", "authorization", bearer(&delegated), Asked { path: &delegations, ..end_delegation }),
        ("an agent", "authorization", bearer(&agents_own), Asked::post(&deactivate, &ada.token, json!({}))),
    ];
    for (what, header, credential, end) in ends {
        let credential = (header, credential.as_str());
        house.opens(what, credential).await?;
        house.done(Service::Identity, end).await?;
        house.is_refused(what, credential).await?;
    }
    house.opens("nobody else's", ("authorization", &bearer(&ada.token))).await
}

/// What the capabilities of a service begin with.
fn domain(service: Service) -> &'static str {
    if service == Service::Logging { "telemetry" } else { service.name() }
}
