//! A Socket.IO client over a WebSocket: no more of the protocol than the tests need.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    net::{TcpSocket, lookup_host},
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};
use tokio_tungstenite::{
    client_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderName},
};

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(40);

type Acks = Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>;

/// Something that the server told.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// Its name; `disconnect` when the server ended the connection.
    pub name: String,
    /// Its first argument.
    pub data: Value,
    /// The position behind it, of what is stored.
    pub position: Option<String>,
}

/// How to connect.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What goes with the handshake.
    pub auth: Value,
    /// Headers.
    pub headers: Vec<(&'static str, String)>,
    /// Bytes that the system keeps for a client that does not read.
    pub receive_buffer: Option<u32>,
}

/// A connected client. Dropping it ends the connection without a word.
pub struct SocketClient {
    out: mpsc::UnboundedSender<String>,
    told: mpsc::UnboundedReceiver<Told>,
    acks: Acks,
    calls: AtomicU64,
    read: tokio::sync::watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl SocketClient {
    /// Connects with a token, and the last position that it has.
    pub async fn open(base: &str, token: &str, position: Option<&str>) -> Result<Self> {
        let auth = json!({ "token": token, "position": position });
        Self::connect(base, Options { auth, ..Options::default() }).await
    }

    /// Connects. The error of a refusal is what the server says.
    pub async fn connect(base: &str, options: Options) -> Result<Self> {
        let address = base.trim_start_matches("http://");
        let mut request = format!("ws://{address}/socket.io/?EIO=4&transport=websocket").into_client_request()?;
        for (name, value) in &options.headers {
            request.headers_mut().insert(HeaderName::from_static(name), value.parse()?);
        }
        let peer = lookup_host(address).await?.next().context("no address")?;
        let socket = TcpSocket::new_v4()?;
        if let Some(bytes) = options.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        let (stream, _) = client_async(request, socket.connect(peer).await?).await?;
        let (mut sink, mut source) = stream.split();
        let mut opening = async || -> Result<String> {
            let message = timeout(PATIENCE, source.next()).await?.context("the connection ended")??;
            Ok(message.into_text()?.to_string())
        };
        if !opening().await?.starts_with('0') {
            bail!("no handshake");
        }
        sink.send(Message::text(format!("40{}", options.auth))).await?;
        loop {
            let answer = opening().await?;
            match answer.get(..2) {
                Some("40") => break,
                Some("44") => {
                    let refusal: Value = serde_json::from_str(&answer[2..])?;
                    return Err(anyhow!("{}", refusal["message"].as_str().unwrap_or_default()));
                }
                _ => sink.send(Message::text("3")).await?,
            }
        }
        let (out, mut written) = mpsc::unbounded_channel::<String>();
        let (tell, told) = mpsc::unbounded_channel();
        let (read, mut reading) = tokio::sync::watch::channel(true);
        let (acks, pong) = (Acks::default(), out.clone());
        let (mut tasks, answered) = (JoinSet::new(), Arc::clone(&acks));
        tasks.spawn(async move {
            while let Some(text) = written.recv().await {
                if sink.send(Message::text(text)).await.is_err() {
                    return;
                }
            }
        });
        tasks.spawn(async move {
            loop {
                if reading.wait_for(|on| *on).await.is_err() {
                    return;
                }
                let Some(Ok(Message::Text(text))) = source.next().await else { break };
                if text.as_str() == "2" {
                    let _ = pong.send("3".to_owned());
                } else if let Some(told) = understood(&text, &answered) {
                    let _ = tell.send(told);
                }
            }
            let _ = tell.send(Told { name: "disconnect".to_owned(), data: Value::Null, position: None });
        });
        Ok(SocketClient { out, told, acks, calls: AtomicU64::new(1), read, _tasks: tasks })
    }

    /// Stops reading, or goes on.
    pub fn reads(&self, on: bool) {
        self.read.send_replace(on);
    }

    /// Sends an event without waiting for an answer.
    pub fn emit(&self, name: &str, arguments: &[Value]) {
        let all: Vec<Value> = std::iter::once(json!(name)).chain(arguments.iter().cloned()).collect();
        let _ = self.out.send(format!("42{}", Value::Array(all)));
    }

    /// Sends an event; what comes back is the answer, when it is there.
    pub fn call(&self, name: &str, arguments: &[Value]) -> impl Future<Output = Result<Value>> + Send + use<> {
        let id = self.calls.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.acks.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
        let all: Vec<Value> = std::iter::once(json!(name)).chain(arguments.iter().cloned()).collect();
        let _ = self.out.send(format!("42{id}{}", Value::Array(all)));
        let name = name.to_owned();
        async move { timeout(PATIENCE, answer).await?.with_context(|| format!("{name} was not answered")) }
    }

    /// The next thing that the server tells.
    pub async fn next(&mut self) -> Result<Told> {
        timeout(PATIENCE, self.told.recv()).await.context("nothing came")?.context("the client has ended")
    }

    /// Everything up to and including the first that satisfies.
    pub async fn until(&mut self, done: impl Fn(&Told) -> bool) -> Result<Vec<Told>> {
        let mut seen = Vec::new();
        loop {
            let told = self.next().await.with_context(|| format!("after {seen:?}"))?;
            let last = done(&told);
            seen.push(told);
            if last {
                return Ok(seen);
            }
        }
    }

    /// The next of this name, whatever comes before.
    pub async fn event(&mut self, name: &str) -> Result<Told> {
        self.until(|told| told.name == name).await?.pop().context("nothing")
    }
}

fn understood(text: &str, acks: &Acks) -> Option<Told> {
    let told = |name: &str, data: Value, position| Told { name: name.to_owned(), data, position };
    if text == "41" || text == "1" {
        return Some(told("disconnect", Value::Null, None));
    }
    if let Some(rest) = text.strip_prefix("43") {
        let at = rest.find('[')?;
        let answer: Vec<Value> = serde_json::from_str(&rest[at..]).ok()?;
        let asked = acks.lock().unwrap_or_else(PoisonError::into_inner).remove(&rest[..at].parse().ok()?)?;
        let _ = asked.send(answer.into_iter().next().unwrap_or_default());
        return None;
    }
    // Behind the id of a callback, which this client does not call.
    let event = text.strip_prefix("42")?.trim_start_matches(|c: char| c.is_ascii_digit());
    let mut event: Vec<Value> = serde_json::from_str(event).ok()?;
    let position = event.get(2).and_then(|mark| mark["position"].as_str()).map(str::to_owned);
    let data = if event.len() > 1 { event.remove(1) } else { Value::Null };
    Some(told(event.first()?.as_str()?, data, position))
}
