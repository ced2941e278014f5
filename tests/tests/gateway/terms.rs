//! What a registration says of an API: a document in parts, and how often it may be called.

use anyhow::ensure;
use serde_json::{Value, json};

use crate::{
    Tested,
    registry::{Server, invoke, register},
    stage::{Answered, Stage},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_document_in_parts_is_read_whole_and_leads_nowhere_else() -> Tested {
    let stage = Stage::open().await?;
    let ada = stage.register("ada").await?;
    let server = Server::start("").await?;
    let at = |name: &str| format!("{}/split/{name}", server.base);
    let source = json!({ "key": "pets", "type": "openapi", "openapi": { "specUrl": at("openapi.yaml") } });
    let made = register(&stage, &ada, source).await?;
    ensure!(made.status == 200, "{}", made.body);
    let inline = json!({ "openapi": "3.1.0", "paths": { "/pets": { "post": { "operationId": "createPet",
        "parameters": [{ "$ref": format!("{}#/parameters/Lang", at("common.yaml")) }],
        "requestBody": { "content": { "application/json": { "schema":
            { "$ref": format!("{}#/schemas/Pet", at("common.yaml")) } } } } } } } });
    let parse = |body: Value| stage.ask(&ada, "POST", "/api/integrations/parse/openapi", Some(body));
    let parsed = parse(json!({ "spec": inline })).await?;
    ensure!(parsed.status == 200, "{}", parsed.body);
    for operation in [&made.body["integration"]["operations"][0], &parsed.body["operations"][0]] {
        ensure!(
            operation["parameters"][0]
                == json!({ "name": "lang", "location": "query", "required": false,
            "schema": { "type": "string" } }),
            "{operation}"
        );
        ensure!(operation["requestBody"]["schema"]["properties"]["name"]["type"] == "string", "{operation}");
    }
    let inside = register(
        &stage,
        &ada,
        json!({ "key": "inside", "type": "openapi", "openapi": { "specUrl": at("inside.yaml") } }),
    );
    let inside = inside.await?;
    let says = |answer: &Answered| {
        answer.body["message"].as_str().is_some_and(|text| text.contains("http://10.0.0.1/common.yaml"))
    };
    ensure!(inside.status == 400 && says(&inside), "{}", inside.body);
    let parsed = parse(json!({ "specUrl": at("inside.yaml") })).await?;
    ensure!(parsed.status == 400 && parsed.body.to_string().contains("not a public one"), "{}", parsed.body);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_called_as_often_as_its_organization_allows() -> Tested {
    let stage = Stage::open().await?;
    let (ada, bob) = (stage.register("ada").await?, stage.register("bob").await?);
    let server = Server::start("").await?;
    let things = |limit: Value| {
        let operation = |id: &str| json!({ "id": id, "method": "GET", "path": format!("/v1/{id}") });
        json!({ "key": "things", "type": "custom", "serverUrl": server.base, "auth": { "type": "none" },
            "operations": [operation("list"), operation("count")], "rateLimit": limit })
    };
    let limit = json!({ "requestsPerMinute": 4, "operations": { "list": { "requestsPerMinute": 2 } } });
    for wrong in [json!({ "requestsPerMinute": 0 }), json!({ "operations": { "list": { "requestsPerSecond": 0 } } })] {
        ensure!(register(&stage, &ada, things(wrong)).await?.status == 400);
    }
    let made = register(&stage, &ada, things(limit.clone())).await?;
    ensure!(made.status == 200 && made.body["integration"]["rateLimit"] == limit, "{}", made.body);
    ensure!(register(&stage, &bob, things(limit)).await?.status == 200);
    let statuses = |who, operations: &'static [&'static str]| {
        let stage = &stage;
        async move {
            let mut statuses = Vec::new();
            for operation in operations {
                statuses.push(invoke(stage, who, operation, json!({})).await?.status);
            }
            anyhow::Ok(statuses)
        }
    };
    // Two of the one, four of both.
    let calls = &["things.list", "things.list", "things.list", "things.count", "things.count", "things.count"];
    let of_ada = statuses(&ada, calls).await?;
    ensure!(of_ada == [200, 200, 429, 200, 200, 429], "{of_ada:?}");
    let refused = invoke(&stage, &ada, "things.list", json!({})).await?;
    ensure!(
        refused.body["code"] == "RATE_LIMITED" && refused.body["retryAfter"].as_u64() > Some(0),
        "{}",
        refused.body
    );
    // What ada has used up is nothing of bob's.
    ensure!(statuses(&bob, calls).await? == of_ada, "bob is counted with ada");
    ensure!(server.seen().len() == 8, "the server was asked beyond the limit");
    Ok(())
}
