//! An MCP server of the tests' own: it tells the weather, and what it was asked.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::ensure;
use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use tokio::sync::{Barrier, Semaphore};

use crate::{
    Tested,
    stage::{Person, Stage},
};

#[derive(Clone)]
pub struct Weather {
    pub url: String,
    // The tools that were called, with what.
    called: Arc<Mutex<Vec<(String, Value)>>>,
    gate: Arc<Semaphore>,
    pair: Arc<Barrier>,
}

impl Weather {
    pub async fn start() -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let weather = Weather {
            url: format!("http://{}/mcp", listener.local_addr()?),
            called: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
            pair: Arc::new(Barrier::new(2)),
        };
        let app = Router::new().route("/mcp", post(answer)).with_state(weather.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(weather)
    }

    /// Registers it for somebody's organization.
    pub async fn register(&self, stage: &Stage, who: &Person, key: &str) -> Tested {
        let new = json!({ "key": key, "transport": "http", "serverUrl": self.url, "auth": { "type": "none" } });
        let made = stage.ask(who, "POST", "/api/integrations/mcp/register", Some(new)).await?;
        ensure!(made.status == 200 && made.body["operationCount"] == 5, "{} {}", made.status, made.body);
        Ok(())
    }

    /// The tools that were called since it was last looked at, with what.
    pub fn called(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut self.called.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many calls there were since it was last looked at.
    pub fn count(&self) -> usize {
        self.called.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Lets the tool `wait` end so many calls.
    pub fn let_end(&self, calls: usize) {
        self.gate.add_permits(calls);
    }
}

fn tools() -> Value {
    let city = json!({ "type": "object", "required": ["city"], "properties": { "city": { "type": "string" } } });
    let nothing = json!({ "type": "object" });
    json!([
        { "name": "forecast", "description": "Tells the weather of a city.", "inputSchema": city,
          "annotations": { "readOnlyHint": true } },
        { "name": "fail", "description": "Fails.", "inputSchema": nothing },
        { "name": "wait", "description": "Waits to be let.", "inputSchema": nothing },
        { "name": "meet", "description": "Waits for another call of it.", "inputSchema": nothing },
        { "name": "talk", "description": "Talks a lot.", "inputSchema": nothing },
    ])
}

async fn answer(State(weather): State<Weather>, Json(message): Json<Value>) -> Response {
    let result = match message["method"].as_str() {
        Some("initialize") => json!({
            "protocolVersion": message["params"]["protocolVersion"], "capabilities": { "tools": {} },
            "serverInfo": { "name": "weather", "version": "1" },
        }),
        Some("tools/list") => json!({ "tools": tools() }),
        Some("tools/call") => weather.call(&message["params"]).await,
        Some(notification) if notification.starts_with("notifications/") => {
            return StatusCode::ACCEPTED.into_response();
        }
        _ => {
            let error = json!({ "code": -32601, "message": "no such method" });
            return Json(json!({ "jsonrpc": "2.0", "id": message["id"], "error": error })).into_response();
        }
    };
    Json(json!({ "jsonrpc": "2.0", "id": message["id"], "result": result })).into_response()
}

impl Weather {
    async fn call(&self, params: &Value) -> Value {
        let (name, arguments) = (params["name"].as_str().unwrap_or_default(), params["arguments"].clone());
        self.called.lock().unwrap_or_else(PoisonError::into_inner).push((name.to_owned(), arguments.clone()));
        let (text, failed) = match name {
            "forecast" => (format!("{}: rain", arguments["city"].as_str().unwrap_or("nowhere")), false),
            "wait" => {
                if let Ok(permit) = self.gate.acquire().await {
                    permit.forget();
                }
                ("it is over".to_owned(), false)
            }
            "meet" => {
                let met = tokio::time::timeout(Duration::from_secs(20), self.pair.wait()).await;
                (if met.is_ok() { "met" } else { "alone" }.to_owned(), false)
            }
            "talk" => ("so ".repeat(20_000), false),
            _ => ("the barometer is broken".to_owned(), true),
        };
        json!({ "content": [{ "type": "text", "text": text }], "isError": failed })
    }
}
