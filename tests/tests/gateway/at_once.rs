//! How many calls an organization makes at once, and how many tokens they may take.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::ensure;
use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use symbia_tests::binary::until;
use tokio::sync::Semaphore;

use crate::{
    Tested,
    registry::{invoke, register},
    stage::{Answered, Stage},
};

/// A server that says when it is asked, and answers when it is let.
#[derive(Clone)]
struct Patient {
    base: String,
    asked: Arc<Semaphore>,
    gate: Arc<Semaphore>,
    // The next answer is that it is not there just now.
    busy: Arc<AtomicBool>,
}

impl Patient {
    async fn start() -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let base = format!("http://{}", listener.local_addr()?);
        let [asked, gate] = [(); 2].map(|()| Arc::new(Semaphore::new(0)));
        let server = Patient { base, asked, gate, busy: Arc::default() };
        let app = Router::new().fallback(answer).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(server)
    }

    fn registration(&self, limit: Value) -> Value {
        let operation = |id: &str| json!({ "id": id, "method": "GET", "path": format!("/v1/{id}") });
        json!({ "key": "things", "type": "custom", "serverUrl": self.base, "auth": { "type": "none" },
            "operations": [operation("list"), operation("count")], "rateLimit": limit })
    }
}

async fn answer(State(server): State<Patient>) -> Response {
    server.asked.add_permits(1);
    if let Ok(permit) = server.gate.acquire().await {
        permit.forget();
    }
    if server.busy.swap(false, Ordering::Relaxed) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    Json(json!({ "usage": { "input_tokens": 100, "output_tokens": 20 } })).into_response()
}

fn is_limited(answer: &Answered, why: &str) -> Tested {
    let says = answer.body["message"].as_str().is_some_and(|text| text.contains(why));
    ensure!(answer.status == 429 && says, "{}", answer.body);
    ensure!(answer.body["retryAfter"].as_u64() > Some(0), "{}", answer.body);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_makes_no_more_calls_at_once_than_it_allows() -> Tested {
    let stage = Stage::open().await?;
    let (ada, bob) = (stage.register("ada").await?, stage.register("bob").await?);
    let server = Patient::start().await?;
    let limit = json!({ "concurrentRequests": 2, "operations": { "list": { "concurrentRequests": 1 } } });
    for wrong in [json!({ "concurrentRequests": 0 }), json!({ "concurrentRequests": 1001 })] {
        ensure!(register(&stage, &ada, server.registration(wrong)).await?.status == 400);
    }
    let made = register(&stage, &ada, server.registration(limit.clone())).await?;
    ensure!(made.status == 200 && made.body["integration"]["rateLimit"] == limit, "{}", made.body);
    ensure!(register(&stage, &bob, server.registration(limit)).await?.status == 200);

    let call = |who, operation| invoke(&stage, who, operation, json!({}));
    let asked = async || {
        server.asked.acquire().await?.forget();
        anyhow::Ok(())
    };
    let one_of_list = async {
        asked().await?;
        is_limited(&call(&ada, "things.list").await?, "at most 1 times at once")?;
        let two_of_all = async {
            asked().await?;
            is_limited(&call(&ada, "things.count").await?, "at most 2 times at once")?;
            // What ada has under way is nothing of bob's.
            let let_go = async {
                asked().await?;
                server.gate.add_permits(3);
                Ok(())
            };
            tokio::try_join!(call(&bob, "things.list"), let_go)
        };
        tokio::try_join!(call(&ada, "things.count"), two_of_all)
    };
    let (list, (count, (of_bob, ()))) = tokio::try_join!(call(&ada, "things.list"), one_of_list)?;
    for answered in [list, count, of_bob] {
        ensure!(answered.status == 200, "{}", answered.body);
    }
    // Their places are free again.
    server.gate.add_permits(2);
    for operation in ["things.list", "things.count"] {
        ensure!(call(&ada, operation).await?.status == 200, "{operation} has no place");
    }

    // A call that waits to be tried again has no place meanwhile.
    let mut again = server.registration(json!({ "concurrentRequests": 1 }));
    again["key"] = json!("again");
    again["retry"] = json!({ "maxRetries": 1, "backoffMs": 2000, "backoffMultiplier": 1 });
    ensure!(register(&stage, &ada, again).await?.status == 200);
    server.asked.forget_permits(server.asked.available_permits());
    server.busy.store(true, Ordering::Relaxed);
    server.gate.add_permits(3);
    let done = Cell::new(false);
    let tried_twice = async {
        let answered = call(&ada, "again.list").await;
        done.set(true);
        answered
    };
    let meanwhile = async {
        asked().await?;
        until("another has its place", || async { Ok(call(&ada, "again.count").await?.status == 200) }).await?;
        ensure!(!done.get(), "the place is held while its holder waits");
        Ok(())
    };
    let (listed, ()) = tokio::try_join!(tried_twice, meanwhile)?;
    ensure!(listed.status == 200 && server.asked.available_permits() == 2, "{}", listed.body);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_uses_no_more_tokens_a_minute_than_it_allows() -> Tested {
    let stage = Stage::open().await?;
    let (ada, bob) = (stage.register("ada").await?, stage.register("bob").await?);
    let server = Patient::start().await?;
    server.gate.add_permits(8);
    let limit = json!({ "tokensPerMinute": 200 });
    for who in [&ada, &bob] {
        ensure!(register(&stage, who, server.registration(limit.clone())).await?.status == 200);
    }
    // Each answer says that it took 120: the second call finds a rest, the third none.
    for _ in 0..2 {
        ensure!(invoke(&stage, &ada, "things.list", json!({})).await?.status == 200);
    }
    is_limited(&invoke(&stage, &ada, "things.count", json!({})).await?, "200 tokens a minute")?;
    ensure!(invoke(&stage, &bob, "things.list", json!({})).await?.status == 200, "bob is counted with ada");
    ensure!(server.asked.available_permits() == 3, "the server was asked beyond the limit");
    Ok(())
}
