use super::*;
use crate::{Membership, testing::given};

fn ada(role: Option<Role>) -> Actor {
    let orgs = role.map(|role| Membership { id: "o1".parse().unwrap(), role }).into_iter().collect();
    Actor { id: "ada".into(), kind: ActorType::User, orgs, ..Actor::service("test") }
}

fn acting_for(principal: &str, member: bool) -> Actor {
    let orgs = ada(member.then_some(Role::Viewer)).orgs;
    Actor { on_behalf_of: Some(principal.into()), orgs, ..Actor::service("integrations") }
}

fn store(is_org_wide: bool) -> StoreCredential {
    StoreCredential {
        credential_id: "c1".into(),
        owner_id: "ada".into(),
        org_id: Some("o1".into()),
        provider: "openai".into(),
        name: "key".into(),
        name_key: "hash".into(),
        credential_type: "api_key".into(),
        is_org_wide,
        secret_ref: "credential:c1:a".into(),
        refresh_ref: None,
        masked_hint: None,
        metadata: Map::new(),
        expires_at: None,
        account_key: None,
        oauth_user_id: None,
        oauth_user_email: None,
        oauth_user_name: None,
    }
}

fn stored(is_org_wide: bool) -> CredentialEvent {
    Credential::default().store(store(is_org_wide), &ada(Some(Role::Admin))).unwrap().events.remove(0)
}

#[test]
fn a_credential_is_kept_in_ones_own_name_and_org_wide_by_an_admin_alone() {
    let decision = Credential::default().store(store(true), &ada(Some(Role::Admin))).unwrap();
    assert_eq!(decision.claims[0].claim(), &name_claim("hash", "c1"));
    given::<Credential>([]).when(store(true), &ada(Some(Role::Member))).rejected("INSUFFICIENT_ROLE");
    given::<Credential>([]).when(store(false), &ada(None)).rejected("ORG_ACCESS_DENIED");
    let eve = Actor { id: "eve".into(), ..ada(Some(Role::Admin)) };
    given::<Credential>([]).when(store(false), &eve).rejected("FORBIDDEN");
    let foreign = StoreCredential { secret_ref: "credential:c2:a".into(), ..store(false) };
    given::<Credential>([]).when(foreign, &ada(Some(Role::Admin))).rejected("VALIDATION_FAILED");
    let agent = Actor { kind: ActorType::Agent, ..ada(Some(Role::Member)) };
    given::<Credential>([]).when(store(false), &agent).rejected("FORBIDDEN");
    // A service keeps one for the user it acts for.
    assert!(Credential::default().store(store(false), &acting_for("ada", true)).is_ok());
    given::<Credential>([]).when(store(false), &acting_for("bob", true)).rejected("FORBIDDEN");
}

#[test]
fn a_secret_goes_to_a_service_for_its_owner_or_a_member_and_every_denial_is_on_record() {
    let release = || ReleaseCredential { credential_id: "c1".into(), purpose: Some("llm".into()) };
    let released = |principal: &str, is_proxy| CredentialReleased {
        credential_id: "c1".into(),
        for_principal_id: principal.into(),
        service: "integrations".into(),
        purpose: Some("llm".into()),
        is_proxy,
    };
    let denied = |principal: &str, reason: &str| CredentialReleaseDenied {
        credential_id: "c1".into(),
        for_principal_id: principal.into(),
        service: "integrations".into(),
        purpose: Some("llm".into()),
        reason: reason.into(),
    };
    let to = |wide, by: &Actor| given::<Credential>([stored(wide)]).when(release(), by);
    to(false, &acting_for("ada", false)).then([released("ada", false).into()]);
    to(true, &acting_for("bob", true)).then([released("bob", true).into()]);
    to(true, &acting_for("eve", false)).then([denied("eve", "not-a-member").into()]);
    to(false, &acting_for("bob", true)).then([denied("bob", "not-the-owner").into()]);
    // Neither the owner herself nor a service that acts for nobody.
    to(false, &ada(Some(Role::Admin))).rejected("FORBIDDEN");
    to(false, &Actor::service("integrations")).rejected("FORBIDDEN");
}

#[test]
fn replacing_and_deleting_say_which_secrets_are_to_be_destroyed() {
    let replace = |version| ReplaceCredentialSecret {
        credential_id: "c1".into(),
        secret_ref: "credential:c1:b".into(),
        refresh_ref: None,
        masked_hint: None,
        expires_at: None,
        version,
    };
    let replaced = CredentialSecretReplaced {
        credential_id: "c1".into(),
        secret_ref: "credential:c1:b".into(),
        refresh_ref: None,
        masked_hint: None,
        expires_at: None,
        version: 2,
        by: "ada".into(),
    };
    let destroyed = |secret: &str| SecretDestroyed { credential_id: "c1".into(), secret_ref: secret.into() };
    given::<Credential>([stored(false)])
        .when(replace(2), &ada(None))
        .then([replaced.clone().into(), destroyed("credential:c1:a").into()]);
    given::<Credential>([stored(false), replaced.clone().into()]).when(replace(2), &ada(None)).rejected("CONFLICT");
    let delete = || DeleteCredential { credential_id: "c1".into() };
    let deleted = CredentialDeleted { credential_id: "c1".into(), by: "ada".into() };
    given::<Credential>([stored(false), replaced.into()])
        .when(delete(), &ada(None))
        .then([deleted.into(), destroyed("credential:c1:b").into()]);
    let operator = Actor { id: "op".into(), super_admin: true, ..ada(None) };
    given::<Credential>([stored(false)]).when(delete(), &operator).rejected("FORBIDDEN");
}

#[test]
fn it_is_shared_with_the_organization_it_was_kept_for_and_with_no_other() {
    let share = |org: &str| ShareCredential { credential_id: "c1".into(), org_id: org.into() };
    let shared = CredentialShared { credential_id: "c1".into(), org_id: "o1".into(), by: "ada".into() };
    given::<Credential>([stored(false)]).when(share("o1"), &ada(Some(Role::Admin))).then([shared.into()]);
    given::<Credential>([stored(false)]).when(share("o2"), &ada(Some(Role::Admin))).rejected("VALIDATION_FAILED");
    given::<Credential>([stored(false)]).when(share("o1"), &ada(Some(Role::Member))).rejected("INSUFFICIENT_ROLE");
    let unshare = UnshareCredential { credential_id: "c1".into() };
    let unshared = CredentialUnshared { credential_id: "c1".into(), org_id: "o1".into(), by: "ada".into() };
    given::<Credential>([stored(true)]).when(unshare, &ada(None)).then([unshared.into()]);
}
