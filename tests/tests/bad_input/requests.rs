//! Requests and commands that cannot be read.

use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::Client;
use futures::StreamExt;
use serde_json::{Value, json};
use symbia_commands::{Actor, CommandEnvelope, Outcome, identity::RenameOrganization};
use symbia_events::{CommandId, KeyRing};
use symbia_tests::{apart::Apart, binary::until, load::organization};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::Tested;

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_refused_with_a_reason() -> Tested {
    let apart = Apart::start().await?;
    until("the API is ready", || async { Ok(apart.readiness().await == Some(200)) }).await?;
    requests(&apart).await?;
    commands(&apart.nats().await?, &apart.keys()?).await
}

async fn requests(apart: &Apart) -> Tested {
    let http = reqwest::Client::new();
    let post = |kind: &'static str, body: String| {
        http.post(format!("{}/api/auth/login", apart.api())).header("content-type", kind).body(body).send()
    };
    let large = json!({ "email": "x".repeat(200 * 1024) }).to_string();
    let cases = [
        ("application/json", "{\"email\": ".to_owned(), 400, "line 1"),
        ("application/json", "[]".to_owned(), 400, "VALIDATION_FAILED"),
        ("application/json", json!({ "email": 7, "password": [] }).to_string(), 400, "email"),
        ("application/json", large, 413, "BODY_TOO_LARGE"),
        ("text/xml", "<login/>".to_owned(), 415, "Content-Type"),
    ];
    for (kind, body, status, part) in cases {
        // Who is refused while still sending may find the connection closed before the answer is read.
        let mut answer = post(kind, body.clone()).await;
        for _ in 0..9 {
            if answer.is_err() {
                answer = post(kind, body.clone()).await;
            }
        }
        let answer = answer?;
        let (found, id) = (answer.status().as_u16(), answer.headers().contains_key("x-request-id"));
        let said: Value = answer.json().await?;
        ensure!(found == status && id && said.to_string().contains(part), "{status} {part}: {found} {said}");
        let whole = ["code", "message", "error", "requestId"].iter().all(|member| said[member].is_string());
        ensure!(whole, "{said}");
    }
    let unknown = http.get(format!("{}/api/nothing", apart.api())).send().await?;
    ensure!(unknown.status() == 404 && unknown.json::<Value>().await?["code"] == "NOT_FOUND");
    Ok(())
}

async fn commands(nats: &Client, keys: &KeyRing) -> Tested {
    let (org_id, aggregate) = organization()?;
    let rename = RenameOrganization { org_id: org_id.clone(), name: "Any".to_owned() };
    let rename = symbia_commands::identity::OrganizationCommand::from(rename);
    let good = |at| CommandEnvelope::new(keys, &aggregate, &rename, &Actor::system("test"), CommandId::random(), at);
    let now = OffsetDateTime::now_utc();
    let broken = |member: &str, value: Value| -> anyhow::Result<Value> {
        let mut command = serde_json::to_value(good(now)?)?;
        command[member] = value;
        Ok(command)
    };
    let mut forged = good(now)?.actorassertion.context("no assertion")?;
    forged.replace_range(forged.len() - 4.., "AAAA");
    let (other, _) = organization()?;
    let cases = [
        (broken("time", json!("yesterday"))?, "MALFORMED_COMMAND"),
        (broken("specversion", json!("0.3"))?, "MALFORMED_COMMAND"),
        (broken("type", json!("symbia.cmd.identity.burn-organization.v1"))?, "UNKNOWN_COMMAND"),
        (broken("type", json!("symbia.cmd.identity.rename-organization.v9"))?, "UNKNOWN_COMMAND"),
        (broken("orgid", json!(other))?, "WRONG_TENANT"),
        (broken("subject", json!("organization/another"))?, "WRONG_TENANT"),
        (broken("data", json!({ "orgId": other, "name": "Any" }))?, "WRONG_TENANT"),
        (broken("data", json!({ "orgId": org_id, "name": "Any", "colour": "red" }))?, "VALIDATION_FAILED"),
        (broken("data", json!([1]))?, "VALIDATION_FAILED"),
        (broken("actorassertion", Value::Null)?, "AUTH_REQUIRED"),
        (broken("actorassertion", json!(forged))?, "TOKEN_INVALID"),
        (serde_json::to_value(good(now - time::Duration::minutes(10))?)?, "TOKEN_EXPIRED"),
        (serde_json::to_value(good(now)?)?, "NOT_FOUND"),
    ];
    for (command, code) in cases {
        let id = command["id"].as_str().context("no id")?;
        let mut outcomes = nats.subscribe(format!("symbia.out.{}.{id}", aggregate.tenant)).await?;
        nats.publish(aggregate.command_subject(), command.to_string().into()).await?;
        let outcome = tokio::time::timeout(Duration::from_secs(20), outcomes.next()).await;
        let outcome = outcome.with_context(|| format!("no outcome: {code}"))?.context("no outcome")?;
        let outcome: Outcome = serde_json::from_slice(&outcome.payload)?;
        let rejection = outcome.rejection.as_ref().with_context(|| format!("{code}: not refused"))?;
        ensure!(rejection.code == code && !rejection.message.is_empty(), "{code}: {outcome:?}");
        ensure!(outcome.events.is_empty() && outcome.command_id.0 == id.parse::<Uuid>()?);
    }
    Ok(())
}
