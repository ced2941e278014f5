//! A platform whose roles run apart, somebody who asks, and a watcher of what an exchange has come to.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use async_nats::{Client, Subscriber, jetstream};
use futures::StreamExt;
use serde_json::{Value, json};
use symbia_commands::{
    Actor, DomainCommand, OutcomeStatus,
    assistants::{AssistantCommand, CreateRuleSet, PublishAssistant, RuleSetCommand, SyncAssistant, seed},
};
use symbia_events::{
    AggregateRef, CommandId, Event, KeyRing, OrgId, Service,
    assistants::{AssistantDefinition, LlmConfig},
    commit,
};
use symbia_nats::{bus::CommandBus, log::LogReader};
use symbia_tests::{
    apart::{Apart, Plan},
    cluster::TestServers,
};
use symbia_workers::sender::Sender;
use uuid::Uuid;

use crate::upstream::{KEY, Mode, Upstream};

/// What the scripted model answers, in pieces.
const PIECES: [&str; 8] = ["one ", "two ", "three ", "four ", "five ", "six ", "seven ", "eight"];
const PAUSE: Duration = Duration::from_millis(20);
/// Between two looks: less than the rate limit of 10 requests a second allows.
const POLL: Duration = Duration::from_millis(150);
/// Longest time for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// An assistant and its answer to the question that the tests ask.
#[derive(Clone, Copy, Debug)]
pub struct Answers {
    pub assistant: &'static str,
    pub text: &'static str,
}

/// Answers by a server of the tests' own.
pub const SCRIPTED: Answers = Answers { assistant: "scripted", text: "one two three four five six seven eight" };
/// Answers by the model that ships.
#[cfg(feature = "llama")]
pub const LOCAL: Answers = Answers { assistant: seed::ASSISTANT_KEY, text: "2 + 2 = 4" };

/// What an exchange comes to, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Asked,
    RunStarted,
    CompletionRequested,
    AttemptStarted,
    FirstToken,
    CompletionEnded,
    Replied,
    Visible,
}

pub const STEPS: [Step; 8] = [
    Step::Asked,
    Step::RunStarted,
    Step::CompletionRequested,
    Step::AttemptStarted,
    Step::FirstToken,
    Step::CompletionEnded,
    Step::Replied,
    Step::Visible,
];

/// The platform.
pub struct Stage {
    pub apart: Apart,
    pub rest: Rest,
    nats: Client,
    keys: KeyRing,
    _upstream: Upstream,
}

impl Stage {
    /// Starts it, and somebody signs in.
    pub async fn open(plan: &Plan, variables: &[(&str, String)]) -> anyhow::Result<Self> {
        let upstream = Upstream::start(Mode::Paced(PIECES.to_vec(), PAUSE)).await;
        let model = [("OPENAI_BASE_URL", upstream.options().base_url), ("OPENAI_API_KEY", KEY.to_owned())];
        let variables = [variables, &model].concat();
        let apart = Apart::with(TestServers::start().await?, plan, &variables)?;
        let (nats, keys) = (apart.nats().await?, apart.keys()?);
        let sender = Sender::new(CommandBus::open(nats.clone()).await?, keys.clone().into());
        load_scripted(&sender).await?;
        let http = reqwest::Client::builder().timeout(Duration::from_secs(20)).build()?;
        let bases = [Service::Identity, Service::Messaging, Service::Integrations].map(|service| apart.base(service));
        let mut rest = Rest { http, bases, token: String::new(), org: String::new() };
        let body =
            json!({ "email": "ada@example.test", "password": "ada's password", "name": "Ada", "orgName": "Ada" });
        let registered = rest.post(0, "/api/auth/register", &body).await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (rest.token, rest.org) = (text(&registered["token"]), text(&registered["organization"]["id"]));
        Ok(Stage { apart, rest, nats, keys, _upstream: upstream })
    }

    /// Kills a process and starts it again.
    pub fn restart(&mut self, role: &str) -> anyhow::Result<()> {
        let role = self.apart.role(role)?;
        role.kill();
        role.start()
    }

    /// Waits until two inference processes tell that they are there.
    #[cfg(feature = "llama")]
    pub async fn two_inference_processes(&self) -> anyhow::Result<()> {
        let census = symbia_nats::inference::Census::listen(self.nats.clone());
        ensure!(census.wait_until(PATIENCE, |workers| workers.len() == 2).await, "{:?}", census.workers());
        Ok(())
    }

    /// Hears of everything that happens in a conversation from now on.
    pub async fn watch(&self, conversation: &str) -> anyhow::Result<Watch> {
        let (log, live) = (self.nats.subscribe("symbia.evt.>").await?, self.nats.subscribe("symbia.live.>").await?);
        self.nats.flush().await?;
        Ok(Watch { log, live, keys: self.keys.clone(), conversation: conversation.to_owned(), correlation: None })
    }

    /// Every event of a service's log, verified.
    pub async fn log(&self, service: Service) -> anyhow::Result<Vec<Arc<Event>>> {
        let (js, began) = (jetstream::new(self.nats.clone()), Instant::now());
        // The broker may just have been killed.
        let stream = loop {
            match js.get_stream(service.event_stream()).await {
                Err(error) if began.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => tokio::time::sleep(POLL).await,
                Ok(stream) => break stream,
            }
        };
        let last = stream.cached_info().state.last_sequence;
        let mut reader = LogReader::open(js, service, 0, Vec::new()).await?;
        let mut events = Vec::new();
        while reader.position() < last {
            for message in reader.next_batch(1000, Duration::from_secs(5)).await? {
                events.extend(commit::decode(&self.keys, &message.payload)?.into_iter().map(|signed| signed.event));
            }
        }
        Ok(events)
    }
}

// An assistant like the first one, that asks the tests' own server.
async fn load_scripted(sender: &Sender) -> anyhow::Result<()> {
    let key = SCRIPTED.assistant;
    let llm_config = Some(LlmConfig { provider: Some("openai".to_owned()), ..LlmConfig::default() });
    let definition =
        AssistantDefinition { key: key.to_owned(), name: key.to_owned(), llm_config, ..Default::default() };
    let rules = CreateRuleSet {
        rule_set_key: format!("{key}:default"),
        rule_set_id: format!("ruleset-{key}"),
        ..seed::create_rule_set()
    };
    let rule_set = rules.rule_set_key.clone();
    send(sender, "assistant", key, AssistantCommand::from(SyncAssistant { definition })).await?;
    send(sender, "assistant", key, AssistantCommand::from(PublishAssistant { key: key.to_owned() })).await?;
    send(sender, "rule-set", &rule_set, RuleSetCommand::from(rules)).await
}

async fn send(sender: &Sender, kind: &str, id: &str, command: impl DomainCommand) -> anyhow::Result<()> {
    let to = AggregateRef::new(Service::Assistants, OrgId::global(), kind, id)?;
    let outcome = sender.send(None, &to, &command, &Actor::system("test"), CommandId::random()).await?;
    ensure!(outcome.status == OutcomeStatus::Accepted, "{outcome:?}");
    Ok(())
}

/// Somebody at the APIs who repeats what was not done.
#[derive(Clone)]
pub struct Rest {
    http: reqwest::Client,
    bases: [String; 3],
    token: String,
    org: String,
}

impl Rest {
    /// Opens a conversation with an assistant.
    pub async fn talk(&self, assistant: &str) -> anyhow::Result<String> {
        let with = [format!("assistant:{assistant}")];
        let body = json!({ "type": "private", "name": "Talk", "orgId": self.org, "participantIds": with });
        let opened = self.post(1, "/api/conversations", &body).await?;
        Ok(opened["id"].as_str().context("a conversation without id")?.to_owned())
    }

    /// Says something.
    pub async fn say(self, conversation: String, text: &'static str) -> anyhow::Result<Value> {
        self.post(1, &format!("/api/conversations/{conversation}/messages"), &json!({ "content": text })).await
    }

    /// What shows in a conversation; `None` when it cannot be asked now.
    pub async fn messages(&self, conversation: &str) -> Option<Vec<Value>> {
        let path = format!("/api/conversations/{conversation}/messages");
        self.get(1, &path).await?.as_array().cloned()
    }

    /// Has a model answer, as a stream.
    pub async fn stream(self, body: Value) -> anyhow::Result<reqwest::Response> {
        let request = self.http.post(format!("{}/v1/chat/completions", self.bases[2])).bearer_auth(&self.token);
        Ok(request.timeout(PATIENCE).json(&body).send().await?)
    }

    /// What was used; `None` when it cannot be asked now.
    pub async fn usage(&self) -> Option<Value> {
        self.get(2, "/api/integrations/usage").await
    }

    async fn get(&self, base: usize, path: &str) -> Option<Value> {
        let request = self.http.get(format!("{}{path}", self.bases[base])).bearer_auth(&self.token);
        let answer = request.send().await.ok()?.error_for_status().ok()?;
        answer.json().await.ok()
    }

    // The same request, under one idempotency key, until it is done.
    async fn post(&self, base: usize, path: &str, body: &Value) -> anyhow::Result<Value> {
        let (key, began) = (Uuid::new_v4().to_string(), Instant::now());
        let mut last = String::new();
        while began.elapsed() < PATIENCE {
            let request = self.http.post(format!("{}{path}", self.bases[base])).json(body);
            let request = request.header("idempotency-key", &key);
            let request = request.bearer_auth(&self.token);
            match request.send().await {
                Ok(answer) if matches!(answer.status().as_u16(), 200 | 201) => {
                    if let Ok(value) = answer.json().await {
                        return Ok(value);
                    }
                }
                // 202: stored, not visible yet. 401 to 404: the read models lost their last moments to a crash.
                Ok(answer) if matches!(answer.status().as_u16(), 202 | 401 | 403 | 404 | 429 | 503) => {
                    last = answer.text().await.unwrap_or_default();
                }
                Ok(answer) => bail!("POST {path}: {} {}", answer.status(), answer.text().await.unwrap_or_default()),
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(POLL).await;
        }
        bail!("POST {path} was not done within {PATIENCE:?}; last answer: {last}")
    }
}

/// Sees an exchange as it goes on.
pub struct Watch {
    log: Subscriber,
    live: Subscriber,
    keys: KeyRing,
    conversation: String,
    correlation: Option<String>,
}

impl Watch {
    /// Waits until the exchange has come to a step.
    pub async fn until(&mut self, step: Step, rest: &Rest) -> anyhow::Result<()> {
        let waiting = async {
            match step {
                Step::FirstToken => self.live("message:delta").await.map(|_| ()),
                Step::Visible => shows(rest, &self.conversation, 2).await.map(|_| ()),
                _ => self.stored(step).await,
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.with_context(|| format!("{step:?} did not happen"))?
    }

    /// The reader's next message of this kind.
    pub async fn live(&mut self, kind: &str) -> anyhow::Result<Value> {
        loop {
            let message = self.live.next().await.context("the subscription ended")?;
            let what: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
            if what["type"] == kind && what["conversationId"] == self.conversation.as_str() {
                return Ok(what);
            }
        }
    }

    /// The attempt with which an answer outside of conversations begins anew.
    #[cfg(feature = "llama")]
    pub async fn reset(&mut self) -> anyhow::Result<u64> {
        loop {
            let message = self.live.next().await.context("the subscription ended")?;
            let what: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
            if what["type"] == "reset" {
                return what["attempt"].as_u64().context("a reset without attempt");
            }
        }
    }

    /// The next event of this type, of whatever.
    pub async fn of_type(&mut self, event_type: &str) -> anyhow::Result<()> {
        let waiting = async {
            loop {
                let message = self.log.next().await.context("the subscription ended")?;
                if String::from_utf8_lossy(&message.payload).contains(event_type) {
                    return Ok(());
                }
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.with_context(|| format!("{event_type} did not happen"))?
    }

    async fn stored(&mut self, step: Step) -> anyhow::Result<()> {
        loop {
            let message = self.log.next().await.context("the subscription ended")?;
            for signed in commit::decode(&self.keys, &message.payload)? {
                let event = signed.event;
                let said = event.event_type.ends_with(".message-sent.v1") && event.aggregateid == self.conversation;
                if said && self.correlation.is_none() {
                    self.correlation = Some(event.correlationid.clone());
                    if step == Step::Asked {
                        return Ok(());
                    }
                } else if self.correlation.as_ref() == Some(&event.correlationid) && step.is(&event) {
                    return Ok(());
                }
            }
        }
    }
}

impl Step {
    fn is(self, event: &Event) -> bool {
        let kind = match self {
            Step::RunStarted => "rule-run-started",
            Step::CompletionRequested => "completion-requested",
            Step::AttemptStarted => "completion-attempt-started",
            Step::CompletionEnded => "completion-completed",
            Step::Replied => "message-sent",
            Step::Asked | Step::FirstToken | Step::Visible => return false,
        };
        event.event_type.rsplit('.').nth(1) == Some(kind)
    }
}

/// The messages of a conversation once there are so many.
pub async fn shows(rest: &Rest, conversation: &str, count: usize) -> anyhow::Result<Vec<Value>> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if let Some(messages) = rest.messages(conversation).await
            && messages.len() >= count
        {
            return Ok(messages);
        }
        tokio::time::sleep(POLL).await;
    }
    bail!("conversation {conversation} does not show {count} messages: {:?}", rest.messages(conversation).await)
}
