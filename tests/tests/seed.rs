//! `symbia seed`: what it makes, that it makes it once, and that production refuses it.
#![allow(missing_docs, reason = "tests")]

use anyhow::{Context, ensure};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use symbia_tests::binary::{Installation, until};

const LABS: &str = "550e8400-e29b-41d4-a716-446655440000";
const ACME: &str = "550e8400-e29b-41d4-a716-446655440001";

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_data_is_there_once_and_its_people_can_sign_in() -> anyhow::Result<()> {
    let mut house = Installation::new()?;
    let ready = house.start()?;
    let refused = house.run_with(&["seed"], &[("SYMBIA_ENV", "prod")])?;
    ensure!(refused.code == 2 && refused.err.contains("SYMBIA_ENV"), "{refused:?}");

    let first = house.run(&["seed"])?.expect(0)?.json()?;
    let made = first["made"].as_array().context("no list")?;
    ensure!(first["unchanged"] == json!([]) && first["refused"] == json!({}) && made.len() > 30, "{first}");
    let second = house.run(&["seed"])?.expect(0)?.json()?;
    ensure!(second["made"] == json!([]) && second["unchanged"] == first["made"], "{second}");

    let http = Client::new();
    let at = |service: &str, path: &str| format!("{}{path}", ready["services"][service].as_str().unwrap_or_default());
    let call = async |method: Method, url: String, token: &str, body: Value| -> anyhow::Result<Value> {
        Ok(http.request(method, url).bearer_auth(token).json(&body).send().await?.error_for_status()?.json().await?)
    };
    let sign_in = async |email: &str| -> anyhow::Result<String> {
        let body = json!({ "email": email, "password": "password123" });
        let said = call(Method::POST, at("identity", "/api/auth/login"), "", body).await?;
        Ok(said["token"].as_str().context("no token")?.to_owned())
    };
    until("the read models show the last of it", || async {
        let token = sign_in("member@acme-corp.com").await?;
        let said = call(Method::GET, at("messaging", "/api/conversations"), &token, Value::Null).await?;
        Ok(said[0]["name"] == "Support Request")
    })
    .await?;

    let member = sign_in("member@acme-corp.com").await?;
    let me = call(Method::GET, at("identity", "/api/auth/me"), &member, Value::Null).await?;
    ensure!(me["user"]["id"] == "650e8400-e29b-41d4-a716-446655440002", "{me}");
    let org = call(Method::GET, at("identity", &format!("/api/orgs/{ACME}")), &member, Value::Null).await?;
    ensure!(org["members"].as_array().is_some_and(|members| members.len() == 3), "{org}");
    let tester = sign_in("test2@example.com").await?;
    let projects = at("identity", "/api/orgs/550e8400-e29b-41d4-a716-446655440002/projects");
    let projects = call(Method::GET, projects, &tester, Value::Null).await?;
    ensure!(projects["projects"][0]["id"] == "750e8400-e29b-41d4-a716-446655440001", "{projects}");
    let admin = sign_in("dev@example.com").await?;
    let plans = call(Method::GET, at("identity", "/api/admin/plans"), &admin, Value::Null).await?;
    ensure!(plans.as_array().is_some_and(|plans| plans.iter().any(|plan| plan["id"] == "plan-pro")), "{plans}");

    // The mesh of the Labs: its nodes are marked, and belong to the services that they stand for.
    let labs = async |path: &str| -> anyhow::Result<Value> {
        let request = http.get(at("network", path)).bearer_auth(&admin).header("x-org-id", LABS);
        Ok(request.send().await?.error_for_status()?.json().await?)
    };
    let nodes = labs("/api/registry/nodes").await?;
    let all = nodes["nodes"].as_array().context("no nodes")?;
    ensure!(all.len() == 8 && all.iter().all(|node| node["metadata"]["seeded"] == true), "{nodes}");
    ensure!(all.iter().any(|node| node["id"] == "messaging" && node["ownerId"] == "service:messaging"), "{nodes}");
    ensure!(labs("/api/registry/contracts").await?["count"] == 30, "nine, and those of every node with three others");

    // The same audit as of any other log.
    house.run(&["audit", "verify"])?.expect(0)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_holds_is_left_to_them() -> anyhow::Result<()> {
    let mut house = Installation::new()?;
    let ready = house.start()?;
    let identity = ready["services"]["identity"].as_str().context("no address")?;
    let body = json!({ "email": "admin@acme-corp.com", "password": "another password", "name": "Ada" });
    Client::new().post(format!("{identity}/api/auth/register")).json(&body).send().await?.error_for_status()?;
    let report = house.run(&["seed"])?.expect(4)?.json()?;
    let refused = report["refused"].as_object().context("no reasons")?;
    ensure!(refused.len() == 1 && refused.contains_key("user admin@acme-corp.com"), "{report}");
    let made = report["made"].as_array().context("no list")?;
    ensure!(!made.iter().any(|what| what == "organization acme-corp"), "{report}");
    Ok(())
}
