//! Where an organization lets its own calls go. It is asked besides the operator's rules, so that it takes away and never adds.

use reqwest::Url;
use symbia_events::integrations::{EgressTerms, fits_host};

/// An organization's policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy(EgressTerms);

/// A call that an organization does not let out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the organization's egress policy lets no call out to '{host}': {rule}; its admins change that with PUT \
     /api/integrations/egress-policy"
)]
pub struct Narrowed {
    /// Whom it was to reach.
    pub host: String,
    /// What of the policy keeps it in.
    pub rule: String,
}

impl Policy {
    /// A policy with these terms.
    #[must_use]
    pub fn new(terms: EgressTerms) -> Self {
        Policy(terms)
    }

    /// Whether a URL may be called.
    ///
    /// # Errors
    /// What keeps it from being called.
    pub fn check(&self, url: &Url) -> Result<(), Narrowed> {
        let host = url.host_str().unwrap_or_default();
        self.check_server(host, url.port_or_known_default().unwrap_or_default())?;
        if url.scheme() == "http" && !self.0.allow_http {
            return Err(narrowed(host, "plain http is not allowed (allowHttp is false)"));
        }
        Ok(())
    }

    /// Whether a host may be called at a port.
    ///
    /// # Errors
    /// What keeps it from being called.
    pub(crate) fn check_server(&self, host: &str, port: u16) -> Result<(), Narrowed> {
        let EgressTerms { allow_hosts, deny_hosts, allow_ports, .. } = &self.0;
        if let Some(pattern) = deny_hosts.iter().find(|pattern| fits_host(pattern, host)) {
            return Err(narrowed(host, format!("'{pattern}' is in denyHosts")));
        }
        if !allow_hosts.is_empty() && !allow_hosts.iter().any(|pattern| fits_host(pattern, host)) {
            return Err(narrowed(host, "no pattern of allowHosts fits it"));
        }
        if !allow_ports.is_empty() && !allow_ports.contains(&port) {
            return Err(narrowed(host, format!("port {port} is not in allowPorts")));
        }
        Ok(())
    }
}

fn narrowed(host: &str, rule: impl Into<String>) -> Narrowed {
    Narrowed { host: host.to_owned(), rule: rule.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Blocked, Egress, Rules};

    fn terms(allow: &[&str], deny: &[&str], ports: &[u16], allow_http: bool) -> EgressTerms {
        let owned = |list: &[&str]| list.iter().map(|host| (*host).to_owned()).collect();
        EgressTerms { allow_hosts: owned(allow), deny_hosts: owned(deny), allow_ports: ports.to_vec(), allow_http }
    }

    #[test]
    fn each_rule_keeps_in_what_it_names_and_says_so() {
        let allowing = terms(&["api.example.com", "*.lab.example"], &["db.lab.example"], &[443, 8443], false);
        let policy = Policy::new(allowing);
        for (url, rule) in [
            ("https://api.example.com/v1", None),
            ("https://API.example.com.:8443/", None),
            ("https://a.b.lab.example/", None),
            ("https://db.lab.example/", Some("'db.lab.example' is in denyHosts")),
            ("https://db.lab.example./", Some("'db.lab.example' is in denyHosts")),
            ("https://lab.example/", Some("no pattern of allowHosts fits it")),
            ("https://evil.example/?api.example.com", Some("no pattern of allowHosts fits it")),
            ("https://api.example.com:9/", Some("port 9 is not in allowPorts")),
            ("http://api.example.com:443/", Some("plain http is not allowed (allowHttp is false)")),
        ] {
            let refused = policy.check(&url.parse().unwrap()).err();
            assert_eq!(refused.as_ref().map(|narrowed| narrowed.rule.as_str()), rule, "{url}");
        }
        let address = Policy::new(terms(&[], &["127.0.0.1"], &[], true));
        for url in ["http://127.1/", "http://2130706433/", "http://[::ffff:127.0.0.1]/"] {
            assert!(address.check(&url.parse().unwrap()).is_err(), "{url}");
        }
        assert_eq!(Policy::new(EgressTerms::default()).check(&"http://x.example:81".parse().unwrap()), Ok(()));
    }

    #[test]
    fn a_policy_narrows_and_never_widens() {
        let egress = Egress::new(Rules::default()).unwrap();
        let wide = terms(&["10.0.0.1", "localhost", "api.example.com"], &[], &[80, 443, 8443], true);
        let within = egress.within(Some(Policy::new(wide).into()));
        let refused = |url: &str| within.request(reqwest::Method::GET, url.parse().unwrap()).err();
        assert_eq!(refused("https://10.0.0.1/"), Some(Blocked::Address));
        assert_eq!(refused("https://localhost/"), Some(Blocked::Host));
        assert_eq!(refused("http://api.example.com/"), Some(Blocked::Scheme));
        assert_eq!(refused("https://api.example.com:8443/"), Some(Blocked::Port));
        assert_eq!(refused("https://api.example.com/"), None);
        let blocked = refused("https://other.example/").unwrap();
        assert_eq!(blocked.code(), "egress_policy");
        let text = blocked.to_string();
        assert!(text.contains("'other.example'") && text.contains("PUT /api/integrations/egress-policy"), "{text}");
    }
}
