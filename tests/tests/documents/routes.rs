//! What every service answers.

use anyhow::ensure;
use serde_json::Value;
use symbia_events::Service;
use symbia_tests::binary::until;

use crate::{Platform, Tested};

const REDIRECTS: [(&str, &str); 11] = [
    ("/", "/docs/llms.txt"),
    ("/docs", "/docs/llms.txt"),
    ("/openapi.json", "/docs/openapi.json"),
    ("/api/docs", "/docs/openapi.json"),
    ("/api/docs/openapi.json", "/docs/openapi.json"),
    ("/.well-known/openapi.json", "/docs/openapi.json"),
    ("/llm.txt", "/docs/llms.txt"),
    ("/llms.txt", "/docs/llms.txt"),
    ("/api/docs/llms.txt", "/docs/llms.txt"),
    ("/llms-full.txt", "/docs/llms-full.txt"),
    ("/api/docs/llms-full.txt", "/docs/llms-full.txt"),
];

pub async fn health(platform: &Platform, service: Service) -> Tested {
    until("it is ready", || async { Ok(platform.get(service, "/health/ready").await?.status() == 200) }).await?;
    for path in ["/health", "/health/live", "/health/ready"] {
        let body = platform.json(service, path).await?;
        ensure!(body["status"] == "ok" && body["service"] == service.name(), "{path}: {body}");
        ensure!(body["timestamp"].is_string() && body["version"].is_string(), "{path}: {body}");
    }
    let ready = platform.json(service, "/health/ready").await?;
    for check in ["eventBus", "database"] {
        ensure!(ready["checks"][check]["status"] == "ok", "{ready}");
    }
    ensure!(ready["checks"]["eventBus"]["durability"] == "every acknowledged write is on disk", "{ready}");
    ensure!(platform.json(service, "/health/live").await?["checks"].is_null(), "liveness looks outside the process");
    Ok(())
}

pub async fn documents(platform: &Platform, service: Service) -> Tested {
    for (from, to) in REDIRECTS {
        let answer = platform.get(service, from).await?;
        let location = answer.headers().get("location").and_then(|value| value.to_str().ok()).unwrap_or_default();
        ensure!(answer.status() == 302 && location == to, "{service} {from}: {} {location}", answer.status());
    }
    let title = platform.json(service, "/docs/openapi.json").await?["info"]["title"].clone();
    let title = title.as_str().unwrap_or_default().to_owned();
    ensure!(platform.json(service, "/api/openapi.json").await?["info"]["title"] == title.as_str());
    for (path, first) in [
        ("/docs/llms.txt", format!("# {title}\n")),
        ("/docs/llms-full.txt", format!("# {title} - Complete Documentation\n")),
    ] {
        let answer = platform.get(service, path).await?;
        let kind =
            answer.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let text = answer.text().await?;
        ensure!(kind.starts_with("text/plain") && text.starts_with(&first), "{service} {path}: {kind} {text:.80}");
    }
    let unknown = platform.get(service, "/no/such/place").await?;
    ensure!(unknown.status() == 404 && unknown.json::<Value>().await?["code"] == "NOT_FOUND", "{service}");
    Ok(())
}

pub async fn discovery(platform: &Platform, service: Service) -> Tested {
    let body = platform.json(service, "/api/bootstrap/service").await?;
    ensure!(
        body["service"] == service.name() && body["version"].is_string() && body["description"].is_string(),
        "{body}"
    );
    for document in ["openapi", "llms", "llmsFull"] {
        let path = body["docsUrls"][document].as_str().unwrap_or_default().to_owned();
        ensure!(platform.get(service, &path).await?.status() == 200, "{service} {document}: {path}");
    }
    ensure!(
        body["authentication"].is_array() && body["requiredHeaders"].is_array() && body["endpoints"].is_object(),
        "{body}"
    );
    Ok(())
}

/// Pages of this machine may call in development; what is public may be read by any page, without credentials.
pub async fn cors(platform: &Platform, service: Service) -> Tested {
    let asked = |origin: &'static str, path: &'static str| async move {
        let answer = platform.http.get(platform.url(service, path)?).header("origin", origin).send().await?;
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        anyhow::Ok((header("access-control-allow-origin"), header("access-control-allow-credentials")))
    };
    let (origin, credentials) = asked("http://localhost:3000", "/api/bootstrap/service").await?;
    ensure!(origin.as_deref() == Some("http://localhost:3000") && credentials.as_deref() == Some("true"), "{service}");
    for path in ["/docs/openapi.json", "/docs/llms.txt"] {
        let (origin, credentials) = asked("https://elsewhere.example", path).await?;
        ensure!(
            origin.as_deref() == Some("*") && credentials.is_none(),
            "{service} {path}: {origin:?} {credentials:?}"
        );
    }
    let preflight = platform.http.request(reqwest::Method::OPTIONS, platform.url(service, "/api/bootstrap/service")?);
    let preflight = preflight.header("origin", "http://localhost:3000").header("access-control-request-method", "POST");
    let answer = preflight.header("access-control-request-headers", "x-org-id").send().await?;
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    ensure!(answer.status().is_success(), "{service}: {}", answer.status());
    ensure!(header("access-control-allow-headers").to_lowercase().contains("x-org-id"), "{service}");
    ensure!(header("access-control-allow-methods").contains("POST"), "{service}");
    Ok(())
}

/// What identity alone offers to anyone.
pub async fn identity(platform: &Platform) -> Tested {
    let identity = Service::Identity;
    let keys = platform.json(identity, "/.well-known/jwks.json").await?;
    ensure!(keys["keys"][0]["kty"] == "OKP" && keys["keys"][0]["d"].is_null(), "{keys}");
    let config = platform.json(identity, "/api/auth/config").await?;
    ensure!(config["loginUrl"].is_string() && config["logoutUrl"].is_string(), "{config}");
    let stats = platform.json(identity, "/api/stats").await?;
    ensure!(stats["totalUsers"] == 0 && stats["totalOrgs"] == 0, "{stats}");
    let namespace = platform.json(identity, "/symbia-namespace").await?;
    ensure!(namespace["namespace"] == "identity" && namespace["properties"].is_object(), "{namespace}");
    let state = platform.json(identity, "/api/bootstrap/state").await?;
    ensure!(state["initialized"] == false, "{state}");
    ensure!(platform.get(identity, "/api/auth/me").await?.status() == 401);
    Ok(())
}
