//! Rate limits hold across processes and restarts.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use symbia_api::http::{
    rate::{Quota, RateLimiter},
    shared_rate::SharedBuckets,
};

use symbia_projections::Scope;

use super::stage::{House, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_a_bucket_and_a_new_one_finds_it_as_it_was() {
    let house = House::open().await;
    let process = || Arc::new(SharedBuckets::new(house.platform.nats.clone()));
    // Slow enough that nothing is refilled while the test runs.
    let quota = Quota { burst: 10, per: Duration::from_secs(6000) };
    let (one, other) = (process(), process());
    let mut attempts = tokio::task::JoinSet::new();
    for n in 0..40 {
        let limits = if n % 2 == 0 { one.clone() } else { other.clone() };
        attempts.spawn(async move { limits.take("auth:ada@example.test", quota).await.allowed });
    }
    let allowed = attempts.join_all().await.into_iter().filter(|allowed| *allowed).count();
    assert_eq!(allowed, 10);
    let restarted = process();
    let refused = restarted.take("auth:ada@example.test", quota).await;
    assert!(!refused.allowed && refused.remaining == 0, "{refused:?}");
    assert!((500..=600).contains(&refused.reset.as_secs()), "{refused:?}");
    assert!(restarted.take("auth:eve@example.test", quota).await.allowed);
    // Large buckets go out in lots, and never beyond their size.
    let large = Quota { burst: 100, per: Duration::from_secs(6000) };
    let mut allowed = 0;
    for n in 0..300 {
        let limits = if n % 2 == 0 { &one } else { &other };
        allowed += u32::from(limits.take("verify:service", large).await.allowed);
    }
    assert_eq!(allowed, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_in_registration_and_reset_are_limited_by_address_and_told_so() {
    let house = House::with(|settings| settings.rates.auth = Quota { burst: 3, per: Duration::from_secs(3000) }).await;
    for (path, body) in [
        ("/api/auth/login", json!({ "email": "nobody@example.test", "password": "x" })),
        ("/api/auth/register", json!({})),
        ("/api/auth/forgot-password", json!({ "email": "nobody@example.test" })),
        ("/api/auth/reset-password", json!({})),
    ] {
        // Each from an address of its own: they share one bucket.
        let from = [("x-forwarded-for", format!("192.0.2.{}", path.len()))];
        let from = from.each_ref().map(|(name, value)| (*name, value.as_str()));
        let mut last = None;
        for _ in 0..4 {
            last = Some(house.send("POST", path, &from, Some(body.clone())).await);
        }
        let refused = last.unwrap();
        assert_eq!(refused.refused(), (429, "RATE_LIMIT_EXCEEDED"), "{path}");
        for header in ["retry-after", "ratelimit-limit", "x-ratelimit-remaining"] {
            assert!(refused.headers.contains_key(header), "{path} {header}");
        }
    }
    // Whom nobody knows is on record all the same: what was flooded, and a digest of from where, not each request.
    let read =
        "SELECT details::text FROM identity.audit_trail WHERE aggregate_type = 'access' AND aggregate_id = 'anonymous'";
    let noted = eventually("the flood is on record", async || {
        let mut tx = house.platform.read(&Scope::platform()).await.unwrap();
        let noted: Vec<String> = sqlx::query_scalar(read).fetch_all(&mut *tx).await.unwrap();
        (!noted.is_empty()).then_some(noted)
    })
    .await;
    assert!(noted.iter().all(|note| note.contains("/api/auth/") && !note.contains("192.0.2.")), "{noted:?}");
    assert!(noted.len() <= 4, "{noted:?}");
}
