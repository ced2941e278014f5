//! How providers fare, as an organization sees it: by its own requests, and by probes where it wants them.

use anyhow::ensure;
use serde_json::{Value, json};
use symbia_tests::binary::until;

use crate::{
    Tested,
    limits::chat,
    stage::{Person, Stage},
    vendor::KEYS,
};

const HEALTH: &str = "/api/integrations/health/providers";
const PROBES: &str = "/api/integrations/health/probes";

async fn openai(stage: &Stage, who: &Person) -> anyhow::Result<Value> {
    let told = stage.ask(who, "GET", HEALTH, None).await?;
    ensure!(told.status == 200, "{} {}", told.status, told.body);
    let all = told.body["providers"].as_array().cloned().unwrap_or_default();
    Ok(all.into_iter().find(|provider| provider["provider"] == "openai").unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_sees_how_providers_fare_for_itself_and_has_them_probed() -> Tested {
    let stage = Stage::with_variables(&[("SYMBIA_PROBE_PROVIDERS", "anthropic")]).await?;
    let (ada, bob) = (stage.register("ada").await?, stage.register("bob").await?);
    for model in ["openai/fake", "openai/fake", "openai/status-400-odd", "openai/status-401-odd"] {
        chat(&stage, &ada.token, json!({ "model": model })).await?;
    }
    let counted = || async { Ok(openai(&stage, &ada).await?["requests"] == 4) };
    until("all requests are counted", counted).await?;
    let of_ada = openai(&stage, &ada).await?;
    ensure!(of_ada["succeeded"] == 2 && of_ada["failed"] == 2 && of_ada["circuit"] == "closed", "{of_ada}");
    ensure!(of_ada["failuresByCategory"] == json!({ "auth": 1, "validation": 1 }), "{of_ada}");
    let latency = &of_ada["latencyMs"];
    ensure!(latency["p50"].as_f64() > Some(0.0) && latency["p95"].as_f64() >= latency["p50"].as_f64(), "{of_ada}");
    let models = of_ada["models"].as_array().cloned().unwrap_or_default();
    // What answered has a name of the vendor's own.
    let names: Vec<&Value> = models.iter().map(|model| &model["model"]).collect();
    ensure!(names == [&json!("fake-2026"), &json!("status-400-odd"), &json!("status-401-odd")], "{names:?}");

    // Nothing of it is bob's to see, and he looks at nobody else's.
    let of_bob = openai(&stage, &bob).await?;
    ensure!(of_bob["requests"] == 0 && of_bob["models"] == json!([]) && of_bob["probes"] == json!([]), "{of_bob}");
    ensure!(stage.ask_in(&bob, Some(&ada.org), "GET", HEALTH, None).await?.status == 403, "bob looks in");
    let wide = stage.ask(&ada, "GET", &format!("{HEALTH}?minutes=0"), None).await?;
    ensure!(wide.status == 400, "{} {}", wide.status, wide.body);

    // Probes: opt-in, of known providers, not too often, an organization's own to see.
    for wrong in [json!({ "providers": ["nobody"] }), json!({ "providers": ["openai"], "everySeconds": 1 })] {
        let refused = stage.ask(&ada, "PUT", PROBES, Some(wrong.clone())).await?;
        ensure!(refused.status == 400, "{wrong}: {} {}", refused.status, refused.body);
    }
    stage.vendor.listings();
    let set = stage.ask(&ada, "PUT", PROBES, Some(json!({ "providers": ["openai"], "everySeconds": 60 }))).await?;
    ensure!(set.status == 200 && set.body["version"] == 1, "{} {}", set.status, set.body);
    let probed = || async { Ok(openai(&stage, &ada).await?["probes"][0]["outcome"] == "available") };
    until("the provider is probed", probed).await?;
    let probes = openai(&stage, &ada).await?;
    ensure!(probes["probeEverySeconds"] == 60 && probes["probes"][0]["by"] == "organization", "{probes}");
    ensure!(probes["probes"][0]["models"] == 2 && probes["models"][0]["listed"] == false, "{probes}");
    let asked = stage.vendor.listings();
    ensure!(asked.iter().filter(|key| *key == KEYS[0]).count() == 1, "{asked:?}");
    ensure!(openai(&stage, &bob).await?["probes"] == json!([]), "bob sees ada's probes");
    ensure!(openai(&stage, &ada).await?["requests"] == 4, "a probe counts as a request");

    // Those of the operator are everybody's to see.
    let of_operator = || async {
        let told = stage.ask(&bob, "GET", HEALTH, None).await?.body;
        let all = told["providers"].as_array().cloned().unwrap_or_default();
        let found = all.iter().find(|provider| provider["provider"] == "anthropic");
        Ok(found.is_some_and(|found| found["probes"][0]["by"] == "operator"))
    };
    until("the operator's probe is told of", of_operator).await?;
    Ok(())
}
