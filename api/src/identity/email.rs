//! E-mail addresses: their form, look-alikes, and the keyed hash by which one is found and claimed.

use symbia_events::KeyRing;
use unicode_normalization::UnicodeNormalization;
use unicode_security::{MixedScript, skeleton};

use crate::http::Validation;

/// Longest address (RFC 5321 §4.5.3.1.3, without the angle brackets).
const MAX: usize = 254;

/// Records a violation unless the text can become the address of an account.
pub(super) fn check(rules: &mut Validation, path: &str, text: &str) {
    check_form(rules, path, text);
    rules.check(!imitates(text.trim()), path, "lookalike", "must not look like another address: it mixes scripts");
}

/// Records a violation unless the text looks like an address at all.
pub(super) fn check_form(rules: &mut Validation, path: &str, text: &str) {
    rules.check(is_address(text.trim()), path, "format", "must be an e-mail address");
}

/// The hash under which an address is looked up: the same however it is capitalised, padded or composed, and whichever way
/// its host name is written.
#[must_use]
pub fn key(keys: &KeyRing, address: &str) -> String {
    keys.lookup_hash("email", &folded(address))
}

fn folded(address: &str) -> String {
    let text: String = address.trim().nfkc().collect::<String>().to_lowercase();
    let text: String = text.nfkc().collect();
    match text.rsplit_once('@') {
        Some((local, host)) => match idna::domain_to_ascii(host) {
            Ok(host) => format!("{local}@{host}"),
            Err(_) => text,
        },
        None => text,
    }
}

/// Whether a part of the address could be taken for plain letters that it does not have: scripts are mixed, or all of it
/// is drawn like ASCII (UTS #39 §4, §5).
fn imitates(address: &str) -> bool {
    let Some((local, host)) = address.rsplit_once('@') else { return false };
    let (host, _) = idna::domain_to_unicode(host);
    std::iter::once(local).chain(host.split('.')).any(|part| {
        let part: String = part.nfkc().collect();
        !part.is_ascii() && (!part.as_str().is_single_script() || skeleton(&part).all(|c| c.is_ascii()))
    })
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
        && idna::domain_to_ascii(host).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_other_texts() {
        for good in ["ada@example.test", "a.b+c@sub.example.test", "ü@bücher.example", "o'neil@example.test"] {
            assert!(is_address(good) && !imitates(good), "{good}");
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

    #[test]
    fn an_address_is_one_however_it_is_written() {
        for (one, other) in [
            ("ada@example.test", " ADA@Example.Test "),
            ("ü@bücher.example", "Ü@xn--bcher-kva.example"),
            ("\u{e9}@example.test", "e\u{301}@example.test"),
            ("ada@example.test", "\u{ff41}\u{ff44}\u{ff41}@example.test"),
        ] {
            assert_eq!(folded(one), folded(other), "{one} {other}");
        }
        assert_eq!(folded("Ada@Example.test"), "ada@example.test");
        assert_ne!(folded("bill1@example.test"), folded("billl@example.test"));
    }

    #[test]
    fn look_alikes_of_plain_addresses_are_told() {
        for bad in [
            // Cyrillic letters that are drawn like Latin ones, alone and among Latin ones, plain and as punycode.
            "\u{430}\u{441}\u{435}@example.test",
            "p\u{430}ypal@example.test",
            "a@\u{430}\u{440}\u{440}\u{4cf}\u{435}.test",
            "a@xn--80ak6aa92e.test",
        ] {
            assert!(imitates(bad), "{bad}");
        }
        for good in ["привет@example.test", "名前@example.test", "josé@example.test", "ada@例え.test"] {
            assert!(!imitates(good), "{good}");
        }
    }
}
