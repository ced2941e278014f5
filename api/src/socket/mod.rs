//! Socket.IO (protocol 5 over Engine.IO 4) as every service mounts it: who may connect, calls in their order, slow clients,
//! and the end of those who may not stay (messaging.md §7).
//!
//! A service says what its calls do ([`SocketService`]); what its sockets are told comes from the log, so that any process
//! serves any client and nothing is kept between two connections.

mod admission;
mod arguments;
mod ending;
mod handshake;
mod peer;
mod slim;

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, PoisonError, RwLock, Weak},
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Router,
    extract::Request,
    http::{StatusCode, header},
    middleware::{Next, from_fn},
    response::IntoResponse,
};
use serde_json::Value;
use socketioxide::{
    ParserConfig, SocketIo,
    extract::{AckSender, Event, SocketRef, TryData},
    handler::ConnectHandler,
    socket::Sid,
};
use tokio_util::sync::CancellationToken;

pub use ending::{NotSent, emit, end};
pub use peer::Peer;
pub(crate) use peer::refused;

use self::{arguments::Arguments, handshake::Credential, peer::Call};
use crate::{
    feed::Feed,
    http::{
        ApiError, Authenticator, Caller, Principal,
        cors::CorsConfig,
        principal::{AuthType, PrincipalKind},
    },
    platform::Platform,
};

/// Largest packet of a client, in bytes.
const PAYLOAD_MAX: usize = 1_000_000;
/// Packets that wait for a client; one that takes them more slowly is cut.
const QUEUE: usize = 512;
/// A client has so long to name its credential after the transport is open.
const CONNECT_WITHIN: Duration = Duration::from_secs(45);
/// Clients say little: a small buffer for each keeps many idle ones cheap. It grows with what they say, and stays so large.
const READ_BUFFER: usize = 256;

/// Times and limits of the transport. Defaults of the times: messaging.md §7.1.
#[derive(Clone, Copy, Debug)]
pub struct SocketOptions {
    /// Between signs of life that the server asks for.
    pub ping_interval: Duration,
    /// How long a client may take to give one.
    pub ping_timeout: Duration,
    /// Connections of one principal at a time, in each process and service.
    pub per_principal: usize,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self { ping_interval: Duration::from_secs(25), ping_timeout: Duration::from_secs(60), per_principal: 200 }
    }
}

/// What a service does with its sockets.
#[async_trait]
pub trait SocketService: Send + Sync + 'static {
    /// Whether somebody may connect whom nobody knows, or whose credential is not good. [`Peer::is_nobody`] tells them.
    fn admits_anybody(&self) -> bool {
        false
    }

    /// Somebody is let in as nobody, whose credential is not good; the token, where it was one.
    fn unknown(&self, _token: Option<&str>) {}

    /// A peer is connected; its calls wait until this returns. `auth` is what it sent with the handshake.
    async fn opened(&self, socket: SocketRef, peer: &Arc<Peer>, auth: Value);

    /// Does what a peer asks for. The answer goes to the callback, if it gave one. Calls of one peer come one after another.
    async fn called(&self, peer: &Arc<Peer>, socket: &SocketRef, call: &str, arguments: Vec<Value>) -> Value;

    /// What a peer may do is another than before.
    async fn changed(&self, socket: SocketRef, peer: &Arc<Peer>);

    /// A client has gone: once for each that was let in.
    fn gone(&self) {}

    /// A peer has gone.
    fn closed(&self, peer: &Peer);
}

/// What sockets stand on.
#[derive(Clone)]
pub struct SocketGround {
    /// The platform.
    pub platform: Platform,
    /// The log, for news of those who are connected.
    pub feed: Feed,
    /// Who turns credentials into principals.
    pub authenticator: Arc<dyn Authenticator>,
    /// Which pages may connect.
    pub cors: CorsConfig,
    /// Times and limits of the transport.
    pub times: SocketOptions,
    /// Fires when the service stops: its clients are sent elsewhere.
    pub drained: CancellationToken,
}

/// The sockets of one service in this process. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sockets(Arc<Inner>);

struct Inner {
    ground: SocketGround,
    service: Arc<dyn SocketService>,
    peers: RwLock<HashMap<Sid, (SocketRef, Arc<Peer>)>>,
    principals: RwLock<HashMap<String, Seated>>,
    watching: OnceLock<()>,
}

/// The sockets of one principal: how many, and what they share of it.
#[derive(Default)]
struct Seated {
    sockets: usize,
    principal: Weak<Principal>,
}

/// The routes of Socket.IO, for [`crate::http::ServiceApp::undocumented`].
pub fn routes(ground: SocketGround, service: Arc<dyn SocketService>) -> Router {
    let (cors, options, drained) = (ground.cors.clone(), ground.times, ground.drained.clone());
    let sockets = Sockets(Arc::new(Inner {
        ground,
        service,
        peers: RwLock::default(),
        principals: RwLock::default(),
        watching: OnceLock::new(),
    }));
    let (transport, io) = SocketIo::builder()
        .with_parser(ParserConfig::common().max_incoming_binaries(0).max_incoming_binary_buf_size(0))
        .ping_interval(options.ping_interval)
        .ping_timeout(options.ping_timeout)
        .connect_timeout(CONNECT_WITHIN)
        .max_payload(PAYLOAD_MAX as u64)
        .ws_max_message_size(PAYLOAD_MAX)
        .ws_max_frame_size(PAYLOAD_MAX)
        .ws_read_buffer_size(READ_BUFFER)
        .max_buffer_size(QUEUE)
        .build_svc();
    let (admitting, opening, closing) = (sockets.clone(), sockets, io.clone());
    let admit = move |socket: SocketRef, TryData(auth): TryData<Value>| {
        let (sockets, drained, io) = (admitting.clone(), drained.clone(), closing.clone());
        async move {
            sockets.watch(drained, io);
            sockets.admit(&socket, auth.unwrap_or_default()).await
        }
    };
    let open = move |socket: SocketRef, TryData(auth): TryData<Value>| {
        let sockets = opening.clone();
        async move { sockets.open(socket, auth.unwrap_or_default()).await }
    };
    io.ns("/", open.with(admit));
    // Browsers ask no permission before they open a WebSocket, and send cookies along.
    let guard = from_fn(move |request: Request, next: Next| {
        let allowed = cors.allows(request.headers().get(header::ORIGIN));
        async move {
            if allowed {
                return next.run(slim::slim(request)).await;
            }
            let message = "Pages of this origin may not call this service";
            ApiError::new(StatusCode::BAD_REQUEST, "ORIGIN_NOT_ALLOWED", message)
                .with_hint("Add the origin to CORS_ALLOWED_ORIGINS.")
                .into_response()
        }
    });
    Router::new().route_service("/socket.io/", transport.clone()).route_service("/socket.io", transport).layer(guard)
}

impl Sockets {
    /// Lets a client in, or says why not. Its calls are heard from now on, before it knows that it is connected.
    async fn admit(&self, socket: &SocketRef, auth: Value) -> Result<(), String> {
        let credential = Credential::of(&socket.req_parts().headers, &auth);
        let (credential, caller) = match credential.caller(&self.0.ground.authenticator).await {
            Ok(caller) => (credential, caller),
            Err(error) if error.status() != StatusCode::UNAUTHORIZED => return Err(error.message().to_owned()),
            Err(_) if self.0.service.admits_anybody() => {
                if !credential.is_none() {
                    self.0.service.unknown(credential.token());
                }
                let nobody = Principal::new("anonymous", PrincipalKind::User, AuthType::Session);
                (Credential::none(), nobody.into())
            }
            Err(_) => return Err("Authentication required".to_owned()),
        };
        let caller = self.seat(caller)?;
        let peer = Arc::new(Peer::new(socket, credential, caller, &auth));
        let hearing = self.clone();
        let speaker = Arc::clone(&peer);
        // Without a wait before it: calls are taken in the order in which they come.
        let hear = move |socket: SocketRef, Event(name), TryData(arguments): TryData<Arguments>, ack: AckSender| {
            let call = Call { name, arguments: arguments.ok().map(|a| a.0), ack };
            if let Some(first) = speaker.queue(call) {
                tokio::spawn(hearing.clone().serve(socket, Arc::clone(&speaker), first));
            }
            std::future::ready(())
        };
        socket.on_fallback(hear);
        let closing = self.clone();
        socket.on_disconnect(move |socket: SocketRef| {
            closing.closed(socket.id);
            std::future::ready(())
        });
        self.0.peers.write().unwrap_or_else(PoisonError::into_inner).insert(socket.id, (socket.clone(), peer));
        Ok(())
    }

    async fn open(self, socket: SocketRef, auth: Value) {
        let peer =
            self.0.peers.read().unwrap_or_else(PoisonError::into_inner).get(&socket.id).map(|p| Arc::clone(&p.1));
        let Some(peer) = peer else { return };
        tracing::debug!(principal = %peer.caller().id, sid = %socket.id, "socket connected");
        self.0.service.opened(socket.clone(), &peer, auth).await;
        if let Some(first) = peer.next() {
            self.serve(socket, peer, first).await;
        }
    }

    /// Serves calls of a peer until none waits.
    async fn serve(self, socket: SocketRef, peer: Arc<Peer>, first: Call) {
        let mut next = Some(first);
        while let Some(Call { name, arguments, ack }) = next {
            let answer = match arguments {
                Some(arguments) => self.0.service.called(&peer, &socket, &name, arguments).await,
                None => peer::refused("The arguments are not valid", "VALIDATION_FAILED"),
            };
            // Nobody is there to be told, or it is slow and will be cut.
            let _ = ack.send(&answer);
            next = peer.next();
        }
    }

    fn closed(&self, id: Sid) {
        let gone = self.0.peers.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if let Some((_, peer)) = gone {
            let principal = peer.caller().id.clone();
            tracing::debug!(%principal, sid = %id, "socket gone");
            self.0.service.closed(&peer);
            self.0.service.gone();
            drop(peer);
            let mut known = self.0.principals.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(seated) = known.get_mut(&principal) {
                seated.sockets = seated.sockets.saturating_sub(1);
                if seated.sockets == 0 {
                    known.remove(&principal);
                }
            }
        }
    }

    /// Takes one more of the seats of a principal, or says that it has none left.
    fn seat(&self, caller: Caller) -> Result<Caller, String> {
        let most = self.0.ground.times.per_principal;
        let mut known = self.0.principals.write().unwrap_or_else(PoisonError::into_inner);
        let seated = known.entry(caller.id.clone()).or_default();
        if seated.sockets >= most {
            tracing::warn!(principal = %caller.id, most, "one more socket is refused");
            return Err(format!("Too many connections: {most} are open already, close one first"));
        }
        seated.sockets += 1;
        Ok(caller.sharing(|principal| seated.share(principal)))
    }

    /// The same principal as another socket has, where they are equal.
    fn shared(&self, caller: Caller) -> Caller {
        let mut known = self.0.principals.write().unwrap_or_else(PoisonError::into_inner);
        match known.get_mut(&caller.id) {
            Some(seated) => caller.sharing(|principal| seated.share(principal)),
            None => caller,
        }
    }
}

impl Seated {
    fn share(&mut self, principal: Arc<Principal>) -> Arc<Principal> {
        match self.principal.upgrade() {
            Some(same) if same == principal => same,
            _ => {
                self.principal = Arc::downgrade(&principal);
                principal
            }
        }
    }
}
