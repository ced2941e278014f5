//! A principal's own connection to the broker: its token or key opens its organizations' subjects, for as long as it is good.
#![allow(missing_docs, reason = "tests")]

use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::{Client, ConnectOptions, Event, Subscriber};
use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use symbia_tests::binary::{Installation, until};
use tokio::sync::mpsc;

type Tested = anyhow::Result<()>;

const NONE: &str = "00000000-0000-4000-8000-000000000000";
const GONE: &str = "disconnected";
/// What is revoked is refused within a second; the rest is for a machine that is busy with other tests.
const AT_ONCE: Duration = Duration::from_secs(3);

struct Person {
    token: String,
    id: String,
    org: String,
}

struct House {
    nats: String,
    identity: String,
    http: reqwest::Client,
    _installation: Installation,
}

impl House {
    fn open() -> anyhow::Result<Self> {
        let mut installation = Installation::new()?;
        let password = installation.file("password");
        std::fs::write(&password, "a good password")?;
        let file = password.to_str().context("a path")?;
        let root = ["--admin-name", "root", "--admin-email", "root@example.test", "--admin-org", "root"];
        let arguments = [&["--memory"], &root[..], &["--admin-password-file", file]].concat();
        let ready = installation.start_with(&arguments, &[])?;
        let text = |value: &Value| value.as_str().map(str::to_owned).context("no address");
        Ok(House {
            nats: text(&ready["nats"])?,
            identity: text(&ready["services"]["identity"])?,
            http: reqwest::Client::new(),
            _installation: installation,
        })
    }

    async fn call(&self, method: Method, path: &str, token: &str, body: Value) -> anyhow::Result<Value> {
        let request = self.http.request(method, format!("{}{path}", self.identity)).bearer_auth(token).json(&body);
        Ok(request.send().await?.error_for_status()?.json().await?)
    }

    async fn register(&self, name: &str) -> anyhow::Result<Person> {
        let body = json!({ "email": format!("{name}@example.test"), "password": "a good password", "name": name,
            "orgName": name });
        let said = self.call(Method::POST, "/api/auth/register", "", body).await?;
        let text = |value: &Value| value.as_str().map(str::to_owned).with_context(|| said.to_string());
        Ok(Person {
            token: text(&said["token"])?,
            id: text(&said["user"]["id"])?,
            org: text(&said["organization"]["id"])?,
        })
    }

    // With what the broker says to it.
    async fn connect(&self, credential: &str) -> anyhow::Result<(Client, mpsc::UnboundedReceiver<String>)> {
        let (sender, said) = mpsc::unbounded_channel();
        let options =
            ConnectOptions::with_token(credential.to_owned()).max_reconnects(1).event_callback(move |event| {
                match event {
                    Event::ServerError(error) => _ = sender.send(error.to_string()),
                    Event::Disconnected => _ = sender.send(GONE.to_owned()),
                    _ => {}
                }
                async {}
            });
        Ok((options.connect(&self.nats).await?, said))
    }

    // A command that is none, so that its outcome shows that everything sent before has reached the broker.
    async fn settle(client: &Client, org: &str, outcomes: &mut Subscriber) -> anyhow::Result<()> {
        client
            .publish(format!("symbia.cmd.identity.{org}.user.none"), json!({ "id": NONE }).to_string().into())
            .await?;
        let told = outcomes.next().await.context("no outcome")?;
        ensure!(told.subject.as_str() == format!("symbia.out.{org}.{NONE}"), "{}", told.subject);
        Ok(())
    }

    async fn is_refused(&self, credential: &str) -> bool {
        self.connect(credential).await.is_err()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_organizations_do_not_see_each_other_at_the_broker() -> Tested {
    let house = House::open()?;
    let (ada, eve) = (house.register("ada").await?, house.register("eve").await?);
    let (hers, _) = house.connect(&ada.token).await?;
    let mut outcomes = hers.subscribe(format!("symbia.out.{}.*", ada.org)).await?;
    let mut events = hers.subscribe(format!("symbia.evt.identity.{}.>", ada.org)).await?;
    let mut stored = hers.subscribe(format!("symbia.stored.identity.{}.>", ada.org)).await?;
    House::settle(&hers, &ada.org, &mut outcomes).await?;

    let (other, mut said) = house.connect(&eve.token).await?;
    let mut heard = Vec::new();
    for subject in [
        format!("symbia.out.{}.*", ada.org),
        format!("symbia.evt.identity.{}.>", ada.org),
        format!("symbia.evt.*.{}.>", ada.org),
        format!("symbia.stored.identity.{}.>", ada.org),
        "symbia.stored.>".to_owned(),
        "symbia.evt.>".to_owned(),
        format!("_INBOX.user.{}.>", ada.id),
        "symbia.>".to_owned(),
        ">".to_owned(),
        "$JS.>".to_owned(),
    ] {
        heard.push(other.subscribe(subject.clone()).await?);
        other.flush().await?;
        let refusal = said.recv().await.context("nothing was said")?.to_lowercase();
        ensure!(refusal.contains("permissions violation for subscription"), "{subject}: {refusal}");
    }
    for subject in [
        format!("symbia.cmd.identity.{}.organization.{}", ada.org, ada.org),
        format!("symbia.evt.identity.{}.organization.{}", eve.org, eve.org),
        format!("symbia.stored.identity.{}.organization.{}", eve.org, eve.org),
        format!("symbia.out.{}.x", ada.org),
        "symbia.cmd.identity.global.user.x".to_owned(),
        "$JS.API.STREAM.NAMES".to_owned(),
    ] {
        other.publish(subject.clone(), "{}".into()).await?;
        other.flush().await?;
        let refusal = said.recv().await.context("nothing was said")?.to_lowercase();
        ensure!(refusal.contains("permissions violation for publish"), "{subject}: {refusal}");
    }

    // A command of her own whose outcome is to be told to the other: it is told to her.
    let mut own = other.subscribe(format!("symbia.out.{}.*", eve.org)).await?;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Symbia-Outcome", format!("symbia.out.{}.forged", ada.org));
    let subject = format!("symbia.cmd.identity.{}.user.none", eve.org);
    other.publish_with_headers(subject, headers, json!({ "id": NONE }).to_string().into()).await?;
    let told = own.next().await.context("no outcome")?;
    ensure!(told.subject.as_str() == format!("symbia.out.{}.{NONE}", eve.org), "{}", told.subject);

    let rename = json!({ "name": "Renamed" });
    house.call(Method::PATCH, &format!("/api/orgs/{}", eve.org), &eve.token, rename.clone()).await?;
    house.call(Method::PATCH, &format!("/api/orgs/{}", ada.org), &ada.token, rename).await?;
    let renamed = format!("symbia.evt.identity.{}.organization.{}", ada.org, ada.org);
    while events.next().await.context("no event")?.subject.as_str() != renamed {}
    let renamed = renamed.replacen("evt", "stored", 1);
    while stored.next().await.context("no stored event")?.subject.as_str() != renamed {}
    House::settle(&hers, &ada.org, &mut outcomes).await?;
    for subscription in &mut heard {
        let nothing = tokio::time::timeout(Duration::ZERO, subscription.next()).await;
        ensure!(!matches!(nothing, Ok(Some(_))), "she heard {nothing:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_longer_good_opens_nothing() -> Tested {
    let house = House::open()?;
    let ada = house.register("ada").await?;
    for wrong in ["", "x", "sk_0000", "a.b.c", &format!("{}x", ada.token)] {
        ensure!(house.is_refused(wrong).await, "{wrong}");
    }

    let key = house.call(Method::POST, "/api/api-keys", &ada.token, json!({ "name": "bus", "orgId": ada.org })).await?;
    let (secret, key_id) =
        (key["key"].as_str().context("no key")?, key["id"].as_str().with_context(|| key.to_string())?);
    let (by_key, _) = house.connect(secret).await?;
    let mut outcomes = by_key.subscribe(format!("symbia.out.{}.*", ada.org)).await?;
    House::settle(&by_key, &ada.org, &mut outcomes).await?;

    house.call(Method::POST, &format!("/api/api-keys/{key_id}/revoke"), &ada.token, json!({})).await?;
    until("the key opens nothing", || async { Ok(house.is_refused(secret).await) }).await?;
    house.call(Method::POST, "/api/auth/logout", &ada.token, json!({})).await?;
    until("the token opens nothing", || async { Ok(house.is_refused(&ada.token).await) }).await?;
    Ok(())
}

/// What the broker says of a client, until it is gone.
async fn ends(said: &mut mpsc::UnboundedReceiver<String>, what: &str) -> Tested {
    let gone = async {
        while said.recv().await.context("nothing was said")? != GONE {}
        anyhow::Ok(())
    };
    tokio::time::timeout(AT_ONCE, gone).await.with_context(|| format!("{what}: the connection goes on"))?
}

/// One that is let in, and the credential that let it.
struct Inside {
    what: &'static str,
    credential: String,
    said: mpsc::UnboundedReceiver<String>,
    _client: Client,
}

impl House {
    async fn inside(&self, what: &'static str, credential: String) -> anyhow::Result<Inside> {
        let (client, said) = self.connect(&credential).await.with_context(|| what.to_owned())?;
        Ok(Inside { what, credential, said, _client: client })
    }

    async fn login(&self, name: &str) -> anyhow::Result<Value> {
        let body = json!({ "email": format!("{name}@example.test"), "password": "a good password" });
        self.call(Method::POST, "/api/auth/login", "", body).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_connection_ends_with_what_it_stands_on() -> Tested {
    let house = House::open()?;
    let (ada, bob) = (house.register("ada").await?, house.register("bob").await?);
    let text = |value: &Value| value.as_str().map(str::to_owned).with_context(|| format!("no text: {value}"));
    let post = async |path: &str, token: &str, body: Value| house.call(Method::POST, path, token, body).await;
    let invite = json!({ "email": "bob@example.test", "role": "member" });
    let member = text(&post(&format!("/api/orgs/{}/members/invite", ada.org), &ada.token, invite).await?["id"])?;
    let secret = "the-credential-of-an-agent-0123456789abcdef";
    let agent = json!({ "agentId": "agent:a", "credential": secret, "name": "A", "orgId": ada.org });
    let agent = text(&post("/api/agents", &ada.token, agent).await?["id"])?;
    let login = json!({ "agentId": "agent:a", "credential": secret });
    let agents_own = text(&post("/api/auth/agent/login", "", login).await?["token"])?;
    let key = post("/api/api-keys", &ada.token, json!({ "name": "bus", "orgId": ada.org })).await?;
    let delegation = json!({ "agentId": "agent:a", "scopes": ["cap:messaging.send"] });
    let delegation = text(&post("/api/delegations", &ada.token, delegation).await?["id"])?;
    let exchange = json!({
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": delegation,
        "subject_token_type": "urn:symbia:params:oauth:token-type:delegation",
        "actor_token": agents_own,
        "actor_token_type": "urn:ietf:params:oauth:token-type:access_token",
    });
    let delegated = text(&post("/api/oauth/token", "", exchange).await?["access_token"])?;
    let second = text(&house.login("ada").await?["token"])?;

    let mut by_session = house.inside("a session", second.clone()).await?;
    let mut by_key = house.inside("a key", text(&key["key"])?).await?;
    let mut by_delegation = house.inside("a delegation", delegated).await?;
    let mut by_agent = house.inside("an agent", agents_own).await?;
    let mut of_bob = house.inside("a member", bob.token.clone()).await?;
    let mut of_ada = house.inside("who did it", ada.token.clone()).await?;

    post("/api/auth/logout", &second, json!({})).await?;
    ends(&mut by_session.said, by_session.what).await?;
    post(&format!("/api/api-keys/{}/revoke", text(&key["id"])?), &ada.token, json!({})).await?;
    ends(&mut by_key.said, by_key.what).await?;
    house.call(Method::DELETE, &format!("/api/delegations/{delegation}"), &ada.token, json!({})).await?;
    ends(&mut by_delegation.said, by_delegation.what).await?;
    post(&format!("/api/agents/{agent}/deactivate"), &ada.token, json!({})).await?;
    ends(&mut by_agent.said, by_agent.what).await?;
    // His token is as good as before, and opens his own organization only.
    house.call(Method::DELETE, &format!("/api/orgs/{}/members/{member}", ada.org), &ada.token, json!({})).await?;
    ends(&mut of_bob.said, of_bob.what).await?;
    for gone in [&by_session, &by_key, &by_delegation, &by_agent] {
        ensure!(house.is_refused(&gone.credential).await, "{} opens a connection", gone.what);
    }
    let (again, mut refused) = house.connect(&bob.token).await?;
    again.publish(format!("symbia.cmd.identity.{}.organization.x", ada.org), "{}".into()).await?;
    again.flush().await?;
    let refusal = refused.recv().await.context("nothing was said")?.to_lowercase();
    ensure!(refusal.contains("permissions violation for publish"), "{refusal}");

    ensure!(of_ada.said.try_recv().is_err(), "nobody else's connection ends");
    post("/api/auth/logout-all", &ada.token, json!({})).await?;
    ends(&mut of_ada.said, of_ada.what).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_has_leaked_ends_the_connections_of_what_it_signed_and_no_others() -> Tested {
    let house = House::open()?;
    let ada = house.register("ada").await?;
    let text = |value: &Value| value.as_str().map(str::to_owned).with_context(|| format!("no text: {value}"));
    let post = async |path: &str, token: &str, body: Value| house.call(Method::POST, path, token, body).await;
    let key = post("/api/api-keys", &ada.token, json!({ "name": "bus", "orgId": ada.org })).await?;
    let mut by_token = house.inside("a token", ada.token.clone()).await?;
    let mut by_key = house.inside("an API key", text(&key["key"])?).await?;
    let rotate = "/api/admin/signing-keys/rotate";
    let root = async || text(&house.login("root").await?["token"]);

    // A key that had its time is replaced: what it signed goes on.
    post(rotate, &root().await?, json!({})).await?;
    let newer = text(&house.login("ada").await?["token"])?;
    let mut by_newer = house.inside("a newer token", newer.clone()).await?;
    // The one that signs now has leaked.
    post(rotate, &root().await?, json!({ "compromised": true })).await?;
    ends(&mut by_newer.said, by_newer.what).await?;
    ensure!(house.is_refused(&newer).await, "it opens a connection");
    let me = async |token: &str| house.call(Method::GET, "/api/auth/me", token, json!({})).await;
    ensure!(me(&newer).await.is_err() && me(&ada.token).await.is_ok(), "REST refuses what the leaked key signed alone");
    ensure!(by_token.said.try_recv().is_err() && by_key.said.try_recv().is_err(), "nobody else's connection ends");
    Ok(())
}
