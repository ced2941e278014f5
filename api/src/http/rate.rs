//! Rate limits per route class (platform.md §15): token buckets keyed by principal, API key or client address.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use axum::http::{HeaderMap, HeaderValue, Method, header, request::Parts};
use symbia_events::Service;

use super::{auth, error::ApiError, request::RequestScope};

/// What a route costs, by the harm that a flood of it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteClass {
    /// Log-in, registration, recovery: per client address.
    Auth,
    /// Administration: per principal.
    Admin,
    /// Introspection and key verification by services: per principal.
    Verify,
    /// Uploads: per principal.
    Upload,
    /// Everything else: per principal, or per address when anonymous.
    Standard,
    /// Not limited (health).
    Exempt,
}

/// A bucket of `burst` tokens that fills again within `per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Size of the bucket.
    pub burst: u32,
    /// Time in which an empty bucket becomes full.
    pub per: Duration,
}

impl Quota {
    /// So many requests a minute.
    #[must_use]
    pub const fn per_minute(burst: u32) -> Self {
        Self { burst, per: Duration::from_secs(60) }
    }
}

/// The quota of each class.
#[derive(Clone, Copy, Debug)]
pub struct RatePolicy {
    /// [`RouteClass::Auth`], per address, and once more per account.
    pub auth: Quota,
    /// [`RouteClass::Admin`].
    pub admin: Quota,
    /// [`RouteClass::Verify`].
    pub verify: Quota,
    /// [`RouteClass::Upload`].
    pub upload: Quota,
    /// [`RouteClass::Standard`].
    pub standard: Quota,
    /// Messages of one principal in one conversation, over REST and sockets together (messaging.md §8.16).
    pub messages: Quota,
}

impl Default for RatePolicy {
    fn default() -> Self {
        Self {
            auth: Quota::per_minute(10),
            admin: Quota::per_minute(30),
            verify: Quota::per_minute(600),
            upload: Quota::per_minute(10),
            standard: Quota::per_minute(600),
            messages: Quota { burst: 20, per: Duration::from_secs(4) },
        }
    }
}

impl RatePolicy {
    fn quota(&self, class: RouteClass) -> Option<Quota> {
        match class {
            RouteClass::Auth => Some(self.auth),
            RouteClass::Admin => Some(self.admin),
            RouteClass::Verify => Some(self.verify),
            RouteClass::Upload => Some(self.upload),
            RouteClass::Standard => Some(self.standard),
            RouteClass::Exempt => None,
        }
    }
}

/// The state of a bucket after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether there was a token.
    pub allowed: bool,
    /// Size of the bucket.
    pub limit: u32,
    /// Tokens left.
    pub remaining: u32,
    /// When refused, until there is a token again; else until the bucket is full.
    pub reset: Duration,
}

impl Decision {
    fn reset_seconds(self) -> u32 {
        u32::try_from(self.reset.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(u32::from(!self.allowed))
    }

    /// Sets the `RateLimit-*` and `X-RateLimit-*` triples; `X-RateLimit-Reset` is in epoch seconds, as the original's was.
    pub(super) fn write(self, headers: &mut HeaderMap) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let reset = u64::from(self.reset_seconds());
        for (name, value) in [
            ("ratelimit-limit", u64::from(self.limit)),
            ("ratelimit-remaining", u64::from(self.remaining)),
            ("ratelimit-reset", reset),
            ("x-ratelimit-limit", u64::from(self.limit)),
            ("x-ratelimit-remaining", u64::from(self.remaining)),
            ("x-ratelimit-reset", now + reset),
        ] {
            headers.insert(name, HeaderValue::from(value));
        }
        if !self.allowed {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(reset));
        }
    }
}

/// Where the buckets are kept.
#[async_trait]
pub trait RateLimiter: Send + Sync + 'static {
    /// Takes one token from the bucket `key`, which is full when it is new.
    async fn take(&self, key: &str, quota: Quota) -> Decision;
}

/// Buckets in the memory of this process, bounded in number.
pub struct TokenBuckets(moka::sync::Cache<String, Arc<Mutex<Bucket>>>);

const BUCKETS_MAX: u64 = 100_000;
/// A bucket that nobody touched for this long is full again under every quota we use.
const BUCKET_IDLE: Duration = Duration::from_secs(300);

impl Default for TokenBuckets {
    fn default() -> Self {
        Self(moka::sync::Cache::builder().max_capacity(BUCKETS_MAX).time_to_idle(BUCKET_IDLE).build())
    }
}

#[async_trait]
impl RateLimiter for TokenBuckets {
    async fn take(&self, key: &str, quota: Quota) -> Decision {
        let now = Instant::now();
        let bucket = self.0.get_with_by_ref(key, || Arc::new(Mutex::new(Bucket::full(quota, now))));
        bucket.lock().unwrap_or_else(PoisonError::into_inner).take(quota, now)
    }
}

struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn full(quota: Quota, now: Instant) -> Self {
        Self { tokens: f64::from(quota.burst), at: now }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "tokens are within 0..=burst, a u32")]
    fn take(&mut self, quota: Quota, now: Instant) -> Decision {
        let burst = f64::from(quota.burst);
        let rate = burst / quota.per.as_secs_f64();
        self.tokens = (self.tokens + now.saturating_duration_since(self.at).as_secs_f64() * rate).min(burst);
        self.at = now;
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        let missing = if allowed { burst - self.tokens } else { 1.0 - self.tokens };
        Decision {
            allowed,
            limit: quota.burst,
            remaining: self.tokens as u32,
            reset: Duration::try_from_secs_f64(missing / rate).unwrap_or(quota.per),
        }
    }
}

/// Tells a route's class from its method and template (`/api/users/{id}`).
pub type Classify = fn(&Method, &str) -> RouteClass;

/// The limits of one service; cheap to clone, and in the extensions of each request.
#[derive(Clone)]
pub struct RateLimits {
    service: Service,
    limiter: Arc<dyn RateLimiter>,
    policy: RatePolicy,
    classify: Classify,
}

impl RateLimits {
    /// Limits kept in `limiter`.
    pub fn new(service: Service, limiter: Arc<dyn RateLimiter>, policy: RatePolicy, classify: Classify) -> Self {
        Self { service, limiter, policy, classify }
    }

    /// Counts an attempt at an account (log-in, recovery), which its address alone does not bound. For handlers of the
    /// class [`RouteClass::Auth`].
    ///
    /// # Errors
    /// 429 RATE_LIMIT_EXCEEDED.
    pub async fn attempt(&self, account: &str) -> Result<(), ApiError> {
        let key = format!("{}:auth:account:{}", self.service, account.trim().to_lowercase());
        let decision = self.limiter.take(&key, self.policy.auth).await;
        if decision.allowed { Ok(()) } else { Err(ApiError::rate_limited(decision.reset_seconds())) }
    }

    /// Counts a request; `None` when its route is not limited.
    pub(super) async fn admit(&self, parts: &mut Parts, scope: &RequestScope, route: &str) -> Option<Decision> {
        let class = (self.classify)(&parts.method, route);
        let quota = self.policy.quota(class)?;
        // A log-in is not authenticated first, and whoever fails to authenticate is counted by address.
        let principal = if class == RouteClass::Auth { None } else { auth::resolve(parts).await.ok().flatten() };
        let who = match principal {
            Some(p) => match &p.key_id {
                Some(key) => format!("key:{key}"),
                None => format!("principal:{}", p.id),
            },
            None => format!("ip:{}", scope.client_ip),
        };
        Some(self.limiter.take(&format!("{}:{class:?}:{who}", self.service), quota).await)
    }
}

/// The refusal that goes with a decision.
pub(crate) fn refusal(decision: Decision) -> ApiError {
    ApiError::rate_limited(decision.reset_seconds())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Bucket, Quota};

    #[test]
    fn a_bucket_gives_its_burst_and_then_one_token_per_interval() {
        let quota = Quota::per_minute(10);
        let start = Instant::now();
        let mut bucket = Bucket::full(quota, start);
        for left in (0..10).rev() {
            let decision = bucket.take(quota, start);
            assert!(decision.allowed);
            assert_eq!(decision.remaining, left);
        }
        let refused = bucket.take(quota, start);
        assert!(!refused.allowed);
        assert_eq!(refused.reset_seconds(), 6);
        assert!(!bucket.take(quota, start + Duration::from_millis(5900)).allowed);
        assert!(bucket.take(quota, start + Duration::from_millis(6100)).allowed);
        assert_eq!(bucket.take(quota, start + Duration::from_secs(3600)).remaining, 9);
    }
}
