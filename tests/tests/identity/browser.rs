//! A person's browser at the authorization server: it has no session, signs in with both factors, agrees, and the app gets its code.

use std::collections::BTreeMap;

use serde_json::json;

use super::{
    factors::code,
    oauth::{BACK, VERIFIER, client, code_of, form, question, token},
    stage::{Answer, House, PASSWORD, Person},
};

/// Keeps cookies and shows a page; runs no scripts.
#[derive(Default)]
struct Browser {
    cookies: BTreeMap<String, String>,
    page: String,
}

type Fields = Vec<(String, String)>;

fn and(mut fields: Fields, more: &[(&str, &str)]) -> Fields {
    fields.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    fields
}

impl Browser {
    fn cookie(&self) -> String {
        self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    async fn open(&mut self, house: &House, path: &str) -> Answer {
        let cookie = self.cookie();
        let headers = [("accept", "text/html,*/*"), ("cookie", cookie.as_str())];
        let answer = house.send("GET", path, &headers, None).await;
        self.show(house, answer)
    }

    /// Sends a form, as from a page that tells nobody where it comes from.
    async fn submit(&mut self, house: &House, path: &str, fields: Fields) -> Answer {
        let cookie = self.cookie();
        let headers = [
            ("accept", "text/html,*/*"),
            ("content-type", "application/x-www-form-urlencoded"),
            ("origin", "null"),
            ("cookie", cookie.as_str()),
        ];
        let answer = house.send_raw(path, &headers, form(&fields)).await;
        self.show(house, answer)
    }

    fn show(&mut self, house: &House, answer: Answer) -> Answer {
        for cookie in answer.headers.get_all("set-cookie") {
            let (name, rest) = cookie.to_str().unwrap().split_once('=').unwrap();
            self.cookies.insert(name.to_owned(), rest.split(';').next().unwrap().to_owned());
        }
        self.page = house.answers.lock().unwrap().last().unwrap().1.split_once('\n').unwrap().1.to_owned();
        answer
    }

    /// What the page's form sends without being asked.
    fn fields(&self) -> Fields {
        let marks = [("&quot;", "\""), ("&lt;", "<"), ("&gt;", ">"), ("&#39;", "'"), ("&amp;", "&")];
        let plain = |text: &str| marks.iter().fold(text.to_owned(), |text, (mark, plain)| text.replace(mark, plain));
        let inputs = self.page.split("<input type=hidden name=").skip(1);
        let field = |input: &str| {
            let (name, rest) = input.split_once(" value=\"").unwrap();
            (name.to_owned(), plain(rest.split_once('"').unwrap().0))
        };
        inputs.map(field).collect()
    }

    fn alert(&self) -> &str {
        self.page.split_once("<p role=alert>").map_or("", |(_, rest)| rest.split_once("</p>").unwrap().0)
    }
}

/// Gives the secret of a second factor that is set up.
async fn second_factor(house: &House, person: &Person) -> String {
    let path = "/api/users/me/mfa";
    let enrolled = house.call("POST", path, &person.token, json!({ "password": PASSWORD })).await.ok();
    let secret = enrolled["secret"].as_str().unwrap().to_owned();
    let confirm = json!({ "code": code(&secret, -1) });
    house.call("POST", &format!("{path}/confirm"), &person.token, confirm).await.ok();
    secret
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_without_a_session_signs_in_on_the_way_and_the_app_gets_its_tokens() {
    const SIGN_IN: &str = "/oauth/sign-in";
    let house = House::open().await;
    let ada = house.register("ada").await;
    let secret = second_factor(&house, &ada).await;
    let client = client().await;
    let address = format!("/oauth/authorize?{}", form(&question(&client, &[("state", "x\"'<&>")])));
    let mut browser = Browser::default();
    let asked = browser.open(&house, &address).await;
    assert_eq!((asked.status.as_u16(), &asked.headers["cache-control"]), (401, &"no-store".parse().unwrap()));
    let policy = asked.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("form-action 'self'"), "{policy}");
    let cookie = asked.headers["set-cookie"].to_str().unwrap();
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && cookie.contains("Path=/oauth"),
        "{cookie}"
    );
    assert!(browser.page.contains("type=password") && !browser.page.contains("<script"), "{}", browser.page);

    // Another site has no ticket; somebody else's page, or one about another app, has another one.
    let with = |fields: Fields, password: &str| and(fields, &[("email", &ada.email), ("password", password)]);
    let untold: Fields = browser.fields().into_iter().filter(|(name, _)| name != "ticket").collect();
    let mut other = Browser::default();
    other.open(&house, &address).await;
    let mut swapped = browser.fields();
    swapped
        .iter_mut()
        .filter(|(name, _)| name == "scope")
        .for_each(|(_, scope)| *scope = "cap:identity.admin".to_owned());
    for fields in [untold, other.fields(), swapped] {
        let mut same = Browser { cookies: browser.cookies.clone(), page: String::new() };
        let refused = same.submit(&house, SIGN_IN, with(fields, PASSWORD)).await;
        assert_eq!((refused.refused(), refused.headers.contains_key("set-cookie")), ((400, "INVALID_REQUEST"), false));
    }
    let refused = Browser::default().submit(&house, SIGN_IN, with(browser.fields(), PASSWORD)).await;
    assert_eq!(refused.refused(), (400, "INVALID_REQUEST"));

    // What is wrong is not told.
    let wrong = with(browser.fields(), "not the password");
    assert_eq!(browser.submit(&house, SIGN_IN, wrong).await.status, 401);
    let told = browser.alert().to_owned();
    let nobody = and(browser.fields(), &[("email", "nobody@example.test"), ("password", PASSWORD)]);
    assert_eq!(browser.submit(&house, SIGN_IN, nobody).await.status, 401);
    assert!(!told.is_empty() && browser.alert() == told, "{told} {}", browser.alert());
    assert!(!browser.page.contains(PASSWORD), "what was typed is not shown again");

    let right = with(browser.fields(), PASSWORD);
    assert_eq!(browser.submit(&house, SIGN_IN, right).await.status, 401);
    assert!(browser.page.contains("one-time-code") && !browser.cookies.contains_key("token"), "{}", browser.page);
    let wrong = and(browser.fields(), &[("code", "aaaa-bbbb-cccc-dddd")]);
    assert_eq!(browser.submit(&house, SIGN_IN, wrong).await.status, 401);
    let right = and(browser.fields(), &[("code", &code(&secret, 0))]);
    let signed_in = browser.submit(&house, SIGN_IN, right).await;
    assert_eq!((signed_in.status.as_u16(), browser.cookies.contains_key("token")), (303, true));
    let back = signed_in.headers["location"].to_str().unwrap().to_owned();
    assert!(back.starts_with("/oauth/authorize?"), "{back}");

    let consent = browser.open(&house, &back).await;
    assert_eq!(consent.status, 200, "{}", browser.page);
    assert!(browser.page.contains(&ada.email) && browser.page.contains("An &lt;app&gt;"), "{}", browser.page);
    let policy = consent.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("form-action 'self' http://127.0.0.1:45454"), "{policy}");
    let agreed = and(browser.fields(), &[("decision", "approve")]);
    let answered = browser.submit(&house, "/oauth/authorize", agreed).await;
    assert_eq!(answered.status, 303, "{}", browser.page);
    let location = answered.headers["location"].to_str().unwrap();
    assert!(location.starts_with(BACK) && location.contains("state=x%22%27%3C%26%3E"), "{location}");
    let redeemed = [
        ("grant_type", "authorization_code"),
        ("code", &code_of(location)),
        ("redirect_uri", BACK),
        ("client_id", &client),
        ("code_verifier", VERIFIER),
    ];
    let granted = token(&house, &redeemed).await.ok();
    let told = house.get(&format!("/api/orgs/{}", ada.org), granted["access_token"].as_str().unwrap()).await.ok();
    assert_eq!(told["organization"]["id"], json!(ada.org));
}
