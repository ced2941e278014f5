//! Pictures: asked for as OpenAI's clients do, paid for as anything else, and nobody else's to see.

use anyhow::ensure;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};
use symbia_tests::{binary::until, python::python};

use crate::{Tested, clients::script, stage::Stage};

const PATH: &str = "/v1/images/generations";
const PROMPT: &str = "a kingfisher-CANARY by the river";

#[tokio::test(flavor = "multi_thread")]
async fn pictures_are_made_priced_limited_and_their_askers_own() -> Tested {
    let (stage, root) = Stage::administered_with_vendor().await?;
    let (ada, bob) = (stage.register("ada").await?, stage.register("bob").await?);
    let draw = |body: Value| stage.ask(&ada, "POST", PATH, Some(body));
    let price = json!({ "provider": "openai", "model": "painter", "inputMicrosPerM": 1_000_000,
        "outputMicrosPerM": 2_000_000, "imageMicros": 40_000 });
    let set = stage.ask(&root, "PUT", "/api/integrations/prices", Some(price)).await?;
    ensure!(set.status == 200 && set.body["imageMicros"] == 40_000, "{}", set.body);

    let body = json!({ "model": "openai/painter", "prompt": PROMPT, "n": 2, "size": "1024x1024",
        "response_format": "url", "user": "ada" });
    let drawn = draw(body.clone()).await?;
    let data = &drawn.body["data"];
    ensure!(drawn.status == 200 && data.as_array().is_some_and(|data| data.len() == 2), "{}", drawn.body);
    ensure!(data[0]["url"] == "https://pictures.example.test/1.png", "{data}");
    ensure!(data[0]["revised_prompt"] == "a blue kingfisher" && drawn.body["usage"]["total_tokens"] == 110);
    let asked: Vec<Value> = stage.vendor.asked().into_iter().map(|asked| asked.body).collect();
    let expected =
        json!({ "model": "painter", "prompt": PROMPT, "n": 2, "size": "1024x1024", "response_format": "url" });
    ensure!(asked == [expected], "{asked:?}");
    let whole = draw(json!({ "model": "openai/painter", "prompt": PROMPT })).await?;
    ensure!(whole.body["data"][0]["b64_json"] == "AAAAAAAA", "{}", whole.body);

    // On record, with what it cost: tokens, and each picture.
    let rows = || async { anyhow::Ok(stage.ask(&ada, "GET", "/api/integrations/executions", None).await?.body) };
    let made = |row: &&Value| row["operation"] == "images.generations" && row["status"] == "completed";
    let counted = |rows: &Value| rows.as_array().map_or(0, |rows| rows.iter().filter(made).count());
    until("both show", || async { Ok(counted(&rows().await?) == 2) }).await?;
    let rows = rows().await?;
    let costs: Vec<&Value> = rows.as_array().into_iter().flatten().map(|row| &row["costMicros"]).collect();
    ensure!(costs == [&json!(40_210), &json!(80_210)], "{rows}");
    let theirs = stage.ask(&bob, "GET", "/api/integrations/executions", None).await?.body;
    ensure!(theirs == json!([]), "bob sees ada's pictures: {theirs}");
    let foreign = stage.ask_in(&bob, Some(&ada.org), "POST", PATH, Some(body.clone())).await?;
    ensure!(foreign.status == 403, "bob draws in ada's name: {}", foreign.body);

    // What cannot be had is said.
    for (more, status) in [
        (json!({ "prompt": "" }), 400),
        (json!({ "n": 11 }), 400),
        (json!({ "stream": true }), 400),
        (json!({ "response_format": "paper" }), 400),
        (json!({ "model": "anthropic/claude-fake" }), 400),
        (json!({ "model": "huggingface/x" }), 400),
        (json!({ "model": "openai/status-400-content_filter-x" }), 422),
    ] {
        let mut body = json!({ "model": "openai/painter", "prompt": PROMPT });
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more.clone()) {
            body.extend(more);
        }
        let answered = draw(body).await?;
        ensure!(answered.status == status, "{more}: {} {}", answered.status, answered.body);
        ensure!(answered.body["error"]["message"].is_string(), "{more}: {}", answered.body);
    }

    // Large ones are kept beside the log, and given again from there.
    let huge = json!({ "model": "openai/huge", "prompt": PROMPT, "n": 2 });
    let large = || async {
        let request = stage.http.post(format!("{}{PATH}", stage.gateway)).bearer_auth(&ada.token).json(&huge);
        anyhow::Ok(request.header("idempotency-key", "large").send().await?.error_for_status()?.json::<Value>().await?)
    };
    stage.vendor.asked();
    let (first, again) = (large().await?, large().await?);
    let whole = |picture: &Value| picture["b64_json"].as_str().is_some_and(|file| file.len() == 5_000_000);
    ensure!(first["data"].as_array().is_some_and(|data| data.len() == 2 && data.iter().all(whole)), "not whole");
    ensure!(first["data"] == again["data"] && stage.vendor.asked().len() == 1, "it was drawn twice");

    // A key that names other models, and a budget that has room for one picture and not for two.
    let (_, key) = stage.mint(&ada, json!(["model:openai/fake"])).await?;
    let keyed = stage.http.post(format!("{}{PATH}", stage.gateway)).bearer_auth(key).json(&body).send().await?;
    ensure!(keyed.status() == 403, "the key draws: {}", keyed.status());
    let budget =
        json!({ "scope": "model", "subject": "painter", "period": "total", "unit": "micros", "limit": 60_000 });
    let set = stage.ask(&ada, "PUT", "/api/integrations/budgets", Some(budget)).await?;
    ensure!(set.status == 200, "{}", set.body);
    until("the budget counts", || async { Ok(draw(body.clone()).await?.status == 402) }).await?;
    let one = || draw(json!({ "model": "openai/painter", "prompt": PROMPT }));
    ensure!(one().await?.status == 200, "there was room for one");
    let spent = || async {
        let budgets = stage.ask(&ada, "GET", "/api/integrations/budgets", None).await?.body;
        Ok(budgets[0]["spent"] == 40_210 && budgets[0]["reserved"] == 0)
    };
    until("it is settled", spent).await?;
    ensure!(one().await?.status == 402, "it is overspent");
    stage.house.run(&["projection", "verify"])?.expect(0)?;
    let log = stage.house.run(&["log", "export"])?.expect(0)?.out;
    ensure!(log.contains("image-completed.v1") && !log.contains("CANARY"), "the prompt is in the log in clear");

    // By the vendor's own client.
    let python = python()?;
    let said = tokio::task::block_in_place(|| script(&stage, &python, STOCK, &bob.token))?;
    ensure!(said == json!(["AAAAAAAA", 110, "n"]), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_shown_pictures_of_any_size_and_say_what_they_show() -> Tested {
    let stage = Stage::open().await?;
    let ada = stage.register("ada").await?;
    // No byte is like its neighbours: what is left away, or twice, shows.
    let photo: Vec<u8> =
        (0..3_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).step_by(2).collect();
    let large = format!("data:image/png;base64,{}", BASE64.encode(&photo));
    let small = "data:image/gif;base64,R0lGODlhAQABAAAAACw=";
    let shown = |url: &str| {
        json!([{ "role": "user", "content": [{ "type": "text", "text": "What is this?" },
            { "type": "image_url", "image_url": { "url": url } }] }])
    };
    let described = |provider: &str, messages: Value| {
        json!({ "provider": provider, "operation": "image.description",
            "params": { "model": "fake", "messages": messages, "maxTokens": 200 } })
    };
    let execute = |body: Value| stage.ask(&ada, "POST", "/api/integrations/execute", Some(body));
    let of_openai = |asked: &Value| asked["messages"][0]["content"][1]["image_url"]["url"].clone();
    for url in [small, large.as_str(), "https://pictures.example.test/1.png"] {
        let said = execute(described("openai", shown(url))).await?;
        let text = said.body["data"]["content"].as_str().unwrap_or_default();
        ensure!(said.status == 200 && !text.is_empty(), "{} {}", said.status, said.body);
        let asked = stage.vendor.asked();
        ensure!(asked.len() == 1 && of_openai(&asked[0].body) == url, "the model was shown something else");
    }
    let said = execute(described("anthropic", shown(&large))).await?;
    let asked = stage.vendor.asked();
    let source = &asked[0].body["messages"][0]["content"][1]["source"];
    ensure!(said.status == 200 && source["media_type"] == "image/png", "{} {}", said.status, said.body);
    ensure!(source["data"].as_str().map(|data| BASE64.decode(data)) == Some(Ok(photo)), "it is another picture");

    // What shows nothing, or is no picture, is told before a model is asked.
    let text = json!([{ "role": "user", "content": "What is this?" }]);
    let blind = execute(described("openai", text)).await?;
    ensure!(blind.status == 400 && blind.body.to_string().contains("image_url"), "{}", blind.body);
    let broken = execute(described("openai", shown(&large.replace("base64,", "base64,!")))).await?;
    ensure!(broken.status == 400 && broken.body.to_string().contains("data:<mime>"), "{}", broken.body);
    // Who is still sending may not come to read that it is too much.
    if let Ok(huge) = execute(described("openai", shown(&format!("{small}{}", "A".repeat(21 << 20))))).await {
        ensure!(huge.status == 413, "{} {}", huge.status, huge.body);
    }
    let elsewhere = shown(&format!("symbia-file:x/{}?bytes=1&type=image/png", "0".repeat(64)));
    let elsewhere = execute(described("openai", elsewhere)).await?;
    ensure!(elsewhere.status == 404 && elsewhere.body["code"] == "PICTURE_GONE", "{}", elsewhere.body);
    ensure!(stage.vendor.asked().is_empty(), "a model was asked all the same");

    // One that is gone on with shows it again; the log holds none of it.
    let url = format!("{}/v1/responses", stage.gateway);
    let respond = async |body: Value| {
        let answer = stage.http.post(&url).bearer_auth(&ada.token).json(&body).send().await?;
        anyhow::Ok(answer.error_for_status()?.json::<Value>().await?)
    };
    let input = json!([{ "role": "user", "content": [{ "type": "input_image", "image_url": large }] }]);
    let first = respond(json!({ "model": "openai/fake", "input": input })).await?;
    respond(json!({ "model": "openai/fake", "input": "And now?", "previous_response_id": first["id"] })).await?;
    let asked = stage.vendor.asked();
    let again = &asked[1].body["messages"][0]["content"][0]["image_url"]["url"];
    ensure!(asked.len() == 2 && *again == *large, "it is not shown again");
    let log = stage.house.run(&["log", "export"])?.expect(0)?.out;
    ensure!(log.len() < 1_000_000, "the log holds pictures: {} bytes", log.len());
    Ok(())
}

const STOCK: &str = r#"
import json, os
from openai import OpenAI, BadRequestError
client = OpenAI(base_url=os.environ["GATEWAY"] + "/v1", api_key=os.environ["TOKEN"], max_retries=0)
made = client.images.generate(model="openai/painter", prompt="a kingfisher", n=1, size="1024x1024")
try:
    client.images.generate(model="openai/painter", prompt="a kingfisher", n=11)
    refused = None
except BadRequestError as error:
    refused = error.param
print(json.dumps([made.data[0].b64_json, made.usage.total_tokens, refused]))
"#;
