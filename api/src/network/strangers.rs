//! Credentials at the mesh's sockets that are nobody's. What such a credential says of itself is not to be believed; it is good
//! for one thing, to count the failure as an agent's or a service's, where one of that name is known at all (network.md §10).

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use moka::sync::Cache;
use serde::Deserialize;
use symbia_events::{Service, check_token};
use symbia_projections::{Scope, identity as model};
use tokio::sync::Semaphore;

use super::metrics;
use crate::platform::Platform;

/// Longest token whose claims are looked at.
const LONGEST: usize = 16 * 1024;
/// Agents that are looked up at a time: whoever makes names up must not keep the database busy.
const AT_ONCE: usize = 2;
/// For so long it is known whether there is such an agent, and nothing more is told of its failures.
const KNOWN_FOR: Duration = Duration::from_secs(60);
const MOST_KNOWN: u64 = 10_000;

/// What a token says of whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Claim {
    Agent(String),
    Service(Service),
}

#[derive(Deserialize)]
struct Claims {
    #[serde(rename = "type")]
    kind: Option<String>,
    sub: Option<String>,
    iss: Option<String>,
}

/// Counts them. Cheap to clone.
#[derive(Clone)]
pub(super) struct Strangers {
    platform: Platform,
    looks: Arc<Semaphore>,
    agents: Cache<String, bool>,
    told: Cache<String, ()>,
}

impl Strangers {
    /// Over the agents that the platform knows.
    pub fn new(platform: Platform) -> Self {
        let agents = Cache::builder().max_capacity(MOST_KNOWN).time_to_live(KNOWN_FOR).build();
        let told = Cache::builder().max_capacity(MOST_KNOWN).time_to_live(KNOWN_FOR).build();
        Strangers { platform, looks: Arc::new(Semaphore::new(AT_ONCE)), agents, told }
    }

    /// Counts one; does not wait.
    pub fn note(&self, token: Option<&str>) {
        match token.and_then(claim) {
            Some(Claim::Service(service)) => self.tell(service.name()),
            Some(Claim::Agent(id)) => {
                let strangers = self.clone();
                tokio::spawn(async move {
                    match strangers.is_known(&id).await {
                        true => strangers.tell(&id),
                        false => metrics::unknown(),
                    }
                });
            }
            None => metrics::unknown(),
        }
    }

    // Where too many ask at once, nobody is known.
    async fn is_known(&self, id: &str) -> bool {
        if let Some(known) = self.agents.get(id) {
            return known;
        }
        let Ok(_place) = self.looks.try_acquire() else { return false };
        let found = async {
            let mut tx = self.platform.read(&Scope::platform()).await.ok()?;
            Some(model::agent(&mut tx, id).await.ok()?.is_some())
        };
        let Some(known) = found.await else { return false };
        self.agents.insert(id.to_owned(), known);
        known
    }

    // Each is counted; of one name a line a minute is told.
    fn tell(&self, who: &str) {
        let is_first = self.told.entry_by_ref(who).or_insert(()).is_fresh();
        metrics::unknown_agent(is_first.then_some(who));
    }
}

// Read, and not verified.
fn claim(token: &str) -> Option<Claim> {
    if token.len() > LONGEST {
        return None;
    }
    let claims: Claims = serde_json::from_slice(&BASE64URL.decode(token.split('.').nth(1)?).ok()?).ok()?;
    if let Some(service) = claims.iss.and_then(|iss| iss.parse().ok()) {
        return Some(Claim::Service(service));
    }
    let id = claims.sub.filter(|id| claims.kind.as_deref() == Some("agent") && check_token(id).is_ok())?;
    Some(Claim::Agent(id))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_a_token_says_of_itself_is_read_and_anything_else_says_nothing() {
        let token = |claims: Value| format!("x.{}.forged", BASE64URL.encode(claims.to_string()));
        assert_eq!(claim(&token(json!({ "type": "agent", "sub": "a1" }))), Some(Claim::Agent("a1".to_owned())));
        let service = json!({ "iss": "messaging", "aud": "network", "iat": 1, "exp": 2 });
        assert_eq!(claim(&token(service)), Some(Claim::Service(Service::Messaging)));
        for nothing in [
            token(json!({ "type": "user", "sub": "ada", "iss": "https://symbia.test" })),
            token(json!({ "type": "agent", "sub": "a.b>" })),
            token(json!({ "type": "agent" })),
            token(json!({ "type": "agent", "sub": "x".repeat(LONGEST) })),
            "x.!.y".to_owned(),
            "sk-key".to_owned(),
            String::new(),
        ] {
            assert_eq!(claim(&nothing), None, "{nothing:.40}");
        }
    }
}
