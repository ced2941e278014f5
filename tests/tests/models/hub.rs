//! A hub of models of a test's own, which breaks off, stalls and sends astray as it is told.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

/// How a file is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Giving {
    /// As it is.
    Whole,
    /// The connection breaks in the middle, the first time.
    BreaksOnce,
    /// Nothing comes after the middle.
    Stalls,
    /// Sends to another address.
    Elsewhere(&'static str),
}

struct File {
    bytes: Bytes,
    giving: Giving,
    asked: AtomicUsize,
}

#[derive(Clone)]
pub struct Hub {
    pub url: String,
    files: Arc<HashMap<String, File>>,
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Hub {
    /// With one repository, `org/small`.
    pub async fn open(files: Vec<(&str, Vec<u8>, Giving)>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let file = |(name, bytes, giving): (&str, Vec<u8>, Giving)| {
            (name.to_owned(), File { bytes: bytes.into(), giving, asked: AtomicUsize::new(0) })
        };
        let hub = Hub { url, files: Arc::new(files.into_iter().map(file).collect()) };
        let routes = Router::new()
            .route("/api/models", get(search))
            .route("/api/models/org/small/tree/main", get(tree))
            .route("/org/small/resolve/main/{file}", get(resolve))
            .with_state(hub.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        hub
    }

    /// How often a file was asked for.
    pub fn asked(&self, file: &str) -> usize {
        self.files[file].asked.load(Relaxed)
    }
}

async fn search(Query(query): Query<HashMap<String, String>>) -> Json<Value> {
    assert_eq!(query["filter"], "gguf");
    Json(json!([{ "id": "org/small", "downloads": 7, "likes": 1, "tags": ["gguf", "license:mit", query["search"]] }]))
}

async fn tree(State(hub): State<Hub>) -> Json<Value> {
    let entry = |(path, file): (&String, &File)| json!({ "type": "file", "path": path, "size": file.bytes.len(), "lfs": { "oid": sha256(&file.bytes), "size": file.bytes.len() } });
    let readme = json!({ "type": "file", "path": "README.md", "size": 10 });
    Json(hub.files.iter().map(entry).chain([readme]).collect())
}

async fn resolve(State(hub): State<Hub>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some(file) = hub.files.get(&name) else { return StatusCode::NOT_FOUND.into_response() };
    let asked = file.asked.fetch_add(1, Relaxed);
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let from: usize =
        range.map_or(0, |range| range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap());
    let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let length = [(header::CONTENT_LENGTH, file.bytes.len() - from)];
    let half = file.bytes.slice(from..from.max(file.bytes.len() / 2));
    let body = match file.giving {
        Giving::Elsewhere(place) => return Redirect::temporary(place).into_response(),
        Giving::BreaksOnce if asked == 0 => {
            Body::from_stream(stream::iter([Ok(half), Err(std::io::Error::other("the connection breaks"))]))
        }
        Giving::Stalls => Body::from_stream(stream::iter([Ok::<_, std::io::Error>(half)]).chain(stream::pending())),
        Giving::BreaksOnce | Giving::Whole => Body::from(file.bytes.slice(from..)),
    };
    (status, length, body).into_response()
}
