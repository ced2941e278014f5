//! Loops that do not come to their end: their caller goes away, or the gateway dies.

use std::cell::RefCell;

use anyhow::ensure;
use serde_json::{Value, json};
use symbia_tests::binary::until;

use crate::{
    Tested,
    stage::Stage,
    toolloop::{CHAT, chat, chunks, merge, plays, post, turns},
    vendor::Asked,
    weather::Weather,
};

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_has_nothing_more_asked_after_the_step_under_way() -> Tested {
    let (stage, weather) = (Stage::open().await?, Weather::start().await?);
    let ada = stage.register("ada").await?;
    weather.register(&stage, &ada, "weather").await?;
    let script = json!([{ "call": [["weather_wait", {}]] }, { "say": "it is over" }]);
    for stream in [false, true] {
        let body = plays(&script, json!({ "stream": stream }));
        let asking = {
            let (http, url, token) = (stage.http.clone(), format!("{}{CHAT}", stage.gateway), ada.token.clone());
            tokio::spawn(async move { http.post(url).bearer_auth(token).json(&body).send().await?.text().await })
        };
        until("the tool is called", || async { Ok(weather.count() == 1) }).await?;
        asking.abort();
        ensure!(asking.await.is_err_and(|error| error.is_cancelled()), "it was answered");
        // By the end of this the gateway has long seen that nobody waits.
        let plain = json!({ "model": "openai/fake", "messages": [{ "role": "user", "content": "2+3?" }] });
        chat(&stage, &ada, plain.clone()).await?;
        weather.let_end(1);
        let ended = if stream { 2 } else { 1 };
        until("its call has ended", || async {
            let made = stage.ask(&ada, "GET", "/api/integrations/invocations", None).await?.body;
            Ok(made
                .as_array()
                .is_some_and(|made| made.iter().filter(|row| row["status"] == "completed").count() == ended))
        })
        .await?;
        weather.called();
        // Whatever would have been asked stands before this.
        chat(&stage, &ada, plain).await?;
        let asked = stage.vendor.asked();
        let scripted: Vec<Asked> = asked.into_iter().filter(|asked| asked.body["model"] == "scripted").collect();
        ensure!(turns(&scripted) == [0], "stream: {stream}: {:?}", turns(&scripted));
    }

    // Who can ask for the same again gets what was under way, and it is asked for once.
    let body = plays(&json!([{ "say": "at last", "wait": true }]), json!({}));
    let asking = {
        let (http, url, token) = (stage.http.clone(), format!("{}{CHAT}", stage.gateway), ada.token.clone());
        let request = http.post(url).bearer_auth(token).header("idempotency-key", "once").json(&body);
        tokio::spawn(async move { request.send().await?.text().await })
    };
    until("the model is asked", || async { Ok(turns(&stage.vendor.asked()) == [0]) }).await?;
    asking.abort();
    ensure!(asking.await.is_err_and(|error| error.is_cancelled()), "it was answered");
    chat(&stage, &ada, json!({ "model": "openai/fake", "messages": [{ "role": "user", "content": "2+3?" }] })).await?;
    stage.vendor.asked();
    stage.vendor.let_answer(1);
    let answered = post(&stage, &ada.token, CHAT, Some("once"), &body).await?;
    let (status, said): (_, Value) = (answered.status(), answered.json().await?);
    ensure!(status == 200 && said["choices"][0]["message"]["content"] == "at last", "{status} {said}");
    ensure!(stage.vendor.asked().is_empty(), "it is asked again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_after_a_crash_goes_on_and_does_nothing_twice() -> Tested {
    let (stage, weather) = (Stage::open().await?, Weather::start().await?);
    let ada = stage.register("ada").await?;
    weather.register(&stage, &ada, "weather").await?;
    let call = |city: &str| json!({ "call": [["weather_forecast", { "city": city }]] });
    // One dies while the model is asked for the third time, the other while its tool is called.
    let third = plays(&json!([call("Bern"), call("Basel"), { "wait": true, "tell": true }]), json!({}));
    let tool = plays(&json!([{ "call": [["weather_wait", {}]] }, { "tell": true }]), json!({}));
    let send = |key: &'static str, body: &Value| {
        let (http, url, token, body) =
            (stage.http.clone(), format!("{}{CHAT}", stage.gateway), ada.token.clone(), body.clone());
        let request = http.post(url).bearer_auth(token).header("idempotency-key", key).json(&body);
        tokio::spawn(async move { request.send().await?.text().await })
    };
    let (one, other) = (send("the-third-turn", &third), send("the-tool", &tool));
    let seen = RefCell::new(Vec::new());
    until("both are where they are to be", || async {
        seen.borrow_mut().extend(turns(&stage.vendor.asked()));
        ensure!(!one.is_finished() && !other.is_finished(), "it was answered: {seen:?}");
        Ok(seen.borrow().contains(&2) && weather.count() == 3)
    })
    .await?;
    let mut seen = seen.into_inner();
    let mut before: Vec<String> = weather.called().into_iter().map(|(tool, with)| format!("{tool} {with}")).collect();
    before.sort_unstable();
    ensure!(before == ["forecast {\"city\":\"Basel\"}", "forecast {\"city\":\"Bern\"}", "wait {}"], "{before:?}");
    seen.sort_unstable();
    ensure!(seen == [0, 0, 1, 2], "{seen:?}");
    let stage = stage.crash()?;
    ensure!(one.await?.is_err() && other.await?.is_err(), "they were answered by a process that died");

    // The turn that was under way is asked for again, and no other; a tool is not called again of which nobody knows what it did.
    stage.vendor.let_answer(9);
    let answered = post(&stage, &ada.token, CHAT, Some("the-third-turn"), &third).await?;
    let (status, first): (_, Value) = (answered.status(), answered.json().await?);
    ensure!(status == 200 && first["choices"][0]["message"]["content"] == "Basel: rain", "{status} {first}");
    ensure!(first["usage"]["total_tokens"] == 54, "{first}");
    let asked = turns(&stage.vendor.asked());
    ensure!(!asked.is_empty() && asked.iter().all(|turns| *turns == 2), "{asked:?}");
    let answered = post(&stage, &ada.token, CHAT, Some("the-tool"), &tool).await?;
    let (status, body): (_, Value) = (answered.status(), answered.json().await?);
    let text = body["choices"][0]["message"]["content"].as_str().unwrap_or_default();
    ensure!(status == 200 && text.starts_with("Error: ") && text.contains("was lost"), "{status} {body}");
    ensure!(turns(&stage.vendor.asked()) == [1] && weather.count() == 0, "{:?}", weather.called());

    // Once more, also as a stream: all of it is there.
    let mut streamed = third.clone();
    merge(&mut streamed, json!({ "stream": true }));
    let again: Value = post(&stage, &ada.token, CHAT, Some("the-third-turn"), &third).await?.json().await?;
    ensure!(again["choices"] == first["choices"] && again["id"] == first["id"], "{again} {first}");
    ensure!(again["usage"] == first["usage"], "{again}");
    let streamed = post(&stage, &ada.token, CHAT, Some("the-third-turn"), &streamed).await?;
    let streamed = chunks(&streamed.text().await?)?;
    let text: String = streamed.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    ensure!(text == "Basel: rain" && streamed[0]["id"] == first["id"], "{streamed:?}");
    ensure!(stage.vendor.asked().is_empty() && weather.count() == 0, "something was done twice");
    stage.house.run(&["audit", "verify"])?.expect(0)?;
    Ok(())
}
