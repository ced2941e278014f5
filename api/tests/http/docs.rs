//! The generated documents and their addresses.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::stage::{fetch, service};

#[tokio::test]
async fn every_historic_address_leads_to_a_document() {
    let router = service().router();
    for (from, to) in [
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
    ] {
        let answer = fetch(&router, from, &[]).await;
        assert_eq!((answer.status, answer.header("location")), (StatusCode::FOUND, Some(to)), "{from}");
        assert_eq!(fetch(&router, to, &[]).await.status, StatusCode::OK, "{to}");
    }
}

#[tokio::test]
async fn the_openapi_document_describes_the_routes_the_platform_adds_and_how_to_authenticate() {
    let router = service().router();
    let answer = fetch(&router, "/docs/openapi.json", &[]).await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let document = answer.json();
    assert_eq!(fetch(&router, "/api/openapi.json", &[]).await.json(), document);
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["servers"], json!([{ "url": "/api" }]));
    assert_eq!(document["info"]["title"], "Symbia Parcels");
    let paths: Vec<_> = document["paths"].as_object().expect("paths").keys().map(String::as_str).collect();
    assert_eq!(
        paths,
        [
            "/bootstrap/service",
            "/docs/llms-full.txt",
            "/docs/llms.txt",
            "/docs/openapi.json",
            "/health",
            "/health/live",
            "/health/ready",
            "/parcels",
            "/parcels/{id}",
        ]
    );
    assert_eq!(document["paths"]["/health"]["servers"], json!([{ "url": "/" }]));
    assert_eq!(document["paths"]["/parcels"]["servers"], Value::Null);
    let post = &document["paths"]["/parcels"]["post"];
    assert_eq!(post["security"], json!([{}]));
    assert_eq!(post["responses"]["default"], json!({ "$ref": "#/components/responses/Error" }));
    assert_eq!(document["security"], json!([{ "bearer": [] }, { "apiKey": [] }, { "cookie": [] }]));
    let components = &document["components"];
    assert_eq!(components["securitySchemes"]["cookie"], json!({ "type": "apiKey", "in": "cookie", "name": "token" }));
    assert_eq!(
        components["securitySchemes"]["apiKey"],
        json!({ "type": "apiKey", "in": "header", "name": "X-API-Key" })
    );
    assert_eq!(
        components["securitySchemes"]["bearer"],
        json!({ "type": "http", "scheme": "bearer", "bearerFormat": "JWT" })
    );
    assert_eq!(components["parameters"]["OrgId"]["name"], "X-Org-Id");
    assert_no_dangling_references(&document, &document);
}

fn assert_no_dangling_references(document: &Value, value: &Value) {
    match value {
        Value::Object(fields) => {
            if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
                assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{target}");
            }
            fields.values().for_each(|v| assert_no_dangling_references(document, v));
        }
        Value::Array(items) => items.iter().for_each(|v| assert_no_dangling_references(document, v)),
        _ => {}
    }
}

#[tokio::test]
async fn the_short_text_lists_the_operations() {
    let answer = fetch(&service().router(), "/docs/llms.txt", &[]).await;
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    let expected = "# Symbia Parcels\n\n> Sends parcels.\n\n## Overview\n\nSends parcels.\nAnd nothing else.\n\n\
        ## API Base URL\n\n`/api`\n\n## Quick Reference\n\n\
        - GET /api/bootstrap/service - Describe this service\n\
        - GET /docs/llms-full.txt - Complete description for language models\n\
        - GET /docs/llms.txt - Short description for language models\n\
        - GET /docs/openapi.json - This document\n\
        - GET /health - Whether the service takes requests\n\
        - GET /health/live - Whether the process lives\n\
        - GET /health/ready - Whether the service and what it depends on work\n\
        - POST /api/parcels - Send a parcel\n\
        - GET /api/parcels/{id} - Read a parcel\n\n\
        ## Authentication\n\n";
    assert!(answer.text.starts_with(expected), "{}", answer.text);
    assert_eq!(
        sections(&answer.text),
        [
            "Overview",
            "API Base URL",
            "Quick Reference",
            "Authentication",
            "Custom Headers",
            "Rate Limits",
            "Documentation"
        ]
    );
}

#[tokio::test]
async fn the_complete_text_explains_operations_and_models() {
    let text = fetch(&service().router(), "/docs/llms-full.txt", &[]).await.text;
    assert!(text.starts_with("# Symbia Parcels - Complete Documentation\n\nSends parcels.\n"), "{text}");
    assert_eq!(
        sections(&text),
        [
            "Overview",
            "Custom Headers",
            "API Reference",
            "Data Models",
            "Rate Limits",
            "Authentication",
            "Documentation"
        ]
    );
    let post = "#### POST /api/parcels\n\nSend a parcel\n\nRequest body:\n\n```json\n{\n  \"items\": [\n    {\n      \
        \"sku\": \"string\"\n    }\n  ],\n  \"recipient\": \"string\",\n  \"weight\": 0\n}\n```\n\nResponse 200: The parcel\n";
    assert!(text.contains(post), "{text}");
    let get = "#### GET /api/parcels/{id}\n\nRead a parcel\n\nPath parameters:\n\n- `id` (number): Number of the parcel\n\n\
        Query parameters:\n\n- `limit` (number)\n\n";
    assert!(text.contains(get), "{text}");
    let model =
        "interface Parcel {\n  items?: Array<Item>;\n  recipient: string; // Who gets it.\n  weight: number;\n}";
    assert!(text.contains(model), "{text}");
}

fn sections(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("## ")).collect()
}

#[tokio::test]
async fn discovery_says_what_the_service_is() {
    assert_eq!(
        fetch(&service().router(), "/api/bootstrap/service", &[]).await.json(),
        json!({
            "service": "identity",
            "version": "1.0.0",
            "description": "Sends parcels.\nAnd nothing else.",
            "docsUrls": {
                "openapi": "/docs/openapi.json", "llms": "/docs/llms.txt", "llmsFull": "/docs/llms-full.txt",
                "openapiDirect": "/openapi.json", "openapiApi": "/api/openapi.json",
                "llmsApi": "/api/docs/llms.txt", "llmsFullApi": "/api/docs/llms-full.txt",
            },
            "endpoints": { "parcels": "/api/parcels" },
            "authentication": [
                "Bearer token: Authorization: Bearer <token>",
                "API key: X-API-Key: <key>",
                "Session cookie: token=<token>",
            ],
            "requiredHeaders": [],
        })
    );
}
