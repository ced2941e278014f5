//! The look at a name that counts: what it gives is checked, and then connected to.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use futures::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::{Blocked, Rules};

/// Looks up a name's addresses.
pub type LookUp = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// The machine's own name service.
pub(crate) fn of_machine() -> LookUp {
    Arc::new(|host| {
        Box::pin(async move {
            let found = tokio::net::lookup_host((host, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    })
}

/// The addresses of a name, if all of them may be connected to.
pub(crate) async fn admitted(rules: &Rules, look_up: &LookUp, host: &str) -> Result<Vec<IpAddr>, Blocked> {
    let addresses = look_up(host.to_owned()).await.unwrap_or_default();
    if addresses.is_empty() {
        return Err(Blocked::Unknown);
    }
    if rules.admits(host, &addresses) { Ok(addresses) } else { Err(Blocked::Address) }
}

pub(crate) struct Guarded {
    rules: Arc<Rules>,
    look_up: LookUp,
}

impl Guarded {
    pub fn new(rules: Arc<Rules>, look_up: LookUp) -> Self {
        Guarded { rules, look_up }
    }
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let (rules, look_up) = (Arc::clone(&self.rules), Arc::clone(&self.look_up));
        Box::pin(async move {
            let addresses = admitted(&rules, &look_up, name.as_str()).await?;
            // The client puts the port of the URL in.
            let found: Addrs = Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(found)
        })
    }
}
