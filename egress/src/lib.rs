//! The one way out (integrations.md §17.4): every HTTP call of the platform to an address that somebody else chose.
//!
//! [`Rules`] say where a call may go. A name is looked up once, all of its addresses are held against them, and what was
//! looked up is what is connected to, so that a name which changes its mind between two looks leads nowhere. Redirects are
//! never followed blindly: [`Egress::fetch`] checks each hop anew, and carries no header to another origin. Proxies of the
//! environment are not used, since they would look names up themselves. What an organization's own [`Policy`] keeps in is asked
//! at the same place, for each call and hop: [`Egress::within`].

mod address;
mod call;
mod errand;
pub mod mcp;
mod policy;
pub mod references;
mod resolver;
mod rules;
mod websocket;

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use reqwest::{Client, Method, RequestBuilder, Url, redirect};

pub use address::is_public;
pub use call::{InvalidCall, Request};
pub use errand::{Errand, Reply, read};
pub use policy::{Narrowed, Policy};
pub use resolver::LookUp;
pub use rules::{Blocked, Rules, leads_to};
pub use websocket::Socket;

const CONNECT: Duration = Duration::from_secs(5);

/// A call that was not made, or had no usable answer. Says nothing of what the other side said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// It may not be made.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// It took too long.
    #[error("it did not answer in time")]
    Timeout,
    /// Nobody takes the call, or its certificate cannot be trusted.
    #[error("it cannot be reached")]
    Unreachable,
    /// More than what is read.
    #[error("its answer is longer than {0} bytes")]
    TooLong(usize),
    /// It sends from one place to the next.
    #[error("it redirects more than {0} times")]
    Redirects(usize),
    /// It broke off, or speaks no HTTP.
    #[error("the connection broke")]
    Transport,
}

impl EgressError {
    /// A stable code for records.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            EgressError::Blocked(blocked) => blocked.code(),
            EgressError::Timeout => "timeout",
            EgressError::Unreachable => "unreachable",
            EgressError::TooLong(_) => "too_long",
            EgressError::Redirects(_) => "too_many_redirects",
            EgressError::Transport => "transport",
        }
    }
}

impl EgressError {
    /// Why a request that [`Egress::request`] made has no answer.
    #[must_use]
    pub fn of(error: &reqwest::Error) -> Self {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(e) = cause {
            if let Some(blocked) = e.downcast_ref::<Blocked>() {
                return EgressError::Blocked(blocked.clone());
            }
            cause = e.source();
        }
        match error {
            e if e.is_timeout() => EgressError::Timeout,
            e if e.is_connect() => EgressError::Unreachable,
            _ => EgressError::Transport,
        }
    }
}

impl From<reqwest::Error> for EgressError {
    fn from(error: reqwest::Error) -> Self {
        EgressError::of(&error)
    }
}

/// Makes calls within rules. Cheap to clone; keeps connections open.
#[derive(Clone)]
pub struct Egress {
    rules: Arc<Rules>,
    policy: Option<Arc<Policy>>,
    look_up: LookUp,
    http: Client,
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress").field("rules", &self.rules).field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Egress {
    /// Within these rules, with the machine's name service.
    ///
    /// # Errors
    /// No HTTP client can be made on this machine.
    pub fn new(rules: Rules) -> Result<Self, reqwest::Error> {
        Self::looking_up(rules, resolver::of_machine())
    }

    /// The same, with another name service.
    ///
    /// # Errors
    /// No HTTP client can be made on this machine.
    pub fn looking_up(rules: Rules, look_up: LookUp) -> Result<Self, reqwest::Error> {
        let rules = Arc::new(rules);
        let http = Client::builder()
            .connect_timeout(CONNECT)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .dns_resolver(resolver::Guarded::new(Arc::clone(&rules), Arc::clone(&look_up)))
            .build()?;
        Ok(Egress { rules, policy: None, look_up, http })
    }

    /// The same for an organization with this policy.
    #[must_use]
    pub fn within(&self, policy: Option<Arc<Policy>>) -> Self {
        Egress { policy, ..self.clone() }
    }

    fn check(&self, url: &Url) -> Result<(), Blocked> {
        self.rules.check(url)?;
        Ok(self.policy.as_ref().map_or(Ok(()), |policy| policy.check(url))?)
    }

    /// A request that follows no redirect. What its answer says is to be read with [`read`]: within a limit.
    ///
    /// # Errors
    /// It may not be made. A name's addresses are checked when it is sent; [`EgressError::from`] tells.
    pub fn request(&self, method: Method, url: Url) -> Result<RequestBuilder, Blocked> {
        self.check(&url)?;
        Ok(self.http.request(method, url))
    }

    /// Where a server is that speaks another protocol than HTTP, at one of these ports (an operator may allow a host others): what
    /// is to be connected to, without looking its name up again.
    ///
    /// # Errors
    /// It may not be connected to.
    pub async fn locate(&self, host: &str, port: u16, ports: &[u16]) -> Result<IpAddr, EgressError> {
        self.rules.check_server(host, port, ports)?;
        if let Some(policy) = &self.policy {
            policy.check_server(host, port).map_err(Blocked::from)?;
        }
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Ok(address);
        }
        let found = tokio::time::timeout(CONNECT, resolver::admitted(&self.rules, &self.look_up, host)).await;
        let found = found.map_err(|_| EgressError::Timeout)??;
        found.first().copied().ok_or(EgressError::Blocked(Blocked::Unknown))
    }

    // For a library that makes its requests itself, to this address and no other.
    fn client_for(&self, url: &Url) -> Result<Client, Blocked> {
        self.check(url)?;
        Ok(self.http.clone())
    }
}
