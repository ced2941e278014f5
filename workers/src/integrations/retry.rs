//! What follows a failed attempt: the same target again, the next one, or the end (integrations.md §9). And targets that fail
//! again and again: they are left alone for a while (§17.2).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use moka::sync::Cache;
use symbia_events::integrations::{ErrorCategory, FallbackTrigger};
use tokio::time::Instant;

use super::provider::Fault;

/// How patient the router is with targets.
#[derive(Clone, Debug)]
pub struct RetryOptions {
    /// Tries of one target after the first.
    pub retries: u32,
    /// Pause before the first of them; each further one is twice as long.
    pub first_wait: Duration,
    /// Longest pause. A provider that wants a longer one is not asked again for this request.
    pub longest_wait: Duration,
    /// Failures in a row that open a target's circuit.
    pub failures: u32,
    /// How long it stays open.
    pub open_for: Duration,
}

impl Default for RetryOptions {
    fn default() -> Self {
        RetryOptions {
            retries: 2,
            first_wait: Duration::from_millis(250),
            longest_wait: Duration::from_secs(10),
            failures: 5,
            open_for: Duration::from_secs(30),
        }
    }
}

impl RetryOptions {
    /// The pause before the same target is asked again; none: it is not. `spoken`: readers have a part of the answer already,
    /// which cannot be taken back.
    pub(super) fn pause(&self, fault: &Fault, tries: u32, spoken: bool) -> Option<Duration> {
        if fault.lost {
            return Some(Duration::ZERO);
        }
        if !fault.category.is_retryable() || spoken || tries > self.retries {
            return None;
        }
        let wait = self.first_wait.saturating_mul(1 << (tries.saturating_sub(1)).min(10)).min(self.longest_wait);
        // Half of it is random, so that those who failed together do not come together.
        let wait = wait.mul_f64(rand::random_range(0.5..1.0));
        let wait = wait.max(fault.retry_after.unwrap_or_default());
        (wait <= self.longest_wait).then_some(wait)
    }
}

/// Whether another target may do better.
fn may_fall_back(fault: &Fault, spoken: bool) -> bool {
    let longer_context = fault.code.as_deref() == Some("context_length_exceeded");
    let hopeless =
        matches!(fault.category, ErrorCategory::Validation | ErrorCategory::ContentFilter | ErrorCategory::Internal);
    !spoken && (longer_context || !hopeless)
}

/// What went wrong, for who is asked only then.
pub(super) fn trigger(fault: &Fault) -> FallbackTrigger {
    match fault.category {
        _ if fault.code.as_deref() == Some("context_length_exceeded") => FallbackTrigger::ContextWindow,
        ErrorCategory::Timeout => FallbackTrigger::Timeout,
        ErrorCategory::RateLimit => FallbackTrigger::RateLimit,
        ErrorCategory::ContentFilter => FallbackTrigger::ContentFilter,
        ErrorCategory::Quota => FallbackTrigger::Budget,
        _ => FallbackTrigger::Error,
    }
}

/// Which of those that follow is asked after a fault; `after` is what must have gone wrong for each. `spoken`: readers have a
/// part of the answer already.
pub(super) fn next_of(
    mut after: impl Iterator<Item = Option<FallbackTrigger>>,
    fault: &Fault,
    spoken: bool,
) -> Option<usize> {
    let special = (!spoken).then(|| trigger(fault));
    after.position(|after| match after {
        None | Some(FallbackTrigger::Error) => may_fall_back(fault, spoken),
        Some(after) => Some(after) == special,
    })
}

/// Most circuits that are remembered.
const MOST: u64 = 10_000;

/// The circuits of all targets.
#[derive(Clone)]
pub(super) struct Circuits {
    options: RetryOptions,
    known: Cache<String, Arc<Mutex<Circuit>>>,
}

#[derive(Default)]
struct Circuit {
    failures: u32,
    opened: Option<Instant>,
    // Somebody tries whether it can be closed.
    probed: bool,
}

/// Leave to ask a target. Dropped without a word, it counts as neither success nor failure.
pub(super) struct Permit(Arc<Mutex<Circuit>>, RetryOptions);

impl Circuits {
    pub fn new(options: RetryOptions) -> Self {
        Circuits { options, known: Cache::builder().max_capacity(MOST).build() }
    }

    /// Leave to ask, or how long to leave the target alone.
    pub fn admit(&self, target: &str) -> Result<Permit, Duration> {
        let circuit = self.known.get_with_by_ref(target, Arc::default);
        let mut state = circuit.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = state.opened {
            let left = self.options.open_for.saturating_sub(opened.elapsed());
            if !left.is_zero() || state.probed {
                return Err(left.max(Duration::from_secs(1)));
            }
            state.probed = true;
        }
        drop(state);
        Ok(Permit(circuit, self.options.clone()))
    }

    /// Another process opened it.
    pub fn opened(&self, target: &str, failures: u32) {
        let circuit = self.known.get_with_by_ref(target, Arc::default);
        let mut state = circuit.lock().unwrap_or_else(PoisonError::into_inner);
        (state.failures, state.opened) = (state.failures.max(failures), Some(Instant::now()));
    }

    /// Another process closed it, or somebody says that the target may be asked.
    pub fn closed(&self, target: &str) {
        self.known.invalidate(target);
    }
}

impl Permit {
    /// Whether the circuit was open until now.
    pub fn succeeded(self) -> bool {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).opened.is_some()
    }

    /// After how many failures in a row the circuit is open from now on, if it is. Only what the provider is to blame for
    /// counts.
    pub fn failed(self, category: ErrorCategory) -> Option<u32> {
        if !category.is_retryable() {
            return None;
        }
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.failures = state.failures.saturating_add(1);
        if state.failures < self.1.failures {
            return None;
        }
        state.opened = Some(Instant::now());
        Some(state.failures)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).probed = false;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn fault(category: ErrorCategory) -> Fault {
        Fault::new(category, "x", "x")
    }

    #[test]
    fn what_may_pass_is_tried_again_with_growing_pauses_and_what_will_not_is_not() {
        let options = RetryOptions::default();
        let provider = fault(ErrorCategory::Provider);
        let first = options.pause(&provider, 1, false).unwrap();
        let second = options.pause(&provider, 2, false).unwrap();
        assert!(
            (125..250).contains(&first.as_millis()) && (250..500).contains(&second.as_millis()),
            "{first:?} {second:?}"
        );
        assert_eq!(options.pause(&provider, 3, false), None);
        assert_eq!(options.pause(&provider, 1, true), None, "a part was heard");
        for category in [ErrorCategory::Auth, ErrorCategory::Validation, ErrorCategory::Quota, ErrorCategory::NotFound]
        {
            assert_eq!(options.pause(&fault(category), 1, false), None, "{category:?}");
        }
        let limited =
            |seconds| Fault { retry_after: Some(Duration::from_secs(seconds)), ..fault(ErrorCategory::RateLimit) };
        assert_eq!(options.pause(&limited(3), 1, false), Some(Duration::from_secs(3)));
        assert_eq!(options.pause(&limited(60), 1, false), None);
    }

    #[test]
    fn another_target_is_asked_for_all_but_a_bad_request() {
        let context = Fault { code: Some("context_length_exceeded".into()), ..fault(ErrorCategory::Validation) };
        assert!(may_fall_back(&context, false) && may_fall_back(&fault(ErrorCategory::Auth), false));
        assert!(!may_fall_back(&fault(ErrorCategory::Validation), false));
        assert!(!may_fall_back(&fault(ErrorCategory::ContentFilter), false));
        assert!(!may_fall_back(&fault(ErrorCategory::Provider), true));
    }

    #[test]
    fn who_is_asked_for_a_reason_is_asked_for_that_reason() {
        use ErrorCategory::{Auth, ContentFilter, Provider, Quota, RateLimit, Timeout, Validation};
        use FallbackTrigger::{Budget, Error};
        let order = [
            None,
            Some(FallbackTrigger::Timeout),
            Some(FallbackTrigger::ContentFilter),
            Some(FallbackTrigger::ContextWindow),
            Some(Budget),
            Some(Error),
        ];
        // After those of the name itself.
        let next = |fault: &Fault| next_of(order.into_iter().skip(1), fault, false);
        assert_eq!((next(&fault(Timeout)), next(&fault(ContentFilter))), (Some(0), Some(1)));
        let context = Fault { code: Some("context_length_exceeded".into()), ..fault(Validation) };
        assert_eq!((next(&context), next(&fault(Quota))), (Some(2), Some(3)));
        for category in [Provider, Auth, RateLimit] {
            assert_eq!(next(&fault(category)), Some(4), "{category:?}");
        }
        assert_eq!(next(&fault(Validation)), None);
        assert_eq!(next_of(order.into_iter(), &fault(ContentFilter), false), Some(2), "not the next of the name");
        assert_eq!(next_of(order.into_iter(), &fault(Timeout), true), None, "a part was heard");
    }

    #[tokio::test(start_paused = true)]
    async fn a_circuit_opens_after_failures_in_a_row_and_one_probe_closes_it() {
        let circuits = Circuits::new(RetryOptions { failures: 2, ..RetryOptions::default() });
        circuits.admit("a").unwrap().failed(ErrorCategory::Provider);
        circuits.admit("a").unwrap().failed(ErrorCategory::Validation);
        circuits.admit("a").unwrap().failed(ErrorCategory::Timeout);
        assert!(circuits.admit("a").is_err() && circuits.admit("b").is_ok());
        tokio::time::advance(Duration::from_secs(31)).await;
        let probe = circuits.admit("a").unwrap();
        assert!(circuits.admit("a").is_err(), "one at a time");
        probe.failed(ErrorCategory::Network);
        assert!(circuits.admit("a").is_err());
        tokio::time::advance(Duration::from_secs(31)).await;
        // A probe that came to nothing lets another one try.
        drop(circuits.admit("a").unwrap());
        circuits.admit("a").unwrap().succeeded();
        assert!(circuits.admit("a").is_ok() && circuits.admit("a").is_ok());
    }
}
