//! Files and batches: by OpenAI's client, through a crash, and never anybody else's.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use symbia_tests::{binary::until, python::python};

use crate::{
    Tested,
    clients::script,
    stage::{Person, Stage},
};

const OWNER: &str = r#"
import io, json, os, time
from openai import OpenAI, APIStatusError, BadRequestError, ConflictError, NotFoundError
client = OpenAI(base_url=os.environ["GATEWAY"] + "/v1", api_key=os.environ["TOKEN"], max_retries=0)
said = {}
ask = [{"role": "user", "content": "2+3?"}]

def file(lines, name="lines.jsonl"):
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    return client.files.create(file=(name, io.BytesIO(text.encode())), purpose="batch")
def line(custom_id, url, body): return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
def batch(lines, endpoint, **more):
    return client.batches.create(input_file_id=file(lines).id, endpoint=endpoint, completion_window="24h", **more)
def ended(batch, status=("completed", "failed", "cancelled", "expired")):
    since = time.time()
    while batch.status not in status:
        assert time.time() < since + 30, batch
        time.sleep(0.05)
        batch = client.batches.retrieve(batch.id)
    return batch
def results(id):
    text = client.files.content(id).text
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]
def answers(batch, of): return {r["custom_id"]: of(r["response"]["body"]) for r in results(batch.output_file_id)}

chat = "/v1/chat/completions"
lines = [line(f"ok-{n}", chat, {"model": "openai/fake", "messages": ask}) for n in range(9)]
lines[3:3] = [line("many", chat, {"model": "openai/fake", "messages": ask, "n": 9}), line("shy", chat, {"model": "openai/shy", "messages": ask}),
    line("streamed", chat, {"model": "openai/fake", "messages": ask, "stream": True})]
given = file(lines + [""])
read = client.files.retrieve(given.id)
said["file"] = [given.object, given.purpose, given.filename, given.status, given.bytes == len(client.files.content(given.id).content), read == given]
made = client.batches.create(input_file_id=given.id, endpoint=chat, completion_window="24h", metadata={"for": "ada"})
said["made"] = [made.object, made.status in ("validating", "in_progress"), made.endpoint, made.metadata, made.expires_at - made.created_at]
done = ended(made)
counts = done.request_counts
said["done"] = [done.status, counts.total, counts.completed, counts.failed, done.errors, bool(done.in_progress_at and done.finalizing_at and done.completed_at)]
out, wrong = results(done.output_file_id), results(done.error_file_id)
said["order"] = [r["custom_id"] for r in out] == [f"ok-{n}" for n in range(9)]
first = out[0]
body = first["response"]["body"]
said["result"] = [first["id"].startswith("batch_req_"), first["error"], first["response"]["status_code"], body["object"],
    body["id"] == "chatcmpl-" + first["response"]["request_id"], body["choices"][0]["message"]["content"], body["usage"]["total_tokens"]]
said["requests"] = len({r["response"]["request_id"] for r in out + wrong})
said["wrong"] = [[r["custom_id"], r["response"]["status_code"], r["response"]["body"]["error"]["param"], r["error"]] for r in wrong]
named = client.files.retrieve(done.output_file_id)
said["output"] = [named.purpose, named.filename == f"{done.id}_output.jsonl", named.bytes == len(client.files.content(named.id).content)]

done = ended(batch([line("a", "/v1/embeddings", {"model": "openai/embed", "input": ["a", "three"]}),
    line("many", "/v1/embeddings", {"model": "openai/embed", "input": ["x"] * 65})], "/v1/embeddings"))
said["vectors"] = [answers(done, lambda b: [d["embedding"] for d in b["data"]]), done.request_counts.failed]
done = ended(batch([line("r", "/v1/responses", {"model": "openai/fake", "input": "2+3?", "instructions": "be brief"})], "/v1/responses"))
said["responses"] = answers(done, lambda b: [b["object"], b["status"], b["instructions"], b["output"][0]["content"][0]["text"]])
done = ended(batch([line("t", "/v1/completions", {"model": "openai/fake", "prompt": "2+3?"})], "/v1/completions"))
said["text"] = answers(done, lambda b: b["choices"][0]["text"])

ok = lines[0]
doubled = json.dumps(ok)[:-1] + ', "custom_id": "d"}'
bad = ended(batch([ok, "{", ok, line("b", "/v1/embeddings", {}), {"custom_id": "c"}, doubled], chat))
said["invalid"] = [bad.status, bool(bad.failed_at), [[e.code, e.line, e.param] for e in bad.errors.data], bad.output_file_id]
said["empty"] = [e.code for e in ended(batch([""], chat)).errors.data]

def refused(ask):
    try: return ask()
    except APIStatusError as e: return [e.status_code, e.param, e.type]
small = client.files.create(file=("notes.txt", b"hello"), purpose="user_data")
create = lambda **of: client.batches.create(**{"input_file_id": given.id, "endpoint": chat, "completion_window": "24h", **of})
said["refused"] = [refused(lambda: create(input_file_id="file-nobody")), refused(lambda: create(input_file_id=small.id)),
    refused(lambda: create(endpoint="/v1/moderations")), refused(lambda: create(completion_window="1h")),
    refused(lambda: create(metadata={"k" * 65: "v"})), refused(lambda: client.files.create(file=("x", b"x"), purpose="fine-tune")),
    refused(lambda: client.batches.retrieve("batch_nobody")), refused(lambda: client.batches.cancel(done.id))]

slow = batch([line(f"s-{n}", chat, {"model": "openai/slow", "messages": ask}) for n in range(9)], chat)
slow = ended(slow, ("in_progress",))
said["in use"] = refused(lambda: client.files.delete(slow.input_file_id))[0]
said["cancelling"] = client.batches.cancel(slow.id).status in ("cancelling", "cancelled")
slow = ended(slow)
said["cancelled"] = [slow.status, bool(slow.cancelling_at and slow.cancelled_at), slow.output_file_id, sorted({r["error"]["code"] for r in results(slow.error_file_id)}),
    [r["custom_id"] for r in results(slow.error_file_id)] == [f"s-{n}" for n in range(9)]]

pages = client.batches.list(limit=3)
said["batches"] = [pages.data[0].id == slow.id, len(pages.data), pages.has_more, len(list(client.batches.list(limit=3)))]
said["files"] = [[f.id for f in client.files.list(purpose="user_data")] == [small.id], client.files.list(order="asc", limit=1).data[0].id == given.id,
    len({f.id for f in client.files.list(limit=4)}) == len(list(client.files.list()))]
gone = client.files.delete(small.id)
said["deleted"] = [gone.deleted, refused(lambda: client.files.retrieve(small.id))[0], refused(lambda: client.files.content(small.id).text)[0],
    refused(lambda: client.files.delete(small.id))[0]]
said["ids"] = [given.id, made.id, slow.id, client.batches.retrieve(made.id).output_file_id]
print(json.dumps(said))
"#;

const STRANGER: &str = r#"
import json, os
from openai import OpenAI, APIStatusError
client = OpenAI(base_url=os.environ["GATEWAY"] + "/v1", api_key=os.environ["TOKEN"], max_retries=0)
given, made, slow, output = json.load(open(os.environ["IDS"]))
found = []
for ask in [lambda: client.files.retrieve(given), lambda: client.files.content(given).text, lambda: client.files.content(output).text,
        lambda: client.files.delete(given), lambda: client.batches.retrieve(made), lambda: client.batches.cancel(made),
        lambda: client.batches.create(input_file_id=given, endpoint="/v1/chat/completions", completion_window="24h"),
        lambda: client.files.list(after=given), lambda: client.batches.list(after=made)]:
    try: found.append(str(ask()))
    except APIStatusError as e: found.append(e.status_code)
print(json.dumps([found, len(list(client.files.list())), len(list(client.batches.list()))]))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_client_gives_files_has_batches_run_and_sees_no_others() -> Tested {
    let python = python()?;
    let stage = Stage::open().await?;
    let (ada, eve) = (stage.register("ada").await?, stage.register("eve").await?);
    let mut said = tokio::task::block_in_place(|| script(&stage, &python, OWNER, &ada.token))?;
    let ids = said["ids"].take();
    let answer = "2 + 3 = 5 ✓";
    let invalid = |param: &str| json!([400, param, "invalid_request_error"]);
    let expected = json!({
        "file": ["file", "batch", "lines.jsonl", "processed", true, true],
        "made": ["batch", true, "/v1/chat/completions", { "for": "ada" }, 86400],
        "done": ["completed", 12, 9, 3, null, true],
        "order": true,
        "result": [true, null, 200, "chat.completion", true, answer, 18],
        "requests": 12,
        "wrong": [["many", 400, "n", null], ["shy", 422, null, null], ["streamed", 400, "stream", null]],
        "output": ["batch_output", true, true],
        "vectors": [{ "a": [[1.0, 0.5], [5.0, 0.5]] }, 1],
        "responses": { "r": ["response", "completed", "be brief", answer] },
        "text": { "t": answer },
        "invalid": ["failed", true, [["invalid_json_line", 2, null], ["duplicate_custom_id", 3, "custom_id"],
            ["mismatched_endpoint", 4, "url"], ["missing_required_parameter", 5, "method"],
            ["invalid_json_line", 6, null]], null],
        "empty": ["empty_file"],
        "refused": [invalid("input_file_id"), invalid("input_file_id"), invalid("endpoint"), invalid("completion_window"),
            invalid("metadata"), invalid("purpose"), [404, null, "not_found_error"], [409, null, "invalid_request_error"]],
        "in use": 409,
        "cancelling": true,
        "cancelled": ["cancelled", true, null, ["batch_cancelled"], true],
        "batches": [true, 3, true, 7],
        "files": [true, true, true],
        "deleted": [true, 404, 404, 404],
        "ids": null,
    });
    ensure!(said == expected, "OpenAI's client: {said:#}\nexpected: {expected:#}");

    let file = stage.house.file("ids.json");
    std::fs::write(&file, ids.to_string())?;
    let named = STRANGER.replace("os.environ[\"IDS\"]", &json!(file.to_str()).to_string());
    let found = tokio::task::block_in_place(|| script(&stage, &python, &named, &eve.token))?;
    let none = json!([[404, 404, 404, 404, 404, 404, 400, 400, 400], 0, 0]);
    ensure!(found == none, "somebody else found {found}");
    // What was asked counts as whose it was.
    let used = stage.ask(&ada, "GET", "/api/integrations/usage", None).await?.body;
    ensure!(used["summary"]["totalRequests"].as_u64().is_some_and(|requests| requests >= 13), "{used}");
    Ok(())
}

pub async fn upload(stage: &Stage, who: &Person, lines: &str) -> anyhow::Result<String> {
    let field = |head: &str, body: &str| format!("--x\r\nContent-Disposition: form-data; {head}\r\n\r\n{body}\r\n");
    // The file before what it is for.
    let file = field("name=\"file\"; filename=\"lines.jsonl\"", lines);
    let form = format!("{file}{}--x--\r\n", field("name=\"purpose\"", "batch"));
    let request = stage.http.post(format!("{}/v1/files", stage.gateway)).bearer_auth(&who.token);
    let request = request.header("content-type", "multipart/form-data; boundary=x").body(form);
    let file: Value = request.send().await?.error_for_status()?.json().await?;
    file["id"].as_str().map(str::to_owned).context("a file without an id")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_goes_on_after_a_crash_and_each_line_is_asked_once() -> Tested {
    let stage = Stage::open().await?;
    let ada = stage.register("ada").await?;
    let (lines, before) = (12, 3);
    let path = "/v1/chat/completions";
    let body = json!({ "model": "openai/slow", "messages": [{ "role": "user", "content": "2+3?" }] });
    let line = |n| json!({ "custom_id": format!("l{n}"), "method": "POST", "url": path, "body": body }).to_string();
    let text: Vec<String> = (0..lines).map(line).collect();
    let file = upload(&stage, &ada, &text.join("\r\n")).await?;
    let new = json!({ "input_file_id": file, "endpoint": path, "completion_window": "24h" });
    let made = stage.ask(&ada, "POST", "/v1/batches", Some(new)).await?;
    let url = format!("/v1/batches/{}", made.body["id"].as_str().with_context(|| made.body.to_string())?);

    stage.vendor.let_answer(before);
    let read = async |stage: &Stage| -> anyhow::Result<Value> { Ok(stage.ask(&ada, "GET", &url, None).await?.body) };
    until("some lines are answered", || async { Ok(read(&stage).await?["request_counts"]["completed"] == before) })
        .await?;
    let stage = stage.crash()?;
    stage.vendor.let_answer(100);
    until("all lines are answered", || async { Ok(read(&stage).await?["status"] == "completed") }).await?;
    let batch = read(&stage).await?;
    let counts = json!({ "total": lines, "completed": lines, "failed": 0 });
    ensure!(batch["request_counts"] == counts && batch["error_file_id"].is_null(), "{batch}");

    let output = batch["output_file_id"].as_str().context("no output")?;
    let output = stage.http.get(format!("{}/v1/files/{output}/content", stage.gateway)).bearer_auth(&ada.token);
    let output = output.send().await?.error_for_status()?.text().await?;
    let results = output.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let named: Vec<&str> = results.iter().filter_map(|result| result["custom_id"].as_str()).collect();
    let expected: Vec<String> = (0..lines).map(|n| format!("l{n}")).collect();
    ensure!(named == expected, "{named:?}");
    // A request in the log for each line, and no other.
    let executed = stage.ask(&ada, "GET", "/api/integrations/executions?limit=100", None).await?.body;
    let executed = executed.as_array().context("no executions")?.len();
    ensure!(executed == lines, "{executed} requests for {lines} lines");
    Ok(())
}
