//! The example of `docs/COMMANDS.md`, as it stands there, with a stock client in another language; what such a client may not
//! do; and a token that is verified with nothing but the published key set.
#![allow(missing_docs, reason = "tests")]

use std::{fs, path::Path, process::Command};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use symbia_tests::{
    binary::{Installation, text},
    python::{python, run},
};

type Tested = anyhow::Result<()>;

/// The block that is fenced as `python example`.
fn example() -> anyhow::Result<String> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/COMMANDS.md"))?;
    let (_, rest) = page.split_once("```python example\n").context("docs/COMMANDS.md has no example")?;
    Ok(rest.split_once("```").context("the example does not end")?.0.to_owned())
}

/// Tries what is forbidden; prints what the broker said to each.
const FORBIDDEN: &str = r#"
import asyncio, json, nats, os

async def main():
    said = asyncio.Queue()
    async def heard(error): await said.put(str(error).lower())
    org, other, me = os.environ["ORG"], os.environ["OTHER"], os.environ["ME"]
    bus = await nats.connect(os.environ["NATS_URL"], token=os.environ["SYMBIA_TOKEN"], error_cb=heard)
    attempts = {
        "command another organization": lambda: bus.publish(f"symbia.cmd.identity.{other}.organization.{other}", b"{}"),
        "command the platform": lambda: bus.publish("symbia.cmd.identity.global.user.u1", b"{}"),
        "answer in another's name": lambda: bus.publish(f"symbia.out.{org}.x", b"{}"),
        "write an event": lambda: bus.publish(f"symbia.evt.identity.{org}.organization.{org}", b"{}"),
        "write a snapshot": lambda: bus.publish("$KV.SYMBIA_SNAP.identity.global.user.u1", b"{}"),
        "delete a stream": lambda: bus.publish("$JS.API.STREAM.DELETE.SYMBIA_EVT_IDENTITY", b""),
        "read the events": lambda: bus.subscribe("symbia.evt.>"),
        "read another's events": lambda: bus.subscribe(f"symbia.evt.identity.{other}.>"),
        "read another's outcomes": lambda: bus.subscribe(f"symbia.out.{other}.*"),
        "read all outcomes": lambda: bus.subscribe("symbia.out.*.*"),
        "read the live messages": lambda: bus.subscribe(f"symbia.live.{org}.>"),
        "read another's inbox": lambda: bus.subscribe(f"_INBOX.user.x{me}.>"),
        "read all inboxes": lambda: bus.subscribe("_INBOX.>"),
        "read who asks to come in": lambda: bus.subscribe("$SYS.REQ.USER.AUTH"),
        "read the answers to the platform": lambda: bus.subscribe("_SYMBIA.>"),
        "read the commands": lambda: bus.subscribe("symbia.cmd.>"),
    }
    refused = {}
    for name, attempt in attempts.items():
        await attempt()
        await bus.flush()
        try: refused[name] = await asyncio.wait_for(said.get(), 3)
        except asyncio.TimeoutError: refused[name] = "nothing"
    print(json.dumps(refused))

asyncio.run(main())
"#;

/// Listens as widely as it may while organizations are changed over REST; prints the subjects of what it heard.
const OVERHEARD: &str = r#"
import asyncio, json, nats, os, urllib.request

def renamed():
    for token in ["OTHER_TOKEN", "SYMBIA_TOKEN"]:
        headers = {"Authorization": "Bearer " + os.environ[token], "Content-Type": "application/json"}
        org = os.environ["OTHER" if token == "OTHER_TOKEN" else "ORG"]
        url = os.environ["ORGS"] + "/" + org
        urllib.request.urlopen(urllib.request.Request(url, b'{"name": "Overheard"}', headers, method="PATCH")).read()

async def main():
    heard, org, me = [], os.environ["ORG"], os.environ["ME"]
    async def hear(message): heard.append(message.subject)
    bus = await nats.connect(os.environ["NATS_URL"], user="ada", password=os.environ["SYMBIA_TOKEN"])
    for subject in [f"symbia.out.{org}.*", f"symbia.evt.identity.{org}.>", f"_INBOX.user.{me}.>"]:
        await bus.subscribe(subject, cb=hear)
    await bus.flush()
    await asyncio.to_thread(renamed)
    # What was published before its own outcome has been delivered then.
    await bus.publish(f"symbia.cmd.identity.{org}.user.none", b'{"id": "00000000-0000-4000-8000-000000000000"}')
    while f"symbia.out.{org}.00000000-0000-4000-8000-000000000000" not in heard: await asyncio.sleep(0.05)
    print(json.dumps(heard))

asyncio.run(asyncio.wait_for(main(), 30))
"#;

const VERIFY: &str = r#"
import json, jwt, os
keys = jwt.PyJWKSet.from_dict(json.loads(os.environ["JWKS"]))
token = os.environ["TOKEN"]
key = keys[jwt.get_unverified_header(token)["kid"]]
verify = lambda token: jwt.decode(token, key.key, algorithms=["EdDSA"], audience="symbia", options={"require": ["exp", "iss", "sub"]})
claims = verify(token)
head, body, signature = token.split(".")
try: verify(f"{head}.{body}.{signature[:-4]}AAAA"); forged = True
except jwt.InvalidSignatureError: forged = False
print(json.dumps({"claims": claims, "forgedPasses": forged}))
"#;

struct Script<'a> {
    python: &'a Path,
    house: &'a Installation,
}

impl Script<'_> {
    fn run(&self, code: &str, variables: &[(&str, &str)]) -> anyhow::Result<Value> {
        let file = self.house.file("script.py");
        fs::write(&file, code)?;
        let printed =
            run(Command::new(self.python).arg(text(&file)).envs(variables.iter().copied()), "the script failed")?;
        serde_json::from_str(&printed).with_context(|| format!("the script printed {printed}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_client_sends_commands_and_can_do_nothing_else() -> Tested {
    let python = python()?;
    let mut house = Installation::new()?;
    let ready = house.start_with(&["--memory", "--skip-admin"], &[])?;
    let nats = ready["nats"].as_str().context("no address for clients")?;
    let identity = ready["services"]["identity"].as_str().context("no address")?;
    let script = Script { python: &python, house: &house };

    let http = reqwest::Client::new();
    let body = json!({ "email": "ada@example.test", "password": "ada's password", "name": "Ada", "orgName": "Ada" });
    let ada: Value =
        http.post(format!("{identity}/api/auth/register")).json(&body).send().await?.error_for_status()?.json().await?;
    let (token, org) =
        (ada["token"].as_str().context("no token")?, ada["organization"]["id"].as_str().context("no org")?);
    let asserted =
        http.post(format!("{identity}/api/auth/assertion")).bearer_auth(token).send().await?.error_for_status()?;
    let asserted: Value = asserted.json().await?;
    let assertion = asserted["assertion"].as_str().with_context(|| format!("no assertion: {asserted}"))?;

    let body = json!({ "email": "bob@example.test", "password": "bob's password", "name": "Bob", "orgName": "Bob" });
    let bob: Value =
        http.post(format!("{identity}/api/auth/register")).json(&body).send().await?.error_for_status()?.json().await?;
    let (other, other_token) =
        (bob["organization"]["id"].as_str().context("no org")?, bob["token"].as_str().context("no token")?);
    let orgs = format!("{identity}/api/orgs");
    let me = ada["user"]["id"].as_str().context("no id")?;
    let script = |code: &str, assertion: &str| {
        let variables = [
            ("NATS_URL", nats),
            ("SYMBIA_TOKEN", token),
            ("SYMBIA_ASSERTION", assertion),
            ("ORG", org),
            ("ME", me),
            ("OTHER", other),
            ("OTHER_TOKEN", other_token),
            ("ORGS", &orgs),
        ];
        script.run(code, &variables)
    };

    let send = |assertion: &str| script(&example()?, assertion);
    let outcome = send(assertion)?;
    ensure!(outcome["status"] == "accepted" && outcome["events"][0]["version"].is_u64(), "{outcome}");
    let read = http.get(format!("{identity}/api/orgs")).bearer_auth(token);
    symbia_tests::binary::until("the new name shows", || async {
        let orgs: Value = read.try_clone().context("a request with a stream")?.send().await?.json().await?;
        Ok(orgs["organizations"][0]["name"] == "Renamed from Python")
    })
    .await?;

    // Somebody else's, not true, not there.
    let asserted = http.post(format!("{identity}/api/auth/assertion")).bearer_auth(other_token).send().await?;
    let asserted: Value = asserted.error_for_status()?.json().await?;
    let foreign = asserted["assertion"].as_str().with_context(|| format!("no assertion: {asserted}"))?;
    let forged = assertion.rsplit_once('.').map(|(signed, _)| format!("{signed}.AAAA")).context("no assertion")?;
    for (assertion, code) in [
        (foreign, "ORG_ACCESS_DENIED"),
        (forged.as_str(), "TOKEN_INVALID"),
        (token, "TOKEN_INVALID"),
        ("", "TOKEN_INVALID"),
    ] {
        let outcome = send(assertion)?;
        ensure!(outcome["status"] == "rejected" && outcome["code"] == code, "{code}: {outcome}");
    }

    let refused = script(FORBIDDEN, "")?;
    for (attempt, said) in refused.as_object().context("no answers")? {
        ensure!(said.as_str().is_some_and(|said| said.contains("permissions violation")), "{attempt}: {said}");
    }

    let heard = script(OVERHEARD, "")?;
    let subjects: Vec<&str> = heard.as_array().context("no list")?.iter().filter_map(Value::as_str).collect();
    ensure!(subjects.contains(&format!("symbia.evt.identity.{org}.organization.{org}").as_str()), "{heard}");
    ensure!(subjects.iter().all(|subject| subject.contains(org)), "it overheard {heard}");

    let keys = http.get(format!("{identity}/.well-known/jwks.json")).send().await?.text().await?;
    let script = Script { python: &python, house: &house };
    let verified = script.run(VERIFY, &[("JWKS", &keys), ("TOKEN", token)])?;
    ensure!(verified["claims"]["sub"] == ada["user"]["id"] && verified["forgedPasses"] == false, "{verified}");
    Ok(())
}
