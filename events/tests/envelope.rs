//! Whatever is done to the bytes of an event: the quick way of verifying gives the verdict of the slow one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use proptest::prelude::*;
use serde_json::{Map, Value};
use support::{AT, context};
use symbia_events::{
    AggregateRef, Event, GENESIS, KeyRing, Service, Signed, canonical, commit, hash,
    identity::{OrganizationDeleted, OrganizationEvent, OrganizationRenamed},
    sign_commit, verify,
};

fn keys() -> KeyRing {
    KeyRing::from_json(include_str!("../golden/keyring.json")).unwrap()
}

fn signed(keys: &KeyRing, names: &[String]) -> Vec<Signed> {
    let aggregate = AggregateRef::new(Service::Identity, "t1".parse().unwrap(), "organization", "o1").unwrap();
    let event = |name: &String| OrganizationRenamed { org_id: "o1".into(), name: name.clone() }.into();
    let events: Vec<OrganizationEvent> = names.iter().map(event).collect();
    sign_commit(keys, &aggregate, &context(1), 0, GENESIS, &events).unwrap()
}

/// Parse everything, bring it into canonical form, check: the event's hash when it verifies.
fn slowly(keys: &KeyRing, bytes: &[u8]) -> Option<String> {
    let event: Event = serde_json::from_slice(bytes).ok()?;
    let mut value: Value = serde_json::from_slice(bytes).ok()?;
    let canonical_bytes = canonical::to_vec(&value).ok()?;
    value.as_object_mut()?.remove("hmac");
    let role = event.service()?.name();
    if event.hmackid.split_once('.')?.1 != role {
        return None;
    }
    keys.verify(&event.hmackid, &canonical::to_vec(&value).ok()?, &event.hmac).ok()?;
    Some(hash(&canonical_bytes))
}

fn assert_same_verdict(keys: &KeyRing, bytes: &[u8]) -> bool {
    let quick = verify(keys, bytes).ok();
    assert_eq!(quick.as_ref().map(|s| s.hash.clone()), slowly(keys, bytes), "{}", String::from_utf8_lossy(bytes));
    if let Some(signed) = &quick {
        assert_eq!(serde_json::to_vec(&signed.event).unwrap(), signed.bytes, "what is read is what was verified");
    }
    quick.is_some()
}

/// The members of an object with their raw values, in order.
fn members(bytes: &[u8]) -> Vec<(String, String)> {
    let object: Map<String, Value> = serde_json::from_slice(bytes).unwrap();
    object.into_iter().map(|(name, value)| (name, canonical_text(&value))).collect()
}

fn canonical_text(value: &Value) -> String {
    String::from_utf8(canonical::to_vec(value).unwrap()).unwrap()
}

fn object(members: &[(String, String)], blank: &str) -> Vec<u8> {
    let members: Vec<String> = members.iter().map(|(name, value)| format!("\"{name}\":{blank}{value}")).collect();
    format!("{{{blank}{}{blank}}}", members.join(&format!("{blank},"))).into_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_commit_is_read_back_as_it_was_written(names in prop::collection::vec(any::<String>(), 1..5)) {
        let keys = keys();
        let written = signed(&keys, &names);
        let (payload, content_type) = commit::encode(&written);
        let batch = content_type == commit::CONTENT_TYPE_BATCH;
        prop_assert_eq!(batch, names.len() > 1);
        let read = commit::decode(&keys, &payload).unwrap();
        prop_assert_eq!(commit::encode(&read).0, payload);
        for (index, event) in read.iter().enumerate() {
            prop_assert_eq!(&event.hash, &written[index].hash);
            prop_assert_eq!(event.event.time, context(1).at);
            let payload: OrganizationEvent = event.event.decode().unwrap();
            let expected = OrganizationRenamed { org_id: "o1".into(), name: names[index].clone() };
            prop_assert_eq!(payload, OrganizationEvent::from(expected));
            prop_assert!(assert_same_verdict(&keys, &event.bytes));
        }
    }

    #[test]
    fn a_changed_byte_never_verifies(name in any::<String>(), place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let keys = keys();
        let mut bytes = signed(&keys, &[name]).remove(0).bytes.to_vec();
        let place = place.index(bytes.len());
        let changed = bytes[place] != byte;
        bytes[place] = byte;
        let verifies = assert_same_verdict(&keys, &bytes);
        // An escape in capitals is the same text.
        prop_assert!(!verifies || !changed || byte.is_ascii_hexdigit());
    }

    #[test]
    fn order_and_blanks_do_not_matter(order in Just((0..24).collect::<Vec<usize>>()).prop_shuffle(), blank in "[ \n\t]{0,3}") {
        let keys = keys();
        let original = signed(&keys, &["Ada".into()]).remove(0);
        let members = members(&original.bytes);
        let shuffled: Vec<_> = order.iter().filter_map(|i| members.get(*i).cloned()).collect();
        prop_assert_eq!(shuffled.len(), members.len());
        let bytes = object(&shuffled, &blank);
        prop_assert!(assert_same_verdict(&keys, &bytes));
        prop_assert_eq!(verify(&keys, &bytes).unwrap().hash, original.hash);
    }

    #[test]
    fn an_hmac_put_elsewhere_has_one_verdict(at in 0..24usize, nested in any::<bool>(), keep in any::<bool>(), own in any::<bool>()) {
        let keys = keys();
        let bytes = signed(&keys, &["Ada".into()]).remove(0).bytes;
        let event: Event = serde_json::from_slice(&bytes).unwrap();
        let mut members = members(&bytes);
        let hmac = if own { format!("\"{}\"", event.hmac) } else { "\"AAAA\"".to_owned() };
        if !keep {
            members.retain(|(name, _)| name != "hmac");
        }
        if nested {
            let data = members.iter_mut().find(|(name, _)| name == "data").unwrap();
            data.1 = format!("{{\"a\":1,\"hmac\":{hmac},\"hmackid\":\"k1.identity\"}}");
        } else {
            members.insert(at.min(members.len()), ("hmac".to_owned(), hmac));
        }
        let verifies = assert_same_verdict(&keys, &object(&members, ""));
        prop_assert_eq!(verifies, !nested && !keep && own);
    }

    #[test]
    fn a_member_that_stands_twice_counts_once(evil in any::<String>()) {
        let keys = keys();
        let bytes = signed(&keys, &["Ada".into()]).remove(0).bytes;
        let evil = serde_json::to_string(&evil).unwrap();
        let text = String::from_utf8(bytes.into()).unwrap();
        let twice = text.replacen("\"data\":{", &format!("\"data\":{{\"name\":{evil},"), 1);
        if assert_same_verdict(&keys, twice.as_bytes()) {
            let event = verify(&keys, twice.as_bytes()).unwrap().event;
            prop_assert_eq!(event.data.get(), r#"{"name":"Ada","orgId":"o1"}"#);
        }
    }
}

#[test]
fn an_event_with_text_that_looks_like_a_signature_verifies() {
    let keys = keys();
    let first = signed(&keys, &["Ada".into()]).remove(0);
    let member = format!(",\"hmac\":\"{}\",\"hmackid\":\"k1.identity\"", first.event.hmac);
    for text in [member.clone(), format!("\\{member}"), "\"".to_owned(), "\\".to_owned()] {
        let event = OrganizationDeleted { org_id: text.clone(), by: text };
        let aggregate = AggregateRef::new(Service::Identity, "t1".parse().unwrap(), "organization", "o1").unwrap();
        let context = symbia_events::Context { actor_id: member.clone(), env: Some(member.clone()), ..context(2) };
        let one = sign_commit::<OrganizationEvent>(&keys, &aggregate, &context, 0, GENESIS, &[event.into()]).unwrap();
        assert!(assert_same_verdict(&keys, &one[0].bytes));
    }
    assert!(AT < context(2).at);
}

#[test]
fn what_was_verified_once_is_known_by_its_very_bytes_and_to_the_same_keys_only() {
    let mut keys = keys();
    let written = signed(&keys, &["Ada".into(), "Bob".into()]);
    let (payload, _) = commit::encode(&written);
    let first = commit::decode(&keys, &payload).unwrap();
    let again = commit::decode(&keys, &payload).unwrap();
    assert!(std::sync::Arc::ptr_eq(&first[1].event, &again[1].event), "it is not read anew");
    let mut changed = payload.to_vec();
    let place = changed.windows(3).rposition(|three| three == b"Bob").unwrap();
    changed[place] = b'R';
    commit::decode(&keys, &changed).unwrap_err();

    let (kid, _) = written[0].event.hmackid.split_once('.').unwrap();
    keys.rotate(AT);
    keys.retire(kid).unwrap();
    commit::decode(&keys, &payload).unwrap_err();
}
