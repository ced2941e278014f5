//! Which addresses deliveries may go to: what tenants register must not lead into the platform's own networks (network.md
//! §8.8). Names are looked up once, and what was looked up is what is connected to.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use reqwest::Url;
use symbia_commands::network::is_public;

/// Networks that deliveries may go to besides public ones.
#[derive(Clone, Debug, Default)]
pub struct Allowed(Vec<IpNet>);

impl Allowed {
    /// These as well.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Allowed(networks)
    }

    fn admits(&self, address: IpAddr) -> bool {
        is_public(address) || self.0.iter().any(|network| network.contains(&address.to_canonical()))
    }

    /// Where a URL leads: its host, and its addresses, all of them allowed.
    ///
    /// # Errors
    /// A code: `bad_endpoint`, `unknown_host`, or `address_not_allowed`.
    pub(super) async fn resolve(&self, url: &Url) -> Result<(String, Vec<SocketAddr>), &'static str> {
        let host = url.host_str().ok_or("bad_endpoint")?.to_owned();
        let port = url.port_or_known_default().ok_or("bad_endpoint")?;
        let looked_up = tokio::net::lookup_host((host.trim_matches(['[', ']']), port)).await;
        let addresses: Vec<SocketAddr> = looked_up.map_err(|_| "unknown_host")?.collect();
        if addresses.is_empty() || !addresses.iter().all(|address| self.admits(address.ip())) {
            return Err("address_not_allowed");
        }
        Ok((host, addresses))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_endpoint_inside_is_refused_unless_its_network_is_named() {
        let url = |text: &str| Url::parse(text).unwrap();
        let closed = Allowed::default();
        for inside in ["http://127.0.0.1:9/", "http://169.254.169.254/latest", "http://[::1]/", "http://10.0.0.1/"] {
            assert_eq!(closed.resolve(&url(inside)).await, Err("address_not_allowed"), "{inside}");
        }
        let open = Allowed::new(vec!["127.0.0.0/8".parse().unwrap()]);
        assert!(open.resolve(&url("http://127.0.0.1:9/")).await.is_ok());
        assert!(open.resolve(&url("http://10.0.0.1/")).await.is_err());
        assert!(closed.resolve(&url("http://93.184.216.34/")).await.is_ok());
    }
}
