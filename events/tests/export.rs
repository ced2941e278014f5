//! Exports: what is written is read back, damage is named by its line, and an independent script agrees.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::{io::Cursor, path::Path, process::Command};

use support::{AT, Log, Random, context};
use symbia_events::{
    AggregateRef, GENESIS, KeyRing, OrgId, Service,
    audit::{
        Kind, Message, Proof, ProofError, Verifier,
        export::{ExportError, Payload, Reader, Record, Writer},
        leaves, merkle,
    },
    canonical, commit,
    logging::LogSealed,
    sign_commit, sign_data,
};

fn keys() -> KeyRing {
    let mut keys = KeyRing::generate(AT);
    keys.rotate(AT);
    keys
}

fn records(log: &Log) -> Vec<Record> {
    let sequences = log.sequences();
    (log.entries.iter().zip(sequences))
        .filter(|(e, _)| !e.gone)
        .map(|(e, sequence)| Record {
            service: e.aggregate.service,
            sequence,
            subject: e.subject.clone(),
            message_id: Some(format!("m{}", e.uid)),
            stored_at: AT,
            payload: Payload::new(e.payload.clone()),
        })
        .collect()
}

fn export(keys: &KeyRing, records: &[Record]) -> String {
    let mut writer = Writer::new(Vec::new(), keys, support::SERVICES.to_vec(), AT).unwrap();
    records.iter().for_each(|record| writer.write(record).unwrap());
    String::from_utf8(writer.finish(AT).unwrap().0).unwrap()
}

fn read(text: &str) -> Result<Vec<Record>, ExportError> {
    Reader::new(Cursor::new(text))?.collect()
}

fn small(keys: &KeyRing) -> Log {
    Log::new(keys, 300, 20, &mut Random(1))
}

#[test]
fn an_export_is_read_back_and_its_heads_agree_with_its_messages() {
    let keys = keys();
    let mut records = records(&small(&keys));
    records[7].payload = Payload::new(vec![0xff, 0x00, b'\n']);
    let text = export(&keys, &records);
    let mut reader = Reader::new(Cursor::new(&text)).unwrap();
    let read: Vec<Record> = reader.by_ref().map(Result::unwrap).collect();
    assert_eq!(read, records);
    assert_eq!(reader.header().services, support::SERVICES);
    let heads = reader.heads().unwrap();
    heads.verify(&keys).unwrap();
    let mut verifier = Verifier::new(&keys);
    heads.heads.iter().cloned().for_each(|head| verifier.expect_head(head));
    for record in read {
        let (service, sequence, subject) = (record.service, record.sequence, record.subject.as_str());
        let payload = record.payload.into_bytes().unwrap();
        verifier.feed(&[Message { service, sequence, subject, payload: &payload }]);
    }
    let report = verifier.finish();
    assert_eq!(report.attestations, heads.heads.len() as u64);
    assert_eq!(report.findings.iter().map(|f| f.kind).collect::<Vec<_>>(), [Kind::Foreign]);
}

#[test]
fn a_damaged_export_is_refused_with_the_line_that_is_damaged() {
    let keys = keys();
    let records = records(&small(&keys));
    let text = export(&keys, &records);
    let lines: Vec<&str> = text.lines().collect();
    let error = |text: &str| read(text).unwrap_err().to_string();
    let joined = |lines: &[&str]| lines.join("\n") + "\n";

    let cut = joined(&lines[..lines.len() - 1]);
    assert!(
        error(&cut).contains(&format!("after line {} without its signed heads", lines.len() - 1)),
        "{}",
        error(&cut)
    );
    let mut broken = lines.clone();
    broken[4] = &lines[4][..50];
    assert!(error(&joined(&broken)).starts_with("line 5: the message cannot be read at column"));
    let twice = [lines.clone(), vec![lines[3]]].concat();
    assert!(error(&joined(&twice)).starts_with(&format!("line {}: nothing may follow", twice.len())));
    assert!(error("{}\n").starts_with("line 1: this is no log export"));
    assert!(error(&text.replacen("\"version\":1", "\"version\":2", 1)).contains("version 2"));
    assert!(error("").contains("after line 0"));
}

#[test]
fn a_proof_stands_alone_and_for_its_event_only() {
    let keys = keys();
    let log = small(&keys);
    let (service, sequences) = (Service::Identity, log.sequences());
    let stretch: Vec<_> = log.entries.iter().zip(sequences).filter(|(e, _)| e.aggregate.service == service).collect();
    let hashes: Vec<_> = (stretch.iter())
        .flat_map(|(e, sequence)| {
            leaves(&keys, &Message { service, sequence: *sequence, subject: &e.subject, payload: &e.payload })
        })
        .collect();
    let root = encode(&merkle::root(&hashes));
    let seal = |service: &str, root: &str| {
        let sealed = LogSealed {
            service: service.into(),
            from_sequence: 1,
            to_sequence: stretch.len() as u64,
            events: hashes.len() as u64,
            root: root.into(),
            previous_root: String::new(),
            sealed_through: "2026-01-01T01:00:00Z".into(),
        };
        let aggregate = AggregateRef::new(Service::Logging, OrgId::global(), "seal", service).unwrap();
        let events = [symbia_events::logging::SealEvent::from(sealed)];
        sign_commit(&keys, &aggregate, &context(1), 0, GENESIS, &events).unwrap().remove(0)
    };
    let sealed = seal("identity", &root);
    let events: Vec<_> = stretch.iter().flat_map(|(e, _)| commit::decode(&keys, &e.payload).unwrap()).collect();
    for event in &events {
        let proof = Proof::new(event, &hashes, &sealed).unwrap();
        let text = serde_json::to_string(&proof).unwrap();
        let proof: Proof = serde_json::from_str(&text).unwrap();
        let proved = proof.check(&keys).unwrap();
        assert_eq!(proved.event.hash, event.hash);
        assert_eq!((proved.seal.from, proved.seal.to), (1, stretch.len() as u64));
    }
    let proof = Proof::new(&events[3], &hashes, &sealed).unwrap();
    let other = Proof::new(&events[4], &hashes, &sealed).unwrap();
    for wrong in [
        Proof { event: other.event.clone(), ..proof.clone() },
        Proof { event: other.event, leaf_hash: other.leaf_hash, ..proof.clone() },
        Proof { index: 4, ..proof.clone() },
        Proof { size: proof.size + 1, ..proof.clone() },
        Proof { path: proof.path[1..].to_vec(), ..proof.clone() },
        Proof { root: encode(&[0; 32]), ..proof.clone() },
        Proof::new(&events[3], &hashes, &seal("identity", &encode(&[0; 32]))).unwrap(),
        Proof::new(&events[3], &hashes, &seal("catalog", &root)).unwrap(),
        Proof { seal: proof.event.clone(), ..proof.clone() },
    ] {
        assert!(matches!(wrong.check(&keys), Err(ProofError::Mismatch(_))), "{wrong:?}");
    }
    assert!(matches!(proof.check(&KeyRing::generate(AT)), Err(ProofError::Event { part: "event", .. })));
    assert!(matches!(Proof::new(&sealed, &hashes, &sealed), Err(ProofError::NotSealed(_))));
}

fn encode(digest: &[u8; 32]) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.encode(digest)
}

/// Runs `docs/verify.py` on an export: whether it says that the log is whole, and what it prints.
fn script(directory: &Path, keys: &KeyRing, export: &str) -> (bool, String) {
    let (log, ring) = (directory.join("log.ndjson"), directory.join("keyring.json"));
    std::fs::write(&log, export).unwrap();
    std::fs::write(&ring, keys.to_json().as_bytes()).unwrap();
    let python = std::env::var("SYMBIA_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/verify.py");
    let run = Command::new(python).arg(script).arg(log).arg(ring).output();
    let run = run.expect("needs Python 3: name an interpreter in SYMBIA_TEST_PYTHON");
    let said = String::from_utf8(run.stdout).unwrap() + &String::from_utf8(run.stderr).unwrap();
    (run.status.success(), said)
}

#[test]
fn the_independent_script_agrees_about_a_good_and_a_tampered_export() {
    let keys = keys();
    let mut log = small(&keys);
    // Numbers of every shape, odd names and characters: the script's canonical form must be ours.
    let odd = canonical::to_raw(&serde_json::json!({
        "n": [0, -0.0, 1, -7, 1.5, 1e21, 1e20, 123456789012345680000.0, 1e-6, 1e-7, 5e-324, 0.1, 333333333.333, 9007199254740991i64, 4.5e30],
        "ö": "\u{7f}\u{1}\n\t\"\\/\u{2028}😀", "\u{fb33}": true, "😀": null, "": {},
    }))
    .unwrap();
    let odd = vec![("symbia.catalog.odd.odd.v1".to_owned(), odd)];
    let aggregate = AggregateRef::new(Service::Catalog, OrgId::global(), "odd", "1").unwrap();
    let mut entry = log.signed(&keys, &aggregate, 0, GENESIS, 1, &mut Random(1));
    entry.payload = commit::encode(&sign_data(&keys, &aggregate, &context(9), 0, GENESIS, odd).unwrap()).0.into();
    log.entries.push(entry);
    let good = records(&log);
    let directory = tempdir("script");
    let (whole, said) = script(&directory, &keys, &export(&keys, &good));
    assert!(whole && said.contains("0 problems"), "{said}");
    assert!(log.audit(&keys).is_clean());

    let edited = export(&keys, &good).replacen("\\\"left, ", "\\\"gone, ", 1);
    let (whole, said) = script(&directory, &keys, &edited);
    assert!(!whole && said.contains("the signature does not match"), "{said}");

    let mut removed = good.clone();
    removed.remove(40);
    let (whole, said) = script(&directory, &keys, &export(&keys, &removed));
    assert!(!whole && said.contains("messages are missing"), "{said}");

    let text = export(&keys, &good);
    let mut lines: Vec<&str> = text.lines().collect();
    lines.remove(lines.len() - 2);
    let (whole, said) = script(&directory, &keys, &(lines.join("\n") + "\n"));
    assert!(!whole && said.contains("not the one that was exported"), "{said}");

    let (whole, said) = script(&directory, &KeyRing::generate(AT), &text);
    assert!(!whole && said.contains("the signature of the heads does not match"), "{said}");
    std::fs::remove_dir_all(directory).unwrap();
}

fn tempdir(name: &str) -> std::path::PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}
