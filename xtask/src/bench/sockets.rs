//! Many sockets: how soon a message is with all of a thousand, and the memory of ten thousand idle ones. The server is the
//! release build of `symbia`, a process of its own.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::{SinkExt, StreamExt, stream};
use serde_json::json;
use tokio::{net::TcpStream, sync::mpsc, task::JoinSet};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use super::{
    Bench,
    api::{PATIENCE, Person, register, say, talk},
    measure::percentile,
    process,
    table::{Row, Target},
};

/// Rows of this group.
pub const ROWS: [&str; 2] = ["room_1000", "idle_sockets_10000"];
const ROOM: usize = 1000;
const IDLE: usize = 10_000;
/// Handshakes at a time.
const CONNECTING: usize = 64;
/// One person may write five messages a second in a conversation.
const BETWEEN: Duration = Duration::from_millis(210);
/// Memory that only connecting needed has had time to be given back.
const SETTLED: Duration = Duration::from_secs(5);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Measures the rows.
pub async fn run(bench: &mut Bench) -> Result<()> {
    let Some(symbia) = process::Symbia::start_with(&[("SOCKETS_PER_PRINCIPAL", "20000")]).await? else { return Ok(()) };
    let (identity, messaging) = (symbia.base(5001), symbia.base(5005));
    let http = reqwest::Client::new();
    let ada = register(&http, &identity).await?;
    let talk = talk(&http, &messaging, &ada).await?;
    if bench.wants(&ROWS[..1]) {
        let sockets = connect(&messaging, &ada, ROOM).await?;
        let samples = bench.scale.samples.min(100);
        let (delivered, mut arrivals) = mpsc::unbounded_channel();
        let mut readers = JoinSet::new();
        for socket in sockets {
            readers.spawn(follow(socket, delivered.clone()));
        }
        let mut last = Vec::new();
        for _ in 0..samples {
            let next = tokio::time::Instant::now() + BETWEEN;
            let began = Instant::now();
            say(&http, &messaging, &ada, &talk, "to everybody").await?;
            let mut latest = began;
            for _ in 0..ROOM {
                let at: Option<Instant> = tokio::time::timeout(PATIENCE, arrivals.recv()).await?;
                latest = latest.max(at.context("a socket ended")?);
            }
            last.push(latest - began);
            tokio::time::sleep_until(next).await;
        }
        readers.shutdown().await;
        let millis = percentile(&last, 0.99).as_secs_f64() * 1e3;
        let what = format!("a message to {ROOM} sockets of one room, until the last has it, p99 (with writing it)");
        push(bench, ROWS[0], what, millis, "ms", 100.0);
    }
    if bench.wants(&ROWS[1..]) {
        let sockets = connect(&messaging, &ada, IDLE).await?;
        tokio::time::sleep(SETTLED).await;
        ensure!(sockets.len() == IDLE, "{} sockets", sockets.len());
        push(
            bench,
            ROWS[1],
            format!("memory of `symbia up` with {IDLE} idle sockets"),
            symbia.megabytes()?,
            "MB",
            300.0,
        );
    }
    symbia.stop().await
}

async fn connect(base: &str, who: &Person, count: usize) -> Result<Vec<Socket>> {
    let url = format!("{}/socket.io/?EIO=4&transport=websocket", base.replace("http://", "ws://"));
    let sockets = (0..count).map(|_| open(url.clone(), who.token.clone()));
    let opened: Vec<Result<Socket>> = stream::iter(sockets).buffer_unordered(CONNECTING).collect().await;
    opened.into_iter().collect()
}

/// Connects, and waits until the socket sits in its rooms.
async fn open(url: String, token: String) -> Result<Socket> {
    let (mut socket, _) = tokio::time::timeout(PATIENCE, connect_async(url)).await??;
    socket.send(Message::text(format!("40{}", json!({ "token": token })))).await?;
    loop {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await?.context("the connection ended")??;
        match message.to_text()? {
            "2" => socket.send(Message::text("3")).await?,
            text if text.starts_with("42[\"opened\"") => return Ok(socket),
            text if text.starts_with("44") => bail!("refused: {text}"),
            _ => {}
        }
    }
}

/// Tells when a message arrives.
async fn follow(mut socket: Socket, delivered: mpsc::UnboundedSender<Instant>) {
    while let Some(Ok(message)) = socket.next().await {
        let Ok(text) = message.to_text() else { continue };
        if text.starts_with("42[\"message:new\"") {
            if delivered.send(Instant::now()).is_err() {
                return;
            }
        } else if text == "2" && socket.send(Message::text("3")).await.is_err() {
            return;
        }
    }
}

fn push(bench: &mut Bench, name: &'static str, what: String, ours: f64, unit: &'static str, most: f64) {
    bench.table.push(Row { name, what, ours, raw: None, ratio: None, unit, target: Target::AtMost(most) });
}
