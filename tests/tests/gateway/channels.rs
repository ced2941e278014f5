//! Channels: what is said in chats of Telegram is said in conversations, once; what is answered is said there, whole, once, and
//! in its order; nobody else sees any of it.

use anyhow::{Context, ensure};
use async_nats::jetstream;
use serde_json::{Value, json};
use symbia_events::Service;
use symbia_tests::binary::until;

use crate::{
    Tested,
    stage::{Answered, Person, Stage},
    telegram::{FakeTelegram, Mood, TOKEN},
};

const CHANNELS: &str = "/api/integrations/channels/telegram";
const SECRET: &str = "x-telegram-bot-api-secret-token";

/// A channel that Ada connected.
pub struct Channel {
    pub stage: Stage,
    pub telegram: FakeTelegram,
    pub ada: Person,
    pub id: String,
    door: String,
    pub secret: String,
}

pub fn text(value: &Value) -> anyhow::Result<String> {
    value.as_str().map(str::to_owned).with_context(|| format!("no text: {value}"))
}

pub fn said(update: i64, message: i64, words: &str) -> Value {
    json!({ "update_id": update, "message": { "message_id": message, "date": 1_800_000_000, "text": words,
        "from": { "id": 42, "is_bot": false, "first_name": "Grace", "username": "grace" },
        "chat": { "id": 42, "type": "private", "first_name": "Grace" } } })
}

impl Channel {
    pub async fn open(config: Value) -> anyhow::Result<Self> {
        let telegram = FakeTelegram::start().await?;
        let stage = Stage::with_telegram(&telegram.base).await?;
        Self::on(stage, telegram, config).await
    }

    /// In an installation that asks this Telegram.
    pub async fn on(stage: Stage, telegram: FakeTelegram, config: Value) -> anyhow::Result<Self> {
        let ada = stage.register("ada").await?;
        let none = stage.ask(&ada, "POST", &format!("{CHANNELS}/connect"), Some(json!({}))).await?;
        ensure!(none.status == 400 && none.body["code"] == "NO_CREDENTIAL", "{}", none.body);
        let token = json!({ "provider": "telegram", "name": "bot", "apiKey": TOKEN });
        let kept = stage.ask_at(&stage.identity, &ada, "POST", "/api/credentials", Some(token)).await?;
        ensure!(kept.status == 201 || kept.status == 200, "{}", kept.body);
        let body = json!({ "config": config, "credentialId": kept.body["id"] });
        let connected = stage.ask(&ada, "POST", &format!("{CHANNELS}/connect"), Some(body)).await?;
        ensure!(connected.status == 200 && connected.body["status"] == "connected", "{}", connected.body);
        ensure!(connected.body["channelAccountName"] == "symbia_bot", "{}", connected.body);
        let secret = telegram.calls("setWebhook").pop().and_then(|call| text(&call["secret_token"]).ok());
        let (id, door) = (text(&connected.body["connectionId"])?, text(&connected.body["webhookUrl"])?);
        Ok(Channel { stage, telegram, ada, id, door, secret: secret.unwrap_or_default() })
    }

    pub async fn tell(&self, secret: Option<&str>, update: &Value) -> anyhow::Result<u16> {
        let mut request = self.stage.http.post(&self.door).json(update);
        if let Some(secret) = secret {
            request = request.header(SECRET, secret);
        }
        Ok(request.send().await?.status().as_u16())
    }

    pub async fn told(&self, update: &Value) -> Tested {
        let status = self.tell(Some(&self.secret), update).await?;
        ensure!(status == 200, "{update}: {status}");
        Ok(())
    }

    pub async fn mine(&self, method: &str, path: &str, body: Option<Value>) -> anyhow::Result<Answered> {
        self.stage.ask(&self.ada, method, &format!("{CHANNELS}{path}"), body).await
    }

    pub async fn connection(&self) -> anyhow::Result<Value> {
        Ok(self.mine("GET", "/connections", None).await?.body["connections"][0].clone())
    }

    async fn send(&self, words: &str) -> anyhow::Result<Answered> {
        let body = json!({ "chatId": "42", "text": words });
        self.mine("POST", &format!("/connections/{}/send", self.id), Some(body)).await
    }

    pub async fn conversations(&self, who: &Person) -> anyhow::Result<Vec<Value>> {
        let found = self.stage.ask_at(&self.stage.messaging, who, "GET", "/api/conversations", None).await?;
        found.body.as_array().cloned().with_context(|| format!("no list: {}", found.body))
    }

    pub async fn messages(&self, conversation: &str) -> anyhow::Result<Vec<Value>> {
        let path = format!("/api/conversations/{conversation}/messages");
        let found = self.stage.ask_at(&self.stage.messaging, &self.ada, "GET", &path, None).await?;
        found.body.as_array().cloned().with_context(|| format!("no list: {}", found.body))
    }

    // The conversation that stands for the chat, once it is there.
    pub async fn conversation(&self) -> anyhow::Result<String> {
        until("the chat has a conversation", || async { Ok(!self.conversations(&self.ada).await?.is_empty()) }).await?;
        text(&self.conversations(&self.ada).await?[0]["id"])
    }

    pub async fn has_sent(&self, count: usize) -> anyhow::Result<Vec<String>> {
        let what = format!("{count} messages are said there");
        until(&what, || async { Ok(self.telegram.sent().len() >= count) }).await?;
        self.telegram.sent().iter().map(|message| text(&message["plain"])).collect()
    }

    // An agent of Ada's, in the conversation.
    async fn agent(&self, conversation: &str) -> anyhow::Result<Person> {
        let credential = "agent-credential-0123456789-0123456789";
        let (stage, ada) = (&self.stage, &self.ada);
        let enrol = json!({ "capabilities": ["cap:messaging.send"] });
        let path = "/api/agents/enrolment-tokens";
        let token = text(&stage.ask_at(&stage.identity, ada, "POST", path, Some(enrol)).await?.body["token"])?;
        let body = json!({ "agentId": "agent:writer", "credential": credential, "name": "Writer" });
        let request = stage.http.post(format!("{}/api/auth/agent/register", stage.identity)).json(&body);
        let answer: Value = request.header("x-enrolment-token", token).send().await?.json().await?;
        let token = text(&answer["token"]).with_context(|| answer.to_string())?;
        let agent = Person { id: "agent:writer".to_owned(), token, org: ada.org.clone() };
        let path = format!("/api/conversations/{conversation}/participants");
        let body = json!({ "userId": agent.id, "userType": "agent" });
        let added = stage.ask_at(&stage.messaging, ada, "POST", &path, Some(body)).await?;
        ensure!(added.status < 300, "{}", added.body);
        Ok(agent)
    }
}

/// The log, as it stands in the streams.
pub async fn stored(stage: &Stage) -> anyhow::Result<String> {
    let js = jetstream::new(stage.house.nats().await?);
    let mut stored = String::new();
    for service in Service::ALL {
        let mut stream = js.get_stream(service.event_stream()).await?;
        let last = stream.info().await?.state.last_sequence;
        for sequence in 1..=last {
            let message = stream.get_raw_message(sequence).await?;
            stored.push_str(&String::from_utf8_lossy(&message.payload));
        }
    }
    Ok(stored)
}

fn squeezed(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_in_a_chat_is_answered_there_once_and_whole() -> Tested {
    let channel = Channel::open(json!({})).await?;
    ensure!(channel.secret.len() == 64, "{}", channel.secret);
    // Told twice, and by who does not know the secret.
    let first = said(1, 5, "/help");
    for (secret, expected) in
        [(None, 403), (Some("guessed"), 403), (Some(channel.secret.as_str()), 200), (Some(&channel.secret), 200)]
    {
        let status = channel.tell(secret, &first).await?;
        ensure!(status == expected, "{secret:?}: {status}");
    }
    let conversation = channel.conversation().await?;
    let answers = channel.has_sent(1).await?;
    ensure!(answers[0].starts_with("I am Symbia."), "{answers:?}");
    let messages = channel.messages(&conversation).await?;
    let asked: Vec<&Value> = messages.iter().filter(|message| message["sender_type"] == "user").collect();
    ensure!(asked.len() == 1 && asked[0]["content"] == "/help", "{messages:?}");
    ensure!(asked[0]["metadata"]["channelSender"]["username"] == "grace", "{}", asked[0]);
    ensure!(asked[0]["metadata"]["_channelMessage"]["connectionId"] == channel.id, "{}", asked[0]);

    // An edit is one, and no message.
    let mut edit = said(2, 5, "hello");
    edit["edited_message"] = edit["message"].take();
    edit["edited_message"]["edit_date"] = json!(1_800_000_001);
    channel.told(&edit).await?;
    until("the edit shows", || async { Ok(channel.messages(&conversation).await?[0]["content"] == "hello") }).await?;

    // A long answer of an agent, with everything that a mark could be, while Telegram is busy.
    let agent = channel.agent(&conversation).await?;
    let line = "1 < 2 & 3 > 2! (a_b) [c] {d} *e* ~f~ `g` #h +i -j =k |l .m \\n \"o\" é😀 ";
    let paragraph = format!("**{}** {}", "bold words", line.repeat(10).trim());
    let long = [paragraph.as_str(); 9].join("\n\n");
    ensure!(long.chars().count() > 6000, "{}", long.chars().count());
    channel.telegram.is(Mood::Busy(2));
    let path = format!("/api/conversations/{conversation}/messages");
    for words in [long.as_str(), "and the end"] {
        let body = json!({ "content": words, "contentType": "markdown" });
        let posted = channel.stage.ask_at(&channel.stage.messaging, &agent, "POST", &path, Some(body)).await?;
        ensure!(posted.status == 201, "{}", posted.body);
    }
    until("all is said there", || async {
        Ok(channel.telegram.sent().last().is_some_and(|message| message["plain"] == "and the end"))
    })
    .await?;
    let sent = channel.telegram.sent();
    ensure!(sent.len() >= 4 && sent.iter().all(|message| message["chat_id"] == 42), "{}", sent.len());
    let whole: String = sent[1..sent.len() - 1].iter().filter_map(|message| message["plain"].as_str()).collect();
    let expected = long.replace("**", "").replace("*e*", "e").replace("~f~", "f").replace("`g`", "g");
    ensure!(squeezed(&whole) == squeezed(&expected), "{whole}\n--\n{expected}");
    ensure!(sent[1]["text"].as_str().is_some_and(|html| html.starts_with("<b>bold words</b>")), "{}", sent[1]);
    until("it is counted", || async {
        let connection = channel.connection().await?;
        Ok((&connection["messagesReceived"], &connection["messagesSent"]) == (&json!(1), &json!(3)))
    })
    .await?;

    // Tokens and secrets are with those whom they are for.
    let listed = channel.connection().await?.to_string();
    ensure!(!listed.contains(TOKEN) && !listed.contains(&channel.secret), "{listed}");
    let stored = stored(&channel.stage).await?;
    ensure!(
        stored.contains("channel-message-delivered") && stored.contains("credential-released"),
        "nothing is stored"
    );
    ensure!(!stored.contains(TOKEN) && !stored.contains(&channel.secret), "the log holds a secret");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_is_its_organizations_and_ends_when_it_is_told_to() -> Tested {
    let channel = Channel::open(json!({})).await?;
    let (stage, ada) = (&channel.stage, &channel.ada);
    let eve = stage.register("eve").await?;
    let credential = stage.ask_at(&stage.identity, ada, "GET", "/api/credentials", None).await?.body;
    let credential = credential["credentials"][0]["id"].as_str().or(credential[0]["id"].as_str()).context("no id")?;
    let own = format!("/connections/{}", channel.id);
    for (method, path, body) in [
        ("GET", format!("{own}/status"), None),
        ("POST", format!("{own}/disconnect"), Some(json!({}))),
        ("POST", format!("{own}/send"), Some(json!({ "chatId": "42", "text": "hi" }))),
        ("DELETE", own.clone(), None),
    ] {
        let path = format!("{CHANNELS}{path}");
        let answer = stage.ask(&eve, method, &path, body.clone()).await?;
        ensure!(answer.status == 404, "{method} {path}: {} {}", answer.status, answer.body);
        let answer = stage.ask_in(&eve, Some(&ada.org), method, &path, body).await?;
        ensure!(answer.status == 403, "{method} {path}: {} {}", answer.status, answer.body);
    }
    let theirs = stage.ask(&eve, "GET", &format!("{CHANNELS}/connections"), None).await?;
    ensure!(theirs.body == json!({ "connections": [] }), "{}", theirs.body);
    let stolen = json!({ "credentialId": credential });
    let stolen = stage.ask(&eve, "POST", &format!("{CHANNELS}/connect"), Some(stolen)).await?;
    ensure!(stolen.status == 400 && stolen.body["code"] == "NO_CREDENTIAL", "{}", stolen.body);
    // A conversation of hers that claims to stand for a chat of Ada's says nothing there.
    channel.told(&said(1, 5, "/help")).await?;
    channel.has_sent(1).await?;
    let link = json!({ "type": "telegram", "connectionId": channel.id, "chatId": "42" });
    let opened = json!({ "type": "private", "name": "x", "participantIds": ["assistant:coordinator"],
        "metadata": { "channel": link } });
    let opened = stage.ask_at(&stage.messaging, &eve, "POST", "/api/conversations", Some(opened)).await?;
    ensure!(opened.status == 201, "{}", opened.body);
    let path = format!("/api/conversations/{}/messages", text(&opened.body["id"])?);
    stage.ask_at(&stage.messaging, &eve, "POST", &path, Some(json!({ "content": "/help" }))).await?;
    until("she is answered", || async {
        let found = stage.ask_at(&stage.messaging, &eve, "GET", &path, None).await?;
        Ok(found.body.as_array().is_some_and(|messages| messages.len() == 2))
    })
    .await?;

    // Said by hand, and looked at.
    let sent = channel.send("1 < 2").await?;
    ensure!(sent.status == 200 && sent.body["messageId"] == "901", "{}", sent.body);
    ensure!(channel.telegram.sent().len() == 2, "what Eve's assistant said is said to Grace");
    let empty = json!({ "chatId": "42" });
    ensure!(channel.mine("POST", &format!("{own}/send"), Some(empty)).await?.status == 400, "nothing was said");
    let status = channel.mine("GET", &format!("{own}/status"), None).await?.body;
    ensure!(status["status"] == "connected" && status["messagesSent"] == 2, "{status}");
    channel.telegram.errs(Some("Wrong response from the webhook: 500"));
    let status = channel.mine("GET", &format!("{own}/status"), None).await?.body;
    ensure!(status["status"] == "error" && status["error"] == "webhook_failing", "{status}");
    until("it is stored", || async { Ok(channel.connection().await?["status"] == "error") }).await?;
    channel.telegram.errs(None);
    let status = channel.mine("GET", &format!("{own}/status"), None).await?.body;
    ensure!(status["status"] == "connected", "{status}");
    let again = json!({ "credentialId": credential });
    let twice = channel.mine("POST", "/connect", Some(again.clone())).await?;
    ensure!(twice.status == 409 && twice.body["code"] == "CHANNEL_CONNECTED", "{}", twice.body);

    // A token that counts no more ends its use, until it is connected anew.
    channel.telegram.is(Mood::Revoked);
    let refused = channel.send("hi").await?;
    ensure!(refused.status == 400 && refused.body["reason"] == "unauthorized", "{}", refused.body);
    until("it is used no more", || async { Ok(channel.connection().await?["disabled"] == true) }).await?;
    ensure!(channel.send("hi").await?.body["code"] == "CHANNEL_NOT_CONNECTED", "it is used");
    channel.telegram.is(Mood::Well);
    let anew = channel.mine("POST", "/connect", Some(again)).await?;
    ensure!(anew.status == 200 && anew.body["connectionId"] == channel.id, "{}", anew.body);
    ensure!(channel.tell(Some(&channel.secret), &said(9, 9, "old secret")).await? == 403, "an old secret counts");

    let ended = channel.mine("POST", &format!("{own}/disconnect"), Some(json!({}))).await?;
    ensure!(ended.body["status"] == "disconnected", "{}", ended.body);
    until("Telegram is told", || async { Ok(!channel.telegram.calls("deleteWebhook").is_empty()) }).await?;
    let removed = channel.mine("DELETE", &own, None).await?;
    ensure!(removed.body["success"] == true, "{}", removed.body);
    ensure!(channel.connection().await?.is_null(), "it is listed");
    ensure!(channel.tell(Some("x"), &said(3, 6, "hi")).await? == 404, "the door is open");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_in_the_middle_is_followed_by_one_that_goes_on_there() -> Tested {
    let mut channel = Channel::open(json!({})).await?;
    channel.telegram.is(Mood::Silent(1));
    let long = vec!["word ".repeat(600); 3].join("\n\n");
    let (stage, path) = (&channel.stage, format!("{CHANNELS}/connections/{}/send", channel.id));
    let body = json!({ "chatId": "42", "text": long });
    // Its answer dies with the platform.
    let request = stage.http.post(format!("{}{path}", stage.gateway)).bearer_auth(&channel.ada.token).json(&body);
    let asking = tokio::spawn(request.send());
    until("the second part is on its way", || async { Ok(channel.telegram.calls("sendMessage").len() == 2) }).await?;
    channel.stage.house.kill()?;
    ensure!(asking.await?.is_err(), "it was answered");
    channel.telegram.is(Mood::Well);
    let base = channel.telegram.base.clone();
    channel.stage.restart_with_telegram(&base).await?;
    channel.has_sent(3).await?;
    until("it is recorded", || async { Ok(channel.connection().await?["messagesSent"] == 1) }).await?;
    let sent = channel.telegram.sent();
    let whole: String = sent.iter().filter_map(|message| message["plain"].as_str()).collect();
    ensure!(sent.len() == 3 && squeezed(&whole) == squeezed(&long), "{}", sent.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_messenger_that_cannot_call_is_asked_and_asked_on_from_where_it_was() -> Tested {
    let mut channel = Channel::open(json!({ "usePolling": true })).await?;
    ensure!(
        channel.telegram.calls("setWebhook").is_empty() && !channel.telegram.calls("deleteWebhook").is_empty(),
        "no"
    );
    channel.telegram.tell(said(7, 5, "/help"));
    channel.has_sent(1).await?;
    until("it is known up to where was asked", || async {
        Ok(channel.telegram.calls("getUpdates").last().is_some_and(|call| call["offset"] == 8))
    })
    .await?;
    channel.stage.house.stop()?;
    let asked = channel.telegram.calls("getUpdates").len();
    let base = channel.telegram.base.clone();
    channel.stage.restart_with_telegram(&base).await?;
    channel.telegram.tell(said(8, 6, "/help"));
    channel.has_sent(2).await?;
    let offsets: Vec<Value> =
        channel.telegram.calls("getUpdates")[asked..].iter().map(|c| c["offset"].clone()).collect();
    ensure!(offsets.first() == Some(&json!(8)), "{offsets:?}");
    let messages = channel.messages(&channel.conversation().await?).await?;
    ensure!(messages.len() == 4, "{messages:?}");
    Ok(())
}
