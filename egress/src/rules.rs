//! Where calls may go: over HTTPS to public hosts, and to whatever an operator names besides.

use std::net::IpAddr;

use ipnet::IpNet;
use reqwest::Url;
use symbia_events::integrations::fits_host;

use crate::{is_public, policy::Narrowed};

/// Names that mean something inside only.
const INNER: [&str; 6] = ["localhost", "local", "internal", "intranet", "lan", "home.arpa"];

/// Why a call may not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// Neither HTTPS, nor HTTP to a host that is allowed it.
    #[error("only https addresses are called; an operator may allow a host http with SYMBIA_EGRESS_ALLOW")]
    Scheme,
    /// A user or password within the address.
    #[error("an address must not hold a user or a password: keep it as a credential")]
    Userinfo,
    /// A port that is not HTTPS'.
    #[error("only port 443 is called; an operator may allow a host others with SYMBIA_EGRESS_ALLOW")]
    Port,
    /// A number in the place of a name.
    #[error("hosts are called by name, not by number; an operator may allow a network with SYMBIA_EGRESS_ALLOW")]
    Literal,
    /// A name that belongs to the inside, or no host.
    #[error("this host is not called from here; an operator may allow it with SYMBIA_EGRESS_ALLOW")]
    Host,
    /// It leads inside.
    #[error("its address is not a public one; an operator may allow its network with SYMBIA_EGRESS_ALLOW")]
    Address,
    /// A name that nobody has.
    #[error("its host does not exist")]
    Unknown,
    /// The organization does not let it out.
    #[error(transparent)]
    Policy(#[from] Narrowed),
}

impl Blocked {
    /// A stable code for records.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Blocked::Scheme | Blocked::Userinfo | Blocked::Port | Blocked::Literal => "bad_endpoint",
            Blocked::Host | Blocked::Address => "address_not_allowed",
            Blocked::Unknown => "unknown_host",
            Blocked::Policy(_) => "egress_policy",
        }
    }
}

/// Where calls may go. Nothing is allowed but HTTPS to public hosts until it is said.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    networks: Vec<IpNet>,
    hosts: Vec<String>,
    denied: Vec<String>,
    only: Option<(String, u16)>,
    any_port: bool,
}

impl Rules {
    /// Public hosts, and this machine: for development.
    #[must_use]
    pub fn development() -> Self {
        let this_machine = ["127.0.0.0/8", "::1/128"].into_iter().filter_map(|network| network.parse().ok());
        Rules { networks: this_machine.collect(), hosts: vec!["localhost".to_owned()], ..Rules::default() }
    }

    /// Public hosts, and a list of networks (`10.0.0.0/8`), addresses, hosts (`models.corp.example`) and the hosts below
    /// one (`*.corp.example`), which may be called over HTTP and at any port too.
    ///
    /// # Errors
    /// The entry that is none of these.
    pub fn parse(list: &str) -> Result<Self, String> {
        let mut rules = Rules::default();
        for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let address = entry.parse::<IpAddr>().map(IpNet::from);
            match entry.parse::<IpNet>().or(address) {
                Ok(network) => rules.networks.push(network),
                Err(_) if is_pattern(entry) => rules.hosts.push(entry.to_lowercase()),
                Err(_) => return Err(entry.to_owned()),
            }
        }
        Ok(rules)
    }

    /// One server that an operator named, whatever its address, and no other.
    #[must_use]
    pub fn only(url: &Url) -> Self {
        let server = (url.host_str().unwrap_or_default().to_owned(), url.port_or_known_default().unwrap_or_default());
        Rules { only: Some(server), ..Rules::default() }
    }

    /// Never these hosts: those that the platform itself stands on.
    #[must_use]
    pub fn denying(mut self, hosts: impl IntoIterator<Item = String>) -> Self {
        self.denied.extend(hosts.into_iter().map(|host| host.to_lowercase()));
        self
    }

    /// HTTP, any port and public addresses in numbers as well: for calls that carry no secret.
    #[must_use]
    pub fn any_port(mut self) -> Self {
        self.any_port = true;
        self
    }

    /// Whether a URL may be called, as far as it tells without a name service.
    ///
    /// # Errors
    /// Why it may not.
    pub fn check(&self, url: &Url) -> Result<(), Blocked> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Blocked::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Blocked::Userinfo);
        }
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(Blocked::Host);
        };
        if let Some((only_host, only_port)) = &self.only {
            return if host == only_host && port == *only_port { Ok(()) } else { Err(Blocked::Host) };
        }
        match (url.scheme(), port) {
            _ if self.check_host(host)? || self.any_port => Ok(()),
            ("https", 443) => Ok(()),
            ("https", _) => Err(Blocked::Port),
            _ => Err(Blocked::Scheme),
        }
    }

    /// Whether a host may be called at one of these ports, as far as its name tells.
    ///
    /// # Errors
    /// Why it may not.
    pub(crate) fn check_server(&self, host: &str, port: u16, ports: &[u16]) -> Result<(), Blocked> {
        if let Some((only_host, only_port)) = &self.only {
            return if host == only_host && port == *only_port { Ok(()) } else { Err(Blocked::Host) };
        }
        if self.check_host(host)? || ports.contains(&port) { Ok(()) } else { Err(Blocked::Port) }
    }

    // Whether an operator named it, so that it may be called in any way.
    fn check_host(&self, host: &str) -> Result<bool, Blocked> {
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            return match address {
                address if self.names_network(address) => Ok(true),
                address if !is_public(address) => Err(Blocked::Address),
                _ if self.any_port => Ok(true),
                _ => Err(Blocked::Literal),
            };
        }
        if self.denied.iter().any(|pattern| fits_host(pattern, host)) {
            return Err(Blocked::Host);
        }
        if self.names_host(host) {
            return Ok(true);
        }
        if is_inner(host) { Err(Blocked::Host) } else { Ok(false) }
    }

    /// Whether all addresses of a name may be connected to.
    pub(crate) fn admits(&self, host: &str, addresses: &[IpAddr]) -> bool {
        let trusted = self.only.is_some() || self.names_host(host);
        trusted || addresses.iter().all(|address| is_public(*address) || self.names_network(*address))
    }

    fn names_network(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address.to_canonical()))
    }

    fn names_host(&self, host: &str) -> bool {
        self.hosts.iter().any(|pattern| fits_host(pattern, host))
    }
}

/// Whether a URL leads to one of these hosts: `api.example.com`, `*.example.com`, or one with a port that is not its
/// scheme's own (`127.0.0.1:8080`). What keeps a key where it belongs.
#[must_use]
pub fn leads_to(url: &Url, hosts: &[String]) -> bool {
    let Some(host) = url.host_str() else { return false };
    let place = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    hosts.iter().any(|pattern| fits_host(&pattern.to_lowercase(), &place))
}

fn is_pattern(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let is_label =
        |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    // What ends in a number would be an address.
    name.split('.').all(is_label)
        && !name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()))
}

fn is_inner(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    !host.contains('.') || INNER.iter().any(|name| host == *name || fits_host(&format!("*.{name}"), host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rules: &Rules, url: &str) -> Result<(), Blocked> {
        rules.check(&url.parse().unwrap())
    }

    #[test]
    fn only_https_to_names_outside_is_called() {
        let closed = Rules::default();
        for (url, expected) in [
            ("https://api.example.com/v1", Ok(())),
            ("https://api.example.com:443/v1", Ok(())),
            ("http://api.example.com/v1", Err(Blocked::Scheme)),
            ("ftp://api.example.com/v1", Err(Blocked::Scheme)),
            ("https://api.example.com:8443/v1", Err(Blocked::Port)),
            ("https://me:secret@api.example.com/", Err(Blocked::Userinfo)),
            ("https://93.184.216.34/", Err(Blocked::Literal)),
            ("https://nats/", Err(Blocked::Host)),
            ("https://localhost/", Err(Blocked::Host)),
            ("https://localhost./", Err(Blocked::Host)),
            ("https://LOCALHOST/", Err(Blocked::Host)),
            ("https://a.localhost/", Err(Blocked::Host)),
            ("https://metadata.google.internal/", Err(Blocked::Host)),
            ("https://printer.local/", Err(Blocked::Host)),
        ] {
            assert_eq!(check(&closed, url), expected, "{url}");
        }
    }

    #[test]
    fn every_way_to_write_an_address_inside_is_seen_through() {
        for host in [
            "127.0.0.1",
            "127.1",
            "127.0.0.1.",
            "2130706433",
            "0x7f000001",
            "0x7f.0.0.1",
            "0177.0.0.1",
            "017700000001",
            "%31%32%37.0.0.1",
            "①②⑦.0.0.1",
            "127。0。0。1",
            "0",
            "10.0.0.1",
            "169.254.169.254",
            "0xa9fea9fe",
            "[::1]",
            "[::]",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::ffff:a9fe:a9fe]",
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
            "[fd00:ec2::254]",
            "[fe80::1]",
        ] {
            let url = format!("https://{host}/");
            for rules in [Rules::default(), Rules::default().any_port()] {
                assert_eq!(check(&rules, &url), Err(Blocked::Address), "{url}");
            }
        }
    }

    #[test]
    fn an_operator_opens_networks_and_hosts_and_nothing_beside_them() {
        let rules =
            Rules::parse("10.0.0.0/8, fd00::/8,192.168.1.7, models.corp.example, *.lab.example,ollama").unwrap();
        for (url, open) in [
            ("http://10.2.3.4:11434/", true),
            ("http://[::ffff:10.2.3.4]/", true),
            ("http://[fd00::7]:80/", true),
            ("http://192.168.1.7/", true),
            ("http://192.168.1.8/", false),
            ("http://models.corp.example:8000/", true),
            ("http://a.b.lab.example/", true),
            ("http://lab.example/", false),
            ("http://evil-lab.example/", false),
            ("http://ollama:11434/", true),
            ("http://127.0.0.1/", false),
        ] {
            assert_eq!(check(&rules, url).is_ok(), open, "{url}");
        }
        for wrong in ["10.0.0.0/99", "http://x.example", "a b", "1.2.3", "*.*.example"] {
            assert_eq!(Rules::parse(wrong).unwrap_err(), wrong);
        }
        let denying = Rules::parse("*.lab.example").unwrap().denying(["db.lab.example".to_owned()]);
        assert_eq!(check(&denying, "https://db.lab.example/"), Err(Blocked::Host));
        assert_eq!(check(&denying, "https://www.lab.example/"), Ok(()));
    }

    #[test]
    fn a_key_stays_with_its_hosts() {
        let hosts = ["api.example.com", "*.b.example", "127.0.0.1:8080"].map(str::to_owned);
        for (url, theirs) in [
            ("https://api.example.com/v1", true),
            ("https://API.example.com:443/v1", true),
            ("https://api.example.com:8443/v1", false),
            ("https://api.example.com.evil.example/", false),
            ("https://evil.example/?api.example.com", false),
            ("https://x.b.example/", true),
            ("https://b.example/", false),
            ("http://127.0.0.1:8080/", true),
            ("http://127.0.0.1/", false),
        ] {
            assert_eq!(leads_to(&url.parse().unwrap(), &hosts), theirs, "{url}");
        }
    }

    #[test]
    fn a_named_server_is_the_only_one() {
        let rules = Rules::only(&"http://127.0.0.1:8000/v1".parse().unwrap());
        for (url, open) in [
            ("http://127.0.0.1:8000/v1/models", true),
            ("http://127.0.0.1:8001/v1", false),
            ("http://127.0.0.2:8000/v1", false),
            ("https://api.example.com/v1", false),
        ] {
            assert_eq!(check(&rules, url).is_ok(), open, "{url}");
        }
    }
}
