use symbia_events::{ActorType, integrations::*};

use super::*;
use crate::{
    Membership, Role,
    testing::{AT, given},
};

fn member(id: &str, role: Role) -> Actor {
    let orgs = vec![Membership { id: "o1".parse().unwrap(), role }];
    Actor { id: id.into(), kind: ActorType::User, orgs, ..Actor::service("x") }
}

fn set() -> SetOauthProviderConfig {
    SetOauthProviderConfig {
        provider: "github".into(),
        org_id: "o1".into(),
        display_name: "GitHub".into(),
        description: None,
        icon_url: None,
        endpoints: preset("github").unwrap().endpoints(),
        client_id: "c".into(),
        secret_ref: Some("oauth-client:o1:github:1".into()),
        redirect_uris: vec!["https://app.example/back".into()],
        enabled: true,
    }
}

fn start(browser: &str) -> StartOauth {
    StartOauth {
        state_hash: "s".into(),
        org_id: "o1".into(),
        provider: "github".into(),
        user_id: "ada".into(),
        redirect_uri: None,
        scopes: vec!["read:user".into()],
        browser_hash: browser.into(),
        client_state: None,
        config_version: 1,
    }
}

fn answer(browser: &str) -> AnswerOauth {
    let (state_hash, callback_uri) = ("s".into(), "https://x.example/api/oauth/callback".into());
    AnswerOauth { state_hash, browser_hash: browser.into(), code_ref: "oauth-flow:s".into(), callback_uri }
}

fn started() -> Vec<OauthFlowEvent> {
    use crate::Aggregate;
    OauthFlow::default().decide(start("b").into(), &member("ada", Role::Member), AT).unwrap().events
}

#[test]
fn where_accounts_are_linked_is_an_admins_to_say_and_never_a_model_provider() {
    let admin = member("ada", Role::Admin);
    given::<OauthClient>([]).when(set(), &member("bob", Role::Member)).rejected("MISSING_CAPABILITY");
    given::<OauthClient>([])
        .when(SetOauthProviderConfig { provider: "openai".into(), ..set() }, &admin)
        .rejected("KEY_TAKEN");
    let foreign = Some("oauth-client:o2:github:1".to_owned());
    given::<OauthClient>([])
        .when(SetOauthProviderConfig { secret_ref: foreign, ..set() }, &admin)
        .rejected("VALIDATION_FAILED");
}

#[test]
fn a_client_secret_does_not_follow_to_another_server() {
    use crate::Aggregate;
    let admin = member("ada", Role::Admin);
    let known = OauthClient::default().decide(set().into(), &admin, AT).unwrap().events;
    let mut lured = set();
    lured.endpoints.token_url = "https://evil.example/token".into();
    given::<OauthClient>(known.clone()).when(lured.clone(), &admin).rejected("SECRET_NEEDED");
    lured.secret_ref = Some("oauth-client:o1:github:2".into());
    let mut state = OauthClient::default();
    known.iter().for_each(|event| state.apply(event));
    assert!(state.decide(lured.into(), &admin, AT).is_ok());
}

#[test]
fn a_state_is_used_once_in_time_and_in_its_browser() {
    use crate::Aggregate;
    let platform = Actor::service("integrations");
    given::<OauthFlow>(started()).when(answer("b"), &member("ada", Role::Admin)).rejected("FORBIDDEN");
    given::<OauthFlow>(started()).when(answer("another"), &platform).rejected("STATE_OF_ANOTHER_BROWSER");
    given::<OauthFlow>([]).when(answer("b"), &platform).rejected("NOT_FOUND");
    let mut state = OauthFlow::default();
    started().iter().for_each(|event| state.apply(event));
    let late = state.decide(answer("b").into(), &platform, AT + FLOW_TIME).unwrap_err();
    assert_eq!(late.code, "STATE_EXPIRED");
    let back = state.decide(answer("b").into(), &platform, AT).unwrap().events;
    let used = started().into_iter().chain(back);
    given::<OauthFlow>(used).when(answer("b"), &platform).rejected("STATE_USED");
}

#[test]
fn who_begins_is_a_member_for_themselves() {
    given::<OauthFlow>([]).when(start("b"), &member("eve", Role::Admin)).rejected("FORBIDDEN");
    let outside = Actor { orgs: Vec::new(), ..member("ada", Role::Member) };
    given::<OauthFlow>([]).when(start("b"), &outside).rejected("ORG_ACCESS_DENIED");
    let agent = Actor { kind: ActorType::Agent, ..member("ada", Role::Member) };
    given::<OauthFlow>([]).when(start("b"), &agent).rejected("FORBIDDEN");
}

fn linked(refreshable: bool) -> OauthConnectionEvent {
    OauthLinked {
        connection_id: "x".into(),
        user_id: "ada".into(),
        provider: "github".into(),
        credential_id: "k".into(),
        oauth_user_id: None,
        oauth_user_email: None,
        oauth_user_name: None,
        oauth_avatar_url: None,
        scopes: Vec::new(),
        expires_at: None,
        refreshable,
    }
    .into()
}

#[test]
fn a_connection_is_its_owners_to_give_up_and_refreshed_until_then() {
    let platform = Actor::service("integrations");
    let (ada, eve) = (member("ada", Role::Member), member("eve", Role::Admin));
    let revoke = RevokeOauth { connection_id: "x".into() };
    let refresh = RefreshOauth { connection_id: "x".into() };
    given::<OauthConnection>([linked(true)]).when(revoke.clone(), &eve).rejected("FORBIDDEN");
    given::<OauthConnection>([linked(true)]).when(refresh.clone(), &eve).rejected("FORBIDDEN");
    let asked = OauthRefreshRequested {
        connection_id: "x".into(),
        user_id: "ada".into(),
        provider: "github".into(),
        credential_id: "k".into(),
    };
    given::<OauthConnection>([linked(true)]).when(refresh.clone(), &platform).then([asked.into()]);
    let over = OauthExpired { connection_id: "x".into(), code: "no_refresh_token".into() };
    given::<OauthConnection>([linked(false)]).when(refresh.clone(), &platform).then([over.into()]);
    let gone = OauthRevoked {
        connection_id: "x".into(),
        user_id: "ada".into(),
        provider: "github".into(),
        credential_id: "k".into(),
        by: "ada".into(),
    };
    given::<OauthConnection>([linked(true)]).when(revoke, &ada).then([gone.clone().into()]);
    given::<OauthConnection>([linked(true), gone.into()]).when(refresh, &platform).then([]);
}
