//! `symbia log` and `symbia audit` with the real binary: a log is tampered with, found out, mended, moved and proved.

use std::fs;

use anyhow::{Context, ensure};
use async_nats::jetstream::{self, consumer};
use futures::TryStreamExt;
use serde_json::{Value, json};
use symbia_tests::binary::{Installation, text, until};

type Tested = anyhow::Result<()>;

async fn raw(house: &Installation) -> anyhow::Result<jetstream::Context> {
    Ok(jetstream::new(house.nats().await?))
}

fn findings(report: &Value) -> Vec<(String, u64)> {
    let all = report["findings"].as_array().cloned().unwrap_or_default();
    all.iter().map(|f| (f["kind"].as_str().unwrap_or("").to_owned(), f["sequence"].as_u64().unwrap_or(0))).collect()
}

fn state(house: &Installation) -> anyhow::Result<Value> {
    let replay = house.run(&["replay"])?.expect(0)?.json()?;
    ensure!(replay["equalsLive"] == true, "the live projection is not what the log says: {replay}");
    Ok(replay["stateHash"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_message_is_found_passed_over_and_removed() -> Tested {
    let mut house = Installation::new()?;
    house.start_counted()?;
    for number in 1..=3 {
        house.found(number)?;
    }
    let clean = house.run(&["audit", "verify"])?.expect(0)?.json()?;
    // An organization is two messages: itself, and the claim of its slug. The first assistant is three.
    assert_eq!((&clean["messages"], &clean["events"]), (&json!(9), &json!(12)));
    let export = house.file("log.ndjson");
    let exported = house.run(&["log", "export", "--out", text(&export)])?.expect(0)?.json()?;
    assert_eq!(exported["messages"], 9);

    let js = raw(&house).await?;
    let forged = json!({ "specversion": "1.0", "id": "1", "type": "symbia.identity.organization.created.v1" });
    js.publish("symbia.evt.identity.global.organization.forged", forged.to_string().into()).await?.await?;
    house.rename(1, "after the forgery")?;

    let found = house.run(&["audit", "verify"])?.expect(3)?.json()?;
    assert_eq!(findings(&found), [("foreign".to_owned(), 7)], "{found}");
    let shown = house.run(&["log", "show", "identity:7"])?.expect(3)?.json()?;
    assert_eq!(shown["verified"], false);
    assert_eq!(house.run(&["log", "show", "identity:8"])?.expect(0)?.json()?["verified"], true);
    house.run(&["log", "export", "--out", text(&house.file("tainted"))])?.expect(3)?;
    let refused = house.run(&["log", "restore", "--from", text(&house.file("tainted"))])?.expect(1)?;
    assert!(refused.err.contains("is not whole"), "{}", refused.err);
    until("the projection passed the forgery", || async {
        let list = house.run(&["projection", "list"])?.expect(0)?.json()?;
        let identity = &list["projections"][0];
        Ok(identity["quarantined"] == 1 && identity["streams"][0]["position"] == 8)
    })
    .await?;

    // A reactor that has done with everything up to the forgery, and one message more.
    let consumer = async |js: &jetstream::Context| {
        let config = consumer::pull::Config {
            durable_name: Some("reactor-test".to_owned()),
            filter_subject: "symbia.evt.identity.*.organization.*".to_owned(),
            ..consumer::pull::Config::default()
        };
        anyhow::Ok(js.get_stream("SYMBIA_EVT_IDENTITY").await?.create_consumer(config).await?)
    };
    let reactor = consumer(&js).await?;
    let mut done = reactor.fetch().max_messages(5).messages().await?;
    while let Some(message) = done.try_next().await.map_err(anyhow::Error::from_boxed)? {
        message.double_ack().await.map_err(anyhow::Error::from_boxed)?;
    }
    house.rename(2, "not yet reacted to")?;

    // Without --yes nothing happens; with it, not while somebody writes.
    let plan = house.run(&["log", "restore", "--from", text(&export)])?.expect(3)?.json()?;
    assert_eq!(plan["applied"], false);
    let stream = &plan["streams"][0];
    assert_eq!((&stream["exported"], &stream["kept"], &stream["droppedTotal"]), (&json!(6), &json!(2), &json!(1)));
    assert_eq!((&stream["dropped"][0]["sequence"], &stream["renumberedFrom"]), (&json!(7), &json!(8)));
    house.run(&["audit", "verify"])?.expect(3)?;
    let running = house.run(&["log", "restore", "--from", text(&export), "--yes"])?.expect(1)?;
    assert!(running.err.contains("stop `symbia up` first"), "{}", running.err);
    house.stop()?;

    let mended = house.run(&["log", "restore", "--from", text(&export), "--yes"])?.expect(0)?.json()?;
    let evidence = fs::read_to_string(mended["evidence"].as_str().context("no evidence")?)?;
    assert!(evidence.contains("organization.forged"));
    let clean = house.run(&["audit", "verify"])?.expect(0)?.json()?;
    assert_eq!(clean["messages"], 11);

    // And the platform goes on with it.
    house.start_counted()?;
    assert_eq!(house.rename(1, "after the mending")?["position"]["sequence"], 9);
    assert_eq!(house.run(&["audit", "verify"])?.expect(0)?.json()?["events"], 15);
    let mut rest = consumer(&raw(&house).await?).await?.fetch().max_messages(9).messages().await?;
    let mut seen = Vec::new();
    while let Some(message) = rest.try_next().await.map_err(anyhow::Error::from_boxed)? {
        seen.push(message.info().map_err(anyhow::Error::from_boxed)?.stream_sequence);
    }
    assert_eq!(seen, [8, 9], "nothing is reacted to twice, nothing is passed over");
    state(&house)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_becomes_the_same_platform_elsewhere() -> Tested {
    let mut house = Installation::new()?;
    house.start_counted()?;
    for number in 1..=4 {
        house.found(number)?;
    }
    house.rename(2, "Renamed")?;
    let export = house.file("log.ndjson");
    house.run(&["log", "export", "--out", text(&export)])?.expect(0)?;
    let original = state(&house)?;
    let tail = house.run(&["log", "tail", "--service", "identity", "--from", "identity:9"])?.expect(0)?;
    assert!(tail.out.contains("Renamed") && tail.out.lines().count() == 1, "{}", tail.out);

    // Into a log that is not empty it does not go.
    let refused = house.run(&["log", "import", text(&export)])?.expect(1)?;
    assert!(refused.err.contains("the log is not empty"), "{}", refused.err);

    // A damaged export goes nowhere.
    let damaged = house.file("damaged.ndjson");
    fs::write(&damaged, fs::read_to_string(&export)?.replacen("Renamed", "renamed", 1))?;
    let mut copy = Installation::with_keys_of(&house)?;
    let refused = copy.run(&["log", "import", text(&damaged)])?.expect(1)?;
    assert!(refused.err.contains("identity:9"), "{}", refused.err);
    copy.run(&["audit", "verify", "--file", text(&damaged)])?.expect(3)?;
    copy.run(&["audit", "verify", "--file", text(&export)])?.expect(0)?;

    let imported = copy.run(&["log", "import", text(&export)])?.expect(0)?.json()?;
    assert_eq!(imported["messages"], 12);
    copy.start_counted()?;
    assert_eq!(state(&copy)?, original);
    let show = |house: &Installation| house.run(&["log", "show", "identity:9"])?.expect(0)?.json();
    assert_eq!(show(&copy)?, show(&house)?, "position, time of storage and bytes stay");
    assert_eq!(copy.found(5)?["position"]["sequence"], 10);
    copy.run(&["audit", "verify"])?.expect(0)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_event_is_proved_and_a_changed_proof_refused() -> Tested {
    let mut house = Installation::new()?;
    house.start_counted()?;
    for number in 1..=5 {
        house.found(number)?;
    }
    house.rename(3, "Proved")?;
    let unsealed = house.run(&["audit", "prove", "identity:11"])?.expect(1)?;
    assert!(unsealed.err.contains("not sealed yet"), "{}", unsealed.err);

    let sealed = house.run(&["audit", "seal"])?.expect(0)?.json()?;
    let stretch = &sealed["sealed"][0];
    assert_eq!((&stretch["service"], &stretch["from"], &stretch["to"]), (&json!("identity"), &json!(1), &json!(11)));
    let again = house.run(&["audit", "seal"])?.expect(0)?.json()?;
    assert_eq!(again["sealed"], json!([]), "nothing new");

    let event = house.run(&["log", "show", "identity:11"])?.expect(0)?.json()?["event"]["id"].clone();
    let proof = house.file("proof.json");
    house.run(&["audit", "prove", event.as_str().context("no id")?, "--out", text(&proof)])?.expect(0)?;
    let held = house.run(&["audit", "check-proof", text(&proof)])?.expect(0)?.json()?;
    assert_eq!((&held["holds"], &held["event"]), (&json!(true), &event));

    let mut document: Value = serde_json::from_str(&fs::read_to_string(&proof)?)?;
    for (member, changed) in [("index", json!(3)), ("root", json!("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"))] {
        let original = std::mem::replace(&mut document[member], changed);
        fs::write(&proof, document.to_string())?;
        assert_eq!(house.run(&["audit", "check-proof", text(&proof)])?.expect(3)?.json()?["holds"], false, "{member}");
        document[member] = original;
    }
    let clean = house.run(&["audit", "verify"])?.expect(0)?.json()?;
    assert_eq!(clean["attestations"].as_u64(), Some(sealed["sealed"].as_array().map_or(0, Vec::len) as u64));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_its_last_message_is_found_by_heads_and_witness() -> Tested {
    let mut house = Installation::new()?;
    house.start_counted()?;
    for number in 1..=3 {
        house.found(number)?;
    }
    house.rename(1, "the last word")?;
    let (export, heads) = (house.file("log.ndjson"), house.file("heads.json"));
    house.run(&["log", "export", "--out", text(&export)])?.expect(0)?;
    house.run(&["audit", "heads", "--out", text(&heads)])?.expect(0)?;
    house.run(&["audit", "verify", "--heads", text(&heads)])?.expect(0)?;
    state(&house)?;

    // The stream again, without its end: as somebody could who owns the broker.
    let js = raw(&house).await?;
    let config = js.get_stream("SYMBIA_EVT_IDENTITY").await?.cached_info().config.clone();
    js.delete_stream("SYMBIA_EVT_IDENTITY").await?;
    js.create_stream(config).await?;
    for line in fs::read_to_string(&export)?.lines() {
        let record: Value = serde_json::from_str(line)?;
        if record["service"] == "identity" && record["sequence"].as_u64() < Some(7) {
            let payload = record["payload"].as_str().context("no text")?.to_owned();
            let subject = record["subject"].as_str().context("no subject")?.to_owned();
            js.publish(subject, payload.into()).await?.await?;
        }
    }

    let report = house.run(&["audit", "verify"])?.expect(3)?.json()?;
    assert_eq!(findings(&report), [("removal".to_owned(), 7)], "{report}");
    assert!(
        report["findings"][0]["explanation"].as_str().is_some_and(|e| e.contains("projection identity")),
        "{report}"
    );
    let report = house.run(&["audit", "verify", "--heads", text(&heads)])?.expect(3)?.json()?;
    assert!(findings(&report).contains(&("removal".to_owned(), 7)), "{report}");

    house.stop()?;
    let mended =
        house.run(&["log", "restore", "--from", text(&export), "--service", "identity", "--yes"])?.expect(0)?;
    assert_eq!(mended.json()?["streams"][0]["mended"], json!([7]));
    house.run(&["audit", "verify", "--heads", text(&heads)])?.expect(0)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_import_is_finished_before_anything_starts() -> Tested {
    let mut house = Installation::new()?;
    house.start_counted()?;
    for number in 1..=2 {
        house.found(number)?;
    }
    let export = house.file("log.ndjson");
    house.run(&["log", "export", "--out", text(&export)])?.expect(0)?;

    // What a crash leaves: the marker, and a stream that was just begun.
    let mut copy = Installation::with_keys_of(&house)?;
    copy.start_counted()?;
    let js = raw(&copy).await?;
    let mut config = js.get_stream("SYMBIA_EVT_IDENTITY").await?.cached_info().config.clone();
    js.delete_stream("SYMBIA_EVT_IDENTITY").await?;
    config.subjects = vec!["symbia.fill.identity.>".to_owned()];
    js.create_stream(config).await?;
    copy.stop()?;
    let marker = json!({ "content": { "given": text(&export) }, "services": ["identity"] });
    fs::write(copy.data().join("refill.json"), marker.to_string())?;

    let refused = copy.run(&["up", "--skip-admin", "--nats-port", "0"])?.expect(1)?;
    assert!(refused.err.contains("symbia log resume"), "{}", refused.err);
    let refused = copy.run(&["log", "import", text(&export)])?.expect(1)?;
    assert!(refused.err.contains("symbia log resume"), "{}", refused.err);
    copy.run(&["log", "resume"])?.expect(0)?;
    assert!(!copy.data().join("refill.json").exists());
    copy.start_counted()?;
    state(&copy)?;
    for position in ["identity:1", "identity:2", "identity:3", "identity:4"] {
        let show = |house: &Installation| anyhow::Ok(house.run(&["log", "show", position])?.expect(0)?.out);
        assert_eq!(show(&copy)?, show(&house)?, "the copy's own streams stay, this one is the export's");
    }
    copy.run(&["audit", "verify"])?.expect(0)?;
    Ok(())
}
