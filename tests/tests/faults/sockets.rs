//! A hundred sockets that come and go at random, at two processes of which one is killed again and again: everybody sees every
//! message once and in order.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use rand::RngExt;
use reqwest::Client;
use serde_json::{Value, json};
use symbia_events::Service;
use symbia_nats::process::free_port;
use symbia_tests::{
    apart::{Apart, Plan},
    binary::until,
    cluster::TestServers,
    socketio::SocketClient,
};
use tokio::{sync::watch, task::JoinSet, time::timeout_at};
use uuid::Uuid;

use crate::Tested;

const PLAN: &Plan = &[
    ("worker", &["work", "--roles", "command,seal"]),
    ("projector", &["project"]),
    ("API", &["serve", "--services", "identity,messaging"]),
];
/// The process that is killed.
const VICTIM: &str = "another API";
const CLIENTS: usize = 100;
/// Longest stay of a client, and longest life of the victim, in milliseconds.
const STAYS: u64 = 2000;
/// One person may write five messages a second in a conversation.
const BETWEEN: Duration = Duration::from_millis(220);

struct House {
    http: Client,
    bases: [String; 2],
    token: String,
    conversation: String,
}

impl House {
    async fn open(apart: &mut Apart) -> anyhow::Result<Self> {
        let port = free_port()?.to_string();
        let variables = [(Service::Messaging.port_variable(), port.clone())];
        let variables = variables.each_ref().map(|(name, value)| (name.as_str(), value.clone()));
        apart.add(VICTIM, &["serve", "--services", "messaging"], &variables)?;
        let (http, bases) = (Client::new(), [apart.base(Service::Messaging), format!("http://127.0.0.1:{port}")]);
        for base in bases.iter().chain([&apart.base(Service::Identity)]) {
            ready(&http, base).await.with_context(|| apart.logs())?;
        }
        let ada =
            json!({ "email": "ada@example.test", "password": "a good password", "name": "Ada", "orgName": "Ada" });
        let url = format!("{}/api/auth/register", apart.base(Service::Identity));
        let ada: Value = http.post(url).json(&ada).send().await?.error_for_status()?.json().await?;
        let token = ada["token"].as_str().context("no token")?.to_owned();
        let talk = json!({ "type": "private", "name": "Talk" });
        let talk = http.post(format!("{}/api/conversations", bases[0])).bearer_auth(&token).json(&talk);
        let talk: Value = talk.send().await?.error_for_status()?.json().await?;
        let conversation = talk["id"].as_str().context("no conversation")?.to_owned();
        Ok(House { http, bases, token, conversation })
    }

    fn messages(&self, base: &str) -> String {
        format!("{base}/api/conversations/{}/messages", self.conversation)
    }

    /// Says something at either process, again under the same id until it is acknowledged; its sequence.
    async fn say(&self, n: usize) -> u64 {
        let message = json!({ "id": Uuid::new_v4(), "content": format!("number {n}") });
        for attempt in n.. {
            let url = self.messages(&self.bases[attempt % 2]);
            let sent = self.http.post(url).bearer_auth(&self.token).json(&message).send().await;
            if let Ok(answer) = sent
                && answer.status().is_success()
                && let Ok(row) = answer.json::<Value>().await
                && let Some(sequence) = row["sequence"].as_u64()
            {
                return sequence;
            }
            tokio::time::sleep(BETWEEN).await;
        }
        0
    }

    /// Follows the conversation with a client that loses its connection again and again, until it has the last message.
    async fn come_and_go(self: Arc<Self>, last: watch::Receiver<Option<u64>>) -> anyhow::Result<Vec<u64>> {
        let (mut seen, mut position) = (Vec::new(), "messaging:0".to_owned());
        while last.borrow().is_none_or(|last| seen.last() < Some(&last)) {
            let (base, stays) = {
                let mut rng = rand::rng();
                (&self.bases[rng.random_range(0..2)], Duration::from_millis(rng.random_range(1..STAYS)))
            };
            let leaves = tokio::time::Instant::now() + stays;
            // Nobody is there, or was killed in the middle of it.
            let Ok(mut socket) = SocketClient::open(base, &self.token, Some(&position)).await else {
                tokio::time::sleep_until(leaves).await;
                continue;
            };
            while let Ok(Ok(told)) = timeout_at(leaves, socket.next()).await {
                ensure!(!["gap", "close"].contains(&told.name.as_str()), "{told:?}");
                if told.name == "disconnect" {
                    break;
                }
                position = told.position.unwrap_or(position);
                if told.name == "message:new" {
                    seen.push(told.data["sequence"].as_u64().context("no sequence")?);
                }
            }
        }
        Ok(seen)
    }
}

async fn ready(http: &Client, base: &str) -> Tested {
    let url = format!("{base}/health/ready");
    until("it is ready", || async { Ok(http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success())) })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_clients_that_come_and_go_see_every_message_once_while_a_process_is_killed() -> Tested {
    let long = std::env::var_os("SYMBIA_TEST_LONG").is_some();
    let lasts = Duration::from_secs(if long { 60 } else { 10 });
    let mut apart = Apart::with(TestServers::start().await?, PLAN, &[])?;
    let house = Arc::new(House::open(&mut apart).await?);
    let (end, last) = watch::channel(None);
    let mut following = JoinSet::new();
    for _ in 0..CLIENTS {
        following.spawn(Arc::clone(&house).come_and_go(last.clone()));
    }
    let writing = tokio::spawn({
        let house = Arc::clone(&house);
        async move {
            let (began, mut written) = (Instant::now(), Vec::new());
            while began.elapsed() < lasts {
                written.push(house.say(written.len()).await);
                tokio::time::sleep(BETWEEN).await;
            }
            written
        }
    });
    let mut kills = 0;
    while !writing.is_finished() {
        let lives = rand::rng().random_range(STAYS / 4..STAYS);
        tokio::time::sleep(Duration::from_millis(lives)).await;
        let victim = apart.role(VICTIM)?;
        victim.kill();
        victim.start()?;
        kills += 1;
    }
    let written = writing.await?;
    let expected: Vec<u64> = (1..=written.len() as u64).collect();
    ensure!(written == expected, "written once each, in order: {written:?}");
    ensure!(kills > 2 && written.len() > 10, "{kills} kills, {} messages", written.len());
    end.send_replace(written.last().copied());
    while let Some(seen) = following.join_next().await {
        let seen = seen?.with_context(|| apart.logs())?;
        ensure!(seen == expected, "{} messages, a client saw {seen:?}\n{}", written.len(), apart.logs());
    }

    // Everything dies and comes back: what was acknowledged is there, and the rows are what the log says.
    for role in &mut apart.roles {
        role.kill();
    }
    for role in &mut apart.roles {
        role.start()?;
    }
    ready(&house.http, &house.bases[0]).await.with_context(|| apart.logs())?;
    let url = format!(
        "{}?limit=200&order=asc&after=seq:{}",
        house.messages(&house.bases[0]),
        expected.len().saturating_sub(50)
    );
    let rows: Value = house.http.get(url).bearer_auth(&house.token).send().await?.error_for_status()?.json().await?;
    let kept: Vec<u64> = rows.as_array().context("rows")?.iter().filter_map(|m| m["sequence"].as_u64()).collect();
    ensure!(kept.last() == expected.last() && expected.ends_with(&kept), "{kept:?}");
    let verified = apart.run(&["projection", "verify"])?;
    ensure!(verified.contains("identical") && !verified.contains("DIFFERS"), "{verified}");
    Ok(())
}
