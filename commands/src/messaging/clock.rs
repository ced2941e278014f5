//! When something was said: to the millisecond, as it is shown, and no two things of a conversation at the same one. So a time
//! names one place in it, and who reads on from there neither misses anything nor gets it again.

use time::OffsetDateTime;

/// Milliseconds by which a conversation may be ahead of the clock when much is said at once.
const AHEAD: i64 = 1000;

/// The time of what is said now, after `last`; milliseconds since 1970.
pub(super) fn next(last: Option<i64>, now: OffsetDateTime) -> i64 {
    let now = i64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
    // A clock that is off, or a flood, is not followed: then several things have one time, in their order.
    last.map(|last| last + 1).filter(|next| (now..=now + AHEAD).contains(next)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::Duration;

    #[test]
    fn each_has_a_millisecond_of_its_own_and_nobody_runs_far_ahead() {
        let at = OffsetDateTime::from_unix_timestamp(1).unwrap() + Duration::microseconds(900);
        assert_eq!(next(None, at), 1000);
        assert_eq!(next(Some(1000), at), 1001);
        assert_eq!(next(Some(999), at), 1000, "the clock has gone on");
        assert_eq!(next(Some(1999), at), 2000);
        assert_eq!(next(Some(2000), at), 1000);
    }
}
