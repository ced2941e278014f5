//! `keep_alive`: how long a model stays in memory when nobody asks, in seconds, or in words as `1h30m`.

use serde::{Deserialize, Deserializer, de::Error};
use serde_json::Value;
use symbia_commands::models::MANAGE;
use symbia_nats::inference::Keep;

use crate::http::Caller;

/// Units in seconds, those first whose names others end with.
const UNITS: [(&str, f64); 7] =
    [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];

/// Seconds of the longest time that anybody may ask for.
const DAY: i64 = 86_400;

/// Seconds; negative: for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeepAlive(i64);

impl KeepAlive {
    /// Whether the model is not to stay at all.
    pub(super) fn is_over(self) -> bool {
        self.0 == 0
    }

    /// What it means from a caller. The memory is the installation's: who does not manage its models prolongs only, by a day at
    /// most.
    pub(super) fn of(self, caller: &Caller) -> Keep {
        match caller.require_capability(&MANAGE) {
            Ok(_) => Keep::For(self.0),
            Err(_) if self.0 < 0 => Keep::AtLeast(DAY),
            Err(_) => Keep::AtLeast(self.0.min(DAY)),
        }
    }
}

impl<'de> Deserialize<'de> for KeepAlive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = match Value::deserialize(deserializer)? {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.parse().ok().or_else(|| seconds(&text)),
            _ => None,
        };
        let seconds = seconds.filter(|seconds| seconds.is_finite());
        let whole = |seconds: f64| if seconds < 0.0 { -1 } else { seconds.ceil() as i64 };
        seconds.map(|seconds| KeepAlive(whole(seconds))).ok_or_else(|| {
            D::Error::custom("must be a number of seconds, or a time as 30s, 5m or 1h30m; negative: for ever")
        })
    }
}

/// The seconds of a time as `1h30m`.
fn seconds(text: &str) -> Option<f64> {
    let (sign, mut rest) = text.strip_prefix('-').map_or((1.0, text), |rest| (-1.0, rest));
    if rest.is_empty() {
        return None;
    }
    let mut sum = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let (name, unit) = UNITS.into_iter().find(|(name, _)| after.starts_with(name))?;
        sum += number.parse::<f64>().ok()? * unit;
        rest = &after[name.len()..];
    }
    Some(sign * sum)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_numbers_or_words() {
        for (value, seconds) in [
            (json!(300), Some(300)),
            (json!(0), Some(0)),
            (json!(-1), Some(-1)),
            (json!("-1"), Some(-1)),
            (json!("90"), Some(90)),
            (json!("5m"), Some(300)),
            (json!("1h30m10s"), Some(5410)),
            (json!("1500ms"), Some(2)),
            (json!("-5m"), Some(-1)),
            (json!("0s"), Some(0)),
            (json!("soon"), None),
            (json!("5"), Some(5)),
            (json!("5 m"), None),
            (json!("m"), None),
            (json!(""), None),
            (json!("-"), None),
            (json!("NaN"), None),
            (json!(true), None),
        ] {
            let read = serde_json::from_value::<KeepAlive>(value.clone()).ok();
            assert_eq!(read, seconds.map(KeepAlive), "{value}");
        }
    }
}
