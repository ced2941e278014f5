//! A second model that is asked besides the first, which does not begin to answer: who wins, what is on record of both, and what
//! they take.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use symbia_tests::binary::until;

use crate::{
    Tested,
    limits::chat,
    routes::{asked, models, set},
    stage::Stage,
};

// What the log has of the completions, in order: kind of event, and data.
fn told(stage: &Stage) -> anyhow::Result<Vec<(String, Value)>> {
    let log = stage.house.run(&["log", "export"])?.expect(0)?.out;
    let mut told = Vec::new();
    for line in log.lines().filter(|line| line.contains(".completion.completion-")) {
        let record: Value = serde_json::from_str(line)?;
        let commit: Value = serde_json::from_str(record["payload"].as_str().unwrap_or_default())?;
        let events = commit.as_array().cloned().unwrap_or_else(|| vec![commit]);
        told.extend(events.into_iter().filter_map(|event| {
            let kind = event["type"].as_str()?.strip_prefix("symbia.integrations.completion.completion-")?;
            Some((kind.trim_end_matches(".v1").to_owned(), event["data"].clone()))
        }));
    }
    Ok(told)
}

fn of(told: &[(String, Value)], id: &str) -> Vec<String> {
    let one = |(kind, data): &(String, Value)| match kind.as_str() {
        "attempt-started" => {
            format!("{} {} {}", data["attempt"], data["model"].as_str().unwrap_or_default(), data["hedges"])
        }
        "attempt-failed" => format!("failed {} {}", data["attempt"], data["code"].as_str().unwrap_or_default()),
        kind => kind.to_owned(),
    };
    told.iter().filter(|(_, data)| data["requestId"] == *id).map(one).collect()
}

fn id_of(response: &reqwest::Response) -> String {
    response.headers().get("x-symbia-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_of_two_models_begins_first_answers_and_both_are_on_record() -> Tested {
    let stage = Stage::open().await?;
    let ada = stage.register("ada").await?;
    let hedged = |first: &str, second: &str, after: u32, stream: bool| json!({ "model": format!("openai/{first}"), "models": [format!("openai/{second}")], "hedge": { "after": after }, "stream": stream });
    // The second is quicker, whole and streamed.
    for stream in [false, true] {
        let answered = chat(&stage, &ada.token, hedged("slow", "fake", 100, stream)).await?;
        let (id, text) = (id_of(&answered), answered.text().await?);
        ensure!(text.contains("2 + 3") && text.contains("✓") && text.contains("fake-2026"), "{text}");
        ensure!(models(&stage) == ["slow", "fake"], "both are asked");
        let path = format!("/api/integrations/executions/{id}");
        let shown = || async { anyhow::Ok(stage.ask(&ada, "GET", &path, None).await?.body) };
        until("it is on record", || async { Ok(shown().await?["status"] == "completed") }).await?;
        // What the first had read counts as well.
        let shown = shown().await?;
        ensure!(shown["totalTokens"].as_u64() > Some(18) && shown["attempts"] == 2, "{shown}");
        let told = of(&told(&stage)?, &id);
        let expected = ["requested", "1 slow null", "2 fake 1", "failed 1 hedge_lost", "completed"];
        ensure!(told == expected, "{told:?}");
    }
    // The first begins after all: it goes on, as it began.
    let first = chat(&stage, &ada.token, hedged("slow", "slow-too", 100, true));
    let others = async {
        until("both are asked", || async { Ok(models(&stage).contains(&json!("slow-too"))) }).await?;
        stage.vendor.let_answer(1);
        Ok::<_, anyhow::Error>(())
    };
    let (first, others) = tokio::join!(first, others);
    others?;
    let (first, stage_id) = first.map(|first| {
        let id = id_of(&first);
        (first, id)
    })?;
    let text = first.text().await?;
    let pieces = text.matches("\"content\":").count();
    ensure!(pieces >= 3 && text.contains("[DONE]"), "it is not streamed: {text}");
    let now = of(&told(&stage)?, &stage_id);
    ensure!(now == ["requested", "1 slow null", "2 slow-too 1", "failed 2 hedge_lost", "completed"], "{now:?}");
    stage.vendor.let_nobody_answer();

    // Nobody else is asked by one that is quick, and one that fails is not waited for.
    chat(&stage, &ada.token, hedged("fake", "second", 5000, false)).await?;
    ensure!(models(&stage) == ["fake"], "the second is asked");
    let route = json!({ "targets": [{ "provider": "openai", "model": "slow" }, { "provider": "openai", "model": "shy" },
        { "provider": "openai", "model": "fake" }], "hedge": { "after": 100 } });
    let (status, body) = set(&stage, &ada, "eager", route).await?;
    ensure!(status == 200 && body["hedge"] == json!({ "after": 100 }), "{body}");
    for wrong in [json!({ "after": 5 }), json!({ "after": "soon" }), json!({})] {
        let route = json!({ "targets": [{ "provider": "openai", "model": "fake" }], "hedge": wrong });
        ensure!(set(&stage, &ada, "eager", route).await?.0 == 400, "{wrong}");
    }
    let listed = || async {
        let url = format!("{}/v1/models/eager", stage.gateway);
        Ok(stage.http.get(url).bearer_auth(&ada.token).send().await?.status() == 200)
    };
    until("the name means something", listed).await?;
    models(&stage);
    let first = asked(&stage, &ada.token, "eager");
    let others = async {
        until("the second is asked", || async {
            Ok(told(&stage)?.iter().any(|(_, data)| data["code"] == "content_filter"))
        })
        .await?;
        stage.vendor.let_answer(1);
        Ok::<_, anyhow::Error>(())
    };
    let (first, others) = tokio::join!(first, others);
    others?;
    let first = first?;
    ensure!(first.status() == 200 && models(&stage) == ["slow", "shy"], "the first is not waited for");
    let now = of(&told(&stage)?, &id_of(&first));
    ensure!(now == ["requested", "1 slow null", "2 shy 1", "failed 2 content_filter", "completed"], "{now:?}");

    // Where there is room for one alone, one is asked.
    let limit = json!({ "scope": "org", "period": "total", "unit": "tokens", "limit": 150 });
    let limited = stage.ask(&ada, "PUT", "/api/integrations/budgets", Some(limit)).await?;
    ensure!(limited.status == 200, "{}", limited.body);
    let mut little = hedged("slow", "fake", 100, false);
    little["max_tokens"] = json!(90);
    let counts = || async {
        let mut much = hedged("fake", "fake", 100, false);
        much["max_tokens"] = json!(1000);
        Ok(chat(&stage, &ada.token, much).await?.status() == 402)
    };
    until("the budget counts", counts).await?;
    models(&stage);
    let first = chat(&stage, &ada.token, little);
    let others = async {
        until("one is asked", || async {
            Ok(told(&stage)?.iter().filter(|(kind, data)| kind == "attempt-started" && data["model"] == "slow").count()
                == 5)
        })
        .await?;
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        stage.vendor.let_answer(1);
        Ok::<_, anyhow::Error>(())
    };
    let (first, others) = tokio::join!(first, others);
    others?;
    ensure!(first?.status() == 200 && models(&stage) == ["slow"], "another one is asked");
    stage.house.run(&["projection", "verify"])?.expect(0)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_while_two_are_asked_leaves_one_end() -> Tested {
    let stage = Stage::open().await?;
    let ada = stage.register("ada").await?;
    let both = json!({ "model": "openai/slow", "models": ["openai/slow-too"], "hedge": { "after": 50 } });
    let asking = tokio::spawn({
        let (http, gateway, token) = (stage.http.clone(), stage.gateway.clone(), ada.token.clone());
        let mut body = both;
        body["messages"] = json!([{ "role": "user", "content": "2+3?" }]);
        async move { http.post(format!("{gateway}/v1/chat/completions")).bearer_auth(token).json(&body).send().await }
    });
    until("both are asked", || async { Ok(models(&stage).contains(&json!("slow-too"))) }).await?;
    let before = told(&stage)?;
    let id = before.first().and_then(|(_, data)| data["requestId"].as_str()).context("no request")?.to_owned();
    let stage = stage.crash()?;
    asking.abort();
    stage.vendor.let_answer(10);
    let over = || async {
        Ok(of(&told(&stage)?, &id).iter().any(|kind| ["completed", "failed", "cancelled"].contains(&kind.as_str())))
    };
    until("it has its end", over).await?;
    let now = of(&told(&stage)?, &id);
    let ends = now.iter().filter(|kind| ["completed", "failed", "cancelled"].contains(&kind.as_str())).count();
    let lost = now.iter().filter(|kind| kind.ends_with("worker_lost")).count();
    ensure!(ends == 1 && (lost == 2 || now.last().is_some_and(|last| last == "cancelled")), "{now:?}");
    stage.house.run(&["audit", "verify"])?.expect(0)?;
    Ok(())
}
