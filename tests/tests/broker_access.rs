//! A principal's own connection to the broker: its token or key opens its organizations' subjects, for as long as it is good.
#![allow(missing_docs, reason = "tests")]

use anyhow::{Context, ensure};
use async_nats::{Client, ConnectOptions, Event, Subscriber};
use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use symbia_tests::binary::{Installation, until};
use tokio::sync::mpsc;

type Tested = anyhow::Result<()>;

const NONE: &str = "00000000-0000-4000-8000-000000000000";

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
        let ready = installation.start_with(&["--memory", "--skip-admin"], &[])?;
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
                if let Event::ServerError(error) = event {
                    let _ = sender.send(error.to_string());
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
    House::settle(&hers, &ada.org, &mut outcomes).await?;

    let (other, mut said) = house.connect(&eve.token).await?;
    let mut heard = Vec::new();
    for subject in [
        format!("symbia.out.{}.*", ada.org),
        format!("symbia.evt.identity.{}.>", ada.org),
        format!("symbia.evt.*.{}.>", ada.org),
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
    House::settle(&hers, &ada.org, &mut outcomes).await?;
    for subscription in &mut heard {
        let nothing = tokio::time::timeout(std::time::Duration::ZERO, subscription.next()).await;
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
