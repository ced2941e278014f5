//! Events of an organization's egress policy: where its own calls may go (integrations.md §17.4, §28).

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain_events;

/// What an organization lets its calls do, of what the operator allows. It only narrows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressTerms {
    /// Hosts that are called, and no others: a name or address, or all names below one (`*.example.com`). Empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_hosts: Vec<String>,
    /// Hosts that are never called, whatever else is said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny_hosts: Vec<String>,
    /// Ports that are called, and no others. Empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_ports: Vec<u16>,
    /// Whether calls may go over plain HTTP.
    #[serde(default = "yes")]
    pub allow_http: bool,
}

fn yes() -> bool {
    true
}

impl Default for EgressTerms {
    fn default() -> Self {
        let none = Vec::new;
        EgressTerms { allow_hosts: none(), deny_hosts: none(), allow_ports: Vec::new(), allow_http: true }
    }
}

domain_events! {
    /// What can have happened to an egress policy.
    EgressPolicyEvent: Integrations / "egress-policy" {
        /// Calls go there from now on, and nowhere else.
        EgressPolicySet = "symbia.integrations.egress-policy.egress-policy-set.v1" {
            policy_id: String,
            /// Counts changes, from 1.
            version: u64,
            terms: EgressTerms,
            by: String,
        }
    }
}

/// A pattern of hosts as it is compared: in lower case, an address in the one way to write it. None: it is no pattern.
#[must_use]
pub fn host_pattern(text: &str) -> Option<String> {
    let text = text.trim().trim_end_matches('.').to_lowercase();
    if let Some(canonical) = address(&text) {
        return Some(canonical);
    }
    let name = text.strip_prefix("*.").unwrap_or(&text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    // What ends in a number would be an address.
    let is_number = |label: &str| label.bytes().all(|b| b.is_ascii_digit()) || label.starts_with("0x");
    let named = name.len() <= 253 && name.split('.').all(is_label);
    (named && !name.rsplit('.').next().is_some_and(is_number)).then_some(text)
}

/// Whether the host of a URL fits a pattern as [`host_pattern`] gives it.
#[must_use]
pub fn fits_host(pattern: &str, host: &str) -> bool {
    let host = host.trim_end_matches('.');
    if let Some(canonical) = address(host) {
        return address(pattern) == Some(canonical);
    }
    match pattern.strip_prefix("*.") {
        Some(above) => host.strip_suffix(above).is_some_and(|below| below.len() > 1 && below.ends_with('.')),
        None => pattern == host,
    }
}

// However it is written: 10.0.0.1 is also ::ffff:10.0.0.1.
fn address(host: &str) -> Option<String> {
    host.trim_matches(['[', ']']).parse::<IpAddr>().ok().map(|address| address.to_canonical().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_host_or_all_below_one() {
        for (text, pattern) in [
            ("API.Example.com.", Some("api.example.com")),
            ("*.example.com", Some("*.example.com")),
            ("ollama", Some("ollama")),
            ("127.0.0.1", Some("127.0.0.1")),
            ("[::ffff:127.0.0.1]", Some("127.0.0.1")),
            ("[2001:DB8::1]", Some("2001:db8::1")),
            ("*", None),
            ("*.*.example.com", None),
            ("a.*.example.com", None),
            ("https://example.com", None),
            ("example.com:443", None),
            ("example.com/", None),
            ("1.2.3", None),
            ("0x7f.1", None),
            ("bücher.example", None),
            ("", None),
        ] {
            assert_eq!(host_pattern(text).as_deref(), pattern, "{text}");
        }
    }

    #[test]
    fn a_host_fits_however_it_is_written() {
        for (pattern, host, fits) in [
            ("example.com", "example.com", true),
            ("example.com", "example.com.", true),
            ("example.com", "www.example.com", false),
            ("*.example.com", "www.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "evil-example.com", false),
            ("*.example.com", ".example.com", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "[::ffff:a00:1]", true),
            ("10.0.0.1", "10.0.0.10", false),
        ] {
            assert_eq!(fits_host(pattern, host), fits, "{pattern} {host}");
        }
    }
}
