//! Audio: spoken and listened to as OpenAI's clients have it, whatever its length, paid for by what it is, and nobody else's.

use anyhow::ensure;
use serde_json::{Value, json};
use symbia_tests::python::python;

use crate::{
    Tested,
    clients::script,
    stage::{Person, Stage},
    tasks::with,
    vendor::sound,
};

const SPEECH: &str = "/v1/audio/speech";
const TRANSCRIPTIONS: &str = "/v1/audio/transcriptions";

/// A form: its fields, and then a file.
fn form(fields: &[(&str, &str)], audio: &[u8]) -> Vec<u8> {
    let mut form = Vec::new();
    for (name, value) in fields {
        form.extend(format!("--x\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").bytes());
    }
    let file = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"said.wav\"\r\nContent-Type: audio/wav\r\n\r\n";
    form.extend([file.as_bytes(), audio, b"\r\n--x--\r\n"].concat());
    form
}

impl Stage {
    fn send(&self, who: &Person, path: &str, body: Vec<u8>) -> reqwest::RequestBuilder {
        let request = self.http.post(format!("{}{path}", self.gateway)).bearer_auth(&who.token);
        request.header("content-type", "multipart/form-data; boundary=x").body(body)
    }

    // Status, kind and what was answered.
    async fn listened(&self, who: &Person, path: &str, body: Vec<u8>) -> anyhow::Result<(u16, String, String)> {
        let answer = self.send(who, path, body).send().await?;
        let kind = answer.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let (status, kind) = (answer.status().as_u16(), kind.to_owned());
        Ok((status, kind, answer.text().await?))
    }

    async fn spoken(&self, who: &Person, key: &str, body: &Value) -> anyhow::Result<(String, Vec<u8>)> {
        let request = self.http.post(format!("{}{SPEECH}", self.gateway)).bearer_auth(&who.token).json(body);
        let answer = request.header("idempotency-key", key).send().await?.error_for_status()?;
        let kind = answer.headers()["content-type"].to_str()?.to_owned();
        ensure!(answer.content_length().is_some(), "it does not say how long it is");
        Ok((kind, answer.bytes().await?.to_vec()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn audio_is_spoken_and_listened_to_whatever_its_length_and_its_askers_own() -> Tested {
    let (mut stage, root) = Stage::administered_with_vendor().await?;
    let (ada, bob) = (stage.register("ada").await?, stage.register("bob").await?);
    stage.price(&root, "tts-1", &json!({ "characterMicrosPerM": 15_000_000 })).await?;
    stage.price(&root, "whisper-1", &json!({ "audioHourMicros": 360_000 })).await?;

    // Spoken as it was asked for, and named for what it is.
    let plain = json!({ "model": "tts-1", "input": "hi there-CANARY", "voice": "coral" });
    let loud = json!({ "instructions": "loudly", "response_format": "wav", "speed": 1.5, "stream_format": "audio" });
    ensure!(stage.spoken(&ada, "1", &plain).await? == ("audio/mpeg".to_owned(), sound(9)), "another sound");
    ensure!(stage.spoken(&ada, "2", &with(&plain, &loud)).await?.0 == "audio/wav", "another kind");
    let asked: Vec<Value> = stage.vendor.asked().into_iter().map(|asked| asked.body).collect();
    let shaped = json!({ "instructions": "loudly", "response_format": "wav", "speed": 1.5 });
    ensure!(asked == [plain.clone(), with(&plain, &shaped)], "{asked:?}");
    ensure!(stage.costs(&ada, "audio.speech", 2).await? == [225, 225], "it costs something else");
    let huge = with(&plain, &json!({ "model": "openai/huge" }));
    let (first, again) = (stage.spoken(&ada, "3", &huge).await?, stage.spoken(&ada, "3", &huge).await?);
    ensure!(first.1 == sound(5_000_001) && first == again, "it is not whole");
    ensure!(stage.vendor.asked().len() == 1, "it was spoken twice");
    stage.told(&ada, SPEECH, &plain).await?;
    for (more, param) in [
        (json!({ "input": "" }), "input"),
        (json!({ "voice": 1 }), "voice"),
        (json!({ "response_format": "midi" }), "response_format"),
        (json!({ "stream_format": "sse" }), "stream_format"),
    ] {
        let refused = stage.ask(&ada, "POST", SPEECH, Some(with(&plain, &more))).await?;
        ensure!(refused.status == 400 && refused.body["error"]["param"] == param, "{}", refused.body);
    }

    // Listened to, in every format, with what was told besides; the file comes last.
    let audio = b"RIFF-CANARY-audio";
    let fields = [("model", "whisper-1"), ("language", "en"), ("prompt", "Symbia"), ("temperature", "0.2")];
    stage.vendor.asked();
    let (status, kind, said) = stage.listened(&ada, TRANSCRIPTIONS, form(&fields, audio)).await?;
    let said: Value = serde_json::from_str(&said)?;
    ensure!(status == 200 && kind == "application/json" && said["text"] == "hello there", "{status} {said}");
    let asked = stage.vendor.asked();
    let expected = String::from_utf8(form(&fields, audio))?.replace("--x", "--B");
    ensure!(
        asked.len() == 1 && asked[0].body["form"] == expected && asked[0].body["whole"] == true,
        "{}",
        asked[0].body
    );
    ensure!(stage.costs(&ada, "audio.transcriptions", 1).await? == [300], "it costs something else");
    for (format, kind, begins) in [
        ("verbose_json", "application/json", "{"),
        ("text", "text/plain; charset=utf-8", "hello there"),
        ("srt", "text/plain; charset=utf-8", "1\n00:00:00,000"),
        ("vtt", "text/plain; charset=utf-8", "WEBVTT"),
    ] {
        let fields = [("response_format", format), ("timestamp_granularities[]", "word")];
        let heard = stage.listened(&ada, TRANSCRIPTIONS, form(&fields, audio)).await?;
        ensure!(heard.0 == 200 && heard.1 == kind && heard.2.starts_with(begins), "{format}: {heard:?}");
        let asked = stage.vendor.asked();
        let sent = asked[0].body["form"].as_str().unwrap_or_default();
        ensure!(sent.contains(&format!("\"response_format\"\r\n\r\n{format}\r\n")), "{sent}");
        ensure!(sent.contains("\"model\"\r\n\r\nwhisper-1\r\n") && sent.contains("granularities[]"), "{sent}");
    }
    let english = stage.listened(&ada, "/v1/audio/translations", form(&[], audio)).await?;
    ensure!(english.0 == 200 && stage.vendor.asked()[0].body["task"] == "translations", "{english:?}");
    // Of any size up to 25 MiB; tried again it is sent whole again.
    let long = "any size ".repeat(400_000).into_bytes();
    let heard = stage.listened(&ada, TRANSCRIPTIONS, form(&[("model", "openai/once-429")], &long)).await?;
    let asked = stage.vendor.asked();
    let whole =
        |body: &Value| body["form"].as_str().is_some_and(|form| form.contains(&String::from_utf8_lossy(&long)[..]));
    ensure!(heard.0 == 200 && asked.len() == 2 && asked.iter().all(|asked| whole(&asked.body)), "{heard:?}");
    // Who is still sending may not come to read that it is too much.
    if let Ok(huge) = stage.listened(&ada, TRANSCRIPTIONS, form(&[], &vec![b'x'; (25 << 20) + 1])).await {
        ensure!(huge.0 == 413, "{huge:?}");
    }
    for (fields, status) in [
        (&[("model", "openai/page")][..], 502),
        (&[("model", "openai/status-401-invalid_api_key")], 401),
        (&[("model", "anthropic/claude-fake")], 400),
        (&[("response_format", "paper")], 400),
        (&[("stream", "true")], 400),
        (&[("temperature", "9")], 400),
        (&[("url", "https://example.test/")], 400),
    ] {
        let heard = stage.listened(&ada, TRANSCRIPTIONS, form(fields, audio)).await?;
        let said: Value = serde_json::from_str(&heard.2)?;
        ensure!(heard.0 == status && said["error"]["message"].is_string(), "{fields:?}: {heard:?}");
    }
    let none = stage.listened(&ada, TRANSCRIPTIONS, b"--x--\r\n".to_vec()).await?;
    ensure!(none.0 == 400 && none.2.contains("file"), "{none:?}");

    // Nobody else's.
    let foreign = stage.send(&bob, TRANSCRIPTIONS, form(&[], audio)).header("x-org-id", &ada.org).send().await?;
    ensure!(foreign.status() == 403, "bob listens in ada's name");
    let foreign = stage.ask_in(&bob, Some(&ada.org), "POST", SPEECH, Some(plain.clone())).await?;
    ensure!(foreign.status == 403, "bob speaks in ada's name");
    let theirs = stage.ask(&bob, "GET", "/api/integrations/executions", None).await?.body;
    ensure!(theirs == json!([]), "bob sees ada's audio: {theirs}");

    // By the vendor's own client.
    let python = python()?;
    let said = tokio::task::block_in_place(|| script(&stage, &python, STOCK, &bob.token))?;
    ensure!(said == json!([9, "hello there", 2.5, "hello there\n", "voice"]), "{said}");

    // The log holds no audio, and what was spoken is there after a crash.
    stage.house.run(&["projection", "verify"])?.expect(0)?;
    let log = stage.house.run(&["log", "export"])?.expect(0)?.out;
    ensure!(log.len() < 1_000_000 && !log.contains("CANARY"), "the log holds audio: {} bytes", log.len());
    stage = stage.crash()?;
    stage.vendor.asked();
    ensure!(first == stage.spoken(&ada, "3", &huge).await? && stage.vendor.asked().is_empty(), "it was spoken again");
    Ok(())
}

const STOCK: &str = r#"
import io, json, os
from openai import OpenAI, BadRequestError
client = OpenAI(base_url=os.environ["GATEWAY"] + "/v1", api_key=os.environ["TOKEN"], max_retries=0)
spoken = client.audio.speech.create(model="tts-1", voice="coral", input="hi there", response_format="mp3").read()
audio = ("said.wav", io.BytesIO(b"RIFFaudio"), "audio/wav")
heard = client.audio.transcriptions.create(model="whisper-1", file=audio, language="en")
verbose = client.audio.transcriptions.create(model="whisper-1", file=audio, response_format="verbose_json", timestamp_granularities=["word"])
text = client.audio.translations.create(model="whisper-1", file=audio, response_format="text")
try:
    client.audio.speech.create(model="tts-1", voice="", input="hi")
    refused = None
except BadRequestError as error:
    refused = error.param
print(json.dumps([len(spoken), heard.text, float(verbose.duration), text, refused]))
"#;
