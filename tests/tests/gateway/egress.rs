//! Where an organization lets its own calls go: from the next call on, for every kind of call, and for nobody else.

use anyhow::ensure;
use serde_json::{Value, json};

use crate::{
    Tested,
    limits::chat,
    registry::{Server, invoke, register},
    stage::{Answered, Person, Stage},
};

const POLICY: &str = "/api/integrations/egress-policy";

async fn set(stage: &Stage, who: &Person, policy: Value) -> anyhow::Result<Answered> {
    let set = stage.ask(who, "PUT", POLICY, Some(policy)).await?;
    ensure!(set.status == 200, "{}", set.body);
    Ok(set)
}

// The status, and what is said.
async fn said(stage: &Stage, who: &Person) -> anyhow::Result<(u16, Value)> {
    let answered = chat(stage, &who.token, json!({})).await?;
    Ok((answered.status().as_u16(), answered.json().await?))
}

fn names(body: &Value, words: &[&str]) -> bool {
    let text = body.to_string();
    words.iter().all(|word| text.contains(word))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_says_where_its_calls_go_and_that_counts_at_once() -> Tested {
    let stage = Stage::open().await?;
    let (ada, bob) = (stage.register("ada").await?, stage.register("bob").await?);
    let server = Server::start("").await?;
    let elsewhere = server.base.replace("127.0.0.1", "localhost");
    let server = Server::start(&elsewhere).await?;
    let first = stage.ask(&ada, "GET", POLICY, None).await?;
    ensure!(first.status == 200 && first.body["version"] == 0 && first.body["allowHttp"] == true, "{}", first.body);
    ensure!(said(&stage, &ada).await?.0 == 200, "nothing is narrowed yet");
    stage.vendor.asked();

    // A host that is denied is not asked, whoever the call is of, and the refusal says why and what to do.
    let denied = set(&stage, &ada, json!({ "denyHosts": ["127.0.0.1", "*.Evil.example"] })).await?;
    ensure!(denied.body["version"] == 1 && denied.body["denyHosts"] == json!(["*.evil.example", "127.0.0.1"]));
    let words = ["'127.0.0.1'", "denyHosts", "PUT /api/integrations/egress-policy"];
    let (status, body) = said(&stage, &ada).await?;
    ensure!(status == 403 && body["code"] == "EGRESS_POLICY" && body["category"] == "auth", "{status} {body}");
    ensure!(body["retryable"] == false && names(&body, &words), "{body}");
    ensure!(stage.vendor.asked().is_empty(), "the vendor was asked");
    let pets = json!({ "key": "pets", "type": "openapi", "auth": { "type": "none" },
        "openapi": { "specUrl": format!("{}/openapi.yaml", server.base) } });
    let unread = register(&stage, &ada, pets.clone()).await?;
    ensure!(unread.status == 400 && names(&unread.body, &words), "{} {}", unread.status, unread.body);
    let source = json!({ "specUrl": format!("{}/openapi.yaml", server.base) });
    let parsed = stage.ask(&ada, "POST", "/api/integrations/parse/openapi", Some(source.clone())).await?;
    ensure!(parsed.status == 403 && parsed.body["code"] == "EGRESS_POLICY", "{} {}", parsed.status, parsed.body);
    let tools = json!({ "serverUrl": format!("{}/mcp", server.base) });
    let tools = stage.ask(&ada, "POST", "/api/integrations/parse/mcp", Some(tools)).await?;
    ensure!(tools.status == 403 && names(&tools.body, &words), "{} {}", tools.status, tools.body);

    // Nobody else's calls are narrowed, and nobody else sees or changes it.
    ensure!(said(&stage, &bob).await?.0 == 200, "bob's calls are kept in");
    ensure!(stage.ask(&bob, "GET", POLICY, None).await?.body["version"] == 0, "bob sees it");
    for (method, body) in [("GET", None), ("PUT", Some(json!({})))] {
        let foreign = stage.ask_in(&bob, Some(&ada.org), method, POLICY, body).await?;
        ensure!(foreign.status == 403, "{method}: {}", foreign.status);
    }
    for wrong in [json!({ "denyHosts": ["https://x.example"] }), json!({ "allowPorts": [0] }), json!({ "allow": [] })] {
        let refused = stage.ask(&ada, "PUT", POLICY, Some(wrong.clone())).await?;
        ensure!(refused.status == 400, "{wrong}: {} {}", refused.status, refused.body);
    }

    // Lifted for that host, calls go there from the next one on; where they are redirected to is another host.
    set(&stage, &ada, json!({ "allowHosts": ["127.0.0.1"] })).await?;
    ensure!(said(&stage, &ada).await?.0 == 200, "the policy holds longer than it should");
    ensure!(register(&stage, &ada, pets).await?.status == 200, "it is not registered");
    let called = invoke(&stage, &ada, "pets.pet.get", json!({ "params": { "id": "1" } })).await?;
    ensure!(called.status == 200, "{}", called.body);
    let lured = invoke(&stage, &ada, "pets.away.get", json!({})).await?;
    ensure!(
        lured.status == 403 && names(&lured.body, &["'localhost'", "allowHosts"]),
        "{} {}",
        lured.status,
        lured.body
    );
    set(&stage, &ada, json!({ "allowHosts": ["127.0.0.1", "localhost"] })).await?;
    let led = invoke(&stage, &ada, "pets.away.get", json!({})).await?;
    ensure!(led.status == 200, "{} {}", led.status, led.body);

    // Plain HTTP and other ports.
    set(&stage, &ada, json!({ "allowHttp": false })).await?;
    let (status, body) = said(&stage, &ada).await?;
    ensure!(status == 403 && names(&body, &["plain http", "allowHttp"]), "{status} {body}");
    set(&stage, &ada, json!({ "allowPorts": [443] })).await?;
    let called = invoke(&stage, &ada, "pets.pet.get", json!({ "params": { "id": "1" } })).await?;
    ensure!(called.status == 403 && names(&called.body, &["allowPorts"]), "{} {}", called.status, called.body);

    // What the operator keeps in stays in.
    set(&stage, &ada, json!({ "allowHosts": ["10.0.0.1"], "allowPorts": [80, 443] })).await?;
    let inside = json!({ "specUrl": "http://10.0.0.1/openapi.yaml" });
    let inside = stage.ask(&ada, "POST", "/api/integrations/parse/openapi", Some(inside)).await?;
    ensure!(inside.status == 400 && names(&inside.body, &["SYMBIA_EGRESS_ALLOW"]), "{} {}", inside.status, inside.body);
    stage.house.run(&["projection", "verify"])?.expect(0)?;
    Ok(())
}
