//! Taking a port, serving connections on it, and stopping without dropping a request (platform.md §2).

use std::{io, net::SocketAddr, pin::pin, time::Duration};

use axum::{
    Router,
    extract::{ConnectInfo, Request},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use symbia_events::Service;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{health::Health, server::Limits};

/// Pause after a failed accept (out of file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A port could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another program listens there.
    #[error(
        "{service} cannot listen on {address}: the port is in use. Stop the program that holds it, or set {variable} to a free port"
    )]
    InUse {
        /// The service that wanted the port.
        service: Service,
        /// Host and port.
        address: String,
        /// The environment variable that moves the service.
        variable: String,
    },
    /// Anything else: no such host, no permission.
    #[error("{service} cannot listen on {address}: {source}. Check HOST and {variable}")]
    Other {
        /// The service that wanted the port.
        service: Service,
        /// Host and port.
        address: String,
        /// The environment variable that moves the service.
        variable: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Takes the port of a service.
///
/// # Errors
/// The port is in use or not allowed; the error names it and the variable that changes it.
pub async fn bind(service: Service, host: &str, port: u16) -> Result<TcpListener, BindError> {
    bind_beside(service, service.port_variable(), host, port).await
}

/// Takes another port for a service, which a variable of its own names.
///
/// # Errors
/// As [`bind`].
pub async fn bind_beside(service: Service, variable: String, host: &str, port: u16) -> Result<TcpListener, BindError> {
    TcpListener::bind((host, port)).await.map_err(|source| {
        let address = format!("{host}:{port}");
        match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { service, address, variable },
            _ => BindError::Other { service, address, variable, source },
        }
    })
}

/// Serves until `shutdown`, then: not ready, wait `drain` while still answering, stop accepting, let requests in flight end
/// for up to `grace`, and close the rest.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    health: Health,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let closing = CancellationToken::new();
    let mut connections = JoinSet::new();
    let mut stop = pin!(async {
        shutdown.cancelled().await;
        health.draining();
        tokio::time::sleep(limits.drain).await;
    });
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let connection = connection(stream, peer, router.clone(), &limits, closing.clone());
                    connections.spawn(connection);
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    closing.cancel();
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.grace, ended).await.is_err() {
        tracing::warn!(open = connections.len(), "connections closed at the end of the grace period");
    }
    connections.shutdown().await;
}

fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    limits: &Limits,
    closing: CancellationToken,
) -> impl Future<Output = ()> + Send + use<> {
    // Answers are small: waiting to fill a packet only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().oneshot(request)
    });
    // The header time-out also ends a connection that is idle between requests.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    async move {
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended");
        }
    }
}
