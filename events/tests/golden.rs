//! One event of every type as it was first written, kept for ever: today's code must read it.
//!
//! `UPDATE_GOLDEN=1 cargo test -p symbia-events --test golden every_event_type` writes the files that are missing. A file that exists is
//! never written again: an event type is not edited, it gets a new version and an upcaster.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::{fs, path::PathBuf};

use cloudevents::{AttributesReader, Data, EventBuilder, EventBuilderV10};
use serde_json::Value;
use symbia_events::{
    ActorType, AggregateRef, AuthMethod, CommandId, Context, GENESIS, KeyRing, MessageType, OrgId, Signed, SubjectKey,
    canonical, catalog, example, identity::UserEvent, recode, sign_data, verify,
};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden")
}

fn keys() -> KeyRing {
    KeyRing::from_json(&fs::read_to_string(directory().join("keyring.json")).unwrap()).unwrap()
}

fn first_written(keys: &KeyRing, message: &MessageType) -> Signed {
    let data = example::example(&message.schema).to_string();
    let data = recode(message.name, &data).unwrap_or_else(|e| panic!("the example of {} {data}: {e}", message.name));
    let tenant: OrgId = "019b76da-a800-7000-8000-0000000000aa".parse().unwrap();
    let aggregate = AggregateRef::new(message.service, tenant, message.aggregate, example::ID).unwrap();
    let context = Context {
        actor_id: "019b76da-a800-7000-8000-0000000000bb".into(),
        actor_type: ActorType::User,
        on_behalf_of: Some("019b76da-a800-7000-8000-0000000000cc".into()),
        auth_method: AuthMethod::Jwt,
        command_id: CommandId("019b76da-a800-7000-8000-0000000000dd".parse().unwrap()),
        correlation_id: "019b76da-a800-7000-8000-0000000000ee".into(),
        causation_id: "019b76da-a800-7000-8000-0000000000dd".into(),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        data_class: Some("none".into()),
        env: Some("test".into()),
        policy_ref: None,
        at: support::AT,
    };
    let events = vec![(message.name.to_owned(), data)];
    sign_data(keys, &aggregate, &context, 0, GENESIS, events).unwrap().remove(0)
}

fn golden() -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(directory()).unwrap().map(|file| file.unwrap().path());
    let events = files.filter(|path| path.file_name().is_some_and(|name| name != "keyring.json"));
    events.map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())).collect()
}

#[test]
fn every_event_type_has_its_golden_file() {
    let keys = keys();
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut missing = Vec::new();
    for message in catalog() {
        let path = directory().join(format!("{}.json", message.name));
        if !path.exists() && update {
            fs::write(&path, first_written(&keys, &message).bytes).unwrap();
        } else if !path.exists() {
            missing.push(message.name);
        }
    }
    assert!(missing.is_empty(), "run this test alone with UPDATE_GOLDEN=1 to write {missing:#?}");
}

#[test]
fn golden_events_verify_decode_and_are_written_the_same_again() {
    let keys = keys();
    let golden = golden();
    assert!(golden.len() >= catalog().len());
    for (name, bytes) in golden {
        let signed = verify(&keys, &bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(signed.event.event_type, name);
        assert_eq!(
            String::from_utf8_lossy(&serde_json::to_vec(&signed.event).unwrap()),
            String::from_utf8_lossy(&bytes)
        );
        let data: Value = serde_json::from_str(signed.event.data.get()).unwrap();
        let today = recode(&name, signed.event.data.get()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let today: Value = serde_json::from_str(today.get()).unwrap();
        if catalog().iter().any(|message| message.name == name) {
            // Fields may have been added since.
            for (field, value) in data.as_object().unwrap() {
                assert_eq!(&today[field], value, "{name}: the field {field} is read differently today");
            }
        }
    }
}

#[test]
fn golden_personal_fields_open_with_their_key() {
    let registered = fs::read(directory().join("symbia.identity.user.user-registered.v1.json")).unwrap();
    let event: UserEvent = verify(&keys(), &registered).unwrap().event.decode().unwrap();
    let UserEvent::UserRegistered(registered) = event else { panic!("{event:?}") };
    let key = SubjectKey::from_bytes("subject-1", [7; 32]);
    assert_eq!(key.open(&registered.name).as_deref(), Ok("Ada Lovelace"));
}

#[test]
fn the_cloudevents_sdk_reads_and_rebuilds_every_golden_event() {
    for (name, bytes) in golden() {
        let ours: Value = serde_json::from_slice(&bytes).unwrap();
        let parsed: cloudevents::Event = serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let text = |attribute: &str| ours[attribute].as_str().unwrap().to_owned();
        assert_eq!(parsed.id(), text("id"));
        assert_eq!(parsed.ty(), name);
        assert_eq!(parsed.source().as_str(), text("source"));
        assert_eq!(parsed.subject().unwrap(), text("subject"));
        assert_eq!(parsed.dataschema().unwrap().as_str(), text("dataschema"));

        let mut builder = EventBuilderV10::new()
            .id(parsed.id())
            .ty(parsed.ty())
            .source(parsed.source().as_str())
            .subject(parsed.subject().unwrap())
            .time(*parsed.time().unwrap());
        for (extension, value) in parsed.iter_extensions() {
            builder = builder.extension(extension, value.clone());
        }
        let Some(Data::Json(data)) = parsed.data() else { panic!("{name} carries no JSON") };
        let rebuilt = builder
            .data_with_schema(parsed.datacontenttype().unwrap(), parsed.dataschema().unwrap().clone(), data.clone())
            .build()
            .unwrap();
        assert_eq!(rebuilt, parsed);
        let mut written = serde_json::to_value(&rebuilt).unwrap();
        // The SDK spells UTC as an offset.
        assert_eq!(written["time"].as_str().unwrap().replace("+00:00", "Z"), text("time"));
        written["time"] = ours["time"].clone();
        assert_eq!(canonical::to_vec(&written).unwrap(), bytes, "{name}");
    }
}
