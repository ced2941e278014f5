//! E-mail addresses: their form, and the keyed hash by which one is found and claimed.

use symbia_events::KeyRing;

use crate::http::Validation;

/// Longest address (RFC 5321 §4.5.3.1.3, without the angle brackets).
const MAX: usize = 254;

/// Records a violation unless the text looks like an address.
pub(super) fn check(rules: &mut Validation, path: &str, text: &str) {
    rules.check(is_address(text.trim()), path, "format", "must be an e-mail address");
}

/// The hash under which an address is looked up: the same however it is capitalised or padded.
pub(super) fn key(keys: &KeyRing, address: &str) -> String {
    keys.lookup_hash("email", &address.trim().to_lowercase())
}

/// One `@`, something before it, and a host name with a dot after it. Whether it exists only a mail can tell.
fn is_address(text: &str) -> bool {
    let Some((local, host)) = text.rsplit_once('@') else { return false };
    let label = |l: &str| !l.is_empty() && !l.starts_with('-') && !l.ends_with('-');
    text.len() <= MAX
        && (1..=64).contains(&local.len())
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..")
        && !text.chars().any(|c| c.is_whitespace() || c.is_control() || "<>()[]\\,;:\"".contains(c))
        && !local.contains('@')
        && host.contains('.')
        && host.split('.').all(label)
        && host.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_other_texts() {
        for good in ["ada@example.test", "a.b+c@sub.example.test", "ü@bücher.example", "o'neil@example.test"] {
            assert!(is_address(good), "{good}");
        }
        for bad in [
            "",
            "ada",
            "ada@",
            "@example.test",
            "ada@localhost",
            "a b@example.test",
            "a@b@example.test",
            ".a@example.test",
            "a@-x.test",
            "a@x..test",
            "a\r\nBcc:x@example.test",
            "<a@example.test>",
        ] {
            assert!(!is_address(bad), "{bad}");
        }
    }
}
