//! Quotas, ends, and uses that are reported twice.

use super::*;
use crate::{identity::testing::member, testing::given};

fn created(quota: Option<u64>) -> ScopedEntitlementCreated {
    ScopedEntitlementCreated {
        id: "e1".into(),
        org_id: "o1".into(),
        scope_type: "project".into(),
        scope_id: "p1".into(),
        feature_key: "api.calls".into(),
        quota,
        enabled: true,
        expires_at: None,
        by: "ada".into(),
    }
}

fn used(amount: u64, consumed: u64, key: &str) -> ScopedEntitlementEvent {
    EntitlementConsumed { id: "e1".into(), amount, consumed, idempotency_key: key.into() }.into()
}

fn consume(amount: u64, key: &str) -> ConsumeEntitlement {
    ConsumeEntitlement { id: "e1".into(), amount, idempotency_key: key.into() }
}

fn update() -> UpdateScopedEntitlement {
    UpdateScopedEntitlement { id: "e1".into(), quota: None, consumed: None, enabled: None, expires_at: None }
}

#[test]
fn a_feature_is_given_to_a_scope_once_by_an_admin() {
    let e = created(Some(5));
    let create = CreateScopedEntitlement {
        id: e.id.clone(),
        org_id: e.org_id.clone(),
        scope_type: e.scope_type.clone(),
        scope_id: e.scope_id.clone(),
        feature_key: e.feature_key.clone(),
        quota: e.quota,
        enabled: true,
        expires_at: None,
    };
    let claim = ScopedEntitlement::claim("o1", ("project", "p1", "api.calls"), "e1").unwrap();
    let ada = member("ada", "o1", "admin");
    given::<ScopedEntitlement>([]).when(create.clone(), &ada).then_decision(Decision::one(e).claiming(claim));
    given::<ScopedEntitlement>([]).when(create.clone(), &member("bob", "o1", "member")).rejected("INSUFFICIENT_ROLE");
    let foreign = CreateScopedEntitlement { scope_type: "org".into(), scope_id: "o2".into(), ..create };
    given::<ScopedEntitlement>([]).when(foreign, &ada).rejected("VALIDATION_FAILED");
}

#[test]
fn no_more_is_used_than_there_is_and_a_use_counts_once() {
    let service = Actor::service("runtime");
    let history = || [created(Some(5)).into(), used(3, 3, "k1")];
    given::<ScopedEntitlement>(history()).when(consume(2, "k2"), &service).then([used(2, 5, "k2")]);
    given::<ScopedEntitlement>(history()).when(consume(3, "k1"), &service).then([]);
    let exhausted = EntitlementExhausted { id: "e1".into(), requested: 3, remaining: 2 };
    given::<ScopedEntitlement>(history()).when(consume(3, "k2"), &service).then([exhausted.into()]);
    given::<ScopedEntitlement>(history()).when(consume(0, "k2"), &service).rejected("VALIDATION_FAILED");
    given::<ScopedEntitlement>(history())
        .when(consume(1, "k2"), &member("eve", "o2", "admin"))
        .rejected("INSUFFICIENT_ROLE");
    given::<ScopedEntitlement>([created(None).into()]).when(consume(9, "k1"), &service).then([used(9, 9, "k1")]);
}

#[test]
fn nothing_is_used_of_what_is_off_or_over() {
    let service = Actor::service("runtime");
    for (enabled, end) in [(false, None), (true, Some("2026-01-01T00:00:00Z"))] {
        let e = ScopedEntitlementCreated { enabled, expires_at: end.map(Into::into), ..created(Some(5)) };
        given::<ScopedEntitlement>([e.into()]).when(consume(1, "k"), &service).rejected("ENTITLEMENT_INACTIVE");
    }
}

#[test]
fn what_is_left_out_of_an_update_stays() {
    let ada = member("ada", "o1", "admin");
    let e = ScopedEntitlementCreated { expires_at: Some("2027-01-01T00:00:00Z".into()), ..created(Some(5)) };
    let updated = ScopedEntitlementUpdated {
        id: "e1".into(),
        quota: Some(9),
        consumed: 0,
        enabled: true,
        expires_at: e.expires_at.clone(),
        by: "ada".into(),
    };
    let more = UpdateScopedEntitlement { quota: Some(Some(9)), ..update() };
    given::<ScopedEntitlement>([e.clone().into()]).when(more, &ada).then([updated.clone().into()]);
    let endless = UpdateScopedEntitlement { expires_at: Some(None), ..update() };
    let expected = ScopedEntitlementUpdated { quota: Some(5), expires_at: None, ..updated };
    given::<ScopedEntitlement>([e.clone().into()]).when(endless, &ada).then([expected.into()]);
    given::<ScopedEntitlement>([e.into()]).when(update(), &ada).then([]);
    let from_wire = |data: &str| serde_json::from_str::<UpdateScopedEntitlement>(data).unwrap().expires_at;
    assert_eq!(from_wire(r#"{"id":"e1"}"#), None);
    assert_eq!(from_wire(r#"{"id":"e1","expiresAt":null}"#), Some(None));
}
