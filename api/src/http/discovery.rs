//! What a service tells about itself: the texts of its documents and `GET /api/bootstrap/service` (platform.md §12).

use serde_json::{Map, Value, json};
use symbia_events::Service;

/// The texts and lists behind the generated documents and service discovery. Fill in what the service has; the rest has
/// the platform's defaults.
#[derive(Clone, Debug)]
pub struct ServiceInfo {
    /// Which service.
    pub service: Service,
    /// Title of the documents, e.g. "Symbia Identity".
    pub title: String,
    /// Version of the API.
    pub version: String,
    /// What the service is for; the first line is its summary.
    pub description: String,
    /// Bullet points under the description.
    pub highlights: Vec<String>,
    /// Name and path of each area.
    pub endpoints: Vec<(&'static str, &'static str)>,
    /// Ways to authenticate, one sentence each.
    pub authentication: Vec<String>,
    /// Headers that a caller has to send.
    pub required_headers: Vec<String>,
    /// Path of the key set.
    pub jwks: Option<String>,
    /// Names of the socket events that clients and the server send.
    pub websocket_events: Option<(Vec<String>, Vec<String>)>,
    /// Rate limits, one line each.
    pub rate_limits: Vec<String>,
    /// Title and text of further sections of the complete document.
    pub sections: Vec<(String, String)>,
    /// Further keys of the discovery body.
    pub extra: Map<String, Value>,
}

impl ServiceInfo {
    /// A service with the platform's ways to authenticate and its limits.
    pub fn new(service: Service, title: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            service,
            title: title.into(),
            version: "1.0.0".to_owned(),
            description: description.into(),
            highlights: Vec::new(),
            endpoints: Vec::new(),
            authentication: [
                "Bearer token: Authorization: Bearer <token>",
                "API key: X-API-Key: <key>",
                "Session cookie: token=<token>",
            ]
            .map(str::to_owned)
            .to_vec(),
            required_headers: Vec::new(),
            jwks: None,
            websocket_events: None,
            rate_limits: [
                "Log-in and recovery: 10 a minute per address and per account",
                "Administration: 30 a minute per principal",
                "Uploads: 10 a minute per principal",
                "Everything else: 600 a minute per principal",
            ]
            .map(str::to_owned)
            .to_vec(),
            sections: Vec::new(),
            extra: Map::new(),
        }
    }

    /// The body of `GET /api/bootstrap/service`.
    #[must_use]
    pub fn bootstrap(&self) -> Value {
        let endpoints: Map<String, Value> = self.endpoints.iter().map(|(n, p)| ((*n).to_owned(), json!(p))).collect();
        let mut body = json!({
            "service": self.service.name(),
            "version": self.version,
            "description": self.description,
            "docsUrls": {
                "openapi": "/docs/openapi.json",
                "llms": "/docs/llms.txt",
                "llmsFull": "/docs/llms-full.txt",
                "openapiDirect": "/openapi.json",
                "openapiApi": "/api/openapi.json",
                "llmsApi": "/api/docs/llms.txt",
                "llmsFullApi": "/api/docs/llms-full.txt",
            },
            "endpoints": endpoints,
            "authentication": self.authentication,
            "requiredHeaders": self.required_headers,
        });
        if let Some(jwks) = &self.jwks {
            body["jwks"] = json!(jwks);
        }
        if let Some((client, server)) = &self.websocket_events {
            body["websocketEvents"] = json!({ "client": client, "server": server });
        }
        if let Value::Object(body) = &mut body {
            body.extend(self.extra.clone());
        }
        body
    }
}
