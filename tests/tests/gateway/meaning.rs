//! Answers that are given again to questions of the same meaning: to which, of whom, and until when.

use anyhow::ensure;
use serde_json::{Value, json};
use symbia_tests::binary::until;

use crate::{
    Tested,
    routes::{models, set},
    stage::{Person, Stage},
};

// Whether the answer was given before, how near its question was, and which models were asked.
async fn asked(
    stage: &Stage,
    who: &Person,
    org: &str,
    text: &str,
    more: Value,
) -> anyhow::Result<(bool, Option<f64>, Vec<Value>)> {
    models(stage);
    let mut params = json!({ "model": "fake", "cache": { "mode": "semantic", "ttl": 600 },
        "messages": [{ "role": "system", "content": "be brief" }, { "role": "user", "content": text }] });
    if let (Some(params), Value::Object(more)) = (params.as_object_mut(), more) {
        params.extend(more);
    }
    let body = json!({ "provider": "openai", "operation": "chat.completions", "params": params });
    let answered = stage.ask_in(who, Some(org), "POST", "/api/integrations/execute", Some(body)).await?;
    ensure!(answered.status == 200 && answered.body["data"]["content"] == "2 + 3 = 5 ✓", "{}", answered.body);
    let said = &answered.body["data"]["metadata"];
    Ok((said["cached"] == true, said["cacheSimilarity"].as_f64(), models(stage)))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_given_again_to_what_means_the_same_while_who_asked_is_there() -> Tested {
    let (stage, root) = Stage::administered_with_vendor().await?;
    let (ada, bob, eve) = (stage.register("ada").await?, stage.register("bob").await?, stage.register("eve").await?);
    let invite = json!({ "email": "ada@example.test", "role": "member" });
    let path = format!("/api/orgs/{}/members/invite", bob.org);
    let invited = stage.ask_at(&stage.identity, &bob, "POST", &path, Some(invite)).await?;
    ensure!((200..300).contains(&invited.status), "{}", invited.body);
    for who in [&bob, &eve] {
        let vectors = json!({ "targets": [{ "provider": "openai", "model": "meanings" }] });
        ensure!(set(&stage, who, "embeddings", vectors).await?.0 == 200, "no route");
        let listed = || async { Ok(stage.ask(who, "GET", "/v1/models/embeddings", None).await?.status == 200) };
        until("the route is there", listed).await?;
    }
    let none = json!({});
    let ask = |text: &'static str, more: &Value| asked(&stage, &bob, &bob.org, text, more.clone());
    let first = || asked(&stage, &ada, &bob.org, "will it rain?", none.clone());
    until("ada may", || async { Ok(first().await.is_ok()) }).await?;

    // The same is given without a look at its meaning, what means nearly the same with how near it is.
    let (cached, similarity, seen) = ask("will it rain?", &none).await?;
    ensure!(cached && similarity.is_none() && seen.is_empty(), "{similarity:?} {seen:?}");
    let (cached, similarity, seen) = ask("take an umbrella?", &none).await?;
    ensure!(
        cached && similarity.is_some_and(|near| (0.97..0.99).contains(&near)) && seen == ["meanings"],
        "{similarity:?} {seen:?}"
    );
    let header = json!({ "model": "openai/fake", "cache": { "mode": "semantic" }, "stream": true, "messages": [
        { "role": "system", "content": "be brief" }, { "role": "user", "content": "my umbrella?" }] });
    let url = format!("{}/v1/chat/completions", stage.gateway);
    let streamed = stage.http.post(url).bearer_auth(&bob.token).json(&header).send().await?;
    ensure!(streamed.headers().get("x-symbia-cache").is_none(), "another name of the model is another question");

    // Not what means something else or not near enough, nor with anything else changed, nor elsewhere.
    for (text, more) in [
        ("what time is it?", none.clone()),
        ("an umbrella, perhaps?", json!({ "cache": { "mode": "semantic", "threshold": 0.99 } })),
        ("an umbrella?", json!({ "temperature": 0.5 })),
        ("an umbrella?", json!({ "model": "second" })),
        (
            "an umbrella?",
            json!({ "system": "be verbose", "messages": [{ "role": "user", "content": "an umbrella?" }] }),
        ),
        ("an umbrella?", json!({ "cache": { "mode": "exact" } })),
    ] {
        let (cached, _, seen) = ask(text, &more).await?;
        ensure!(!cached && seen.last() != Some(&json!("meanings")), "{text} {more}: {seen:?}");
    }
    let (cached, _, seen) = asked(&stage, &eve, &eve.org, "take an umbrella?", none.clone()).await?;
    ensure!(!cached && seen == ["meanings", "fake"], "eve has an answer of bob's organization: {seen:?}");
    for wrong in [json!({ "mode": "semantic", "threshold": 0.4 }), json!({ "mode": "by-heart" })] {
        let body = json!({ "model": "openai/fake", "cache": wrong, "messages": [{ "role": "user", "content": "hi" }] });
        ensure!(stage.ask(&bob, "POST", "/v1/chat/completions", Some(body)).await?.status == 400, "{wrong}");
    }

    // With who asked, it is gone.
    let near = json!({ "cache": { "mode": "semantic", "threshold": 0.99 } });
    ensure!(ask("rain again?", &near).await?.0, "what ada was answered is not given to bob");
    let erased = stage.ask_at(&stage.identity, &root, "DELETE", &format!("/api/admin/users/{}", ada.id), None).await?;
    ensure!(erased.status == 200, "{}", erased.body);
    until("it is gone", || async { Ok(!ask("rain again?", &near).await?.0) }).await?;
    Ok(())
}
