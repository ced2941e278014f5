//! Patterns of event types: a name, `*`, or a prefix like `message.*` (network.md §3.2).

use crate::Rejection;

/// Longest name of an event type.
pub(super) const TYPE_MAX: usize = 200;

/// Whether a pattern covers an event type.
#[must_use]
pub fn covers(pattern: &str, event_type: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some("") => true,
        Some(prefix) if prefix.ends_with('.') => event_type.starts_with(prefix),
        _ => pattern == event_type,
    }
}

/// What is seen or missed at the moment, and not kept (network.md §8.9).
const EPHEMERAL: [&str; 6] = ["obs.*", "agent.ping", "agent.pong", "stream.chunk", "typing.*", "capture.frame"];

/// Whether events of a type take the ephemeral lane: delivered at most once, to who is connected, and not stored.
#[must_use]
pub fn is_ephemeral(event_type: &str) -> bool {
    EPHEMERAL.iter().any(|pattern| covers(pattern, event_type))
}

/// Whether a text is the dotted name of an event type.
pub(super) fn is_type(text: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-:".contains(&b));
    text.len() <= TYPE_MAX && text.split('.').all(part)
}

/// Whether a text is a pattern.
#[must_use]
pub fn is_pattern(text: &str) -> bool {
    text == "*" || is_type(text.strip_suffix(".*").unwrap_or(text))
}

/// 1 to 100 patterns.
pub(super) fn check_patterns(field: &str, patterns: &[String]) -> Result<(), Rejection> {
    if (1..=100).contains(&patterns.len()) && patterns.iter().all(|pattern| is_pattern(pattern)) {
        return Ok(());
    }
    let rule = "1 to 100 dotted names, '*', or prefixes like 'message.*'";
    Err(Rejection::new("INVALID_PATTERN", format!("{field}: {rule}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_covers_what_is_under_it_and_nothing_beside_it() {
        for (pattern, event_type, covered) in [
            ("*", "a.b", true),
            ("message.*", "message.new", true),
            ("message.*", "message.new.urgent", true),
            ("message.*", "message", false),
            ("message.*", "messages.new", false),
            ("message.new", "message.new", true),
            ("message.new", "message.new.urgent", false),
        ] {
            assert_eq!(covers(pattern, event_type), covered, "{pattern} {event_type}");
        }
        for bad in ["", "a..b", "a*", "*.a", "a b", ".*", "message.**"] {
            assert!(!is_pattern(bad), "{bad}");
        }
    }
}
