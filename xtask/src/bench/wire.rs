//! An HTTP client that takes little of the machine it shares with what it measures: one connection, requests that are written
//! beforehand, answers that are read to their length and looked at no further than the measurement needs.

use std::{net::SocketAddr, ops::Range, sync::Arc};

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::{Method, StatusCode, Url};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::measure::Lanes;

/// Headers of an answer at most.
const HEADERS: usize = 64;
/// What is read at a time.
const READ: usize = 64 * 1024;

/// A request as it goes over a connection. Cheap to clone.
#[derive(Clone)]
pub struct Prepared {
    to: SocketAddr,
    bytes: Arc<[u8]>,
    // The only success, where that is known.
    answered: Option<StatusCode>,
}

impl Prepared {
    /// A request to a server named by its address.
    pub fn new(method: Method, url: &str, token: Option<&str>, body: Option<&Value>) -> Result<Self> {
        let url = Url::parse(url)?;
        let host = url.authority();
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        let mut head = format!("{method} {}{query} HTTP/1.1\r\nhost: {host}\r\n", url.path());
        if let Some(token) = token {
            head += &format!("authorization: Bearer {token}\r\n");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        if !body.is_empty() {
            head += &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
        }
        let to = host.parse().with_context(|| format!("{host} is no address with a port"))?;
        Ok(Prepared { to, bytes: format!("{head}\r\n{body}").into_bytes().into(), answered: None })
    }

    /// The same, with the only status that is a success.
    #[must_use]
    pub fn answered(self, status: StatusCode) -> Self {
        Prepared { answered: Some(status), ..self }
    }
}

/// A connection.
pub struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    /// Connects to where a request goes.
    pub async fn open(request: &Prepared) -> Result<Self> {
        let stream = TcpStream::connect(request.to).await?;
        stream.set_nodelay(true)?;
        Ok(Wire { stream, read: Vec::with_capacity(READ) })
    }

    /// Sends a request; gives the body of the answer, which must be a success.
    pub async fn send(&mut self, request: &Prepared) -> Result<&[u8]> {
        self.stream.write_all(&request.bytes).await?;
        self.read.clear();
        let (status, body) = loop {
            ensure!(self.stream.read_buf(&mut self.read).await? > 0, "the connection ended before the answer");
            if let Some(head) = head(&self.read)? {
                break head;
            }
        };
        while self.read.len() < body.end {
            ensure!(self.stream.read_buf(&mut self.read).await? > 0, "the connection ended within the answer");
        }
        let body = self.read.get(body).context("no body")?;
        let good = request.answered.map_or(status.is_success(), |wanted| status == wanted);
        ensure!(good, "{status} {}", String::from_utf8_lossy(body));
        Ok(body)
    }
}

// The status of an answer, and where its body lies; none while its head is not whole.
fn head(read: &[u8]) -> Result<Option<(StatusCode, Range<usize>)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(begin) = answer.parse(read)? else { return Ok(None) };
    let length = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let Some(length) = length else { bail!("an answer without a length: {}", String::from_utf8_lossy(read)) };
    let length: usize = str::from_utf8(length.value)?.trim().parse()?;
    let status = StatusCode::from_u16(answer.code.context("no status")?)?;
    Ok(Some((status, begin..begin + length)))
}

/// A connection with the request that goes over it, again and again.
pub type Lane = (Wire, Prepared);

/// A lane for each request.
pub async fn lanes(requests: impl IntoIterator<Item = Prepared>) -> Result<Lanes<Lane>> {
    let mut items = Vec::new();
    for request in requests {
        items.push((Wire::open(&request).await?, request));
    }
    let count = items.len();
    Ok(Lanes::deal(items, count))
}

/// A step of a lane.
pub async fn exchange((mut wire, request): Lane) -> Result<Lane> {
    wire.send(&request).await?;
    Ok((wire, request))
}
