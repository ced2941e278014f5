//! What comes along in chats and how much of it: files, floods, showing that somebody
//! thinks, and who is told.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::ensure;
use async_nats::jetstream;
use axum::{Json, Router, extract::State, routing::post};
use futures::future::join_all;
use serde_json::{Value, json};
use symbia_commands::{
    Actor, DomainCommand,
    assistants::{AssistantCommand, CreateRuleSet, PublishAssistant, RuleSetCommand, SyncAssistant, seed},
};
use symbia_events::{
    AggregateRef, CommandId, KeyRing, OrgId, Service,
    assistants::{AssistantDefinition, LlmConfig},
};
use symbia_nats::bus::CommandBus;
use symbia_tests::binary::until;
use symbia_workers::sender::Sender;

use crate::{
    Tested,
    channels::{Channel, said, stored, text},
    stage::Stage,
    telegram::{FakeTelegram, TOKEN},
};

/// An assistant whose model takes its time.
const THINKER: &str = "thinker";

fn document(update: i64, file: Value) -> Value {
    let mut update = said(update, update, "look");
    update["message"]["caption"] = update["message"]["text"].take();
    update["message"]["document"] = file;
    update
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_kept_for_who_takes_part_and_go_with_the_conversation() -> Tested {
    let channel = Channel::open(json!({ "assistants": [] })).await?;
    let (stage, ada) = (&channel.stage, &channel.ada);
    let bytes: Vec<u8> = (0..700_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    channel.telegram.keeps("F1", bytes.clone());
    channel
        .told(&document(1, json!({ "file_id": "F1", "file_name": "día 1.pdf", "mime_type": "application/pdf" })))
        .await?;
    channel.told(&document(2, json!({ "file_id": "F2", "file_size": 30_000_000 }))).await?;
    channel.told(&document(3, json!({ "file_id": "F3" }))).await?;
    let conversation = channel.conversation().await?;
    until("all is said", || async { Ok(channel.messages(&conversation).await?.len() == 3) }).await?;
    let mut messages = channel.messages(&conversation).await?;
    messages.sort_by_key(|message| message["sequence"].as_i64());
    let file = |n: usize| messages[n]["metadata"]["attachments"][0].clone();
    ensure!(file(0)["size"] == bytes.len() && file(0)["filename"] == "día 1.pdf", "{}", file(0));
    ensure!(file(1)["error"] == "too_long" && file(2)["error"] == "refused", "{} {}", file(1), file(2));
    ensure!(!messages[0].to_string().contains("F1"), "{}", messages[0]);

    let path = text(&file(0)["url"])?;
    let get = |who: &str| stage.http.get(format!("{}{path}", stage.messaging)).bearer_auth(who).send();
    let answer = get(&ada.token).await?;
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    ensure!(answer.status() == 200 && header("content-type") == "application/pdf", "{:?}", answer.headers());
    ensure!(header("content-disposition") == "attachment; filename*=UTF-8''d%C3%ADa%201.pdf", "{:?}", answer.headers());
    ensure!(header("x-content-type-options") == "nosniff", "{:?}", answer.headers());
    ensure!(answer.bytes().await? == bytes, "other bytes");
    let eve = stage.register("eve").await?;
    ensure!(get(&eve.token).await?.status() == 404, "Eve sees it");
    let elsewhere = format!("{}/api/conversations/{conversation}/files/nothing", stage.messaging);
    ensure!(stage.http.get(elsewhere).bearer_auth(&ada.token).send().await?.status() == 404, "there is something");
    let (log, js) = (stored(stage).await?, jetstream::new(stage.house.nats().await?));
    ensure!(!log.contains(TOKEN) && !log.contains("día 1.pdf"), "the log holds what it should not");

    let path = format!("/api/conversations/{conversation}/erase");
    let erased = stage.ask_at(&stage.messaging, ada, "POST", &path, Some(json!({}))).await?;
    ensure!(erased.status < 300, "{}", erased.body);
    until("the files are gone", || async {
        Ok(js.get_stream("SYMBIA_FILES").await?.cached_info().state.messages == 0)
    })
    .await?;
    ensure!(get(&ada.token).await?.status().is_client_error(), "it is there");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_too_much_is_refused_and_counted_and_others_are_heard() -> Tested {
    let channel = Channel::open(json!({ "assistants": [] })).await?;
    // All at once: a chat may say one thing more each second.
    let updates: Vec<Value> = (1..=90).map(|n| said(n, n, "again")).collect();
    let told = join_all(updates.iter().map(|update| channel.tell(Some(&channel.secret), update))).await;
    let told = told.into_iter().collect::<anyhow::Result<Vec<u16>>>()?;
    let count = |status: u16| told.iter().filter(|told| **told == status).count();
    let (taken, refused) = (count(200), count(429));
    ensure!(refused > 0 && taken >= 60 && taken + refused == 90, "{told:?}");
    let mut other = said(1001, 1, "hello");
    other["message"]["chat"]["id"] = json!(43);
    channel.told(&other).await?;
    until("all that was taken is counted, and the first that was not", || async {
        let connection = channel.connection().await?;
        Ok(connection["messagesReceived"] == taken + 1 && connection["messagesRefused"].as_i64() >= Some(1))
    })
    .await?;
    Ok(())
}

// Asks the tests' own server for the model that waits.
async fn load_thinker(stage: &Stage) -> Tested {
    let keys = KeyRing::from_json(&std::fs::read_to_string(stage.house.data().join("keys/ring.json"))?)?;
    let sender = Sender::new(CommandBus::open(stage.house.nats().await?).await?, keys.into());
    let llm_config =
        LlmConfig { provider: Some("openai".to_owned()), model: Some("slow".to_owned()), ..LlmConfig::default() };
    let definition = AssistantDefinition {
        key: THINKER.to_owned(),
        name: THINKER.to_owned(),
        llm_config: Some(llm_config),
        ..AssistantDefinition::default()
    };
    let rules = CreateRuleSet {
        rule_set_key: format!("{THINKER}:default"),
        rule_set_id: format!("ruleset-{THINKER}"),
        ..seed::create_rule_set()
    };
    let rule_set = rules.rule_set_key.clone();
    order(&sender, "assistant", THINKER, AssistantCommand::from(SyncAssistant { definition })).await?;
    let publish = AssistantCommand::from(PublishAssistant { key: THINKER.to_owned() });
    order(&sender, "assistant", THINKER, publish).await?;
    order(&sender, "rule-set", &rule_set, RuleSetCommand::from(rules)).await
}

async fn order(sender: &Sender, kind: &str, id: &str, command: impl DomainCommand) -> Tested {
    let to = AggregateRef::new(Service::Assistants, OrgId::global(), kind, id)?;
    let outcome = sender.send(None, &to, &command, &Actor::system("test"), CommandId::random()).await?;
    ensure!(outcome.rejection.is_none(), "{outcome:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn that_an_answer_is_thought_about_is_shown_until_it_is_there() -> Tested {
    let telegram = FakeTelegram::start().await?;
    let stage = Stage::with_variables(&[("TELEGRAM_BASE_URL", telegram.base.as_str())]).await?;
    load_thinker(&stage).await?;
    let channel = Channel::on(stage, telegram, json!({ "assistants": [THINKER] })).await?;
    channel.told(&said(1, 1, "What is 2 + 3?")).await?;
    let shown = || channel.telegram.calls("sendChatAction");
    // Telegram forgets it after five seconds.
    until("it is shown, and shown again", || async { Ok(shown().len() >= 2) }).await?;
    ensure!(shown().iter().all(|call| *call == json!({ "chat_id": 42, "action": "typing" })), "{:?}", shown());
    ensure!(channel.telegram.sent().is_empty(), "it is answered");
    channel.stage.vendor.let_answer(1);
    let answers = channel.has_sent(1).await?;
    ensure!(answers == ["2 + 3 = 5 ✓"], "{answers:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_in_a_channel_is_told_to_the_nodes_that_a_contract_names_and_to_nobody_else() -> Tested {
    let told: Arc<Mutex<Vec<Value>>> = Arc::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}/events", listener.local_addr()?);
    let takes = |State(told): State<Arc<Mutex<Vec<Value>>>>, Json(event): Json<Value>| async move {
        told.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        Json(json!({}))
    };
    let app = Router::new().route("/events", post(takes)).with_state(Arc::clone(&told));
    tokio::spawn(async move { axum::serve(listener, app).await });

    let channel = Channel::open(json!({})).await?;
    let (stage, ada) = (&channel.stage, &channel.ada);
    let eve = stage.register("eve").await?;
    for (who, node) in [(ada, "integrations"), (ada, "crm"), (&eve, "integrations"), (&eve, "crm")] {
        let endpoint = if node == "crm" && who.id == ada.id { endpoint.as_str() } else { "" };
        let body = json!({ "id": node, "name": node, "type": "service", "capabilities": [], "endpoint": endpoint });
        let made = stage.ask_at(&stage.network, who, "POST", "/api/registry/nodes", Some(body)).await?;
        ensure!(made.status < 300, "{}", made.body);
    }
    for who in [ada, &eve] {
        let terms =
            json!({ "from": "integrations", "to": "crm", "allowedEventTypes": ["channel.*"], "boundaries": ["intra"] });
        let made = stage.ask_at(&stage.network, who, "POST", "/api/registry/contracts", Some(terms)).await?;
        ensure!(made.status < 300, "{}", made.body);
    }
    channel.told(&said(1, 5, "/help")).await?;
    channel.has_sent(1).await?;
    channel.mine("POST", &format!("/connections/{}/disconnect", channel.id), Some(json!({}))).await?;
    let events = || told.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let of = |kind: &str| events().into_iter().find(|event| event["payload"]["type"] == kind);
    for kind in [
        "channel.webhook.received",
        "channel.message.inbound",
        "channel.message.outbound",
        "channel.message.delivery",
        "channel.status.changed",
    ] {
        until(kind, || async { Ok(of(kind).is_some()) }).await?;
        let data = of(kind).unwrap_or_default()["payload"]["data"].clone();
        ensure!((&data["connectionId"], &data["channelType"]) == (&json!(channel.id), &json!("telegram")), "{data}");
    }
    let data = |kind: &str| of(kind).unwrap_or_default()["payload"]["data"].clone();
    let inbound = data("channel.message.inbound");
    ensure!(inbound["text"] == "/help" && inbound["sender"]["username"] == "grace", "{inbound}");
    ensure!(inbound["chat"]["id"] == "42" && !inbound["conversationId"].is_null(), "{inbound}");
    let outbound = data("channel.message.outbound");
    ensure!(outbound["text"].as_str().is_some_and(|text| text.starts_with("I am Symbia.")), "{outbound}");
    let delivery = data("channel.message.delivery");
    ensure!(delivery["status"] == "delivered" && delivery["messageId"] == "900", "{delivery}");
    ensure!(data("channel.status.changed")["newStatus"] == "disconnected", "{}", data("channel.status.changed"));
    let all = json!(events()).to_string();
    ensure!(!all.contains(TOKEN) && !all.contains(&channel.secret) && !all.contains("headers"), "{all}");
    // Another organization's nodes of the same names hear nothing.
    let path = "/api/events?type=channel.message.inbound";
    let listed = stage.ask_at(&stage.network, &eve, "GET", path, None).await?;
    ensure!(listed.body["count"] == 0, "{}", listed.body);
    Ok(())
}
